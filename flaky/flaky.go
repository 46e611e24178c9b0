// Package flaky provides HTTP transports and handlers that fail according to
// a script, for testing code against the failures that it will encounter.
//
// A [Script] is a list of steps. The first request gets the first [Step], the
// second request the second, and so on. A script can be used in two places,
// and its steps behave the same in both as far as possible:
//
//   - [Script.Transport] returns an [http.RoundTripper], which optionally wraps
//     a real one. It uses no network of its own, and it waits with package time,
//     so it works in a testing/synctest bubble.
//   - [Script.Handler] returns an [http.Handler] that makes real connections
//     fail as they do in front of a failing server, over HTTP/1.1 and HTTP/2,
//     with or without TLS.
//
// [Script.Requests] returns the requests that arrived, with their times.
package flaky

import (
	"net/http"
	"slices"
	"sync"
	"time"
)

// A Script chooses a [Step] for each request and records the request. All
// transports and handlers of a Script share its steps and its record.
//
// The zero Script passes every request. A Script is safe for concurrent use and
// must not be copied after first use. It retains every request, with up to
// 1 MiB of its body, so it is suitable for tests and demonstrations but not for
// long-running servers.
type Script struct {
	step func(n int, r *http.Request) Step // nil: every request passes

	mu      sync.Mutex
	records []*record // in order of arrival; guarded by mu
}

// New returns a Script of the given steps. The first request to arrive gets the
// first step, and so on. Requests after the last step get [Pass].
func New(steps ...Step) *Script {
	steps = slices.Clone(steps)
	return Func(func(n int, _ *http.Request) Step {
		if n > len(steps) {
			return Pass()
		}
		return steps[n-1]
	})
}

// Func returns a Script that calls f for each request to choose its step. n is
// the number of the request in order of arrival, starting at 1.
//
// f is called once for each request, possibly concurrently and not necessarily
// in order of n. It must not modify r or read its body.
func Func(f func(n int, r *http.Request) Step) *Script {
	return &Script{step: f}
}

// Requests returns the requests that have arrived so far, in order of arrival.
// They include requests that are still in progress. The caller owns the result.
//
// An [http.Transport] itself resends an idempotent request if the server closes
// a reused connection before the response begins. A [Script.Handler] may thus
// see more requests than the caller sent, and each of them takes a step. A
// [Script.Transport] does not.
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

// meet records the arrival of r and returns its step.
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
