package main

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// smaller returns s at a tenth of its size, with the same load and duration.
func (s scenario) smaller() scenario {
	s.clients /= 10
	s.processes = max(1, s.processes/10)
	s.server.cost *= 10
	return s
}

// The result depends only on the seed, not on the scheduler or on the race
// detector: TestResult_Bound compares with the page.
func TestScenario_SameSeedGivesSameResult(t *testing.T) {
	all := slices.Concat(storms(1), shedding(1)[2:], fleets(1)[3:4], herds(1)[:2])
	for _, s := range all {
		t.Run(s.name, func(t *testing.T) {
			s := s.smaller()
			s.length = min(s.length, 30*time.Second)
			want := s.run(t).seconds
			for _, procs := range []int{1, 2, 2 * runtime.NumCPU()} {
				usual := runtime.GOMAXPROCS(procs)
				got := s.run(t).seconds
				runtime.GOMAXPROCS(usual)
				if !slices.Equal(got, want) {
					t.Errorf("GOMAXPROCS=%d: got another result, want the same", procs)
				}
			}
		})
	}
	s := storms(1)[0].smaller()
	other := s
	other.seed++
	if slices.Equal(s.run(t).seconds, other.run(t).seconds) {
		t.Error("another seed gives the same result, want another")
	}
}

// The conclusions of the page hold for other seeds.
func TestScenario_RecoversAsThePageSays(t *testing.T) {
	for _, seed := range []uint64{1, 2} {
		for _, s := range slices.Concat(storms(seed), shedding(seed), fleets(seed)) {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				s := s.smaller()
				r := s.run(t)
				want, reason := s.recovers()
				if _, got := r.recovery(); got != want {
					t.Errorf("seed %d: recovers: %v, want %v: %s", seed, got, want, reason)
				}
				if load := r.laterLoad(); load > 1 == want {
					t.Errorf("seed %d: the load at the end is %.2f of the capacity: %s", seed, load, reason)
				}
			})
		}
	}
}

// recovers returns the conclusion of the page about s.
func (s scenario) recovers() (recovers bool, reason string) {
	switch {
	case s.name == noRetries:
		return true, "without retries nothing sustains the overload"
	case s.server.queue < s.timeout/2:
		return true, "nothing is done in vain"
	case s.budget == nil:
		return false, "retries sustain the overload"
	}
	ratio, minPerSecond, _ := s.budget.inForce()
	most := s.callsPerSecond()*(1+ratio) + float64(s.processes)*minPerSecond
	return most < s.server.perSecond(), fmt.Sprintf("the budget allows %.0f attempts per second, the server answers %.0f", most, s.server.perSecond())
}

// Budgets allow at most as many attempts as the formula of the page, and hardly
// fewer. The figures are those of the page, also with the race detector.
func TestResult_Bound(t *testing.T) {
	page := string(read(t, "../../docs/retry-storms.md"))
	all := blackouts(1)[1:]
	for i, b := range buckets {
		for j, n := range fleetSizes {
			t.Run(blackoutName(b, n), func(t *testing.T) {
				t.Parallel()
				r := all[i*len(fleetSizes)+j].run(t)
				got, most := r.amplification(0), r.bound()
				if got > most || got < 0.97*most {
					t.Errorf("got %.3f attempts per call, want at most %.3f and little less", got, most)
				}
				row := (&report{results: map[string]result{r.name: r}}).fleetRow(b, n)
				if !strings.Contains(page, strings.Join(row[:4], " | ")) {
					t.Errorf("the page has other figures than %v", row[:4])
				}
			})
		}
	}
}
