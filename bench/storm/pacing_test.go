package main

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// The figures are those of the page, whatever the scheduler and the race detector
// do.
func TestPacing_FiguresOfThePage(t *testing.T) {
	page := string(read(t, "../../docs/pacing.md"))
	for _, k := range limits {
		for _, c := range []contender{adaptive, unpaced} {
			for _, processes := range processCounts {
				p := steady(k, c, hints{retryAfter: true}, usualCallers, processes, 1)
				t.Run(p.name(), func(t *testing.T) {
					r := &pacingReport{1, map[string]paced{p.name(): p.run(t)}}
					if row := strings.Join(r.contenderRow(k, c, processes), " | "); !strings.Contains(page, row) {
						t.Errorf("the page does not have the row %s: run go -C bench run ./storm -only pacing", row)
					}
				})
			}
		}
	}
}

func TestPacing_SameSeedGivesSameResult(t *testing.T) {
	p := changing(bucketLimit, adaptive, hints{}, 10, 1)
	p.requests = 1000
	want := p.run(t).arrivals
	usual := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(usual)
	for _, procs := range []int{1, 2 * usual} {
		runtime.GOMAXPROCS(procs)
		if !slices.Equal(p.run(t).arrivals, want) {
			t.Errorf("GOMAXPROCS=%d: got another result, want the same", procs)
		}
	}
}

// One process reaches the goals of pacing at each limit that sends Retry-After, also
// with another seed.
func TestPacing_ReachesItsGoals(t *testing.T) {
	for _, k := range limits {
		for _, seed := range []uint64{1, 2, 3} {
			r := steady(k, adaptive, hints{retryAfter: true}, usualCallers, 1, seed).run(t)
			got := fmt.Sprint(figures(r))
			if r.timeRatio() > 1.05 || r.attemptsPerRequest() > 1.03 || r.laterRefusals() > 0.02 || r.failed > 0 || r.longestWait() > 2.5 {
				t.Errorf("%s, seed %d: got %s, want at most 1.05, 1.03, 2 %%, 0 and 2.5", k.name, seed, got)
			}
		}
	}
}

func TestLimit_Accepts(t *testing.T) {
	tests := []struct {
		limit kindOfLimit
		at    []time.Duration // of requests; each at once limitPerSecond of them
		want  []int           // accepted
	}{
		{bucketLimit, []time.Duration{0, time.Second / 2, 2 * time.Second}, []int{20, 10, 20}},
		{fixedLimit, []time.Duration{0, 9 * time.Second, 10 * time.Second}, []int{200, 0, 200}},
		{slidingLimit, []time.Duration{5 * time.Second, 14 * time.Second, 15 * time.Second}, []int{200, 0, 200}},
		{flightLimit, []time.Duration{0, time.Second}, []int{20, 0}},
	}
	for _, tt := range tests {
		l := tt.limit.of(constant)
		for i, at := range tt.at {
			accepted := 0
			for range 300 {
				if ok, again := l.accept(at); ok {
					accepted++
				} else if again <= 0 {
					t.Errorf("%s: a refused request may come again after %v, want a wait", tt.limit.name, again)
				}
			}
			if accepted != tt.want[i] {
				t.Errorf("%s: %d of 300 requests were accepted at %v, want %d", tt.limit.name, accepted, at, tt.want[i])
			}
		}
	}
}
