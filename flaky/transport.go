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
)

// Transport returns an [http.RoundTripper] that applies the script to each
// request. [Pass] forwards requests to base. If base is nil, Pass responds with
// an empty 200 and the network is not used.
//
// It keeps the contract of RoundTripper: the request is not modified, and its
// body is always closed exactly once. The caller must close the response body,
// and can't read it after the request's context is done. If reading the request
// body fails or its size differs from ContentLength, RoundTrip returns an error
// and the step has no effect. [http.Client.CloseIdleConnections] closes the idle
// connections of base.
func (s *Script) Transport(base http.RoundTripper) http.RoundTripper {
	return &transport{script: s, base: base}
}

type transport struct {
	script *Script
	base   http.RoundTripper // may be nil
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	step, rec := t.script.meet(req)
	step = step.orStatus(t.base != nil)
	out := rec.request(req, step)
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
		return nil, connError("dial", "connect", errRefused, req.URL)
	case resetting:
		return nil, connError("read", "read", errReset, req.URL)
	case hanging:
		<-req.Context().Done()
		return nil, context.Cause(req.Context())
	case failing:
		return nil, step.err
	}
	return respond(req, step), nil
}

// CloseIdleConnections supports [http.Client.CloseIdleConnections].
func (t *transport) CloseIdleConnections() {
	if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// pass sends out, which is req with a recorded body, through base.
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
	// The body of a 101 must remain an io.Writer: it is the connection (RFC 9110,
	// section 15.2.2).
	if step.shapesBody() && resp.Body != nil && bodyAllowed(resp.StatusCode) {
		resp.Body = newResponseBody(req.Context(), resp.Body, step)
	}
	return resp, nil
}

// respond returns the response of a [Status] step.
func respond(req *http.Request, step Step) *http.Response {
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

// reason returns the reason phrase that an [http.Server] sends with a status
// code.
func reason(code int) string {
	return cmp.Or(http.StatusText(code), "status code "+strconv.Itoa(code))
}

// readBody reads and closes the body of req. It returns when the context is
// done, even if a Read blocks. As with a real transport, that Read then ends in
// a goroutine of its own.
func readBody(req *http.Request, rec *record) error {
	if req.Body == nil || req.Body == http.NoBody {
		return nil
	}
	done := make(chan error, 1)
	go func() {
		n, err := io.Copy(io.Discard, req.Body)
		req.Body.Close()
		if want := req.ContentLength; err == nil && want > 0 && n != want {
			err = fmt.Errorf("flaky: request body has %d bytes, want ContentLength %d", n, want)
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

// connError returns the error of a failed system call on a connection to the host
// of u, wrapped as package net wraps it.
func connError(op, call string, errno error, u *url.URL) error {
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

// An addr is a [net.Addr] with an unresolved host.
type addr string

func (a addr) Network() string { return "tcp" }
func (a addr) String() string  { return string(a) }
