package inference

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/httpretry/httpretry/internal/redact"
)

// An exchange is one call of Generate or Stream. The receiver below the
// RetryTransport stores in it the result of each attempt, which replaces that of
// the previous one. Attempts follow one another in one goroutine, so there is no
// lock. It travels in the context of the request.
type exchange struct {
	ctx        context.Context // the caller's
	redactor   *redact.Redactor
	request    []byte // the body of the request
	stream     bool
	completion bool // the answer must have choices

	received bool         // an attempt was made by the receiver
	endpoint int          // of the last attempt, if there are several
	body     []byte       // the body of the last attempt's response; nil for a stream
	err      error        // why reading it failed, if it did
	events   *eventReader // the events of a stream, from the first content on
}

type exchangeKey struct{}

// exchangeOf returns the exchange of an attempt's context.
func exchangeOf(ctx context.Context) *exchange { return ctx.Value(exchangeKey{}).(*exchange) }

// A receiver is the RoundTripper below the RetryTransport. It makes receiving an
// answer part of the attempt: it returns when the body has been read or, in a
// stream, when the first content has arrived. A 2xx response without an answer
// becomes an error, a [*failure], so that it is retried, reported and timed out
// like any other failed attempt.
type receiver struct {
	base     http.RoundTripper
	endpoint int // to which it sends, if there are several
}

// RoundTrip implements [http.RoundTripper].
func (r receiver) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	x := exchangeOf(ctx)
	x.received, x.endpoint, x.body, x.err, x.events = true, r.endpoint, nil, nil, nil
	resp, err := r.base.RoundTrip(req)
	if isTLSAlert(err) {
		return resp, &alertError{err}
	}
	if err != nil || resp == nil || resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, err
	}
	own := *resp // Base may share resp between calls
	if own.Body == nil {
		own.Body = http.NoBody
	}
	stop := closeWhenDone(ctx, &own)
	err = x.receive(ctx, &own)
	stop()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx) // not the error that closing the body caused
	}
	if err != nil {
		own.Body.Close()
		return nil, err
	}
	if x.events == nil {
		own.Body.Close()
		own.Body = http.NoBody // it is in x
	}
	return &own, nil
}

// isTLSAlert reports whether a server responded to HTTP with a TLS alert (RFC 8446,
// section 5.1), because it expects https. The error of net/http has no type, and quotes
// the response.
func isTLSAlert(err error) bool {
	return err != nil && strings.Contains(err.Error(), `malformed HTTP response "\x15\x03`)
}

// An alertError is the error of a TLS alert in response to HTTP. It is an
// [http.ErrSchemeMismatch], like the error of HTTP in response to TLS.
type alertError struct{ err error }

func (e *alertError) Error() string {
	return "server gave TLS response to HTTP client: " + e.err.Error()
}

func (e *alertError) Unwrap() error { return e.err }

// Is reports whether target is [http.ErrSchemeMismatch].
func (e *alertError) Is(target error) bool { return target == http.ErrSchemeMismatch }

// CloseIdleConnections closes the idle connections of base.
func (r receiver) CloseIdleConnections() {
	if c, ok := r.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// receive reads the response's body, or the beginning of its events.
func (x *exchange) receive(ctx context.Context, resp *http.Response) error {
	switch {
	case resp.StatusCode/100 != 2:
		x.body, x.err = readFailure(resp)
		x.body = trimMark(x.body)
		if ctx.Err() != nil {
			return x.err
		}
		return nil // the status says more than the end of the body
	case x.stream:
		return x.receiveStream(resp)
	}
	return x.receiveAnswer(resp)
}

// receiveAnswer reads an answer that Generate returns.
func (x *exchange) receiveAnswer(resp *http.Response) error {
	const fault = "response is not JSON"
	events := newEventReader(resp.Body)
	refused := false
	if isEventStream(resp) {
		refused = !events.beginsLikeJSON()
	} else {
		refused = events.beginsLikeEvents()
	}
	if refused {
		return x.receiveRefusal(resp, events.r, fault)
	}
	return x.readAnswer(resp, events.r, fault)
}

// receiveRefusal reads a 2xx response that is an event stream although none was
// asked for, up to the first event that is not noise, since it may never end. It
// always returns an error: that of the event, or a fault. r reads the body of
// resp.
func (x *exchange) receiveRefusal(resp *http.Response, r io.Reader, fault string) error {
	var refusal rawEvent
	read, err := readEvents(resp, r, func(ev rawEvent) bool {
		kind, _ := ev.interpret()
		if kind == eventError {
			refusal = ev
		}
		return kind == eventNoise
	})
	switch {
	case refusal.data != nil:
		return errorEvent(resp, refusal.data)
	case err != nil:
		x.err = err
		return err
	}
	return noAnswer(resp, read, fault)
}

// receiveStream reads a stream up to its first content. A whole answer, which
// some gateways return although a stream was asked for, becomes a stream of one
// event. The Content-Type is not decisive, since many gateways set a wrong one.
func (x *exchange) receiveStream(resp *http.Response) error {
	const fault = "response is not an event stream"
	if resp.StatusCode == http.StatusNoContent {
		return noAnswer(resp, nil, fault) // and not an empty stream
	}
	events := newEventReader(resp.Body)
	if events.beginsLikeEvents() || isEventStream(resp) && !events.beginsLikeJSON() {
		x.events = events
		return x.openEvents(resp)
	}
	if err := x.readAnswer(resp, events.r, fault); err != nil {
		return err
	}
	if cs, _ := parse(x.body); !cs.isAnswer() {
		return noAnswer(resp, x.body, fault)
	}
	events.unread([]rawEvent{{data: x.body}, {data: []byte("[DONE]")}})
	x.events = events
	return nil
}

// readAnswer reads a whole answer from r, which reads the body of resp.
func (x *exchange) readAnswer(resp *http.Response, r io.Reader, fault string) error {
	body, err := readBody(r, resp.ContentLength)
	switch {
	case err == errResponseTooLarge:
		return tooLarge(resp)
	case err != nil:
		x.err = err
		return err
	}
	x.body = trimMark(body)
	return x.checkAnswer(resp, fault)
}

const (
	// maxOpeningBytes limits the size of the events that are kept before the
	// first content. Further ones are dropped. They have no content.
	maxOpeningBytes = 4 << 20

	// openingBytes is the overhead of an event that is kept.
	openingBytes = 64
)

var errNoContent = fmt.Errorf("event stream ended before its first content: %w", io.ErrUnexpectedEOF)

// openEvents reads events up to the first content, and pushes back those that are
// part of the answer.
func (x *exchange) openEvents(resp *http.Response) error {
	var opening []rawEvent
	room := maxOpeningBytes
	for {
		ev, err := x.events.next()
		if err == io.EOF {
			return errNoContent
		} else if err != nil {
			return err
		}
		switch kind, _ := ev.interpret(); kind {
		case eventAside:
			if room -= len(ev.data) + openingBytes; room >= 0 {
				opening = append(opening, ev)
			}
		case eventContent:
			x.events.unread(append(opening, ev))
			return nil
		case eventDone:
			return errNoContent
		case eventError:
			return errorEvent(resp, ev.data)
		case eventMalformed:
			return notJSON(resp, ev.data)
		}
	}
}

// closeWhenDone closes the response body when ctx is done, unless stop is called
// first. A body's Read need not respect the context, and may never return.
func closeWhenDone(ctx context.Context, resp *http.Response) (stop func() bool) {
	body := onceBody{resp.Body, sync.OnceValue(resp.Body.Close)}
	resp.Body = body
	return context.AfterFunc(ctx, func() { body.Close() })
}

// A onceBody closes the underlying body once, even if Close is called
// concurrently.
type onceBody struct {
	io.ReadCloser
	close func() error
}

// Close implements [io.Closer].
func (b onceBody) Close() error { return b.close() }

func isEventStream(resp *http.Response) bool {
	return strings.EqualFold(contentType(resp), "text/event-stream")
}

// maxFailureTime limits the time for the events of a failure that is an event
// stream.
const maxFailureTime = 5 * time.Second

// readFailure reads the body of a response that is not a 2xx. An event stream may
// never end; of that it reads the first event that is not a keep-alive.
func readFailure(resp *http.Response) ([]byte, error) {
	if !isEventStream(resp) {
		return readBody(resp.Body, resp.ContentLength)
	}
	return readEvents(resp, resp.Body, rawEvent.isKeepAlive)
}

// readEvents reads events from r, which reads the body of resp, as long as more
// returns true, and returns the bytes read. It stops without an error at
// maxErrorBytes and after maxFailureTime.
func readEvents(resp *http.Response, r io.Reader, more func(rawEvent) bool) ([]byte, error) {
	timer := time.AfterFunc(maxFailureTime, func() { resp.Body.Close() })
	var read bytes.Buffer
	events := newEventReader(io.TeeReader(io.LimitReader(r, maxErrorBytes), &read))
	ev, err := events.next()
	for err == nil && more(ev) {
		ev, err = events.next()
	}
	if expired := !timer.Stop(); expired || err == io.EOF || err == errEventTooLarge {
		err = nil
	}
	return read.Bytes(), err
}
