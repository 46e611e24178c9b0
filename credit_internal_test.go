package httpretry

import (
	"math"
	"testing"
	"time"
)

// A credit that was refused is given again after some periods: a server whose bucket was
// small for a while is not taken for one with a small bucket forever.
func TestCredit_GrowsAgain(t *testing.T) {
	c := credit{most: math.Inf(1)}
	now := time.Now()
	c.give(10)
	c.use(now)
	c.refuse(now, time.Second)
	c.learn()
	if c.give(10); c.left >= 1 {
		t.Errorf("after a refusal of the first attempt, the credit is %v, want less than 1", c.left)
	}
	for range 30 {
		c.learn()
		c.give(10)
	}
	if c.left < 1 {
		t.Errorf("after 30 periods without a refusal, the credit is %v, want at least 1", c.left)
	}
	if c.give(math.NaN()); c.use(now) {
		t.Error("a credit that is not a number is used")
	}
}

// MaxPerSecond limits the rate, so nothing shows that the server accepts more.
func TestRateLimit_IsNotRaisedAboveItsBound(t *testing.T) {
	r := newRateLimit(new(history), 0, 20)
	r.base = 30
	for now := time.Now(); r.sent < 1000; now = now.Add(time.Second) {
		r.send(now, true)
	}
	if r.excess > 0 {
		t.Errorf("the rate of 30 per second is exceeded by %v, want by nothing: 20 are permitted", r.excess)
	}
}

// Turns that are not used, for instance because another server was faster, show nothing
// about the rate.
func TestRateLimit_UnusedTurnsDoNotRaiseIt(t *testing.T) {
	r := newRateLimit(new(history), 0, 0)
	now := time.Now()
	r.base, r.stepAt, r.toStep = 100, now, holdSent
	for range 1000 {
		now = now.Add(longHold / 2000)
		r.send(now, true)
		r.returned(turn{sent: now})
	}
	if r.excess > 0 {
		t.Errorf("the rate is exceeded by %v, want by nothing: no attempt was made", r.excess)
	}
}

// A refusal that says nothing about the rate, such as that of a server that is down, does
// not count as one of a step or of the credit.
func TestRateLimit_DownIsNoExcess(t *testing.T) {
	r := newRateLimit(new(history), 0, 0)
	now := time.Now()
	r.base, r.stepped, r.early = 100, now, 1
	r.credit.give(10)
	r.credit.use(now)
	r.refuse(turn{sent: now}, time.Second, now, true)
	if r.early != 1 || r.credit.refused {
		t.Errorf("%d early refusals, credit refused: %t; want 1, and not", r.early, r.credit.refused)
	}
}

// No step was accepted before the first one, however large it is at a low rate.
func TestRateLimit_FirstStepWasNotAccepted(t *testing.T) {
	for _, base := range []float64{0.05, 0.5} {
		r := newRateLimit(new(history), 0, 0)
		r.base, r.early = base, 2
		r.excess = r.firstExcess()
		if got := r.exceeded(1000); got != base {
			t.Errorf("after a refusal of the first step, the rate is %v, want %v", got, base)
		}
	}
}
