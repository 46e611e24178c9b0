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

// A scenario is a fleet of clients and the server that they call.
type scenario struct {
	name string

	clients   int // of all processes
	processes int // each has a RetryTransport, a budget and an equal share of the clients
	seed      uint64

	// A client makes calls at random times, one per period on average, whether
	// or not earlier ones have ended. If period is 0, each client makes a single
	// call, and all calls begin simultaneously.
	period time.Duration
	length time.Duration // no call begins after this time

	timeout  time.Duration // of an attempt
	patience time.Duration // the deadline of a call
	policy   httpretry.Policy
	budget   *bucket // of each process; nil: none
	server   capacity
}

// callsPerSecond returns the mean rate of all clients.
func (s scenario) callsPerSecond() float64 {
	return float64(s.clients) / s.period.Seconds()
}

// A result has the figures of a scenario, by second.
type result struct {
	scenario
	seconds []second
}

// run simulates s in virtual time. It fails t if the result depends on the
// scheduler.
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
		t.Errorf("%s: two calls acted at the same instant %d times, in an order that the scheduler decided", s.name, seen.clashes)
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

// call makes the call c and reports whether it is served.
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

// calls returns the calls of all clients, in the order of their start. They
// depend only on the seed and the clients, so that scenarios that differ in other
// settings have the same calls.
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
	slices.SortFunc(calls, byBegin) // own may swap calls that begin in the same tick
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
