package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/internal/route"
)

// A gate is the [httpretry.Pacer] of a run. While nobody reaches the gateway it is
// closed: one attempt at a time is made, as a probe, and all others wait. Otherwise
// attempts are passed to the next Pacer.
//
// It also ends the run when the gateway has not processed a request for a long time.
type gate struct {
	next          httpretry.Pacer
	quota         *quota
	probes        httpretry.RetryConfig
	maxOutage     time.Duration
	maxRetryAfter time.Duration
	stop          func(error) // ends the run; called more than once

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when the gate opens or a probe ends
	closed  bool
	probing bool
	failed  int       // probes since the gate was closed
	probeAt time.Time // not before that is the next probe
	misses  int       // attempts in a row that the gateway did not process

	reached time.Time     // the gateway responded last; zero: never
	good    time.Time     // the gateway processed an attempt last, or the run started
	goods   int           // attempts that the gateway processed
	asked   time.Duration // longest wait that it has asked for since
	waiting map[*waiter]struct{}
	flying  int // attempts that are under way

	closedAt time.Time
	failure  string    // the cause of the last attempt that the gateway did not process
	unsent   int       // attempts that wait and are the first of their request
	moved    time.Time // an attempt began last, or the first of unsent began to wait
	refused  time.Time // the gateway refused an attempt first since it processed one; zero: it has not
	refusing bool      // it has refused all attempts for maxHeld; see updateRefusing
	shut     bool      // no attempt may wait any more
}

// A waiter is an attempt that waits.
type waiter struct {
	due    time.Time               // zero: not known
	cancel context.CancelCauseFunc // ends the request; nil: not possible
	first  bool                    // of its request
	tried  bool                    // the request has used some of its retries
}

const (
	// maxProbeInterval is the longest time between two probes. Shorter ones find
	// out sooner that the gateway is back; one in 10 s is no load.
	maxProbeInterval = 10 * time.Second

	// fewInFlight is a number that every gateway accepts.
	fewInFlight = 2

	// maxMisses is the number of attempts in a row that the gateway did not process
	// after which the gate closes. A single one may be the fault of its request.
	maxMisses = 16
)

func newGate(c *config, next httpretry.Pacer, stop func(error)) *gate {
	return &gate{
		next:  next,
		quota: newQuota(c.maxTokensPerMinute),
		probes: httpretry.RetryConfig{
			MaxRetries:     math.MaxInt,
			InitialBackoff: min(c.initialBackoff, maxProbeInterval),
			MaxBackoff:     min(c.maxBackoff, maxProbeInterval),
			BackoffFactor:  2,
			JitterFraction: c.jitter(),
		},
		maxOutage:     c.maxOutage,
		maxRetryAfter: c.maxRetryAfter,
		stop:          stop,
		changed:       make(chan struct{}),
		good:          time.Now(),
		waiting:       make(map[*waiter]struct{}),
	}
}

// Delay implements [httpretry.Pacer].
func (g *gate) Delay(req *http.Request) time.Duration {
	d := g.next.Delay(req)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		d = max(d, time.Until(g.probeAt))
	}
	return d
}

// Wait implements [httpretry.Pacer].
func (g *gate) Wait(ctx context.Context, req *http.Request, backoff time.Duration) (func(httpretry.Attempt), error) {
	wait, reserved := g.quota.reserve()
	backoff = max(backoff, wait)
	done, started, probe, err := g.wait(ctx, req, backoff)
	if err != nil {
		g.quota.cancel(reserved)
		return nil, err
	}
	tallyOf(ctx).sent = started
	return func(a httpretry.Attempt) {
		done(g.forPacer(a))
		g.quota.cancel(reserved)
		g.report(a, started, probe)
	}, nil
}

// wait waits until the gate and the next Pacer let an attempt pass.
func (g *gate) wait(ctx context.Context, req *http.Request, backoff time.Duration) (done func(httpretry.Attempt), started time.Time, probe bool, err error) {
	w := g.join(ctx, req, backoff)
	defer g.leave(w)
	ready := time.Now().Add(backoff)
	for {
		if ctx.Err() != nil {
			return nil, started, false, context.Cause(ctx)
		}
		if probe, err = g.pass(ctx, w, ready); err != nil {
			return nil, started, false, err
		}
		done, err = g.next.Wait(ctx, req, max(time.Until(ready), 0))
		if err != nil {
			g.release(probe)
			return nil, started, false, err
		}
		if g.enter(probe) {
			if done == nil {
				done = func(httpretry.Attempt) {}
			}
			return done, time.Now(), probe, nil
		}
		if done != nil { // the gate was closed in the meantime
			done(httpretry.Attempt{Request: req, Err: route.ErrNotSent, Number: httpretry.AttemptNumber(ctx)})
		}
	}
}

func (g *gate) join(ctx context.Context, req *http.Request, backoff time.Duration) *waiter {
	t, before := tallyOf(ctx), httpretry.AttemptNumber(ctx)-1
	w := &waiter{cancel: t.cancel, first: before <= 0, tried: before > t.excused}
	if d := max(backoff, g.Delay(req)); d > 0 {
		w.due = time.Now().Add(d)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting[w] = struct{}{}
	if w.first {
		if g.unsent++; g.unsent == 1 {
			g.moved = time.Now()
		}
	}
	if g.shut {
		w.expel()
	}
	return w
}

func (g *gate) leave(w *waiter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.waiting, w)
	if w.first {
		g.unsent--
	}
}

// pass waits until the gate is open, or until a probe is due and an attempt that is
// ready for it can be made.
func (g *gate) pass(ctx context.Context, w *waiter, ready time.Time) (probe bool, err error) {
	for {
		probe, passes, wait, changed := g.look(w, ready)
		if passes {
			return probe, nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false, context.Cause(ctx)
		}
		timer.Stop()
	}
}

// look reports whether an attempt passes the gate, and otherwise when it is to look
// again: after a wait or a change. If the attempt is a probe, it must be reported or
// released.
func (g *gate) look(w *waiter, ready time.Time) (probe, passes bool, wait time.Duration, changed <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		return false, true, 0, nil
	}
	w.due = g.probeAt
	if ready.After(w.due) {
		w.due = ready
	}
	wait = time.Until(w.due)
	switch {
	case g.probing:
		return false, false, max(wait, maxProbeInterval), g.changed
	case wait > 0:
		return false, false, wait, g.changed
	}
	g.probing = true
	return true, true, 0, nil
}

// release ends a probe that was not made.
func (g *gate) release(probe bool) {
	if !probe {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.probing = false
	g.wake()
}

// enter begins an attempt, unless the gate is closed and this is not its probe.
func (g *gate) enter(probe bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed && !probe {
		return false
	}
	g.flying++
	g.moved = time.Now()
	return true
}

// forPacer returns the attempt as the next Pacer is to see it. A Pacer takes a 503
// without a time for a sign of too many attempts in flight. It is none if next to
// nothing was in flight, or if the request has got one before. Nor is all to wait
// for longer than the run may, or for a request that is refused whatever the rate.
func (g *gate) forPacer(a httpretry.Attempt) httpretry.Attempt {
	if a.Verdict.RetryAfter > g.maxRetryAfter || isRefusal(a) && g.isSingled(tallyOf(a.Request.Context())) {
		a.Response, a.Verdict = nil, httpretry.Verdict{}
		return a
	}
	if !isMiss(a) || statusOf(a) == 0 {
		return a
	}
	g.mu.Lock()
	alone := g.flying <= fewInFlight
	g.mu.Unlock()
	t := tallyOf(a.Request.Context())
	if alone || t.unavailable {
		a.Verdict.Outcome = httpretry.Uncertain
	}
	t.unavailable = true
	return a
}

// isSingled counts a refusal, and reports whether the gateway probably refuses the request
// whatever the rate, for instance because it is too large: it was refused at least three
// times, each after as many others had been answered as are in flight.
func (g *gate) isSingled(t *tally) bool {
	const least, times = 3, 3
	g.mu.Lock()
	goods, others := g.goods, max(g.flying, least)
	g.mu.Unlock()
	if goods-t.goods >= others {
		t.singled++
	}
	t.goods = goods
	return t.singled >= times
}

// report enters the result of an attempt.
func (g *gate) report(a httpretry.Attempt, started time.Time, probe bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flying--
	if probe {
		g.probing = false
		defer g.wake()
	}
	if a.Request.Context().Err() != nil || isRedirected(a) || errors.Is(a.Err, route.ErrElsewhere) {
		return // it says nothing about the gateway, or about all of several
	}
	now := time.Now()
	missed := isMiss(a)
	if missed {
		g.failure = cause(a)
		g.misses++
		if g.misses >= maxMisses || isUnreachable(a) && !g.reached.After(started) {
			g.close(now, probe)
		}
	} else {
		g.open(now)
	}
	if !missed && !isRefusal(a) {
		g.good, g.asked = now, 0
		g.refused, g.refusing = time.Time{}, false
		g.goods++
		return
	}
	if !missed && g.refused.IsZero() {
		g.refused = now
	}
	g.asked = max(g.asked, a.Verdict.RetryAfter)
	if idle := now.Sub(g.good); idle > g.maxOutage && idle-g.maxOutage > g.asked {
		g.stop(fmt.Errorf("the gateway has answered nothing for %v, and inference_max_outage allows %v; the last failure: %s",
			idle.Round(time.Second), g.maxOutage, cause(a)))
	}
}

// answers returns the number of attempts that the gateway has processed.
func (g *gate) answers() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.goods
}

// open notes that the gateway responded, and opens the gate if it is closed.
func (g *gate) open(now time.Time) {
	g.misses, g.reached = 0, now
	if g.closed {
		g.closed, g.failed = false, 0
		g.wake()
	}
}

// close closes the gate, or keeps it closed after a probe.
func (g *gate) close(now time.Time, probe bool) {
	if g.closed && !probe {
		return // the attempt began before
	}
	if !g.closed {
		g.closedAt = now
	}
	g.failed++
	delay, _ := g.probes.Backoff(httpretry.Attempt{Number: g.failed})
	g.closed, g.probeAt = true, now.Add(delay)
}

// wake makes all waiting attempts look at the gate again.
func (g *gate) wake() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// A traffic describes the attempts of a run at one time.
type traffic struct {
	limit   int       // the largest number of requests in flight now
	flying  int       // attempts that are under way
	waiting int       // attempts that wait
	next    time.Time // when the first of them will be made; zero: not known
}

func (g *gate) traffic() traffic {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := traffic{flying: g.flying, waiting: len(g.waiting)}
	for w := range g.waiting {
		if t.next.IsZero() || w.due.Before(t.next) && !w.due.IsZero() {
			t.next = w.due
		}
	}
	return t
}

// isMiss reports whether an attempt was not processed for lack of a gateway: it got
// no response, or that of a proxy in front of the gateway.
func isMiss(a httpretry.Attempt) bool {
	switch statusOf(a) {
	case 0:
		return a.Err != nil && a.Verdict.Outcome != httpretry.Final
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return a.Verdict.RetryAfter == 0
	}
	return false
}

// isUnreachable reports whether no connection to the gateway could be made. That is
// never the fault of the request.
func isUnreachable(a httpretry.Attempt) bool {
	if a.Err == nil || a.Verdict.Outcome != httpretry.Unprocessed || isRedirected(a) {
		return false
	}
	if errors.Is(a.Err, syscall.EMFILE) || errors.Is(a.Err, syscall.ENFILE) {
		return false
	}
	op, isOp := errors.AsType[*net.OpError](a.Err)
	_, isDNS := errors.AsType[*net.DNSError](a.Err)
	return isDNS || isOp && (op.Op == "dial" || op.Op == "proxyconnect")
}

// isRedirected reports whether the attempt was made because of a redirect, and
// perhaps to another server.
func isRedirected(a httpretry.Attempt) bool { return a.Request != nil && a.Request.Response != nil }
