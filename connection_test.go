package httpretry_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
)

var healthyCalls = flag.Int("connection.calls", 2000, "calls that TestFreshConnections_HealthyConnection makes")

// silence is the timeout of attempts. Time in these tests is virtual and passes only
// while nothing can happen, so an attempt that is served never meets it.
const silence = time.Second

// A deadLine is between the connections of a Transport and their server. It can stop
// to forward what they send and receive, without closing them.
type deadLine struct {
	mu    sync.Mutex
	lines []*line
	done  sync.WaitGroup
}

// A line is a connection of a deadLine.
type line struct {
	client, server net.Conn
	dead           atomic.Bool
	ended          chan struct{} // closed when one of the two has closed it
}

// serveOverLine is serve with a deadLine on the way.
func (p protocol) serveOverLine(t *testing.T, h http.HandlerFunc) (*deadLine, string, *http.Transport) {
	tr, url := p.serve(t, h)
	d, dial := new(deadLine), tr.DialContext
	tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		server, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return d.connect(server), nil
	}
	t.Cleanup(d.close)
	return d, url, tr
}

// connect returns a connection that leads to server.
func (d *deadLine) connect(server net.Conn) net.Conn {
	conn, client := net.Pipe()
	l := &line{client: client, server: server, ended: make(chan struct{})}
	d.mu.Lock()
	d.lines = append(d.lines, l)
	d.mu.Unlock()
	d.done.Go(func() { l.forward(server, client) })
	d.done.Go(func() {
		defer close(l.ended)
		l.forward(client, server)
	})
	return conn
}

func (d *deadLine) close() {
	d.mu.Lock()
	for _, l := range d.lines {
		l.client.Close()
		l.server.Close()
	}
	d.mu.Unlock()
	d.done.Wait()
}

func (l *line) forward(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if l.dead.Load() {
			if err != nil {
				return
			}
			continue
		}
		if err == nil {
			_, err = to.Write(buf[:n]) // a pipe returns no bytes with an error
		}
		if err != nil {
			to.Close()
			from.Close()
			return
		}
	}
}

// freeze makes the connections that exist dead.
func (d *deadLine) freeze() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.lines {
		l.dead.Store(true)
	}
}

// opened returns the number of connections so far.
func (d *deadLine) opened() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.lines)
}

// passThrough returns a RoundTripper between a RetryTransport and a Transport.
func passThrough(below http.RoundTripper) http.RoundTripper {
	return roundTripFunc(func(req *http.Request) (*http.Response, error) {
		return below.RoundTrip(req.Clone(req.Context()))
	})
}

// bases are the ways to use a Transport as a Base.
var bases = map[string]func(*http.Transport) http.RoundTripper{
	"Transport":        func(tr *http.Transport) http.RoundTripper { return tr },
	"below middleware": func(tr *http.Transport) http.RoundTripper { return passThrough(httpretry.FreshConnections(tr)) },
}

func fetchOver(client *http.Client, url string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// A connection that no longer forwards anything costs one attempt of each call that
// used it, and is replaced by one other.
func TestFreshConnections_DeadConnection(t *testing.T) {
	t.Parallel()
	const interval = 2 * silence / 5
	for name, base := range bases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d, url, tr := protocols[3].serveOverLine(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
				client := &http.Client{Transport: &httpretry.RetryTransport{
					Base: base(tr), AttemptTimeout: silence, Policy: httpretry.RetryConfig{MaxRetries: 1, InitialBackoff: time.Millisecond},
				}}
				for range 3 {
					if err := fetchOver(client, url); err != nil {
						t.Fatal(err)
					}
				}
				d.freeze()
				var calls sync.WaitGroup
				for range 5 {
					calls.Go(func() {
						if err := fetchOver(client, url); err != nil {
							t.Errorf("got error %v, want a second attempt over another connection", err)
						}
					})
					time.Sleep(interval)
				}
				calls.Wait()
				if got := d.opened(); got != 2 {
					t.Errorf("got %d connections, want one and its successor", got)
				}
			})
		})
	}
}

func TestFreshConnections_HealthyConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, url, tr := protocols[3].serveOverLine(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Fail") != "" {
				w.WriteHeader(500)
			}
		})
		client := &http.Client{Transport: &httpretry.RetryTransport{Base: tr, AttemptTimeout: time.Minute, Policy: now}}
		for i := range *healthyCalls {
			if err := fetchOver(client, url); err != nil {
				t.Fatalf("call %d: %v", i+1, err)
			}
		}
		// Neither do failures other than timeouts retire a connection.
		once := &http.Client{Transport: &httpretry.RetryTransport{Base: tr, Policy: httpretry.RetryConfig{MaxRetries: 3, InitialBackoff: time.Microsecond}}}
		req := newRequest(t, "GET", url, nil)
		req.Header.Set("X-Fail", "1")
		resp, err := once.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := d.opened(); got != 1 {
			t.Errorf("%d calls opened %d connections, want 1", *healthyCalls+1, got)
		}
	})
}

// A connection whose peer is only slow serves its other requests to the end, and
// is closed after that.
func TestFreshConnections_KeepsOtherRequests(t *testing.T) {
	t.Parallel()
	for _, p := range []protocol{protocols[1], protocols[3]} {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var hung atomic.Bool
				var requests atomic.Int32
				proceed := make(chan struct{})
				closed := make(chan struct{})
				d, url, tr := p.serveOverLine(t, func(w http.ResponseWriter, r *http.Request) {
					requests.Add(1)
					switch r.URL.Path {
					case "/stream":
						io.WriteString(w, "begun ")
						http.NewResponseController(w).Flush()
						<-proceed
						io.WriteString(w, "ended")
					case "/hangs":
						if !hung.Swap(true) {
							<-r.Context().Done()
						}
					}
				})
				dial := tr.DialContext
				first := true
				tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					c, err := dial(ctx, network, addr)
					if err == nil && first {
						first = false
						c = &closingConn{Conn: c, closed: closed}
					}
					return c, err
				}
				stream, err := (&http.Client{Transport: tr}).Get(url + "stream")
				if err != nil {
					t.Fatal(err)
				}
				defer stream.Body.Close()
				client := &http.Client{Transport: &httpretry.RetryTransport{Base: tr, AttemptTimeout: silence, Policy: now}}
				if err := fetchOver(client, url+"hangs"); err != nil {
					t.Fatal(err)
				}
				if err := fetchOver(&http.Client{Transport: tr}, url); err != nil {
					t.Fatal(err)
				}
				if got := d.opened(); got != 2 {
					t.Errorf("got %d connections, want 2: new requests use the one of the retry", got)
				}
				select {
				case <-closed:
					t.Error("the connection was closed although a request uses it")
				default:
				}
				close(proceed)
				if b, err := io.ReadAll(stream.Body); string(b) != "begun ended" || err != nil {
					t.Errorf("got %q, %v, want all of the other response", b, err)
				}
				stream.Body.Close()
				<-closed
				if got := requests.Load(); got != 4 {
					t.Errorf("the server got %d requests, want 4: the stream, two attempts, and the last one", got)
				}
			})
		})
	}
}

// A closingConn closes a channel when it is closed.
type closingConn struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (c *closingConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// Over HTTP/1.1, idle connections to a peer that disappeared are not used for a
// retry, but one that was used since then is.
func TestFreshConnections_IdleHTTP1Connections(t *testing.T) {
	t.Parallel()
	for _, p := range protocols[2:3] {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var together sync.WaitGroup
				d, url, tr := p.serveOverLine(t, func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/together" {
						together.Done()
						together.Wait()
					}
				})
				const n = 4
				tr.MaxIdleConnsPerHost = n
				together.Add(n)
				var calls sync.WaitGroup
				for range n {
					calls.Go(func() {
						if err := fetchOver(&http.Client{Transport: tr}, url+"together"); err != nil {
							t.Error(err)
						}
					})
				}
				calls.Wait()
				d.freeze()
				time.Sleep(silence) // they are idle for a while
				var reused, addrs []string
				client := &http.Client{Transport: &httpretry.RetryTransport{
					Base: tr, AttemptTimeout: silence, Policy: httpretry.RetryConfig{MaxRetries: 1, InitialBackoff: time.Millisecond},
					OnAttempt: func(a httpretry.Attempt, d httpretry.Decision) {
						reused, addrs = append(reused, fmt.Sprint(a.ConnReused)), append(addrs, a.RemoteAddr)
					},
				}}
				if err := fetchOver(client, url); err != nil {
					t.Errorf("got error %v, want a retry over a new connection: %d idle ones are dead", err, n-1)
				}
				if got := d.opened(); got != n+1 {
					t.Errorf("got %d connections, want %d", got, n+1)
				}
				if len(addrs) != 2 || addrs[0] != "" || addrs[1] != "pipe" || reused[1] != "false" {
					t.Errorf("got addresses %q and reused %q, want those of the retry alone", addrs, reused)
				}
			})
		})
	}
}

// An idle connection that was used after the attempt began is not dead.
func TestFreshConnections_UsesLiveHTTP1Connection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hung := make(chan struct{})
		d, url, tr := protocols[0].serveOverLine(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/hangs" && r.Header.Get("X-Number") == "1" {
				close(hung)
				<-r.Context().Done()
			}
		})
		numbered := roundTripFunc(func(req *http.Request) (*http.Response, error) {
			r := req.Clone(req.Context())
			r.Header.Set("X-Number", strconv.Itoa(httpretry.AttemptNumber(req.Context())))
			return httpretry.FreshConnections(tr).RoundTrip(r)
		})
		var last httpretry.Attempt
		client := &http.Client{Transport: &httpretry.RetryTransport{
			Base: numbered, AttemptTimeout: silence, Policy: now,
			OnAttempt: func(a httpretry.Attempt, _ httpretry.Decision) { last = a },
		}}
		var others sync.WaitGroup
		others.Go(func() {
			<-hung
			time.Sleep(silence / 2)
			if err := fetchOver(&http.Client{Transport: tr}, url); err != nil {
				t.Error(err)
			}
		})
		if err := fetchOver(client, url+"hangs"); err != nil {
			t.Error(err)
		}
		others.Wait()
		if got := d.opened(); got != 2 || !last.ConnReused || last.RemoteAddr != "pipe" {
			t.Errorf("got %d connections, and a retry over one to %q that was reused: %v, want 2, pipe and true", got, last.RemoteAddr, last.ConnReused)
		}
	})
}

// A body that can't be sent again is not sent over a connection that is closed.
func TestFreshConnections_BodyThatCannotBeSentAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var together sync.WaitGroup
		together.Add(2)
		_, url, tr := protocols[0].serveOverLine(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/together":
				together.Done()
				together.Wait()
			case r.Header.Get("X-Number") == "1":
				io.Copy(io.Discard, r.Body) // or the end of the connection is not noticed
				<-r.Context().Done()
			default:
				io.Copy(w, r.Body)
			}
		})
		var calls sync.WaitGroup
		for range 2 {
			calls.Go(func() {
				if err := fetchOver(&http.Client{Transport: tr}, url+"together"); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
		time.Sleep(silence) // they are idle for a while
		base := roundTripFunc(func(req *http.Request) (*http.Response, error) {
			r := req.Clone(req.Context())
			r.Header.Set("X-Number", strconv.Itoa(httpretry.AttemptNumber(req.Context())))
			r.Body, r.GetBody = struct{ io.ReadCloser }{req.Body}, nil // as middleware that compresses does
			return httpretry.FreshConnections(tr).RoundTrip(r)
		})
		client := &http.Client{Transport: &httpretry.RetryTransport{
			Base: base, AttemptTimeout: silence, Policy: httpretry.RetryConfig{MaxRetries: 1, InitialBackoff: time.Millisecond},
		}}
		resp, err := client.Do(newRequest(t, "PUT", url, strings.NewReader("hello")))
		if err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, resp); got != "hello" {
			t.Errorf("got %q, want the body of the request", got)
		}
	})
}

// A retry with a body of its own can be sent over another connection too.
func TestFreshConnections_RequestBody(t *testing.T) {
	t.Parallel()
	for _, p := range protocols[2:] {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d, url, tr := p.serveOverLine(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
				client := &http.Client{Transport: &httpretry.RetryTransport{Base: tr, AttemptTimeout: silence, Policy: now}}
				if err := fetchOver(client, url); err != nil {
					t.Fatal(err)
				}
				d.freeze()
				req := newRequest(t, "PUT", url, io.MultiReader(strings.NewReader("hello")))
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				if got := readAll(t, resp); got != "hello" {
					t.Errorf("got %q, want the body of the request", got)
				}
			})
		})
	}
}

// A deafConn is a connection whose peer does not even read, from some moment on.
type deafConn struct {
	net.Conn
	deaf   atomic.Bool
	once   sync.Once
	writes chan struct{} // closed when a Write blocks
	closed chan struct{} // by the test
}

func (c *deafConn) Write(b []byte) (int, error) {
	if !c.deaf.Load() {
		return c.Conn.Write(b)
	}
	c.once.Do(func() { close(c.writes) })
	<-c.closed
	return 0, net.ErrClosed
}

// A connection whose peer does not even read can't be retired while the header of
// another request waits. A retry then has a connection of its own.
//
// While a write blocks, net/http waits for a mutex, and virtual time would not pass.
// But the limit of the first attempt is always met, and that of the second never.
func TestFreshConnections_BlockedConnection(t *testing.T) {
	t.Parallel()
	limits := []time.Duration{50 * time.Millisecond, time.Minute}
	d, url, tr := protocols[3].serveOverLine(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	var first *deafConn
	dial := tr.DialContext
	tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err == nil && first == nil {
			first = &deafConn{Conn: c, writes: make(chan struct{}), closed: make(chan struct{})}
			c = first
		}
		return c, err
	}
	if err := fetchOver(&http.Client{Transport: tr}, url); err != nil {
		t.Fatal(err)
	}
	first.deaf.Store(true)
	defer close(first.closed)
	ctx, cancel := context.WithCancel(t.Context())
	var other sync.WaitGroup
	defer other.Wait()
	defer cancel()
	other.Go(func() {
		if resp, err := tr.RoundTrip(newRequest(t, "GET", url, nil).WithContext(ctx)); err == nil {
			resp.Body.Close()
		}
	})
	<-first.writes
	client := &http.Client{Transport: &httpretry.RetryTransport{
		Policy: httpretry.RetryConfig{MaxRetries: 1, InitialBackoff: time.Millisecond},
		Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			ctx, cancel := context.WithTimeout(req.Context(), limits[httpretry.AttemptNumber(req.Context())-1])
			t.Cleanup(cancel) // the response is read after RoundTrip
			return httpretry.FreshConnections(tr).RoundTrip(req.WithContext(ctx))
		}),
	}}
	resp, err := client.Do(newRequest(t, "PUT", url, strings.NewReader("hello")))
	if err != nil {
		t.Fatalf("got error %v, want a retry over another connection", err)
	}
	if got := readAll(t, resp); got != "hello" {
		t.Errorf("got %q, want the body of the request", got)
	}
	if got := d.opened(); got != 2 {
		t.Fatalf("got %d connections, want 2", got)
	}
	<-d.lines[1].ended // it is closed with the response
}

// The caller's trace sees the connections of its requests, and no others.
func TestFreshConnections_KeepsTrace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, url, tr := protocols[3].serveOverLine(t, func(w http.ResponseWriter, r *http.Request) {})
		client := &http.Client{Transport: &httpretry.RetryTransport{Base: tr, AttemptTimeout: silence, Policy: now}}
		if err := fetchOver(client, url); err != nil {
			t.Fatal(err)
		}
		d.freeze()
		var got []bool
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			GotConn: func(info httptrace.GotConnInfo) { got = append(got, info.Reused) },
		})
		resp, err := client.Do(newRequest(t, "GET", url, nil).WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if len(got) != 2 || !got[0] || got[1] {
			t.Errorf("the trace got connections that were reused: %v, want [true false]", got)
		}
	})
}

// A RetryTransport above another one tells it about its attempts.
func TestFreshConnections_NestedTransports(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, url, tr := protocols[3].serveOverLine(t, func(w http.ResponseWriter, r *http.Request) {})
		inner := &httpretry.RetryTransport{Base: tr, Policy: httpretry.Never}
		client := &http.Client{Transport: &httpretry.RetryTransport{Base: inner, AttemptTimeout: silence, Policy: now}}
		if err := fetchOver(client, url); err != nil {
			t.Fatal(err)
		}
		d.freeze()
		if err := fetchOver(client, url); err != nil {
			t.Error(err)
		}
		if got := d.opened(); got != 2 {
			t.Errorf("got %d connections, want 2", got)
		}
	})
}

// A download whose connection falls silent is resumed over another one.
func TestFreshConnections_StalledDownload(t *testing.T) {
	t.Parallel()
	for _, p := range protocols[2:] {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				content := pattern(1 << 20)
				begun := make(chan struct{}, 2)
				var proceed atomic.Bool
				d, url, tr := p.serveOverLine(t, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("ETag", `"v1"`)
					if !proceed.Swap(true) {
						w.Header().Set("Content-Length", strconv.Itoa(len(content)))
						w.Write(content[:1000])
						http.NewResponseController(w).Flush()
						begun <- struct{}{}
						<-r.Context().Done()
						return
					}
					http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
				})
				client := &http.Client{Transport: &httpretry.RetryTransport{Base: tr, ResumeDownloads: true, IdleTimeout: silence, Policy: now}}
				resp, err := client.Get(url)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if _, err := io.ReadFull(resp.Body, make([]byte, 1000)); err != nil {
					t.Fatal(err)
				}
				<-begun
				d.freeze()
				if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, content[1000:]) {
					t.Errorf("got %d bytes and error %v, want the rest", len(got), err)
				}
				if got := d.opened(); got < 2 {
					t.Errorf("got %d connections, want another one", got)
				}
			})
		})
	}
}

// Failures other than timeouts retire no connection.
func TestFreshConnections_OtherFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		failures := map[string]error{
			"reset":        &net.OpError{Op: "read", Err: syscall.ECONNRESET},
			"dial timeout": &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded},
		}
		for name, failure := range failures {
			d, url, tr := protocols[3].serveOverLine(t, func(w http.ResponseWriter, r *http.Request) {})
			base := roundTripFunc(func(req *http.Request) (*http.Response, error) {
				resp, err := httpretry.FreshConnections(tr).RoundTrip(req)
				if err == nil && httpretry.AttemptNumber(req.Context()) < 3 {
					resp.Body.Close()
					return nil, failure
				}
				return resp, err
			})
			if err := fetchOver(&http.Client{Transport: &httpretry.RetryTransport{Base: base, Policy: now}}, url); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if got := d.opened(); got != 1 {
				t.Errorf("%s: got %d connections, want 1", name, got)
			}
		}
	})
}

// Retiring the connections to a host that has none causes no dial.
func TestFreshConnections_DoesNotDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int32
		errDial := errors.New("dial")
		for _, url := range []string{"https://example.com/", "http://example.com/", "http://[::1]:8080/"} {
			tr := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: new(tls.Config), DialContext: func(context.Context, string, string) (net.Conn, error) {
				dials.Add(1)
				return nil, errDial
			}}
			n := 0
			base := roundTripFunc(func(req *http.Request) (*http.Response, error) {
				if n++; n == 1 {
					<-req.Context().Done()
					return nil, context.Cause(req.Context())
				}
				return httpretry.FreshConnections(tr).RoundTrip(req)
			})
			once := httpretry.RetryConfig{MaxRetries: 1, InitialBackoff: time.Millisecond}
			rt := &httpretry.RetryTransport{Base: base, AttemptTimeout: silence, Policy: once}
			if _, err := rt.RoundTrip(newRequest(t, "GET", url, nil)); err == nil {
				t.Errorf("%s: got no error", url)
			}
			if got := dials.Swap(0); got != 1 {
				t.Errorf("%s: got %d dials, want that of the second attempt alone", url, got)
			}
		}
	})
}

func TestFreshConnections_ForwardsCloseIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, url, tr := protocols[0].serveOverLine(t, func(w http.ResponseWriter, r *http.Request) {})
		client := &http.Client{Transport: &httpretry.RetryTransport{Base: httpretry.FreshConnections(tr), Policy: now}}
		for range 2 {
			if err := fetchOver(client, url); err != nil {
				t.Fatal(err)
			}
			client.CloseIdleConnections()
		}
		if got := d.opened(); got != 2 {
			t.Errorf("got %d connections, want 2: CloseIdleConnections closes the first", got)
		}
	})
}
