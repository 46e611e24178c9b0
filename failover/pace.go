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
	// that is its first choice only, so that endpoints without a wait share the
	// requests as they do without a Pacer.
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
	// request. It has a deadline only if there is one server: a Pacer does not know
	// that the requests before this one may be sent to other servers.
	ctx      context.Context
	cancel   context.CancelCauseFunc
	deadline time.Time // of the request; zero: none
	ends     chan end  // of the waits

	decided bool // guarded by t.mu
}

// An end is the result of a wait at a server.
type end struct {
	attempt *attempt      // begun there; nil: there is none
	out     *http.Request // of attempt
	err     error         // why there is no attempt
	panic   any           // the Pacer's, or errGoexit
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
	r.deadline, _ = req.Context().Deadline()
	r.ctx, r.cancel = context.WithCancelCause(context.WithoutCancel(req.Context()))
	defer r.cancel(errDecided)
	defer context.AfterFunc(req.Context(), func() { r.cancel(context.Cause(req.Context())) })()
	first, others := target, []*server(nil)
	if target == nil {
		first, others = t.entrants(last)
	}
	r.must, r.ends = len(others) == 0, make(chan end, 1+len(others))
	if r.must && !r.deadline.IsZero() {
		ctx, cancel := context.WithDeadline(r.ctx, r.deadline)
		defer cancel()
		r.ctx = ctx
	}
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
		e.attempt = &attempt{t: t, server: first, fixed: fixed, released: true}
		if !last.tried(first) {
			e.attempt.last = last
		}
	}
	return e.attempt, e.out, e.err
}

// entrants returns the server that is the first choice, and the others at which a request
// may wait, too.
func (t *Transport) entrants(last *attempt) (first *server, others []*server) {
	t.mu.Lock()
	defer t.mu.Unlock()
	first = t.choose(last, time.Now())
	for _, s := range t.servers {
		if s != first {
			others = append(others, s)
		}
	}
	return first, others
}

// takes reports whether a request may be sent to s. A limit that is still growing is
// exceeded if no other server has room, and if all are down, requests fail as soon as
// without a Pacer. The lock is held.
func (t *Transport) takes(s *server, now time.Time, room float64) bool {
	allDown := !slices.ContainsFunc(t.servers, func(s *server) bool { return !s.down })
	if allDown {
		return true
	}
	return s.wait(now) == 0 && (room > 0 || !s.down && !slices.ContainsFunc(t.servers, func(s *server) bool { return s.available(now) }))
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
			if timers[i].Stop() { // there is no reason to wait any longer
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
	out, own := r.requests(s)
	for again := false; out != nil && r.ctx.Err() == nil; again = true {
		opens, err := r.await(s, again)
		if err != nil {
			return end{err: err}
		}
		done, err := r.t.Pacer.Wait(r.ctx, own, opens)
		if err != nil {
			r.leave(s, nil)
			return end{err: err}
		}
		if a := r.claim(s, own, done); a != nil {
			return end{attempt: a, out: out}
		}
		if done != nil {
			done(httpretry.Attempt{Request: own, Err: route.ErrNotSent, Number: httpretry.AttemptNumber(r.ctx)})
		}
	}
	return end{err: context.Cause(r.ctx)}
}

// requests returns the request for s, and a copy of it that remains valid after RoundTrip
// has returned. They are nil if the race has been decided.
func (r *race) requests(s *server) (out, own *http.Request) {
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	if r.decided {
		return nil, nil
	}
	out = s.request(r.req, r.fixed)
	return out, hookRequest(out)
}

// await waits until s has room, and returns the time until it opens. The Pacer is to wait
// for that, because it knows the order of the requests, but not again.
func (r *race) await(s *server, again bool) (time.Duration, error) {
	for {
		opens, ok, changed := r.enter(s, again)
		if !r.deadline.IsZero() && opens > time.Until(r.deadline) {
			r.leave(s, changed)
			return 0, errLate
		}
		if ok {
			return opens, nil
		}
		var timer <-chan time.Time
		if opens > 0 {
			timer = time.After(opens)
		}
		select {
		case <-changed:
			continue
		case <-timer:
			r.leave(s, changed)
		case <-r.ctx.Done():
			r.leave(s, changed)
			return 0, context.Cause(r.ctx)
		}
	}
}

// enter returns the time until s opens, and whether it has room. If a request must wait
// for that, changed is closed when it may enter.
func (r *race) enter(s *server, again bool) (opens time.Duration, ok bool, changed chan struct{}) {
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	now := time.Now()
	if r.must || r.t.takes(s, now, s.room()) {
		return 0, true, nil
	}
	opens = s.wait(now)
	if opens > 0 && s.room() > 0 && !again {
		return opens, true, nil
	}
	changed = make(chan struct{})
	s.waiting = append(s.waiting, changed)
	return opens, false, changed
}

// leave ends the wait that enter has begun, or gives up what it has permitted if changed
// is nil.
func (r *race) leave(s *server, changed chan struct{}) {
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	if i := slices.Index(s.waiting, changed); i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
		return
	}
	r.t.wakeLocked() // another request may enter in its place
}

// claim begins an attempt, unless the race has been decided, or the server accepts no
// request any more.
func (r *race) claim(s *server, own *http.Request, done func(httpretry.Attempt)) *attempt {
	now := time.Now()
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	if r.decided || r.ctx.Err() != nil || !r.must && !r.t.takes(s, now, s.room()) {
		r.t.wakeLocked()
		return nil
	}
	r.decided = true
	r.cancel(errDecided)
	a := r.t.enter(s, r.last, r.fixed, now)
	a.request, a.done = own, done
	return a
}

// wakeLocked wakes as many of the requests that wait for room at a server as it has room
// for, in the order of their arrival.
func (t *Transport) wakeLocked() {
	if t.Pacer == nil {
		return // none waits
	}
	now := time.Now()
	for _, s := range t.servers {
		for room := s.room(); len(s.waiting) > 0 && t.takes(s, now, room); room-- {
			close(s.waiting[0])
			s.waiting = s.waiting[1:]
		}
	}
}

// wakeAllLocked wakes all requests that wait for room at s, because they must wait for
// another time.
func (s *server) wakeAllLocked() {
	for _, changed := range s.waiting {
		close(changed)
	}
	s.waiting = nil
}

// unsent ends an attempt that the Pacer has refused, and returns its error.
func (a *attempt) unsent(req *http.Request, err error) error {
	if req.Body != nil {
		req.Body.Close()
	}
	return &endpointError{a, err}
}
