package flaky_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/httpretry/httpretry/flaky"
)

// protocols are the kinds of server that a handler must work in.
var protocols = []string{"HTTP/1.1", "HTTP/1.1 over TLS", "HTTP/2"}

// overProtocols runs f as a subtest for each protocol.
func overProtocols(t *testing.T, f func(t *testing.T, protocol string)) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) { f(t, protocol) })
	}
}

// serve runs h on a loopback server. It fails the test if the server logs
// anything. It does not end while a handler runs.
func serve(t *testing.T, protocol string, h http.Handler) *httptest.Server {
	t.Helper()
	var noise syncBuffer
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = log.New(&noise, "", 0)
	switch protocol {
	case "HTTP/1.1":
		srv.Start()
	case "HTTP/1.1 over TLS":
		srv.StartTLS()
	case "HTTP/2":
		srv.EnableHTTP2 = true
		srv.StartTLS()
	}
	t.Cleanup(func() {
		srv.Close()
		if got := noise.String(); got != "" {
			t.Errorf("log of the server: got %q, want nothing", got)
		}
	})
	return srv
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// A StreamError has the fields of net/http's error for a reset HTTP/2 stream,
// whose As method sets it.
type StreamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (e StreamError) Error() string { return fmt.Sprintf("stream %d: code %d", e.StreamID, e.Code) }

// wasClosed reports whether err is the error of a client whose connection was
// closed, or whose HTTP/2 stream was reset, by http.ErrAbortHandler.
func wasClosed(protocol string, err error) bool {
	if protocol == "HTTP/2" {
		stream, ok := errors.AsType[StreamError](err)
		return ok && stream.Code == 2 // INTERNAL_ERROR
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

func wasReset(protocol string, err error) bool {
	if protocol == "HTTP/2" {
		return wasClosed(protocol, err)
	}
	return errors.Is(err, syscall.ECONNRESET)
}

// post sends "hello" and returns the response with its body, or the error of
// either. It uses a new connection, because net/http resends requests that fail
// on a reused one.
func post(t *testing.T, srv *httptest.Server) (*http.Response, string, error) {
	t.Helper()
	srv.Client().CloseIdleConnections()
	resp, err := srv.Client().Post(srv.URL+"/path", "text/plain", strings.NewReader("hello"))
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), err
}

func TestHandler_Status(t *testing.T) {
	overProtocols(t, func(t *testing.T, protocol string) {
		script := flaky.New(
			flaky.Status(503).WithHeader("Retry-After", "1").WithHeader("Retry-After", "2").WithBody("later"),
			flaky.Status(204).WithBody("ignored"),
			flaky.Pass(),
		)
		srv := serve(t, protocol, script.Handler(nil))

		type response struct {
			Proto      string
			Status     int
			RetryAfter []string
			Length     int64
			Body       string
		}
		proto := protocol[:len("HTTP/x")]
		want := []response{
			{proto, 503, []string{"1", "2"}, 5, "later"},
			{proto, 204, nil, 0, ""},
			{proto, 200, nil, 0, ""},
		}
		var got []response
		for range want {
			resp, body, err := post(t, srv)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, response{resp.Proto[:len(proto)], resp.StatusCode, resp.Header["Retry-After"], resp.ContentLength, body})
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("responses (-want +got):\n%s", diff)
		}
		r := script.Requests()[0]
		if r.Method != "POST" || r.URL.Path != "/path" || r.Host != srv.Listener.Addr().String() ||
			string(r.Body) != "hello" || r.BodyErr != nil || r.Header.Get("Content-Type") != "text/plain" {
			t.Errorf("recorded: got %+v, want the request as it was sent", r)
		}
	})
}

func TestHandler_HeadKeepsLength(t *testing.T) {
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	for name, step := range map[string]flaky.Step{
		"Status": flaky.Status(200).WithBody("hello").Truncate(1).Slow(1, time.Hour),
		"Pass":   flaky.Pass().Truncate(1).Slow(1, time.Hour),
	} {
		t.Run(name, func(t *testing.T) {
			overProtocols(t, func(t *testing.T, protocol string) {
				srv := serve(t, protocol, flaky.New(step).Handler(next))
				resp, err := srv.Client().Head(srv.URL)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.ContentLength != 5 {
					t.Errorf("ContentLength: got %d, want 5, as for GET", resp.ContentLength)
				}
			})
		})
	}
}

// A step that closes the connection does so before the response begins, and
// reads the request body first, except for Refuse.
func TestHandler_ClosesConnection(t *testing.T) {
	tests := []struct {
		name   string
		step   flaky.Step
		read   string
		failed func(protocol string, err error) bool
	}{
		{"Error", flaky.Error(errBroken), "hello", wasClosed},
		{"Reset", flaky.Reset(), "hello", wasReset},
		{"Refuse", flaky.Refuse(), "", func(protocol string, err error) bool {
			return wasClosed(protocol, err) || wasReset(protocol, err) // because the body was not read
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			overProtocols(t, func(t *testing.T, protocol string) {
				script := flaky.New(tt.step)
				srv := serve(t, protocol, script.Handler(nil))
				resp, _, err := post(t, srv)
				if resp != nil || !tt.failed(protocol, err) {
					t.Errorf("got response %v, error %v (%T), want the error of a connection closed by %s", resp, err, err, tt.name)
				}
				requests := script.Requests()
				if len(requests) != 1 || string(requests[0].Body) != tt.read {
					t.Errorf("recorded: got %+v, want one request with body %q", requests, tt.read)
				}
				if resp, _, err := post(t, srv); err != nil || resp.StatusCode != 200 {
					t.Errorf("after the failure: got %v, %v, want 200, nil", resp, err)
				}
			})
		})
	}
}

// Hang ends when the client disconnects, and when the server closes its
// connections.
func TestHandler_HangEndsWithConnection(t *testing.T) {
	for name, step := range map[string]flaky.Step{"Hang": flaky.Hang(), "Hang Early": flaky.Hang().Early()} {
		for _, ends := range []string{"client", "server"} {
			t.Run(name+"/"+ends, func(t *testing.T) {
				overProtocols(t, func(t *testing.T, protocol string) {
					arrived := make(chan struct{})
					ended := make(chan struct{})
					h := flaky.Func(func(int, *http.Request) flaky.Step {
						close(arrived)
						return step
					}).Handler(nil)
					srv := serve(t, protocol, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						defer close(ended)
						h.ServeHTTP(w, r)
					}))
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					go func() {
						<-arrived
						if ends == "client" {
							cancel()
						} else {
							srv.Config.Close()
						}
					}()
					// Larger than the buffers between client and server.
					body := bytes.NewReader(make([]byte, 8<<20))
					req, err := http.NewRequestWithContext(ctx, "POST", srv.URL, body)
					if err != nil {
						t.Fatal(err)
					}
					resp, err := srv.Client().Do(req)
					if err == nil {
						resp.Body.Close()
						t.Errorf("got status %d, want an error", resp.StatusCode)
					}
					<-ended
				})
			})
		}
	}
}

// An early response arrives before the client has sent its body.
func TestHandler_EarlyRespondsBeforeBody(t *testing.T) {
	overProtocols(t, func(t *testing.T, protocol string) {
		script := flaky.New(flaky.Status(413).WithBody("too large").Early())
		srv := serve(t, protocol, script.Handler(nil))
		pr, pw := io.Pipe()
		req, err := http.NewRequestWithContext(t.Context(), "POST", srv.URL, pr)
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = 5 // a server waits for a body as small as this
		resp, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if resp.StatusCode != 413 || string(body) != "too large" || err != nil {
			t.Errorf("got %d, %q, %v, want 413, %q, nil", resp.StatusCode, body, err, "too large")
		}
		_, _ = pw.Write([]byte("hello")) // the transport may have closed pr
		pw.Close()
		resp.Body.Close()
		if got := script.Requests()[0]; len(got.Body) != 0 || got.ContentLength != 5 {
			t.Errorf("recorded: got %q of %d bytes, want none of 5", got.Body, got.ContentLength)
		}
	})
}

// An early response to an upload larger than every buffer arrives whole, and so
// does the response to the next request.
func TestHandler_EarlyDeliversResponseToLargeUpload(t *testing.T) {
	overProtocols(t, func(t *testing.T, protocol string) {
		early := flaky.Status(503).WithBody("later").Early()
		script := flaky.New(early, early, flaky.Status(200).WithBody("thanks"))
		srv := serve(t, protocol, script.Handler(nil))
		sent := make([]byte, 8<<20)
		for _, want := range []string{"later", "later", "thanks"} {
			resp, err := srv.Client().Post(srv.URL, "", bytes.NewReader(sent))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if string(body) != want || err != nil {
				t.Errorf("got %d, %q, %v, want %q, nil", resp.StatusCode, body, err, want)
			}
		}
		var got []int64
		for _, r := range script.Requests() {
			got = append(got, r.BodySize)
		}
		if diff := cmp.Diff([]int64{0, 0, int64(len(sent))}, got); diff != "" {
			t.Errorf("bytes read (-want +got):\n%s", diff)
		}
	})
}

// The body is truncated at the same place however the handler writes it.
func TestHandler_TruncatesBody(t *testing.T) {
	writers := map[string]func(w http.ResponseWriter){
		"one write": func(w http.ResponseWriter) { _, _ = io.WriteString(w, "hello") },
		"declared": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "5")
			w.WriteHeader(http.StatusOK)
			_, _ = io.WriteString(w, "hello")
		},
		"flushed": func(w http.ResponseWriter) {
			for _, b := range []byte("hello") {
				_, _ = w.Write([]byte{b})
				w.(http.Flusher).Flush()
			}
		},
		"io.Copy": func(w http.ResponseWriter) { _, _ = io.Copy(w, strings.NewReader("hello")) },
	}
	tests := []struct {
		name   string
		n      int64
		want   string
		broken bool
	}{
		{"at 0", 0, "", true},
		{"inside", 3, "hel", true},
		{"at the last byte", 4, "hell", true},
		{"at the end", 5, "hello", false},
		{"after the end", 6, "hello", false},
	}
	for _, tt := range tests {
		check := func(t *testing.T, protocol string, step flaky.Step, next http.Handler) {
			srv := serve(t, protocol, flaky.New(step).Handler(next))
			resp, body, err := post(t, srv)
			if resp == nil {
				t.Fatalf("got %v, want a response with a truncated body", err)
			}
			if body != tt.want || tt.broken != wasClosed(protocol, err) || !tt.broken && err != nil {
				t.Errorf("body: got %q, %v, want %q, truncated %v", body, err, tt.want, tt.broken)
			}
		}
		t.Run(tt.name+"/Status", func(t *testing.T) {
			overProtocols(t, func(t *testing.T, protocol string) {
				check(t, protocol, flaky.Status(500).WithBody("hello").Truncate(tt.n), nil)
			})
		})
		for name, write := range writers {
			t.Run(tt.name+"/Pass/"+name, func(t *testing.T) {
				overProtocols(t, func(t *testing.T, protocol string) {
					check(t, protocol, flaky.Pass().Truncate(tt.n), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { write(w) }))
				})
			})
		}
	}
}

// After the truncation of a response, its handler's writes fail and the context
// of its request is done.
func TestHandler_TruncationFailsNext(t *testing.T) {
	overProtocols(t, func(t *testing.T, protocol string) {
		type outcome struct {
			N     int
			Err   error
			Again error
			Cause error
		}
		outcomes := make(chan outcome, 1)
		next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n, err := io.WriteString(w, "hello")
			<-r.Context().Done()
			_, again := io.WriteString(w, "hello")
			outcomes <- outcome{n, err, again, context.Cause(r.Context())}
		})
		srv := serve(t, protocol, flaky.New(flaky.Pass().Truncate(3)).Handler(next))
		_, _, _ = post(t, srv)
		want := outcome{3, http.ErrAbortHandler, http.ErrAbortHandler, http.ErrAbortHandler}
		if diff := cmp.Diff(want, <-outcomes, cmp.Comparer(func(a, b error) bool { return a == b })); diff != "" {
			t.Errorf("results of the handler (-want +got):\n%s", diff)
		}
	})
}

// The wrapper of Truncate and Slow hides no feature of the ResponseWriter.
func TestHandler_WrapperKeepsResponseWriter(t *testing.T) {
	overProtocols(t, func(t *testing.T, protocol string) {
		next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if string(body) != "hello" || err != nil {
				t.Errorf("request body: got %q, %v, want %q, nil", body, err, "hello")
			}
			rc := http.NewResponseController(w)
			if err := rc.SetWriteDeadline(time.Now().Add(time.Hour)); err != nil {
				t.Errorf("SetWriteDeadline: got %v, want nil", err)
			}
			w.Header().Set("Link", "early")
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusNoContent)
			if _, err := w.Write([]byte("x")); err != http.ErrBodyNotAllowed {
				t.Errorf("Write after a 204: got %v, want %v", err, http.ErrBodyNotAllowed)
			}
			if err := rc.Flush(); err != nil {
				t.Errorf("Flush: got %v, want nil", err)
			}
		})
		script := flaky.New(flaky.Pass().Truncate(0).Slow(1, time.Hour))
		srv := serve(t, protocol, script.Handler(next))
		if resp, _, err := post(t, srv); err != nil || resp.StatusCode != 204 {
			t.Errorf("got %v, %v, want 204, nil", resp, err)
		}
		if got := string(script.Requests()[0].Body); got != "hello" {
			t.Errorf("recorded body: got %q, want the part that the handler read", got)
		}
	})
}

// A handler can hijack the connection through the wrapper.
func TestHandler_WrapperAllowsHijack(t *testing.T) {
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Errorf("Hijack: got %v, want nil", err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
	})
	srv := serve(t, "HTTP/1.1", flaky.New(flaky.Pass().Truncate(1)).Handler(next))
	if _, body, err := post(t, srv); body != "hello" || err != nil {
		t.Errorf("body: got %q, %v, want %q, nil", body, err, "hello")
	}
}

// A panic of the next handler reaches the server.
func TestHandler_PassesPanicOfNext(t *testing.T) {
	overProtocols(t, func(t *testing.T, protocol string) {
		next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		srv := serve(t, protocol, flaky.New(flaky.Pass().Slow(1, 0)).Handler(next))
		if _, _, err := post(t, srv); !wasClosed(protocol, err) {
			t.Errorf("got %v, want a connection that was closed", err)
		}
	})
}

// A pipeListener accepts connections in memory, so that a server can run in a
// synctest bubble.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// inVirtualTime runs f in a synctest bubble with a client of a server that runs
// h.
func inVirtualTime(t *testing.T, h http.Handler, f func(t *testing.T, client *http.Client)) {
	synctest.Test(t, func(t *testing.T) {
		var noise syncBuffer
		ln := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
		srv := &http.Server{Handler: h, ErrorLog: log.New(&noise, "", 0)}
		go srv.Serve(ln)
		transport := &http.Transport{DialContext: ln.dial}
		f(t, &http.Client{Transport: transport})
		transport.CloseIdleConnections()
		if err := srv.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown: got %v, want nil", err)
		}
		if got := noise.String(); got != "" {
			t.Errorf("log of the server: got %q, want nothing", got)
		}
	})
}

func TestHandler_Waits(t *testing.T) {
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hel")
		_, _ = io.WriteString(w, "lo")
	})
	tests := []struct {
		name   string
		reason string
		step   flaky.Step
		header time.Duration // from the request to the header of the response
		body   time.Duration // from the header to the end of the body
		want   string
		err    error
	}{
		{"After", "before the response", flaky.Status(200).WithBody("hello").After(time.Second), time.Second, 0, "hello", nil},
		{"Pass After", "before the handler runs", flaky.Pass().After(time.Second), time.Second, 0, "hello", nil},
		{"Slow", "between chunks", flaky.Status(200).WithBody("hello").Slow(2, time.Second), 0, 2 * time.Second, "hello", nil},
		{"Pass Slow", "chunks do not depend on writes", flaky.Pass().Slow(2, time.Second), 0, 2 * time.Second, "hello", nil},
		{"whole chunks", "no wait after the last", flaky.Status(200).WithBody("hell").Slow(2, time.Second), 0, time.Second, "hell", nil},
		{"Slow Truncate", "they combine", flaky.Pass().Slow(1, time.Second).Truncate(3), 0, 2 * time.Second, "hel", io.ErrUnexpectedEOF},
		{"all", "all of them combine", flaky.Status(503).WithBody("hello").After(time.Second).Slow(1, time.Second).Truncate(2),
			time.Second, time.Second, "he", io.ErrUnexpectedEOF},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inVirtualTime(t, flaky.New(tt.step).Handler(next), func(t *testing.T, client *http.Client) {
				start := time.Now()
				resp, err := client.Get("http://example.test/")
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if got := time.Since(start); got != tt.header {
					t.Errorf("header (%s): arrived after %v, want %v", tt.reason, got, tt.header)
				}
				got, err := io.ReadAll(resp.Body)
				if string(got) != tt.want || err != tt.err {
					t.Errorf("body (%s): got %q, %v, want %q, %v", tt.reason, got, err, tt.want, tt.err)
				}
				if got := time.Since(start) - tt.header; got != tt.body {
					t.Errorf("body (%s): took %v, want %v", tt.reason, got, tt.body)
				}
			})
		})
	}
}

// A handler reads a request body at the pace of its step, before it responds or
// when the handler that it passes the request to reads.
func TestHandler_SlowsRequest(t *testing.T) {
	next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	for name, step := range map[string]flaky.Step{
		"Status": flaky.Status(200).WithBody("hello").SlowRequest(2, time.Second),
		"Pass":   flaky.Pass().SlowRequest(2, time.Second),
	} {
		t.Run(name, func(t *testing.T) {
			inVirtualTime(t, flaky.New(step).Handler(next), func(t *testing.T, client *http.Client) {
				start := time.Now()
				resp, err := client.Post("http://example.test/", "", strings.NewReader("hello"))
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if took := time.Since(start); string(got) != "hello" || err != nil || took != 2*time.Second {
					t.Errorf("got %q, %v after %v, want hello after 2s", got, err, took)
				}
			})
		})
	}
}

// A wait in a handler ends when the client disconnects, so that the server can
// shut down.
func TestHandler_WaitEndsWithClient(t *testing.T) {
	for name, step := range map[string]flaky.Step{
		"After": flaky.Status(200).After(24 * time.Hour),
		"Slow":  flaky.Status(200).WithBody("hello").Slow(1, 24*time.Hour),
		"Stall": flaky.Status(200).WithBody("hello").Stall(1),
		"Hang":  flaky.Hang(),
	} {
		t.Run(name, func(t *testing.T) {
			var start time.Time
			inVirtualTime(t, flaky.New(step).Handler(nil), func(t *testing.T, client *http.Client) {
				start = time.Now()
				client.Timeout = time.Minute
				resp, err := client.Get("http://example.test/")
				if err == nil {
					_, err = io.ReadAll(resp.Body)
					resp.Body.Close()
				}
				if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
					t.Errorf("got %v, want a timeout", err)
				}
				t.Cleanup(func() {
					// Shutdown polls for idle connections, at most every 500 ms.
					if got := time.Since(start); got < time.Minute || got > 2*time.Minute {
						t.Errorf("Shutdown returned after %v, want a little over 1m", got)
					}
				})
			})
		})
	}
}

// net/http resends an idempotent request whose reused connection was closed, as
// the comment of Requests says.
func TestHandler_SeesResentRequests(t *testing.T) {
	script := flaky.New(flaky.Pass(), flaky.Error(errBroken), flaky.Status(404))
	srv := serve(t, "HTTP/1.1", script.Handler(nil))
	for _, want := range []int{200, 404} {
		resp, err := srv.Client().Get(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("status: got %d, want %d", resp.StatusCode, want)
		}
	}
	if got := len(script.Requests()); got != 3 {
		t.Errorf("recorded requests: got %d, want 3, since net/http resends one", got)
	}
}
