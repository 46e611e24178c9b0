package jitter

import (
	"fmt"
	"math"
	"testing"
	"time"
)

// edges are waits at which arithmetic overflows or loses precision.
var edges = []time.Duration{
	0, 1, 2, 3, time.Nanosecond * 999, time.Second, time.Minute, 1<<53 - 1, 1<<53 + 1, 1 << 62,
	math.MaxInt64/3 + 1, math.MaxInt64/2 + 1, math.MaxInt64 - 1, math.MaxInt64,
}

// draws are the extremes of the range of rand.Float64, and points between.
var draws = []float64{0, math.SmallestNonzeroFloat64, 1. / 3, 0.5, 0.75, 1 - 1.0/(1<<53)}

// wantWithin fails unless low ≤ got ≤ high, within the precision of float64.
func wantWithin(t *testing.T, name string, got time.Duration, low, high float64) {
	t.Helper()
	const precision = 1e-15
	if got < 0 || float64(got) < low*(1-precision)-1 || float64(got) > high*(1+precision)+1 {
		t.Errorf("%s: got %d, want from %g to %g, and not below 0", name, got, low, high)
	}
}

func TestKinds_Points(t *testing.T) {
	const sec = time.Second
	tests := []struct {
		name   string
		jitter func(r float64) time.Duration
		first  time.Duration
		middle time.Duration
		reason string
	}{
		{"Proportional", func(r float64) time.Duration { return Proportional(10*sec, 0.1, r) }, 9 * sec, 10 * sec, "± a tenth"},
		{"Full", func(r float64) time.Duration { return Full(10*sec, r) }, 0, 5 * sec, "from nothing"},
		{"Equal", func(r float64) time.Duration { return Equal(10*sec, r) }, 5 * sec, 7500 * time.Millisecond, "from half of it"},
		{"Decorrelated", func(r float64) time.Duration { return Decorrelated(sec, 60*sec, 5*sec, r) }, sec, 8 * sec, "to three times the previous wait"},
		{"Decorrelated, the first", func(r float64) time.Duration { return Decorrelated(sec, 60*sec, 0, r) }, sec, 2 * sec, "base in place of a previous wait"},
	}
	for _, tt := range tests {
		if got := tt.jitter(0); got != tt.first {
			t.Errorf("%s of 0: got %v, want %v: %s", tt.name, got, tt.first, tt.reason)
		}
		if got := tt.jitter(0.5); got != tt.middle {
			t.Errorf("%s of a half: got %v, want %v: %s", tt.name, got, tt.middle, tt.reason)
		}
	}
}

func TestProportional_Bounds(t *testing.T) {
	for _, d := range edges {
		for _, fraction := range []float64{math.SmallestNonzeroFloat64, 0.1, 0.5, 1} {
			for _, r := range draws {
				low := float64(d) * (1 - fraction)
				high := min(float64(d)*(1+fraction), math.MaxInt64)
				wantWithin(t, fmt.Sprintf("Proportional(%d, %g, %g)", d, fraction, r), Proportional(d, fraction, r), low, high)
			}
		}
	}
}

// Only a caller's own Policy passes a negative wait. It must not become a long
// one on any architecture.
func TestProportional_NegativeWaitStaysNegative(t *testing.T) {
	for _, d := range []time.Duration{-1, -time.Second, math.MinInt64 / 2, math.MinInt64} {
		for _, r := range draws {
			if got := Proportional(d, 1, r); got > 0 {
				t.Errorf("Proportional(%d, 1, %g): got %d, want nothing above 0", d, r, got)
			}
		}
	}
}

func TestBetween_Bounds(t *testing.T) {
	for _, low := range edges {
		for _, high := range edges {
			if low > high {
				continue
			}
			for _, r := range draws {
				got := between(low, high, r)
				if got < low || got > high {
					t.Errorf("between(%d, %d, %g): got %d, want nothing outside the two", low, high, r, got)
				}
			}
		}
	}
}

func TestDecorrelated_Bounds(t *testing.T) {
	for _, base := range edges {
		for _, limit := range edges {
			for _, previous := range append([]time.Duration{-1, math.MinInt64}, edges...) {
				for _, r := range draws {
					got := Decorrelated(base, limit, previous, r)
					if got < min(base, limit) || got > limit {
						t.Errorf("Decorrelated(%d, %d, %d, %g): got %d, want at least base and at most limit",
							base, limit, previous, r, got)
					}
				}
			}
		}
	}
}

func TestSaturate_Bounds(t *testing.T) {
	tests := []struct {
		ns     float64
		want   time.Duration
		reason string
	}{
		{0, 0, "nothing to do"},
		{1.9, 1, "a Duration has whole nanoseconds"},
		{1 << 62, 1 << 62, "fits"},
		{math.MaxInt64, math.MaxInt64, "as a float64 it is 1<<63, which does not fit"},
		{1e300, math.MaxInt64, "far beyond"},
		{math.Inf(1), math.MaxInt64, "an overflow does not make a wait short"},
		{-1.9, -1, "a Duration has whole nanoseconds"},
		{math.MinInt64, math.MinInt64, "fits"},
		{-1e300, math.MinInt64, "on 386 the conversion alone gives MaxInt64 or 0"},
		{math.Inf(-1), math.MinInt64, "on 386 the conversion alone gives MaxInt64 or 0"},
	}
	for _, tt := range tests {
		if got := Saturate(tt.ns); got != tt.want {
			t.Errorf("Saturate(%g): got %d, want %d: %s", tt.ns, got, tt.want, tt.reason)
		}
	}
}
