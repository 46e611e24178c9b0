package failover

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/internal/route"
)

const (
	// headStart is the time for which a request waits for the Pacer at the endpoint
	// that is its first choice only, so that endpoints that make nobody wait share
	// the requests as they do without a Pacer.
	headStart = 10 * time.Millisecond

	// failedStart is the time after which a retry also waits at the endpoint where
	// the previous attempt failed, if another one is open.
	failedStart = time.Second
)

// A race is the wait of a request for the Pacer, at several servers at the same time. The
// request is sent to the server that lets it pass first. So nothing depends on an estimate
// of the waits, or on what happens to one of the servers meanwhile.
type race struct {
	t     *Transport
	req   *http.Request
	last  *attempt // of the call, before this one; nil: there is none
	fixed bool
	must  bool // there is one server, and the request is sent to it in any case

	// ctx is done when the race has been decided, or with the context of the
	// request. It has no deadline: a Pacer does not know that the requests before
	// this one may be sent to other servers.
	ctx    context.Context
	cancel context.CancelCauseFunc
	ends   chan end // of the waits

	decided bool // guarded by t.mu
}

// An end is that of the wait at a server.
type end struct {
	attempt *attempt      // begun there; nil: there is none
	out     *http.Request // of attempt
	err     error         // of the Pacer
	panic   any           // of the Pacer
}

var (
	errDecided = errors.New("failover: the request is sent to another endpoint")
	errLate    = fmt.Errorf("failover: the endpoint opens after the context's deadline: %w", context.DeadlineExceeded)
	errGoexit  = errors.New("failover: runtime.Goexit in the Pacer")
)

// pace begins an attempt when the Pacer lets it send the request: to target, or to any
// server if that is nil.
func (t *Transport) pace(req *http.Request, target *server, last *attempt, fixed bool) (*attempt, *http.Request, error) {
	defer route.Pause(req.Context())()
	r := &race{t: t, req: req, last: last, fixed: fixed}
	r.ctx, r.cancel = context.WithCancelCause(context.WithoutCancel(req.Context()))
	defer r.cancel(errDecided)
	defer context.AfterFunc(req.Context(), func() { r.cancel(context.Cause(req.Context())) })()
	first, others := target, []*server(nil)
	if target == nil {
		first, others = t.entrants(last)
	}
	r.must, r.ends = len(others) == 0, make(chan end, 1+len(others))
	go r.run(first)
	var timers []*time.Timer
	for _, s := range others {
		d := headStart
		if last != nil && last.server == s {
			d = failedStart
		}
		timers = append(timers, time.AfterFunc(d, func() { r.run(s) }))
	}
	e := r.result(others, timers)
	switch {
	case e.panic == errGoexit:
		runtime.Goexit()
	case e.panic != nil:
		panic(e.panic)
	}
	if e.attempt == nil {
		e.attempt = &attempt{t: t, server: first, fixed: fixed, last: last, released: true}
	}
	return e.attempt, e.out, e.err
}

// entrants returns the server that is the first choice, and the others at which a request
// may wait, too. If all are down there are none: the request fails as soon as without a
// Pacer.
func (t *Transport) entrants(last *attempt) (first *server, others []*server) {
	t.mu.Lock()
	defer t.mu.Unlock()
	first = t.choose(last, time.Now())
	if t.allDown() {
		return first, nil
	}
	for _, s := range t.servers {
		if s != first {
			others = append(others, s)
		}
	}
	return first, others
}

// allDown reports whether no server is known to respond. The lock is held.
func (t *Transport) allDown() bool {
	return !slices.ContainsFunc(t.servers, func(s *server) bool { return !s.down })
}

// result returns the end that decides the race, or the first one if all have failed. The
// timers start the waits at the others.
func (r *race) result(others []*server, timers []*time.Timer) (failed end) {
	defer func() {
		for _, timer := range timers {
			timer.Stop()
		}
	}()
	for n := range 1 + len(others) {
		var e end
		select {
		case e = <-r.ends:
		case <-r.ctx.Done():
			if r.giveUp() {
				return end{err: context.Cause(r.ctx)}
			}
			e = <-r.ends
		}
		if e.attempt != nil || e.panic != nil && r.giveUp() {
			return e
		}
		if n == 0 {
			failed = e
		}
		for i, s := range others {
			if timers[i].Stop() { // why wait any longer
				go r.run(s)
			}
		}
	}
	return failed
}

// giveUp reports whether no attempt has begun, and prevents that. Otherwise the end with
// the attempt is still to come.
func (r *race) giveUp() bool {
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	won := r.decided
	r.decided = true
	return !won
}

// run waits at a server and sends the end of the wait.
func (r *race) run(s *server) {
	e := end{panic: errGoexit}
	defer func() {
		if v := recover(); v != nil {
			e.panic = v // for the goroutine of RoundTrip
		}
		r.ends <- e
	}()
	e = r.wait(s)
}

func (r *race) wait(s *server) end {
	out := s.request(r.req, r.fixed)
	for again := false; ; again = true {
		p, err := r.await(s, again)
		if err != nil {
			return end{err: err}
		}
		done, err := r.paced(p, out)
		if err != nil {
			return end{err: err}
		}
		if a := r.claim(p, out, done); a != nil {
			return end{attempt: a, out: out}
		}
		if done != nil {
			done(httpretry.Attempt{Request: hookRequest(out), Err: route.ErrNotSent, Number: httpretry.AttemptNumber(out.Context())})
		}
	}
}

// A place is the permission to wait for the Pacer at a server. At one that has failed, it
// is one of those in flight, so that no turn of the Pacer is taken in vain.
type place struct {
	server   *server
	wait     time.Duration // until it opens
	reserved bool
	era      int // of the server, in which it was reserved
}

// await waits for a place at s. The Pacer is to wait until s opens, because it knows the
// order of the requests, but not again.
func (r *race) await(s *server, again bool) (place, error) {
	for {
		p, ok, changed := r.enter(s, again)
		if deadline, has := r.req.Context().Deadline(); has && p.wait > time.Until(deadline) {
			r.leave(p)
			return p, errLate
		}
		if ok {
			return p, nil
		}
		var opens <-chan time.Time
		if p.wait > 0 {
			opens = time.After(p.wait)
		}
		select {
		case <-opens:
		case <-changed:
		case <-r.ctx.Done():
			return p, context.Cause(r.ctx)
		}
	}
}

// enter returns a place at s, or reports that there is none, with a channel that is closed
// when that may have changed.
func (r *race) enter(s *server, again bool) (p place, ok bool, changed <-chan struct{}) {
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	p = place{server: s, era: s.era}
	if r.must {
		return p, true, nil
	}
	p.wait = s.wait(time.Now())
	if s.hasRoom() && (p.wait == 0 || !again) {
		if p.reserved = s.probing; p.reserved {
			s.reserved++
		}
		return p, true, nil
	}
	if r.t.changed == nil {
		r.t.changed = make(chan struct{})
	}
	return p, false, r.t.changed
}

// leave gives a place back.
func (r *race) leave(p place) {
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	p.leaveLocked()
	r.t.wakeLocked()
}

func (p place) leaveLocked() {
	if p.reserved && p.era == p.server.era {
		p.server.reserved--
	}
}

// paced waits for the Pacer.
func (r *race) paced(p place, out *http.Request) (done func(httpretry.Attempt), err error) {
	passed := false
	defer func() {
		if !passed { // also if the Pacer panics
			r.leave(p)
		}
	}()
	done, err = r.t.Pacer.Wait(r.ctx, hookRequest(out), p.wait)
	passed = err == nil
	return done, err
}

// claim begins an attempt, unless the race has been decided, or the server accepts no
// request any more.
func (r *race) claim(p place, out *http.Request, done func(httpretry.Attempt)) *attempt {
	now := time.Now()
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	p.leaveLocked()
	if r.decided || r.ctx.Err() != nil || !r.must && !p.server.available(now) && !r.t.allDown() {
		r.t.wakeLocked()
		return nil
	}
	r.decided = true
	r.cancel(errDecided)
	a := r.t.enter(p.server, r.last, r.fixed, now)
	a.request, a.done = out, done
	return a
}

// wakeLocked tells those that wait for room that there may be some.
func (t *Transport) wakeLocked() {
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

// unsent ends an attempt that the Pacer has refused, and returns its error.
func (a *attempt) unsent(req *http.Request, err error) error {
	if req.Body != nil {
		req.Body.Close()
	}
	return &endpointError{a, err}
}
