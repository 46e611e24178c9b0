package main

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// A capacity is how much a server can do, and when it can do less.
type capacity struct {
	cost  time.Duration // of an answer: it can give 1 s / cost of them in a second
	queue time.Duration // how much work may wait; what comes beyond it is turned away with a 503

	// From lost on, and for as long as outage, percent of all this is left.
	lost, outage time.Duration
	percent      int

	retryAfter time.Duration // what a 503 asks its client to wait; 0: nothing
}

// perSecond is how many answers it can give in a second while nothing is lost.
func (c capacity) perSecond() float64 { return float64(time.Second) / float64(c.cost) }

// done returns how much work a server that is never idle has done by t,
// measured by the time that it takes while nothing is lost.
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

// A server is a [http.RoundTripper] in the place of a network with a server
// behind it. It works on one request after the other, in the order in which
// they come. What it has accepted it works on to the end, also when nobody
// waits for the answer any more, which it can't know. Neither the network nor
// turning a request away takes any time.
type server struct {
	capacity
	start time.Time
	tally *tally

	mu       sync.Mutex
	promised time.Duration // the work that will be done when all that was accepted is
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

// accept returns when a request that comes now will be answered, and false if
// there is no room for it.
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
