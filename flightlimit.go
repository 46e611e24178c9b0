package httpretry

import (
	"math"
	"time"
)

// A flightLimit is a limit on the attempts in flight. AdaptivePacer describes how
// it is found.
type flightLimit struct {
	most  int // a bound
	found int // that the server accepts
	step  int // by which found is raised next

	lowest int // number of attempts that were in flight when one without a lane was refused

	loweredAt time.Time
	accepted  bool          // an attempt that was sent after loweredAt
	hold      time.Duration // for which a number that was refused is not exceeded
	stepAt    time.Time     // when found may be raised
	toStep    int           // attempts to be sent before that, unless they take long
}

func newFlightLimit(most int) flightLimit {
	if most <= 0 {
		most = math.MaxInt
	}
	return flightLimit{most: most, found: math.MaxInt, lowest: math.MaxInt, hold: firstHold}
}

func (f *flightLimit) limit() int { return min(f.found, f.most) }

// send counts an attempt. limited reports whether others wait because of the limit.
func (f *flightLimit) send(now time.Time, limited bool) {
	f.toStep--
	if limited && !now.Before(f.stepAt) && (f.toStep <= 0 || now.Sub(f.stepAt) > 2*longHold) {
		f.found += f.step
		f.step *= 2
		f.stepAt, f.toStep = now.Add(time.Second), 2*stepSent
	}
}

// accept handles an attempt that was not refused.
func (f *flightLimit) accept(t turn) {
	f.accepted = f.accepted || t.sent.After(f.loweredAt)
}

// refuse handles a refusal. inFlight is the number of attempts still in flight.
func (f *flightLimit) refuse(t turn, inFlight int, retryAfter time.Duration, now time.Time) {
	// Attempts that were sent simultaneously may arrive in another order. When
	// all that were too many have been refused, the others are in flight.
	var n int
	if t.lane == nil {
		f.lowest = min(f.lowest, t.inFlight-1)
		n = max(f.lowest, inFlight)
	} else {
		n = max(t.inFlight-1, min(inFlight, f.limit()-1))
		if t.sent.After(f.loweredAt) && now.Sub(f.loweredAt) < firstHold {
			n = min(n, f.limit()*4/5)
		}
	}
	if t.sent.After(f.loweredAt) { // otherwise it belongs to the refusals before
		f.hold = firstHold
		if often := 30 * min(retryAfter, time.Hour); f.accepted && now.Sub(f.loweredAt) < 2*often {
			// After each refusal with Retry-After nothing is sent for some time. But
			// if nothing was accepted in between, that was not because of the number.
			f.hold = max(f.hold, often)
		}
	}
	f.lower(n, now, f.hold)
}

// timeout handles an attempt that timed out.
func (f *flightLimit) timeout(t turn, now time.Time) {
	if t.inFlight <= 1 {
		return // nothing else was in its way
	}
	if t.lane == nil || t.sent.After(f.loweredAt) { // otherwise the others of its time count already
		f.lower(t.inFlight*4/5, now, firstHold)
	}
}

func (f *flightLimit) lower(n int, now time.Time, hold time.Duration) {
	f.found = max(1, min(f.found, n))
	f.step, f.loweredAt, f.accepted = 1, now, false
	f.stepAt, f.toStep = now.Add(hold), 100
}
