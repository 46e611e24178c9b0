package main

import (
	"context"
	"sync"
	"time"
)

// A deferral holds the requests that failed for a reason that may pass, until they
// are sent again at the end of the run. It is safe for concurrent use.
type deferral struct {
	pause time.Duration // at least, between the failure and the next attempt

	mu      sync.Mutex
	waiting []deferred
	due     time.Time     // of the request that next is about to return; zero: there is none
	open    int           // requests sent for the first time that have not ended
	changed chan struct{} // receives a value after each change, unless one is waiting
}

// A deferred request is read again from the input, so that a million of them fit in
// memory.
type deferred struct {
	offset   int64 // in the input
	line     int32
	attempts int32
	due      int64 // as a Unix time in nanoseconds
}

func newDeferral(pause time.Duration) *deferral {
	return &deferral{pause: pause, changed: make(chan struct{}, 1)}
}

// begin notes that a request is sent for the first time.
func (d *deferral) begin() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open++
}

// end notes that a request that was sent for the first time has ended. If retry is
// true, next returns it later.
func (d *deferral) end(r result, retry bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open--
	if retry {
		d.waiting = append(d.waiting, deferred{
			offset: r.request.offset, line: int32(r.request.line),
			attempts: int32(r.tally.attempts), due: time.Now().Add(d.pause).UnixNano(),
		})
	}
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// next returns the next request when it is due. ok is false when there is none and
// none can follow, because every request has ended, or when ctx is done.
func (d *deferral) next(ctx context.Context) (next deferred, ok bool) {
	for {
		next, ok, open := d.pop()
		if ok {
			ok = sleep(ctx, time.Until(time.Unix(0, next.due)))
			d.setDue(time.Time{})
			return next, ok
		}
		if open == 0 {
			return next, false
		}
		select {
		case <-d.changed:
		case <-ctx.Done():
			return next, false
		}
	}
}

func (d *deferral) pop() (first deferred, ok bool, open int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.waiting) == 0 {
		return first, false, d.open
	}
	first, d.waiting = d.waiting[0], d.waiting[1:]
	d.due = time.Unix(0, first.due)
	return first, true, d.open
}

func (d *deferral) setDue(due time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.due = due
}

// traffic returns t or, if that is nothing, the requests that wait to be sent again.
func (d *deferral) traffic(t traffic) traffic {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t.flying == 0 && t.waiting == 0 && !d.due.IsZero() {
		t.waiting, t.next = 1+len(d.waiting), d.due
	}
	return t
}

// sleep waits, and reports false if ctx was done first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
