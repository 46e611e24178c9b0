package failover_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/failover"
)

// A doors is a Pacer that lets an attempt pass when a value is sent to the channel of
// its host, and immediately if there is no channel.
type doors map[string]chan struct{}

func (doors) Delay(*http.Request) time.Duration { return 0 }

func (d doors) Wait(ctx context.Context, req *http.Request, backoff time.Duration) (func(httpretry.Attempt), error) {
	time.Sleep(backoff)
	door, ok := d[req.URL.Host]
	if !ok {
		return nil, nil
	}
	select {
	case <-door:
		return nil, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// A request that waits for the Pacer is moved to an endpoint that has become free, and
// is sent once.
func TestTransport_WaitingRequestIsMovedToAFreeEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := make(chan struct{})
		base := &hosts{funcs: map[string]roundTripFunc{"a": func(req *http.Request) (*http.Response, error) {
			<-busy
			return response(req, 200, ""), nil
		}}}
		rt := newTransport(base, "a", "b")
		rt.Pacer = doors{"b": make(chan struct{})}
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if code, err := send(t, rt, newRequest(t, "POST", "x")); code != 200 || err != nil {
					t.Errorf("got %d, %v", code, err)
				}
			})
		}
		synctest.Wait()
		time.Sleep(time.Second) // for which the one waits at b
		if got := base.sent(); got != "a" {
			t.Errorf("sent to %q, want a while the other request waits at b", got)
		}
		close(busy)
		wg.Wait()
		if got := base.sent(); got != "a" {
			t.Errorf("then sent to %q, want a", got)
		}
	})
}

// Requests that wait for an endpoint are not sent to it after it has gone down.
func TestTransport_WaitingRequestsLeaveAnEndpointThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		door := make(chan struct{})
		base := &hosts{funcs: map[string]roundTripFunc{"a": fail(errRefused), "b": hang}}
		rt := newTransport(base, "a", "b")
		rt.Pacer = doors{"a": door}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { send(t, rt, newRequest(t, "POST", "x").WithContext(ctx)) })
		}
		synctest.Wait()
		base.sent()
		door <- struct{}{}
		synctest.Wait()
		if got := base.sent(); got != "a b b b b" {
			t.Errorf("sent to %q, want a and then b for the 4 that waited, too", got)
		}
		cancel()
		wg.Wait()
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

// A request waits where it will probably have its turn first, even if that endpoint has
// asked for a wait.
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
		refuse("60")
		for range 20 { // after which it is known how fast b lets requests pass
			get(t, rt)
		}
		time.Sleep(time.Minute)
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

// A Pacer that can't keep a deadline at one endpoint may keep it at another.
func TestTransport_PacerMayRefuseAnAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &hosts{}
		rt := newTransport(base, "a", "b", "c")
		rt.Pacer = &recordingPacer{late: "a"}
		for range 10 {
			if code, err := send(t, rt, newRequest(t, "POST", "x")); code != 200 || err != nil {
				t.Errorf("got %d, %v", code, err)
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

// A panicking panics instead of letting a PUT to its host pass.
type panicking struct{ host string }

func (panicking) Delay(*http.Request) time.Duration { return 0 }

func (p panicking) Wait(_ context.Context, req *http.Request, _ time.Duration) (func(httpretry.Attempt), error) {
	if req.Method == "PUT" && req.URL.Host == p.host {
		panic("broken")
	}
	return nil, nil
}

// A Pacer that panics leaves nothing in flight.
func TestTransport_PacerPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &hosts{}
		rt := newTransport(base, "a", "b")
		rt.Pacer = panicking{"a"}
		for range 4 {
			func() {
				defer func() { recover() }()
				send(t, rt, newRequest(t, "PUT", ""))
			}()
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

// A Pacer decides when an endpoint that has refused gets the next request, unless that
// endpoint has told.
func TestTransport_RefusalWithAPacer(t *testing.T) {
	for retryAfter, want := range map[string]string{"": "a b a b", "60": "b b b b"} {
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
