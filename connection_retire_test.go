package httpretry_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
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
			t.Run(p.name+" "+outcome.String(), func(t *testing.T) {
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
