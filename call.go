package httpretry

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"
)

// A call is one call of RoundTrip and, if its response body is resumed, of the
// Reads of that body. It lives on the stack of RoundTrip, unless a download
// takes over a copy.
type call struct {
	t       *RetryTransport // with the overrides of the request's context
	ctx     context.Context // ends attempts and waits: the request's, or a download's
	req     *http.Request   // the caller's
	context contextValue    // of its context
	body    body            // nil until the first attempt is prepared
	start   time.Time       // of the first attempt; zero unless readsClock
	ended   bool            // nothing is left to be closed

	attempts int           // made so far
	waited   time.Duration // before them, in all

	// The current attempt, which is under way or was made last.
	number   int             // from 1; a download that made progress counts anew
	numbered context.Context // ctx, with number unless AttemptNumber returns that already
	delay    time.Duration
	resp     *http.Response // exactly one of resp and err is nil after an attempt
	err      error
	buffer   *bufferedBody // the body of resp, if MaxResponseBytes applies to it

	failure error // err, or the error of buffer
	verdict Verdict

	// The attempt before it.
	previous       *http.Response // with the part of its body that was discarded; nil: none, or not needed
	previousErr    error          // its failure; nil if its status was the failure
	previousStatus int
}

// roundTrip makes the call.
func (c *call) roundTrip() (*http.Response, error) {
	if c.ctx.Err() != nil {
		// RoundTrip must close the body, also of a request that is not sent.
		closeBody(c.req)
		return c.end(ReasonCanceled, nil, context.Cause(c.ctx))
	}
	if c.t.readsClock() {
		c.start = time.Now()
	}
	if c.t.Budget != nil {
		// Before newBody, because abandon then closes the caller's body if
		// Deposit panics.
		c.t.Budget.Deposit(c.req)
	}
	c.body = c.newBody()
	c.number = 1
	c.attempt()
	reason, canceled := c.retry()
	if canceled {
		return c.canceled()
	}
	return c.result(reason)
}

// retry makes further attempts after the current one until a decision is against
// another, and returns the reason. canceled reports whether the context ended a
// wait.
func (c *call) retry() (reason Reason, canceled bool) {
	for {
		c.judge()
		d := c.decide()
		if c.t.OnAttempt != nil {
			c.t.OnAttempt(c.describe(), d)
		}
		if !d.Retry {
			return d.Reason, false
		}
		if !c.wait(d.Delay) {
			return ReasonCanceled, true
		}
		c.attempt()
	}
}

// attempt makes one attempt.
func (c *call) attempt() {
	c.resp, c.err, c.buffer = nil, nil, nil
	c.numbered = c.ctx
	// Also a first attempt has a number of its own if it would inherit that of
	// an attempt of another RetryTransport above.
	ownNumber := c.number != max(c.context.attempt, 1)
	if ownNumber {
		c.numbered = context.WithValue(c.ctx, contextKey{}, &contextValue{c.context.override, c.number})
	}
	switch {
	case c.t.AttemptTimeout > 0:
		c.attemptWithTimeout()
	case c.attempts == 0 && !ownNumber && c.body.untouched():
		c.send(c.req)
	default:
		if req := c.prepare(c.numbered); req != nil {
			c.send(req)
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

// send sends req and receives its response.
func (c *call) send(req *http.Request) {
	c.attempts++
	resp, err := c.t.base().RoundTrip(req)
	switch {
	case err != nil && resp != nil:
		// Base broke the contract of http.RoundTripper. http.Client ignores
		// the response, too.
		closeResponse(resp)
	case err == nil && resp == nil:
		err = errNoResponse
	case err == nil:
		c.resp = resp
		if c.t.MaxResponseBytes > 0 && bufferable(c.req, resp) {
			c.buffer = bufferBody(req.Context(), resp, c.t.MaxResponseBytes)
		}
	}
	c.err = err
}

// attemptWithTimeout makes one attempt within AttemptTimeout.
func (c *call) attemptWithTimeout() {
	ctx, cancel := context.WithCancelCause(c.numbered)
	timeout := &timeoutError{c.t.AttemptTimeout}
	timer := time.AfterFunc(c.t.AttemptTimeout, func() { cancel(timeout) })
	streaming := false // the caller's Reads or Close of the body cancel the context
	defer func() {
		timer.Stop()
		if !streaming {
			cancel(nil)
		}
	}()
	req := c.prepare(ctx)
	if req == nil {
		return
	}
	c.send(req)
	expired := !timer.Stop() && c.ctx.Err() == nil
	switch {
	case c.resp != nil && (c.buffer.complete() || !hasResponseBody(c.resp)):
		// All of the response was received in time.
	case expired && c.err != nil:
		c.err = timeout
	case expired && c.buffer.failure() != nil:
		c.buffer.err = timeout
	case expired && c.resp != nil && withoutContent(c.req, c.resp):
		// Nothing is missing, but the canceled body may return an error.
		closeResponse(c.resp)
		c.resp.Body = http.NoBody
	case expired:
		// The response arrived just before the timeout, which has canceled
		// the rest of its body.
		closeResponse(c.resp)
		c.resp, c.err = nil, timeout
	case c.resp != nil:
		streaming = true
		c.resp.Body = newTimedBody(c.resp.Body, cancel)
	}
}

// judge classifies the outcome of the attempt.
func (c *call) judge() {
	c.failure = c.err
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
}

func (c *call) classify(resp *http.Response, err error) Verdict {
	if err != nil {
		err = asConnectError(c.t.base(), c.req, err)
	}
	if _, ok := c.t.Classifier.(defaultClassifier); ok || c.t.Classifier == nil {
		// It needs no copies, which would be 5 allocations for each success.
		return DefaultClassifier.Classify(c.req, resp, err)
	}
	req := requestForHooks(c.req)
	if resp != nil {
		resp = responseForHooks(resp, req, c.buffer.preview())
	}
	return c.t.Classifier.Classify(req, resp, err)
}

// describe returns a description of the attempt, with copies of its own of the
// request and the response.
func (c *call) describe() Attempt {
	a := c.figures()
	a.Request = requestForHooks(c.req)
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
	delay, retry := c.backoff()
	delay = max(delay, 0)
	if asked := c.verdict.RetryAfter; delay < asked {
		// Retry-After is a floor under every policy (RFC 9110, section
		// 10.2.3). But a policy that ignores it must not make a call wait for
		// hours.
		delay, retry = asked, retry && asked <= defaultMaxBackoff
	}
	if !retry {
		return Decision{Delay: delay, Reason: ReasonPolicy}
	}
	// A wait that ends at the deadline would leave no time for the attempt.
	if deadline, ok := c.ctx.Deadline(); ok && delay >= time.Until(deadline) {
		return Decision{Delay: delay, Reason: ReasonDeadline}
	}
	// Last, so that no token is spent on a retry that is not made.
	if c.t.Budget != nil && !c.t.Budget.Withdraw(c.describe()) {
		return Decision{Delay: delay, Reason: ReasonBudget}
	}
	return Decision{Retry: true, Delay: delay}
}

func (c *call) backoff() (delay time.Duration, retry bool) {
	policy := c.t.policy()
	if config, ok := policy.(RetryConfig); ok {
		// It uses neither the request nor the response. Copies for it would
		// be 8 of the 12 allocations of a retry.
		return config.Backoff(c.figures())
	}
	return policy.Backoff(c.describe())
}

// obstacle returns the reason that rules out a retry whatever the Policy, or "".
func (c *call) obstacle() Reason {
	switch outcome := c.verdict.Outcome; {
	case c.ctx.Err() != nil:
		return ReasonCanceled
	case c.err != nil && c.number > 1 && c.bodyFailed():
		return ReasonNotReplayable
	case outcome != Unprocessed && outcome != Uncertain:
		return ReasonFinal
	case outcome == Uncertain && !c.idempotent():
		return ReasonNotIdempotent
	case !c.body.hold() && !neverRetries(c.t.policy()):
		// A policy that never retries is the reason why the body was not
		// buffered.
		return ReasonNotReplayable
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

// wait waits for the next attempt, and meanwhile discards the response. It
// reports false if the context was done first.
func (c *call) wait(delay time.Duration) bool {
	certain := c.body.stop()
	resp := c.resp
	c.previousErr = c.failure
	if c.failure == nil {
		c.previousStatus = resp.StatusCode
	}
	// Thousands of calls may wait for a long time, so everything that the next
	// attempt does not need is released first.
	c.resp, c.buffer, c.previous = nil, nil, nil
	c.number++
	c.delay = delay
	begun := time.Now()
	defer func() { c.waited += time.Since(begun) }()
	if resp == nil {
		return sleep(c.ctx, delay)
	}
	// If the body of the next attempt fails, the call returns this response.
	d := &discard{resp: resp, keep: !certain}
	ok := d.wait(c.ctx, delay)
	c.previous = d.result()
	return ok
}

// previousFailure returns the failure of the attempt before the current one.
func (c *call) previousFailure() error {
	if c.previousErr != nil {
		return c.previousErr
	}
	return errors.New("HTTP status " + strconv.Itoa(c.previousStatus))
}

// canceled ends a call whose context was done while it waited.
func (c *call) canceled() (*http.Response, error) {
	cause := context.Cause(c.ctx)
	c.body.settle(true)
	return c.end(ReasonCanceled, nil,
		&Error{Attempts: c.attempts, Reason: ReasonCanceled, Err: cause, Last: c.previousFailure()})
}

// result ends the call with the result of the last attempt.
func (c *call) result(reason Reason) (*http.Response, error) {
	// Before settle, which may end a Read of the body with an error.
	ownFault := c.err != nil && c.number > 1 && c.bodyFailed()
	c.body.settle(c.err != nil)
	if ownFault && c.previous != nil && reason == ReasonNotReplayable {
		// The attempt failed because of the caller's body. The server's last
		// response is that of the attempt before.
		c.resp, c.err = c.previous, nil
	}
	if c.err != nil {
		return c.end(reason, nil, c.finalError(reason, ownFault))
	}
	// Base may share a response between calls, so it is not written to without
	// need.
	if req := c.responseRequest(); c.resp.Request != req {
		c.resp.Request = req
	}
	if c.t.ResumeDownloads && c.buffer.failure() == nil && resumable(c.req, c.resp) {
		// The call continues in the download, which calls OnDone.
		c.ended = true
		c.resp.Body = newDownload(*c)
		return c.resp, nil
	}
	return c.end(reason, c.resp, nil)
}

// finalError returns the error of a call without a response. ownFault reports
// whether the last attempt failed because of the caller's body.
func (c *call) finalError(reason Reason, ownFault bool) error {
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
// after retries, a copy whose context has the number of attempts.
func (c *call) responseRequest() *http.Request {
	if c.attempts == 1 {
		return c.req
	}
	return c.req.WithContext(c.numbered)
}

// end calls OnDone and returns the results of RoundTrip.
func (c *call) end(reason Reason, resp *http.Response, err error) (*http.Response, error) {
	if c.t.OnDone != nil {
		c.summarize(reason, resp, err)
	}
	c.ended = true
	return resp, err
}

// summarize calls OnDone.
func (c *call) summarize(reason Reason, resp *http.Response, err error) {
	s := Summary{Request: requestForHooks(c.req), Err: err, Attempts: c.attempts, Reason: reason, Waited: c.waited}
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
	if c.ended {
		return
	}
	if c.resp != nil {
		closeResponse(c.resp)
	}
	if c.body == nil {
		closeBody(c.req)
	} else {
		c.body.settle(true)
	}
}
