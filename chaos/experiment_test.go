package chaos_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	callers        = 32 // concurrently
	maxReplayBytes = 1 << 20

	// attemptTime limits an attempt and callTime a call in a storm.
	attemptTime = 400 * time.Millisecond
	callTime    = 3 * time.Second

	heapSlack = 2 << 20
)

// Routes are the protocols of the server.
const (
	http1 = iota
	http1TLS
	http2TLS
	numRoutes
)

// A layerFunc returns the layer to be tested.
type layerFunc func(base http.RoundTripper, attemptTime time.Duration) http.RoundTripper

// An experiment has a server, the lines to it and a layer.
type experiment struct {
	ledger   *ledger
	plain    *httptest.Server
	secure   *httptest.Server
	weathers [numRoutes]*weather
	bases    [numRoutes]*http.Transport
	layer    layerFunc
	rand     *rand.Rand
	next     int           // the number of the next request
	deadline time.Time     // of the storms
	patience time.Duration // for leaks to disappear at the end

	goroutines, files int // at the start
}

func newExperiment(t *testing.T, seed uint64, requests int, layer layerFunc) *experiment {
	x := &experiment{
		ledger: newLedger(seed, requests), layer: layer, rand: rand.New(rand.NewPCG(seed, 1<<63)),
		deadline: time.Now().Add(*stormTime), patience: 20 * time.Second,
	}
	x.plain, x.secure = newServer(t, x.ledger), newServer(t, x.ledger)
	x.secure.EnableHTTP2 = true
	x.plain.Start()
	x.secure.StartTLS()
	trusted := x509.NewCertPool()
	trusted.AddCert(x.secure.Certificate())
	for route := range numRoutes {
		x.weathers[route] = newWeather(x.server(route).Listener.Addr().String())
		protocols := new(http.Protocols)
		protocols.SetHTTP1(route != http2TLS)
		protocols.SetHTTP2(route == http2TLS)
		x.bases[route] = &http.Transport{
			DialContext:         x.weathers[route].dial,
			TLSHandshakeTimeout: attemptTime * 3 / 4,
			TLSClientConfig: &tls.Config{
				RootCAs: trusted, ServerName: "example.com",
				// Otherwise handshakes would take most of the time.
				CurvePreferences: []tls.CurveID{tls.X25519}, ClientSessionCache: tls.NewLRUClientSessionCache(0),
			},
			Protocols:           protocols,
			MaxIdleConnsPerHost: callers,
		}
	}
	x.goroutines, x.files = runtime.NumGoroutine(), openFiles()
	return x
}

// newServer returns a server that has not been started.
func newServer(t *testing.T, l *ledger) *httptest.Server {
	srv := httptest.NewUnstartedServer(l)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.Config.ConnState = l.connState
	t.Cleanup(srv.Close)
	return srv
}

func (x *experiment) server(route int) *httptest.Server {
	if route == http1 {
		return x.plain
	}
	return x.secure
}

// run makes the whole experiment: a storm to warm up, a long storm, and a calm.
func (x *experiment) run(n int) {
	x.storm(n / 10)
	warm := x.settle()
	x.storm(n - 2*(n/10))
	x.settle()
	x.calm(n / 10)
	if heap := x.settle(); heap > warm+heapSlack {
		x.ledger.breach(grownHeap, "from %d to %d KiB", warm>>10, heap>>10)
	}
}

// storm makes n calls while the lines change.
func (x *experiment) storm(n int) {
	stop := rage(x.rand, x.weathers[:])
	defer stop()
	x.calls(n, attemptTime, func(plan, int, bool) bool { return time.Now().Before(x.deadline) })
}

// calm makes n calls over lines without a fault. All must succeed except those
// that the server or the caller ends.
func (x *experiment) calm(n int) {
	for _, w := range x.weathers {
		w.clear()
	}
	for _, base := range x.bases {
		base.TLSHandshakeTimeout = time.Minute
	}
	x.calls(n, time.Minute, func(p plan, status int, whole bool) (goOn bool) {
		switch {
		case p.patience < callTime:
		case p.once() && (p.turnedAway > 0 || p.fails):
		case p.fails && !p.repeatable() && status == http.StatusInternalServerError:
		case !whole:
			x.ledger.breach(unanswered, "%+v: status %d", p, status)
		}
		return true
	})
}

// calls makes the next n calls, several concurrently, until ended, which is called
// after each, returns false. It returns when all calls have ended.
func (x *experiment) calls(n int, attemptTime time.Duration, ended func(p plan, status int, whole bool) (goOn bool)) {
	var layers [numRoutes]http.RoundTripper
	for route, base := range x.bases {
		layers[route] = x.layer(tagger{base}, attemptTime)
	}
	var next atomic.Int64
	next.Store(int64(x.next))
	end := x.next + n
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for goOn := true; goOn; {
				id := int(next.Add(1)) - 1
				if id >= end {
					return
				}
				p := newPlan(x.ledger.seed, id)
				if p.patience == callTime {
					p.patience = max(callTime, attemptTime)
				}
				status, whole := roundTrip(x.ledger, layers[p.route], x.server(p.route).URL, p)
				goOn = ended(p, status, whole)
			}
		})
	}
	wg.Wait()
	x.next = min(int(next.Load()), end)
}

// settle waits until the calls have left nothing behind, and returns the size of
// the heap. It counts connections before the lines are cut, because that closes
// leaked ones.
func (x *experiment) settle() (heap uint64) {
	l := x.ledger
	if n := eventually(x.patience, 0, func() int { return int(l.bodies.Load()) }); n > 0 {
		l.breach(leftBodies, "%d", n)
	}
	if n := eventually(x.patience, 0, x.connections); n > 0 {
		l.breach(leftConnections, "%d, and these goroutines:\n%s", n, stacks())
	}
	for id := range x.next {
		p, n := newPlan(l.seed, id), l.entries[id].closed.Load()
		if p.body != noBody && n != 1 {
			l.breach(notClosedOnce, "%+v: closed %d times", p, n)
		}
	}
	for _, w := range x.weathers {
		w.close()
	}
	if n := eventually(x.patience, x.goroutines, runtime.NumGoroutine); n > x.goroutines {
		l.breach(leftGoroutines, "%d, there were %d:\n%s", n, x.goroutines, stacks())
	}
	if n := eventually(x.patience, x.files, openFiles); n > x.files {
		l.breach(leftFiles, "%d, there were %d", n, x.files)
	}
	return heapInUse()
}

// connections closes idle connections and returns the number of others. A
// connection may become idle late, if it was dialed for a call that then used
// another one.
func (x *experiment) connections() int {
	for _, base := range x.bases {
		base.CloseIdleConnections()
	}
	return x.ledger.connections()
}

// eventually waits until n is at most want, and returns n.
func eventually(patience time.Duration, want int, n func() int) int {
	for deadline := time.Now().Add(patience); n() > want && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	return n()
}

func stacks() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

func heapInUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // pools keep their contents through the first
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// openFiles returns the number of file descriptors of this process, if the system
// reports it.
func openFiles() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}
