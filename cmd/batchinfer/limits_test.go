package main

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var allLimits = flag.Bool("limits.all", false, "run TestRun_ReachesTheLimitOfItsGateway with concurrency 16 and 256, too")

// A gatewayLimit is a limit that gateways have.
type gatewayLimit struct {
	name      string
	requests  int
	perSecond float64 // at best
	limit     func(g *limited)
}

func gatewayLimits() []gatewayLimit {
	return []gatewayLimit{
		{"10/s", 1000, 10, func(g *limited) { g.accept = bucket(10) }},
		{"20/s", 2000, 20, func(g *limited) { g.accept = bucket(20) }},
		{"50/s", 4000, 50, func(g *limited) { g.accept = bucket(50) }},
		{"200/s", 16_000, 200, func(g *limited) { g.accept = bucket(200) }},
		{"600 a minute", 6000, 10, func(g *limited) { g.accept = minutely(600) }},
		{"32 in flight", 6000, 32 / 0.31, func(g *limited) {
			now := 0
			g.status = 503
			g.accept = func(time.Time) (bool, time.Duration) {
				if now == 32 {
					return false, 0
				}
				now++
				return true, 0
			}
			g.done = func() { now-- }
		}},
	}
}

// A run reaches the limit of its gateway, whatever the limit and the configured
// concurrency, with few attempts in vain, and without a failure.
func TestRun_ReachesTheLimitOfItsGateway(t *testing.T) {
	for _, tt := range gatewayLimits() {
		concurrencies := []int{64}
		if *allLimits {
			concurrencies = []int{16, 64, 256}
		}
		for _, inFlight := range concurrencies {
			for _, header := range []bool{false, true} {
				name := strings.ReplaceAll(fmt.Sprintf("%s, %d, %t", tt.name, inFlight, header), "/", " per ")
				t.Run(name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						g := &limited{status: 429, header: header}
						tt.limit(g)
						cfg := defaultConfig()
						cfg.perWorker = inFlight
						start := time.Now()
						b, _, err := runVirtual(t, tt.requests, cfg, g)
						took := time.Since(start)
						if err != nil || b.summary.answered != tt.requests {
							t.Fatalf("got %d answered, failed %v, %v, want all", b.summary.answered, b.summary.failed, err)
						}
						best := min(tt.perSecond, float64(inFlight)/0.31)
						reached := float64(tt.requests) / took.Seconds() / best
						extra := float64(g.attempts-tt.requests) / float64(tt.requests)
						t.Logf("%.3f of the limit, %.3f extra attempts, %v, window %d", reached, extra, took, b.crew.traffic().limit)
						if reached < 0.95 || extra > 0.03 {
							t.Errorf("got %.3f of the limit and %.3f more attempts than requests, want at least 0.95 and at most 0.03", reached, extra)
						}
					})
				})
			}
		}
	}
}
