package failover_test

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/failover"
)

// A network has a server for each host, to which the connections of its Transport
// lead.
type network struct {
	*http.Transport
	listeners map[string]chan net.Conn

	mu   sync.Mutex
	dead map[string][]*atomic.Bool // one for each connection to a host and port
}

// A pipeConn is a client's end of a connection whose peer can disappear.
type pipeConn struct {
	net.Conn
	dead *atomic.Bool
}

func (c pipeConn) Write(p []byte) (int, error) {
	if c.dead.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// A pipeListener accepts the server's ends of connections.
type pipeListener struct {
	conns chan net.Conn
	done  context.Context
}

func (l pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done.Done():
		return nil, net.ErrClosed
	}
}

func (l pipeListener) Close() error   { return nil }
func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// newNetwork returns a network, within a bubble, with servers that use HTTP/2.
func newNetwork(t *testing.T, handlers map[string]http.HandlerFunc) *network {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	n := &network{listeners: make(map[string]chan net.Conn), dead: make(map[string][]*atomic.Bool)}
	n.Transport = &http.Transport{Protocols: protocols, DialContext: n.dial}
	ctx, cancel := context.WithCancel(t.Context())
	var servers sync.WaitGroup
	for host, h := range handlers {
		l := pipeListener{make(chan net.Conn), ctx}
		n.listeners[host+":80"] = l.conns
		srv := &http.Server{Handler: h, Protocols: protocols}
		servers.Go(func() { srv.Serve(l) })
		t.Cleanup(func() { srv.Close() })
	}
	t.Cleanup(func() {
		cancel()
		n.CloseIdleConnections()
		servers.Wait()
	})
	return n
}

func (n *network) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case n.listeners[addr] <- server:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	dead := new(atomic.Bool)
	n.dead[addr] = append(n.dead[addr], dead)
	return pipeConn{client, dead}, nil
}

// kill makes the peers of the connections to host that exist disappear.
func (n *network) kill(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, dead := range n.dead[host+":80"] {
		dead.Store(true)
	}
}

func succeed(http.ResponseWriter, *http.Request)    {}
func refuse(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }

// A retry at an endpoint whose connection is dead opens another one, also after a
// failure of another endpoint. The http.Transport is the Base of all, of each
// endpoint, or the default.
func TestTransport_DeadConnection(t *testing.T) {
	bases := map[string]func(*testing.T, *network) *failover.Transport{
		"Base": func(t *testing.T, n *network) *failover.Transport {
			return &failover.Transport{Base: n.Transport, Endpoints: []failover.Endpoint{{URL: "http://a"}, {URL: "http://b"}}}
		},
		"Base of the endpoint": func(t *testing.T, n *network) *failover.Transport {
			return &failover.Transport{Endpoints: []failover.Endpoint{{URL: "http://a", Base: n.Transport}, {URL: "http://b", Base: n.Transport}}}
		},
		"default": func(t *testing.T, n *network) *failover.Transport {
			previous := http.DefaultTransport
			http.DefaultTransport = n.Transport
			t.Cleanup(func() { http.DefaultTransport = previous })
			return &failover.Transport{Endpoints: []failover.Endpoint{{URL: "http://a"}, {URL: "http://b"}}}
		},
	}
	for name, base := range bases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t, map[string]http.HandlerFunc{"a": succeed, "b": refuse})
				rt := &httpretry.RetryTransport{Base: base(t, n), AttemptTimeout: time.Second, Policy: httpretry.RetryConfig{MaxRetries: 2}}
				for range 2 {
					if code, err := send(t, rt, newRequest(t, "GET", "")); code != 200 || err != nil {
						t.Fatalf("got %d, %v, want 200", code, err)
					}
				}
				n.kill("a")
				if code, err := send(t, rt, newRequest(t, "GET", "")); code != 200 || err != nil {
					t.Errorf("got %d, %v, want a 200 over another connection", code, err)
				}
			})
		})
	}
}

// Redirects to other hosts are sent over fresh connections too.
func TestTransport_DeadConnectionOfAnotherHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, map[string]http.HandlerFunc{"files": succeed, "a": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://files/", http.StatusFound)
		}})
		rt := &httpretry.RetryTransport{
			Base:           &failover.Transport{Base: n.Transport, Endpoints: []failover.Endpoint{{URL: "http://a"}}},
			AttemptTimeout: time.Second, Policy: httpretry.RetryConfig{MaxRetries: 1},
		}
		client := &http.Client{Transport: rt}
		for range 2 {
			resp, err := client.Get("http://a/")
			if err != nil {
				t.Fatalf("got error %v, want a response over another connection", err)
			}
			resp.Body.Close()
			n.kill("a")
			n.kill("files")
		}
	})
}
