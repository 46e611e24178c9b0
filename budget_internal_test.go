package httpretry

import (
	"math"
	"testing"
	"testing/synctest"
	"time"
)

// A budget that is shared by several testing/synctest bubbles sees time go
// backward between them. It then adds nothing, and continues from the new time.
func TestTokenBudget_TimeGoesBackward(t *testing.T) {
	for _, perSecond := range []float64{0.001, 10, 1e6, math.Inf(1)} {
		for _, back := range []time.Duration{1, time.Second, 30 * 365 * 24 * time.Hour, math.MaxInt64} {
			synctest.Test(t, func(t *testing.T) {
				b := &TokenBudget{MinPerSecond: perSecond, Burst: 1e9, spent: 1e8, credited: time.Now().Add(back)}
				if b.Withdraw(Attempt{}); b.spent != 1e8+1 {
					t.Errorf("%g per second, %v back: %g tokens are spent, want one more than 1e8", perSecond, back, b.spent)
				}
				time.Sleep(time.Second)
				want := max(0, 1e8+1-b.minPerSecond()) + 1
				if b.Withdraw(Attempt{}); b.spent != want {
					t.Errorf("%g per second, %v back: %g tokens are spent a second later, want %g", perSecond, back, b.spent, want)
				}
			})
		}
	}
}

// The credit does not depend on how often Withdraw is called.
func TestTokenBudget_CreditsAddUp(t *testing.T) {
	for _, perSecond := range []float64{1e-6, 0.001, 0.3, 10, 12345.678, 1e6} {
		for _, step := range []time.Duration{1, 15, 999, 12345, 1234567} {
			synctest.Test(t, func(t *testing.T) {
				const steps = 10_000
				want := perSecond * (steps * step).Seconds()
				spent := 2*want + 1
				b := &TokenBudget{Ratio: -1, MinPerSecond: perSecond, Burst: spent, spent: spent, credited: time.Now()}
				granted := 0.0
				for range steps {
					time.Sleep(step)
					if b.Withdraw(Attempt{}) {
						granted++
					}
				}
				if got := spent - b.spent + granted; math.Abs(got-want) > 1e-9*spent {
					t.Errorf("%g per second, called every %v: %g tokens were credited, want %g", perSecond, step, got, want)
				}
			})
		}
	}
}
