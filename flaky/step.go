package flaky

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// A Step is what happens to one request. It is an immutable value: methods
// such as [Step.After] return a changed copy, so that a step can be kept and
// varied. The zero Step is [Pass].
//
// A step other than Pass first reads the request's body to its end, as most
// servers do, then waits if [Step.After] says so, then takes effect. If the
// request's context is done before that, there is no effect: a Transport
// returns the context's cause, a Handler cuts the connection.
//
// Where a step cuts the connection, a Handler panics with
// [http.ErrAbortHandler], which the server takes as a wish to do so and does
// not log. What the client sees of it under HTTP/1.1 is io.EOF, or
// io.ErrUnexpectedEOF inside a body; or a reset connection, if the server
// still had something of the request to read. Under HTTP/2 the one stream is
// reset, with INTERNAL_ERROR.
type Step struct {
	kind   kind
	status int         // of an answer
	header http.Header // of an answer; shared by copies, so never modified
	body   string      // of an answer
	err    error       // of a failure
	early  bool
	delay  time.Duration

	truncated bool
	limit     int64 // of the response body, if truncated
	pace      pace  // of the response body
}

// A kind is which of the functions below a step comes from.
type kind uint8

const (
	passing kind = iota
	answering
	refusing
	resetting
	hanging
	failing
)

// Pass hands the request on: to the RoundTripper beneath a Transport, to the
// next handler behind a Handler. Where there is none, Pass is Status(200).
//
// It reads nothing ahead: the body is recorded while whoever comes next reads
// it, and [Step.After] holds up the request before any of it is read.
func Pass() Step { return Step{} }

// Status answers with the given status, no header fields of its own and an
// empty body. The code is that of a final response, 200 to 999. Like
// [http.ResponseWriter.WriteHeader], Status panics on a code that can't be.
func Status(code int) Step {
	if code < 200 || code > 999 {
		panic(fmt.Sprintf("flaky: %d is not the status of a final response", code))
	}
	return Step{kind: answering, status: code}
}

// Refuse does what happens when no one listens. The request's body is not read.
//
// A Transport returns the error of a refused connection: a [*net.OpError] of a
// dial, around [syscall.ECONNREFUSED]. A Handler comes too late to refuse a
// connection. It does the nearest thing and cuts the connection without a byte
// of an answer, which tells the client less: that nothing was processed can't
// be seen from there.
func Refuse() Step { return Step{kind: refusing} }

// Reset breaks the connection off after the request was read, before the
// answer begins: the client can't know what became of its request.
//
// A Transport returns the error of a reset connection: a [*net.OpError] of a
// read, around [syscall.ECONNRESET]. A Handler makes the connection end with a
// TCP RST, and under HTTP/2 resets the stream. Where the connection is not TCP
// it is closed.
func Reset() Step { return Step{kind: resetting} }

// Hang never answers. A Transport returns the cause of the request's context
// once that is done, and not before. A Handler waits until the client has gone
// or the server closes the connection, as [http.Server.Close] and
// CloseClientConnections of httptest.Server do; the Close of httptest.Server
// alone waits for the client, and so does [http.Server.Shutdown].
//
// A Handler takes no notice of [Step.Early] here, since under HTTP/1.1 a
// client's leaving shows only behind the request's body.
func Hang() Step { return Step{kind: hanging} }

// Error fails with err. A Transport returns err itself, a Handler cuts the
// connection without a byte of an answer. Error(nil) is Pass().
func Error(err error) Step {
	if err == nil {
		return Pass()
	}
	return Step{kind: failing, err: err}
}

// WithHeader adds a header field to the answer of a [Status] step; a field of
// the same name that was added before stays. On other steps it has no effect.
//
// Content-Length and Transfer-Encoding follow from the body and can't be set.
func (s Step) WithHeader(key, value string) Step {
	key = http.CanonicalHeaderKey(key)
	if s.kind != answering || key == "Content-Length" || key == "Transfer-Encoding" {
		return s
	}
	s.header = s.header.Clone()
	if s.header == nil {
		s.header = make(http.Header)
	}
	s.header.Add(key, value)
	return s
}

// WithBody sets the body that a [Status] step answers with. On other steps, and
// where HTTP allows no body (204, 304, an answer to HEAD), it has no effect.
func (s Step) WithBody(body string) Step {
	if s.kind == answering {
		s.body = body
	}
	return s
}

// After delays the step by d. The wait ends at once when the request's context
// is done. d ≤ 0 means no wait; the last call counts.
func (s Step) After(d time.Duration) Step {
	s.delay = d
	return s
}

// Truncate lets the response's body break off after n bytes, be it of a
// [Status] step or what [Pass] brought back. A body of n bytes or fewer comes
// whole. n < 0 counts as 0; the last call counts. On steps without a response
// it has no effect.
//
// Under a Transport, Read returns [io.ErrUnexpectedEOF] in place of byte n+1.
// Under a Handler the n bytes are sent and the connection is cut: a client
// under HTTP/1.1 sees that as io.ErrUnexpectedEOF too, whether the length was
// declared or the body is chunked. For a handler behind Pass, the writing of
// byte n+1 fails with [http.ErrAbortHandler], its request's context is done,
// and the connection is cut when it returns.
func (s Step) Truncate(n int64) Step {
	s.truncated, s.limit = true, max(n, 0)
	return s
}

// Slow lets the response's body trickle, be it of a [Status] step or what
// [Pass] brought back: chunk bytes at once, and every further chunk after
// waiting for the given time. The waits end at once when the request's context
// is done. chunk < 1 counts as 1; the last call counts. On steps without a
// response it has no effect.
func (s Step) Slow(chunk int, every time.Duration) Step {
	s.pace = pace{chunk: max(chunk, 1), every: every}
	return s
}

// Early lets a step take effect without reading the request's body, as a server
// does that turns a large upload away. A Transport then closes the body unread.
// A Handler answers while the client may still be sending. On [Pass] it has no
// effect.
//
// Under HTTP/1.1 a Handler then closes the connection after its answer, and an
// unread body hides from it that the client has gone, so that a wait before the
// answer may take its full time.
func (s Step) Early() Step {
	s.early = s.kind != passing
	return s
}

// orAnswer returns s, or the answer that stands in for it where s would pass
// and there is no one to pass to.
func (s Step) orAnswer(passable bool) Step {
	if s.kind == passing && !passable {
		s.kind, s.status = answering, http.StatusOK
	}
	return s
}

// readsBody reports whether the step reads the request's body itself.
func (s Step) readsBody() bool {
	return s.kind != passing && s.kind != refusing && !s.early
}

// shapesBody reports whether the step changes how a response's body arrives.
func (s Step) shapesBody() bool { return s.truncated || s.pace.chunk > 0 }

// bodyAllowed reports whether a response with this status may have a body: RFC
// 9110, section 6.4.1.
func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// sleep waits for d. It returns the cause of ctx if that is done first, or was
// done before.
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
