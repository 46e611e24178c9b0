// Package jitter is the arithmetic of the kinds of jitter, without chance: the
// random number is an argument. So the waits of a simulation can be drawn
// again, and the extremes of chance be tested.
//
// In each function r is in [0, 1). No overflow makes a wait negative or short.
package jitter

import (
	"math"
	"time"
)

// Proportional is the point r of the way through d × (1 ± fraction).
func Proportional(d time.Duration, fraction, r float64) time.Duration {
	return Saturate(float64(d) * (1 + fraction*(2*r-1)))
}

// Full is the point r of the way from 0 to d.
func Full(d time.Duration, r float64) time.Duration { return between(0, d, r) }

// Equal is the point r of the way from half of d to all of it.
func Equal(d time.Duration, r float64) time.Duration { return between(d/2, d, r) }

// Decorrelated is the point r of the way from base to three times the previous
// wait, or three times base if there is none, at most limit.
func Decorrelated(base, limit, previous time.Duration, r float64) time.Duration {
	base = min(base, limit)
	return min(limit, between(base, Saturate(3*float64(max(base, previous))), r))
}

// between is the point r of the way from low to high.
func between(low, high time.Duration, r float64) time.Duration {
	return low + Saturate(float64(high-low)*r)
}

// Saturate turns nanoseconds into a Duration that no overflow can make
// negative.
func Saturate(ns float64) time.Duration {
	if ns >= math.MaxInt64 {
		return math.MaxInt64
	}
	return time.Duration(ns)
}
