package failover_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/failover"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// hosts is a Base that calls a function for each host, and records the hosts.
type hosts struct {
	mu    sync.Mutex
	calls []string
	funcs map[string]roundTripFunc
}

func (h *hosts) RoundTrip(req *http.Request) (*http.Response, error) {
	h.mu.Lock()
	h.calls = append(h.calls, req.URL.Host)
	h.mu.Unlock()
	if f := h.funcs[req.URL.Host]; f != nil {
		return f(req)
	}
	return response(req, 200, ""), nil
}

// sent returns the hosts in the order of the requests, and forgets them.
func (h *hosts) sent() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer func() { h.calls = nil }()
	return strings.Join(h.calls, " ")
}

func response(req *http.Request, status int, body string) *http.Response {
	return &http.Response{
		StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{},
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: req,
	}
}

// status returns a function that responds with a status and, if it is not empty, a
// Retry-After.
func status(code int, retryAfter string) roundTripFunc {
	return func(req *http.Request) (*http.Response, error) {
		resp := response(req, code, "")
		if retryAfter != "" {
			resp.Header.Set("Retry-After", retryAfter)
		}
		return resp, nil
	}
}

func fail(err error) roundTripFunc {
	return func(*http.Request) (*http.Response, error) { return nil, err }
}

var (
	errRefused = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	errReset   = &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	errNoHost  = &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "a", IsNotFound: true}}
)

// hang waits until the context of a request is done.
func hang(req *http.Request) (*http.Response, error) {
	<-req.Context().Done()
	return nil, context.Cause(req.Context())
}

func newTransport(base http.RoundTripper, names ...string) *failover.Transport {
	t := &failover.Transport{Base: base}
	for _, name := range names {
		t.Endpoints = append(t.Endpoints, failover.Endpoint{URL: "http://" + name})
	}
	return t
}

func newRequest(t testing.TB, method, body string) *http.Request {
	t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://gateway/v1/x", r)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// immediately is a Policy that retries without a wait.
type immediately struct{}

func (immediately) Backoff(a httpretry.Attempt) (time.Duration, bool) { return 0, a.Number < 10 }

// send sends a request, and reads and closes the response.
func send(t testing.TB, rt http.RoundTripper, req *http.Request) (int, error) {
	t.Helper()
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

func get(t testing.TB, rt http.RoundTripper) (int, error) {
	t.Helper()
	return send(t, rt, newRequest(t, "GET", ""))
}

func TestTransport_RequestURL(t *testing.T) {
	tests := []struct{ endpoint, request, want string }{
		{"https://a", "http://gateway/v1/x?q=1", "https://a/v1/x?q=1"},
		{"https://a:8443/", "http://gateway/v1/x", "https://a:8443/v1/x"},
		{"https://a/base", "http://gateway/v1/x", "https://a/base/v1/x"},
		{"https://a/base/", "http://gateway/v1/x/", "https://a/base/v1/x/"},
		{"https://a/base", "http://gateway", "https://a/base"},
		{"https://a/base", "http://gateway/a%2Fb", "https://a/base/a%2Fb"},
		{"https://a/b%2Fse", "http://gateway/x", "https://a/b%2Fse/x"},
		{"https://a/b se", "http://gateway/x%20y", "https://a/b%20se/x%20y"},
		{"https://a?v=1", "http://gateway/x", "https://a/x?v=1"},
		{"https://a?v=1", "http://gateway/x?w=2", "https://a/x?v=1&w=2"},
		{"https://user:secret@a", "http://me@gateway/x", "https://a/x"},
		{"https://a/base", "http://gateway//x", "https://a/base//x"},
		{"https://a", "http://gateway//x/../y", "https://a//x/../y"},
	}
	for _, tt := range tests {
		t.Run(tt.endpoint+" "+tt.request, func(t *testing.T) {
			var got string
			rt := &failover.Transport{
				Endpoints: []failover.Endpoint{{URL: tt.endpoint}},
				Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
					got = req.URL.String()
					return response(req, 200, ""), nil
				}),
			}
			req, err := http.NewRequest("GET", tt.request, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := rt.RoundTrip(req); err != nil || got != tt.want {
				t.Errorf("got %s, %v, want %s", got, err, tt.want)
			}
			if req.URL.String() != tt.request {
				t.Errorf("the caller's URL became %s", req.URL)
			}
		})
	}
}

// A request that may leave the path of an endpoint is not sent to any.
func TestTransport_RequestURLWithDots(t *testing.T) {
	for _, path := range []string{"/../secret", "/%2e%2e/secret", "/x/../y", "/x%2F..%2f..%2Fsecret", `/..\secret`, "/./x"} {
		base := &hosts{}
		rt := &httpretry.RetryTransport{Base: &failover.Transport{Base: base, Endpoints: []failover.Endpoint{{URL: "http://a"}, {URL: "http://b/base"}}}}
		req, err := http.NewRequest("POST", "http://gateway"+path, &closeCounter{})
		if err != nil {
			t.Fatal(err)
		}
		const want = `failover: invalid request: the path of its URL has a segment "." or "..", and that of an endpoint is not empty`
		if _, err := rt.RoundTrip(req); err == nil || err.Error() != want || base.sent() != "" {
			t.Errorf("%s: got %v, want %s and no attempt", path, err, want)
		}
		if n := req.Body.(*closeCounter).Load(); n != 1 {
			t.Errorf("%s: the body was closed %d times, want 1", path, n)
		}
	}
}

// OPTIONS * has no path.
func TestTransport_RequestURLOfTheServerItself(t *testing.T) {
	var got string
	rt := &failover.Transport{
		Endpoints: []failover.Endpoint{{URL: "http://a/base"}},
		Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			got = req.URL.Path
			return response(req, 200, ""), nil
		}),
	}
	req := newRequest(t, "OPTIONS", "")
	req.URL.Path = "*"
	if _, err := rt.RoundTrip(req); err != nil || got != "*" {
		t.Errorf("got path %q, %v, want *", got, err)
	}
}

func TestTransport_SetsHostAndHeader(t *testing.T) {
	var got *http.Request
	rt := &failover.Transport{
		Endpoints: []failover.Endpoint{{
			URL:    "http://user:secret@a",
			Header: http.Header{"host": {"virtual"}, "x-key": {"1", "2"}, "Cookie": nil},
		}},
		Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			got = req
			return response(req, 200, ""), nil
		}),
	}
	req := newRequest(t, "GET", "")
	req.Header = http.Header{"Authorization": {"Bearer caller"}, "Cookie": {"c"}, "Accept": {"text/plain"}}
	before := req.Header.Clone()
	if _, err := rt.RoundTrip(req); err != nil {
		t.Fatal(err)
	}
	want := http.Header{
		"Authorization": {"Basic dXNlcjpzZWNyZXQ="}, "X-Key": {"1", "2"}, "Cookie": nil, "Accept": {"text/plain"},
	}
	if diff := cmp.Diff(want, got.Header); diff != "" || got.Host != "virtual" {
		t.Errorf("host %q, header (-want +got):\n%s", got.Host, diff)
	}
	if diff := cmp.Diff(before, req.Header); diff != "" || req.Host != "gateway" {
		t.Errorf("the caller's request has changed: host %q\n%s", req.Host, diff)
	}
}

func TestTransport_HeaderOverridesUserinfo(t *testing.T) {
	var got http.Header
	rt := &failover.Transport{
		Endpoints: []failover.Endpoint{{URL: "http://user:secret@a", Header: http.Header{"Authorization": {"Bearer k"}}}},
		Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			got = req.Header
			return response(req, 200, ""), nil
		}),
	}
	req := newRequest(t, "GET", "")
	req.Header = nil
	if _, err := rt.RoundTrip(req); err != nil || got.Get("Authorization") != "Bearer k" {
		t.Errorf("got %v, %v", got, err)
	}
}

// net/http sends a body that it knows in one write with the header.
func TestTransport_PassesTheBodyUnchanged(t *testing.T) {
	req := newRequest(t, "POST", "body")
	rt := newTransport(roundTripFunc(func(out *http.Request) (*http.Response, error) {
		if out.Body != req.Body || out.GetBody == nil || out.ContentLength != 4 {
			t.Errorf("got body %T, GetBody %t, length %d", out.Body, out.GetBody != nil, out.ContentLength)
		}
		return response(out, 200, ""), nil
	}), "a")
	if _, err := send(t, rt, req); err != nil {
		t.Error(err)
	}
}

func TestTransport_InvalidConfiguration(t *testing.T) {
	valid := failover.Endpoint{URL: "http://a"}
	tests := []struct {
		endpoints []failover.Endpoint
		want      string
	}{
		{nil, "failover: invalid Endpoints: there must be at least one"},
		{[]failover.Endpoint{valid, {}}, "failover: invalid Endpoints[1].URL: must be an http or https URL with a host"},
		{[]failover.Endpoint{{URL: "ftp://a"}}, "failover: invalid Endpoints[0].URL: must be an http or https URL with a host"},
		{[]failover.Endpoint{{URL: "http://u:secret@a:0x/"}}, "failover: invalid Endpoints[0].URL: must be an http or https URL with a host"},
		{[]failover.Endpoint{{URL: "http://u:secret@a:70000/b?key=secret"}}, `failover: invalid Endpoints[0].URL "http://a:70000/b": port must be from 1 to 65535`},
		{[]failover.Endpoint{{URL: "http://a:"}}, `failover: invalid Endpoints[0].URL "http://a:": port must be from 1 to 65535`},
		{[]failover.Endpoint{{URL: "http://a", Header: http.Header{"Authorization": {"Bearer secret\n"}}}}, "failover: invalid Endpoints[0].Header of http://a: Authorization contains a control character"},
		{[]failover.Endpoint{{URL: "http://a", Header: http.Header{"Api Key": {"secret"}}}}, "failover: invalid Endpoints[0].Header of http://a: a name is not a token"},
		{[]failover.Endpoint{{URL: "http://a", Header: http.Header{"content-length": {"1"}}}}, "failover: invalid Endpoints[0].Header of http://a: Content-Length is set by the client"},
		{[]failover.Endpoint{{URL: "http://u:secret@a/b#secret"}}, `failover: invalid Endpoints[0].URL "http://a/b": must not have a fragment`},
		{[]failover.Endpoint{valid, {URL: "http://b?key=secret#"}}, `failover: invalid Endpoints[1].URL "http://b": must not have a fragment`},
		{[]failover.Endpoint{valid, {URL: "http://b/c", Weight: -1}}, "failover: invalid Endpoints[1].Weight -1 of http://b/c: must be from 0 to 1000000"},
	}
	for _, tt := range tests {
		t.Run(tt.want, func(t *testing.T) {
			rt := &failover.Transport{Endpoints: tt.endpoints, Base: &hosts{}}
			if err := rt.Validate(); err == nil || err.Error() != tt.want {
				t.Errorf("Validate: got %v", err)
			}
			var body closeCounter
			req := newRequest(t, "GET", "")
			req.Body = &body
			if _, err := rt.RoundTrip(req); err == nil || err.Error() != tt.want || body.Load() != 1 {
				t.Errorf("RoundTrip: got %v, body closed %d times, want 1", err, body.Load())
			}
			attempts := 0
			retry := &httpretry.RetryTransport{Base: rt, OnAttempt: func(httpretry.Attempt, httpretry.Decision) { attempts++ }}
			if get(t, retry); attempts != 1 {
				t.Errorf("got %d attempts, want 1", attempts)
			}
		})
	}
	for _, header := range []http.Header{nil, {"X!#$%&'*+-.^_`|~09Az": {"\t é\xff", ""}}} {
		rt := &failover.Transport{Endpoints: []failover.Endpoint{{URL: "http://a", Header: header}, {URL: "http://b"}}}
		if err := rt.Validate(); err != nil {
			t.Errorf("valid configuration: %v", err)
		}
	}
}

type closeCounter struct{ atomic.Int32 }

func (*closeCounter) Read([]byte) (int, error) { return 0, io.EOF }
func (c *closeCounter) Close() error           { c.Add(1); return nil }

func TestTransport_InvalidRequest(t *testing.T) {
	rt := newTransport(&hosts{}, "a")
	for name, change := range map[string]func(*http.Request){
		"no URL": func(req *http.Request) { req.URL = nil },
		"opaque": func(req *http.Request) { req.URL.Opaque = "//gateway/x" },
	} {
		req := newRequest(t, "GET", "")
		change(req)
		if _, err := rt.RoundTrip(req); err == nil || !strings.HasPrefix(err.Error(), "failover: invalid request") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestTransport_ErrorNamesTheEndpoint(t *testing.T) {
	rt := &failover.Transport{
		Endpoints: []failover.Endpoint{{URL: "http://user:secret@a/base?key=secret"}},
		Base:      fail(errRefused),
	}
	_, err := get(t, rt)
	const want = "failover: endpoint http://a/base: dial tcp: connection refused"
	if err == nil || err.Error() != want || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v, want %s", err, want)
	}
	rt.Base = nil
	timeout := newTransport(fail(context.DeadlineExceeded), "a")
	if _, err := get(t, timeout); !err.(net.Error).Timeout() {
		t.Errorf("got %v without a timeout", err)
	}
	broken := newTransport(fail(nil), "a")
	if _, err := get(t, broken); err == nil || !strings.Contains(err.Error(), "neither a response nor an error") {
		t.Errorf("got %v", err)
	}
}

// A RetryTransport must not hide which endpoint does not respond.
func TestTransport_TimeoutNamesTheEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		retry := &httpretry.RetryTransport{Base: newTransport(roundTripFunc(hang), "a"), AttemptTimeout: time.Second, Policy: httpretry.Never}
		const want = "failover: endpoint http://a: httpretry: attempt timed out after 1s"
		if _, err := get(t, retry); err == nil || err.Error() != want || !err.(net.Error).Timeout() {
			t.Errorf("got %v, want %s", err, want)
		}
	})
}

func TestTransport_TakesTurnsByWeight(t *testing.T) {
	base := &hosts{}
	rt := newTransport(base, "a", "b", "c")
	rt.Endpoints[0].Weight = 3
	for range 5 {
		get(t, rt)
	}
	if got := base.sent(); got != "a b a c a" {
		t.Errorf("got %s, want a b a c a", got)
	}
}

// A request counts as in flight until its body ends.
func TestTransport_FewestInFlight(t *testing.T) {
	ends := map[string]func(*http.Response){
		"body closed": func(resp *http.Response) { resp.Body.Close(); resp.Body.Close() },
		"body read":   func(resp *http.Response) { io.ReadAll(resp.Body) },
		"both":        func(resp *http.Response) { io.ReadAll(resp.Body); resp.Body.Close() },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			base := &hosts{}
			rt := newTransport(base, "a", "b")
			rt.Endpoints[0].Weight = 2
			var open []*http.Response
			for range 6 {
				resp, err := rt.RoundTrip(newRequest(t, "GET", ""))
				if err != nil {
					t.Fatal(err)
				}
				open = append(open, resp)
			}
			got := strings.Fields(base.sent())
			if len(slices.DeleteFunc(slices.Clone(got), func(s string) bool { return s == "b" })) != 4 {
				t.Errorf("got %s, want 4 to a", got)
			}
			for i, host := range got {
				if host == "b" {
					end(open[i])
				}
			}
			for range 3 {
				get(t, rt)
			}
			if got := base.sent(); got != "b b b" {
				t.Errorf("got %s after those to b have ended, want b b b", got)
			}
			for i, host := range got {
				if host == "a" {
					open[i].Body.Close()
				}
			}
		})
	}
}

func TestTransport_PanicEndsTheAttempt(t *testing.T) {
	base := &hosts{funcs: map[string]roundTripFunc{}}
	rt := newTransport(base, "a", "b")
	base.funcs["a"] = func(*http.Request) (*http.Response, error) { panic("broken") }
	func() {
		defer func() { recover() }()
		get(t, rt)
	}()
	delete(base.funcs, "a")
	base.sent()
	for range 2 {
		rt.RoundTrip(newRequest(t, "GET", ""))
	}
	if got := base.sent(); got != "b a" {
		t.Errorf("got %s, want b a: the attempt that panicked is no longer in flight", got)
	}
}

// A retry goes to another endpoint, without a wait.
func TestTransport_RetryGoesElsewhere(t *testing.T) {
	failures := map[string]roundTripFunc{
		"429":                  status(429, "60"),
		"429 for an hour":      status(429, "3600"),
		"429 without a time":   status(429, ""),
		"503":                  status(503, ""),
		"500":                  status(500, ""),
		"502 with Retry-After": status(502, "5"),
		"refused":              fail(errRefused),
		"reset":                fail(errReset),
		"no such host":         fail(errNoHost),
		"wrapped":              fail(fmt.Errorf("signer: %w", errReset)),
	}
	for name, failure := range failures {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := &hosts{funcs: map[string]roundTripFunc{"a": failure}}
				rt := &httpretry.RetryTransport{Base: newTransport(base, "a", "b")}
				begun := time.Now()
				code, err := get(t, rt)
				if got := base.sent(); got != "a b" || code != 200 || time.Since(begun) > 0 {
					t.Errorf("got %d, %v from %s after %v, want 200 from a b after 0s", code, err, got, time.Since(begun))
				}
			})
		})
	}
}

// A later call with the context of a response is a call of its own, whose first
// attempt has none before it.
func TestTransport_ContextOfAResponse(t *testing.T) {
	base := &hosts{funcs: map[string]roundTripFunc{"a": status(500, "")}}
	rt := &httpretry.RetryTransport{Base: newTransport(base, "a", "b")}
	resp, err := rt.RoundTrip(newRequest(t, "GET", ""))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	base.funcs = nil
	for range 4 {
		if _, err := send(t, rt, newRequest(t, "GET", "").WithContext(resp.Request.Context())); err != nil {
			t.Fatal(err)
		}
	}
	if got := base.sent(); strings.Count(got, "a") != 3 {
		t.Errorf("sent to %s, want a and b to take turns", got)
	}
}

func TestTransport_TriesEachEndpointBeforeABackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &hosts{funcs: map[string]roundTripFunc{"a": status(500, ""), "b": status(500, ""), "c": status(500, "")}}
		var waits []time.Duration
		rt := &httpretry.RetryTransport{
			Base:      newTransport(base, "a", "b", "c"),
			Policy:    httpretry.RetryConfig{MaxRetries: 5, JitterFraction: -1},
			OnAttempt: func(a httpretry.Attempt, d httpretry.Decision) { waits = append(waits, d.Delay) },
		}
		get(t, rt)
		got := base.sent()
		again := strings.TrimPrefix(got, "a b c ")
		if len(again) != len("a b c") || strings.HasPrefix(again, "c") ||
			!strings.Contains(again, "a") || !strings.Contains(again, "b") || !strings.Contains(again, "c") {
			t.Errorf("got %s, want each once and then, not beginning with the last, each once more", got)
		}
		want := []time.Duration{0, 0, 4 * time.Second, 0, 0}
		if diff := cmp.Diff(want, waits[:5]); diff != "" {
			t.Errorf("waits (-want +got):\n%s", diff)
		}
	})
}

// A request that was possibly processed goes elsewhere only if it is idempotent.
func TestTransport_PossiblyProcessed(t *testing.T) {
	tests := []struct {
		name       string
		failure    roundTripFunc
		idempotent func(*http.Request) bool
		want       string
	}{
		{"500", status(500, ""), nil, "a"},
		{"reset", fail(errReset), nil, "a"},
		{"not processed", status(503, ""), nil, "a b"},
		{"idempotent", fail(errReset), func(*http.Request) bool { return true }, "a b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			base := &hosts{funcs: map[string]roundTripFunc{"a": tt.failure}}
			rt := &httpretry.RetryTransport{Base: newTransport(base, "a", "b"), Idempotent: tt.idempotent}
			send(t, rt, newRequest(t, "POST", "body"))
			if got := base.sent(); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestTransport_FinalFailureIsNotMoved(t *testing.T) {
	for name, failure := range map[string]roundTripFunc{
		"permanent": fail(httpretry.Permanent(errNoHost)),
		"400":       status(400, ""),
		"401":       status(401, "1"),
	} {
		base := &hosts{funcs: map[string]roundTripFunc{"a": failure}}
		get(t, &httpretry.RetryTransport{Base: newTransport(base, "a", "b")})
		if got := base.sent(); got != "a" {
			t.Errorf("%s: got %s, want a", name, got)
		}
	}
}

// A host that does not exist is final if there is no other.
func TestTransport_NoOtherEndpoint(t *testing.T) {
	base := &hosts{funcs: map[string]roundTripFunc{"a": fail(errNoHost)}}
	if _, err := get(t, &httpretry.RetryTransport{Base: newTransport(base, "a")}); err == nil || base.sent() != "a" {
		t.Errorf("got %v, want the error after one attempt", err)
	}
}

func TestTransport_ClosedForAsLongAsAsked(t *testing.T) {
	for name, failure := range map[string]roundTripFunc{"429": status(429, "10"), "500": status(500, "10")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := &hosts{funcs: map[string]roundTripFunc{"a": failure}}
				rt := newTransport(base, "a", "b")
				get(t, rt)
				delete(base.funcs, "a")
				base.sent()
				for range 100 {
					get(t, rt)
					time.Sleep(99 * time.Millisecond)
				}
				if got := base.sent(); strings.Contains(got, "a") {
					t.Errorf("got %s within 10 s, want no a", got)
				}
				time.Sleep(100 * time.Millisecond)
				get(t, rt)
				get(t, rt)
				if got := base.sent(); !strings.Contains(got, "a") {
					t.Errorf("got %s after 10 s, want a too", got)
				}
			})
		})
	}
}

// closed returns how long the endpoint a is not used, in steps of 10 ms.
func closed(t *testing.T, rt *failover.Transport, base *hosts) time.Duration {
	t.Helper()
	begun := time.Now()
	for range 10_000 {
		base.sent()
		get(t, rt)
		get(t, rt)
		if strings.Contains(base.sent(), "a") {
			return time.Since(begun)
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the endpoint is not used again")
	return 0
}

func TestTransport_ClosedTimesDouble(t *testing.T) {
	for name, failure := range map[string]roundTripFunc{
		"refused": fail(errRefused), "429": status(429, ""), "unknown host": fail(errNoHost),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := &hosts{funcs: map[string]roundTripFunc{"a": failure}}
				rt := newTransport(base, "a", "b")
				get(t, rt)
				var got []time.Duration
				for range 7 {
					got = append(got, closed(t, rt, base))
				}
				delete(base.funcs, "a")
				got = append(got, closed(t, rt, base))
				base.funcs["a"] = failure
				closed(t, rt, base)
				got = append(got, closed(t, rt, base))
				want := []time.Duration{250, 500, 1000, 2000, 2000, 2000, 2000, 2000, 250}
				for i := range want {
					want[i] *= time.Millisecond
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("closed for (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// A caller need not read the end of a response, as a json.Decoder does not.
func TestTransport_ClosedBodyIsASuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &hosts{funcs: map[string]roundTripFunc{"a": fail(errRefused)}}
		rt := newTransport(base, "a", "b")
		for range 3 {
			get(t, rt)
			get(t, rt)
			if got := closed(t, rt, base); got != 250*time.Millisecond {
				t.Errorf("closed for %v, want 250ms", got)
			}
			delete(base.funcs, "a")
			time.Sleep(time.Minute)
			for range 2 {
				resp, err := rt.RoundTrip(newRequest(t, "GET", ""))
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
			}
			base.funcs["a"] = fail(errRefused)
		}
	})
}

// A panic of a Classifier must not leave the request in flight.
func TestTransport_PanicOfClassifierEndsTheAttempt(t *testing.T) {
	base := &hosts{}
	rt := newTransport(base, "a", "b")
	panics := true
	rt.Classifier = func(*http.Request, *http.Response, error) httpretry.Verdict {
		if panics {
			panics = false
			panic("broken")
		}
		return httpretry.Verdict{}
	}
	func() {
		defer func() { recover() }()
		get(t, rt)
	}()
	for range 2 {
		rt.RoundTrip(newRequest(t, "GET", ""))
	}
	if got := base.sent(); got != "a b a" {
		t.Errorf("got %s, want a b a", got)
	}
}

// One failure may be due to the request; three in a row close an endpoint.
func TestTransport_FailuresInARow(t *testing.T) {
	cutOff := func(req *http.Request) (*http.Response, error) {
		resp := response(req, 200, "")
		resp.Body = io.NopCloser(io.MultiReader(strings.NewReader("some"), errReader{errReset}))
		return resp, nil
	}
	for name, failure := range map[string]roundTripFunc{
		"500": status(500, ""), "reset": fail(errReset), "body cut off": cutOff,
		"500 with a body": func(req *http.Request) (*http.Response, error) { return response(req, 500, "sorry"), nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := &hosts{funcs: map[string]roundTripFunc{"a": failure}}
				rt := newTransport(base, "a", "b")
				count := func(n int) int {
					for range n {
						get(t, rt)
						time.Sleep(time.Microsecond)
					}
					return strings.Count(base.sent(), "a")
				}
				if got := count(4); got != 2 {
					t.Errorf("got %d of 4 requests, want 2", got)
				}
				delete(base.funcs, "a")
				if got := count(2); got != 1 {
					t.Errorf("got %d of 2 requests after two failures, want 1", got)
				}
				base.funcs["a"] = failure
				if got := count(20); got != 3 {
					t.Errorf("got %d of 20 requests, want 3", got)
				}
			})
		})
	}
}

type errReader struct{ error }

func (r errReader) Read([]byte) (int, error) { return 0, r.error }

// Many attempts that fail together are one failure of the endpoint.
func TestTransport_ConcurrentFailuresCountOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &hosts{funcs: map[string]roundTripFunc{"a": func(*http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return nil, errRefused
		}}}
		rt := newTransport(base, "a", "b")
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				resp, err := rt.RoundTrip(newRequest(t, "GET", ""))
				if err == nil {
					time.Sleep(time.Second)
					resp.Body.Close()
				}
			})
		}
		wg.Wait()
		base.funcs["a"] = fail(errRefused)
		if got := closed(t, rt, base); got != 250*time.Millisecond {
			t.Errorf("closed for %v, want 250ms", got)
		}
	})
}

func TestTransport_OneProbeAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &hosts{funcs: map[string]roundTripFunc{"a": fail(errRefused)}}
		rt := newTransport(base, "a", "b")
		get(t, rt)
		time.Sleep(time.Second)
		base.sent()
		var inFlight, most atomic.Int32
		base.funcs["a"] = func(req *http.Request) (*http.Response, error) {
			most.Store(max(most.Load(), inFlight.Add(1)))
			time.Sleep(time.Second)
			inFlight.Add(-1)
			return response(req, 200, ""), nil
		}
		base.funcs["b"] = func(req *http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return response(req, 200, ""), nil
		}
		burst := func() int32 {
			most.Store(0)
			var wg sync.WaitGroup
			for range 16 {
				wg.Go(func() { get(t, rt) })
			}
			wg.Wait()
			return most.Load()
		}
		for i, most := range []int32{1, 2, 4, 8} {
			if got := burst(); got > most || got <= most/2 {
				t.Errorf("burst %d: got %d in flight, want at most %d and more than half of that", i, got, most)
			}
		}
	})
}

// A request that hangs since before the failure does not take the place of a probe.
func TestTransport_HungRequestIsNoProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &hosts{}
		rt := newTransport(base, "a", "b")
		hung, err := rt.RoundTrip(newRequest(t, "GET", ""))
		if err != nil {
			t.Fatal(err)
		}
		open, err := rt.RoundTrip(newRequest(t, "GET", "")) // at b, so that a is not busier
		if err != nil {
			t.Fatal(err)
		}
		base.funcs = map[string]roundTripFunc{"a": fail(errRefused)}
		get(t, rt)
		get(t, rt)
		if got := base.sent(); strings.Count(got, "a") != 2 {
			t.Fatalf("got %s, want two requests to a", got)
		}
		delete(base.funcs, "a")
		for range 2 {
			if got := closed(t, rt, base); got > 250*time.Millisecond {
				t.Errorf("closed for %v, want at most 250ms", got)
			}
			hung.Body.Close()
			open.Body.Close()
		}
	})
}

// Requests that are sent to a closed endpoint, because there is no other, do not
// close it for longer. One that succeeds opens it.
func TestTransport_ClosedEndpointIsNotClosedForLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &hosts{funcs: map[string]roundTripFunc{"a": fail(errRefused), "b": status(429, "3600")}}
		rt := newTransport(base, "a", "b")
		for range 100 {
			get(t, rt)
		}
		if got := base.sent(); strings.Count(got, "b") != 1 {
			t.Errorf("got %s, want one b", got)
		}
		// once returns how long a call takes whose first attempt fails.
		once := func(failure roundTripFunc) time.Duration {
			begun := time.Now()
			base.funcs["a"] = func(req *http.Request) (*http.Response, error) {
				base.funcs["a"] = status(200, "")
				return failure(req)
			}
			get(t, &httpretry.RetryTransport{Base: rt, Policy: immediately{}})
			return time.Since(begun)
		}
		if got := once(fail(errRefused)); got != 250*time.Millisecond {
			t.Errorf("got a retry after %v, want 250ms", got)
		}
		base.funcs["a"] = fail(errRefused)
		get(t, rt)
		base.funcs["a"] = status(200, "")
		get(t, rt)
		if got := once(fail(errReset)); got != 0 {
			t.Errorf("got a retry after %v, want 0s: a is open", got)
		}
	})
}

// A refusal limits the requests in flight without stopping them.
func TestTransport_RefusalLimitsRequestsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var inFlight, refused, served atomic.Int32
		base := &hosts{funcs: map[string]roundTripFunc{}}
		base.funcs["a"] = func(req *http.Request) (*http.Response, error) {
			defer inFlight.Add(-1)
			if inFlight.Add(1) > 4 {
				refused.Add(1)
				return response(req, 503, ""), nil
			}
			time.Sleep(time.Second)
			served.Add(1)
			return response(req, 200, ""), nil
		}
		base.funcs["b"] = func(req *http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return response(req, 200, ""), nil
		}
		rt := &httpretry.RetryTransport{Base: newTransport(base, "a", "b")}
		var wg sync.WaitGroup
		var failures atomic.Int32
		for i := range 32 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				for range 100 {
					if code, _ := get(t, rt); code != 200 {
						failures.Add(1)
					}
				}
			})
		}
		begun := time.Now()
		wg.Wait()
		seconds := int32(time.Since(begun) / time.Second)
		if failures.Load() > 0 || served.Load() < 2*seconds || refused.Load() > 3200/20 {
			t.Errorf("got %d failures, %d served by a in %d s, %d refused, want 0, 2 a second, at most 5 %%",
				failures.Load(), served.Load(), seconds, refused.Load())
		}
	})
}

// When all endpoints are closed, the one that opens first gets the request, and the
// retry waits until then.
func TestTransport_AllClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &hosts{funcs: map[string]roundTripFunc{"a": status(429, "30"), "b": status(429, "10"), "c": status(429, "20")}}
		rt := newTransport(base, "a", "b", "c")
		for range 3 {
			get(t, rt)
		}
		base.sent()
		base.funcs["b"] = fail(errReset)
		get(t, rt)
		if got := base.sent(); got != "b" {
			t.Errorf("got %s, want b", got)
		}
		begun := time.Now()
		delete(base.funcs, "b")
		base.funcs["b"] = func(req *http.Request) (*http.Response, error) {
			if time.Since(begun) < 10*time.Second {
				return status(429, "10")(req)
			}
			return response(req, 200, ""), nil
		}
		exactly := httpretry.RetryConfig{JitterFraction: -1}
		code, err := get(t, &httpretry.RetryTransport{Base: rt, Policy: exactly})
		if got := base.sent(); code != 200 || got != "b b" || time.Since(begun) != 10*time.Second {
			t.Errorf("got %d, %v from %s after %v, want 200 from b b after 10s", code, err, got, time.Since(begun))
		}

		// The last endpoint that was tried need not be the first to open.
		begun = time.Now()
		base.funcs = map[string]roundTripFunc{"b": status(429, "30"), "a": func(req *http.Request) (*http.Response, error) {
			if time.Since(begun) < 10*time.Second {
				return status(429, "10")(req)
			}
			return response(req, 200, ""), nil
		}}
		code, err = get(t, &httpretry.RetryTransport{Base: newTransport(base, "a", "b"), Policy: exactly})
		if got := base.sent(); code != 200 || got != "a b a" || time.Since(begun) != 10*time.Second {
			t.Errorf("got %d, %v from %s after %v, want 200 from a b a after 10s", code, err, got, time.Since(begun))
		}
	})
}

// An endpoint that refuses is alive, unless it asks for a long time.
func TestTransport_RefusingEndpointIsPreferredToOneThatIsDown(t *testing.T) {
	for retryAfter, want := range map[string]string{"1": "b", "2": "b", "3": "a"} {
		synctest.Test(t, func(t *testing.T) {
			base := &hosts{funcs: map[string]roundTripFunc{"a": fail(errRefused), "b": status(429, retryAfter)}}
			rt := newTransport(base, "a", "b")
			get(t, rt)
			get(t, rt)
			base.sent()
			get(t, rt)
			if got := base.sent(); got != want {
				t.Errorf("Retry-After %s: got %s, want %s", retryAfter, got, want)
			}
		})
	}
}

// That also holds while a probe is under way at the one that is down.
func TestTransport_RefusingEndpointIsPreferredToOneThatIsProbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &hosts{funcs: map[string]roundTripFunc{"a": fail(errRefused), "b": status(429, "1")}}
		rt := newTransport(base, "a", "b")
		get(t, rt)
		get(t, rt)
		time.Sleep(500 * time.Millisecond)
		base.funcs = map[string]roundTripFunc{"a": hang}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { send(t, rt, newRequest(t, "GET", "").WithContext(ctx)) })
			synctest.Wait()
		}
		cancel()
		wg.Wait()
		if got := base.sent(); got != "a b a b b b" {
			t.Errorf("sent to %s, want the probe to a, and then b", got)
		}
	})
}

func TestTransport_TimeoutClosesAsLongAsItTook(t *testing.T) {
	tests := []struct {
		timeout, want time.Duration
	}{{100 * time.Millisecond, 250 * time.Millisecond}, {10 * time.Second, 10 * time.Second}, {5 * time.Minute, time.Minute}}
	for _, tt := range tests {
		t.Run(tt.timeout.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := &hosts{funcs: map[string]roundTripFunc{"a": hang}}
				rt := newTransport(base, "a", "b")
				retry := &httpretry.RetryTransport{Base: rt, AttemptTimeout: tt.timeout}
				for range 3 {
					begun := time.Now()
					if code, err := get(t, retry); code != 200 || time.Since(begun) > tt.timeout {
						t.Errorf("got %d, %v after %v, want 200 from the other endpoint after %v", code, err, time.Since(begun), tt.timeout)
					}
					get(t, retry)
				}
				delete(base.funcs, "a")
				if got := closed(t, rt, base); got < tt.want-10*time.Millisecond || got > tt.want {
					t.Errorf("closed for %v, want %v", got, tt.want)
				}
			})
		})
	}
}

// A RetryTransport closes a body that has stalled while a Read of it waits.
func TestTransport_StalledBodyIsAFailure(t *testing.T) {
	for name, retry := range map[string]*httpretry.RetryTransport{
		"IdleTimeout":                      {IdleTimeout: time.Second},
		"IdleTimeout of a buffered body":   {IdleTimeout: time.Second, MaxResponseBytes: 100},
		"AttemptTimeout of a buffered one": {AttemptTimeout: time.Second, MaxResponseBytes: 100},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := &hosts{funcs: map[string]roundTripFunc{"a": func(req *http.Request) (*http.Response, error) {
					resp := response(req, 200, "")
					body, _ := io.Pipe()
					resp.ContentLength, resp.Body = -1, body
					return resp, nil
				}}}
				rt := newTransport(base, "a", "b")
				retry.Base = rt
				for range 8 {
					get(t, retry)
				}
				if got := strings.Count(base.sent(), "a"); got != 3 {
					t.Errorf("got %d requests whose bodies stall, want 3", got)
				}
				delete(base.funcs, "a")
				if got := closed(t, rt, base); got < 990*time.Millisecond || got > time.Second {
					t.Errorf("closed for %v, want 1s", got)
				}
			})
		})
	}
}

// A caller that cancels its requests says nothing about the endpoint.
func TestTransport_CancellationIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &hosts{funcs: map[string]roundTripFunc{"a": hang}}
		rt := newTransport(base, "a", "b")
		for range 10 {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			send(t, rt, newRequest(t, "GET", "").WithContext(ctx))
			cancel()
		}
		base.sent()
		delete(base.funcs, "a")
		if got := closed(t, rt, base); got != 0 {
			t.Errorf("closed for %v, want 0", got)
		}
	})
}

// An attempt that a Pacer in Base did not send says nothing about the endpoint.
func TestTransport_UnsentAttemptIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &hosts{funcs: map[string]roundTripFunc{"a": fail(&httpretry.Error{Reason: "deadline", Err: errReset})}}
		rt := newTransport(base, "a", "b")
		for range 10 {
			get(t, rt)
		}
		if got := strings.Count(base.sent(), "a"); got != 5 {
			t.Errorf("got %d of 10 requests, want 5", got)
		}
	})
}

// A resumed download stays at the endpoint that sent its validator, also if that
// endpoint is closed.
func TestTransport_ResumedDownloadStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		content := strings.Repeat("0123456789", 10)
		serve := func(tag string) roundTripFunc {
			failures := 3
			return func(req *http.Request) (*http.Response, error) {
				resp := response(req, 200, "")
				first := 0
				if r := req.Header.Get("Range"); r != "" {
					if failures--; failures > 0 {
						return status(503, "")(req)
					}
					first, _ = strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(r, "bytes="), "-"))
					resp.StatusCode = 206
					resp.Header.Set("Content-Range", fmt.Sprintf("bytes %d-99/100", first))
				}
				resp.Header.Set("Etag", tag)
				resp.ContentLength = int64(len(content) - first)
				end := min(first+30, len(content))
				resp.Body = io.NopCloser(io.MultiReader(strings.NewReader(content[first:end]), errReader{errReset}))
				if end == len(content) {
					resp.Body = io.NopCloser(strings.NewReader(content[first:]))
				}
				return resp, nil
			}
		}
		base := &hosts{funcs: map[string]roundTripFunc{"a": serve(`"a"`), "b": serve(`"b"`)}}
		rt := &httpretry.RetryTransport{Base: newTransport(base, "a", "b"), ResumeDownloads: true}
		resp, err := rt.RoundTrip(newRequest(t, "GET", ""))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(got) != content || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		if got := base.sent(); strings.Contains(got, "b") || strings.Count(got, "a") != 6 {
			t.Errorf("got %s, want 6 times a", got)
		}
	})
}

// A signed URL is renewed at the endpoint that has redirected to it, since another
// one may have another version.
func TestTransport_RenewedDownloadStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signatures := 0
		sign := func(req *http.Request) (*http.Response, error) {
			signatures++
			resp := response(req, 302, "")
			resp.Header.Set("Location", fmt.Sprintf("http://files-%s/x?signature=%d", req.URL.Host, signatures))
			return resp, nil
		}
		serve := func(req *http.Request) (*http.Response, error) {
			resp := response(req, 200, "half")
			switch {
			case req.Header.Get("Range") == "":
				resp.ContentLength = 8
				resp.Body = io.NopCloser(io.MultiReader(strings.NewReader("half"), errReader{errReset}))
			case req.URL.RawQuery == "signature=1":
				return response(req, 403, "expired"), nil
			default:
				resp.StatusCode = 206
				resp.Header.Set("Content-Range", "bytes 4-7/8")
			}
			resp.Header.Set("Etag", strconv.Quote(req.URL.Host))
			return resp, nil
		}
		base := &hosts{funcs: map[string]roundTripFunc{"a": sign, "b": sign, "files-a": serve, "files-b": serve}}
		client := &http.Client{Transport: &httpretry.RetryTransport{Base: newTransport(base, "a", "b"), ResumeDownloads: true}}
		resp, err := client.Do(newRequest(t, "GET", ""))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		const want = "a files-a files-a a files-a"
		if sent := base.sent(); string(got) != "halfhalf" || err != nil || sent != want {
			t.Errorf("got %q, %v from %s, want %s", got, err, sent, want)
		}
	})
}

// A response whose body failed is requested from another endpoint if it is
// buffered.
func TestTransport_BufferedBodyMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &hosts{funcs: map[string]roundTripFunc{"a": func(req *http.Request) (*http.Response, error) {
			resp := response(req, 200, "")
			resp.ContentLength, resp.Body = -1, io.NopCloser(errReader{errReset})
			return resp, nil
		}}}
		rt := &httpretry.RetryTransport{Base: newTransport(base, "a", "b"), MaxResponseBytes: 100}
		begun := time.Now()
		code, err := get(t, rt)
		if got := base.sent(); code != 200 || err != nil || got != "a b" || time.Since(begun) > 0 {
			t.Errorf("got %d, %v from %s after %v, want 200 from a b after 0s", code, err, got, time.Since(begun))
		}
	})
}

// Each Transport knows only its own attempts.
func TestTransport_Nested(t *testing.T) {
	base := &hosts{funcs: map[string]roundTripFunc{"a1": status(500, ""), "a2": status(500, "")}}
	outer := &failover.Transport{Endpoints: []failover.Endpoint{
		{URL: "http://a", Base: newTransport(base, "a1", "a2")},
		{URL: "http://b", Base: newTransport(base, "b1", "b2")},
	}}
	code, err := get(t, &httpretry.RetryTransport{Base: outer})
	if got := base.sent(); code != 200 || got != "a1 b1" {
		t.Errorf("got %d, %v from %s, want 200 from a1 b1", code, err, got)
	}
	base.funcs["a1"] = func(req *http.Request) (*http.Response, error) {
		resp := response(req, 200, "")
		resp.Header.Set("Etag", `"1"`)
		resp.ContentLength, resp.Body = 4, io.NopCloser(io.MultiReader(strings.NewReader("12"), errReader{errReset}))
		if req.Header.Get("Range") != "" {
			resp.StatusCode, resp.ContentLength, resp.Body = 206, 2, io.NopCloser(strings.NewReader("34"))
			resp.Header.Set("Content-Range", "bytes 2-3/4")
		}
		return resp, nil
	}
	single := &failover.Transport{Endpoints: []failover.Endpoint{{URL: "http://a", Base: newTransport(base, "a1")}}}
	code, err = get(t, &httpretry.RetryTransport{Base: single, ResumeDownloads: true, Policy: immediately{}})
	if got := base.sent(); code != 200 || err != nil || got != "a1 a1" {
		t.Errorf("resumed: got %d, %v from %s, want 200 from a1 a1", code, err, got)
	}
}

func TestTransport_ClassifierDecides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &hosts{funcs: map[string]roundTripFunc{"a": func(req *http.Request) (*http.Response, error) {
			return response(req, 403, "too fast"), nil
		}}}
		rt := newTransport(base, "a", "b")
		rt.Classifier = func(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
			if resp != nil && resp.StatusCode == 403 {
				if body, err := io.ReadAll(resp.Body); len(body) > 0 || err != nil {
					t.Errorf("the Classifier reads %q, %v", body, err)
				}
				return httpretry.Verdict{Outcome: httpretry.Unprocessed, RetryAfter: 5 * time.Second}
			}
			return httpretry.DefaultClassifier(req, resp, err)
		}
		get(t, rt)
		delete(base.funcs, "a")
		if got := closed(t, rt, base); got != 5*time.Second {
			t.Errorf("closed for %v, want 5s", got)
		}
	})
}

// recordingPacer records what it is given. It lets attempts pass after a second, or
// returns an error for the host of which it is the name.
type recordingPacer struct {
	late  string
	mu    sync.Mutex
	calls []string
}

func (p *recordingPacer) Delay(*http.Request) time.Duration { return 0 }

func (p *recordingPacer) Wait(ctx context.Context, req *http.Request, backoff time.Duration) (func(httpretry.Attempt), error) {
	host := req.URL.Host
	if host == p.late {
		return nil, context.DeadlineExceeded
	}
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return func(a httpretry.Attempt) {
		p.mu.Lock()
		defer p.mu.Unlock()
		status := 0
		if a.Response != nil {
			status = a.Response.StatusCode
		}
		p.calls = append(p.calls, fmt.Sprint(host, " ", a.Request.URL.Host, " ", a.Number, " ", status, " ", [...]string{"final", "unprocessed", "uncertain"}[a.Verdict.Outcome]))
	}, nil
}

func TestTransport_PacesEachEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &hosts{funcs: map[string]roundTripFunc{"a": status(429, "5"), "b": fail(errReset)}}
		pacer := new(recordingPacer)
		rt := newTransport(base, "a", "b", "c")
		rt.Pacer = pacer
		begun := time.Now()
		if code, err := get(t, &httpretry.RetryTransport{Base: rt}); code != 200 || time.Since(begun) != 3*time.Second {
			t.Errorf("got %d, %v after %v, want 200 after 3s", code, err, time.Since(begun))
		}
		base.funcs["a"] = func(*http.Request) (*http.Response, error) { panic("broken") }
		time.Sleep(time.Minute)
		func() {
			defer func() { recover() }()
			for range 10 {
				get(t, rt)
			}
		}()
		want := []string{"a a 1 429 unprocessed", "b b 2 0 uncertain", "c c 3 200 final"}
		if diff := cmp.Diff(want, pacer.calls[:3]); diff != "" {
			t.Errorf("attempts (-want +got):\n%s", diff)
		}
		if last := pacer.calls[len(pacer.calls)-1]; last != "a a 1 0 final" {
			t.Errorf("after a panic the Pacer heard %s", last)
		}
	})
}

type idleCounter struct {
	http.RoundTripper
	n int
}

func (c *idleCounter) CloseIdleConnections() { c.n++ }

// AttemptTimeout limits the time from when the Pacer lets an attempt pass.
func TestTransport_PacerDelaysBeforeAttemptTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &hosts{}
		rt := newTransport(base, "a")
		rt.Pacer = &httpretry.AdaptivePacer{MaxPerSecond: 0.1}
		retry := &httpretry.RetryTransport{Base: rt, AttemptTimeout: time.Second}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if code, err := send(t, retry, newRequest(t, "POST", "x")); code != 200 || err != nil {
					t.Errorf("got %d, %v", code, err)
				}
			})
		}
		wg.Wait()
		base.funcs = map[string]roundTripFunc{"a": hang}
		begun := time.Now()
		_, err := send(t, retry, newRequest(t, "POST", "x"))
		if got := time.Since(begun); !errors.Is(err, context.DeadlineExceeded) || got < 10*time.Second || got > 11*time.Second {
			t.Errorf("got %v after %v, want a timeout 1s after the turn", err, got)
		}
	})
}

func TestTransport_CloseIdleConnections(t *testing.T) {
	var base, own idleCounter
	rt := newTransport(&base, "a", "b")
	rt.Endpoints[1].Base = &own
	(&http.Client{Transport: &httpretry.RetryTransport{Base: rt}}).CloseIdleConnections()
	if base.n != 1 || own.n != 1 {
		t.Errorf("called %d and %d times, want once each", base.n, own.n)
	}
}

// The body of a 101 is the connection.
func TestTransport_UpgradedConnectionStaysWritable(t *testing.T) {
	var rw struct {
		bytes.Buffer
		io.Closer
	}
	rt := newTransport(roundTripFunc(func(req *http.Request) (*http.Response, error) {
		resp := response(req, 101, "")
		resp.Body = &rw
		return resp, nil
	}), "a")
	resp, err := rt.RoundTrip(newRequest(t, "GET", ""))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := resp.Body.(io.ReadWriteCloser); !ok {
		t.Errorf("the body is a %T without Write", resp.Body)
	}
}

func TestTransport_ResponseRequestIsTheCallers(t *testing.T) {
	rt := newTransport(&hosts{}, "a")
	req := newRequest(t, "GET", "")
	resp, err := rt.RoundTrip(req)
	if err != nil || resp.Request.URL != req.URL || resp.Request.Method != "GET" {
		t.Errorf("got %v, %v", resp.Request.URL, err)
	}
}
