package httpretry

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/httpretry/httpretry/internal/route"
)

// A call is one call of RoundTrip and, if its response body is resumed, of the
// Reads of that body. It lives on the stack of RoundTrip, unless a download
// takes over a copy.
type call struct {
	t       *RetryTransport // with the overrides of the request's context
	ctx     context.Context // ends attempts and waits: the request's, or a download's
	req     *http.Request   // the caller's
	context *contextValue   // of its context
	body    body            // nil until the first attempt is prepared
	start   time.Time       // of the first attempt; zero unless readsClock
	ended   bool            // nothing is left to be closed

	attempts int           // made so far
	backoff  time.Duration // before the next one, which the Pacer may prolong
	done     func(Attempt) // the Pacer's, until the attempt is reported to it; nil: none
	turn     turn          // the same of an AdaptivePacer

	// The current attempt, which is under way or was made last.
	number   int             // from 1, again after a download has made progress
	numbered context.Context // ctx, with number unless AttemptNumber returns that already
	delay    time.Duration
	resp     *http.Response // exactly one of resp and err is nil after an attempt
	err      error
	buffer   *bufferedBody // the body of resp, if MaxResponseBytes applies to it
	conn     *usedConn     // nil if it is not traced

	failure error // err, or the error of buffer
	verdict Verdict

	// If a RoundTripper below chooses a server for each attempt:
	choice    route.Choice // the latest
	elsewhere bool         // another server accepts the next attempt without a wait

	// The attempt before it.
	previous       *http.Response // with the part of its body that was discarded; nil: none, or not needed
	previousErr    error          // its failure; nil if its status was the failure
	previousStatus int

	silent time.Time // since when nothing was received for the last attempt that timed out; zero: none
}

// retry makes further attempts after the current one until a decision is against
// another, and returns the reason. err is not nil if a wait for an attempt ended
// without it.
func (c *call) retry() (reason string, err error) {
	for {
		c.judge()
		if c.t.Pacer != nil {
			c.report()
		}
		d := c.decide()
		if c.t.OnAttempt != nil {
			c.t.OnAttempt(c.describe(), d)
		}
		if !d.Retry {
			return d.Reason, nil
		}
		if err := c.wait(d.Delay); err != nil {
			return c.unsentReason(), err
		}
		c.attempt()
	}
}

// numberedContext returns the context of the current attempt.
func (c *call) numberedContext() context.Context {
	if !c.ownNumber() {
		return c.ctx
	}
	v := contextValue{c.context.override, c.number, c.context.silent}
	if !c.silent.IsZero() && !c.elsewhere {
		// The connections to another server are not the ones that timed out.
		v.silent = c.silent
	}
	return context.WithValue(c.ctx, contextKey{}, &v)
}

// ownNumber reports whether the attempt's context differs from the call's. Also a
// first attempt has a number of its own if it would inherit that of an attempt of
// another RetryTransport above.
func (c *call) ownNumber() bool {
	return c.number != max(c.context.attempt, 1) || !c.silent.IsZero()
}

// attempt makes one attempt.
func (c *call) attempt() {
	c.numbered = c.ctx
	ownNumber := c.ownNumber()
	if ownNumber {
		c.numbered = c.numberedContext()
	}
	ctx := c.numbered
	if c.choice != nil {
		ctx = route.WithPrevious(ctx, route.Previous{Choice: c.choice, Resuming: c.resuming()})
	}
	if c.attempts > 0 && c.t.OnAttempt != nil {
		// A first attempt is not traced: that would be 4 allocations.
		c.conn = new(usedConn)
		ctx = c.conn.trace(ctx)
	}
	switch {
	case c.t.AttemptTimeout > 0, c.t.IdleTimeout > 0:
		c.attemptWithTimeout(ctx)
	case c.attempts == 0 && !ownNumber && c.body.untouched():
		c.send(c.req, nil)
	default:
		if req := c.prepare(ctx); req != nil {
			c.send(req, nil)
		}
	}
}

// prepare returns a copy of the caller's request for the attempt, with the
// context ctx. If there is none, it sets c.err and returns nil.
func (c *call) prepare(ctx context.Context) *http.Request {
	req := c.req.WithContext(ctx)
	if err := c.body.start(req, c.attempts == 0); err != nil {
		c.err = &replayError{err}
		return nil
	}
	if ctx.Err() != nil {
		// The context may have ended while GetBody or a hook was running.
		closeBody(req)
		c.err = context.Cause(ctx)
		return nil
	}
	return req
}

// send sends req and receives its response. cancel cancels the context of req. It
// is nil if the attempt has no limit.
func (c *call) send(req *http.Request, cancel context.CancelCauseFunc) {
	c.attempts++
	var upload *uploadWatch
	if c.t.IdleTimeout > 0 {
		upload = c.watchUpload(req, cancel)
	}
	base := c.t.base()
	if c.attempts > 1 || c.context.attempt > 1 {
		base = c.retrying(base)
	}
	resp, err := base.RoundTrip(req)
	if upload != nil {
		if stalled := upload.end(); stalled != nil {
			cancel(stalled)
		}
	}
	switch {
	case err != nil && resp != nil:
		// Base broke the contract of http.RoundTripper. http.Client ignores
		// the response, too.
		closeResponse(resp)
	case err == nil && resp == nil:
		err = errNoResponse
	case err == nil:
		c.resp = resp
		if resp.Request != req {
			// Only a RoundTripper that chooses servers returns another Request
			// than it was given.
			c.choose(resp)
		}
		if c.t.IdleTimeout > 0 {
			c.watchResponse(resp, cancel)
		}
		if c.t.MaxResponseBytes > 0 && bufferable(c.req, resp) {
			c.buffer = bufferBody(req.Context(), resp, c.t.MaxResponseBytes)
		}
	}
	if err != nil {
		c.chooseFailed(err)
	}
	c.err = err
}

// retrying returns the RoundTripper for a retry, or for an attempt below another
// RetryTransport.
func (c *call) retrying(base http.RoundTripper) http.RoundTripper {
	if t, ok := base.(*http.Transport); ok && (c.ownNumber() || c.context.attempt > 1) {
		base = freshConnections{t}
	}
	if r, ok := c.body.(*remainder); ok {
		return renewal{hop{base, r.d}}
	}
	return base
}

// attemptWithTimeout makes one attempt within AttemptTimeout, which ends when a
// body stalls for IdleTimeout.
func (c *call) attemptWithTimeout(ctx context.Context) {
	ctx, cancel := context.WithCancelCause(ctx)
	var timer *attemptTimer
	if c.t.AttemptTimeout > 0 {
		timer = newAttemptTimer(c.t.AttemptTimeout, cancel)
		ctx = route.WithTimer(ctx, timer)
	}
	streaming := false // the caller's Reads or Close of the body cancel the context
	defer func() {
		timer.stop()
		if !streaming {
			cancel(nil)
		}
	}()
	req := c.prepare(ctx)
	if req == nil {
		return
	}
	c.send(req, cancel)
	if !timer.stop() {
		cancel(timer.timeout) // the timer's function may not have done so yet
	}
	limit := context.Cause(ctx) // timeout, or the error of a stall
	expired := limit != nil && c.ctx.Err() == nil
	switch {
	case c.resp != nil && (c.buffer.complete() || !hasResponseBody(c.resp)):
		// All of the response was received in time.
	case expired && c.err != nil:
		// Base may have added its own text, such as the server's name.
		if !errors.Is(c.err, limit) {
			c.err = limit
		}
	case expired && c.buffer.failure() != nil:
		c.buffer.err = limit
	case expired && c.resp != nil && withoutContent(c.req, c.resp):
		// Nothing is missing, but the canceled body may return an error.
		closeResponse(c.resp)
		c.resp.Body = http.NoBody
	case expired:
		// The response arrived just before the limit, which has canceled the
		// rest of its body.
		closeResponse(c.resp)
		c.resp, c.err = nil, limit
	case c.resp != nil:
		streaming = true
		c.resp.Body = newTimedBody(c.resp.Body, cancel)
	}
}

// judge classifies the outcome of the attempt.
func (c *call) judge() {
	c.failure, c.elsewhere = c.err, false
	if c.err != nil && c.bodyFailed() {
		// The body would fail again, or there is no copy of it to send.
		c.verdict = Verdict{Outcome: Final}
		return
	}
	c.verdict = c.classify(c.resp, c.err)
	if err := c.buffer.failure(); err != nil && c.verdict.Outcome == Final {
		c.failure = err
		c.verdict = c.classify(nil, err)
		if c.verdict.Outcome == Unprocessed {
			// A server that has begun its response may have processed the
			// request, even if it then resets the stream with REFUSED_STREAM
			// (RFC 9113, section 8.7).
			c.verdict.Outcome = Uncertain
		}
	}
	if c.choice != nil {
		c.reroute()
	}
}

func (c *call) classify(resp *http.Response, err error) Verdict {
	if err != nil {
		err = asConnectError(c.t.base(), c.req, err)
	}
	if c.t.Classifier == nil {
		// The default needs no copies, which would be 5 allocations for each success.
		return DefaultClassifier(c.req, resp, err)
	}
	req := requestForHooks(c.req)
	if resp != nil {
		resp = responseForHooks(resp, req, c.buffer.preview())
	}
	return c.t.Classifier(req, resp, err)
}

// describe returns a description of the attempt, with copies of its own of the
// request and the response.
func (c *call) describe() Attempt {
	a := c.figures()
	a.Request = requestForHooks(c.req)
	if c.conn != nil {
		a.RemoteAddr, a.ConnReused = c.conn.describe()
	}
	if c.failure == nil {
		a.Response = responseForHooks(c.resp, a.Request, c.buffer.preview())
	}
	return a
}

// figures returns a description of the attempt without request and response.
func (c *call) figures() Attempt {
	a := Attempt{Err: c.failure, Number: c.number, Verdict: c.verdict, Delay: c.delay}
	if !c.start.IsZero() {
		a.Elapsed = time.Since(c.start)
	}
	return a
}

// decide decides whether another attempt follows.
func (c *call) decide() Decision {
	if reason := c.obstacle(); reason != "" {
		return Decision{Reason: reason}
	}
	delay, retry := c.askPolicy()
	delay = max(delay, 0)
	if c.elsewhere {
		// The backoff is meant for the server that failed.
		delay = 0
	}
	if asked := c.verdict.RetryAfter; delay < asked {
		// Retry-After is a floor under every policy (RFC 9110, section
		// 10.2.3). But a policy that ignores it must not make a call wait for
		// hours.
		delay, retry = asked, retry && asked <= defaultMaxBackoff
	}
	if !retry {
		return Decision{Delay: delay, Reason: reasonPolicy}
	}
	c.backoff = delay
	if c.t.Pacer != nil {
		delay = max(delay, c.pacerDelay())
	}
	// A wait that ends at the deadline would leave no time for the attempt.
	if deadline, ok := c.ctx.Deadline(); ok && delay >= time.Until(deadline) {
		return Decision{Delay: delay, Reason: reasonDeadline}
	}
	// Last, so that no token is spent on a retry that is not made.
	if c.t.Budget != nil && !c.t.Budget.Withdraw(c.describe()) {
		return Decision{Delay: delay, Reason: reasonBudget}
	}
	return Decision{Retry: true, Delay: delay}
}

func (c *call) askPolicy() (delay time.Duration, retry bool) {
	policy := c.t.policy()
	if config, ok := policy.(RetryConfig); ok {
		// It uses neither the request nor the response. Copies for it would
		// be 8 of the 12 allocations of a retry.
		return config.Backoff(c.figures())
	}
	return policy.Backoff(c.describe())
}

// obstacle returns the reason that rules out a retry whatever the Policy, or "".
func (c *call) obstacle() string {
	outcome := c.verdict.Outcome
	final := outcome != Unprocessed && outcome != Uncertain
	switch {
	case final && c.failure == nil:
		// The call has its response, even if its context is done now.
		return reasonFinal
	case c.ctx.Err() != nil:
		return reasonCanceled
	case c.err != nil && c.number > 1 && c.bodyFailed():
		return reasonNotReplayable
	case final:
		return reasonFinal
	case outcome == Uncertain && !c.idempotent():
		return reasonNotIdempotent
	case !c.body.hold() && !neverRetries(c.t.policy()):
		// A policy that never retries is the reason why the body was not
		// buffered.
		return reasonNotReplayable
	}
	return ""
}

// bodyFailed reports whether the attempt failed because of the caller's body.
func (c *call) bodyFailed() bool {
	_, notStarted := c.err.(*replayError)
	return notStarted || c.body.failure() != nil
}

func (c *call) idempotent() bool {
	if c.t.Idempotent != nil {
		return c.t.Idempotent(requestForHooks(c.req))
	}
	return IsIdempotent(c.req)
}

// wait waits for the next attempt, which is expected to take as long as delay, and
// meanwhile discards the response. It returns an error if there is to be no
// attempt.
func (c *call) wait(delay time.Duration) error {
	certain := c.body.stop()
	resp := c.resp
	c.previousErr = c.failure
	if c.failure == nil {
		c.previousStatus = resp.StatusCode
	}
	if silent := silentSince(cmp.Or(c.failure, c.buffer.failure())); !silent.IsZero() {
		c.silent = silent
	}
	// Thousands of calls may wait for a long time, so everything that the next
	// attempt does not need is released first.
	c.resp, c.buffer, c.previous = nil, nil, nil
	c.number++
	c.delay = delay
	begun := time.Now()
	defer c.noteDelay(begun)
	if resp == nil || certain && !hasResponseBody(resp) {
		return c.pace(c.backoff)
	}
	// If the body of the next attempt fails, the call returns this response.
	d := newDiscard(resp, !certain)
	err := d.during(c.ctx, delay, func() error { return c.pace(c.backoff - time.Since(begun)) })
	c.previous = d.result()
	return err
}

// noteDelay notes how long a wait took that began at begun.
func (c *call) noteDelay(begun time.Time) {
	if c.t.Pacer != nil {
		c.delay = time.Since(begun) // instead of the expected time
	}
}

// paceFirst waits for the Pacer before the first attempt.
func (c *call) paceFirst() error {
	if p, ok := c.t.Pacer.(*AdaptivePacer); ok && p.idle() {
		return c.pace(0) // the clock would take longer than all of it
	}
	defer c.noteDelay(time.Now())
	return c.pace(0)
}

// pace waits for backoff and for the Pacer.
func (c *call) pace(backoff time.Duration) error {
	switch p := c.t.Pacer.(type) {
	case nil:
		return sleep(c.ctx, backoff)
	case *AdaptivePacer:
		// It needs no copies.
		return p.wait(c.ctx, c.req, max(backoff, 0), &c.turn)
	}
	done, err := c.t.Pacer.Wait(c.numberedContext(), requestForHooks(c.req), max(backoff, 0))
	if err == nil {
		c.done = done
	}
	return err
}

func (c *call) pacerDelay() time.Duration {
	if p, ok := c.t.Pacer.(*AdaptivePacer); ok {
		return p.delay(c.req, &c.turn)
	}
	return c.t.Pacer.Delay(requestForHooks(c.req))
}

// report reports the result of the attempt to the Pacer, once.
func (c *call) report() {
	a := Attempt{Response: c.resp, Err: c.failure, Verdict: c.verdict}
	done := c.done
	if done != nil {
		c.done = nil // abandon must not call it again if it panics
		a = c.describe()
	}
	if c.elsewhere {
		// As long as another server accepts attempts, the refusal of one is no
		// reason to slow down all.
		a.Response, a.Err, a.Verdict = nil, route.ErrElsewhere, Verdict{}
	}
	if done != nil {
		done(a)
	} else if p, ok := c.t.Pacer.(*AdaptivePacer); ok && c.turn.pending {
		p.done(&c.turn, c.req, a.Response, a.Err, a.Verdict)
	}
}

// previousFailure returns the failure of the attempt before the current one.
func (c *call) previousFailure() error {
	if c.previousErr != nil {
		return c.previousErr
	}
	return errors.New("HTTP status " + strconv.Itoa(c.previousStatus))
}

// reportPanic reports an attempt that a panic has ended.
func (c *call) reportPanic() {
	c.failure, c.verdict = errPanicked, Verdict{Outcome: Final}
	c.report()
}

// unsent ends a call whose wait for an attempt ended with err.
func (c *call) unsent(err error) (*http.Response, error) {
	e := &Error{Attempts: c.attempts, Reason: c.unsentReason(), Err: err}
	if e.Reason == reasonCanceled {
		e.Err = context.Cause(c.ctx)
	}
	if c.number > 1 {
		e.Last = c.previousFailure()
	}
	c.closeBody()
	return c.end(e.Reason, nil, e)
}

func (c *call) unsentReason() string {
	if c.ctx.Err() != nil {
		return reasonCanceled
	}
	return reasonDeadline
}

// result ends the call with the result of the last attempt.
func (c *call) result(reason string) (*http.Response, error) {
	// Before settle, which may end a Read of the body with an error.
	ownFault := c.err != nil && c.number > 1 && c.bodyFailed()
	c.body.settle(c.err != nil)
	if ownFault && c.previous != nil && reason == reasonNotReplayable {
		// The attempt failed because of the caller's body. The server's last
		// response is that of the attempt before.
		c.resp, c.err = c.previous, nil
	}
	if c.err != nil {
		return c.end(reason, nil, c.finalError(reason, ownFault))
	}
	// Base may share a response between calls, so it is not written to without
	// need.
	req := c.req
	if c.attempts > 1 || c.choice != nil {
		req = c.responseRequest()
	}
	if c.resp.Request != req {
		c.resp.Request = req
	}
	if c.t.ResumeDownloads && c.buffer.failure() == nil && resumable(c.req, c.resp) {
		// The call continues in the download, which calls OnDone.
		c.ended = true
		c.resp.Body = newDownload(c)
		return c.resp, nil
	}
	return c.end(reason, c.resp, nil)
}

// finalError returns the error of a call without a response. ownFault reports
// whether the last attempt failed because of the caller's body.
func (c *call) finalError(reason string, ownFault bool) error {
	if c.number == 1 {
		return c.err
	}
	e := &Error{Attempts: c.attempts, Reason: reason, Err: c.err}
	if ownFault || c.attempts < c.number {
		// Err is not the server's: the last attempt failed on this side, or
		// was not sent.
		e.Last = c.previousFailure()
	}
	return e
}

// responseRequest returns the request for Response.Request: the caller's or,
// after retries, a copy whose context has the number of attempts. That of a
// redirect has the server, which a renewal asks again.
func (c *call) responseRequest() *http.Request {
	switch {
	case c.choice != nil && c.resp.StatusCode/100 == 3:
		return c.req.WithContext(route.WithChoice(c.numbered, c.choice))
	case c.attempts == 1:
		return c.req
	}
	return c.req.WithContext(c.numbered)
}

// end calls OnDone and returns the results of RoundTrip.
func (c *call) end(reason string, resp *http.Response, err error) (*http.Response, error) {
	if c.t.OnDone != nil {
		c.summarize(reason, resp, err)
	}
	c.ended = true
	return resp, err
}

// summarize calls OnDone.
func (c *call) summarize(reason string, resp *http.Response, err error) {
	s := Summary{Request: requestForHooks(c.req), Err: err, Attempts: c.attempts, Reason: reason}
	if resp != nil {
		s.Response = responseForHooks(resp, s.Request, nil)
	}
	if !c.start.IsZero() {
		s.Elapsed = time.Since(c.start)
	}
	c.t.OnDone(s)
}

// abandon closes everything that a panic has left open.
func (c *call) abandon() {
	defer c.closeBody()
	if c.resp != nil {
		defer closeResponse(c.resp) // may be what has panicked
	}
	c.reportPanic()
}

// closeBody closes the request body of a call that makes no further attempt.
func (c *call) closeBody() {
	if c.body == nil {
		// RoundTrip must close the body, also of a request that is not sent.
		closeBody(c.req)
	} else {
		c.body.settle(true)
	}
}
