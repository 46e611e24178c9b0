package main

import (
	"fmt"
	"testing"
	"time"
)

// The limits allow the same number of requests per second in the long run. The
// bucket holds a second's worth of tokens.
var (
	bucketLimit = kindOfLimit{name: "token bucket", status: 429, work: quick, of: func(f schedule) limit {
		return &tokenBucket{rate: limitPerSecond, burst: limitPerSecond, factor: f}
	}}
	fixedLimit = kindOfLimit{name: "fixed window", status: 429, work: quick, of: func(f schedule) limit {
		return &fixedWindow{size: limitPerSecond * window.Seconds(), factor: f}
	}}
	slidingLimit = kindOfLimit{name: "sliding window", status: 429, work: quick, of: func(f schedule) limit {
		return &slidingWindow{size: limitPerSecond * window.Seconds(), factor: f}
	}}
	flightLimit = kindOfLimit{name: "in flight", status: 503, work: slow, noQuota: true, of: func(f schedule) limit {
		return &inFlight{size: limitPerSecond, factor: f}
	}}
	limits = []kindOfLimit{bucketLimit, fixedLimit, slidingLimit, flightLimit}
)

// The changing limit halves and doubles.
const halved, doubled = 60 * time.Second, 120 * time.Second

func halvesAndDoubles(now time.Duration) float64 {
	if now >= halved && now < doubled {
		return 0.5
	}
	return 1
}

var (
	callerCounts  = []int{16, 64, 256, 1000}
	processCounts = []int{1, 10}
)

const usualCallers = 64

// A response has these headers.
type hints struct{ retryAfter, quota bool }

func (h hints) String() string {
	switch h {
	case hints{true, false}:
		return "`Retry-After`"
	case hints{false, true}:
		return "quota"
	case hints{true, true}:
		return "both"
	}
	return "nothing"
}

// hints returns those that k has.
func (k kindOfLimit) hints() []hints {
	if k.noQuota {
		return []hints{{false, false}, {true, false}}
	}
	return []hints{{false, false}, {true, false}, {false, true}, {true, true}}
}

// steady returns a pacing whose limit does not change.
func steady(k kindOfLimit, c contender, h hints, callers, processes int, seed uint64) pacing {
	return pacing{
		limit: k, factor: constant, hints: h, callers: callers, processes: processes,
		requests: max(2400, 40*callers), pacer: c, seed: seed,
	}
}

// changing returns a pacing whose limit halves and doubles.
func changing(k kindOfLimit, c contender, h hints, processes int, seed uint64) pacing {
	p := steady(k, c, h, usualCallers, processes, seed)
	p.factor, p.requests = halvesAndDoubles, 4200
	return p
}

// A pacingReport has the results of all pacings.
type pacingReport struct {
	seed    uint64
	results map[string]paced // by name
}

// name tells pacings with the same seed apart.
func (p pacing) name() string {
	kind := "steady"
	if p.factor(halved) != 1 {
		kind = "changing"
	}
	return fmt.Sprint(p.limit.name, p.pacer.name, p.hints, p.callers, p.processes, kind)
}

func pacings(seed uint64) []pacing {
	var all []pacing
	for _, k := range limits {
		for _, c := range contenders {
			for _, h := range k.hints() {
				if c.name != adaptive.name && h.quota {
					continue // the others do not read it
				}
				for _, processes := range processCounts {
					all = append(all, changing(k, c, h, processes, seed))
					for _, callers := range callerCounts {
						if c.name == adaptive.name || callers == usualCallers {
							all = append(all, steady(k, c, h, callers, processes, seed))
						}
					}
				}
			}
		}
	}
	return all
}

// simulatePacing runs all pacings, in parallel.
func simulatePacing(t *testing.T, seed uint64) *pacingReport {
	all := pacings(seed)
	results := make([]paced, len(all))
	t.Run("pacings", func(t *testing.T) {
		for i, p := range all {
			t.Run(p.name(), func(t *testing.T) {
				t.Parallel()
				results[i] = p.run(t)
			})
		}
	})
	r := &pacingReport{seed, map[string]paced{}}
	for i, p := range all {
		r.results[p.name()] = results[i]
	}
	return r
}

func (r *pacingReport) of(p pacing) paced { return r.results[p.name()] }
