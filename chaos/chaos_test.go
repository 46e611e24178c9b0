package chaos_test

import (
	"flag"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/httpretry/httpretry"
	"go.uber.org/goleak"
)

var (
	requests  = flag.Int("chaos.requests", 100_000, "number of requests of TestChaos")
	stormTime = flag.Duration("chaos.time", 100*time.Second, "maximum time of TestChaos for requests over failing lines")
	seedFlag  = flag.Uint64("chaos.seed", 0, "seed of the faults and the requests; 0 for a different one in each run")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// policy makes many attempts with short waits.
var policy = httpretry.RetryConfig{MaxRetries: 4, InitialBackoff: time.Millisecond, MaxBackoff: 10 * time.Millisecond}

func retrying(base http.RoundTripper, attemptTime time.Duration) http.RoundTripper {
	return &httpretry.RetryTransport{
		Base: base, Policy: policy, AttemptTimeout: attemptTime,
		IdleTimeout: attemptTime / 2, MinBytesPerSecond: 1000,
		MaxReplayBytes: maxReplayBytes, ResumeDownloads: true,
	}
}

// Over lines with every kind of fault, the layer keeps its promises and leaves
// nothing behind.
func TestChaos(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	x := newExperiment(t, seed, *requests, retrying)
	start := time.Now()
	x.run(*requests)
	t.Logf("%d requests in %v:\n%s", x.next, time.Since(start).Round(time.Second), x.ledger.summary())
	if x.next >= 50_000 { // a short run may miss some events
		x.wantTrouble(t)
	}
	x.ledger.report(t)
}

// wantTrouble fails the test if an event did not occur that a promise is about.
func (x *experiment) wantTrouble(t *testing.T) {
	l := x.ledger
	for _, what := range []string{
		"attempts that failed: refused",
		"attempts that failed: reset",
		"attempts that failed: end of file",
		"attempts that failed: out of time",
		"responses that stalled",
		"calls that gave up: not_idempotent",
		"calls that gave up: policy",
		"request bodies that failed",
		"requests processed again",
		"arrivals that net/http itself repeated",
		"responses that failed",
		"responses that failed and were resumed",
	} {
		if l.tally[what] == 0 {
			t.Errorf("there were no %s", what)
		}
	}
	for _, f := range faults {
		met := 0
		for _, w := range x.weathers {
			met += w.met[f.name]
		}
		if met == 0 {
			t.Errorf("no connection was made over a line with the fault %q", f.name)
		}
	}
	if again := l.tally["calls with more than one attempt"]; again < x.next/20 {
		t.Errorf("only %d calls took more than one attempt", again)
	}
	if ok := l.tally["calls that ended with status 200"]; ok < x.next/2 {
		t.Errorf("only %d calls succeeded", ok)
	}
}
