package inference

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"time"
)

// Stream sends req to the gateway and yields its answer piece by piece, as
// server-sent events bring it. It asks for that by itself: the parameter
// "stream" is sent as true, whatever Params says. Nothing is sent before the
// sequence is ranged over, and the request is sent anew each time it is.
//
//	for event, err := range client.Stream(ctx, req) {
//		if err != nil {
//			return err
//		}
//		fmt.Print(event.Text)
//	}
//
// An error is the last thing that is yielded, and always an [*InferenceError].
// A sequence that ends without one is an answer that ended: with [DONE], or at
// the end of the stream with a finish reason for every choice that began. A
// stream that ends before that, or breaks off, is an error.
//
// A response with status 200 and without a Content-Type, or with text/plain,
// counts as an event stream too if it begins like one, or is empty. What is
// yielded are the events of the answer, which have choices, usage or the
// results of a filter; whatever else a gateway sends to keep the connection
// alive is passed over.
//
// Stream tries again as [HTTPInferenceClient.Generate] does, until the first
// content: an event that says more than that an answer begins, if only that it
// ends there. Before that, an attempt has failed
//
//   - with the status that the API has for such an error, when an error event
//     comes, or an error as JSON in place of the stream;
//   - when the stream breaks off or ends, also with [DONE];
//   - when an event is not JSON.
//
// Once there was content, nothing is tried again: the same prompt would get
// another answer. Then the error's RawError is a [*StreamError], which has what
// had arrived.
//
// [HTTPInferenceClientConfig.Timeout] bounds an attempt up to the first content,
// and [HTTPInferenceClientConfig.StreamIdleTimeout] each wait for an event
// after it. An event larger than 8 MiB is an error. Of the events before the
// first content, what exceeds 4 MiB is dropped.
//
// When the loop is left, in whichever way, the connection is free again or
// closed. req is used until then, and not modified.
func (c *HTTPInferenceClient) Stream(ctx context.Context, req *InferenceRequest) iter.Seq2[StreamEvent, error] {
	return func(yield func(StreamEvent, error) bool) {
		s, failure := c.openStream(ctx, req)
		if failure != nil {
			yield(StreamEvent{}, failure)
			return
		}
		defer s.close()
		for {
			ev, err := s.next()
			switch {
			case err == io.EOF:
				return
			case err != nil:
				yield(StreamEvent{}, err)
				return
			case !yield(ev, nil):
				return
			}
		}
	}
}

// A StreamError is the [InferenceError.RawError] of a stream that failed after
// content had come.
type StreamError struct {
	// Text is what had arrived of the answer: the [StreamEvent.Text] of all
	// events that were yielded, at most 16 MiB. It is not part of the error's
	// text.
	Text string

	// Err is what would be the RawError if no content had come: a
	// [*StatusError] for an error event, [io.ErrUnexpectedEOF] for a stream
	// that ended too early, an error of the network, a context's error.
	Err error
}

// Error returns that the stream broke off, and why.
func (e *StreamError) Error() string { return "event stream broke off: " + e.Err.Error() }

// Unwrap returns e.Err.
func (e *StreamError) Unwrap() error { return e.Err }

// A stream is an answer that is coming in.
type stream struct {
	ctx     context.Context // the caller's
	own     context.Context // that of the request
	cancel  context.CancelCauseFunc
	idle    *idleError  // the cause of cancelling own after too long a wait
	unwatch func() bool // ends the watch that closes resp when own is done
	resp    *http.Response
	events  *eventReader
	secrets secrets

	yielded bool
	text    strings.Builder
	ended   map[int]bool // the choices that began, by index, and whether they had a finish reason
}

// openStream sends the request, as often as it takes, until there is a stream
// with content.
func (c *HTTPInferenceClient) openStream(ctx context.Context, req *InferenceRequest) (*stream, *InferenceError) {
	httpReq, hidden, failure := c.prepare(ctx, req, true)
	if failure != nil {
		return nil, failure
	}
	own, cancel := context.WithCancelCause(ctx)
	resp, events, err := c.doStream(httpReq.WithContext(own))
	if err != nil {
		cancel(nil)
		var m *malformedError
		if errors.As(err, &m) && ctx.Err() == nil {
			return nil, m.InferenceError
		}
		return nil, executeError(ctx, err, hidden)
	}
	s := &stream{
		ctx: ctx, own: own, cancel: cancel, idle: &idleError{c.idle}, unwatch: closeWhenDone(own, resp),
		resp: resp, events: events, secrets: hidden, ended: make(map[int]bool),
	}
	switch {
	case resp.StatusCode/100 != 2:
		_, failure = receive(ctx, req.RequestID, resp, hidden)
	case s.events == nil:
		failure = notEventStream(ctx, resp, hidden)
	default:
		return s, nil
	}
	s.close()
	return nil, failure
}

// doStream sends a request through a retry layer of its own, so that what is
// read of the response below it can be handed over above it. events is nil if
// there is no stream.
func (c *HTTPInferenceClient) doStream(req *http.Request) (resp *http.Response, events *eventReader, err error) {
	o := &opener{base: c.transport}
	retry := *c.retry
	retry.Base = corrector{o}
	client := http.Client{Transport: &retry, CheckRedirect: c.client.CheckRedirect}
	resp, err = client.Do(req)
	return resp, o.events, err
}

// notEventStream is the error of a success that is something else.
func notEventStream(ctx context.Context, resp *http.Response, s secrets) *InferenceError {
	body, err := readBody(resp)
	if err != nil && err != errResponseTooLarge {
		return executeError(ctx, err, s)
	}
	text := fmt.Sprintf("response is not an event stream (%s)", contentType(resp))
	return statusError(ErrCategoryServer, resp, body, s.redact(text))
}

func (s *stream) close() {
	s.unwatch()
	s.resp.Body.Close()
	s.cancel(nil)
}

// next returns the next event; [io.EOF] after the last, or an *InferenceError.
func (s *stream) next() (StreamEvent, error) {
	ev, meaning, c, err := s.read()
	switch {
	case err == io.EOF && s.complete():
		return StreamEvent{}, io.EOF
	case err == io.EOF:
		return StreamEvent{}, s.partial(executeError(s.ctx, errCutShort, s.secrets))
	case err != nil:
		return StreamEvent{}, s.partial(executeError(s.ctx, err, s.secrets))
	}
	switch meaning {
	case isDone:
		s.drain()
		return StreamEvent{}, io.EOF
	case isFailure:
		_, e := receive(s.ctx, "", errorResponse(s.resp, ev.data), s.secrets)
		return StreamEvent{}, s.partial(e)
	case isMalformed:
		return StreamEvent{}, s.partial(notJSON(s.resp, ev.data))
	}
	event := ev.event(c)
	s.record(c, event.Text)
	return event, nil
}

var errCutShort = fmt.Errorf("event stream ended without [DONE] or a finish reason: %w", io.ErrUnexpectedEOF)

// read returns the next event that is more than noise. Its error is io.EOF at
// the end of the stream, and the context's cause once own is done.
func (s *stream) read() (ev rawEvent, m meaning, c chunk, err error) {
	timer := time.AfterFunc(s.idle.limit, func() { s.cancel(s.idle) })
	defer timer.Stop()
	for m == isNoise {
		// What is here already must not hide that nobody waits for it.
		if s.ctx.Err() != nil {
			return ev, m, c, context.Cause(s.ctx)
		}
		ev, err = s.events.next()
		if err != nil && s.own.Err() != nil {
			err = context.Cause(s.own) // and not what came of closing the body
		}
		if err != nil {
			return ev, m, c, err
		}
		m, c = ev.interpret()
	}
	return ev, m, c, nil
}

// record notes what has arrived, and which choices have begun and ended.
func (s *stream) record(c chunk, text string) {
	s.yielded = true
	s.text.WriteString(text[:min(len(text), maxResponseBytes-s.text.Len())])
	for _, choice := range c.Choices {
		ended, known := s.ended[choice.Index]
		if known || len(s.ended) < maxChoices {
			s.ended[choice.Index] = ended || choice.FinishReason != ""
		}
	}
}

// complete reports whether the answer is whole if nothing follows.
func (s *stream) complete() bool {
	for _, ended := range s.ended {
		if !ended {
			return false
		}
	}
	return len(s.ended) > 0
}

// drain reads what little follows [DONE], so that the connection can be used
// again. Mostly it has arrived already.
func (s *stream) drain() {
	const maxBytes, maxTime = 4 << 10, 10 * time.Millisecond
	timer := time.AfterFunc(maxTime, func() { s.cancel(nil) })
	defer timer.Stop()
	io.CopyN(io.Discard, s.events.r, maxBytes)
}

// partial wraps e's RawError in a StreamError if events have been yielded.
func (s *stream) partial(e *InferenceError) *InferenceError {
	if s.yielded {
		e.RawError = &StreamError{Text: s.text.String(), Err: e.RawError}
	}
	return e
}

// An idleError is the error of a stream that said nothing for too long.
type idleError struct{ limit time.Duration }

func (e *idleError) Error() string { return fmt.Sprintf("no event for %v", e.limit) }

func (e *idleError) Timeout() bool { return true }

// Temporary makes it a [net.Error], together with Timeout.
func (e *idleError) Temporary() bool { return true }

// Is makes it match the error of a context whose deadline has passed.
func (e *idleError) Is(target error) bool { return target == context.DeadlineExceeded }
