package main

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestCapacity_WorkOverTime(t *testing.T) {
	const sec = time.Second
	half := capacity{lost: 10 * sec, outage: 30 * sec, percent: 50}
	dark := capacity{lost: 10 * sec, outage: 30 * sec}
	tests := []struct {
		name     string
		capacity capacity
		at, done time.Duration
		reason   string
	}{
		{"before", half, 4 * sec, 4 * sec, "nothing is lost yet"},
		{"at the loss", half, 10 * sec, 10 * sec, "nothing is lost yet"},
		{"in the outage", half, 20 * sec, 15 * sec, "half of ten seconds"},
		{"at its end", half, 40 * sec, 25 * sec, "half of thirty seconds"},
		{"after it", half, 50 * sec, 35 * sec, "what was lost stays lost"},
		{"before, all lost", dark, 10 * sec, 10 * sec, "nothing is lost yet"},
		{"after it, all lost", dark, 50 * sec, 20 * sec, "thirty seconds are missing"},
		{"never lost", capacity{}, 50 * sec, 50 * sec, "there is no outage"},
	}
	for _, tt := range tests {
		if got := tt.capacity.done(tt.at); got != tt.done {
			t.Errorf("%s: %v of work is done by %v, want %v: %s", tt.name, got, tt.at, tt.done, tt.reason)
		}
		if got := tt.capacity.when(tt.done); got != tt.at {
			t.Errorf("%s: %v of work is done at %v, want %v: %s", tt.name, tt.done, got, tt.at, tt.reason)
		}
	}
	if got := dark.done(30 * sec); got != 10*sec {
		t.Errorf("%v of work is done in the dark, want none beyond 10s", got)
	}
}

// Six clients send a request simultaneously, with a timeout of a second. A
// response takes 300 ms, and the queue holds a second of work.
func TestServer_QueuesAndRejects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen tally
		s := &server{start: time.Now(), tally: &seen, capacity: capacity{
			cost: 300 * time.Millisecond, queue: time.Second, retryAfter: 7 * time.Second,
		}}
		const served, turnedAway, gaveUp = "served", "turned away", "gave up"
		want := []string{served, served, served, gaveUp, turnedAway, turnedAway}
		got := make([]string, len(want))
		var calls sync.WaitGroup
		for i := range want {
			calls.Go(func() {
				time.Sleep(time.Duration(1 + i))
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				req, err := http.NewRequestWithContext(withCall(ctx, &call{slot: time.Duration(i)}), http.MethodGet, "http://server.example/", nil)
				if err != nil {
					t.Error(err)
					return
				}
				resp, err := s.RoundTrip(req)
				switch {
				case errors.Is(err, context.DeadlineExceeded):
					got[i] = gaveUp
				case err != nil:
					t.Error(err)
				case resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") == "7":
					got[i] = turnedAway
				case resp.StatusCode == http.StatusOK && resp.Header.Get("Retry-After") == "":
					got[i] = served
				}
			})
		}
		calls.Wait()
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("client %d was %q, want %q", i, got[i], want[i])
			}
		}
		r := result{seconds: seen.seconds}
		if all := r.since(0); all.load != 6 || all.worked != 4 || all.wasted != 1 || seen.clashes != 0 {
			t.Errorf("got %+v and %d clashes, want a load of 6, 4 worked on and 1 of them wasted, and no clash", all, seen.clashes)
		}
	})
}

func TestTally_FindsClashes(t *testing.T) {
	a, b := &call{}, &call{}
	var seen tally
	seen.arrives(a, 5)
	seen.works(a, 5, false)
	if seen.clashes != 0 {
		t.Error("a call that does two things at one instant is no clash: their order is its own")
	}
	seen.arrives(b, 5)
	if seen.clashes != 1 {
		t.Errorf("got %d clashes, want 1: the order of two calls is left to chance", seen.clashes)
	}
}
