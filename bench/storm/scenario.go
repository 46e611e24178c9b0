package main

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
)

// A scenario is a fleet of clients, the server they call, and what befalls it.
type scenario struct {
	name string

	clients   int // all together
	processes int // they are divided among these, each with one RetryTransport and one budget
	seed      uint64

	// A client makes calls as they come to it, whether or not earlier ones
	// have ended: at random, one in every period on average. If period is 0,
	// each client makes one call, and all do so at the same time.
	period time.Duration
	length time.Duration // no call begins later

	timeout  time.Duration // of an attempt
	patience time.Duration // the deadline of a call
	policy   httpretry.Policy
	budget   *bucket // of each process; nil: none
	server   capacity
}

// callsPerSecond is the mean over all clients.
func (s scenario) callsPerSecond() float64 {
	return float64(s.clients) / s.period.Seconds()
}

// A result is what happened in a scenario, second by second.
type result struct {
	scenario
	seconds []second
}

// run simulates s in virtual time. It fails t if chance had a part in it.
func (s scenario) run(t *testing.T) result {
	var seen tally
	synctest.Test(t, func(*testing.T) {
		start := time.Now()
		processes := s.start(&server{capacity: s.server, start: start, tally: &seen})
		var calls sync.WaitGroup
		for _, c := range s.calls() {
			time.Sleep(c.begin - time.Since(start))
			calls.Go(func() {
				seen.begins(c, time.Since(start))
				if s.call(processes[c.client%s.processes], c) {
					seen.serves(c, time.Since(start))
				}
			})
		}
		calls.Wait()
	})
	if seen.clashes > 0 {
		t.Errorf("%s: %d times, two calls did something at one instant: their order is left to chance", s.name, seen.clashes)
	}
	return result{s, seen.seconds}
}

// start returns a client for each process.
func (s scenario) start(base http.RoundTripper) []*http.Client {
	clients := make([]*http.Client, s.processes)
	for i := range clients {
		retry := &httpretry.RetryTransport{Base: base, Policy: s.policy, AttemptTimeout: s.timeout}
		if s.budget != nil {
			retry.Budget = s.budget.full()
		}
		clients[i] = &http.Client{Transport: retry}
	}
	return clients
}

// call reports whether c got its answer.
func (s scenario) call(client *http.Client, c *call) bool {
	ctx, cancel := context.WithTimeout(withCall(context.Background(), c), s.patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://server.example/", nil)
	if err != nil {
		panic(err) // the URL is a constant
	}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// calls returns the calls of all clients, in the order in which they begin.
// They depend on nothing but the seed and the clients, so that scenarios that
// differ in something else have the same ones.
func (s scenario) calls() []*call {
	var calls []*call
	for client := range s.clients {
		for _, begin := range s.begins(client) {
			calls = append(calls, &call{client: client, begin: begin})
		}
	}
	byBegin := func(a, b *call) int { return int(a.begin - b.begin) }
	slices.SortStableFunc(calls, byBegin)
	for i, c := range calls {
		c.slot = time.Duration(i % slots)
		c.begin = c.own(c.begin)
		c.rand = stream(s.seed, ofCall, i)
	}
	slices.SortFunc(calls, byBegin) // own may have swapped two that begin in the same tick
	return calls
}

func (s scenario) begins(client int) []time.Duration {
	if s.period == 0 {
		return []time.Duration{time.Second}
	}
	var begins []time.Duration
	r := stream(s.seed, ofClient, client)
	gap := func() time.Duration { return time.Duration(r.ExpFloat64() * float64(s.period)) }
	for t := gap(); t < s.length; t += gap() {
		begins = append(begins, t)
	}
	return begins
}
