package main

import (
	"context"
	"math/rand/v2"
	"time"
)

// No two calls do anything at the same instant, so that the order of events
// does not depend on how the runtime schedules goroutines, and a simulation
// comes out the same to the bit on every machine. Time is divided into ticks,
// and a call has a nanosecond of its own in each half of every tick: in the
// first half it begins, makes its attempts, is turned away and times out; in
// the second it is answered. Waits and timeouts are whole ticks.
const (
	tick  = 100 * time.Microsecond
	slots = int(tick / time.Nanosecond / 2) // how many calls may be under way at once
)

// A call is one request of a client, with all its attempts.
type call struct {
	client int
	begin  time.Duration // since the start of the simulation
	slot   time.Duration // its nanosecond within the first half of a tick
	rand   *rand.Rand    // its own, so that nobody else's draws matter
}

// own returns the first instant from t on that is c's in the first half of a
// tick.
func (c *call) own(t time.Duration) time.Duration { return wholeTicks(t-c.slot) + c.slot }

// answered is own for the second half.
func (c *call) answered(t time.Duration) time.Duration {
	return wholeTicks(t-c.slot-tick/2) + c.slot + tick/2
}

// wholeTicks rounds up.
func wholeTicks(d time.Duration) time.Duration { return (d + tick - 1) / tick * tick }

type callKey struct{}

func withCall(ctx context.Context, c *call) context.Context {
	return context.WithValue(ctx, callKey{}, c)
}

func callOf(ctx context.Context) *call { return ctx.Value(callKey{}).(*call) }

// What there are streams of random numbers for.
const (
	ofClient = iota // when its calls begin
	ofCall          // the jitter of its waits
)

// stream returns the random numbers of client or call n.
func stream(seed uint64, kind, n int) *rand.Rand {
	return rand.New(rand.NewPCG(seed, uint64(kind)<<32|uint64(n)))
}
