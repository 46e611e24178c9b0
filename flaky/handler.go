package flaky

import (
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
)

// Handler returns an [http.Handler] that applies the script to each request.
// [Pass] calls next. If next is nil, Pass responds with an empty 200.
//
// The handler must be run by an [http.Server], because steps that close the
// connection panic with [http.ErrAbortHandler] and [Reset] hijacks the
// connection. It starts no goroutines. [Step.Truncate], [Step.Stall] and
// [Step.Slow] wrap the ResponseWriter that next gets. The wrapper implements [http.Flusher] and works
// with [http.ResponseController]. It does not affect writes to a hijacked
// connection.
func (s *Script) Handler(next http.Handler) http.Handler {
	return &handler{script: s, next: next}
}

type handler struct {
	script *Script
	next   http.Handler // may be nil
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	step, rec := h.script.meet(r)
	step = step.orStatus(h.next != nil)
	r = rec.request(r, step)
	switch {
	case step.readsBody() || step.kind == hanging:
		// The record keeps an error. It does not change the step, as a server
		// may respond without regard to the body.
		_, _ = io.Copy(io.Discard, r.Body)
	case step.kind == responding:
		respondEarly(w, r)
	}

	if err := sleep(r.Context(), step.delay); err != nil {
		panic(http.ErrAbortHandler)
	}
	switch step.kind {
	case passing:
		step.serve(h.next, w, r)
	case responding:
		step.serve(http.HandlerFunc(step.respond), w, r)
	case resetting:
		reset(w)
	case hanging:
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	default:
		panic(http.ErrAbortHandler)
	}
}

// respondEarly makes the server send the response although the body of r was
// not read.
func respondEarly(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 || r.Body == http.NoBody {
		return
	}
	// To keep the connection, an http.Server reads the request body before it
	// sends the response. EnableFullDuplex would avoid that, but the server may
	// then panic on the next request, after it has discarded the rest of the
	// body.
	w.Header().Set("Connection", "close")
}

// respond writes the response of a [Status] step.
func (s Step) respond(w http.ResponseWriter, r *http.Request) {
	for key, values := range s.header {
		for _, v := range values {
			w.Header().Add(key, v)
		}
	}
	if !bodyAllowed(s.status) {
		w.WriteHeader(s.status)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(s.body)))
	w.WriteHeader(s.status)
	if r.Method != http.MethodHead && s.body != "" {
		_, _ = io.WriteString(w, s.body) // the client may have disconnected
	}
}

// serve calls next and applies the ending and the pace of the step to its response.
func (s Step) serve(next http.Handler, w http.ResponseWriter, r *http.Request) {
	if !s.shapesBody() || r.Method == http.MethodHead {
		next.ServeHTTP(w, r)
		return
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	sw := &responseWriter{ResponseWriter: w, ctx: ctx, cancel: cancel, step: s}
	next.ServeHTTP(sw, r.WithContext(ctx))
	if sw.err != nil {
		panic(http.ErrAbortHandler)
	}
}

// reset closes the connection so that the client's next read fails with
// ECONNRESET.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		// RFC 9113, section 6.4: over HTTP/2 the stream can be reset alone.
		panic(http.ErrAbortHandler)
	}
	// The Close of a TLS connection would send a close_notify alert first (RFC
	// 8446, section 6.1), so close the connection below it.
	for {
		c, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = c.NetConn()
	}
	if c, ok := conn.(*net.TCPConn); ok {
		_ = c.SetLinger(0) // Close sends RST in place of FIN
	}
	_ = conn.Close()
}

// A responseWriter applies the ending and the pace of a step to a response.
// The first error of a write is sticky.
type responseWriter struct {
	http.ResponseWriter
	ctx    context.Context // of the request that the handler got
	cancel context.CancelCauseFunc
	step   Step  // writes consume its limit and pace
	status int   // 0: not written yet
	err    error // of the first write that failed
}

// Unwrap supports [http.ResponseController].
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *responseWriter) WriteHeader(code int) {
	if w.status == 0 && code >= 200 { // a 1xx is not the final response
		w.status = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *responseWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	if len(p) == 0 || !bodyAllowed(w.status) {
		return w.ResponseWriter.Write(p)
	}
	written := 0
	for written < len(p) && w.err == nil {
		var n int
		n, w.err = w.writeSome(p[written:])
		written += n
	}
	return written, w.err
}

// writeSome writes as much of p as fits into the current chunk. p must not be
// empty.
func (w *responseWriter) writeSome(p []byte) (int, error) {
	s := &w.step
	n := s.pace.quota(len(p))
	if s.ending != whole {
		if s.limit == 0 {
			w.Flush()
			if s.ending == stalled {
				<-w.ctx.Done()
			}
			w.cancel(http.ErrAbortHandler)
			return 0, http.ErrAbortHandler
		}
		n = int(min(int64(n), s.limit))
		s.limit -= int64(n)
	}
	if err := s.pace.spend(w.ctx, n); err != nil {
		return 0, err
	}
	n, err := w.ResponseWriter.Write(p[:n])
	if s.pace.chunk > 0 {
		w.Flush()
	}
	return n, err
}

// Flush implements [http.Flusher]. It drops the error, because a later Write
// returns it.
func (w *responseWriter) Flush() { _ = w.FlushError() }

// FlushError supports [http.ResponseController].
func (w *responseWriter) FlushError() error {
	return http.NewResponseController(w.ResponseWriter).Flush()
}
