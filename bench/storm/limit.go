package main

import (
	"math"
	"time"
)

// A limit decides which requests a server accepts. Its methods are called in the
// order of time, by one request at a time.
type limit interface {
	// accept reports whether a request that arrives at now is accepted and, if
	// not, when one will be.
	accept(now time.Duration) (ok bool, again time.Duration)

	// release ends a request that was accepted.
	release()

	// quota returns how much of the limit is left, and the time until its reset:
	// the end of a fixed window, when the oldest request leaves a sliding one,
	// and when a bucket will be full.
	quota(now time.Duration) (left int, reset time.Duration)
}

// A schedule is the factor that applies to a limit over time.
type schedule func(now time.Duration) float64

// constant is the schedule of a limit that does not change.
func constant(time.Duration) float64 { return 1 }

// A tokenBucket gains rate tokens per second, up to burst. A request takes one.
type tokenBucket struct {
	rate, burst float64
	factor      schedule

	spent float64
	at    time.Duration
}

func (b *tokenBucket) accept(now time.Duration) (bool, time.Duration) {
	rate := b.rate * b.factor(now)
	b.spent = max(0, b.spent-(now-b.at).Seconds()*rate)
	b.at = now
	if b.spent+1 > b.burst+1e-9 {
		return false, time.Duration((b.spent + 1 - b.burst) / rate * float64(time.Second))
	}
	b.spent++
	return true, 0
}

func (b *tokenBucket) release() {}

func (b *tokenBucket) quota(now time.Duration) (left int, reset time.Duration) {
	rate := b.rate * b.factor(now)
	return int(b.burst - b.spent), time.Duration(b.spent / rate * float64(time.Second))
}

// A fixedWindow accepts size requests in each period of the length window.
type fixedWindow struct {
	size   float64
	factor schedule

	current time.Duration // number of the window
	used    int
}

func (w *fixedWindow) roll(now time.Duration) {
	if n := now / window; n > w.current {
		w.current, w.used = n, 0
	}
}

func (w *fixedWindow) limit(now time.Duration) int { return int(w.size * w.factor(now)) }

func (w *fixedWindow) accept(now time.Duration) (bool, time.Duration) {
	w.roll(now)
	if w.used >= w.limit(now) {
		return false, (w.current+1)*window - now
	}
	w.used++
	return true, 0
}

func (w *fixedWindow) release() {}

func (w *fixedWindow) quota(now time.Duration) (left int, reset time.Duration) {
	w.roll(now)
	return max(0, w.limit(now)-w.used), (w.current+1)*window - now
}

// A slidingWindow accepts size requests in any period as long as window.
type slidingWindow struct {
	size   float64
	factor schedule

	accepted []time.Duration // within the last window
}

func (w *slidingWindow) roll(now time.Duration) {
	for len(w.accepted) > 0 && w.accepted[0] <= now-window {
		w.accepted = w.accepted[1:]
	}
}

func (w *slidingWindow) accept(now time.Duration) (bool, time.Duration) {
	w.roll(now)
	if n := len(w.accepted) - int(w.size*w.factor(now)); n >= 0 {
		return false, w.accepted[n] + window - now
	}
	w.accepted = append(w.accepted, now)
	return true, 0
}

func (w *slidingWindow) release() {}

func (w *slidingWindow) quota(now time.Duration) (left int, reset time.Duration) {
	w.roll(now)
	if len(w.accepted) > 0 {
		reset = w.accepted[0] + window - now
	}
	return max(0, int(w.size*w.factor(now))-len(w.accepted)), reset
}

// An inFlight accepts size requests at the same time.
type inFlight struct {
	size   float64
	factor schedule

	now int
}

func (f *inFlight) accept(now time.Duration) (bool, time.Duration) {
	if float64(f.now) >= math.Floor(f.size*f.factor(now)) {
		return false, time.Second
	}
	f.now++
	return true, 0
}

func (f *inFlight) release() { f.now-- }

func (f *inFlight) quota(time.Duration) (left int, reset time.Duration) { return 0, 0 }
