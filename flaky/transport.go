package flaky

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Transport returns an [http.RoundTripper] that does to each request what the
// script says. [Pass] hands requests on to base; if base is nil, it answers
// with an empty 200, and there is no network at all.
//
// The contract of RoundTripper holds: the request is not changed, its body is
// closed exactly once on every path, and the body of a response is to be closed
// by the caller and can't be read once the request's context is done. If the
// request's body fails, or turns out longer or shorter than its ContentLength
// says, the step has no effect and RoundTrip returns an error. Idle connections
// of base are closed through [http.Client.CloseIdleConnections], as without a
// script.
func (s *Script) Transport(base http.RoundTripper) http.RoundTripper {
	return &transport{script: s, base: base}
}

type transport struct {
	script *Script
	base   http.RoundTripper // nil: an empty 200
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	step, rec := t.script.meet(req)
	step = step.orAnswer(t.base != nil)
	out := rec.request(req)
	if step.kind == passing {
		return t.pass(out, req, step)
	}

	defer closeBody(out)
	if step.readsBody() {
		if err := readBody(out, rec); err != nil {
			return nil, err
		}
	}
	if err := sleep(req.Context(), step.delay); err != nil {
		return nil, err
	}
	switch step.kind {
	case refusing:
		return nil, connError("dial", "connect", syscall.ECONNREFUSED, req.URL)
	case resetting:
		return nil, connError("read", "read", syscall.ECONNRESET, req.URL)
	case hanging:
		<-req.Context().Done()
		return nil, context.Cause(req.Context())
	case failing:
		return nil, step.err
	}
	return answer(req, step), nil
}

// CloseIdleConnections is what [http.Client.CloseIdleConnections] looks for.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// pass hands on out, which is req with a recorded body.
func (t *transport) pass(out, req *http.Request, step Step) (*http.Response, error) {
	if err := sleep(req.Context(), step.delay); err != nil {
		closeBody(out)
		return nil, err
	}
	resp, err := t.base.RoundTrip(out)
	if err != nil || resp == nil {
		return resp, err
	}
	resp.Request = req
	// The body of a 101 is a connection, which has to stay an io.Writer.
	if step.shapesBody() && resp.Body != nil && bodyAllowed(resp.StatusCode) {
		resp.Body = newResponseBody(req.Context(), resp.Body, step)
	}
	return resp, nil
}

// answer makes the response of a step that answers.
func answer(req *http.Request, step Step) *http.Response {
	resp := &http.Response{
		Status:     strconv.Itoa(step.status) + " " + reason(step.status),
		StatusCode: step.status,
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
		Header:     step.header.Clone(),
		Body:       http.NoBody,
		Request:    req,
	}
	if resp.Header == nil {
		resp.Header = make(http.Header)
	}
	if !bodyAllowed(step.status) {
		return resp
	}
	resp.ContentLength = int64(len(step.body))
	resp.Header.Set("Content-Length", strconv.Itoa(len(step.body)))
	if req.Method != http.MethodHead && step.body != "" {
		src := io.NopCloser(strings.NewReader(step.body))
		resp.Body = newResponseBody(req.Context(), src, step)
	}
	return resp
}

// reason is the text behind a status code, as servers of net/http write it.
func reason(code int) string {
	return cmp.Or(http.StatusText(code), "status code "+strconv.Itoa(code))
}

// readBody reads and closes the body of req. It does not outlast the context,
// even if a Read of the body does: that one then ends by itself, in a
// goroutine of its own, as it does with a real transport.
func readBody(req *http.Request, rec *record) error {
	if req.Body == nil || req.Body == http.NoBody {
		return nil
	}
	done := make(chan error, 1)
	go func() {
		n, err := io.Copy(io.Discard, req.Body)
		req.Body.Close()
		if want := req.ContentLength; err == nil && want > 0 && n != want {
			err = fmt.Errorf("flaky: request body has %d bytes, its ContentLength is %d", n, want)
			rec.fail(err)
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-req.Context().Done():
		return context.Cause(req.Context())
	}
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}

// connError is the error of a failed system call on the connection to the host
// of u, in the layers in which package net returns it.
func connError(op, call string, errno syscall.Errno, u *url.URL) error {
	e := &net.OpError{Op: op, Net: "tcp", Err: os.NewSyscallError(call, errno)}
	if u != nil {
		e.Addr = addr(net.JoinHostPort(u.Hostname(), port(u)))
	}
	return e
}

func port(u *url.URL) string {
	if u.Port() == "" && u.Scheme == "https" {
		return "443"
	}
	return cmp.Or(u.Port(), "80")
}

// An addr is a [net.Addr] whose host need not be resolved.
type addr string

func (a addr) Network() string { return "tcp" }
func (a addr) String() string  { return string(a) }
