package httpretry

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/httpretry/httpretry/internal/route"
)

// An AdaptivePacer is a [Pacer] that finds the limits of servers by itself. Without
// MaxPerSecond and MaxInFlight, it delays and allocates nothing until a server
// refuses an attempt. From then on, the calls to that server wait for as long as it
// asked, if it did. Then they are sent in the order of their arrival, except for the
// single attempts described below. They are evenly spaced at the rate, or limited to
// the number in flight, that the server last accepted.
//
// There are two kinds of limits, and the refusal shows which of them was exceeded:
//
//   - A rate, after a 429 or any other response that is [Unprocessed], except a 503 or
//     529. When the refusals end, the rate is set to the mean rate of the attempts
//     that the server has accepted since the previous refusals ended. This is correct
//     for windows, and for token buckets that are not full before the refusals end.
//     For 3 seconds and 40 attempts, or for 8 seconds, attempts are sent 2 % slower
//     than that. Then they are sent 2 %, 4 %, 8 % and so on faster, until a refusal,
//     which usually does not lower the rate. Each of these steps takes a second and 8
//     attempts, or 6 seconds. The first one is at least 0.05 attempts per second.
//     After long refusals, a step takes at least half of their duration, because a
//     server with windows refuses a rate that is too high only when the window is
//     exhausted. A token bucket that holds few tokens refuses a step immediately. If
//     two refusals in succession are of the first or second attempt of a step, the
//     rate is set to that of the step before.
//   - A number of attempts in flight, after a 503, a 529 or a timeout. After a
//     refusal, the number is set to that of the other attempts in flight. After a
//     timeout, it is set to four fifths of the attempts in flight. After 3 seconds
//     and 100 attempts, or after 13 seconds, the number is raised by 1, then by 2, 4
//     and so on, until a refusal. Each of these steps takes a second and 16 attempts,
//     or 11 seconds. If a refusal follows another within 3 seconds, the number is
//     lowered by at least a fifth. If a refusal with a Retry-After
//     follows another within 60 times that wait, and attempts were accepted in
//     between, the number is not raised for 30 times that wait, or for 3 seconds if
//     that is longer.
//
// If fewer than 10 attempts were accepted before the first refusal, they do not show the
// limit. The rate is then set to theirs or, if that is higher, to 10 attempts per
// second. It is doubled after each second in which calls wait for it, until a refusal.
//
// Servers round Retry-After up to whole seconds. After such a wait, attempts are
// therefore sent a quarter faster than the rate, until at most one second of attempts
// has been made up for. If the server refuses one of them, its bucket is small: fewer
// are made up for after the next wait. A refused step then costs more than a higher rate
// gains. If the mean rate since the previous refusals was below 97 % of the rate, the
// time before the next step becomes two to four times as long, but at most 2 minutes. If
// the server still refuses everything 3 seconds after the wait that it asked for, the
// duration of the refusals is ignored.
//
// The attempts before the first refusal of a server are counted for all servers
// together. The first limit of one of several servers may therefore be too high, until
// its next refusal, or too low, until enough steps have raised it. If the limits of
// servers differ very much, use an AdaptivePacer for each of them.
//
// After a refusal because of the rate, or of the only attempt in flight, and after an
// [Uncertain] 408 or 5xx with a Retry-After, single attempts are sent, at intervals
// that double up to 5 seconds, until one is accepted. They are those of the calls that
// were refused least often and, of these, arrived last. Further refusals of attempts that
// were sent before such a refusal are part of it. If responses have
// X-RateLimit-Remaining and X-RateLimit-Reset, or the same without X-, and the reset
// is the end of a window, the rest of the quota is spread over the rest of the
// window.
//
// The constants are the result of simulations; see docs/pacing.md. In a single
// process, about one attempt in a hundred is refused after the first 10 seconds, if the
// limit is at least a few per second.
//
// An attempt is in flight until its response has been received as described at
// [Pacer.Wait]. The caller's reading of a streamed body does not count.
//
// A call may wait for a long time: until the time that the server named, and until
// the calls before it have been sent. If the context has a deadline, the wait fails
// as soon as the server asks for a longer one. It is not begun if the call would
// probably be sent too late.
//
// The zero value is ready to use. An AdaptivePacer is safe for concurrent use. It
// must not be copied, nor its fields modified, after first use. It keeps the limits
// of the few thousand keys that were used last.
type AdaptivePacer struct {
	// Key returns the key of a request. Requests with the same key share a
	// limit. It must be safe for concurrent use, and must not retain or modify
	// the request. If nil, the key is the host, as for [PerHost].
	Key func(*http.Request) string

	// MinPerSecond is the minimum rate, in attempts per second, except while the
	// server has asked for a wait. If zero or negative, there is none.
	MinPerSecond float64

	// MaxPerSecond is the maximum rate, in attempts per second. It is in force
	// before the first refusal, too. If zero or negative, there is none.
	MaxPerSecond float64

	// MaxInFlight is the maximum number of attempts in flight. It is in force
	// before the first refusal, too. If zero or negative, there is none.
	MaxInFlight int

	limited atomic.Bool        // a server has refused an attempt
	lanes   generations[*lane] // of the keys that have a limit
	queued  atomic.Int64       // attempts that had a lane

	// Each attempt without a lane writes these. On one cache line, apart from the
	// fields above, they cost 10 ns instead of 50 on two cores.
	_     [64]byte
	ended atomic.Int64 // number of attempts without a lane that have ended
	free  history      // of the attempts without a lane
}

// A turn is the permission to make an attempt. It is not retained, so that a call
// can have it on its stack.
type turn struct {
	pending bool  // it permits an attempt that has not ended
	arrival int64 // order of arrival of the call; 0: it has not arrived
	refused int   // attempts of the call that were refused

	lane     *lane     // nil: the key had no limit
	inFlight int       // attempts in flight, including this one
	sent     time.Time // zero if lane is nil
	period   int       // of lane's rate
}

// Delay implements [Pacer]. The result does not include the time that the calls which
// wait already will take.
func (p *AdaptivePacer) Delay(req *http.Request) time.Duration {
	return p.delay(req, &turn{})
}

// delay returns the time until the calls before that of t have been sent.
func (p *AdaptivePacer) delay(req *http.Request, t *turn) time.Duration {
	l := p.laneOf(req)
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.delay(t.arrival, time.Now())
}

// Wait implements [Pacer].
func (p *AdaptivePacer) Wait(ctx context.Context, req *http.Request, backoff time.Duration) (func(Attempt), error) {
	// A retry through another Pacer is a new call here, but must not be taken for a
	// call that nobody has refused yet.
	t := &turn{refused: max(0, AttemptNumber(ctx)-1)}
	if err := p.wait(ctx, req, backoff, t); err != nil {
		return nil, err
	}
	return func(a Attempt) { p.done(t, req, a.Response, a.Err, a.Verdict) }, nil
}

// wait implements Wait. All attempts of a call use the same t, so that a retry has
// the place of its call in the queue.
func (p *AdaptivePacer) wait(ctx context.Context, req *http.Request, backoff time.Duration, t *turn) error {
	if deadline, ok := ctx.Deadline(); ok && backoff > time.Until(deadline) {
		return &lateError{wait: backoff}
	}
	l := p.laneOf(req)
	if l == nil {
		if err := sleep(ctx, backoff); err != nil {
			return err
		}
		if backoff > 0 {
			l, backoff = p.laneOf(req), 0 // the server may have refused others meanwhile
		}
	}
	if l != nil {
		if t.arrival == 0 {
			t.arrival = p.free.started.Load() + p.queued.Add(1)
		}
		got, err := l.wait(ctx, backoff, *t)
		if err == nil {
			*t = got
		}
		return err
	}
	n := p.free.add()
	t.pending, t.lane, t.period, t.inFlight = true, nil, 0, int(n-p.ended.Load())
	if t.arrival == 0 {
		t.arrival = n
	}
	return nil
}

// done ends the attempt that t permitted.
func (p *AdaptivePacer) done(t *turn, req *http.Request, resp *http.Response, err error, v Verdict) {
	t.pending = false
	if err == route.ErrNotSent {
		p.unused(t)
		return
	}
	s := signalOf(resp, err, v)
	if s != accepted {
		t.refused++
	}
	l := t.lane
	if l == nil {
		p.ended.Add(1)
		if s == accepted {
			l = p.laneOf(req) // where a waiter may have its turn now
		} else {
			p.free.refused.Add(1)
			l = p.lanes.get(p.key(req), p.newLane)
			p.limited.Store(true)
		}
	}
	if l != nil {
		l.done(*t, s, v.RetryAfter, resp)
	}
}

// unused ends a turn that was not used.
func (p *AdaptivePacer) unused(t *turn) {
	if t.lane != nil {
		t.lane.unused(*t)
		return
	}
	p.ended.Add(1)
	p.free.refused.Add(1) // it was not accepted, either
}

// idle reports whether no key has a limit.
func (p *AdaptivePacer) idle() bool { return !p.limited.Load() && !p.bounded() }

func (p *AdaptivePacer) bounded() bool { return p.MaxPerSecond > 0 || p.MaxInFlight > 0 }

func (p *AdaptivePacer) key(req *http.Request) string {
	if p.Key != nil {
		return p.Key(req)
	}
	return canonicalHost(req.URL)
}

// laneOf returns the lane of req, or nil if its key has no limit.
func (p *AdaptivePacer) laneOf(req *http.Request) *lane {
	switch {
	case p.bounded():
		return p.lanes.get(p.key(req), p.newLane)
	case p.limited.Load():
		return p.lanes.get(p.key(req), nil)
	}
	return nil
}

// A signal is the meaning of an attempt's result for the limits.
type signal uint8

const (
	accepted   signal = iota
	tooFast           // too many in some period
	overloaded        // too many in flight
	timedOut          // perhaps because of too many in flight
	down              // the server asked for a wait, for a reason of its own
)

func signalOf(resp *http.Response, err error, v Verdict) signal {
	const siteIsOverloaded = 529 // not registered; Anthropic's API uses it
	switch {
	case err != nil && v.Outcome == Uncertain && isTimeout(err):
		return timedOut
	case err != nil || v.Outcome != Unprocessed && v.Outcome != Uncertain:
		return accepted
	case resp.StatusCode == http.StatusServiceUnavailable, resp.StatusCode == siteIsOverloaded:
		return overloaded
	case v.Outcome == Unprocessed:
		return tooFast
	case v.RetryAfter > 0 && (resp.StatusCode/100 == 5 || resp.StatusCode == http.StatusRequestTimeout):
		// After another status, the wait may be a Classifier's own, for which the
		// calls in the queue must not wait.
		return down
	}
	return accepted
}

// A history counts attempts that were sent before a refusal, and has the times of the
// last few thousand. The first rate is computed from it.
type history struct {
	started atomic.Int64
	refused atomic.Int64
	times   [256]atomic.Int64 // of every 16th attempt, in nanoseconds since 1970
}

// Reading the clock takes as long as everything else that an AdaptivePacer adds to
// an attempt.
const attemptsPerTime = 16

// add counts an attempt and returns its number, from 1.
func (h *history) add() int64 {
	n := h.started.Add(1)
	if n%attemptsPerTime == 1 {
		h.times[n/attemptsPerTime%int64(len(h.times))].Store(time.Now().UnixNano())
	}
	return n
}

// accepted returns the number of attempts that were not refused.
func (h *history) accepted() int64 { return h.started.Load() - h.refused.Load() }

// rate returns the accepted attempts per second of the period that began before
// refused, ends at now, and has the highest rate. A burst that was as large as the
// server's window thus gives the rate of the window.
func (h *history) rate(refused, now time.Time) float64 {
	n := h.started.Load()
	sent := n - h.refused.Load()
	highest := 0.0
	for i := (n - 1) / attemptsPerTime; i >= 0 && i > (n-1)/attemptsPerTime-int64(len(h.times)); i-- {
		begun := time.Unix(0, h.times[i%int64(len(h.times))].Load())
		if !begun.After(refused) && begun.Before(now) {
			highest = max(highest, float64(sent-i*attemptsPerTime)/now.Sub(begun).Seconds())
		}
	}
	return highest
}
