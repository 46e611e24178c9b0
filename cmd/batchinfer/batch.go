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
	"strings"
	"sync"
	"time"

	"github.com/httpretry/httpretry/inference"
)

// A batch asks the requests of an input that have no answer yet, and writes
// their answers to an output.
type batch struct {
	client   inference.InferenceClient
	input    *input
	output   *output
	inFlight int    // requests at once
	apiKey   string // kept out of the output, should the gateway repeat it; may be empty
	progress progress
	summary  *summary
}

// A result is how a request ended.
type result struct {
	answer      answer
	tally       tally
	interrupted bool // it did not end: there is no answer
}

// run returns when every request has its answer in the output, or ctx is done,
// or the input or the output fails; the error says which. No request is under
// way when it returns, and the answers of all that ended before are written.
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
		return context.Cause(ctx) // which came after the last request was sent
	}
	return nil
}

// feed sends the requests that have no answer yet.
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

// collect writes answers as they come, until results is closed. After an answer
// that can't be written it calls stop, and writes no more.
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

// ask sends one request, with all its retries.
func (b *batch) ask(ctx context.Context, req request) result {
	var r result
	id := headerSafe(req.customID)
	r.tally.live = b.summary.live
	resp, failed := b.client.Generate(withTally(ctx, &r.tally), &inference.InferenceRequest{
		RequestID: id,
		Model:     req.model,
		Params:    req.body,
	})
	r.answer = answer{ID: "batch_req_" + rand.Text(), CustomID: req.customID}
	switch {
	case failed == nil:
		r.answer.Response = &response{StatusCode: http.StatusOK, RequestID: id, Body: asJSON(resp.Response)}
	case ctx.Err() != nil:
		r.interrupted = true
	default:
		r.answer.Error = &failure{Code: string(failed.Category), Message: failed.Message}
		r.answer.Response = b.refusal(id, failed)
	}
	return r
}

// refusal is what the gateway said to a request that failed, nil if it said
// nothing.
func (b *batch) refusal(id string, failed *inference.InferenceError) *response {
	var status *inference.StatusError
	if !errors.As(failed.RawError, &status) {
		return nil
	}
	return &response{
		StatusCode: status.StatusCode,
		RequestID:  id,
		Body:       asJSON([]byte(b.redact(string(status.Body)))),
	}
}

const redacted = "[redacted]"

// redact keeps the API key out of what a gateway says about it. A key too short
// to be one is left alone: it would occur in everything.
func (b *batch) redact(text string) string {
	if len(b.apiKey) < 4 {
		return text
	}
	// As it is, and with any of its characters escaped, as in JSON.
	var form strings.Builder
	for _, c := range []byte(b.apiKey) {
		fmt.Fprintf(&form, `(?:\\*%s|\\+u00(?i:%02x))`, regexp.QuoteMeta(string(c)), c)
	}
	return regexp.MustCompile(form.String()).ReplaceAllLiteralString(text, redacted)
}

// asJSON returns the text if it is JSON, else a JSON string of it. What is not
// UTF-8 becomes U+FFFD: no reader of JSON takes it.
func asJSON(text []byte) json.RawMessage {
	text = bytes.ToValidUTF8(text, []byte("\uFFFD"))
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
		panic(fmt.Sprintf("a string is always JSON: %v", err))
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
}

// headerSafe returns the custom_id as it can travel in a header field: escaped
// as in a URL if there is anything but printable ASCII in it.
func headerSafe(customID string) string {
	for _, r := range customID {
		if r <= ' ' || r > '~' {
			return url.QueryEscape(customID)
		}
	}
	return customID
}
