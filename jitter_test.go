package httpretry_test

import (
	"math"
	"testing"
	"time"

	"github.com/httpretry/httpretry"
)

// A spread is what a jitter made of one wait over many draws.
type spread struct {
	low, high time.Duration
	mean      float64
}

// draw collects 4000 waits. That one of them lies in the outermost 2 % of a
// uniform range fails by chance once in 10³⁵ runs.
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

// wantUniform fails unless s covers low to high, and lies around their middle.
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

func TestJitterKinds(t *testing.T) {
	const sec = time.Second
	tests := []struct {
		name              string
		jitter            httpretry.Jitter
		backoff, previous time.Duration
		low, high         time.Duration
		reason            string
	}{
		{"Proportional", httpretry.Proportional(0.1), 10 * sec, 5 * sec, 9 * sec, 11 * sec, "± a tenth"},
		{"Proportional, all", httpretry.Proportional(1), 10 * sec, 0, 0, 20 * sec, "± all of it"},
		{"Proportional above 1", httpretry.Proportional(1.5), 10 * sec, 0, 0, 20 * sec, "counts as 1"},
		{"Proportional +Inf", httpretry.Proportional(math.Inf(1)), 10 * sec, 0, 0, 20 * sec, "counts as 1"},
		{"Proportional 0", httpretry.Proportional(0), 10 * sec, 0, 10 * sec, 10 * sec, "no jitter"},
		{"Proportional below 0", httpretry.Proportional(-0.5), 10 * sec, 0, 10 * sec, 10 * sec, "counts as 0"},
		{"Proportional -Inf", httpretry.Proportional(math.Inf(-1)), 10 * sec, 0, 10 * sec, 10 * sec, "counts as 0"},
		{"Proportional NaN", httpretry.Proportional(math.NaN()), 10 * sec, 0, 10 * sec, 10 * sec, "counts as 0"},
		{"Full", httpretry.Full(), 10 * sec, 5 * sec, 0, 10 * sec, "0 to backoff"},
		{"Equal", httpretry.Equal(), 10 * sec, 5 * sec, 5 * sec, 10 * sec, "half of it to all of it"},
		{"None", httpretry.None(), 10 * sec, 5 * sec, 10 * sec, 10 * sec, "as computed"},
		{"Decorrelated", httpretry.Decorrelated(sec, 60*sec), 7 * sec, 10 * sec, sec, 30 * sec, "base to three times the previous wait"},
		{"Decorrelated, base above max", httpretry.Decorrelated(9*sec, 2*sec), 7 * sec, 10 * sec, 2 * sec, 2 * sec, "at most max"},
		{"Decorrelated, no max", httpretry.Decorrelated(sec, 0), 7 * sec, 10 * sec, 0, 0, "at most max, which is 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := draw(func() time.Duration { return tt.jitter(tt.backoff, tt.previous) })
			got.wantUniform(t, tt.low, tt.high, tt.reason)
		})
	}
}

func TestDecorrelatedMax(t *testing.T) {
	jitter := httpretry.Decorrelated(time.Second, time.Minute)
	for _, previous := range []time.Duration{40 * time.Second, time.Hour, math.MaxInt64} {
		got := draw(func() time.Duration { return jitter(0, previous) })
		if got.low < time.Second || got.high != time.Minute {
			t.Errorf("after %v: got waits from %v to %v, want them from %v to at most %v", previous, got.low, got.high, time.Second, time.Minute)
		}
	}
}

// Clients that failed together make their first retry together unless it is
// spread too. In the source of the kind, the wait starts at base, so that the
// first one drawn is from base to three times base.
func TestDecorrelatedSpreadsFirstRetry(t *testing.T) {
	jitter := httpretry.Decorrelated(time.Second, time.Minute)
	got := draw(func() time.Duration { return jitter(time.Second, 0) })
	got.wantUniform(t, time.Second, 3*time.Second, "there is no previous wait, and base takes its place")
}

// Whatever goes in, no wait that ought to be long comes out short or negative.
func TestJitterEdges(t *testing.T) {
	const most = math.MaxInt64
	tests := []struct {
		name      string
		jitter    httpretry.Jitter
		backoff   time.Duration
		low, high time.Duration
		reason    string
	}{
		{"Proportional 0", httpretry.Proportional(1), 0, 0, 0, "nothing to spread"},
		{"Proportional MaxInt64", httpretry.Proportional(1), most, 0, most, "the upper half saturates"},
		{"Proportional MaxInt64 a little", httpretry.Proportional(0.1), most, most / 10 * 8, most, "never far below"},
		{"Full 0", httpretry.Full(), 0, 0, 0, "nothing to spread"},
		{"Full 1", httpretry.Full(), 1, 0, 1, "nothing to spread"},
		{"Full MaxInt64", httpretry.Full(), most, 0, most, "fits"},
		{"Equal 0", httpretry.Equal(), 0, 0, 0, "nothing to spread"},
		{"Equal 1", httpretry.Equal(), 1, 0, 1, "half of 1 is 0"},
		{"Equal MaxInt64", httpretry.Equal(), most, most / 2, most, "no overflow on the way"},
		{"None MaxInt64", httpretry.None(), most, most, most, "as it is"},
		{"None 0", httpretry.None(), 0, 0, 0, "as it is"},
		{"Decorrelated MaxInt64", httpretry.Decorrelated(most, most), most, most, most, "at least base"},
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

// A backoff below 0 is none of RetryConfig's, but a Jitter may be called by
// anybody.
func TestJitterOfNegativeBackoff(t *testing.T) {
	jitters := map[string]httpretry.Jitter{
		"Proportional": httpretry.Proportional(1), "Full": httpretry.Full(), "Equal": httpretry.Equal(), "None": httpretry.None(),
	}
	for name, jitter := range jitters {
		for _, backoff := range []time.Duration{-1, -time.Second, math.MinInt64} {
			if got := draw(func() time.Duration { return jitter(backoff, 0) }); got.high > 0 {
				t.Errorf("%s of %v: got up to %v, want nothing above 0", name, backoff, got.high)
			}
		}
	}
}
