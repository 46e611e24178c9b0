package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/inference"
	"github.com/httpretry/httpretry/internal/rawjson"
	"github.com/httpretry/httpretry/internal/redact"
)

// An asker sends requests to the gateway. It is safe for concurrent use.
type asker struct {
	client  inference.InferenceClient
	config  *config
	secrets *redact.Redactor // keeps secrets out of the output that the gateway repeats
	live    *live            // of all requests; nil: each has its own
	gate    *gate            // of the attempts; set by begin
	window  *window          // of the requests in flight; nil: none
	warn    func(string)     // logs a warning; nil: not possible
	once    sync.Once        // for the warning about files
}

// A result is the end of a request.
type result struct {
	request     request
	answer      answer
	tally       tally
	tokens      int  // used, as far as the answer tells
	interrupted bool // ctx was done first: there is no answer
	passing     bool // it failed for a reason that may pass

	// Of a result of another machine:
	line    []byte             // of the output; nil: to be made from answer
	settled func(written bool) // called when it has been written or dropped; may be nil
}

// evidence returns what the duration of the request tells about the limit of requests
// in flight.
func (r result) evidence() evidence {
	const short = 10 * time.Millisecond
	switch {
	case r.answer.Error != nil || r.interrupted || r.tally.attempts > 1 || r.tally.waited >= short:
		return disturbed
	case r.tally.paced >= short:
		return paced
	}
	return undisturbed
}

func newAsker(client inference.InferenceClient, c *config, l *live) *asker {
	if l != nil {
		l.plain = len(c.gateways) == 0 && strings.HasPrefix(strings.ToLower(c.gatewayURL), "http:")
	}
	return &asker{client: client, config: c, secrets: c.secrets(), live: l}
}

// probesOfOutage is the number of probes, at least, of an outage that ends the run.
const probesOfOutage = 20

// begin begins a run, which stop ends when the gateway has answered nothing for too
// long.
func (a *asker) begin(stop func(error)) {
	a.gate = newGate(a.config, a.config.pacer(), func(err error) {
		if hint := a.live.hint(); hint != "" {
			err = fmt.Errorf("%w\nbatchinfer: %s", err, hint)
		}
		stop(err)
	})
	// A probe ends the run, so it must be due soon after the outage has become too long.
	longest := a.config.maxOutage / probesOfOutage
	a.gate.probes.InitialBackoff = min(a.gate.probes.InitialBackoff, longest)
	a.gate.probes.MaxBackoff = min(a.gate.probes.MaxBackoff, longest)
}

// crowded lowers the number of requests in flight to that of the attempts for which this
// machine has files.
func (a *asker) crowded() {
	if a.window != nil {
		_, flying, _ := a.gate.counts()
		a.window.reduce(flying)
	}
	a.once.Do(func() {
		if a.warn != nil {
			a.warn("this machine allows too few open files: fewer requests are sent at a time; raise ulimit -n, or lower -concurrency")
		}
	})
}

// traffic describes the attempts at this time.
func (a *asker) traffic() traffic {
	t := a.gate.traffic()
	if t.flying > 0 || t.waiting == 0 {
		return t
	}
	// What a waiting attempt expected when it began to wait may be outdated.
	sample, err := http.NewRequest(http.MethodPost, a.config.gatewayURL, nil)
	if err != nil {
		return t
	}
	if next := time.Now().Add(a.gate.Delay(sample)); next.After(t.next) {
		t.next = next
	}
	return t
}

// withPatience returns a context whose requests the client retries as a run needs
// it.
func (a *asker) withPatience(ctx context.Context) context.Context {
	policy := a.config.patience()
	policy.answers, policy.crowded = a.gate.answers, a.crowded
	return httpretry.Override(ctx, func(t *httpretry.RetryTransport) {
		t.Policy, t.Pacer = policy, a.gate
	})
}

// ask sends one request, with its retries.
func (a *asker) ask(ctx context.Context, req request) result {
	r := result{request: req}
	r.tally.again, r.tally.cancel = req.again, req.cancel
	if len(a.config.gateways) == 0 { // otherwise the limit is that of one of them
		r.tally.responded = func(resp *http.Response) { a.gate.quota.exhaust(resp, a.config.maxRetryAfter) }
	}
	id := headerSafe(req.customID)
	if r.tally.live = a.live; a.live == nil {
		r.tally.live = new(live)
	}
	resp, failed := a.client.Generate(withTally(ctx, &r.tally), &inference.InferenceRequest{
		RequestID: id,
		Method:    req.method,
		Path:      req.url,
		Body:      req.body,
	})
	r.request.body = nil // a deferred request is read again
	r.tally.attempts += req.attempts
	r.answer = answer{ID: newID(req.content), CustomID: req.customID}
	switch {
	case failed == nil:
		r.answer.Response = &response{StatusCode: http.StatusOK, RequestID: id, Body: asJSON(resp.Response)}
		r.tokens = tokensIn(resp.Response)
		a.gate.quota.use(r.tokens)
	case ctx.Err() != nil:
		r.interrupted = true
	default:
		r.passing = failed.IsRetryable() && !r.tally.final
		r.answer.Error = &failure{Code: categoryOf(failed, r.tally.final), Message: failed.Message}
		if asked := r.tally.tooLong; asked > 0 {
			r.answer.Error.Message += fmt.Sprintf(" (the gateway asked to wait for %v, and inference_max_retry_after allows %v)", asked, a.config.maxRetryAfter)
		}
		r.answer.Response = a.refusal(ctx, id, failed)
	}
	return r
}

// refusal returns the gateway's response to a request that failed, or nil if
// there was none.
func (a *asker) refusal(ctx context.Context, id string, failed *inference.InferenceError) *response {
	var status *inference.StatusError
	if !errors.As(failed.RawError, &status) {
		return nil
	}
	return &response{
		StatusCode: status.StatusCode,
		RequestID:  id,
		Body:       asJSON([]byte(a.redact(ctx, string(status.Body)))),
	}
}

// maxFailureBytes is the size to which the client cuts the body of a failure.
const maxFailureBytes = 64 << 10

var partOfEscape = regexp.MustCompile(`\\+(?:u[0-9A-Fa-f]{0,3})?$`)

// redact replaces the secrets in the body of a failure.
func (a *asker) redact(ctx context.Context, body string) string {
	if len(body) >= maxFailureBytes {
		// Where the body was cut, a part of a secret is recognized only if it
		// ends with a whole character.
		body = partOfEscape.ReplaceAllLiteralString(body, "")
	}
	return a.secrets.Text(ctx, body, len(body), nil)
}

// asJSON returns the text if it is JSON, otherwise a JSON string of it. Bytes
// that are not valid UTF-8 become U+FFFD, because parsers reject them.
func asJSON(text []byte) json.RawMessage {
	if !utf8.Valid(text) {
		text = bytes.ToValidUTF8(text, []byte("\uFFFD"))
	}
	if rawjson.Valid(text) {
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

// headerSafe returns the custom_id as it is sent in a header field: printable ASCII
// other than % is unchanged, and the rest is escaped as in a URL. Different
// custom_ids remain different.
func headerSafe(customID string) string {
	var b strings.Builder
	b.Grow(len(customID))
	for _, c := range []byte(customID) {
		if c <= ' ' || c > '~' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}
