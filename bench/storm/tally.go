package main

import (
	"sync"
	"time"
)

// A second is what happened in one.
type second struct {
	calls  int // that began in it
	served int // of those, the ones that had their answer in the end
	load   int // attempts that reached the server
	worked int // attempts that the server had accepted, counted when their client got an answer or gave up
	wasted int // of those, the ones that the client had given up
}

func (s *second) add(x second) {
	s.calls += x.calls
	s.served += x.served
	s.load += x.load
	s.worked += x.worked
	s.wasted += x.wasted
}

// A tally counts what happens in a simulation.
type tally struct {
	mu      sync.Mutex
	seconds []second
	last    time.Duration // when something happened, and in which call
	by      *call
	clashes int // how often two calls did something at one instant
}

func (t *tally) begins(c *call, now time.Duration) {
	t.count(c, now, now, second{calls: 1})
}

func (t *tally) arrives(c *call, now time.Duration) {
	t.count(c, now, now, second{load: 1})
}

func (t *tally) works(c *call, now time.Duration, inVain bool) {
	x := second{worked: 1}
	if inVain {
		x.wasted = 1
	}
	t.count(c, now, now, x)
}

func (t *tally) serves(c *call, now time.Duration) {
	t.count(c, now, c.begin, second{served: 1})
}

// count adds x, which happens now, to the second at.
func (t *tally) count(c *call, now, at time.Duration, x second) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now == t.last && c != t.by {
		t.clashes++
	}
	t.last, t.by = now, c
	for int(at/time.Second) >= len(t.seconds) {
		t.seconds = append(t.seconds, second{})
	}
	t.seconds[at/time.Second].add(x)
}
