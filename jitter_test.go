package httpretry_test

import (
	"math"
	"testing"
	"time"

	"github.com/httpretry/httpretry"
)

// A spread is the distribution of many draws of a jitter.
type spread struct {
	low, high time.Duration
	mean      float64
}

// draw collects 4000 waits. The chance that none of them lies in the outermost
// 2 % of a uniform range is 10⁻³⁵.
func draw(next func() time.Duration) spread {
	const n = 4000
	s := spread{low: math.MaxInt64, high: math.MinInt64}
	for range n {
		d := next()
		s.low, s.high = min(s.low, d), max(s.high, d)
		s.mean += float64(d) / n
	}
	return s
}

// wantUniform fails unless s extends from low to high, and has its mean in their
// middle.
func (s spread) wantUniform(t *testing.T, low, high time.Duration, reason string) {
	t.Helper()
	width := float64(high) - float64(low)
	if s.low < low || s.high > high {
		t.Errorf("got waits from %v to %v, want them from %v to %v: %s", s.low, s.high, low, high, reason)
	}
	if float64(s.low)-float64(low) > 0.02*width || float64(high)-float64(s.high) > 0.02*width {
		t.Errorf("got waits from %v to %v only, want them spread over %v to %v: %s", s.low, s.high, low, high, reason)
	}
	if middle := float64(low) + width/2; math.Abs(s.mean-middle) > 0.05*width {
		t.Errorf("got a mean of %v, want about %v: %s", time.Duration(s.mean), time.Duration(middle), reason)
	}
}

func TestJitter_Kinds(t *testing.T) {
	const sec = time.Second
	tests := []struct {
		name              string
		jitter            func(backoff, previous time.Duration) time.Duration
		backoff, previous time.Duration
		low, high         time.Duration
		reason            string
	}{
		{"FullJitter", httpretry.FullJitter, 10 * sec, 5 * sec, 0, 10 * sec, "0 to backoff"},
		{"EqualJitter", httpretry.EqualJitter, 10 * sec, 5 * sec, 5 * sec, 10 * sec, "half of it to all of it"},
		{"NoJitter", httpretry.NoJitter, 10 * sec, 5 * sec, 10 * sec, 10 * sec, "as computed"},
		{"DecorrelatedJitter", httpretry.DecorrelatedJitter(sec, 60*sec), 7 * sec, 10 * sec, sec, 30 * sec, "base to three times the previous wait"},
		{"DecorrelatedJitter, base above max", httpretry.DecorrelatedJitter(9*sec, 2*sec), 7 * sec, 10 * sec, 2 * sec, 2 * sec, "at most max"},
		{"DecorrelatedJitter, no max", httpretry.DecorrelatedJitter(sec, 0), 7 * sec, 10 * sec, 0, 0, "at most max, which is 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := draw(func() time.Duration { return tt.jitter(tt.backoff, tt.previous) })
			got.wantUniform(t, tt.low, tt.high, tt.reason)
		})
	}
}

func TestDecorrelatedJitter_Limit(t *testing.T) {
	jitter := httpretry.DecorrelatedJitter(time.Second, time.Minute)
	for _, previous := range []time.Duration{40 * time.Second, time.Hour, math.MaxInt64} {
		got := draw(func() time.Duration { return jitter(0, previous) })
		if got.low < time.Second || got.high != time.Minute {
			t.Errorf("after %v: got waits from %v to %v, want them from %v to at most %v", previous, got.low, got.high, time.Second, time.Minute)
		}
	}
}

// The first retry of clients that failed together must be spread too. In the
// original, the wait starts at base, so that the first draw is from base to
// three times base.
func TestDecorrelatedJitter_SpreadsFirstRetry(t *testing.T) {
	jitter := httpretry.DecorrelatedJitter(time.Second, time.Minute)
	got := draw(func() time.Duration { return jitter(time.Second, 0) })
	got.wantUniform(t, time.Second, 3*time.Second, "there is no previous wait, and base takes its place")
}

// No argument makes a wait negative, or a long wait short.
func TestJitter_Edges(t *testing.T) {
	const most = math.MaxInt64
	tests := []struct {
		name      string
		jitter    func(backoff, previous time.Duration) time.Duration
		backoff   time.Duration
		low, high time.Duration
		reason    string
	}{
		{"FullJitter 0", httpretry.FullJitter, 0, 0, 0, "nothing to spread"},
		{"FullJitter 1", httpretry.FullJitter, 1, 0, 1, "nothing to spread"},
		{"FullJitter MaxInt64", httpretry.FullJitter, most, 0, most, "fits"},
		{"EqualJitter 0", httpretry.EqualJitter, 0, 0, 0, "nothing to spread"},
		{"EqualJitter 1", httpretry.EqualJitter, 1, 0, 1, "half of 1 is 0"},
		{"EqualJitter MaxInt64", httpretry.EqualJitter, most, most / 2, most, "no overflow on the way"},
		{"NoJitter MaxInt64", httpretry.NoJitter, most, most, most, "unchanged"},
		{"NoJitter 0", httpretry.NoJitter, 0, 0, 0, "unchanged"},
		{"DecorrelatedJitter MaxInt64", httpretry.DecorrelatedJitter(most, most), most, most, most, "at least base"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := draw(func() time.Duration { return tt.jitter(tt.backoff, most) })
			if got.low < tt.low || got.high > tt.high {
				t.Errorf("got waits from %d to %d, want them from %d to %d: %s", got.low, got.high, tt.low, tt.high, tt.reason)
			}
		})
	}
}

// RetryConfig never passes a negative backoff, but another caller may.
func TestJitter_NegativeBackoff(t *testing.T) {
	jitters := map[string]func(backoff, previous time.Duration) time.Duration{
		"FullJitter": httpretry.FullJitter, "EqualJitter": httpretry.EqualJitter, "NoJitter": httpretry.NoJitter,
	}
	for name, jitter := range jitters {
		for _, backoff := range []time.Duration{-1, -time.Second, math.MinInt64} {
			if got := draw(func() time.Duration { return jitter(backoff, 0) }); got.high > 0 {
				t.Errorf("%s of %v: got up to %v, want nothing above 0", name, backoff, got.high)
			}
		}
	}
}
