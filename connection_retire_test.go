package httpretry_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
)

// The tests of this file use net/http over pipes in virtual time.

// tlsClose is enough for both ends of a pipe with TLS to close it at the same time.
const tlsClose = 10 * time.Second

// A mortalConn is a client's end of a connection whose peer can disappear.
type mortalConn struct {
	net.Conn
	dead   atomic.Bool // what is written is lost
	closed atomic.Bool
}

func (c *mortalConn) Write(p []byte) (int, error) {
	if c.dead.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *mortalConn) Close() error {
	c.closed.Store(true)
	return c.Conn.Close()
}

// mortals are the connections of a Transport.
type mortals struct {
	mu    sync.Mutex
	conns []*mortalConn
}

// newMortals returns the connections that tr will dial.
func newMortals(t *testing.T, tr *http.Transport) *mortals {
	m := new(mortals)
	t.Cleanup(func() { time.Sleep(tlsClose) })
	dial := tr.DialContext
	tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		c := &mortalConn{Conn: conn}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.conns = append(m.conns, c)
		return c, nil
	}
	return m
}

// kill makes the peers of the connections that exist disappear.
func (m *mortals) kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.conns {
		c.dead.Store(true)
	}
}

// opened returns the number of connections so far.
func (m *mortals) opened() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.conns)
}

// closed returns how many of them the client has closed.
func (m *mortals) closed() (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.conns {
		if c.closed.Load() {
			n++
		}
	}
	return n
}

// atMost makes up to n retries.
func atMost(n int) httpretry.Policy {
	return httpretry.RetryConfig{MaxRetries: n, InitialBackoff: time.Millisecond, JitterFraction: -1}
}

// A connection is dead whatever a Classifier says about the timeout.
func TestFreshConnections_VerdictOfClassifier(t *testing.T) {
	for _, outcome := range []httpretry.Outcome{httpretry.Unprocessed, httpretry.Uncertain} {
		for _, p := range protocols {
			t.Run(p.name+" "+outcomeNames[outcome], func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					tr, url := p.serve(t, func(http.ResponseWriter, *http.Request) {})
					conns := newMortals(t, tr)
					client := &http.Client{Transport: &httpretry.RetryTransport{
						Base: tr, AttemptTimeout: time.Second, Policy: atMost(1),
						Classifier: func(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
							if err != nil {
								return httpretry.Verdict{Outcome: outcome}
							}
							return httpretry.Verdict{}
						},
					}}
					if err := fetchOver(client, url); err != nil {
						t.Fatal(err)
					}
					conns.kill()
					if err := fetchOver(client, url); err != nil {
						t.Errorf("got error %v, want a retry over another connection", err)
					}
				})
			})
		}
	}
}

// A connection is dead too if its response has a status that is retried, but stops.
func TestFreshConnections_StalledFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var first atomic.Bool
		tr, url := protocols[1].serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/fails" && !first.Swap(true) {
				w.Header().Set("Content-Length", "100")
				w.WriteHeader(http.StatusInternalServerError)
				io.WriteString(w, "begun")
				http.NewResponseController(w).Flush()
				fallSilent(r)
			}
		})
		conns := newMortals(t, tr)
		client := &http.Client{Transport: &httpretry.RetryTransport{
			Base: tr, AttemptTimeout: time.Second, MaxResponseBytes: 1000, Policy: atMost(1),
			OnAttempt: func(httpretry.Attempt, httpretry.Decision) { conns.kill() },
		}}
		if err := fetchOver(client, url+"fails"); err != nil {
			t.Errorf("got error %v, want a retry over another connection", err)
		}
	})
}

// A failure of another kind between the timeout and the retry, which did not use the
// connection, does not make it usable.
func TestFreshConnections_OtherFailureBetween(t *testing.T) {
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr, url := p.serve(t, func(http.ResponseWriter, *http.Request) {})
				conns := newMortals(t, tr)
				if err := fetchOver(&http.Client{Transport: tr}, url); err != nil {
					t.Fatal(err)
				}
				conns.kill()
				time.Sleep(time.Second)
				base := roundTripFunc(func(req *http.Request) (*http.Response, error) {
					switch httpretry.AttemptNumber(req.Context()) {
					case 1:
						<-req.Context().Done()
						return nil, context.Cause(req.Context())
					case 2:
						return response(req, http.StatusServiceUnavailable, ""), nil
					}
					return httpretry.FreshConnections(tr).RoundTrip(req)
				})
				client := &http.Client{Transport: &httpretry.RetryTransport{Base: base, AttemptTimeout: time.Second, Policy: atMost(2)}}
				if err := fetchOver(client, url); err != nil {
					t.Errorf("got error %v, want a third attempt over another connection", err)
				}
			})
		})
	}
}

// A retry at another server leaves the connections to that server alone.
func TestFreshConnections_KeepsConnectionsOfOtherServer(t *testing.T) {
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr, url := p.serve(t, func(http.ResponseWriter, *http.Request) {})
				conns := newMortals(t, tr)
				client := &http.Client{Transport: &httpretry.RetryTransport{
					AttemptTimeout: time.Second, Policy: atMost(1),
					Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
						if httpretry.AttemptNumber(req.Context()) == 1 {
							<-req.Context().Done()
							return nil, choiceError{&choice{other: true}, context.Cause(req.Context())}
						}
						return httpretry.FreshConnections(tr).RoundTrip(req)
					}),
				}}
				if err := fetchOver(&http.Client{Transport: tr}, url); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				if err := fetchOver(client, url); err != nil {
					t.Fatal(err)
				}
				if got := conns.opened(); got != 1 {
					t.Errorf("got %d connections, want 1, which did not time out", got)
				}
			})
		})
	}
}

// An attempt that timed out has no successor at its server, but another call has.
func TestFreshConnections_NextCall(t *testing.T) {
	for _, p := range protocols {
		if !p.http2 {
			continue // the connection is closed with its only request
		}
		t.Run(p.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr, url := p.serve(t, func(http.ResponseWriter, *http.Request) {})
				conns := newMortals(t, tr)
				rt := &httpretry.RetryTransport{Base: httpretry.FreshConnections(tr), AttemptTimeout: time.Second, Policy: httpretry.Never}
				client := &http.Client{Transport: rt}
				if err := fetchOver(client, url); err != nil {
					t.Fatal(err)
				}
				conns.kill()
				if err := fetchOver(client, url); err == nil {
					t.Fatal("got no error over a dead connection")
				}
				if err := fetchOver(client, url); err != nil || conns.opened() != 2 {
					t.Errorf("got error %v and %d connections, want nil and 2", err, conns.opened())
				}
			})
		})
	}
}

// A RetryTransport below another one uses what the latter knows in its own attempt.
func TestFreshConnections_RetryOfTransportAbove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr, url := protocols[1].serve(t, func(http.ResponseWriter, *http.Request) {})
		conns := newMortals(t, tr)
		below := &httpretry.RetryTransport{Base: tr, Policy: httpretry.Never}
		client := &http.Client{Transport: &httpretry.RetryTransport{Base: below, AttemptTimeout: time.Second, Policy: atMost(1)}}
		if err := fetchOver(client, url); err != nil {
			t.Fatal(err)
		}
		conns.kill()
		if err := fetchOver(client, url); err != nil {
			t.Errorf("got error %v, want a retry over another connection", err)
		}
	})
}

// A caller who waits for a short time retires no connections.
func TestFreshConnections_DeadlineOfCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr, url := protocols[1].serve(t, func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				fallSilent(r)
			}
		})
		conns := newMortals(t, tr)
		client := &http.Client{Transport: httpretry.FreshConnections(tr)}
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := client.Do(newRequest(t, "GET", url+"slow", nil).WithContext(ctx))
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("got error %v, want a timeout", err)
			}
			if err := fetchOver(client, url); err != nil {
				t.Fatal(err)
			}
		}
		if got := conns.opened(); got != 1 {
			t.Errorf("got %d connections, want 1", got)
		}
	})
}

// idlePool returns n idle connections of tr.
func idlePool(t *testing.T, tr *http.Transport, url string, n int) *mortals {
	tr.MaxIdleConnsPerHost = n
	conns := newMortals(t, tr)
	var calls []io.Closer
	for range n {
		resp, err := tr.RoundTrip(newRequest(t, "GET", url+"waits", nil))
		if err != nil {
			t.Fatal(err)
		}
		calls = append(calls, resp.Body)
	}
	for _, body := range calls {
		io.Copy(io.Discard, body.(io.Reader))
		body.Close()
	}
	time.Sleep(10 * time.Second)
	if opened, closed := conns.opened(), conns.closed(); opened != n || closed > 0 {
		t.Fatalf("got %d connections and closed %d, want %d and none", opened, closed, n)
	}
	return conns
}

// afterFlush sends a part of the response at once, so that several can be under way.
func afterFlush(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/waits" {
		http.NewResponseController(w).Flush()
		time.Sleep(time.Second)
	}
}

// A retry over HTTP/1.1 reaches a live connection, whether the idle ones are dead or
// only the attempt was slow, and leaves the idle ones to others.
func TestFreshConnections_KeepsIdleHTTP1Connections(t *testing.T) {
	const n = 20
	for _, p := range []protocol{protocols[0], protocols[2]} {
		for _, dead := range []bool{false, true} {
			t.Run(p.name+" dead "+strconv.FormatBool(dead), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var slow atomic.Bool
					tr, url := p.serve(t, func(w http.ResponseWriter, r *http.Request) {
						afterFlush(w, r)
						if r.URL.Path == "/slow" && !slow.Swap(true) && !dead {
							fallSilent(r)
						}
						io.WriteString(w, "response")
					})
					conns := idlePool(t, tr, url, n)
					if dead {
						conns.kill()
					}
					var got []httpretry.Attempt
					client := &http.Client{Transport: &httpretry.RetryTransport{
						Base: tr, AttemptTimeout: time.Second, Policy: atMost(1),
						OnAttempt: func(a httpretry.Attempt, _ httpretry.Decision) { got = append(got, a) },
					}}
					resp, err := client.Get(url + "slow")
					if err != nil {
						t.Fatal(err)
					}
					if got := readAll(t, resp); got != "response" {
						t.Errorf("got %q, want the response", got)
					}
					if len(got) != 2 || got[1].ConnReused || got[1].RemoteAddr == "" {
						t.Errorf("got attempts %+v, want the second over a new connection", got)
					}
					time.Sleep(tlsClose)
					if opened := conns.opened(); opened != n+1 {
						t.Errorf("got %d connections, want that of the retry and %d", opened, n)
					}
					// Those of the two attempts, and the one that the retry refused.
					if closed := conns.closed(); closed != 3 {
						t.Errorf("closed %d connections, want 3", closed)
					}
				})
			})
		}
	}
}

// A body that can't be sent again is sent once, over a live connection.
func TestFreshConnections_BodyOverIdleHTTP1Connections(t *testing.T) {
	const n = 4
	for _, p := range []protocol{protocols[0], protocols[2]} {
		for _, getBody := range []bool{false, true} {
			t.Run(p.name+" GetBody "+strconv.FormatBool(getBody), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					tr, url := p.serve(t, func(w http.ResponseWriter, r *http.Request) {
						afterFlush(w, r)
						io.Copy(w, r.Body)
					})
					conns := idlePool(t, tr, url, n)
					conns.kill()
					var sent *rewindable
					base := roundTripFunc(func(req *http.Request) (*http.Response, error) {
						r := req.Clone(req.Context())
						shared := &rewindable{Reader: strings.NewReader("compressed")} // as that of middleware that compresses
						req.Body.Close()
						r.Body, r.ContentLength, r.GetBody = shared, int64(shared.Len()), nil
						if getBody {
							r.GetBody = func() (io.ReadCloser, error) {
								shared.Seek(0, io.SeekStart)
								return shared, nil
							}
						}
						sent = shared
						return httpretry.FreshConnections(tr).RoundTrip(r)
					})
					client := &http.Client{Transport: &httpretry.RetryTransport{Base: base, AttemptTimeout: time.Second, Policy: atMost(1)}}
					resp, err := client.Do(newRequest(t, "PUT", url, strings.NewReader("hello")))
					if err != nil {
						t.Fatal(err)
					}
					if got := readAll(t, resp); got != "compressed" {
						t.Errorf("got %q, want the body of the request", got)
					}
					synctest.Wait() // net/http may close the body after the response
					if !sent.closed {
						t.Error("the body is not closed")
					}
				})
			})
		}
	}
}

// A rewindable is a body that GetBody rewinds.
type rewindable struct {
	*strings.Reader
	closed bool
}

func (r *rewindable) Read(p []byte) (int, error) {
	if r.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	return r.Reader.Read(p)
}

// WriteTo hides that of the Reader, which reads a closed body.
func (r *rewindable) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{r})
}

func (r *rewindable) Close() error {
	r.closed = true
	return nil
}
