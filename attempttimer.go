package httpretry

import (
	"sync"
	"time"

	"github.com/httpretry/httpretry/internal/route"
)

// An attemptTimer ends an attempt after AttemptTimeout. A RoundTripper with a Pacer
// of its own pauses it, so that the timeout begins when the attempt is sent.
type attemptTimer struct {
	timeout *timeoutError

	mu     sync.Mutex // guards the fields below, and timeout until timer has fired
	timer  *time.Timer
	paused time.Time // zero: it is not paused
	ended  bool
}

var _ route.Timer = (*attemptTimer)(nil)

func newAttemptTimer(limit time.Duration, cancel func(error)) *attemptTimer {
	t := &attemptTimer{timeout: &timeoutError{limit: limit, begun: time.Now()}}
	t.timer = time.AfterFunc(limit, func() { cancel(t.timeout) })
	return t
}

// stop ends the timer. It reports whether the attempt has ended in time, as one
// without a timer always has.
func (t *attemptTimer) stop() bool {
	if t == nil {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	return !t.paused.IsZero() || t.timer.Stop()
}

// Pause implements [route.Timer].
func (t *attemptTimer) Pause() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended || !t.paused.IsZero() || !t.timer.Stop() {
		return false
	}
	t.paused = time.Now()
	return true
}

// Resume implements [route.Timer].
func (t *attemptTimer) Resume() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.timeout.begun = t.timeout.begun.Add(time.Since(t.paused))
	t.paused = time.Time{}
	if !t.ended {
		t.timer.Reset(t.timeout.limit - time.Since(t.timeout.begun))
	}
}
