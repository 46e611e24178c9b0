package inference

import (
	"context"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/httpretry/httpretry/internal/stall"
)

// Stream sends req to the gateway, with the parameter "stream" set to true, and
// returns an iterator over the events of the answer, which are server-sent events.
// The request is sent when the sequence is ranged over. It is sent once: a second
// range over the same sequence yields an error.
//
//	for event, err := range client.Stream(ctx, req) {
//		if err != nil {
//			return err
//		}
//		fmt.Print(event.Text)
//	}
//
// Errors are always of type [*InferenceError], and end the sequence. If the
// sequence ends without an error, the answer is complete: the stream ended with
// [DONE], or with a finish reason for every choice. A stream that ends earlier or
// fails is an error.
//
// The body is recognized as an event stream whatever its Content-Type. A gateway
// that returns a whole answer, as JSON, yields one event. Only events that have
// choices, usage or filter results are yielded. Others, such as keep-alives and
// events with a name that is not one of the API's, are skipped.
//
// Like [HTTPInferenceClient.Generate], Stream retries, but only until the first
// content, which is the first event that carries any part of the answer or ends
// it. Before that, an attempt fails
//
//   - if an error arrives as an event or as a JSON body, with the status that the
//     API documents for it;
//   - if the stream fails or ends, even with [DONE];
//   - if an event is not JSON, or the body is neither an event stream nor an
//     answer.
//
// After the first content nothing is retried, because the same prompt would
// produce a different answer. Errors then have a [*StreamError] as their RawError,
// with the text received so far.
//
// [HTTPInferenceClientConfig.Timeout] limits the time to the first content, and
// [HTTPInferenceClientConfig.StreamIdleTimeout] the wait for content after it. An
// event larger than 8 MiB is an error. Events before the first content are dropped
// beyond a total of 4 MiB.
//
// When the loop ends, the connection has been released or closed. req must not be
// modified until then; Stream does not modify it.
func (c *HTTPInferenceClient) Stream(ctx context.Context, req *InferenceRequest) iter.Seq2[StreamEvent, error] {
	var used atomic.Bool
	return func(yield func(StreamEvent, error) bool) {
		if used.Swap(true) {
			yield(StreamEvent{}, invalidRequest("stream was already used: call Stream again to repeat the request", nil))
			return
		}
		s, failed := c.gateway().openStream(ctx, req)
		if failed != nil {
			yield(StreamEvent{}, failed)
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

// A StreamError is the [InferenceError.RawError] of a stream that failed after its
// first content.
type StreamError struct {
	// Text is the text received: the concatenated [StreamEvent.Text] of all
	// yielded events, up to 16 MiB. Error does not include it.
	Text string

	// Err is the underlying error: a [*StatusError] for an error event,
	// [io.ErrUnexpectedEOF] for a stream that ended early, a network error or a
	// context error.
	Err error
}

// Error returns a description of the failure.
func (e *StreamError) Error() string { return "event stream failed: " + e.Err.Error() }

// Unwrap returns e.Err.
func (e *StreamError) Unwrap() error { return e.Err }

// A stream is an answer that is being received.
type stream struct {
	*exchange
	own     context.Context // the request's context
	cancel  context.CancelCauseFunc
	unwatch func() bool // stops closing resp when own is done
	resp    *http.Response

	watch    *stall.Watch // of progress; cancels own with an idleError
	progress progress
	yielded  bool
	text     strings.Builder
	ended    map[int]bool // the choices seen, by index, and whether each has a finish reason
}

// openStream sends the request, with retries, and returns a stream positioned
// before its first content.
func (g gateway) openStream(ctx context.Context, req *InferenceRequest) (*stream, *InferenceError) {
	httpReq, x, failed := g.prepare(ctx, req, true)
	if failed != nil {
		return nil, failed
	}
	own, cancel := context.WithCancelCause(httpReq.Context())
	resp, failed := g.do(httpReq.WithContext(own), x)
	if failed != nil {
		cancel(nil)
		return nil, failed
	}
	idle := func(int64, bool) error { return &idleError{g.idle} }
	return &stream{
		exchange: x, own: own, cancel: cancel, unwatch: closeWhenDone(own, resp), resp: resp,
		watch: stall.NewWatch(stall.Limits{Idle: g.idle}, idle, cancel), ended: make(map[int]bool),
	}, nil
}

func (s *stream) close() {
	s.watch.End()
	s.unwatch()
	s.resp.Body.Close()
	s.cancel(nil)
}

// next returns the next event, [io.EOF] after the last, or an *InferenceError.
func (s *stream) next() (StreamEvent, error) {
	ev, kind, c, err := s.read()
	switch {
	case err == io.EOF && s.complete():
		return StreamEvent{}, io.EOF
	case err == io.EOF:
		return StreamEvent{}, s.partial(s.executeError(errCutShort))
	case err != nil:
		return StreamEvent{}, s.partial(s.executeError(err))
	}
	switch kind {
	case eventDone:
		s.discard()
		return StreamEvent{}, io.EOF
	case eventError:
		return StreamEvent{}, s.partial(s.failed(errorEvent(s.resp, ev.data)))
	case eventMalformed:
		return StreamEvent{}, s.partial(s.failed(notJSON(s.resp, ev.data)))
	}
	event := ev.event(c)
	s.add(c, event.Text)
	return event, nil
}

var errCutShort = fmt.Errorf("event stream ended without [DONE] or a finish reason: %w", io.ErrUnexpectedEOF)

// read returns the next event that is not noise. Its error is io.EOF at the end of
// the stream, or the context's cause if own is done.
func (s *stream) read() (ev rawEvent, kind eventKind, c chunk, err error) {
	progress := 0
	s.watch.Start(0)
	defer func() { s.watch.Stop(progress) }()
	for kind == eventNoise {
		// Don't return buffered events after the context is done.
		if s.own.Err() != nil {
			return ev, kind, c, context.Cause(s.own)
		}
		ev, err = s.events.next()
		if err != nil && s.own.Err() != nil {
			err = context.Cause(s.own) // not the error that closing the body caused
		}
		if err != nil {
			return ev, kind, c, err
		}
		kind, c = ev.interpret()
	}
	// Some gateways send chunks that add nothing, as keep-alives.
	if s.progress.made(ev.data) {
		progress = 1
	}
	return ev, kind, c, nil
}

// add records the received text, and the choices that began or ended.
func (s *stream) add(c chunk, text string) {
	s.yielded = true
	s.text.WriteString(text[:min(len(text), maxResponseBytes-s.text.Len())])
	for _, choice := range c.choices {
		ended, known := s.ended[choice.index]
		if known || len(s.ended) < maxChoices {
			s.ended[choice.index] = ended || choice.finishReason != ""
		}
	}
}

// complete reports whether every choice seen has a finish reason.
func (s *stream) complete() bool {
	for _, ended := range s.ended {
		if !ended {
			return false
		}
	}
	return len(s.ended) > 0
}

// discard reads the little that may follow [DONE], so that the connection can be
// reused.
func (s *stream) discard() {
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

// An idleError is the error of a stream that was idle for too long.
type idleError struct{ limit time.Duration }

func (e *idleError) Error() string { return fmt.Sprintf("no content for %v", e.limit) }

func (e *idleError) Timeout() bool { return true }

// Temporary makes it a [net.Error], together with Timeout.
func (e *idleError) Temporary() bool { return true }

// Is makes it match the error of a context whose deadline was exceeded.
func (e *idleError) Is(target error) bool { return target == context.DeadlineExceeded }
