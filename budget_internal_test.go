package httpretry

import (
	"math"
	"testing"
	"time"
)

// Time goes back when a budget is carried into a test with virtual time, or from
// one to the next.
func TestCreditOfEarlierTime(t *testing.T) {
	now := time.Now()
	for _, perSecond := range []float64{0.001, 10, 1e6, math.Inf(1)} {
		b := &TokenBudget{MinPerSecond: perSecond}
		b.credit(now)
		for _, back := range []time.Duration{1, time.Second, 30 * 365 * 24 * time.Hour, math.MaxInt64} {
			now = now.Add(-back)
			if got := b.credit(now); got != 0 {
				t.Errorf("%g per second, %v back: got a credit of %d nanotokens, want none, and no debt", perSecond, back, got)
			}
			now = now.Add(2 * time.Second)
			if got, want := b.credit(now), nano(2*b.minPerSecond()); got != want {
				t.Errorf("%g per second, %v back: got a credit of %d nanotokens for 2 s then, want %d", perSecond, back, got, want)
			}
		}
	}
}

// However often it is asked for, a credit is what the time has brought.
func TestCreditsAddUp(t *testing.T) {
	for _, perSecond := range []float64{1e-6, 0.001, 0.3, 10, 12345.678, 1e9} {
		for _, step := range []time.Duration{1, 15, 999, 12345, 1234567} {
			const steps = 10_000
			now := time.Now()
			b := &TokenBudget{MinPerSecond: perSecond}
			b.credit(now)
			var got float64
			for range steps {
				now = now.Add(step)
				got += float64(b.credit(now))
			}
			want := perSecond * 1e9 * (steps * step).Seconds()
			const tolerance = 1e-3
			if got > want*(1+1e-12)+1 || got < want*(1-tolerance)-tolerance*1e9 {
				t.Errorf("%g per second, asked every %v: got %.0f nanotokens, want %.0f", perSecond, step, got, want)
			}
		}
	}
}
