package httpretry_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
)

func TestDefaultClassifier_Statuses(t *testing.T) {
	want := map[int]httpretry.Outcome{
		408: httpretry.Uncertain,
		429: httpretry.Unprocessed,
		503: httpretry.Unprocessed,
		500: httpretry.Uncertain,
		502: httpretry.Uncertain,
		504: httpretry.Uncertain,
	} // every other one: Final
	req := newRequest(t, "GET", "http://host.invalid", nil)
	for status := 100; status <= 599; status++ {
		resp := response(req, status, "")
		if got := httpretry.DefaultClassifier(req, resp, nil); got != (httpretry.Verdict{Outcome: want[status]}) {
			t.Errorf("status %d: got %+v, want %v and no wait", status, got, want[status])
		}
		resp.Header.Set("Retry-After", "7")
		wantWait := 7 * time.Second
		if want[status] == httpretry.Final {
			wantWait = 0
		}
		if got := httpretry.DefaultClassifier(req, resp, nil); got.RetryAfter != wantWait || got.Outcome != want[status] {
			t.Errorf("status %d with Retry-After: 7: got %+v, want %v and %v", status, got, want[status], wantWait)
		}
	}
}

func TestIsIdempotent(t *testing.T) {
	tests := []struct {
		method string
		header http.Header
		want   bool
		reason string
	}{
		{"", nil, true, "an empty method means GET"},
		{"GET", nil, true, "RFC 9110, section 9.2.2"},
		{"HEAD", nil, true, "RFC 9110, section 9.2.2"},
		{"OPTIONS", nil, true, "RFC 9110, section 9.2.2"},
		{"TRACE", nil, true, "RFC 9110, section 9.2.2"},
		{"PUT", nil, true, "RFC 9110, section 9.2.2"},
		{"DELETE", nil, true, "RFC 9110, section 9.2.2"},
		{"POST", nil, false, "not idempotent"},
		{"PATCH", nil, false, "not idempotent"},
		{"CONNECT", nil, false, "not idempotent"},
		{"get", nil, false, "methods are case-sensitive"},
		{"PURGE", nil, false, "nothing is known of it"},
		{"POST", http.Header{"Idempotency-Key": {"1"}}, true, "the caller vouches for it"},
		{"POST", http.Header{"X-Idempotency-Key": {"1"}}, true, "the caller vouches for it"},
		{"POST", http.Header{"Idempotency-Key": {}}, true, "counts for net/http too, and is not sent"},
		{"POST", http.Header{"Idempotency-Key": nil}, true, "counts for net/http too, and is not sent"},
		{"POST", http.Header{"Idempotency-Key": {""}}, true, "the key is there"},
		{"POST", http.Header{"idempotency-key": {"1"}}, false, "as for net/http, a key that is not canonical is another one"},
		{"POST", http.Header{"X-Request-Id": {"1"}}, false, "says nothing about processing it twice"},
	}
	for _, tt := range tests {
		if got := httpretry.IsIdempotent(&http.Request{Method: tt.method, Header: tt.header}); got != tt.want {
			t.Errorf("IsIdempotent(%q, %v): got %v, want %v: %s", tt.method, tt.header, got, tt.want, tt.reason)
		}
	}
}

// outcomeNames has the names of the outcomes, for messages.
var outcomeNames = [...]string{httpretry.Final: "final", httpretry.Unprocessed: "unprocessed", httpretry.Uncertain: "uncertain"}

// A failure is a request that fails on a real connection.
type failure struct {
	name   string
	reason string
	want   httpretry.Outcome
	text   string // part of the error's text, which identifies the failure
	setUp  func(t *testing.T, tr *http.Transport) *http.Request
}

func testFailures(t *testing.T, failures []failure) {
	for _, f := range failures {
		t.Run(f.name, func(t *testing.T) {
			tr := &http.Transport{}
			req := f.setUp(t, tr)
			defer tr.CloseIdleConnections()
			err := errorOf(t, tr, req)
			if !strings.Contains(err.Error(), f.text) {
				t.Errorf("got the error %q, want %q in it", err, f.text)
			}
			wantOutcome(t, req, err, f.want, f.reason)
		})
	}
}

// errorOf returns the error of req's RoundTrip or of reading its response body.
func errorOf(t *testing.T, rt http.RoundTripper, req *http.Request) error {
	t.Helper()
	resp, err := rt.RoundTrip(req)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	if err == nil {
		t.Fatalf("got the response %s, want a failure", resp.Status)
	}
	return err
}

// wantOutcome checks the verdict on err, bare and wrapped as by middleware.
func wantOutcome(t *testing.T, req *http.Request, err error, want httpretry.Outcome, reason string) {
	t.Helper()
	for name, err := range wrapped(err) {
		if got := httpretry.DefaultClassifier(req, nil, err); got != (httpretry.Verdict{Outcome: want}) {
			t.Errorf("%s: got %v for %T %q, want %v: %s", name, outcomeNames[got.Outcome], err, err, outcomeNames[want], reason)
		}
	}
}

var errMiddleware = errors.New("middleware: gave up")

// An errorPair has an Unwrap method of its own that returns several errors.
type errorPair struct{ a, b error }

func (p *errorPair) Error() string   { return p.a.Error() + " and " + p.b.Error() }
func (p *errorPair) Unwrap() []error { return []error{p.a, p.b} }

func wrapped(err error) map[string]error {
	return map[string]error{
		"bare":                    err,
		"fmt.Errorf":              fmt.Errorf("signer: %w", err),
		"fmt.Errorf with another": fmt.Errorf("%w: %w", errMiddleware, err),
		"errors.Join, first":      errors.Join(err, errMiddleware),
		"errors.Join, last":       errors.Join(errMiddleware, err),
		"url.Error":               &url.Error{Op: "Get", URL: "http://host.invalid", Err: err},
		"httpretry.Error":         &httpretry.Error{Attempts: 2, Err: err},
		"Unwrap() []error":        &errorPair{err, errMiddleware},
		"all of them":             &url.Error{Op: "Get", Err: &errorPair{errMiddleware, errors.Join(fmt.Errorf("signer: %w", err))}},
	}
}

// serveRaw serves each connection to a loopback address with handle. Unless
// handle closes the connection, it stays open until the client closes it.
func serveRaw(t *testing.T, handle func(net.Conn)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				handle(conn)
				io.Copy(io.Discard, conn) // until the client closes it
			})
		}
	})
	return ln.Addr().String()
}

// answer reads a request and writes text.
func answer(text string) func(net.Conn) {
	return func(conn net.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		io.Copy(io.Discard, req.Body) // else the client's write may fail
		io.WriteString(conn, text)
	}
}

func silent(net.Conn) {}

// reset closes conn with a RST in place of a FIN.
func reset(conn net.Conn) {
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}

// closedAddr returns a loopback address without a listener.
func closedAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func get(t *testing.T, url string) *http.Request { return newRequest(t, "GET", url, nil) }

// postOnce returns a POST whose body cannot be rewound.
func postOnce(t *testing.T, url string) *http.Request {
	return newRequest(t, "POST", url, struct{ io.Reader }{strings.NewReader("body")})
}

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

func failingDial(err error) dialFunc {
	return func(context.Context, string, string) (net.Conn, error) { return nil, err }
}

func TestDefaultClassifier_NoConnection(t *testing.T) {
	testFailures(t, []failure{
		{
			"refused", "nothing was sent", httpretry.Unprocessed, "refused",
			func(t *testing.T, _ *http.Transport) *http.Request { return get(t, "http://"+closedAddr(t)) },
		},
		{
			"dial timeout", "nothing was sent", httpretry.Unprocessed, "i/o timeout",
			func(t *testing.T, tr *http.Transport) *http.Request {
				tr.DialContext = (&net.Dialer{Timeout: time.Nanosecond}).DialContext
				return get(t, "http://"+closedAddr(t))
			},
		},
		{
			"no route", "nothing was sent; a route may come back", httpretry.Unprocessed, "dial tcp",
			func(t *testing.T, tr *http.Transport) *http.Request {
				// No address is unreachable on every machine.
				tr.DialContext = failingDial(&net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)})
				return get(t, "http://host.invalid")
			},
		},
		{
			"no socket", "the server's socket is missing while it restarts", httpretry.Unprocessed, "dial unix",
			func(t *testing.T, tr *http.Transport) *http.Request {
				path := filepath.Join(t.TempDir(), "socket")
				tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, "unix", path)
				}
				return get(t, "http://host.invalid")
			},
		},
		{
			"unknown network", "it will not become known", httpretry.Final, "unknown network",
			func(t *testing.T, tr *http.Transport) *http.Request {
				tr.DialContext = func(ctx context.Context, _, addr string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, "carrier pigeon", addr)
				}
				return get(t, "http://host.invalid")
			},
		},
		{
			"address without port", "a mistake in the dialer", httpretry.Final, "missing port",
			func(t *testing.T, tr *http.Transport) *http.Request {
				tr.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, network, "127.0.0.1")
				}
				return get(t, "http://host.invalid")
			},
		},
		{
			"port out of range", "no such port", httpretry.Final, "invalid port",
			func(t *testing.T, _ *http.Transport) *http.Request { return get(t, "http://127.0.0.1:70000") },
		},
	})
}

// A custom dialer may return a bare errno without a net.OpError.
func TestDefaultClassifier_Errno(t *testing.T) {
	tests := []struct {
		errno  syscall.Errno
		want   httpretry.Outcome
		reason string
	}{
		{syscall.ECONNREFUSED, httpretry.Unprocessed, "only connecting fails so"},
		{syscall.ENETUNREACH, httpretry.Unprocessed, "no route"},
		{syscall.EHOSTUNREACH, httpretry.Unprocessed, "no route"},
		{10061, httpretry.Unprocessed, "WSAECONNREFUSED"},
		{10051, httpretry.Unprocessed, "WSAENETUNREACH"},
		{10065, httpretry.Unprocessed, "WSAEHOSTUNREACH"},
		{syscall.ECONNRESET, httpretry.Uncertain, "the connection stood"},
		{syscall.EPIPE, httpretry.Uncertain, "the connection stood"},
		{syscall.ETIMEDOUT, httpretry.Uncertain, "a connection that stood may time out too"},
		{10054, httpretry.Uncertain, "WSAECONNRESET"},
	}
	req := get(t, "http://host.invalid")
	for _, tt := range tests {
		wantOutcome(t, req, tt.errno, tt.want, tt.reason)
		wantOutcome(t, req, os.NewSyscallError("connect", tt.errno), tt.want, tt.reason)
	}
}

// serveDNS answers each query on a loopback address with rcode (RFC 1035,
// section 4.1.1), or not at all if it is negative.
func serveDNS(t *testing.T, rcode int) (addr string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	go func() {
		defer close(done)
		var buf [512]byte
		for {
			n, from, err := conn.ReadFrom(buf[:])
			if err != nil {
				return
			}
			const header, typeAndClass = 12, 4
			end := header + bytes.IndexByte(buf[header:n], 0) + 1 + typeAndClass
			if rcode < 0 {
				continue
			}
			buf[2], buf[3] = 0x81, 0x80|byte(rcode) // a response, recursion available
			copy(buf[6:header], make([]byte, 6))    // nothing but the question
			conn.WriteTo(buf[:end], from)
		}
	}()
	return conn.LocalAddr().String()
}

// A hastyConn shortens the deadlines of a resolver.
type hastyConn struct{ *net.UDPConn }

func (c hastyConn) SetDeadline(time.Time) error {
	return c.UDPConn.SetDeadline(time.Now().Add(20 * time.Millisecond))
}

func TestDefaultClassifier_DNS(t *testing.T) {
	tests := []struct {
		name   string
		rcode  int
		want   httpretry.Outcome
		text   string
		reason string
	}{
		{"NXDOMAIN", 3, httpretry.Final, "no such host", "the host does not exist"},
		{"SERVFAIL", 2, httpretry.Unprocessed, "server misbehaving", "temporary trouble of the name server"},
		{"REFUSED", 5, httpretry.Unprocessed, "server misbehaving", "says nothing about the host"},
		{"no answer", -1, httpretry.Unprocessed, "i/o timeout", "the answer may come next time"},
		{"no name server", -2, httpretry.Unprocessed, "lookup", "it may be back in a moment"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			addr := closedAddr(t)
			if tt.rcode >= -1 {
				addr = serveDNS(t, tt.rcode)
			}
			resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, "udp", addr)
				if err != nil || tt.rcode >= 0 {
					return conn, err
				}
				return hastyConn{conn.(*net.UDPConn)}, nil
			}}
			tr := &http.Transport{DialContext: (&net.Dialer{Resolver: resolver}).DialContext}
			req := get(t, "http://some.host.invalid./") // the dot: without the machine's search domains
			err := errorOf(t, tr, req)
			var dns *net.DNSError
			if !errors.As(err, &dns) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got the error %q, want a *net.DNSError with %q", err, tt.text)
			}
			wantOutcome(t, req, err, tt.want, tt.reason)
		})
	}
}

// A stubbornConn ignores Close. When net/http closes a connection because it
// can't write a request, it may report the closed connection and not the reason.
type stubbornConn struct{ net.Conn }

func (stubbornConn) Close() error { return nil }

func TestDefaultClassifier_InvalidRequest(t *testing.T) {
	tests := []struct {
		name   string
		text   string
		change func(*http.Request)
	}{
		{"no URL", "nil Request.URL", func(r *http.Request) { r.URL = nil }},
		{"no header", "nil Request.Header", func(r *http.Request) { r.Header = nil }},
		{"scheme", "unsupported protocol scheme", func(r *http.Request) { r.URL.Scheme = "gopher" }},
		{"no scheme", "unsupported protocol scheme", func(r *http.Request) { r.URL.Scheme = "" }},
		{"no host", "no Host in request URL", func(r *http.Request) { r.URL.Host = "" }},
		{"method", "invalid method", func(r *http.Request) { r.Method = "BAD METHOD" }},
		{"header name", "invalid header field name", func(r *http.Request) { r.Header["a b"] = []string{"c"} }},
		{"header value", "invalid header field value", func(r *http.Request) { r.Header.Set("A", "b\nc") }},
		{"trailer", "invalid trailer", func(r *http.Request) { r.Trailer = http.Header{"A": {"b\nc"}} }},
		{"trailer name", "invalid Trailer key", func(r *http.Request) {
			r.Body, r.Trailer = io.NopCloser(strings.NewReader("body")), http.Header{"Content-Length": {"4"}}
		}},
		{"Host", "invalid Host header", func(r *http.Request) { r.Host = "a b" }},
		{"control character", "control character", func(r *http.Request) { r.URL.Opaque = "//host/\n" }},
		{"length without body", "with nil Body", func(r *http.Request) { r.ContentLength = 4 }},
		{"body too short", "with Body length 4", func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader("body")), 5
		}},
		{"body too long", "with Body length", func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader("body")), 3
		}},
	}
	// Without a proxy, net/http ignores an invalid Host.
	proxy := &url.URL{Scheme: "http", Host: serveRaw(t, silent)}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tr := &http.Transport{Proxy: http.ProxyURL(proxy), ResponseHeaderTimeout: 5 * time.Second}
			tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, network, addr)
				if err == nil {
					t.Cleanup(func() { conn.Close() })
				}
				return stubbornConn{conn}, err
			}
			defer tr.CloseIdleConnections()
			req := get(t, "http://host.invalid")
			tt.change(req)
			err := errorOf(t, tr, req)
			if !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got the error %q, want %q in it", err, tt.text)
			}
			wantOutcome(t, req, err, httpretry.Final, "the next attempt would be as malformed")
		})
	}
}

func TestDefaultClassifier_RequestURI(t *testing.T) {
	req := get(t, "http://host.invalid")
	req.RequestURI = "/"
	_, err := new(http.Client).Do(req)
	wantOutcome(t, req, err, httpretry.Final, "a middleware forwards a server's request as it is, always")
}

func TestDefaultClassifier_InvalidURLOfMiddleware(t *testing.T) {
	_, err := http.NewRequest("GET", "http://host.invalid:port", nil)
	wantOutcome(t, get(t, "http://host.invalid"), err, httpretry.Final, "a URL that can't be parsed never can")
}

var responseFailures = []struct {
	name   string
	handle func(net.Conn)
	want   httpretry.Outcome
	text   string
	reason string
}{
	{"status line", answer("HELLO\r\n\r\n"), httpretry.Final, "malformed HTTP response", "malformed"},
	{"status line of another protocol", answer("HTTPS/1.1 200 OK\r\n\r\n"), httpretry.Final, "malformed HTTP version", "malformed"},
	{"empty status line", answer("\r\n\r\n"), httpretry.Final, "malformed HTTP response", "malformed"},
	{"status", answer("HTTP/1.1 2x0 OK\r\n\r\n"), httpretry.Final, "malformed HTTP status code", "malformed"},
	{"version", answer("HTTP/one 200 OK\r\n\r\n"), httpretry.Final, "malformed HTTP version", "malformed"},
	{"header", answer("HTTP/1.1 200 OK\r\nno colon\r\n\r\n"), httpretry.Final, "malformed MIME header", "malformed"},
	{"Content-Length", answer("HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n"), httpretry.Final, "bad Content-Length", "malformed"},
	{"empty Content-Length", answer("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n"), httpretry.Final, "empty Content-Length", "malformed"},
	{
		"two Content-Lengths", answer("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
		httpretry.Final, "multiple Content-Length", "malformed",
	},
	{
		"Transfer-Encoding", answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: rot13\r\n\r\n"),
		httpretry.Final, "unsupported transfer encoding", "malformed",
	},
	{
		"Transfer-Encodings", answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"),
		httpretry.Final, "too many transfer encodings", "malformed",
	},
	{
		"Trailer", answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\n\r\n"),
		httpretry.Final, "bad trailer key", "malformed",
	},
	{
		"large header", answer("HTTP/1.1 200 OK\r\nA: " + strings.Repeat("b", 10_000) + "\r\n\r\n"),
		httpretry.Final, "server response headers exceeded", "it would exceed the limit again",
	},
	{"TLS alert", answer("\x15\x03\x01\x00\x02\x02\x0a\r\n"), httpretry.Final, "malformed HTTP response", "the server speaks TLS"},
	{"HTTP/2", answer("\x00\x00\x00\x04\x00\x00\x00\x00\x00\r\n"), httpretry.Final, "malformed HTTP response", "the server speaks HTTP/2"},
	{
		"chunk", answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\noops\r\n"),
		httpretry.Uncertain, "invalid byte in chunk length", "a body that broke off, as where an upstream died",
	},
	{
		"body cut off", func(c net.Conn) { answer("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel")(c); c.Close() },
		httpretry.Uncertain, "unexpected EOF", "a body that broke off",
	},
	{
		"body reset", func(c net.Conn) { answer("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel")(c); reset(c) },
		httpretry.Uncertain, "reset", "a body that broke off",
	},
	{
		"header cut off", func(c net.Conn) { answer("HTTP/1.1 200 OK\r\nA: b\r\n")(c); c.Close() },
		httpretry.Uncertain, "unexpected EOF", "the server may have processed the request",
	},
	{
		"header line cut off", func(c net.Conn) { answer("HTTP/1.1 200 OK\r\nConte")(c); c.Close() },
		httpretry.Uncertain, "malformed MIME header", "the server may have processed the request",
	},
	{
		"closed before", func(c net.Conn) { answer("")(c); c.Close() },
		httpretry.Uncertain, "EOF", "the server may have processed the request",
	},
	{
		"reset before", func(c net.Conn) { answer("")(c); reset(c) },
		httpretry.Uncertain, "reset", "the server may have processed the request",
	},
	{"none", silent, httpretry.Uncertain, "timeout awaiting response headers", "the server may still process the request"},
}

func TestDefaultClassifier_MalformedOrBrokenResponse(t *testing.T) {
	for _, tt := range responseFailures {
		for name, send := range map[string]func(*testing.T, string) *http.Request{"GET": get, "POST": postOnce} {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				tr := &http.Transport{MaxResponseHeaderBytes: 1000, ResponseHeaderTimeout: 5 * time.Second}
				if tt.name == "none" {
					tr.ResponseHeaderTimeout = 10 * time.Millisecond
				}
				defer tr.CloseIdleConnections()
				req := send(t, "http://"+serveRaw(t, tt.handle))
				err := errorOf(t, tr, req)
				if !strings.Contains(err.Error(), tt.text) {
					t.Errorf("got the error %q, want %q in it", err, tt.text)
				}
				wantOutcome(t, req, err, tt.want, tt.reason)
			})
		}
	}
}

// A server may close an idle connection while the client takes it from the pool.
// net/http itself sends a GET again on a new connection.
func TestDefaultClassifier_ReusedConnectionClosed(t *testing.T) {
	served := make(chan struct{}, 1)
	serve := func(conn net.Conn) {
		r := bufio.NewReader(conn)
		http.ReadRequest(r)
		select {
		case served <- struct{}{}:
			io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
			http.ReadRequest(r)
		default:
		}
		conn.Close()
	}
	for name, send := range map[string]func(*testing.T, string) *http.Request{"GET": get, "POST": postOnce} {
		t.Run(name, func(t *testing.T) {
			tr := &http.Transport{}
			defer tr.CloseIdleConnections()
			addr := serveRaw(t, serve)
			exchange(t, tr, get(t, "http://"+addr))
			req := send(t, "http://"+addr)
			err := errorOf(t, tr, req)
			<-served
			wantOutcome(t, req, err, httpretry.Uncertain, "the server may have processed the request")
		})
	}
}

// exchange makes a request that succeeds and leaves an idle connection.
func exchange(t *testing.T, rt http.RoundTripper, req *http.Request) {
	t.Helper()
	resp, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
}

// A noticedConn calls closed when it is closed.
type noticedConn struct {
	net.Conn
	closed func()
}

func (c noticedConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

func TestDefaultClassifier_IdleConnectionClosed(t *testing.T) {
	hangUp, hungUp := make(chan struct{}), make(chan struct{})
	addr := serveRaw(t, func(conn net.Conn) {
		answer("HTTP/1.1 204 No Content\r\n\r\n")(conn)
		<-hangUp
		conn.Close()
	})
	tr := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		return noticedConn{conn, sync.OnceFunc(func() { close(hungUp) })}, err
	}}
	exchange(t, tr, get(t, "http://"+addr))
	req := postOnce(t, "http://"+addr)
	req = req.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { close(hangUp); <-hungUp },
	}))
	err := errorOf(t, tr, req)
	wantOutcome(t, req, err, httpretry.Uncertain, "nothing in the error tells that nothing was sent")
}

// newCertificate returns a certificate for host, and a pool that trusts it.
func newCertificate(t *testing.T, host string, expires time.Time) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: expires.Add(-time.Hour), NotAfter: expires,
		IPAddresses: []net.IP{net.ParseIP(host)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// serveTLS performs TLS handshakes and serves no request.
func serveTLS(t *testing.T, config *tls.Config) (url string) {
	t.Helper()
	if config.Certificates == nil {
		cert, _ := newCertificate(t, "127.0.0.1", time.Now().Add(time.Hour))
		config.Certificates = []tls.Certificate{cert}
	}
	return "https://" + serveRaw(t, func(conn net.Conn) { tls.Server(conn, config).Handshake() })
}

const wrongConfig = "trying again changes neither side's configuration"

// refuseTLS sets up a handshake between two configurations.
func refuseTLS(server, client *tls.Config) func(*testing.T, *http.Transport) *http.Request {
	return func(t *testing.T, tr *http.Transport) *http.Request {
		client.InsecureSkipVerify = true
		tr.TLSClientConfig = client
		return get(t, serveTLS(t, server))
	}
}

func TestDefaultClassifier_TLS(t *testing.T) {
	trust := func(host string, expires time.Time) func(*testing.T, *http.Transport) *http.Request {
		return func(t *testing.T, tr *http.Transport) *http.Request {
			cert, pool := newCertificate(t, host, expires)
			tr.TLSClientConfig = &tls.Config{RootCAs: pool}
			return get(t, serveTLS(t, &tls.Config{Certificates: []tls.Certificate{cert}}))
		}
	}
	clientCert := func(version uint16) *tls.Config {
		return &tls.Config{ClientAuth: tls.RequireAnyClientCert, MaxVersion: version}
	}
	testFailures(t, []failure{
		{"untrusted", wrongConfig, httpretry.Final, "unknown authority", func(t *testing.T, _ *http.Transport) *http.Request {
			return get(t, serveTLS(t, &tls.Config{}))
		}},
		{"wrong host", wrongConfig, httpretry.Final, "certificate is valid for", trust("127.0.0.2", time.Now().Add(time.Hour))},
		{"expired", wrongConfig, httpretry.Final, "has expired", trust("127.0.0.1", time.Now().Add(-time.Minute))},
		{"client certificate, 1.2", wrongConfig, httpretry.Final, "remote error", refuseTLS(clientCert(tls.VersionTLS12), &tls.Config{})},
		{"client certificate, 1.3", wrongConfig, httpretry.Final, "remote error", refuseTLS(clientCert(tls.VersionTLS13), &tls.Config{})},
		{"untrusted client certificate", wrongConfig, httpretry.Final, "remote error", func(t *testing.T, tr *http.Transport) *http.Request {
			cert, _ := newCertificate(t, "127.0.0.1", time.Now().Add(time.Hour))
			tr.TLSClientConfig = &tls.Config{Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true}
			return get(t, serveTLS(t, &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool()}))
		}},
		{"old server", wrongConfig, httpretry.Final, "remote error", refuseTLS(
			&tls.Config{MaxVersion: tls.VersionTLS12}, &tls.Config{MinVersion: tls.VersionTLS13})},
		{"old client", wrongConfig, httpretry.Final, "remote error", refuseTLS(
			&tls.Config{MinVersion: tls.VersionTLS13}, &tls.Config{MaxVersion: tls.VersionTLS12})},
		{"ciphers", wrongConfig, httpretry.Final, "remote error", refuseTLS(
			&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}},
			&tls.Config{CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384}, MaxVersion: tls.VersionTLS12})},
		{"protocols", wrongConfig, httpretry.Final, "remote error", refuseTLS(
			&tls.Config{NextProtos: []string{"gopher"}}, &tls.Config{NextProtos: []string{"http/1.1"}})},
		{"impossible versions", wrongConfig, httpretry.Final, "no supported versions", refuseTLS(
			&tls.Config{}, &tls.Config{MinVersion: tls.VersionTLS13, MaxVersion: tls.VersionTLS12})},
		{"server that does not know versions", wrongConfig, httpretry.Final, "unsupported protocol version", chooseTLS12},
		{"plain HTTP server", wrongConfig, httpretry.Final, "first record does not look like", func(t *testing.T, _ *http.Transport) *http.Request {
			return get(t, "https://"+serveRaw(t, answerAnything("HTTP/1.1 400 Bad Request\r\n\r\n")))
		}},
		{"server's failure", "may pass", httpretry.Uncertain, "internal error", refuseTLS(
			&tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
				return nil, errors.New("not now")
			}}, &tls.Config{})},
		{"handshake timeout", "nothing was sent", httpretry.Unprocessed, "TLS handshake timeout", func(t *testing.T, tr *http.Transport) *http.Request {
			tr.TLSHandshakeTimeout = 10 * time.Millisecond
			return get(t, "https://"+serveRaw(t, silent))
		}},
		{"hung up", "looks like any other end of file", httpretry.Uncertain, "EOF", func(t *testing.T, tr *http.Transport) *http.Request {
			return get(t, "https://"+serveRaw(t, func(conn net.Conn) { answerAnything("")(conn); conn.Close() }))
		}},
	})
}

// crypto/tls returns the error of a callback unchanged.
func TestDefaultClassifier_TLSCallback(t *testing.T) {
	verify := func(err error) func(*testing.T, *http.Transport) *http.Request {
		return refuseTLS(&tls.Config{}, &tls.Config{VerifyConnection: func(tls.ConnectionState) error { return err }})
	}
	testFailures(t, []failure{
		{"error of crypto/x509", wrongConfig, httpretry.Final, "unhandled critical extension", verify(x509.UnhandledCriticalExtension{})},
		{"algorithm", wrongConfig, httpretry.Final, "insecure algorithm", verify(x509.InsecureAlgorithmError(x509.MD5WithRSA))},
		{"constraint", wrongConfig, httpretry.Final, "cannot sign", verify(x509.ConstraintViolationError{})},
		{"permanent error", wrongConfig, httpretry.Final, "pin mismatch", verify(httpretry.Permanent(errors.New("pin mismatch")))},
		{"untyped error", "nothing tells it from a failure that passes", httpretry.Uncertain, "pin mismatch", verify(errors.New("pin mismatch"))},
	})
}

// answerAnything writes text as soon as the client has written something.
func answerAnything(text string) func(net.Conn) {
	return func(conn net.Conn) {
		conn.Read(make([]byte, 4096))
		io.WriteString(conn, text)
	}
}

// chooseTLS12 sets up a server that responds to an offer of TLS 1.3 with TLS 1.2,
// as servers older than TLS 1.3 do.
func chooseTLS12(t *testing.T, tr *http.Transport) *http.Request {
	hello := append([]byte{3, 3}, make([]byte, 32+1)...) // version, random, no session
	hello = append(hello, 0xc0, 0x2f, 0)                 // cipher suite, no compression
	handshake := append([]byte{2, 0, 0, byte(len(hello))}, hello...)
	record := append([]byte{22, 3, 3, 0, byte(len(handshake))}, handshake...)
	tr.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS13}
	return get(t, "https://"+serveRaw(t, answerAnything(string(record))))
}

// An http.Client substitutes an error of its own if the server does not use TLS.
func TestDefaultClassifier_SchemeMismatch(t *testing.T) {
	client := &http.Client{Transport: &http.Transport{}}
	req := get(t, "https://"+serveRaw(t, answerAnything("HTTP/1.1 400 Bad Request\r\n\r\n")))
	_, err := client.Do(req)
	if !errors.Is(err, http.ErrSchemeMismatch) {
		t.Errorf("got %v, want http.ErrSchemeMismatch", err)
	}
	wantOutcome(t, req, err, httpretry.Final, "the server will not speak TLS next time")
}

func TestDefaultClassifier_CanceledCallIsFinal(t *testing.T) {
	addr := serveRaw(t, silent)
	tr := &http.Transport{}
	t.Run("cancelled by the caller", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		req := get(t, "http://"+addr).WithContext(ctx)
		time.AfterFunc(10*time.Millisecond, func() { cancel(errMiddleware) })
		wantOutcome(t, req, errorOf(t, tr, req), httpretry.Final, "the caller wants no more")
	})
	t.Run("the caller's deadline", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		req := get(t, "http://"+addr).WithContext(ctx)
		err := errorOf(t, tr, req)
		wantOutcome(t, req, err, httpretry.Final, "the caller's time is up")
		wantOutcome(t, req, syscall.ECONNREFUSED, httpretry.Final, "the caller's time is up, whatever the error says")
	})
}

// A timeout below the RetryTransport leaves the caller's context alone.
func TestDefaultClassifier_InnerTimeoutIsUncertain(t *testing.T) {
	addr := serveRaw(t, silent)
	tr := &http.Transport{}
	inner := func(cancel func(context.Context) (context.Context, context.CancelFunc)) roundTripFunc {
		return func(req *http.Request) (*http.Response, error) {
			ctx, stop := cancel(req.Context())
			defer stop()
			return tr.RoundTrip(req.WithContext(ctx))
		}
	}
	t.Run("timeout of an inner middleware", func(t *testing.T) {
		req := get(t, "http://"+addr)
		err := errorOf(t, inner(func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 10*time.Millisecond)
		}), req)
		wantOutcome(t, req, err, httpretry.Uncertain, "the next attempt may be in time")
	})
	t.Run("cancelled by an inner middleware", func(t *testing.T) {
		req := get(t, "http://"+addr)
		err := errorOf(t, inner(func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(10*time.Millisecond, cancel)
			return ctx, cancel
		}), req)
		wantOutcome(t, req, err, httpretry.Uncertain, "the caller still wants it")
	})
	t.Run("http.Client.Timeout of an inner middleware", func(t *testing.T) {
		client := &http.Client{Transport: tr, Timeout: 10 * time.Millisecond}
		req := get(t, "http://"+addr)
		_, err := client.Do(req)
		wantOutcome(t, req, err, httpretry.Uncertain, "the next attempt may be in time")
	})
	t.Run("Client.Timeout of an inner middleware, by Request.Cancel", func(t *testing.T) {
		// An http.Client uses Request.Cancel if its Transport is not an
		// http.Transport.
		client := &http.Client{Transport: roundTripFunc(tr.RoundTrip), Timeout: 10 * time.Millisecond}
		req := get(t, "http://"+addr)
		_, err := client.Do(req)
		wantOutcome(t, req, err, httpretry.Uncertain, "the next attempt may be in time")
	})
}

func TestDefaultClassifier_RequestCancelIsFinal(t *testing.T) {
	addr := serveRaw(t, silent)
	for name, dial := range map[string]dialFunc{
		"while the response is awaited": nil,
		"during the dial": func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
	} {
		t.Run("Request.Cancel "+name, func(t *testing.T) {
			tr := &http.Transport{DialContext: dial}
			defer tr.CloseIdleConnections()
			req := get(t, "http://"+addr)
			//lint:ignore SA1019 http.Transport still supports Cancel.
			req.Cancel = closedAfter(10 * time.Millisecond)
			err := errorOf(t, tr, req)
			wantOutcome(t, req, err, httpretry.Final, "the caller wants no more")
			wantOutcome(t, req, syscall.ECONNREFUSED, httpretry.Final, "the caller wants no more, whatever the error says")
			wantOutcome(t, get(t, "http://"+addr), err, httpretry.Final, "the error of a request that middleware has copied")
		})
	}
}

func closedAfter(d time.Duration) <-chan struct{} {
	c := make(chan struct{})
	time.AfterFunc(d, func() { close(c) })
	return c
}

func TestDefaultClassifier_AttemptTimeoutIsUncertain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got httpretry.Attempt
		rt := &httpretry.RetryTransport{
			Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				<-req.Context().Done()
				return nil, context.Cause(req.Context())
			}),
			Policy:         httpretry.Never,
			AttemptTimeout: time.Second,
			OnAttempt:      func(a httpretry.Attempt, _ httpretry.Decision) { got = a },
		}
		req := get(t, "http://host.invalid")
		err := errorOf(t, rt, req)
		if got.Verdict.Outcome != httpretry.Uncertain || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v and %v, want uncertain and a timeout", outcomeNames[got.Verdict.Outcome], err)
		}
		wantOutcome(t, req, err, httpretry.Uncertain, "the server may have processed the request")
	})
}

// Frame types and error codes of HTTP/2 (RFC 9113, sections 6 and 7).
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	frameRSTStream    = 0x3
	frameSettings     = 0x4
	frameGoAway       = 0x7
	frameWindowUpdate = 0x8

	codeNo                 = 0x0
	codeProtocol           = 0x1
	codeRefusedStream      = 0x7
	codeCancel             = 0x8
	codeEnhanceYourCalm    = 0xb
	codeInadequateSecurity = 0xc
	codeHTTP11Required     = 0xd
)

// frame returns an HTTP/2 frame with a payload of numbers.
func frame(kind, flags byte, stream uint32, payload ...uint32) []byte {
	f := []byte{0, 0, byte(4 * len(payload)), kind, flags}
	f = binary.BigEndian.AppendUint32(f, stream)
	for _, n := range payload {
		f = binary.BigEndian.AppendUint32(f, n)
	}
	return f
}

func rstStream(stream, code uint32) []byte { return frame(frameRSTStream, 0, stream, code) }
func goAway(last, code uint32) []byte      { return frame(frameGoAway, 0, 0, last, code) }

// headers returns a HEADERS frame that ends the stream. Its header block is a
// single byte, an index into the static table of HPACK (RFC 7541, appendix A).
func headers(stream uint32, index byte) []byte {
	const endStream, endHeaders = 0x1, 0x4
	f := frame(frameHeaders, endStream|endHeaders, stream)
	f[2] = 1
	return append(f, 0x80|index)
}

const (
	status204      = 9
	acceptEncoding = 16
)

// An h2Answer returns the bytes that a server sends for a stream whose request
// has arrived at least in part, and whether it then closes the connection.
type h2Answer func(stream uint32) (send []byte, hangUp bool)

// serveH2 serves the part of HTTP/2 that the failures need.
func serveH2(conn net.Conn, answer h2Answer) {
	// A goroutine of its own writes: the client may not read while it writes.
	out := make(chan []byte, 100)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer conn.Close()
		for b := range out {
			conn.Write(b)
		}
	})
	const maxHeaderListSize = 6 // RFC 9113, section 6.5.2
	settings := frame(frameSettings, 0, 0)
	settings[2] = 6
	settings = binary.BigEndian.AppendUint16(settings, maxHeaderListSize)
	out <- binary.BigEndian.AppendUint32(settings, 10_000)

	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	r := bufio.NewReader(conn)
	r.Discard(len(preface))
	for hangUp := false; !hangUp; {
		stream, err := nextStream(r)
		if err != nil {
			break
		}
		var send []byte
		send, hangUp = answer(stream)
		out <- send
	}
	close(out)
	io.Copy(io.Discard, r)
	wg.Wait()
}

// nextStream reads frames until a HEADERS frame ends its stream or a DATA frame
// arrives, and returns the stream.
func nextStream(r *bufio.Reader) (uint32, error) {
	for {
		var head [9]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return 0, err
		}
		r.Discard(int(head[0])<<16 | int(head[1])<<8 | int(head[2]))
		const endStream = 0x1
		kind, ended := head[3], head[4]&endStream != 0
		if kind == frameData || kind == frameHeaders && ended {
			return binary.BigEndian.Uint32(head[5:]), nil
		}
	}
}

// newH2Transport returns a transport that speaks unencrypted HTTP/2 to serveH2
// over pipes. In a synctest bubble, net/http's own retries then take no time.
func newH2Transport(answer h2Answer) *http.Transport {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	tr.DialContext = func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go serveH2(server, answer)
		return client, nil
	}
	return tr
}

// post returns a POST with a GetBody, which net/http itself sends again if its
// stream was not processed.
func post(t *testing.T, url string) *http.Request {
	return newRequest(t, "POST", url, strings.NewReader("body"))
}

var h2Requests = map[string]func(*testing.T, string) *http.Request{
	"GET": get, "POST with GetBody": post, "POST without GetBody": postOnce,
}

func TestDefaultClassifier_HTTP2StreamReset(t *testing.T) {
	for code := uint32(codeNo); code <= codeHTTP11Required+1; code++ {
		want, reason := httpretry.Uncertain, "the server may have begun to process the stream"
		switch code {
		case codeRefusedStream:
			want, reason = httpretry.Unprocessed, "the server did not process the stream; net/http has tried 8 times if it could"
		case codeInadequateSecurity, codeHTTP11Required:
			want, reason = httpretry.Final, "net/http will not negotiate anything else next time"
		}
		for name, send := range h2Requests {
			if code == codeProtocol && name != "POST without GetBody" {
				continue // net/http tries again on a new connection, without end
			}
			t.Run(fmt.Sprintf("%#x/%s", code, name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					tr := newH2Transport(func(stream uint32) ([]byte, bool) { return rstStream(stream, code), false })
					defer tr.CloseIdleConnections()
					req := send(t, "http://host.invalid")
					wantOutcome(t, req, errorOf(t, tr, req), want, reason)
				})
			})
		}
	}
}

const gracefulGoAway = "GOAWAY below the stream"

var http2Failures = []struct {
	name   string
	answer h2Answer
	want   httpretry.Outcome
	reason string
}{
	{
		gracefulGoAway, func(uint32) ([]byte, bool) { return goAway(0, codeNo), false },
		httpretry.Unprocessed, "not processed",
	},
	{
		"GOAWAY below the first stream, with an error", func(uint32) ([]byte, bool) { return goAway(0, codeEnhanceYourCalm), false },
		httpretry.Unprocessed, "not processed; net/http does not try again",
	},
	{
		"GOAWAY: INADEQUATE_SECURITY", func(uint32) ([]byte, bool) { return goAway(0, codeInadequateSecurity), false },
		httpretry.Final, "it will be as insecure next time",
	},
	{
		"GOAWAY: HTTP_1_1_REQUIRED", func(uint32) ([]byte, bool) { return goAway(0, codeHTTP11Required), false },
		httpretry.Final, "net/http will speak HTTP/2 next time too",
	},
	{
		"GOAWAY with the stream, then closed", func(stream uint32) ([]byte, bool) { return goAway(stream, codeNo), true },
		httpretry.Uncertain, "the server may have begun to process the stream",
	},
	{
		"GOAWAY with the stream and an error, then closed", func(stream uint32) ([]byte, bool) { return goAway(stream, codeProtocol), true },
		httpretry.Uncertain, "the server may have begun to process the stream",
	},
	{
		"GOAWAY with the stream, then reset", func(stream uint32) ([]byte, bool) {
			return append(goAway(stream, codeNo), rstStream(stream, codeCancel)...), false
		},
		httpretry.Uncertain, "the server may have begun to process the stream",
	},
	{
		"closed", func(uint32) ([]byte, bool) { return nil, true },
		httpretry.Uncertain, "the server may have begun to process the stream",
	},
	{
		"no status", func(stream uint32) ([]byte, bool) { return headers(stream, acceptEncoding), false },
		httpretry.Final, "a malformed response",
	},
	{
		"data before headers", func(stream uint32) ([]byte, bool) { return frame(frameData, 0, stream), false },
		httpretry.Final, "a malformed response",
	},
	{
		"window update of 0", func(stream uint32) ([]byte, bool) { return frame(frameWindowUpdate, 0, stream, 0), false },
		httpretry.Final, "a malformed response",
	},
	{
		"connection error", func(uint32) ([]byte, bool) { return frame(frameSettings, 0, 1), false },
		httpretry.Uncertain, "it may not have been this stream that broke the protocol",
	},
	{
		"HTTP/1.1", func(uint32) ([]byte, bool) { return []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), true },
		httpretry.Final, "the server does not speak HTTP/2",
	},
}

func TestDefaultClassifier_HTTP2(t *testing.T) {
	for _, tt := range http2Failures {
		for name, send := range h2Requests {
			if tt.name == gracefulGoAway && name != "POST without GetBody" {
				continue // net/http tries again on a new connection, without end
			}
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					tr := newH2Transport(tt.answer)
					defer tr.CloseIdleConnections()
					req := send(t, "http://host.invalid")
					wantOutcome(t, req, errorOf(t, tr, req), tt.want, tt.reason)
				})
			})
		}
	}
}

func TestDefaultClassifier_HTTP2NotEstablished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newH2Transport(nil)
		tr.DialContext = func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			go func() {
				server.Read(make([]byte, 4096))
				server.Close()
			}()
			return client, nil
		}
		defer tr.CloseIdleConnections()
		req := postOnce(t, "http://host.invalid")
		req = req.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			GotConn: func(httptrace.GotConnInfo) { synctest.Wait() }, // until net/http has seen the EOF
		}))
		err := errorOf(t, tr, req)
		if !strings.Contains(err.Error(), "could not be established") {
			t.Errorf("got the error %q, want one of a connection that took no request", err)
		}
		wantOutcome(t, req, err, httpretry.Unprocessed, "nothing was sent")
	})
}

// On a connection that was used before, net/http reports a GOAWAY with an error
// as a graceful one.
func TestDefaultClassifier_HTTP2SecondStream(t *testing.T) {
	tests := []struct {
		name   string
		send   []byte // after the stream with ID 1 was served
		change func(*http.Request)
		want   httpretry.Outcome
		text   string
		reason string
	}{
		{
			"GOAWAY with an error", goAway(1, codeEnhanceYourCalm), func(*http.Request) {},
			httpretry.Unprocessed, "cannot retry err", "the server did not process the second stream",
		},
		{
			"header too large for the server", nil, func(r *http.Request) { r.Header.Set("A", strings.Repeat("b", 10_000)) },
			httpretry.Final, "request header list larger", "it will be as large next time",
		},
		{
			"body longer than declared", nil, func(r *http.Request) { r.ContentLength = 3 },
			httpretry.Final, "request body larger", "malformed",
		},
		{
			"invalid Host", nil, func(r *http.Request) { r.Host = "a b" },
			httpretry.Final, "invalid Host header", "malformed",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := newH2Transport(func(stream uint32) ([]byte, bool) {
					if stream == 1 {
						return headers(1, status204), false
					}
					return tt.send, false
				})
				defer tr.CloseIdleConnections()
				exchange(t, tr, get(t, "http://host.invalid"))
				req := postOnce(t, "http://host.invalid")
				tt.change(req)
				err := errorOf(t, tr, req)
				if !strings.Contains(err.Error(), tt.text) {
					t.Errorf("got the error %q, want %q in it", err, tt.text)
				}
				wantOutcome(t, req, err, tt.want, tt.reason)
			})
		})
	}
}

// The verdicts on errors over TLS are those on errors over a pipe.
func TestDefaultClassifier_HTTP2OverTLS(t *testing.T) {
	refused := func(stream uint32) ([]byte, bool) { return rstStream(stream, codeRefusedStream), false }
	cancelled := func(stream uint32) ([]byte, bool) { return rstStream(stream, codeCancel), false }
	testFailures(t, []failure{
		{"refused", "the server did not process the stream", httpretry.Unprocessed, "REFUSED_STREAM", overTLS(refused, nil)},
		{"cancelled", "the server may have begun", httpretry.Uncertain, "CANCEL", overTLS(cancelled, nil)},
		// The error is an EOF or a reset, depending on timing.
		{"reset", "the server may have begun", httpretry.Uncertain, "", overTLS(nil, reset)},
		{"closed", "the server may have begun", httpretry.Uncertain, "", overTLS(nil, func(conn net.Conn) { conn.Close() })},
	})
}

// overTLS sets up an HTTP/2 server over TLS that responds with answer or, if that
// is nil, ends the connection.
func overTLS(answer h2Answer, end func(net.Conn)) func(*testing.T, *http.Transport) *http.Request {
	return func(t *testing.T, tr *http.Transport) *http.Request {
		cert, pool := newCertificate(t, "127.0.0.1", time.Now().Add(time.Hour))
		config := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}
		tr.TLSClientConfig = &tls.Config{RootCAs: pool}
		tr.ForceAttemptHTTP2 = true
		return postOnce(t, "https://"+serveRaw(t, func(conn net.Conn) {
			serveH2(tls.Server(conn, config), func(stream uint32) ([]byte, bool) {
				if answer == nil {
					end(conn)
					return nil, true
				}
				return answer(stream)
			})
		}))
	}
}

// StreamError stands for the type of that name in golang.org/x/net/http2. It has
// the same fields and no As method.
type StreamError struct {
	StreamID uint32
	Code     errCode
	Cause    error
}

type errCode uint32

func (e StreamError) Error() string { return fmt.Sprintf("stream error: %d, %d", e.StreamID, e.Code) }

func TestDefaultClassifier_ExportedStreamError(t *testing.T) {
	fromPeer := errors.New("received from peer") // x/net's own text
	tests := []struct {
		err    error
		want   httpretry.Outcome
		reason string
	}{
		{StreamError{1, codeRefusedStream, fromPeer}, httpretry.Unprocessed, "not processed"},
		{&StreamError{1, codeRefusedStream, fromPeer}, httpretry.Unprocessed, "a pointer to the same"},
		{StreamError{1, codeCancel, fromPeer}, httpretry.Uncertain, "may have been processed"},
		{StreamError{1, codeHTTP11Required, fromPeer}, httpretry.Final, "HTTP/2 will be spoken next time too"},
		{StreamError{1, codeProtocol, errors.New("bad header")}, httpretry.Final, "a malformed response"},
		{StreamError{1, codeProtocol, nil}, httpretry.Final, "a malformed response"},
	}
	req := get(t, "http://host.invalid")
	for _, tt := range tests {
		wantOutcome(t, req, tt.err, tt.want, tt.reason)
	}
}

// Middleware that sends a request to several servers may join their errors.
func TestDefaultClassifier_JoinedErrors(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	broken := &net.OpError{Op: "read", Err: syscall.ECONNRESET}
	unknownHost := &net.DNSError{Err: "no such host", IsNotFound: true}
	tests := []struct {
		name   string
		a, b   error
		want   httpretry.Outcome
		reason string
	}{
		{"refused and reset", refused, broken, httpretry.Uncertain, "one of them may have processed it"},
		{"refused and EOF", refused, io.EOF, httpretry.Uncertain, "one of them may have processed it"},
		{"refused and timeout", refused, context.DeadlineExceeded, httpretry.Uncertain, "one of them may have processed it"},
		{"refused and closed", refused, net.ErrClosed, httpretry.Uncertain, "one of them may have processed it"},
		{"refused and hung up", refused, errors.New("http: server closed idle connection"), httpretry.Uncertain, "one of them may have processed it"},
		{"refused and refused", refused, syscall.ECONNREFUSED, httpretry.Unprocessed, "none of them has"},
		{"refused and no such host", refused, unknownHost, httpretry.Final, "one of them never will"},
		{"reset and malformed", broken, textproto.ProtocolError("malformed"), httpretry.Final, "one of them never will"},
	}
	req := get(t, "http://host.invalid")
	for _, tt := range tests {
		wantOutcome(t, req, errors.Join(tt.a, tt.b), tt.want, tt.name+": "+tt.reason)
		wantOutcome(t, req, errors.Join(tt.b, tt.a), tt.want, tt.name+": "+tt.reason)
	}
}

// The errors that a recognized error wraps can only make it Final.
func TestDefaultClassifier_DetailsRefineOuterError(t *testing.T) {
	tests := []struct {
		err    error
		want   httpretry.Outcome
		reason string
	}{
		{&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, httpretry.Unprocessed, "a timeout, but of the dial"},
		{&net.OpError{Op: "proxyconnect", Err: io.EOF}, httpretry.Unprocessed, "the end of a connection to the proxy"},
		{&net.OpError{Op: "read", Err: syscall.EHOSTUNREACH}, httpretry.Uncertain, "the connection stood"},
		{&net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}, httpretry.Final, "no such host"},
		{&net.OpError{Op: "proxyconnect", Err: &tls.ECHRejectionError{}}, httpretry.Final, "the proxy has other keys for Encrypted Client Hello"},
		{&net.DNSError{UnwrapErr: context.DeadlineExceeded}, httpretry.Unprocessed, "a timeout, but of the lookup"},
	}
	req := get(t, "http://host.invalid")
	for _, tt := range tests {
		wantOutcome(t, req, tt.err, tt.want, tt.reason)
	}
}

// selfWrapped wraps itself.
type selfWrapped struct{}

func (selfWrapped) Error() string { return "turtles" }
func (selfWrapped) Unwrap() error { return selfWrapped{} }

// Comparing an uncomparable with == panics.
type uncomparable []error

func (uncomparable) Error() string     { return "several" }
func (u uncomparable) Unwrap() []error { return u }

// A nilCause has an Unwrap method that returns nil.
type nilCause struct{ *int }

func (nilCause) Error() string { return "empty" }
func (nilCause) Unwrap() error { return nil }

func TestDefaultClassifier_HostileErrors(t *testing.T) {
	req := get(t, "http://host.invalid")
	for _, err := range []error{&net.OpError{Op: "socks connect"}, &net.OpError{Op: "socks connect", Err: (*errorPair)(nil)}} {
		if got := httpretry.DefaultClassifier(req, nil, err); got.Outcome != httpretry.Unprocessed {
			t.Errorf("%#v: got %v, want unprocessed: no connection was made", err, outcomeNames[got.Outcome])
		}
	}
	for _, err := range []error{
		(*net.OpError)(nil), (*net.DNSError)(nil), (*url.Error)(nil), (*StreamError)(nil), (*errorPair)(nil),
		&net.OpError{}, &net.OpError{Op: "remote error"}, &net.OpError{Op: "read"}, &url.Error{},
		selfWrapped{}, uncomparable(nil), uncomparable{nil, uncomparable{}}, nilCause{}, nilCause{new(int)},
	} {
		got := httpretry.DefaultClassifier(req, nil, err)
		if got.Outcome != httpretry.Uncertain {
			t.Errorf("%T: got %v, want uncertain: nothing is known of it", err, outcomeNames[got.Outcome])
		}
		dial := &net.OpError{Op: "dial"}
		if got := httpretry.DefaultClassifier(req, nil, uncomparable{&url.Error{Err: err}, dial}); err != nil && got.Outcome == httpretry.Final {
			t.Errorf("%T beside a dial error: got %v", err, outcomeNames[got.Outcome])
		}
	}
}

// FuzzClassify wraps and joins errors whose verdict is known.
func FuzzClassify(f *testing.F) {
	known := []struct {
		err  error
		want httpretry.Outcome
	}{
		{x509.UnknownAuthorityError{}, httpretry.Final},
		{&tls.CertificateVerificationError{Err: x509.UnhandledCriticalExtension{}}, httpretry.Final},
		{&tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: &x509.Certificate{}}}, httpretry.Final},
		{&net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}, httpretry.Final},
		{errors.New("unsupported protocol scheme \"gopher\""), httpretry.Final},
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, httpretry.Unprocessed},
		{&net.DNSError{IsTimeout: true}, httpretry.Unprocessed},
		{StreamError{1, codeRefusedStream, errors.New("received from peer")}, httpretry.Unprocessed},
		{errors.New("net/http: TLS handshake timeout"), httpretry.Unprocessed},
		{&net.OpError{Op: "read", Err: syscall.ECONNRESET}, httpretry.Uncertain},
		{io.ErrUnexpectedEOF, httpretry.Uncertain},
		{errors.New("never heard of"), httpretry.Uncertain},
	}
	for i := range known {
		f.Add(uint8(i), []byte{byte(i)})
	}
	f.Add(uint8(4), []byte{0, 1, 2, 3, 4, 5, 6})
	f.Add(uint8(8), bytes.Repeat([]byte{3}, 50))
	req, err := http.NewRequest("GET", "http://host.invalid", nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, which uint8, wrappings []byte) {
		k := known[int(which)%len(known)]
		err := k.err
		for _, w := range wrappings[:min(len(wrappings), 50)] {
			err = wrap(err, w)
		}
		if got := httpretry.DefaultClassifier(req, nil, err).Outcome; got != k.want {
			t.Errorf("got %v for %T within %v, want %v", got, k.err, wrappings, k.want)
		}
	})
}

func wrap(err error, how byte) error {
	switch how % 7 {
	case 0:
		return fmt.Errorf("signer: %w", err)
	case 1:
		return errors.Join(errMiddleware, err)
	case 2:
		return errors.Join(err, nil, errMiddleware)
	case 3:
		return &url.Error{Op: "Post", URL: "http://host.invalid", Err: err}
	case 4:
		return &errorPair{err, selfWrapped{}}
	case 5:
		return uncomparable{nil, errMiddleware, err, (*net.OpError)(nil)}
	default:
		return &httpretry.Error{Attempts: 2, Err: err}
	}
}
