package main

import (
	"math/rand/v2"
	"time"
)

// A queueRun is a run behind a gateway that queues, computed in one goroutine: a seed
// has one result, which does not depend on the order in which goroutines are scheduled.
type queueRun struct {
	rand     *rand.Rand
	service  func(*rand.Rand) (time.Duration, int)
	free     []time.Time // when each slot of the gateway is free
	inFlight []queued
	now      time.Time
}

type queued struct {
	sent, done time.Time
	alone      time.Duration // without a queue
	tokens     int
	beside     bool   // not of the run
	flight     flight // of the window
}

func newQueueRun(seed uint64, slots int, service func(*rand.Rand) (time.Duration, int)) *queueRun {
	q := &queueRun{rand: rand.New(rand.NewPCG(seed, 2)), service: service, now: time.Unix(0, 0)}
	for range slots {
		q.free = append(q.free, q.now)
	}
	return q
}

// send appends a request to the queue of the gateway, which serves it in order. w is nil
// for a request beside the run.
func (q *queueRun) send(w *window) {
	d, tokens := q.service(q.rand)
	slot := 0
	for i, at := range q.free {
		if at.Before(q.free[slot]) {
			slot = i
		}
	}
	done := q.now.Add(d)
	if q.free[slot].After(q.now) {
		done = q.free[slot].Add(d)
	}
	q.free[slot] = done
	var f flight
	if w != nil {
		f = w.begin(q.now)
	}
	q.inFlight = append(q.inFlight, queued{q.now, done, d, tokens, w == nil, f})
}

// receive advances the time to the end of the request that is done first, and removes it.
func (q *queueRun) receive() queued {
	first := 0
	for i, r := range q.inFlight {
		if r.done.Before(q.inFlight[first].done) {
			first = i
		}
	}
	r := q.inFlight[first]
	last := len(q.inFlight) - 1
	q.inFlight[first] = q.inFlight[last]
	q.inFlight = q.inFlight[:last]
	q.now = r.done
	return r
}

// answer sends as many requests as w admits, and receives an answer.
func (q *queueRun) answer(w *window) {
	for w.admit() {
		q.send(w)
	}
	r := q.receive()
	w.leave(r.flight, q.now, r.tokens, undisturbed)
}

// run makes n requests, and one beside them at a time. took is the duration relative to
// the one with the best fixed number in flight, beside the time that a request beside the
// second half takes, relative to that of one alone.
func (q *queueRun) run(w *window, n int) (took, beside float64) {
	var work, waited, alone time.Duration
	start := q.now
	q.send(nil)
	for sent, received := 0, 0; received < n; {
		for sent < n && w.admit() {
			q.send(w)
			sent++
		}
		if sent == n {
			w.drain()
		}
		r := q.receive()
		if !r.beside {
			w.leave(r.flight, q.now, r.tokens, undisturbed)
			received++
			work += r.alone
			continue
		}
		if received > n/2 {
			waited += r.done.Sub(r.sent)
			alone += r.alone
		}
		q.send(nil)
	}
	best := work.Seconds() / float64(len(q.free)-1) // the request beside takes one
	return q.now.Sub(start).Seconds() / best, waited.Seconds() / alone.Seconds()
}
