package flaky

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// A Step describes how one request fails or succeeds. Steps are immutable:
// methods such as [Step.After] return a modified copy, so a Step can be reused.
// The zero Step is [Pass].
//
// Except for Pass, a step first reads the whole request body, as most servers
// do. It then waits for the delay set by [Step.After], if any, and takes effect.
// If the request's context is done before then, a Transport returns the cause
// of the context and a Handler closes the connection.
//
// To close the connection, a Handler panics with [http.ErrAbortHandler]. An
// HTTP/1.1 client then sees io.EOF, or io.ErrUnexpectedEOF within a body, or a
// connection reset if the server had not read all of the request. Over HTTP/2
// only the stream is reset, with INTERNAL_ERROR.
type Step struct {
	kind   kind
	status int           // of a Status step
	header http.Header   // of a Status step; shared between copies, never modified
	body   string        // of a Status step
	err    error         // of an Error step
	early  bool          // the request body is not read first
	delay  time.Duration // before the step takes effect

	ending      ending
	limit       int64 // of the response body, if ending is not whole
	pace        pace  // of the response body
	requestPace pace  // of the request body
}

// An ending is the kind of fault at the limit of a response body.
type ending uint8

const (
	whole     ending = iota // there is no limit
	truncated               // the body fails
	stalled                 // nothing follows
)

// A kind identifies the constructor of a step.
type kind uint8

const (
	passing kind = iota
	responding
	refusing
	resetting
	hanging
	failing
)

// Pass forwards the request to the wrapped RoundTripper or the next handler. If
// there is none, it is equivalent to Status(200).
//
// It does not read the body in advance. The body is recorded as the RoundTripper
// or the handler reads it. [Step.After] delays the forwarding.
func Pass() Step { return Step{} }

// Status responds with the given status code and an empty body. It panics if
// the code is not that of a final response, from 200 to 999.
func Status(code int) Step {
	if code < 200 || code > 999 {
		panic(fmt.Sprintf("flaky: %d is not the status of a final response", code))
	}
	return Step{kind: responding, status: code}
}

// Refuse simulates a refused connection. The request body is not read.
//
// A Transport returns the error of a refused connection, a [*net.OpError] of a
// dial that wraps [syscall.ECONNREFUSED]. A Handler can't refuse an accepted
// connection, so it closes the connection without a response. Unlike a refusal,
// that does not show the client that the request was not processed.
func Refuse() Step { return Step{kind: refusing} }

// Reset resets the connection after the request was read and before the
// response begins, so that the client can't tell whether the request was
// processed.
//
// A Transport returns the error of a reset connection, a [*net.OpError] of a
// read that wraps [syscall.ECONNRESET]. A Handler sends a TCP RST or, over
// HTTP/2, resets the stream. A connection other than TCP is closed.
func Reset() Step { return Step{kind: resetting} }

// Hang never responds. A Transport waits until the request's context is done
// and returns its cause. A Handler waits until the client disconnects or the
// server closes the connection, as [http.Server.Close] and
// [net/http/httptest.Server.CloseClientConnections] do.
// [net/http/httptest.Server.Close] and [http.Server.Shutdown] wait for the
// client.
//
// A Handler ignores [Step.Early] here, because an HTTP/1.1 server detects that
// the client has disconnected only after it has read the request body.
func Hang() Step { return Step{kind: hanging} }

// Error fails with err. A Transport returns err itself, and a Handler closes the
// connection without a response. Error(nil) is equivalent to Pass().
func Error(err error) Step {
	if err == nil {
		return Pass()
	}
	return Step{kind: failing, err: err}
}

// WithHeader adds a header field to the response of a [Status] step. Fields of
// that name that were added before are kept. It has no effect on other steps.
//
// Content-Length and Transfer-Encoding are derived from the body and can't be
// set.
func (s Step) WithHeader(key, value string) Step {
	key = http.CanonicalHeaderKey(key)
	if s.kind != responding || key == "Content-Length" || key == "Transfer-Encoding" {
		return s
	}
	s.header = s.header.Clone()
	if s.header == nil {
		s.header = make(http.Header)
	}
	s.header.Add(key, value)
	return s
}

// WithBody sets the body of the response of a [Status] step. It has no effect on
// other steps, nor where a response has no body (204, 304, a response to HEAD).
func (s Step) WithBody(body string) Step {
	if s.kind == responding {
		s.body = body
	}
	return s
}

// After delays the step by d. The wait ends early if the request's context is
// done. If d ≤ 0, there is no wait. Later calls override earlier ones.
func (s Step) After(d time.Duration) Step {
	s.delay = d
	return s
}

// Truncate truncates the response body after n bytes. It applies to the response of
// a [Status] step and to one passed through by [Pass]. A body of at most n bytes is
// not affected. A negative n is treated as 0. Later calls of Truncate and
// [Step.Stall] override earlier ones. Truncate has no effect on steps without a
// response.
//
// In a Transport, Read returns [io.ErrUnexpectedEOF] in place of byte n+1. A
// Handler sends n bytes and closes the connection, which an HTTP/1.1 client
// also sees as io.ErrUnexpectedEOF, with or without Content-Length. A handler
// called by Pass gets [http.ErrAbortHandler] when it writes byte n+1, the
// context of its request is canceled, and the connection is closed when it
// returns.
func (s Step) Truncate(n int64) Step {
	s.ending, s.limit = truncated, max(n, 0)
	return s
}

// Stall stalls the response body after n bytes. It applies to the response of a
// [Status] step and to one passed through by [Pass]. The connection or stream stays
// open, and nothing is sent, until the request's context is done. A body of at most
// n bytes is not affected. A negative n is treated as 0. Later calls of Stall and
// [Step.Truncate] override earlier ones. Stall has no effect on steps without a
// response.
//
// In a Handler, the context is done when the client has disconnected. A handler
// called by Pass then gets [http.ErrAbortHandler] from the write of byte n+1.
func (s Step) Stall(n int64) Step {
	s.ending, s.limit = stalled, max(n, 0)
	return s
}

// Slow slows the response body down. It applies to the response of a [Status] step
// and to one passed through by [Pass]. The first chunk bytes are sent immediately.
// Before each further chunk there is a wait, whose duration is every. A wait ends
// early if the request's context is done. A chunk below 1 is treated as 1. Later
// calls override earlier ones. Slow has no effect on steps without a response.
func (s Step) Slow(chunk int, every time.Duration) Step {
	s.pace = pace{chunk: max(chunk, 1), every: every}
	return s
}

// SlowRequest slows the reading of the request body down. The first chunk bytes are
// read immediately. Before each further chunk there is a wait, whose duration is
// every. With a long wait, the step stalls after the first chunk. A wait ends early
// if the request's context is done. A chunk below 1 is treated as 1. Later calls
// override earlier ones. It has no effect on steps that do not read the body. The
// wait of [Step.After] and, in a Transport, the time that the source of the body takes
// come on top of these waits.
//
// The sockets and net/http buffer several MiB of a body that is not read. Over
// HTTP/1.1 a Handler can't detect that the client has disconnected while it waits.
func (s Step) SlowRequest(chunk int, every time.Duration) Step {
	s.requestPace = pace{chunk: max(chunk, 1), every: every}
	return s
}

// Early makes a step take effect without reading the request body, like a server
// that rejects a large upload. A Transport closes the body unread. A Handler
// responds while the client may still be sending. Early has no effect on [Pass].
//
// Over HTTP/1.1 a Handler then closes the connection after the response. The
// Handler can't detect a disconnected client while the body is unread, so a delay
// may run its full length.
func (s Step) Early() Step {
	s.early = s.kind != passing
	return s
}

// orStatus returns s, or Status(200) if s is a Pass and there is nothing to pass
// to.
func (s Step) orStatus(passable bool) Step {
	if s.kind == passing && !passable {
		s.kind, s.status = responding, http.StatusOK
	}
	return s
}

// readsBody reports whether the step reads the request body before it takes
// effect.
func (s Step) readsBody() bool {
	return s.kind != passing && s.kind != refusing && !s.early
}

// shapesBody reports whether the step truncates, stalls or slows the response body.
func (s Step) shapesBody() bool { return s.ending != whole || s.pace.chunk > 0 }

// bodyAllowed reports whether a response with this status may have a body
// (RFC 9110, section 6.4.1).
func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// sleep waits for d. It returns the cause of ctx if ctx is done before that.
func sleep(ctx context.Context, d time.Duration) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
