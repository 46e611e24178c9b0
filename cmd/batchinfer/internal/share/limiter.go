package share

import (
	"context"
	"sync"
	"time"
)

// A limiter limits the attempts in flight and the attempts a second. Attempts pass in
// order of arrival. It is safe for concurrent use.
type limiter struct {
	mu      sync.Mutex
	waiting []*waiter
	flying  int
	begun   []time.Time // attempts that may have a turn, the first one first
	timer   *time.Timer // calls pass when the first waiter may pass; nil: not needed

	allowance
	next time.Time // the interval of the last attempt is over
	used time.Time // an attempt came or ended last

	// changed is called after an attempt has begun to wait, or has ended. The lock is not
	// held.
	changed func()
}

// An allowance is the limits of a limiter. The zero value lets no attempt pass.
type allowance struct {
	slots     int           // attempts at one time; negative: no limit
	turns     int           // attempts within the length of a turn; negative: no limit
	turn      time.Duration // the length of a turn
	notBefore time.Time     // no attempt passes earlier
	notAfter  time.Time     // no attempt passes later; zero: no limit
}

// A waiter is an attempt that waits.
type waiter struct {
	passed chan struct{} // closed when the attempt may pass
}

// wait waits until an attempt may pass. leave must be called after the attempt.
func (t *limiter) wait(ctx context.Context) error {
	w := &waiter{passed: make(chan struct{})}
	t.mu.Lock()
	t.waiting = append(t.waiting, w)
	t.used = time.Now()
	t.pass()
	waits := len(t.waiting) > 0
	t.mu.Unlock()
	if waits {
		t.changed()
	}
	select {
	case <-w.passed:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	for i, other := range t.waiting {
		if other == w {
			t.waiting = append(t.waiting[:i], t.waiting[i+1:]...)
			t.mu.Unlock()
			return context.Cause(ctx)
		}
	}
	t.mu.Unlock()
	t.leave() // it passed in the meantime
	return context.Cause(ctx)
}

// leave notes that an attempt which passed has ended.
func (t *limiter) leave() {
	t.mu.Lock()
	t.flying--
	t.used = time.Now()
	t.pass()
	t.mu.Unlock()
	t.changed()
}

// allow changes the limits.
func (t *limiter) allow(a allowance) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.allowance = a
	t.pass()
}

// fits reports whether the attempts in flight, and those that have a turn, are within the
// limits.
func (t *limiter) fits() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget(time.Now())
	return (t.slots < 0 || t.flying <= t.slots) && (t.turns < 0 || len(t.begun) <= t.turns)
}

// rest lets no more attempts pass, and returns true, if there was none for so long.
func (t *limiter) rest(after time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget(time.Now())
	if len(t.waiting) > 0 || t.flying > 0 || len(t.begun) > 0 || time.Since(t.used) < after {
		return false
	}
	t.allowance = allowance{}
	return true
}

// counts returns the number of attempts that wait, and of those in flight.
func (t *limiter) counts() (waiting, flying int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.waiting), t.flying
}

// last returns when the last attempt began that may have a turn; zero: none has.
func (t *limiter) last() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.begun) == 0 {
		return time.Time{}
	}
	return t.begun[len(t.begun)-1]
}

// forget forgets the attempts whose turns are over. The lock is held.
func (t *limiter) forget(now time.Time) {
	over := now.Add(-max(t.turn, minTurn))
	n := 0
	for n < len(t.begun) && !t.begun[n].After(over) {
		n++
	}
	t.begun = t.begun[n:]
}

// close stops the timer. No attempt passes afterwards.
func (t *limiter) close() {
	t.allow(allowance{})
}

// pass lets the waiting attempts pass, as far as the limits permit, and sets the timer
// for the next one. The lock is held.
func (t *limiter) pass() {
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
	for len(t.waiting) > 0 && t.turns != 0 && (t.slots < 0 || t.flying < t.slots) {
		now := time.Now()
		if !t.notAfter.IsZero() && now.After(t.notAfter) {
			return // the next call of allow continues
		}
		t.forget(now)
		due := t.notBefore
		interval := time.Duration(0)
		if t.turns > 0 {
			interval = t.turn / time.Duration(t.turns)
			if t.next.After(due) {
				due = t.next
			}
			if over := len(t.begun) - t.turns; over >= 0 && t.begun[over].Add(t.turn).After(due) {
				due = t.begun[over].Add(t.turn)
			}
		}
		if wait := due.Sub(now); wait > 0 {
			t.timer = time.AfterFunc(wait, func() {
				t.mu.Lock()
				defer t.mu.Unlock()
				t.pass()
			})
			return
		}
		// Timers are late. That does not delay the attempts that follow, but a delay of
		// more than half an interval is not made up for.
		if earliest := now.Add(-interval / 2); t.next.Before(earliest) {
			t.next = earliest
		}
		t.next = t.next.Add(interval)
		t.flying++
		t.begun = append(t.begun, now) // also without a limit, because one may appear
		close(t.waiting[0].passed)
		t.waiting = t.waiting[1:]
	}
}
