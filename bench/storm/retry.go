package main

import (
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/internal/jitter"
)

// A jitterFunc is a Jitter of a RetryConfig.
type jitterFunc func(backoff, previous time.Duration) time.Duration

// A kind returns a jitter that uses r, in [0, 1), as its random number.
type kind func(r float64) jitterFunc

// The kinds are those of package httpretry, with the same arithmetic. The
// package itself uses the global random source, which cannot be seeded.
var kinds = []struct {
	name string
	kind kind
}{
	{"no jitter", func(float64) jitterFunc {
		return func(backoff, _ time.Duration) time.Duration { return backoff }
	}},
	{"±10 %", tenPercent},
	{"Full", func(r float64) jitterFunc {
		return func(backoff, _ time.Duration) time.Duration { return jitter.Full(backoff, r) }
	}},
	{"Equal", func(r float64) jitterFunc {
		return func(backoff, _ time.Duration) time.Duration { return jitter.Equal(backoff, r) }
	}},
	{"Decorrelated", func(r float64) jitterFunc {
		return func(_, previous time.Duration) time.Duration {
			return jitter.Decorrelated(time.Second, time.Minute, previous, r)
		}
	}},
}

// tenPercent is the default jitter of a RetryConfig.
func tenPercent(r float64) jitterFunc {
	return func(backoff, _ time.Duration) time.Duration { return jitter.Proportional(backoff, 0.1, r) }
}

// A policyFunc is a Policy.
type policyFunc func(httpretry.Attempt) (time.Duration, bool)

func (f policyFunc) Backoff(a httpretry.Attempt) (time.Duration, bool) { return f(a) }

// exponential returns a RetryConfig with the default waits and jitter of kind k,
// which uses the random numbers of the call.
func exponential(maxRetries int, k kind) httpretry.Policy {
	return policyFunc(func(a httpretry.Attempt) (time.Duration, bool) {
		r := callOf(a.Request.Context()).rand.Float64()
		delay, retry := httpretry.RetryConfig{MaxRetries: maxRetries, Jitter: k(r)}.Backoff(a)
		return wholeTicks(delay), retry
	})
}

// immediate returns a policy that does not wait.
func immediate(maxRetries int) httpretry.Policy {
	return policyFunc(func(a httpretry.Attempt) (time.Duration, bool) {
		return 0, a.Number <= maxRetries
	})
}

// A bucket has the settings of a TokenBudget and a name for them.
type bucket struct {
	name                       string
	ratio, minPerSecond, burst float64
}

// full returns a new budget with these settings.
func (b bucket) full() httpretry.Budget {
	return &httpretry.TokenBudget{Ratio: b.ratio, MinPerSecond: b.minPerSecond, Burst: b.burst}
}

// inForce returns the settings that a TokenBudget uses for b: the defaults for
// zeros, and zero for negative values.
func (b bucket) inForce() (ratio, minPerSecond, burst float64) {
	or := func(v, byDefault float64) float64 {
		if v == 0 {
			return byDefault
		}
		return max(v, 0)
	}
	minPerSecond = or(b.minPerSecond, 10)
	return or(b.ratio, 0.2), minPerSecond, max(1, or(b.burst, 10*minPerSecond))
}
