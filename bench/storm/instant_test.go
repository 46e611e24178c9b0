package main

import (
	"testing"
	"time"
)

// No two calls have an instant in common, and the next one is at most a tick away.
func TestCall_InstantsAreItsOwn(t *testing.T) {
	for _, slot := range []time.Duration{0, 1, 17, time.Duration(slots) - 1} {
		c := &call{slot: slot}
		for _, at := range []time.Duration{0, 1, slot, slot + 1, tick / 2, tick/2 + slot, tick - 1, tick, time.Second, time.Second + 1, 3*time.Second - 1} {
			own := c.own(at)
			if own < at || own >= at+tick || own%tick != slot {
				t.Errorf("slot %d, after %d: got %d, want the next instant that is %d in its tick", slot, at, own, slot)
			}
			answered := c.answered(at)
			if answered < at || answered >= at+tick || answered%tick != tick/2+slot {
				t.Errorf("slot %d, answered after %d: got %d, want the next instant that is %d in its tick", slot, at, answered, tick/2+slot)
			}
		}
	}
}

func TestScenario_WaitsAreWholeTicks(t *testing.T) {
	for _, s := range scenarios(1) {
		for name, d := range map[string]time.Duration{"timeout": s.timeout, "patience": s.patience, "retryAfter": s.server.retryAfter} {
			if d%tick != 0 {
				t.Errorf("%s: %s is %v, want a multiple of %v", s.name, name, d, tick)
			}
		}
	}
}
