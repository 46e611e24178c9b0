package failover

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/httpretry/httpretry/internal/route"
)

// A queue has the attempts at a server that wait for the Pacer.
type queue struct {
	waiting []*attempt    // in the order of their arrival
	moved   time.Time     // when an attempt passed last, or the first of waiting arrived
	gap     time.Duration // mean time between two attempts that pass
}

func (q *queue) join(a *attempt, now time.Time) {
	if len(q.waiting) == 0 {
		q.moved = now
	}
	q.waiting = append(q.waiting, a)
}

// leave removes an attempt, unless it has left already.
func (q *queue) leave(a *attempt) {
	if i := slices.Index(q.waiting, a); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
}

// pass notes that the Pacer has let an attempt pass.
func (q *queue) pass(now time.Time) {
	const part = 4 // of the difference to the last attempt
	q.gap += (now.Sub(q.moved) - q.gap) / part
	q.moved = now
}

// wait returns the time in which n more attempts will probably have passed.
func (q *queue) wait(n int, now time.Time) time.Duration {
	since := now.Sub(q.moved)
	wait := max(time.Duration(n)*q.gap-since, 0)
	if len(q.waiting) > 0 {
		wait = max(wait, since) // what has not moved for long will hardly move sooner
	}
	return wait
}

var errMoved = errors.New("failover: another endpoint has become free")

// pace waits until the Pacer lets the attempt send req. The error is errMoved if the
// attempt must be made at another server.
func (a *attempt) pace(req *http.Request) (err error) {
	p := a.t.Pacer
	if p == nil {
		return nil
	}
	a.request = req
	defer route.Pause(req.Context())()
	ctx, cancel := context.WithCancelCause(req.Context())
	defer cancel(nil)
	backoff := a.join(cancel)
	passed := false
	defer func() { a.leave(passed) }() // also if the Pacer panics
	a.done, err = p.Wait(ctx, hookRequest(req), backoff)
	if err != nil && context.Cause(ctx) == errMoved {
		return errMoved
	}
	passed = err == nil
	return err
}

// join begins the wait for the Pacer, and returns the time until the server opens.
// cancel ends the wait.
func (a *attempt) join(cancel context.CancelCauseFunc) time.Duration {
	a.t.mu.Lock()
	defer a.t.mu.Unlock()
	a.cancel = cancel
	a.server.queue.join(a, a.begun)
	return a.server.wait(a.begun)
}

// leave ends the wait for the Pacer.
func (a *attempt) leave(passed bool) {
	a.t.mu.Lock()
	defer a.t.mu.Unlock()
	s := a.server
	s.queue.leave(a)
	if !passed {
		a.releaseLocked()
		return
	}
	a.begun = time.Now()
	s.queue.pass(a.begun)
	if a.era != s.era {
		s.older-- // the attempt is sent after the server was closed
	}
	a.era, a.early = s.era, s.wait(a.begun) > 0
}

// fetch moves an attempt to s, which is free, from the server where the next one would
// wait longest: the attempt that has arrived there last.
func (t *Transport) fetch(s *server) {
	now := time.Now()
	if t.Pacer == nil || len(s.queue.waiting) > 0 || !s.available(now) {
		return
	}
	var from *server
	longest := s.queue.wait(1, now)
	for _, other := range t.servers {
		n := len(other.queue.waiting)
		if wait := other.queue.wait(n, now); n > 0 && wait > longest {
			from, longest = other, wait
		}
	}
	if from == nil {
		return
	}
	for _, a := range slices.Backward(from.queue.waiting) {
		if !a.stays && !a.moved {
			from.queue.leave(a)
			a.free = s
			a.cancel(errMoved)
			return
		}
	}
}

// disperse lets the attempts that wait at s, which is down, choose again.
func (t *Transport) disperse(s *server) {
	stay := s.queue.waiting[:0]
	for _, a := range s.queue.waiting {
		if a.stays {
			stay = append(stay, a)
			continue
		}
		a.cancel(errMoved)
	}
	clear(s.queue.waiting[len(stay):])
	s.queue.waiting = stay
}
