package httpretry

import (
	"math"
	"testing"
	"time"
)

// edges are waits at which arithmetic overflows or loses precision.
var edges = []time.Duration{
	0, 1, 2, 3, time.Nanosecond * 999, time.Second, time.Minute, 1<<53 - 1, 1<<53 + 1, 1 << 62,
	math.MaxInt64/3 + 1, math.MaxInt64/2 + 1, math.MaxInt64 - 1, math.MaxInt64,
}

func TestSpreadUp_StaysAboveTheFloor(t *testing.T) {
	for _, floor := range edges {
		for _, jittered := range append([]time.Duration{-1, math.MinInt64}, edges...) {
			got := spreadUp(floor, jittered)
			if got < floor {
				t.Errorf("spreadUp(%d, %d): got %d, want at least the floor", floor, jittered, got)
			}
			if jittered > floor && got != jittered {
				t.Errorf("spreadUp(%d, %d): got %d, want a wait above the floor unchanged", floor, jittered, got)
			}
		}
	}
}
