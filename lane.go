package httpretry

import (
	"container/heap"
	"context"
	"net/http"
	"sync"
	"time"
)

// A lane has the limits of a key, and the attempts that wait for them. Waiters
// have no goroutine besides their own. One timer wakes them, one after the other,
// and is reset whenever a limit changes.
type lane struct {
	pacer *AdaptivePacer

	// When the lane was made, free attempts without a lane were in flight, and
	// ended had ended. Attempts of other keys are among them, but end soon.
	free, ended int64

	mu       sync.Mutex // guards the fields below
	rate     rateLimit
	flight   flightLimit
	inFlight int // attempts that have the lane
	waiting  waiters
	timer    *time.Timer // calls wake; nil until it is needed
}

func (p *AdaptivePacer) newLane() *lane {
	l := &lane{pacer: p, ended: p.ended.Load()}
	l.free = p.free.started.Load() - l.ended
	l.rate = newRateLimit(&p.free, p.MinPerSecond, p.MaxPerSecond)
	l.flight = newFlightLimit(p.MaxInFlight)
	return l
}

// wait waits for a turn.
func (l *lane) wait(ctx context.Context, backoff time.Duration, t turn) (turn, error) {
	// A waiter with a backoff keeps its place, because that depends on its
	// arrival.
	if err := sleep(ctx, backoff); err != nil {
		return turn{}, err
	}
	w := &waiter{turn: t, ready: make(chan struct{})}
	if err := l.join(ctx, w); err != nil {
		return turn{}, err
	}
	select {
	case <-w.ready:
		return w.turn, w.err
	case <-ctx.Done():
		l.leave(w)
		return turn{}, context.Cause(ctx)
	}
}

// join adds w to the queue, unless its turn would come after the deadline of ctx.
func (l *lane) join(ctx context.Context, w *waiter) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if deadline, ok := ctx.Deadline(); ok {
		wait := l.delay(w.arrival, now)
		if now.Add(wait).After(deadline) {
			return &lateError{wait: wait}
		}
		w.deadline = deadline
	}
	w.joined = now
	heap.Push(&l.waiting, w)
	l.dispatch(now)
	return nil
}

// delay returns the time until the calls that arrived before arrival have been sent.
func (l *lane) delay(arrival int64, now time.Time) time.Duration {
	before := 0
	for _, w := range l.waiting {
		if w.arrival < arrival {
			before++
		}
	}
	return max(0, l.rate.opens().Sub(now)) + l.rate.duration(before)
}

// unused ends a turn that was not used.
func (l *lane) unused(t turn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.takeBack(t)
	l.dispatch(time.Now())
}

// takeBack ends a turn that was not used. The lock is held.
func (l *lane) takeBack(t turn) {
	l.inFlight--
	l.rate.returned(t)
	if l.pacer.bounded() && t.period == 0 {
		l.pacer.free.refused.Add(1) // dispatch has counted it
	}
}

// leave removes w, which may have its turn already.
func (l *lane) leave(w *waiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case w.index >= 0:
		heap.Remove(&l.waiting, w.index)
	case w.err == nil:
		l.takeBack(w.turn)
	}
	l.dispatch(time.Now())
}

// dispatch gives turns to the waiters that may send now, and sets the timer for the
// next one.
func (l *lane) dispatch(now time.Time) {
	for len(l.waiting) > 0 && l.allInFlight() < l.flight.most {
		at := l.rate.ready(now)
		if l.allInFlight() >= l.flight.limit() {
			// MinPerSecond applies to both kinds of limits.
			var due time.Time
			switch {
			case l.rate.least > 0:
				due = l.rate.sentAt.Add(seconds(1 / l.rate.least))
			case l.inFlight < l.flight.limit():
				due = now.Add(firstGap) // attempts of other keys end without a call of dispatch
			default:
				return
			}
			if due.After(at) {
				at = due
			}
		}
		if at.After(now) {
			if l.timer == nil {
				l.timer = time.AfterFunc(at.Sub(now), l.wake)
			} else {
				l.timer.Reset(at.Sub(now))
			}
			return
		}
		next := 0
		if l.rate.probing {
			next = l.waiting.probe()
		}
		w := heap.Remove(&l.waiting, next).(*waiter)
		l.inFlight++
		if l.pacer.bounded() && l.rate.period == 0 { // attempts have a lane from the first on
			l.pacer.free.add()
			l.pacer.ended.Add(1)
		}
		w.pending, w.lane, w.sent, w.period, w.inFlight = true, l, now, l.rate.period, l.allInFlight()
		more := len(l.waiting) > 0
		l.rate.send(now, more || now.After(w.joined))
		l.flight.send(now, more && w.inFlight >= l.flight.limit())
		close(w.ready)
	}
}

func (l *lane) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dispatch(time.Now())
}

// allInFlight returns the number of attempts in flight.
func (l *lane) allInFlight() int {
	return l.inFlight + int(max(0, l.free-(l.pacer.ended.Load()-l.ended)))
}

// done ends the attempt that t permitted.
func (l *lane) done(t turn, s signal, retryAfter time.Duration, resp *http.Response) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if t.lane != nil {
		l.inFlight--
	}
	if s != accepted {
		l.rate.close(now.Add(retryAfter))
		if t.lane != nil && l.pacer.bounded() && t.period == 0 {
			l.pacer.free.refused.Add(1)
		}
	}
	switch {
	case s == tooFast:
		l.rate.refuse(t, retryAfter, now, false)
	case s == accepted:
		l.rate.accept(t, now)
		l.flight.accept(t)
	case s == timedOut:
		l.flight.timeout(t, now)
	case s == down, t.inFlight <= 1:
		// Others use the server, or it is down: the limit cannot be lower than
		// one in flight.
		l.rate.refuse(t, retryAfter, now, true)
	default:
		l.flight.refuse(t, l.allInFlight(), retryAfter, now)
	}
	if resp != nil {
		l.rate.quota.read(resp.Header, l.allInFlight(), now)
		l.rate.close(l.rate.quota.exhaustedUntil())
	}
	l.dispatch(now)
	l.dismiss(now)
}

// dismiss ends the waits that the server has made too long.
func (l *lane) dismiss(now time.Time) {
	if !l.rate.closed.After(now) {
		return
	}
	stay := l.waiting[:0]
	for _, w := range l.waiting {
		if w.deadline.IsZero() || !l.rate.closed.After(w.deadline) {
			w.index = len(stay)
			stay = append(stay, w)
			continue
		}
		w.index, w.err = -1, &lateError{wait: l.rate.closed.Sub(now)}
		close(w.ready)
	}
	clear(l.waiting[len(stay):])
	l.waiting = stay
	heap.Init(&l.waiting)
}

// A waiter is an attempt that waits for its turn.
type waiter struct {
	turn
	joined   time.Time
	deadline time.Time     // zero: none
	ready    chan struct{} // closed when it has its turn, or err
	err      error
	index    int // in the heap; negative: it has left it
}

// waiters is a heap, ordered by arrival.
type waiters []*waiter

func (ws waiters) Len() int           { return len(ws) }
func (ws waiters) Less(i, j int) bool { return ws[i].arrival < ws[j].arrival }

func (ws waiters) Swap(i, j int) {
	ws[i], ws[j] = ws[j], ws[i]
	ws[i].index, ws[j].index = i, j
}

// Push implements [heap.Interface].
func (ws *waiters) Push(w any) {
	w.(*waiter).index = len(*ws)
	*ws = append(*ws, w.(*waiter))
}

// Pop implements [heap.Interface].
func (ws *waiters) Pop() any {
	last := len(*ws) - 1
	w := (*ws)[last]
	(*ws)[last] = nil
	*ws = (*ws)[:last]
	w.index = -1
	return w
}

// probe returns the index of the waiter whose attempt is sent although it may be
// refused: of those that were refused least, the one that arrived last. Otherwise
// a few calls would use up their retries.
func (ws waiters) probe() int {
	best := 0
	for i, w := range ws {
		if b := ws[best]; w.refused < b.refused || w.refused == b.refused && w.arrival > b.arrival {
			best = i
		}
	}
	return best
}
