package main

import (
	"context"
	"math"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
)

const (
	limitPerSecond = 20               // requests that every limit allows
	window         = 10 * time.Second // of the windows
	latency        = 25 * time.Millisecond
	quick, slow    = 50 * time.Millisecond, time.Second - 2*latency // mean times of a response
)

// A pacing has callers that share a limit. Each makes one call after the other.
type pacing struct {
	limit  kindOfLimit
	factor schedule // of the limit

	hints              hints // in responses
	callers, processes int
	requests           int // of all callers
	pacer              contender
	seed               uint64
}

// A kindOfLimit is a kind of limit, with the status of its refusals and the mean
// time of its responses.
type kindOfLimit struct {
	name    string
	of      func(schedule) limit
	status  int
	work    time.Duration
	noQuota bool // it has no headers about a quota
}

// An arrival is that of an attempt at the server.
type arrival struct {
	at       time.Duration
	accepted bool
}

// A paced is the result of a pacing.
type paced struct {
	pacing
	arrivals []arrival
	took     time.Duration
	failed   int             // calls
	first    []time.Duration // the duration of the first call of each caller
}

// run simulates p in virtual time.
func (p pacing) run(t *testing.T) paced {
	r := paced{pacing: p, first: make([]time.Duration, p.callers)}
	synctest.Test(t, func(*testing.T) {
		s := &limited{pacing: p, limit: p.limit.of(p.factor), start: time.Now(), result: &r}
		transports := make([]*httpretry.RetryTransport, p.processes)
		for i := range transports {
			transports[i] = &httpretry.RetryTransport{Base: s, Policy: exponential(maxRetries, tenPercent)}
			if p.pacer.make != nil {
				transports[i].Pacer = p.pacer.make(p.processes)
			}
		}
		var callers sync.WaitGroup
		for i := range p.callers {
			callers.Go(func() { s.work(transports[i%p.processes], i) })
		}
		callers.Wait()
		r.took = time.Since(s.start)
	})
	return r
}

// A limited is an [http.RoundTripper] that simulates a server with a limit, and the
// network.
type limited struct {
	pacing
	start time.Time

	mu     sync.Mutex
	limit  limit
	begun  int // calls
	result *paced
}

// work makes calls until all have been made.
func (s *limited) work(transport http.RoundTripper, caller int) {
	c := &call{client: caller, slot: time.Duration(caller), rand: stream(s.seed, ofCall, caller)}
	req, err := http.NewRequestWithContext(withCall(context.Background(), c), http.MethodGet, "http://server.example/", nil)
	if err != nil {
		panic(err) // the URL is a constant
	}
	s.sleepUntil(c.slot)
	for isFirst := true; s.next(); isFirst = false {
		resp, err := transport.RoundTrip(req)
		s.mu.Lock()
		if err != nil || resp.StatusCode != http.StatusOK {
			s.result.failed++
		}
		if isFirst {
			s.result.first[caller] = time.Since(s.start)
		}
		s.mu.Unlock()
	}
}

// next reports whether there is another call to be made.
func (s *limited) next() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun++
	return s.begun <= s.requests
}

func (s *limited) sleepUntil(at time.Duration) { time.Sleep(at - time.Since(s.start)) }

// RoundTrip implements [http.RoundTripper].
func (s *limited) RoundTrip(req *http.Request) (*http.Response, error) {
	c := callOf(req.Context())
	s.sleepUntil(c.own(time.Since(s.start) + latency))
	now := time.Since(s.start)
	resp := &http.Response{
		StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: http.NoBody, Request: req,
	}
	if !s.accept(now, resp) {
		s.sleepUntil(c.answered(now + latency))
		return resp, nil
	}
	work := time.Duration(float64(s.pacing.limit.work) * (0.5 + c.rand.Float64()))
	s.sleepUntil(c.answered(now + work))
	s.mu.Lock()
	s.limit.release()
	s.mu.Unlock()
	s.sleepUntil(c.answered(time.Since(s.start) + latency))
	return resp, nil
}

// accept reports whether an attempt is accepted, and prepares its response.
func (s *limited) accept(now time.Duration, resp *http.Response) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	ok, again := s.limit.accept(now)
	s.result.arrivals = append(s.result.arrivals, arrival{now, ok})
	if s.hints.quota {
		left, reset := s.limit.quota(now)
		resp.Header.Set("X-RateLimit-Remaining", strconv.Itoa(left))
		resp.Header.Set("X-RateLimit-Reset", wholeSeconds(reset))
	}
	if ok {
		return true
	}
	resp.StatusCode = s.pacing.limit.status
	if s.hints.retryAfter {
		resp.Header.Set("Retry-After", wholeSeconds(again))
	}
	return false
}

func wholeSeconds(d time.Duration) string { return strconv.Itoa(int(math.Ceil(d.Seconds()))) }
