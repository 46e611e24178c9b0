package httpretry

import (
	"testing"
	"time"
)

// Attempts that were sent simultaneously may arrive in any order, so that the first
// of them may be refused. What is still in flight then shows the limit.
func TestFlightLimit_BearsAnyOrderOfABurst(t *testing.T) {
	f := newFlightLimit(0)
	now := time.Now()
	for _, r := range []struct{ sent, inFlight, want int }{{36, 63, 63}, {20, 40, 40}, {2, 33, 33}, {60, 32, 32}, {1, 32, 32}} {
		f.refuse(turn{inFlight: r.sent}, r.inFlight, 0, now)
		if got := f.limit(); got != r.want {
			t.Errorf("number %d of a burst is refused, %d are in flight: got limit %d, want %d", r.sent, r.inFlight, got, r.want)
		}
	}
}

// Accepted attempts may end before the last of a burst is refused. The limit is then
// at least the number that were in flight before any was refused.
func TestFlightLimit_BearsFastResponsesInABurst(t *testing.T) {
	f := newFlightLimit(0)
	for _, r := range []struct{ sent, inFlight int }{{21, 40}, {30, 25}, {64, 3}} {
		f.refuse(turn{inFlight: r.sent}, r.inFlight, 0, time.Now())
	}
	if got := f.limit(); got != 20 {
		t.Errorf("got limit %d after a burst whose number 21 was refused first, want 20", got)
	}
}

// A number that was refused after attempts had been accepted at it costs a wait each time.
// One that is refused when nothing was accepted was refused for another reason.
func TestFlightLimit_HoldsWhatWasAccepted(t *testing.T) {
	const retryAfter = 10 * time.Second
	for _, accepted := range []bool{false, true} {
		f := newFlightLimit(0)
		now := time.Now()
		f.refuse(turn{inFlight: 30}, 29, retryAfter, now)
		now = now.Add(retryAfter)
		sent := turn{lane: new(lane), inFlight: 29, sent: now}
		if accepted {
			f.accept(sent)
		}
		f.refuse(sent, 28, retryAfter, now)
		want := firstHold
		if accepted {
			want = 30 * retryAfter
		}
		if got := f.stepAt.Sub(now); got != want {
			t.Errorf("accepted before: %t: the number is raised after %v, want %v", accepted, got, want)
		}
	}
}
