// Package flaky makes HTTP fail on purpose, by a script, so that code can
// be tested with exactly the failures it will meet.
//
// A [Script] is a list of steps: the first request meets the first [Step], the
// second the second, and so on. The same script can stand in two places, and a
// step means the same in both as far as the place allows:
//
//   - [Script.Transport] is an [http.RoundTripper], with or without a real one
//     beneath. There is no network in it and its waits are those of package
//     time, so it works under the virtual time of testing/synctest.
//   - [Script.Handler] is an [http.Handler] that does to real connections what
//     failing servers do to them, under HTTP/1.1 and HTTP/2, with and without
//     TLS.
//
// Afterwards [Script.Requests] tells what arrived, and when.
package flaky

import (
	"net/http"
	"slices"
	"sync"
	"time"
)

// A Script decides what happens to each request, and records what it saw. All
// transports and handlers made from one Script share its steps and its record.
//
// The zero Script lets every request pass. A Script is safe for concurrent use
// and must not be copied after its first use. It keeps every request for as
// long as it lives, each with up to a MiB of its body: it is made for tests and
// demonstrations, not for a server that runs for weeks.
type Script struct {
	step func(n int, r *http.Request) Step // nil: every request passes

	mu      sync.Mutex
	records []*record // in order of arrival
}

// New returns a Script of the given steps: the first request to arrive meets
// the first step. Requests that arrive after the last step meet [Pass].
func New(steps ...Step) *Script {
	steps = slices.Clone(steps)
	return Func(func(n int, _ *http.Request) Step {
		if n > len(steps) {
			return Pass()
		}
		return steps[n-1]
	})
}

// Func returns a Script that asks f which step a request meets. n says as which
// one it arrived, counting from 1.
//
// f is called once for each request, for several at the same time, and not
// always in the order of n. It must neither change r nor read its body.
func Func(f func(n int, r *http.Request) Step) *Script {
	return &Script{step: f}
}

// Requests returns what has arrived up to now, in order of arrival, also the
// requests that are still under way. The caller owns the result.
//
// The client of net/http repeats some requests by itself: an idempotent one
// whose connection had served another before and is cut before the answer
// begins. Behind such a client [Script.Handler] sees more requests than the
// caller sent, and they meet a step each. [Script.Transport] does not.
func (s *Script) Requests() []Request {
	s.mu.Lock()
	records := slices.Clone(s.records)
	s.mu.Unlock()

	requests := make([]Request, len(records))
	for i, rec := range records {
		requests[i] = rec.snapshot()
	}
	return requests
}

// meet records that r has arrived and returns the step it meets.
func (s *Script) meet(r *http.Request) (Step, *record) {
	rec := &record{seen: newRequest(r)}
	s.mu.Lock()
	rec.seen.Time = time.Now()
	s.records = append(s.records, rec)
	n := len(s.records)
	s.mu.Unlock()

	if s.step == nil {
		return Pass(), rec
	}
	return s.step(n, r), rec
}
