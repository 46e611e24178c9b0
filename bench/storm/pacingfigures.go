package main

import (
	"math"
	"slices"
	"time"
)

// fastest returns the calls per second that the limit and the number of callers
// allow.
func (p pacing) fastest(at time.Duration) float64 {
	return min(limitPerSecond*p.factor(at), float64(p.callers)/(p.limit.work+2*latency).Seconds())
}

// timeRatio returns the duration, divided by the shortest possible one.
func (r paced) timeRatio() float64 {
	const step = 10 * time.Millisecond
	var ideal time.Duration
	for left := float64(r.requests - r.failed); left > 0; ideal += step {
		left -= r.fastest(ideal) * step.Seconds()
	}
	return r.took.Seconds() / ideal.Seconds()
}

func (r paced) attemptsPerRequest() float64 {
	return float64(len(r.arrivals)) / float64(r.requests)
}

// count returns the accepted and refused attempts of a period.
func (r paced) count(from, to time.Duration) (accepted, refused int) {
	for _, a := range r.arrivals {
		switch {
		case a.at < from || a.at >= to:
		case a.accepted:
			accepted++
		default:
			refused++
		}
	}
	return accepted, refused
}

// laterRefusals returns the share of attempts that are refused after the first
// window.
func (r paced) laterRefusals() float64 {
	_, refused := r.count(window, math.MaxInt64)
	return float64(refused) / float64(len(r.arrivals))
}

// longestWait returns the longest duration divided by the median, of the first
// calls that had to wait.
func (r paced) longestWait() float64 {
	waited := slices.DeleteFunc(slices.Clone(r.first), func(d time.Duration) bool { return d <= 2*r.limit.work+4*latency })
	if len(waited) == 0 {
		return 1
	}
	slices.Sort(waited)
	return waited[len(waited)-1].Seconds() / waited[len(waited)/2].Seconds()
}

// settled returns the time from a change of the limit until, in the following
// window, 90 % of it is used and at most 5 % of the attempts are refused. It
// returns false if that is not reached within a minute.
func (r paced) settled(change time.Duration) (time.Duration, bool) {
	for at := change; at <= change+time.Minute; at += time.Second / 2 {
		accepted, refused := r.count(at, at+window)
		if float64(accepted) >= 0.9*r.fastest(at)*window.Seconds() && float64(refused) <= 0.05*float64(accepted+refused) {
			return at - change, true
		}
	}
	return 0, false
}
