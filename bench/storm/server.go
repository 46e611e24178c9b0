package main

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// A capacity describes a server and its outage.
type capacity struct {
	cost  time.Duration // of a response: the server gives 1 s / cost responses per second
	queue time.Duration // of work that waits; further requests get a 503

	// From lost on, for the duration of outage, percent of the capacity is left.
	lost, outage time.Duration
	percent      int

	retryAfter time.Duration // of a 503; 0: none
}

// perSecond returns the responses per second outside the outage.
func (c capacity) perSecond() float64 { return float64(time.Second) / float64(c.cost) }

// done returns the work that a server without idle time has done by t, as the
// time that it takes outside the outage.
func (c capacity) done(t time.Duration) time.Duration {
	bad := min(max(t-c.lost, 0), c.outage)
	return t - bad + c.left(bad)
}

// when is the inverse of done.
func (c capacity) when(work time.Duration) time.Duration {
	least := c.left(c.outage)
	switch {
	case work <= c.lost:
		return work
	case work < c.lost+least:
		return c.lost + (work-c.lost)*100/time.Duration(c.percent)
	}
	return work + c.outage - least
}

func (c capacity) left(d time.Duration) time.Duration { return d * time.Duration(c.percent) / 100 }

// A server is an [http.RoundTripper] that simulates a server and the network. It
// processes one request at a time, in order. It processes accepted requests to
// the end even if the client has gone, which it does not know. The network and
// rejections take no time.
type server struct {
	capacity
	start time.Time
	tally *tally

	mu       sync.Mutex
	promised time.Duration // the work done when all accepted requests have been processed
}

// RoundTrip implements [http.RoundTripper].
func (s *server) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	c := callOf(ctx)
	now := time.Since(s.start)
	s.tally.arrives(c, now)
	done, ok := s.accept(now)
	if !ok {
		return s.response(req, http.StatusServiceUnavailable), nil
	}
	answer := time.NewTimer(c.answered(done) - now)
	defer answer.Stop()
	select {
	case <-answer.C:
		s.tally.works(c, time.Since(s.start), false)
		return s.response(req, http.StatusOK), nil
	case <-ctx.Done():
		s.tally.works(c, time.Since(s.start), true)
		return nil, context.Cause(ctx)
	}
}

// accept returns the time of the response to a request that arrives now, and
// false if the queue is full.
func (s *server) accept(now time.Duration) (time.Duration, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	done := s.done(now)
	s.promised = max(s.promised, done)
	if s.promised-done > s.queue {
		return 0, false
	}
	s.promised += s.cost
	return s.when(s.promised), true
}

func (s *server) response(req *http.Request, status int) *http.Response {
	resp := &http.Response{
		StatusCode: status, ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: http.NoBody, Request: req,
	}
	if status == http.StatusServiceUnavailable && s.retryAfter > 0 {
		resp.Header.Set("Retry-After", strconv.Itoa(int(s.retryAfter/time.Second)))
	}
	return resp
}
