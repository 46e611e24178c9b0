package failover_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
)

// Two lanes that tick at the same time do not both give their turn to the same request.
func TestTransport_LosesNoTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := newTransport(roundTripFunc(func(r *http.Request) (*http.Response, error) {
			time.Sleep(5 * time.Millisecond)
			return response(r, 200, ""), nil
		}), "a", "b")
		rt.Pacer = &httpretry.AdaptivePacer{MaxPerSecond: 10}
		var n atomic.Int64
		var wg sync.WaitGroup
		one := func() { get(t, rt); n.Add(1) }
		for range 20 {
			wg.Go(one)
		}
		for begun := time.Now(); time.Since(begun) < time.Minute; {
			time.Sleep(50 * time.Millisecond)
			wg.Go(one)
		}
		if got := n.Load(); got < 1100 {
			t.Errorf("%d in a minute, want about 1200", got)
		}
		wg.Wait()
	})
}

// After a failure, an endpoint is used again soon, although many requests wait for the
// Pacer there.
func TestTransport_OneFailureDoesNotStopAnEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var at []time.Duration
		begun := time.Now()
		base := &hosts{funcs: map[string]roundTripFunc{"a": func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			if at = append(at, time.Since(begun)); len(at) == 5 {
				return nil, errRefused
			}
			return response(r, 200, ""), nil
		}}}
		rt := newTransport(base, "a", "b")
		rt.Pacer = &httpretry.AdaptivePacer{MaxPerSecond: 5}
		var wg sync.WaitGroup
		for range 250 {
			wg.Go(func() { get(t, rt) })
		}
		wg.Wait()
		if gap := at[5] - at[4]; gap > 3*time.Second {
			t.Errorf("a was idle for %v after one failure", gap)
		}
	})
}

// A limit that grows after a failure is exceeded if no other endpoint has room, as without
// a Pacer.
func TestTransport_LimitIsExceededIfNoOtherHasRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down sync.Map
		f := func(r *http.Request) (*http.Response, error) {
			if _, is := down.Load(r.URL.Host); is {
				return nil, errRefused
			}
			time.Sleep(time.Minute)
			return response(r, 200, ""), nil
		}
		base := &hosts{funcs: map[string]roundTripFunc{"a": f, "b": f}}
		rt := newTransport(base, "a", "b")
		rt.Pacer = doors{}
		for _, s := range []string{"a", "b"} {
			down.Store(s, true)
			for base.sent(); !strings.Contains(base.sent(), s); {
				var wg sync.WaitGroup
				for range 2 {
					wg.Go(func() { get(t, rt) })
				}
				wg.Wait()
			}
			down.Delete(s)
			time.Sleep(time.Second)
		}
		var n atomic.Int64
		begun := time.Now()
		var wg sync.WaitGroup
		for range 256 {
			wg.Go(func() {
				for time.Since(begun) < 10*time.Minute {
					if _, err := get(t, rt); err == nil && time.Since(begun) <= 10*time.Minute {
						n.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if n.Load() < 2300 {
			t.Errorf("%d requests in 10 minutes, without a Pacer 2560", n.Load())
		}
	})
}

// Requests that wait for room fail soon after all endpoints have gone down.
func TestTransport_WaitersFailIfAllEndpointsGoDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		down.Store(true)
		f := func(r *http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			if down.Load() {
				return nil, errRefused
			}
			return response(r, 200, ""), nil
		}
		rt := newTransport(&hosts{funcs: map[string]roundTripFunc{"a": f, "b": f}}, "a", "b")
		rt.Pacer = doors{}
		get(t, rt)
		get(t, rt)
		down.Store(false)
		time.Sleep(time.Hour)
		get(t, rt)
		get(t, rt)
		begun := time.Now()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { get(t, rt) })
		}
		time.Sleep(500 * time.Millisecond)
		down.Store(true)
		wg.Wait()
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("took %v, without a Pacer 1s", took)
		}
	})
}

// A request that begins while all endpoints are down is not bound to the Pacer of one.
func TestTransport_NotBoundToOneEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		down.Store(true)
		f := func(r *http.Request) (*http.Response, error) {
			if down.Load() {
				return nil, errRefused
			}
			return response(r, 200, ""), nil
		}
		rt := newTransport(&hosts{funcs: map[string]roundTripFunc{"a": f, "b": f}}, "a", "b")
		rt.Pacer = &metered{interval: map[string]time.Duration{"a": 10 * time.Second, "b": 10 * time.Millisecond}, next: map[string]time.Time{}}
		get(t, rt)
		get(t, rt)
		down.Store(false)
		begun := time.Now()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { get(t, &httpretry.RetryTransport{Base: rt}) })
		}
		wg.Wait()
		if took := time.Since(begun); took > 15*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// tenMs lets each request pass after 10 ms, when other endpoints come into play, too.
var tenMs = pacerFunc(func(ctx context.Context, _ *http.Request, _ time.Duration) (func(httpretry.Attempt), error) {
	select {
	case <-time.After(10 * time.Millisecond):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return func(httpretry.Attempt) {}, nil
})

// A caller may use the header of a request again after it has read the response. The race
// detector notices if it may not.
func TestTransport_RequestIsNotReadAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := newTransport(roundTripFunc(func(r *http.Request) (*http.Response, error) { return response(r, 200, ""), nil }), "a", "b", "c")
		rt.Pacer = tenMs
		for range 3000 {
			req := newRequest(t, "GET", "")
			req.Header.Set("A", "b")
			send(t, rt, req)
			req.Header.Set("A", "c")
			time.Sleep(50 * time.Millisecond)
		}
	})
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// The source of a body sets trailers while it is read. The race detector notices if they
// are read at the same time.
func TestTransport_TrailerIsNotReadWhileTheBodyIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := newTransport(roundTripFunc(func(r *http.Request) (*http.Response, error) {
			io.Copy(io.Discard, r.Body)
			r.Body.Close()
			return response(r, 200, ""), nil
		}), "a", "b", "c")
		rt.Pacer = tenMs
		for range 3000 {
			req := newRequest(t, "POST", "x")
			req.Trailer = http.Header{"Sum": nil}
			r := strings.NewReader("x")
			req.Body = io.NopCloser(readFunc(func(p []byte) (int, error) {
				n, err := r.Read(p)
				if err != nil {
					req.Trailer.Set("Sum", "1")
				}
				return n, err
			}))
			send(t, rt, req)
			time.Sleep(50 * time.Millisecond)
		}
	})
}
