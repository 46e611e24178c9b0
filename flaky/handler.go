package flaky

import (
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
)

// Handler returns an [http.Handler] that does to each request what the script
// says. [Pass] hands requests on to next; if next is nil, it answers with an
// empty 200.
//
// It has to be run by a server, of HTTP/1.1 or HTTP/2: steps that cut the
// connection panic with [http.ErrAbortHandler], and [Reset] takes the
// connection over. It starts no goroutine. To take effect, [Step.Truncate]
// and [Step.Slow] wrap the ResponseWriter that next gets; the wrapper is an
// [http.Flusher], and an [http.ResponseController] finds its way through. What
// next writes to a connection that it has taken over is not changed.
func (s *Script) Handler(next http.Handler) http.Handler {
	return &handler{script: s, next: next}
}

type handler struct {
	script *Script
	next   http.Handler // nil: an empty 200
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	step, rec := h.script.meet(r)
	step = step.orAnswer(h.next != nil)
	r = rec.request(r)
	switch {
	case step.readsBody() || step.kind == hanging:
		// An error is on record, and leaves the step as it is.
		_, _ = io.Copy(io.Discard, r.Body)
	case step.kind == answering:
		answerEarly(w, r)
	}

	if err := sleep(r.Context(), step.delay); err != nil {
		panic(http.ErrAbortHandler)
	}
	switch step.kind {
	case passing:
		step.serve(h.next, w, r)
	case answering:
		step.serve(http.HandlerFunc(step.answer), w, r)
	case resetting:
		reset(w)
	case hanging:
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	default:
		panic(http.ErrAbortHandler)
	}
}

// answerEarly makes the answer go out though the body of r was not read.
func answerEarly(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 || r.Body == http.NoBody {
		return
	}
	// A server that means to keep the connection reads the body before it lets
	// the answer out. Full duplex would keep both, but then the server may panic
	// on the next request, once it has skipped the body behind the answer.
	w.Header().Set("Connection", "close")
}

// answer is the handler of a step that answers.
func (s Step) answer(w http.ResponseWriter, r *http.Request) {
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
		_, _ = io.WriteString(w, s.body) // the client may have gone
	}
}

// serve runs next, whose response arrives as the step wants it.
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

// reset ends the connection in a way that the client's next read fails with
// ECONNRESET.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil { // as under HTTP/2, where the stream is what can be reset
		panic(http.ErrAbortHandler)
	}
	// Below TLS: its Close would say goodbye first.
	for {
		c, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = c.NetConn()
	}
	if c, ok := conn.(*net.TCPConn); ok {
		_ = c.SetLinger(0) // makes Close send RST, not FIN
	}
	_ = conn.Close()
}

// A responseWriter lets a response's body out as its step wants it. A failed
// Write is final.
type responseWriter struct {
	http.ResponseWriter
	ctx    context.Context // of the request that the handler got
	cancel context.CancelCauseFunc
	step   Step // its limit and pace are used up while writing
	status int  // 0: not written yet
	err    error
}

// Unwrap is what [http.ResponseController] looks for.
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *responseWriter) WriteHeader(code int) {
	if w.status == 0 && code >= 200 { // before it there may be 1xx
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

// writeSome writes as much of p, which is not empty, as may go without a wait
// after it.
func (w *responseWriter) writeSome(p []byte) (int, error) {
	s := &w.step
	n := s.pace.quota(len(p))
	if s.truncated {
		if s.limit == 0 {
			w.Flush()
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

// Flush makes w an [http.Flusher]. If the connection fails, so will a Write.
func (w *responseWriter) Flush() { _ = w.FlushError() }

// FlushError is what [http.ResponseController] looks for.
func (w *responseWriter) FlushError() error {
	return http.NewResponseController(w.ResponseWriter).Flush()
}
