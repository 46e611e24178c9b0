package httpretry_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/httpretry/httpretry"
)

var (
	silentTransfers = flag.Int("stall.silent", 400, "number of transfers over lines that fall silent")
	slowTransfers   = flag.Int("stall.slow", 600, "number of transfers that are slow but do not stall")
)

// idle is the IdleTimeout of these tests.
const idle = 30 * time.Second

// A rhythm is a response body in pieces of the same size, each after a wait. It
// ends after the given number of pieces with io.EOF or, if quiet is set, by
// waiting until its context is done or it is closed.
type rhythm struct {
	piece int
	every time.Duration
	count int
	quiet bool

	done   <-chan struct{}
	closed chan struct{}
	closes atomic.Int32
}

func (r *rhythm) Read(p []byte) (int, error) {
	wait := r.every
	if r.count == 0 && !r.quiet {
		return 0, io.EOF
	} else if r.count == 0 {
		wait = 1000 * time.Hour
	}
	r.count--
	select {
	case <-time.After(wait):
		return min(r.piece, len(p)), nil
	case <-r.done:
		return 0, errBreak
	case <-r.closed:
		return 0, errBreak
	}
}

func (r *rhythm) Close() error {
	if r.closes.Add(1) == 1 && r.closed != nil {
		close(r.closed)
	}
	return nil
}

// An idleResult is the outcome of a transfer.
type idleResult struct {
	n    int64
	took time.Duration
	err  error
}

// readAlong reads body to its end, in steps of size, with a sleep before each.
func readAlong(body io.Reader, size int, sleep time.Duration) idleResult {
	start, slept := time.Now(), time.Duration(0)
	buf := make([]byte, size)
	var r idleResult
	for r.err == nil {
		var n int
		time.Sleep(sleep)
		slept += sleep
		n, r.err = body.Read(buf)
		r.n += int64(n)
	}
	r.took = time.Since(start) - slept
	return r
}

func TestIdleTimeout_EndsStalledResponse(t *testing.T) {
	for _, end := range []string{"context", "Close"} {
		t.Run(end+" ends a Read", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var sent context.Context
				body := &rhythm{piece: 100, every: time.Second, count: 5, quiet: true}
				rt := &httpretry.RetryTransport{IdleTimeout: idle, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
					sent = req.Context()
					if end == "context" {
						body.done = sent.Done()
					} else {
						body.closed = make(chan struct{})
					}
					resp := response(req, 200, "")
					resp.Body, resp.ContentLength = body, -1
					return resp, nil
				})}
				resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
				if err != nil {
					t.Fatal(err)
				}
				got := readAlong(resp.Body, 4096, 0)
				const want = "httpretry: response body stalled: no byte for 30s after 500"
				if got.n != 500 || got.took != 5*time.Second+idle || fmt.Sprint(got.err) != want {
					t.Errorf("got %+v, want %q after 500 bytes and 35s", got, want)
				}
				var timeout net.Error
				if !errors.Is(got.err, context.DeadlineExceeded) || !errors.As(got.err, &timeout) || !timeout.Timeout() {
					t.Errorf("%v is not a timeout", got.err)
				}
				if _, err := resp.Body.Read(make([]byte, 1)); err != got.err {
					t.Errorf("the next Read returns %v, want the same error", err)
				}
				if context.Cause(sent) != got.err {
					t.Errorf("the attempt's context has the cause %v, want the error of Read", context.Cause(sent))
				}
				if resp.Body.Close(); body.closes.Load() != 1 {
					t.Errorf("the body was closed %d times, want once", body.closes.Load())
				}
			})
		})
	}
}

// returning returns a transport whose responses have the body.
func returning(body io.ReadCloser, rate int64) *httpretry.RetryTransport {
	return &httpretry.RetryTransport{
		IdleTimeout: idle, MinBytesPerSecond: rate,
		Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			resp := response(req, 200, "")
			resp.Body, resp.ContentLength = body, -1
			return resp, nil
		}),
	}
}

func TestIdleTimeout_SlowResponses(t *testing.T) {
	const second = time.Second
	tests := []struct {
		name  string
		rate  int64
		piece int
		every time.Duration
		count int
		sleep time.Duration // of the reader before each Read
		want  string        // the error; "": none
		after time.Duration // of waiting in Reads
	}{
		{"gaps of 0.8 of the limit", 0, 1, 24 * second, 100, 0, "", 2400 * second},
		{"a reader that sleeps", 0, 1, 24 * second, 10, 10 * idle, "", 240 * second},
		{"a reader that sleeps before bytes that are there", 1000, 1, 0, 1000, 10 * idle, "", 0},
		{"a gap of the limit", 0, 1, idle + 1, 1, 0, "no byte for 30s after 0", idle},
		{"Reads without a byte", 0, 0, 7 * second, 100, 0, "no byte for 30s after 0", idle},
		{"Reads without a byte, and a reader that sleeps", 0, 0, 7 * second, 100, idle, "no byte for 30s after 0", idle},
		{"above the least rate", 1000, 1100, second, 200, 0, "", 200 * second},
		{"too few bytes in bursts", 1000, 24_000, 24 * second, 20, 0, "fewer than 1000 bytes/s for 30s after 24000", idle},
		{"enough bytes in bursts", 1000, 31_000, 24 * second, 20, 0, "", 480 * second},
		{"a byte in 1.1 seconds", 1000, 1, 1100 * time.Millisecond, 100, 0, "fewer than 1000 bytes/s for 30s after 27", idle},
		{"a byte in 1.1 seconds, and a reader that sleeps", 1000, 1, 1100 * time.Millisecond, 100, 7 * second, "fewer than 1000 bytes/s for 30s after 27", idle},
		{"a byte a second without a rate", 0, 1, second, 100, 0, "", 100 * second},
		{"a negative rate", -1, 1, second, 100, 0, "", 100 * second},
		{"below the rate", 1000, 1000, 1100 * time.Millisecond, 100, 0, "fewer than 1000 bytes/s for 30s after 27000", idle},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				body := &rhythm{piece: tc.piece, every: tc.every, count: tc.count, closed: make(chan struct{})}
				rt := returning(body, tc.rate)
				resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
				if err != nil {
					t.Fatal(err)
				}
				got := readAlong(resp.Body, 1<<20, tc.sleep)
				resp.Body.Close()
				if tc.want == "" {
					if got.err != io.EOF || got.took != tc.after {
						t.Errorf("got %+v, want no error and %v", got, tc.after)
					}
					return
				}
				if want := "httpretry: response body stalled: " + tc.want; got.err.Error() != want || got.took != tc.after {
					t.Errorf("got %v after %v, want %v after %v", got.err, got.took, want, tc.after)
				}
			})
		})
	}
}

// A transfer that becomes slow is found within the limit and a tenth of it,
// whenever that happens.
func TestMinBytesPerSecond_FindsATrickleWithin33s(t *testing.T) {
	for fast := range 40 {
		synctest.Test(t, func(t *testing.T) {
			before := time.Duration(fast) * 700 * time.Millisecond
			r, w := io.Pipe()
			resp, err := returning(r, 1000).RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				for range fast {
					time.Sleep(700 * time.Millisecond)
					w.Write(make([]byte, 1000))
				}
				for err := error(nil); err == nil; {
					time.Sleep(time.Second)
					_, err = w.Write([]byte{1})
				}
			})
			got := readAlong(resp.Body, 4096, 0)
			var timeout net.Error
			if trickled := got.took - before; !errors.As(got.err, &timeout) || trickled > 33*time.Second || got.took < idle {
				t.Errorf("after %v at a good rate: got %v after %v at 1 B/s, want a timeout within 33s", before, got.err, trickled)
			}
			resp.Body.Close()
			wg.Wait()
		})
	}
}

func TestIdleTimeout_RetriesBufferedResponse(t *testing.T) {
	for _, tc := range []struct {
		method string
		want   []string
	}{
		{"GET", []string{
			"1: httpretry: response body stalled: no byte for 30s after 3: uncertain, retry after 0s",
			"2: <nil>: final, no retry (final)",
		}},
		{"POST", []string{"1: httpretry: response body stalled: no byte for 30s after 3: uncertain, no retry (not_idempotent)"}},
	} {
		t.Run(tc.method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got []string
				start := time.Now()
				rt := &httpretry.RetryTransport{
					Policy: now, IdleTimeout: idle, MaxResponseBytes: 1 << 10,
					Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
						resp := response(req, 200, "abc")
						if httpretry.AttemptNumber(req.Context()) == 1 {
							resp.ContentLength = -1
							resp.Body = &rhythm{piece: 3, count: 1, quiet: true, closed: make(chan struct{})}
						}
						return resp, nil
					}),
					OnAttempt: func(a httpretry.Attempt, d httpretry.Decision) { got = append(got, brief(a, d)) },
				}
				resp, err := rt.RoundTrip(newRequest(t, tc.method, "http://example.com/", nil))
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tc.want, got); diff != "" || time.Since(start) != idle {
					t.Errorf("after %v, attempts (-want +got):\n%s", time.Since(start), diff)
				}
				body, err := io.ReadAll(resp.Body)
				if _, stalled := err.(net.Error); len(body) != 3 || stalled != (tc.method == "POST") {
					t.Errorf("got %q, %v", body, err)
				}
				resp.Body.Close()
			})
		})
	}
}

func brief(a httpretry.Attempt, d httpretry.Decision) string {
	decision := fmt.Sprintf("no retry (%s)", d.Reason)
	if d.Retry {
		decision = fmt.Sprint("retry after ", d.Delay)
	}
	return fmt.Sprintf("%d: %v: %v, %s", a.Number, a.Err, outcomeNames[a.Verdict.Outcome], decision)
}

// An open tunnel may be silent.
func TestIdleTimeout_LeavesTunnelsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := &rhythm{piece: 1, every: 10 * idle, count: 2, closed: make(chan struct{})}
		resp, err := returning(body, 0).RoundTrip(newRequest(t, "CONNECT", "http://example.com/", nil))
		if err != nil {
			t.Fatal(err)
		}
		if got := readAlong(resp.Body, 1, 0); got.err != io.EOF || got.n != 2 {
			t.Errorf("got %+v, want both bytes of a slow tunnel", got)
		}
		resp.Body.Close()
	})
}

// The tests below use net/http over pipes in virtual time.

// A protocol is a kind of connection.
type protocol struct {
	name   string
	http2  bool
	tls    bool
	window int // of a stream, in bytes; 0: 1<<16 - 1, since 1 MiB would take most bodies
}

var protocols = []protocol{
	{name: "HTTP/1.1"}, {name: "HTTP/2", http2: true}, {name: "HTTP/1.1 with TLS", tls: true}, {name: "HTTP/2 with TLS", http2: true, tls: true},
}

// testCertificate is that of httptest.
var testCertificate = sync.OnceValue(func() *httptest.Server {
	srv := httptest.NewTLSServer(nil)
	srv.Close()
	return srv
})

// A pipeListener accepts the server's ends of pipes.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	close  func()
}

func newPipeListener() *pipeListener {
	l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	l.close = sync.OnceFunc(func() { close(l.closed) })
	return l
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error { l.close(); return nil }
func (l *pipeListener) Addr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}
}

// serve starts a server in a bubble. It returns a transport whose connections lead
// to it, and the URL of the server.
func (p protocol) serve(t *testing.T, h http.HandlerFunc) (*http.Transport, string) {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!p.http2)
	protocols.SetHTTP2(p.http2 && p.tls)
	protocols.SetUnencryptedHTTP2(p.http2 && !p.tls)
	ln := newPipeListener()
	var wg sync.WaitGroup
	window := &http.HTTP2Config{MaxReceiveBufferPerStream: p.window}
	if p.window == 0 {
		window.MaxReceiveBufferPerStream = 1<<16 - 1
	}
	srv := &http.Server{Protocols: protocols, HTTP2: window, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wg.Add(1) // Close does not wait for handlers
		defer wg.Done()
		h(w, r)
	})}
	tr := &http.Transport{Protocols: protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		client, server := net.Pipe()
		select {
		case ln.conns <- server:
			return client, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}}
	url := "http://example.com/"
	serve := srv.Serve
	if p.tls {
		url = "https://example.com/"
		cert := testCertificate()
		srv.TLSConfig = &tls.Config{Certificates: cert.TLS.Certificates}
		roots := x509.NewCertPool()
		roots.AddCert(cert.Certificate())
		tr.TLSClientConfig = &tls.Config{RootCAs: roots}
		serve = func(ln net.Listener) error { return srv.ServeTLS(ln, "", "") }
	}
	wg.Go(func() { serve(ln) })
	t.Cleanup(func() {
		srv.Close()
		tr.CloseIdleConnections()
		wg.Wait()
	})
	return tr, url
}

// fallSilent waits until the client has gone.
func fallSilent(r *http.Request) { <-r.Context().Done() }

func TestIdleTimeout_OneSilentStreamOfTen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr, url := protocols[3].serve(t, func(w http.ResponseWriter, r *http.Request) {
			for n := range 10 {
				if r.URL.Path == "/3" && n == 5 {
					fallSilent(r)
				}
				w.Write(make([]byte, 1000))
				w.(http.Flusher).Flush()
				time.Sleep(20 * time.Second)
			}
		})
		dials := 0
		dial := tr.DialContext
		tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials++
			return dial(ctx, network, addr)
		}
		client := &http.Client{Transport: &httpretry.RetryTransport{Base: tr, IdleTimeout: idle, Policy: now}}
		if resp, err := client.Get(url); err != nil { // so that there is a connection
			t.Fatal(err)
		} else {
			readAll(t, resp)
		}
		var got [10]idleResult
		var wg sync.WaitGroup
		for n := range got {
			wg.Go(func() {
				resp, err := client.Get(fmt.Sprint(url, n))
				if err != nil {
					got[n].err = err
					return
				}
				defer resp.Body.Close()
				got[n] = readAlong(resp.Body, 4096, 0)
			})
		}
		wg.Wait()
		for n, r := range got {
			switch _, timeout := r.err.(net.Error); {
			case n == 3 && (!timeout || r.n != 5000 || r.took != 4*20*time.Second+idle):
				t.Errorf("the silent stream: got %+v, want a timeout after 5000 bytes and 110s", r)
			case n != 3 && (r.err != io.EOF || r.n != 10_000):
				t.Errorf("stream %d: got %+v, want all bytes", n, r)
			}
		}
		if dials != 1 {
			t.Errorf("there were %d connections, want one", dials)
		}
	})
}

// uploads are request bodies of every kind that a call can send.
func uploads(t *testing.T, content []byte) map[string]func() io.Reader {
	path := filepath.Join(t.TempDir(), "upload")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return map[string]func() io.Reader{
		"GetBody":   func() io.Reader { return bytes.NewReader(content) },
		"read once": func() io.Reader { return io.MultiReader(bytes.NewReader(content)) },
		"rewound":   func() io.Reader { return &rewinder{bytes.NewReader(content)} },
		"file": func() io.Reader {
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			return f
		},
	}
}

// A rewinder is a body whose GetBody rewinds it.
type rewinder struct{ *bytes.Reader }

func (r *rewinder) Close() error { return nil }

func TestIdleTimeout_EndsStalledUpload(t *testing.T) {
	content := pattern(300_000)
	for name, open := range uploads(t, content) {
		for _, p := range protocols {
			for _, method := range []string{"PUT", "POST"} {
				t.Run(name+", "+p.name+", "+method, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { testStalledUpload(t, p, method, open(), content) })
				})
			}
		}
	}
}

func testStalledUpload(t *testing.T, p protocol, method string, body io.Reader, content []byte) {
	const before = 150_000
	tr, url := p.serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Attempt") == "1" {
			io.CopyN(io.Discard, r.Body, before)
			// An HTTP/1 server notices only that the connection is closed
			// while it reads.
			time.Sleep(2 * idle)
			return
		}
		if got, err := io.ReadAll(r.Body); err != nil || !bytes.Equal(got, content) {
			w.WriteHeader(http.StatusTeapot)
		}
	})
	var got []httpretry.Attempt
	var decisions []httpretry.Decision
	rt := &httpretry.RetryTransport{
		Policy: now, IdleTimeout: idle,
		Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			req = req.Clone(req.Context())
			req.Header.Set("X-Attempt", fmt.Sprint(httpretry.AttemptNumber(req.Context())))
			return tr.RoundTrip(req)
		}),
		OnAttempt: func(a httpretry.Attempt, d httpretry.Decision) {
			got, decisions = append(got, a), append(decisions, d)
		},
	}
	req := newRequest(t, method, url, body)
	if r, ok := body.(*rewinder); ok {
		req.GetBody = func() (io.ReadCloser, error) { _, err := r.Seek(0, io.SeekStart); return r, err }
	}
	req.ContentLength = int64(len(content))
	start := time.Now()
	resp, err := rt.RoundTrip(req)
	took := time.Since(start)
	var stalled net.Error
	if len(got) == 0 || !errors.As(got[0].Err, &stalled) || !stalled.Timeout() ||
		!strings.HasPrefix(got[0].Err.Error(), "httpretry: request body stalled: no byte for 30s after ") ||
		got[0].Verdict.Outcome != httpretry.Uncertain || took < idle || took > idle+100*time.Millisecond {
		t.Fatalf("after %v: attempts %+v, want an Uncertain first one after 30s", took, got)
	}
	if method == "POST" {
		if err != got[0].Err || decisions[0].Reason != "not_idempotent" {
			t.Errorf("got %v, %v, want the error of the stall, since a POST may have been processed", resp, err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if readAll(t, resp); resp.StatusCode != 200 {
		t.Errorf("status %d, want a retry with the whole body", resp.StatusCode)
	}
}

// HTTP/2 reads the end of a body before it sends the last piece.
func TestIdleTimeout_EndsUploadThatStallsAtItsEnd(t *testing.T) {
	const window = 70_000
	for _, size := range []int{window + 2, window + 5000, window + 20_000} {
		for name, open := range uploads(t, make([]byte, size)) {
			t.Run(fmt.Sprint(name, ", ", size-window), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					tr, url := protocol{http2: true, window: window}.serve(t, func(w http.ResponseWriter, r *http.Request) { fallSilent(r) })
					rt := &httpretry.RetryTransport{Base: tr, Policy: httpretry.Never, IdleTimeout: idle, AttemptTimeout: 2 * idle}
					req := newRequest(t, "PUT", url, open())
					req.ContentLength = int64(size)
					resp, err := rt.RoundTrip(req)
					if err == nil || !strings.HasPrefix(err.Error(), "httpretry: request body stalled: no byte for 30s after ") {
						t.Errorf("got %v, %v, want a stall: the server has not accepted all bytes", resp, err)
					}
				})
			})
		}
	}
}

// A slowSource is a request body whose source waits before each piece.
func slowSource(pieces int, wait time.Duration) io.Reader {
	r, w := io.Pipe()
	go func() {
		for range pieces {
			time.Sleep(wait)
			w.Write(make([]byte, 1000))
		}
		w.Close()
	}()
	return r
}

func TestIdleTimeout_SlowUploads(t *testing.T) {
	const size = 1_200_000 // more than HTTP/2 reads in one piece
	tests := []struct {
		name string
		body func() io.Reader
		h    http.HandlerFunc
	}{
		{"a source that is slow", func() io.Reader { return slowSource(5, 10*idle) }, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
		}},
		{"a server that reads with gaps", func() io.Reader { return bytes.NewReader(make([]byte, size)) }, func(w http.ResponseWriter, r *http.Request) {
			for err := error(nil); err == nil; {
				time.Sleep(idle * 8 / 10)
				_, err = io.CopyN(io.Discard, r.Body, 100_000)
			}
		}},
		{"a server that thinks before its header", func() io.Reader { return bytes.NewReader(make([]byte, size)) }, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			time.Sleep(2 * idle)
		}},
		{"a small body that is not read for long", func() io.Reader { return bytes.NewReader(make([]byte, 100)) }, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(2 * idle)
		}},
		{"an early response", func() io.Reader { return bytes.NewReader(make([]byte, size)) }, func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).EnableFullDuplex()
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			for range 10 {
				time.Sleep(idle * 8 / 10)
				w.Write(make([]byte, 100))
				w.(http.Flusher).Flush()
			}
			io.Copy(io.Discard, r.Body)
		}},
		{"a server that asks for the body late", func() io.Reader { return bytes.NewReader(make([]byte, size)) }, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Expect") == "" {
				time.Sleep(idle * 8 / 10)
			} else {
				time.Sleep(2 * idle)
			}
			io.Copy(io.Discard, r.Body)
		}},
	}
	for _, tc := range tests {
		for _, p := range protocols[:2] {
			t.Run(tc.name+", "+p.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					tr, url := p.serve(t, func(w http.ResponseWriter, r *http.Request) {
						if r.Method != "GET" {
							tc.h(w, r)
						}
					})
					// HTTP/2 reads larger pieces once it has the server's settings.
					if resp, err := tr.RoundTrip(newRequest(t, "GET", url, nil)); err != nil {
						t.Fatal(err)
					} else {
						readAll(t, resp)
					}
					tr.ExpectContinueTimeout = time.Hour
					rt := &httpretry.RetryTransport{Base: tr, Policy: httpretry.Never, IdleTimeout: idle, MinBytesPerSecond: 1}
					req := newRequest(t, "PUT", url, tc.body())
					if strings.Contains(tc.name, "late") && !p.http2 {
						req.Header.Set("Expect", "100-continue")
					}
					resp, err := rt.RoundTrip(req)
					if err != nil {
						t.Fatal(err)
					}
					readAll(t, resp)
				})
			})
		}
	}
}

// Before the header of some requests net/http reads a byte of the body, to find out
// whether there is one. It does not send it until the server asks for the body.
func TestIdleTimeout_ServerAsksForBodyLate(t *testing.T) {
	for _, method := range []string{"PUT", "DELETE", "OPTIONS"} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr, url := protocols[0].serve(t, func(w http.ResponseWriter, r *http.Request) {
					time.Sleep(2 * idle)
					io.Copy(io.Discard, r.Body)
				})
				tr.ExpectContinueTimeout = time.Hour
				rt := &httpretry.RetryTransport{Base: tr, Policy: httpretry.Never, IdleTimeout: idle}
				req := newRequest(t, method, url, io.MultiReader(bytes.NewReader(make([]byte, 1<<20))))
				req.Header.Set("Expect", "100-continue")
				resp, err := rt.RoundTrip(req)
				if err != nil {
					t.Fatalf("got %v, want no stall before the server asks for the body", err)
				}
				readAll(t, resp)
			})
		})
	}
}

// A Base may read copies, close bodies early, and send small ones in one write.
func TestIdleTimeout_UsesOfBody(t *testing.T) {
	tests := []struct {
		name  string
		size  int
		use   func(*testing.T, *http.Request) // before it waits for twice the limit
		stall bool
	}{
		{"a piece is read", 1 << 16, func(t *testing.T, req *http.Request) { req.Body.Read(make([]byte, 100)) }, true},
		{"nothing is read", 1 << 16, func(t *testing.T, req *http.Request) {}, false},
		{"Reads without space", 1 << 16, func(t *testing.T, req *http.Request) { req.Body.Read(nil) }, false},
		{"a piece of a copy is read", 1 << 16, func(t *testing.T, req *http.Request) {
			body, err := req.GetBody()
			if err != nil {
				t.Fatal(err)
			}
			body.Read(make([]byte, 100))
		}, true},
		{"a piece is read, and nothing into no space", 1 << 16, func(t *testing.T, req *http.Request) {
			req.Body.Read(make([]byte, 100))
			req.Body.Read(nil)
		}, true},
		{"a piece of a copy is read before the body is closed", 1 << 16, func(t *testing.T, req *http.Request) {
			req.Body.Read(make([]byte, 100))
			body, err := req.GetBody()
			if err != nil {
				t.Fatal(err)
			}
			body.Read(make([]byte, 100))
			req.Body.Close()
		}, true},
		{"a copy is read to its end, and a piece of the body", 1 << 16, func(t *testing.T, req *http.Request) {
			body, err := req.GetBody()
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, body)
			body.Close()
			req.Body.Read(make([]byte, 100))
		}, true},
		{"a piece is read, and the body closed", 1 << 16, func(t *testing.T, req *http.Request) {
			req.Body.Read(make([]byte, 100))
			req.Body.Close()
		}, false},
		{"all is read", 1 << 16, func(t *testing.T, req *http.Request) { io.Copy(io.Discard, req.Body) }, false},
		{"a small body", 1<<16 - 1, func(t *testing.T, req *http.Request) {
			if _, ok := req.Body.(io.WriterTo); !ok {
				t.Error("a small body of http.NewRequest is wrapped")
			}
			req.Body.Read(make([]byte, 100))
		}, false},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rt := &httpretry.RetryTransport{IdleTimeout: idle, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
					tc.use(t, req)
					select {
					case <-req.Context().Done():
						return nil, context.Cause(req.Context())
					case <-time.After(2 * idle):
						return response(req, 200, ""), nil
					}
				})}
				_, err := rt.RoundTrip(newRequest(t, "POST", "http://example.com/", bytes.NewReader(make([]byte, tc.size))))
				if tc.stall != (err != nil) {
					t.Errorf("got %v, want a stall: %t", err, tc.stall)
				}
				if tc.stall && err != nil && !strings.HasSuffix(err.Error(), " after 100") {
					t.Errorf("got %v, want the offset 100 in each copy", err)
				}
			})
		})
	}
}

// After the response header, a copy of the request body is not watched.
func TestIdleTimeout_CopyAfterResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent *http.Request
		rt := &httpretry.RetryTransport{IdleTimeout: idle, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			sent = req
			return response(req, 200, "abc"), nil
		})}
		resp, err := rt.RoundTrip(newRequest(t, "POST", "http://example.com/", bytes.NewReader(make([]byte, 1<<16))))
		if err != nil {
			t.Fatal(err)
		}
		body, err := sent.GetBody()
		if err != nil {
			t.Fatal(err)
		}
		body.Read(make([]byte, 100))
		time.Sleep(2 * idle)
		if err := context.Cause(sent.Context()); err != nil {
			t.Errorf("got %v, want the response to continue", err)
		}
		body.Close()
		readAll(t, resp)
	})
}

// A body that has ended or is closed keeps no memory until the limit has passed.
func TestIdleTimeout_FreesBody(t *testing.T) {
	for name, end := range map[string]func(io.ReadCloser){
		"end":   func(body io.ReadCloser) { io.Copy(io.Discard, body) },
		"Close": func(body io.ReadCloser) { body.Read(make([]byte, 1)); body.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			freed := make(chan struct{})
			func() {
				body := &rhythm{piece: 1, count: 2}
				runtime.AddCleanup(body, func(c chan struct{}) { close(c) }, freed)
				resp, err := returning(body, 0).RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
				if err != nil {
					t.Fatal(err)
				}
				end(resp.Body)
			}()
			for limit := time.After(idle / 10); ; {
				runtime.GC()
				select {
				case <-freed:
					return
				case <-limit:
					t.Fatal("the body is still in use")
				case <-time.After(time.Millisecond):
				}
			}
		})
	}
}

// zeroes is a body without an end.
type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { return len(p), nil }
func (zeroes) Close() error               { return nil }

func TestIdleTimeout_ReadAllocatesNothing(t *testing.T) {
	resp, err := returning(zeroes{}, 1).RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	buf := make([]byte, 512)
	if n := testing.AllocsPerRun(1000, func() { resp.Body.Read(buf) }); n != 0 {
		t.Errorf("a Read of the response allocates %v times, want none", n)
	}
	rt := &httpretry.RetryTransport{IdleTimeout: idle, MinBytesPerSecond: 1, Base: countedFunc(func(req *http.Request) (*http.Response, error) {
		if n := testing.AllocsPerRun(1000, func() { req.Body.Read(buf) }); n != 0 {
			t.Errorf("a Read of the request allocates %v times, want none", n)
		}
		return response(req, 200, ""), nil
	})}
	req := newRequest(t, "POST", "http://example.com/", bytes.NewReader(make([]byte, 1<<20)))
	if _, err := rt.RoundTrip(req); err != nil {
		t.Fatal(err)
	}
}

// A download that stalls is resumed at its offset, which the error names. A stall
// after new bytes starts the policy's count again.
func TestIdleTimeout_ResumesDownload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		content := pattern(50_000)
		silentAt := []int{1000, 1000, 40_000, len(content)}
		var attempts int
		tr, url := protocols[0].serve(t, func(w http.ResponseWriter, r *http.Request) {
			end := silentAt[attempts]
			attempts++
			serveFrom(w, r, content, end)
			if end < len(content) {
				fallSilent(r)
			}
		})
		var got []string
		rt := &httpretry.RetryTransport{Base: tr, Policy: now, ResumeDownloads: true, IdleTimeout: idle,
			OnAttempt: func(a httpretry.Attempt, d httpretry.Decision) { got = append(got, brief(a, d)) }}
		body, err := download(t, rt, newRequest(t, "GET", url, nil))
		if err != nil || body != string(content) {
			t.Errorf("got %d bytes, %v, want all %d", len(body), err, len(content))
		}
		want := []string{
			"1: <nil>: final, no retry (final)",
			"1: httpretry: response body stalled: no byte for 30s after 1000: uncertain, retry after 0s",
			"2: <nil>: final, no retry (final)",
			"2: httpretry: response body stalled: no byte for 30s after 1000: uncertain, retry after 0s",
			"3: <nil>: final, no retry (final)",
			"1: httpretry: response body stalled: no byte for 30s after 40000: uncertain, retry after 0s",
			"2: <nil>: final, no retry (final)",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("attempts (-want +got):\n%s", diff)
		}
	})
}

// firstByte returns the first byte that a request asks for.
func firstByte(r *http.Request) (first int) {
	fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &first)
	return first
}

// serveFrom sends content up to end, as a response that is to continue to the end
// of content.
func serveFrom(w http.ResponseWriter, r *http.Request, content []byte, end int) {
	first := firstByte(r)
	w.Header().Set("ETag", `"v1"`)
	w.Header().Set("Content-Length", fmt.Sprint(len(content)-first))
	if r.Header.Get("Range") != "" {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, len(content)-1, len(content)))
		w.WriteHeader(http.StatusPartialContent)
	}
	w.Write(content[first:end])
	w.(http.Flusher).Flush()
}

// A stallPlan is a transfer of TestIdleTimeout_SilentTransfers. The client and the
// server derive it from its number.
type stallPlan struct {
	content  []byte
	upload   bool
	repeats  bool  // it is resumed, or sent again
	silentAt []int // for each attempt, the byte after which the server is silent
}

func newStallPlan(n int, text []byte) stallPlan {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	p := stallPlan{upload: n%4 == 3, repeats: r.IntN(3) > 0}
	size := 2 + r.IntN(30_000)
	if p.upload {
		size += 200_000 // more than the buffers on the way
	}
	p.content = text[n%1000:][:size]
	at := 0
	for range 1 + r.IntN(2) {
		if p.upload {
			p.silentAt = append(p.silentAt, r.IntN(100_000))
			break
		}
		at += r.IntN((size - at + 1) / 2)
		p.silentAt = append(p.silentAt, at)
	}
	return p
}

// serve serves the attempt with the number n, from 0. It returns the number of
// bytes of content that it sent.
func (p stallPlan) serve(n int, w http.ResponseWriter, r *http.Request) int {
	silent := n < len(p.silentAt)
	switch {
	case p.upload && silent:
		io.CopyN(io.Discard, r.Body, int64(p.silentAt[n]))
		time.Sleep(2 * idle) // an HTTP/1 server would not notice that the client has gone
		return 0
	case p.upload:
		if got, err := io.ReadAll(r.Body); err != nil || !bytes.Equal(got, p.content) {
			w.WriteHeader(http.StatusTeapot)
		}
		return 0
	}
	end := len(p.content)
	if silent {
		end = p.silentAt[n]
	}
	serveFrom(w, r, p.content, end)
	if silent {
		fallSilent(r)
	}
	return end - firstByte(r)
}

// A stallServer serves the transfers of stallPlans by the number in their path.
type stallServer struct {
	text []byte

	mu       sync.Mutex
	attempts map[int]int
	sent     map[int]int
}

func (s *stallServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var n int
	fmt.Sscanf(r.URL.Path, "/%d", &n)
	s.mu.Lock()
	attempt := s.attempts[n]
	s.attempts[n]++
	s.mu.Unlock()
	sent := newStallPlan(n, s.text).serve(attempt, w, r)
	s.mu.Lock()
	s.sent[n] += sent
	s.mu.Unlock()
}

// transfer makes the transfer n and returns what is wrong with it.
func (s *stallServer) transfer(ctx context.Context, tr http.RoundTripper, url string, n int) error {
	p := newStallPlan(n, s.text)
	rt := &httpretry.RetryTransport{
		Base: tr, IdleTimeout: idle, MinBytesPerSecond: 100, Policy: now, ResumeDownloads: p.repeats,
	}
	method, body := "GET", io.Reader(nil)
	if p.upload {
		method, body = "PUT", bytes.NewReader(p.content)
		if !p.repeats {
			method = "POST"
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, fmt.Sprint(url, n), body)
	if err != nil {
		return err
	}
	start := time.Now()
	hash := sha256.New()
	resp, err := rt.RoundTrip(req)
	if err == nil {
		_, err = io.Copy(hash, resp.Body)
		resp.Body.Close()
	}
	stalls := 1
	if p.repeats {
		stalls = len(p.silentAt)
	}
	want := time.Duration(stalls) * idle
	if took := time.Since(start); took < want || took > want+100*time.Millisecond {
		return fmt.Errorf("took %v with %d stalls: %w", took, stalls, err)
	}
	var timeout net.Error
	switch {
	case !p.repeats && !(errors.As(err, &timeout) && strings.Contains(err.Error(), "stalled: no byte for 30s")):
		return fmt.Errorf("got %v, want the error of a stall", err)
	case !p.repeats:
		return nil
	case err != nil || resp.StatusCode/100 != 2:
		return fmt.Errorf("got %v, %w", resp, err)
	case !p.upload && [sha256.Size]byte(hash.Sum(nil)) != sha256.Sum256(p.content):
		return errors.New("the checksum is wrong")
	}
	return nil
}

func TestIdleTimeout_SilentTransfers(t *testing.T) {
	t.Parallel()
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &stallServer{text: pattern(300_000), attempts: make(map[int]int), sent: make(map[int]int)}
				tr, url := p.serve(t, s.ServeHTTP)
				for n := range *silentTransfers / len(protocols) {
					if err := s.transfer(t.Context(), tr, url, n); err != nil {
						t.Errorf("transfer %d: %+v: %v", n, newStallPlan(n, s.text).silentAt, err)
					}
				}
				synctest.Wait()
				s.mu.Lock()
				defer s.mu.Unlock()
				for n, sent := range s.sent {
					if p := newStallPlan(n, s.text); !p.upload && p.repeats && sent != len(p.content) {
						t.Errorf("transfer %d: the server sent %d bytes of %d", n, sent, len(p.content))
					}
				}
			})
		})
	}
}

// A slowPlan is a transfer of TestIdleTimeout_NoFalseAlarms, which never stalls.
type slowPlan struct {
	think  time.Duration   // before the response header
	gaps   []time.Duration // before the pieces of the body, on the server's side
	sleeps []time.Duration // before them, on the caller's side
	upload bool
}

func newSlowPlan(n int) slowPlan {
	r := rand.New(rand.NewPCG(2, uint64(n)))
	p := slowPlan{upload: n%4 == 3}
	if r.IntN(2) == 0 {
		p.think = 2 * idle
	}
	for range 1 + r.IntN(4) {
		gap, sleep := time.Duration(0), time.Duration(0)
		if r.IntN(4) > 0 {
			gap = time.Duration(r.Int64N(int64(idle) * 8 / 10))
		}
		if r.IntN(3) == 0 {
			sleep = 10 * idle
		}
		p.gaps, p.sleeps = append(p.gaps, gap), append(p.sleeps, sleep)
	}
	return p
}

// piece is the size of the pieces of slow transfers. That of uploads is larger
// than a piece that is watched.
func (p slowPlan) piece() int {
	if p.upload {
		return 50_000
	}
	return 4000
}

func serveSlowly(w http.ResponseWriter, r *http.Request) {
	var n int
	fmt.Sscanf(r.URL.Path, "/%d", &n)
	p := newSlowPlan(n)
	if p.upload {
		for _, gap := range p.gaps {
			time.Sleep(gap)
			io.CopyN(io.Discard, r.Body, int64(p.piece()))
		}
		io.Copy(io.Discard, r.Body)
		time.Sleep(p.think)
		return
	}
	time.Sleep(p.think)
	w.(http.Flusher).Flush()
	for _, gap := range p.gaps {
		time.Sleep(gap)
		w.Write(make([]byte, p.piece()))
		w.(http.Flusher).Flush()
	}
}

// transfer makes the transfer through rt.
func (p slowPlan) transfer(ctx context.Context, rt http.RoundTripper, url string) error {
	size := len(p.gaps) * p.piece()
	if !p.upload {
		req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
		if err != nil {
			return err
		}
		resp, err := rt.RoundTrip(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		for _, sleep := range p.sleeps {
			time.Sleep(sleep)
			if _, err := io.CopyN(io.Discard, resp.Body, int64(p.piece())); err != nil {
				return err
			}
		}
		_, err = resp.Body.Read(make([]byte, 1))
		if err == io.EOF {
			return nil
		}
		return fmt.Errorf("got %w at the end", err)
	}
	r, w := io.Pipe()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer r.Close()
	wg.Go(func() {
		for _, sleep := range p.sleeps {
			time.Sleep(sleep)
			w.Write(make([]byte, p.piece()))
		}
		w.Close()
	})
	req, err := http.NewRequestWithContext(ctx, "POST", url, r)
	if err != nil {
		return err
	}
	req.ContentLength = int64(size)
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func TestIdleTimeout_NoFalseAlarms(t *testing.T) {
	for i, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				tr, url := p.serve(t, serveSlowly)
				rt := &httpretry.RetryTransport{
					Base: tr, Policy: httpretry.Never, IdleTimeout: idle, MinBytesPerSecond: 10, ResumeDownloads: true,
				}
				for n := i; n < *slowTransfers; n += len(protocols) {
					n := n / len(protocols)
					if err := newSlowPlan(n).transfer(t.Context(), rt, fmt.Sprint(url, n)); err != nil {
						t.Errorf("transfer %d, %+v: %v", n, newSlowPlan(n), err)
					}
				}
			})
		})
	}
}
