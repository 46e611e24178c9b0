package httpretry

import (
	"math/rand/v2"
	"time"

	"github.com/httpretry/httpretry/internal/jitter"
)

// A Jitter spreads waits, so that clients that failed together do not come
// back together. It takes the computed backoff and the wait before the
// previous retry, 0 for the first, and returns the wait to use. A negative
// result counts as 0. It is called from many goroutines at once.
//
// The kinds and their names are those of Marc Brooker, "Exponential Backoff
// And Jitter", AWS Architecture Blog, 2015.
type Jitter func(backoff, previous time.Duration) time.Duration

// Proportional makes a wait up to fraction longer or shorter: uniform over
// backoff × (1 ± fraction). A fraction outside 0 to 1 counts as the nearer of
// the two, and NaN as 0.
func Proportional(fraction float64) Jitter {
	if !(fraction > 0) { // true for NaN
		return None()
	}
	fraction = min(fraction, 1)
	return func(backoff, _ time.Duration) time.Duration {
		return jitter.Proportional(backoff, fraction, rand.Float64())
	}
}

// Full makes a wait uniform over 0 to backoff: the widest spread, and half the
// mean wait.
func Full() Jitter {
	return func(backoff, _ time.Duration) time.Duration {
		return jitter.Full(backoff, rand.Float64())
	}
}

// Equal makes a wait uniform over half of backoff to all of it.
func Equal() Jitter {
	return func(backoff, _ time.Duration) time.Duration {
		return jitter.Equal(backoff, rand.Float64())
	}
}

// None leaves every wait as it was computed.
func None() Jitter {
	return func(backoff, _ time.Duration) time.Duration { return backoff }
}

// Decorrelated makes a wait uniform over base to three times the previous
// wait, or three times base if there is none, at most limit. It grows by chance
// and takes no notice of the computed backoff. Both must be positive: a base of
// 0 means no wait at all.
func Decorrelated(base, limit time.Duration) Jitter {
	return func(_, previous time.Duration) time.Duration {
		return jitter.Decorrelated(base, limit, previous, rand.Float64())
	}
}

// spreadUp returns a wait that is as far above floor as the jittered one is
// away from it.
func spreadUp(floor, jittered time.Duration) time.Duration {
	jittered = max(jittered, 0)
	if jittered >= floor {
		return jittered
	}
	return jitter.Saturate(float64(floor) + float64(floor-jittered))
}
