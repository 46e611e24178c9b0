package failover_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/failover"
)

// A pacerFunc is the Wait of a Pacer.
type pacerFunc func(ctx context.Context, req *http.Request, backoff time.Duration) (func(httpretry.Attempt), error)

func (pacerFunc) Delay(*http.Request) time.Duration { return 0 }

func (f pacerFunc) Wait(ctx context.Context, req *http.Request, backoff time.Duration) (func(httpretry.Attempt), error) {
	return f(ctx, req, backoff)
}

// A doors is a Pacer that lets an attempt pass when a value is sent to the channel of
// its host, and immediately if there is no channel.
type doors map[string]chan struct{}

func (doors) Delay(*http.Request) time.Duration { return 0 }

func (d doors) Wait(ctx context.Context, req *http.Request, backoff time.Duration) (func(httpretry.Attempt), error) {
	time.Sleep(backoff)
	if door, ok := d[req.URL.Host]; ok {
		select {
		case <-door:
		case <-ctx.Done():
		}
	}
	return nil, context.Cause(ctx)
}

// A request that the Pacer delays at its first choice is sent to another endpoint.
func TestTransport_WaitsAtAllEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy, door := make(chan struct{}), make(chan struct{})
		base := &hosts{funcs: map[string]roundTripFunc{"a": func(req *http.Request) (*http.Response, error) {
			<-busy
			return response(req, 200, ""), nil
		}}}
		rt := newTransport(base, "a", "b")
		rt.Pacer = doors{"b": door}
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if code, err := send(t, rt, newRequest(t, "POST", "x")); code != 200 || err != nil {
					t.Errorf("got %d, %v", code, err)
				}
			})
			synctest.Wait()
		}
		if got := base.sent(); got != "a" {
			t.Errorf("sent to %q, want a, and the second request to prefer b, which has fewer in flight", got)
		}
		time.Sleep(time.Second)
		if got := base.sent(); got != "a" {
			t.Errorf("after a second sent to %q, want a", got)
		}
		close(busy)
		wg.Wait()
	})
}

// A request that may be sent at two endpoints at the same time is sent to one of them.
func TestTransport_SentToOneEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, door := &hosts{}, make(chan struct{})
		rt := newTransport(base, "a", "b")
		rt.Pacer = doors{"a": door, "b": door}
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { get(t, rt) })
		}
		time.Sleep(time.Second)
		close(door)
		wg.Wait()
		time.Sleep(time.Second)
		if got := strings.Count(base.sent(), " ") + 1; got != 50 {
			t.Errorf("%d requests were sent, want 50", got)
		}
		for range 10 { // nothing is in flight any more
			get(t, rt)
		}
		if got := base.sent(); strings.Count(got, "a") != 5 {
			t.Errorf("then sent to %s, want the endpoints to take turns", got)
		}
	})
}

// Each turn that the Pacer gives ends, also one that is not used.
func TestTransport_EachTurnEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := newTransport(&hosts{}, "a", "b", "c")
		var given, ended atomic.Int32
		rt.Pacer = pacerFunc(func(context.Context, *http.Request, time.Duration) (func(httpretry.Attempt), error) {
			time.Sleep(50 * time.Millisecond) // without a look at the context
			given.Add(1)
			return func(httpretry.Attempt) { ended.Add(1) }, nil
		})
		for range 20 {
			get(t, rt)
		}
		time.Sleep(time.Second)
		if given.Load() != 60 || ended.Load() != 60 {
			t.Errorf("got %d turns, of which %d ended, want 60 and 60", given.Load(), ended.Load())
		}
	})
}

// Requests that wait are not sent to an endpoint that has gone down meanwhile, and are
// sent to one that has returned, one at a time at first.
func TestTransport_WaitsForAnEndpointThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		doorA, doorB := make(chan struct{}), make(chan struct{})
		var up atomic.Bool
		base := &hosts{funcs: map[string]roundTripFunc{"a": func(req *http.Request) (*http.Response, error) {
			time.Sleep(10 * time.Millisecond) // in which the others find that there is no room
			if up.Load() {
				return response(req, 200, ""), nil
			}
			return nil, errRefused
		}}}
		rt := newTransport(base, "a", "b")
		rt.Pacer = doors{"a": doorA, "b": doorB}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { get(t, rt) })
		}
		time.Sleep(time.Second)
		doorA <- struct{}{}
		time.Sleep(20 * time.Millisecond)
		close(doorA)
		if got := base.sent(); got != "a" {
			t.Errorf("sent to %q, want once to a, which is down then", got)
		}
		time.Sleep(4 * time.Second) // a is probed after 0.25, 0.75, 1.75 and 3.75 s
		if got := base.sent(); got != "a a a a" {
			t.Errorf("sent to %q, want a a a a", got)
		}
		up.Store(true)
		wg.Wait()
		if got := base.sent(); got != "a a a a a" {
			t.Errorf("sent to %q, want a for the rest", got)
		}
	})
}

// A request that gives up does not keep the room that it was told of from the next one.
func TestTransport_RoomGoesToTheNextRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var responds atomic.Bool
		base := &hosts{funcs: map[string]roundTripFunc{"a": func(req *http.Request) (*http.Response, error) {
			if !responds.Load() {
				return nil, errRefused
			}
			if req.Method == "PUT" {
				return hang(req)
			}
			return response(req, 200, ""), nil
		}}}
		rt := newTransport(base, "a", "b")
		door := make(chan struct{})
		rt.Pacer = doors{"a": door, "b": make(chan struct{})}
		start := func(method string) (cancel context.CancelFunc, done chan error) {
			ctx, cancel := context.WithCancel(t.Context())
			done = make(chan error, 1)
			req := newRequest(t, method, "").WithContext(ctx)
			go func() {
				_, err := send(t, rt, req)
				done <- err
			}()
			time.Sleep(time.Second)
			return cancel, done
		}
		_, failed := start("GET")
		door <- struct{}{}
		<-failed // a gets one request at a time now
		responds.Store(true)
		time.Sleep(time.Second)
		cancelProbe, probe := start("PUT")
		door <- struct{}{}
		synctest.Wait()
		cancelFirst, first := start("GET")
		_, second := start("GET")
		cancelProbe() // which tells the first of the two that there is room
		<-probe
		synctest.Wait()
		cancelFirst() // while it waits for the Pacer
		<-first
		begun := time.Now()
		select {
		case door <- struct{}{}:
		case <-time.After(time.Minute):
			t.Fatal("the second request does not wait for the Pacer of a")
		}
		if err := <-second; err != nil || time.Since(begun) > 0 {
			t.Errorf("got %v after %v, want a response immediately", err, time.Since(begun))
		}
	})
}

// If all endpoints are down, a request fails as soon as without a Pacer.
func TestTransport_FailsIfAllEndpointsAreDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &hosts{funcs: map[string]roundTripFunc{"a": fail(errRefused), "b": fail(errRefused)}}
		rt := newTransport(base, "a", "b")
		door := make(chan struct{})
		rt.Pacer = doors{"a": door, "b": door}
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if _, err := get(t, &httpretry.RetryTransport{Base: rt}); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("got %v, want the refused connection", err)
				}
			})
		}
		time.Sleep(time.Second)
		begun := time.Now()
		close(door)
		wg.Wait()
		if took := time.Since(begun); took > 15*time.Second {
			t.Errorf("took %v, want the time of 3 retries", took)
		}
	})
}

// A metered is a Pacer that lets one attempt per interval pass for each host.
type metered struct {
	interval map[string]time.Duration
	mu       sync.Mutex
	next     map[string]time.Time
}

func (*metered) Delay(*http.Request) time.Duration { return 0 }

func (m *metered) Wait(ctx context.Context, req *http.Request, backoff time.Duration) (func(httpretry.Attempt), error) {
	host := req.URL.Host
	m.mu.Lock()
	at := time.Now().Add(backoff)
	if m.next[host].After(at) {
		at = m.next[host]
	}
	m.next[host] = at.Add(m.interval[host])
	m.mu.Unlock()
	select {
	case <-time.After(time.Until(at)):
		return nil, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// A request is sent where its turn comes first, even if that endpoint has asked for a
// wait.
func TestTransport_WaitsWhereItsTurnComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &hosts{funcs: make(map[string]roundTripFunc)}
		rt := newTransport(base, "a", "b")
		rt.Pacer = &metered{interval: map[string]time.Duration{"b": time.Second}, next: make(map[string]time.Time)}
		refuse := func(retryAfter string) {
			base.funcs["a"] = status(429, retryAfter)
			for base.sent(); !strings.Contains(base.sent(), "a"); {
				get(t, rt)
			}
		}
		refuse("2")
		delete(base.funcs, "a")
		begun := time.Now()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if code, err := get(t, rt); code != 200 || err != nil {
					t.Errorf("got %d, %v", code, err)
				}
			})
		}
		wg.Wait()
		if took, got := time.Since(begun), base.sent(); took > 3*time.Second {
			t.Errorf("took %v at %s, want at most 3s: a opens after 2 s, b accepts one per second", took, got)
		}
	})
}

// A retry does not wait for an endpoint that has asked for an hour, if the one that has
// failed responds again.
func TestTransport_RetriesWhereItFailedRatherThanWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		base := &hosts{funcs: map[string]roundTripFunc{"b": status(429, "3600"), "a": func(req *http.Request) (*http.Response, error) {
			switch at := time.Since(begun); {
			case at < time.Second:
				return response(req, 500, ""), nil
			case at < 5*time.Second:
				return nil, errRefused
			}
			return response(req, 200, ""), nil
		}}}
		rt := newTransport(base, "b", "a")
		rt.Pacer = new(httpretry.AdaptivePacer)
		get(t, rt) // b
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				retry := &httpretry.RetryTransport{Base: rt, Policy: httpretry.RetryConfig{MaxRetries: 30}}
				if code, err := get(t, retry); code != 200 || err != nil {
					t.Errorf("got %d, %v", code, err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(begun); took > 20*time.Second {
			t.Errorf("took %v, want a few seconds: a is back after 5 s", took)
		}
	})
}

// Requests that wait for one endpoint are sent to another one when it returns, although
// no other request arrives.
func TestTransport_ReturnIsNoticedWithoutNewRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		time.AfterFunc(3*time.Second, func() { up.Store(true) })
		base := &hosts{funcs: map[string]roundTripFunc{"a": func(req *http.Request) (*http.Response, error) {
			if up.Load() {
				return response(req, 200, ""), nil
			}
			return nil, errRefused
		}}}
		rt := newTransport(base, "a", "b")
		rt.Pacer = &metered{interval: map[string]time.Duration{"b": time.Second}, next: make(map[string]time.Time)}
		begun := time.Now()
		var wg sync.WaitGroup
		for range 60 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // b alone would take 60 s
				defer cancel()
				if code, err := send(t, &httpretry.RetryTransport{Base: rt}, newRequest(t, "GET", "").WithContext(ctx)); code != 200 || err != nil {
					t.Errorf("got %d, %v", code, err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(begun); took > 8*time.Second {
			t.Errorf("took %v, want at most 8s", took)
		}
	})
}

// A done that panics after a panic of Base leaves nothing in flight.
func TestTransport_DonePanicsAfterBase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &hosts{funcs: map[string]roundTripFunc{"a": func(*http.Request) (*http.Response, error) { panic("broken") }}}
		rt := newTransport(base, "a", "b")
		rt.Pacer = pacerFunc(func(context.Context, *http.Request, time.Duration) (func(httpretry.Attempt), error) {
			return func(a httpretry.Attempt) {
				if a.Err != nil {
					panic("broken, too")
				}
			}, nil
		})
		func() {
			defer func() {
				if got := recover(); got != "broken, too" {
					t.Errorf("got the panic %v, want that of done", got)
				}
			}()
			get(t, rt)
		}()
		delete(base.funcs, "a")
		base.sent()
		for range 4 {
			get(t, rt)
		}
		if got := base.sent(); strings.Count(got, "a") != 2 {
			t.Errorf("sent to %s, want the endpoints to take turns", got)
		}
	})
}

// A Pacer that can't keep a deadline at one endpoint may keep it at another.
func TestTransport_PacerMayRefuseAnAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &hosts{}
		rt := newTransport(base, "a", "b", "c")
		rt.Pacer = &recordingPacer{late: "a"}
		for range 10 {
			begun := time.Now()
			if code, err := send(t, rt, newRequest(t, "POST", "x")); code != 200 || err != nil || time.Since(begun) != time.Second {
				t.Errorf("got %d, %v after %v, want 200 after 1s", code, err, time.Since(begun))
			}
		}
		rt = newTransport(base, "a")
		rt.Pacer = &recordingPacer{late: "a"}
		rt.Endpoints = append(rt.Endpoints, failover.Endpoint{URL: "http://a/other"})
		var body closeCounter
		req := newRequest(t, "POST", "")
		req.Body = &body
		base.sent()
		_, err := send(t, rt, req)
		if !errors.Is(err, context.DeadlineExceeded) || body.Load() != 1 || base.sent() != "" {
			t.Errorf("got %v, body closed %d times, want the error of the Pacer and once", err, body.Load())
		}
	})
}

// A Pacer that panics leaves nothing in flight.
func TestTransport_PacerPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &hosts{}
		rt := newTransport(base, "a", "b")
		rt.Pacer = pacerFunc(func(_ context.Context, req *http.Request, _ time.Duration) (func(httpretry.Attempt), error) {
			if req.Method == "PUT" && req.URL.Host == "a" {
				panic("broken")
			}
			return nil, nil
		})
		panics := 0
		for range 4 {
			func() {
				defer func() {
					if recover() != nil {
						panics++
					}
				}()
				send(t, rt, newRequest(t, "PUT", ""))
			}()
		}
		if panics != 2 {
			t.Errorf("got %d panics, want those of the 2 requests at a", panics)
		}
		base.sent()
		for range 4 {
			get(t, rt)
		}
		if got := base.sent(); strings.Count(got, "a") != 2 {
			t.Errorf("sent to %s, want the endpoints to take turns", got)
		}
	})
}

// With a canceled context, a request stops waiting.
func TestTransport_CanceledWhileItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := newTransport(&hosts{}, "a", "b")
		rt.Pacer = doors{"a": make(chan struct{}), "b": make(chan struct{})}
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(io.ErrUnexpectedEOF) })
		begun := time.Now()
		_, err := send(t, rt, newRequest(t, "GET", "").WithContext(ctx))
		if !errors.Is(err, io.ErrUnexpectedEOF) || time.Since(begun) != time.Second {
			t.Errorf("got %v after %v, want the cause after 1s", err, time.Since(begun))
		}
	})
}

// After a refusal, the Pacer decides when the endpoint gets the next request, unless the
// endpoint has told or refuses again.
func TestTransport_RefusalWithAPacer(t *testing.T) {
	for retryAfter, want := range map[string]string{"": "a b b b", "60": "b b b b"} {
		synctest.Test(t, func(t *testing.T) {
			base := &hosts{funcs: map[string]roundTripFunc{"a": status(429, retryAfter)}}
			rt := newTransport(base, "a", "b")
			rt.Pacer = doors{}
			get(t, rt)
			get(t, rt)
			base.sent()
			for range 4 {
				get(t, rt)
			}
			if got := base.sent(); got != want {
				t.Errorf("Retry-After %q: sent to %s, want %s", retryAfter, got, want)
			}
		})
	}
}

// Whatever the Pacer does, nothing goes on after a request has been sent, and nothing of
// the caller's is read.
func TestTransport_BlindPacer(t *testing.T) {
	for _, interval := range []time.Duration{0, 100 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			base := &hosts{funcs: map[string]roundTripFunc{"a": status(429, "60")}}
			rt := newTransport(base, "a", "b", "c")
			rt.Pacer = pacerFunc(func(context.Context, *http.Request, time.Duration) (func(httpretry.Attempt), error) {
				time.Sleep(interval) // without a look at the context or the backoff
				return nil, nil
			})
			for range 100 {
				req := newRequest(t, "GET", "")
				req.Header.Set("X-Number", "1")
				if _, err := send(t, rt, req); err != nil {
					t.Error(err)
				}
				req.Header.Set("X-Number", "2")
				req.URL.Path = "/other"
			}
			time.Sleep(interval)
			synctest.Wait() // all goroutines of the bubble end, or this test fails
		})
	}
}

// With one endpoint, the Pacer knows the deadline, and a wait that is too long is not
// begun.
func TestTransport_PacerKnowsTheDeadlineOfOneEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := newTransport(&hosts{}, "a")
		rt.Pacer = &httpretry.AdaptivePacer{MaxPerSecond: 0.01}
		get(t, rt)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		begun := time.Now()
		_, err := send(t, rt, newRequest(t, "GET", "").WithContext(ctx))
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) > 0 {
			t.Errorf("got %v after %v, want a timeout immediately", err, time.Since(begun))
		}
	})
}
