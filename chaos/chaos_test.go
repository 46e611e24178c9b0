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
	requests  = flag.Int("chaos.requests", 100_000, "requests that TestChaos makes")
	stormTime = flag.Duration("chaos.time", 100*time.Second, "how long TestChaos makes requests over bad lines, at most")
	seedFlag  = flag.Uint64("chaos.seed", 0, "what the faults and the requests are drawn by; 0: another one in each run")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// policy is patient, and quick.
var policy = httpretry.RetryConfig{MaxRetries: 4, InitialBackoff: time.Millisecond, MaxBackoff: 10 * time.Millisecond}

func retrying(base http.RoundTripper, attemptTime time.Duration) http.RoundTripper {
	return &httpretry.RetryTransport{
		Base: base, Policy: policy, AttemptTimeout: attemptTime,
		MaxReplayBytes: maxReplayBytes, ResumeDownloads: true,
	}
}

// Over lines that fail in all ways that a line can, the layer keeps its
// promises, and leaves nothing behind.
func TestChaos(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	x := newExperiment(t, seed, *requests, retrying)
	start := time.Now()
	x.run(*requests)
	t.Logf("%d requests in %v:\n%s", x.next, time.Since(start).Round(time.Second), x.ledger.summary())
	if x.next >= 50_000 { // else chance may leave something out
		x.wantTrouble(t)
	}
	x.ledger.report(t)
}

// wantTrouble fails the test if something did not happen that a promise is
// about: then nothing was tested.
func (x *experiment) wantTrouble(t *testing.T) {
	l := x.ledger
	for _, what := range []string{
		"attempts that failed: refused",
		"attempts that failed: reset",
		"attempts that failed: end of file",
		"attempts that failed: out of time",
		"calls that gave up: not idempotent",
		"calls that gave up: policy",
		"request bodies that broke off",
		"requests processed again",
		"arrivals that net/http itself repeated",
		"answers that broke off",
		"answers that broke off and were resumed",
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
			t.Errorf("nothing went over a line with the fault %q", f.name)
		}
	}
	if again := l.tally["calls with more than one attempt"]; again < x.next/20 {
		t.Errorf("only %d calls took more than one attempt", again)
	}
	if ok := l.tally["calls that ended with status 200"]; ok < x.next/2 {
		t.Errorf("only %d calls succeeded", ok)
	}
}
