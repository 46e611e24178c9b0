package main

import (
	"sync"
	"time"
)

// A second has the counts of one second.
type second struct {
	calls  int // that began in it
	served int // of those, the calls that were eventually served
	load   int // attempts that reached the server
	worked int // accepted attempts, counted when the client got the response or timed out
	wasted int // of those, the attempts that had timed out
}

func (s *second) add(x second) {
	s.calls += x.calls
	s.served += x.served
	s.load += x.load
	s.worked += x.worked
	s.wasted += x.wasted
}

// A tally counts the events of a simulation.
type tally struct {
	mu      sync.Mutex
	seconds []second
	last    time.Duration // the time of the last event, and its call
	by      *call
	clashes int // events of different calls at the same instant
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

// count adds the event x, which happens now, to the second at.
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
