package httpretry

import (
	"math/rand/v2"
	"time"

	"github.com/httpretry/httpretry/internal/jitter"
)

// FullJitter is a [RetryConfig.Jitter] that returns a random wait between 0 and
// backoff. It spreads waits the most, and halves their mean.
func FullJitter(backoff, previous time.Duration) time.Duration {
	return jitter.Full(backoff, rand.Float64())
}

// EqualJitter is a [RetryConfig.Jitter] that returns a random wait between
// backoff/2 and backoff.
func EqualJitter(backoff, previous time.Duration) time.Duration {
	return jitter.Equal(backoff, rand.Float64())
}

// NoJitter is a [RetryConfig.Jitter] that returns backoff.
func NoJitter(backoff, previous time.Duration) time.Duration { return backoff }

// DecorrelatedJitter returns a [RetryConfig.Jitter] that returns a random wait
// between base and three times the previous wait, but at most limit. A previous
// wait below base counts as base. It ignores the computed backoff. Both base
// and limit must be positive: with a base of 0 there is no wait.
func DecorrelatedJitter(base, limit time.Duration) func(backoff, previous time.Duration) time.Duration {
	return func(_, previous time.Duration) time.Duration {
		return jitter.Decorrelated(base, limit, previous, rand.Float64())
	}
}

// spreadUp reflects a wait below floor to the same distance above it.
func spreadUp(floor, jittered time.Duration) time.Duration {
	jittered = max(jittered, 0)
	if jittered >= floor {
		return jittered
	}
	return jitter.Saturate(float64(floor) + float64(floor-jittered))
}
