// Package jitter computes jitter deterministically: the random number is a
// parameter, so that simulations are reproducible and extreme values can be
// tested.
//
// In each function r is in [0, 1). An overflow never makes a wait negative or
// short.
package jitter

import (
	"math"
	"time"
)

// Proportional returns the point r of the way through the interval
// d × (1 ± fraction).
func Proportional(d time.Duration, fraction, r float64) time.Duration {
	return Saturate(float64(d) * (1 + fraction*(2*r-1)))
}

// Full returns the point r of the way from 0 to d.
func Full(d time.Duration, r float64) time.Duration { return between(0, d, r) }

// Equal returns the point r of the way from d/2 to d.
func Equal(d time.Duration, r float64) time.Duration { return between(d/2, d, r) }

// Decorrelated returns the point r of the way from base to three times the
// previous wait, but at most limit. If there is no previous wait, base takes its
// place.
func Decorrelated(base, limit, previous time.Duration, r float64) time.Duration {
	base = min(base, limit)
	return min(limit, between(base, Saturate(3*float64(max(base, previous))), r))
}

// between returns the point r of the way from low to high.
func between(low, high time.Duration, r float64) time.Duration {
	return low + Saturate(float64(high-low)*r)
}

// Saturate converts nanoseconds to the nearest Duration. The conversion of a
// float64 that does not fit depends on the architecture: on 386, a large
// negative one becomes positive.
func Saturate(ns float64) time.Duration {
	switch {
	case ns >= math.MaxInt64:
		return math.MaxInt64
	case ns <= math.MinInt64:
		return math.MinInt64
	}
	return time.Duration(ns)
}
