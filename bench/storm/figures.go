package main

import (
	"fmt"
	"time"
)

// sum adds up the seconds between from and to, which are whole seconds.
func (r result) sum(from, to time.Duration) second {
	last := min(int(to/time.Second), len(r.seconds))
	first := min(int(from/time.Second), last)
	var s second
	for _, x := range r.seconds[first:last] {
		s.add(x)
	}
	return s
}

// since adds up the seconds after from.
func (r result) since(from time.Duration) second {
	return r.sum(from, time.Duration(len(r.seconds))*time.Second)
}

// recovery returns the time from the end of the outage until the server has
// recovered: at least 99 % of the calls that begin in each later second are
// served. It returns false if the figures end before that.
func (r result) recovery() (time.Duration, bool) {
	end := before + outage
	at := end + after
	for ; at > end; at -= time.Second {
		s := r.sum(at-time.Second, at)
		if share(s.served, s.calls) < 0.99 {
			break
		}
	}
	return at - end, at < end+after
}

// laterLoad returns the load of the last minute, as a share of capacity.
func (r result) laterLoad() float64 {
	end := before + outage + after
	return float64(r.sum(end-time.Minute, end).load) / 60 / r.server.perSecond()
}

// amplification returns the attempts per call since from.
func (r result) amplification(from time.Duration) float64 {
	s := r.since(from)
	return float64(s.load) / float64(s.calls)
}

func (r result) attemptsPerCall(from time.Duration) string {
	return fmt.Sprintf("%.2f", r.amplification(from))
}

// share returns part divided by whole, and 1 if whole is 0.
func share(part, whole int) float64 {
	if whole == 0 {
		return 1
	}
	return float64(part) / float64(whole)
}

// everServed returns the share of all calls that were served.
func (r result) everServed() string {
	all := r.since(0)
	return percent(share(all.served, all.calls))
}

func percent(x float64) string { return fmt.Sprintf("%.0f %%", 100*x) }

func (r result) recovers() string {
	took, ok := r.recovery()
	if !ok {
		return "never"
	}
	return fmt.Sprintf("%.0f s", took.Seconds())
}

// bound returns the maximum of attempts per call by the formula of the page. Each
// process may make minPerSecond retries in each second of r, plus burst.
func (r result) bound() float64 {
	ratio, minPerSecond, burst := r.budget.inForce()
	perProcess := minPerSecond*float64(len(r.seconds)) + burst
	return min(1+ratio+float64(r.processes)*perProcess/float64(r.since(0).calls), 1+maxRetries)
}
