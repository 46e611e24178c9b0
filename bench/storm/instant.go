package main

import (
	"context"
	"math/rand/v2"
	"time"
)

// No two calls act at the same instant, so that the order of events does not
// depend on the scheduler, and the result of a simulation is the same on every
// machine. Time is divided into ticks, and a call has a nanosecond of its own in
// each half of a tick. In the first half it begins, makes attempts, is rejected
// and times out. In the second it gets its response. Waits and timeouts are
// whole ticks.
const (
	tick  = 100 * time.Microsecond
	slots = int(tick / time.Nanosecond / 2) // the maximum of concurrent calls
)

// A call is one request of a client, with all its attempts.
type call struct {
	client int
	begin  time.Duration // since the start of the simulation
	slot   time.Duration // its nanosecond within the first half of a tick
	rand   *rand.Rand    // of its own, so that other calls do not affect it
}

// own returns the first instant of c at or after t in the first half of a tick.
func (c *call) own(t time.Duration) time.Duration { return wholeTicks(t-c.slot) + c.slot }

// answered is like own for the second half.
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

// The streams of random numbers.
const (
	ofClient = iota // when its calls begin
	ofCall          // the jitter of its waits
)

// stream returns the random numbers of client or call n.
func stream(seed uint64, kind, n int) *rand.Rand {
	return rand.New(rand.NewPCG(seed, uint64(kind)<<32|uint64(n)))
}
