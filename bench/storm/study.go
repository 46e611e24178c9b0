package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/httpretry/httpretry"
)

// The figures cover the time before, during and after the outage. Calls continue
// for tail after that, so that the last calls that count meet the same traffic
// as the others.
const (
	before = 10 * time.Second
	outage = 30 * time.Second
	after  = 120 * time.Second
	tail   = 15 * time.Second

	maxRetries     = 3
	herdMaxRetries = 5
)

// storm returns the common part of most scenarios: a server with 80 % utilization
// that loses half of its capacity.
func storm(seed uint64) scenario {
	return scenario{
		clients: 10_000, processes: 1, seed: seed,
		period: 25 * time.Second, length: before + outage + after + tail,
		timeout: time.Second, patience: 15 * time.Second,
		policy: exponential(maxRetries, tenPercent),
		server: capacity{
			cost: 2 * time.Millisecond, queue: 2 * time.Second,
			lost: before, outage: outage, percent: 50,
		},
	}
}

// sheds makes the server reject early the requests that it could only answer late.
func sheds(s *scenario) { s.server.queue = 250 * time.Millisecond }

func asks(wait time.Duration) change { return func(s *scenario) { s.server.retryAfter = wait } }

func retries(p httpretry.Policy) change { return func(s *scenario) { s.policy = p } }

func budgeted(b bucket, processes int) change {
	return func(s *scenario) { s.budget, s.processes = &b, processes }
}

// A change makes one scenario from another.
type change func(*scenario)

func (s scenario) with(name string, changes ...change) scenario {
	s.name = name
	for _, c := range changes {
		c(&s)
	}
	return s
}

var (
	zeroBucket  = bucket{name: "`TokenBudget{}`"}
	ratioBucket = bucket{name: "`{MinPerSecond: -1}`", minPerSecond: -1}
	fleetBucket = bucket{name: "`{Ratio: 0.1, MinPerSecond: -1, Burst: 2}`", ratio: 0.1, minPerSecond: -1, burst: 2}
	buckets     = []bucket{zeroBucket, ratioBucket, fleetBucket}

	fleetSizes = []int{1, 10, 1000}
)

// Names of scenarios that the text or a chart uses.
const (
	noRetries   = "no retries"
	immediately = "immediate"
	noJitter    = "exponential, no jitter"
	withDefault = "exponential, ±10 %: the default"
	asked5      = "default, `Retry-After: 5`"
	asked20     = "default, `Retry-After: 20`"
	early       = "default, early 503"
	unbounded   = "blackout, no budget"
	earlyAsked  = "default, early 503, `Retry-After: 5`"
)

// storms returns scenarios with different retry settings and a server that accepts
// more requests than it can answer in time.
func storms(seed uint64) []scenario {
	base := storm(seed)
	all := []scenario{
		base.with(noRetries, retries(httpretry.Never)),
		base.with(immediately, retries(immediate(maxRetries))),
	}
	for _, k := range kinds {
		name := "exponential, " + k.name
		if k.name == "±10 %" {
			name = withDefault
		}
		all = append(all, base.with(name, retries(exponential(maxRetries, k.kind))))
	}
	return append(all,
		base.with(asked5, asks(5*time.Second)),
		base.with(asked20, asks(20*time.Second)),
		fleet(seed, zeroBucket, 1),
		fleet(seed, fleetBucket, 1000),
	)
}

// shedding returns scenarios with a server that rejects early.
func shedding(seed uint64) []scenario {
	base := storm(seed)
	return []scenario{
		base.with("no retries, early 503", sheds, retries(httpretry.Never)),
		base.with(early, sheds),
		base.with(earlyAsked, sheds, asks(5*time.Second)),
		base.with("default, early 503, budget", sheds, budgeted(fleetBucket, 1000)),
	}
}

// fleet returns a scenario with the default policy and a budget per process.
func fleet(seed uint64, b bucket, processes int) scenario {
	return storm(seed).with(fleetName(b, processes), budgeted(b, processes))
}

func fleetName(b bucket, processes int) string {
	if processes == 1 {
		return fmt.Sprintf("default, %s in 1 process", b.name)
	}
	return fmt.Sprintf("default, %s in each of %d processes", b.name, processes)
}

func fleets(seed uint64) []scenario {
	var all []scenario
	for _, b := range buckets {
		for _, n := range fleetSizes {
			all = append(all, fleet(seed, b, n))
		}
	}
	return all
}

// blackouts returns scenarios with a server that never responds, so that each call
// makes all of its retries.
func blackouts(seed uint64) []scenario {
	dark := func(s *scenario) {
		s.length = time.Minute
		s.server.lost, s.server.outage, s.server.percent = 0, time.Hour, 0
	}
	all := []scenario{storm(seed).with(unbounded, dark)}
	for _, b := range buckets {
		for _, n := range fleetSizes {
			all = append(all, fleet(seed, b, n).with(blackoutName(b, n), dark))
		}
	}
	return all
}

func blackoutName(b bucket, processes int) string {
	return "blackout, " + fleetName(b, processes)
}

// herds returns scenarios with simultaneous calls and a server that rejects early,
// for each kind of jitter.
func herds(seed uint64) []scenario {
	herd := func(s *scenario) {
		s.period, s.patience = 0, 2*time.Minute
		s.server.outage = 0
	}
	var all []scenario
	for _, k := range kinds {
		all = append(all, storm(seed).with(herdName(k.name), herd, sheds, retries(exponential(herdMaxRetries, k.kind))))
	}
	return all
}

func herdName(kind string) string { return "herd, " + kind }

// A report has the results of all scenarios.
type report struct {
	seed    uint64
	results map[string]result // by name
}

// scenarios returns the scenarios of all studies, each once.
func scenarios(seed uint64) []scenario {
	var all []scenario
	seen := map[string]bool{}
	for _, study := range []func(uint64) []scenario{storms, shedding, fleets, blackouts, herds} {
		for _, s := range study(seed) {
			if !seen[s.name] {
				all = append(all, s)
			}
			seen[s.name] = true
		}
	}
	return all
}

// simulate runs all scenarios, in parallel.
func simulate(t *testing.T, seed uint64) *report {
	r := &report{seed, map[string]result{}}
	all := scenarios(seed)
	results := make([]result, len(all))
	// t.Run returns when the parallel tests in the group have ended.
	t.Run("scenarios", func(t *testing.T) {
		for i, s := range all {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				results[i] = s.run(t)
			})
		}
	})
	for i, s := range all {
		r.results[s.name] = results[i]
	}
	return r
}
