package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/httpretry/httpretry/inference"
	"github.com/httpretry/httpretry/internal/redact"
)

// A batch sends the requests of an input that have no answer yet, and writes
// the answers to an output.
type batch struct {
	client   inference.InferenceClient
	input    *input
	output   *output
	inFlight int            // number of concurrent requests
	secrets  redact.Secrets // to keep out of the output if the gateway repeats them
	progress progress
	summary  *summary
}

// A result is the end of a request.
type result struct {
	answer      answer
	tally       tally
	interrupted bool // ctx was done first: there is no answer
}

// run returns when every request has its answer in the output, when ctx is done,
// or when reading the input or writing the output fails. When it returns, no
// request is in flight, and the answers to all requests that ended before the
// failure are written.
func (b *batch) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	requests := make(chan request)
	results := make(chan result)

	var feedErr error
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(requests)
		feedErr = b.feed(ctx, requests)
	})
	for range b.inFlight {
		wg.Go(func() {
			for req := range requests {
				results <- b.ask(ctx, req)
			}
		})
	}
	go func() {
		wg.Wait()
		close(results)
	}()

	err := b.collect(results, cancel)
	switch {
	case err != nil:
		return err
	case feedErr != nil:
		return feedErr
	case b.summary.done() < b.summary.todo():
		return context.Cause(ctx) // ctx was done after the last request was sent
	}
	return nil
}

// feed sends the requests that have no answer yet to the channel.
func (b *batch) feed(ctx context.Context, requests chan<- request) error {
	return b.input.unanswered(ctx, func(req request) error {
		select {
		case requests <- req:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
}

// collect writes answers as they arrive, until results is closed. If the output
// fails, it calls stop and writes no more.
func (b *batch) collect(results <-chan result, stop context.CancelCauseFunc) (err error) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			b.progress.show(b.summary)
			if err != nil {
				continue
			}
			// A request that is under way may take minutes. There is no need
			// to wait for it if its answer can't be written.
			if err = b.output.intact(); err != nil {
				stop(err)
			}
		case r, ok := <-results:
			if !ok {
				return err
			}
			if r.interrupted || err != nil {
				continue
			}
			if err = b.output.write(r.answer); err != nil {
				stop(err)
				continue
			}
			b.summary.add(r)
			b.progress.show(b.summary)
		}
	}
}

// ask sends one request, with its retries.
func (b *batch) ask(ctx context.Context, req request) result {
	var r result
	id := headerSafe(req.customID)
	r.tally.live = b.summary.live
	resp, failed := b.client.Generate(withTally(ctx, &r.tally), &inference.InferenceRequest{
		RequestID: id,
		Model:     req.model,
		Params:    req.body,
	})
	r.answer = answer{ID: idPrefix + rand.Text(), CustomID: req.customID}
	switch {
	case failed == nil:
		r.answer.Response = &response{StatusCode: http.StatusOK, RequestID: id, Body: asJSON(resp.Response)}
	case ctx.Err() != nil:
		r.interrupted = true
	default:
		r.answer.Error = &failure{Code: string(failed.Category), Message: failed.Message}
		r.answer.Response = b.refusal(ctx, id, failed)
	}
	return r
}

// refusal returns the gateway's response to a request that failed, or nil if
// there was none.
func (b *batch) refusal(ctx context.Context, id string, failed *inference.InferenceError) *response {
	var status *inference.StatusError
	if !errors.As(failed.RawError, &status) {
		return nil
	}
	return &response{
		StatusCode: status.StatusCode,
		RequestID:  id,
		Body:       asJSON([]byte(b.redact(ctx, string(status.Body)))),
	}
}

// maxFailureBytes is the size to which the client cuts the body of a failure.
const maxFailureBytes = 64 << 10

var partOfEscape = regexp.MustCompile(`\\+(?:u[0-9A-Fa-f]{0,3})?$`)

// redact replaces the secrets in the body of a failure.
func (b *batch) redact(ctx context.Context, body string) string {
	if len(body) >= maxFailureBytes {
		// Where the body was cut, a part of a secret is recognized only if it
		// ends with a whole character.
		body = partOfEscape.ReplaceAllLiteralString(body, "")
	}
	return b.secrets.Text(ctx, body, len(body))
}

// asJSON returns the text if it is JSON, otherwise a JSON string of it. Bytes
// that are not valid UTF-8 become U+FFFD, because parsers reject them.
func asJSON(text []byte) json.RawMessage {
	if !utf8.Valid(text) {
		text = bytes.ToValidUTF8(text, []byte("\uFFFD"))
	}
	if json.Valid(text) {
		return text
	}
	return quoteJSON(string(text))
}

// quoteJSON returns a JSON string.
func quoteJSON(s string) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		panic(fmt.Sprintf("encoding a string: %v", err))
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
}

// headerSafe returns the custom_id as it is sent in a header field: unchanged if
// it is printable ASCII, otherwise escaped as in the query of a URL.
func headerSafe(customID string) string {
	for _, r := range customID {
		if r <= ' ' || r > '~' {
			return url.QueryEscape(customID)
		}
	}
	return customID
}
