// Package httpretry retries HTTP requests: [RetryTransport] is an
// [http.RoundTripper] around another one.
//
//	client := &http.Client{Transport: &httpretry.RetryTransport{}}
//
// By default a request is retried up to three times, after about 1, 2 and 4
// seconds or what Retry-After asks for. [DefaultClassifier] says which failures
// are retried, [IsIdempotent] which requests may be sent again after a failure
// that left open whether they were processed, [RetryConfig] when. When nothing
// fails, the layer is invisible.
package httpretry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"
)

// A RetryTransport is an [http.RoundTripper] that makes requests with another
// RoundTripper, and makes them again when an attempt failed in a way that may
// pass. It wraps [http.DefaultTransport], goes into the [http.Client] of any
// SDK, and sits among other middleware: what is below it sees every attempt,
// what is above it sees one call.
//
// The zero value is ready to use. A RetryTransport is safe for concurrent use;
// its fields are read, never written, and must not be changed while requests
// are under way.
//
// It keeps the contract of http.RoundTripper. The caller's request is not
// modified and its body is closed exactly once. A response is never turned
// into an error: when the last attempt ends with a 503, the caller gets that
// 503 with its body. The error of a single attempt comes back as it is, that of
// the last of several as an [*Error].
type RetryTransport struct {
	// Base makes each attempt. If nil, [http.DefaultTransport].
	Base http.RoundTripper

	// Policy says whether and when to try again. If nil, [DefaultPolicy].
	// [WithPolicy] overrides it for one request.
	Policy Policy

	// Classifier says what the outcome of an attempt means. If nil,
	// [DefaultClassifier].
	Classifier Classifier

	// Idempotent reports whether a request may be processed twice, which an
	// attempt with an [Uncertain] outcome may have been once already. It is
	// also asked before the first attempt of a request whose body has no
	// GetBody: only what may be processed twice gets one on the way to Base,
	// since net/http repeats by itself what has it. It must not modify the
	// request. It is called from many goroutines at once. If nil, [IsIdempotent].
	Idempotent func(*http.Request) bool

	// Budget bounds the retries of all requests together, such as a
	// [TokenBudget], or one [PerHost]. Several transports may share one. If nil,
	// there is no bound.
	Budget Budget

	// MaxReplayBytes bounds what is kept of a request body that can be read
	// only once, so that it can be sent again. While the first attempt sends a
	// body, a copy is kept; a body that turns out larger goes on without one,
	// and the request is not retried. It does not matter for a request with a
	// GetBody, nor for a body that is an [io.ReaderAt] and an [io.Seeker], such
	// as an *os.File: that is read again, from where it stood, at any size.
	// If zero, 1 MiB. If negative, nothing is kept.
	MaxReplayBytes int64

	// MaxResponseBytes, if positive, makes reading the response body part of
	// the attempt: a body that breaks off counts as a failed attempt, and
	// Classifier, Policy and OnAttempt may look at Response.Body. The body is
	// held back until it has arrived, up to this many bytes; a larger one is
	// handed through as it comes, and an event stream (text/event-stream) at
	// once. The body of a failure counts too: one that comes slowly holds up
	// the retry, for as long as AttemptTimeout allows. When retries end on a
	// body that broke off, the caller gets the response, and from its body what
	// had come and then the error. If zero or negative, bodies are handed
	// through, and one that breaks off is the caller's to notice.
	MaxResponseBytes int64

	// AttemptTimeout bounds one attempt: the time to its response headers,
	// and with MaxResponseBytes to the end of what that reads ahead. It does
	// not bound the caller's reading of the body. An attempt that takes longer
	// fails with a timeout that matches [context.DeadlineExceeded]; to
	// [DefaultClassifier] it is [Uncertain]. If zero or negative, an attempt
	// may take as long as the request's context allows.
	AttemptTimeout time.Duration

	// ResumeDownloads continues a GET whose response body breaks off: from the
	// byte that is missing, as an attempt like any other, under the same
	// Policy, Classifier, Budget and OnAttempt. Bytes that have come since the last
	// attempt start the count of attempts, and MaxElapsed, anew. It takes a 200,
	// or a 206 to a single range that the caller asked for, with a strong ETag
	// or a strong Last-Modified date; the rest is taken only from a 206 that
	// fits it in every respect. Otherwise the caller gets the error that the
	// body broke off with. What can't be continued is handed through as it is.
	// If false, everything is.
	ResumeDownloads bool

	// OnAttempt, if not nil, is called after each attempt, the last one too,
	// with the decision about what follows. It is called from the goroutine
	// that called RoundTrip, or with ResumeDownloads from one that reads the
	// body, and holds it up; concurrent requests make concurrent calls. What it
	// gets is only lent to it.
	OnAttempt func(Attempt, Decision)
}

// RoundTrip implements [http.RoundTripper].
//
// A request whose context is done is not sent. When the context ends, an attempt
// ends with the error that Base gives for it, and a wait at once, with
// [context.Cause]. A wait that would not end before the context's deadline is
// not begun; the outcome of the attempt before it is returned instead.
func (t *RetryTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if ctx.Err() != nil {
		closeBody(req)
		return nil, context.Cause(ctx)
	}
	policy := t.policy()
	if contextPolicies.Load() {
		policy = policyFrom(ctx, policy)
	}
	if !replaysItself(req) || !t.plain(policy) {
		return t.call(req, policy)
	}
	resp, err := t.base().RoundTrip(req)
	if err != nil || resp == nil || statusOutcome(resp.StatusCode) != Final || t.ResumeDownloads {
		return t.callAfter(req, policy, resp, err)
	}
	// callAfter would come to the same, in three times the time.
	if resp.Request != req { // a response that Base shares between calls is not written to
		resp.Request = req
	}
	return resp, nil
}

// call makes the call for a request that needs help with its body, or that
// somebody wants to hear of.
func (t *RetryTransport) call(req *http.Request, p Policy) (*http.Response, error) {
	c := newCall(t, req, p)
	defer c.abandon()
	if t.timed(p) {
		c.start = time.Now()
	}
	if t.Budget != nil {
		t.Budget.Deposit(req)
	}
	c.record()
	c.exchange()
	return c.conclude()
}

// callAfter makes the call of which the first attempt has been made, with req as
// it is.
func (t *RetryTransport) callAfter(req *http.Request, p Policy, resp *http.Response, err error) (*http.Response, error) {
	c := newCall(t, req, p)
	defer c.abandon()
	c.receive(resp, err)
	return c.conclude()
}

// CloseIdleConnections closes the idle connections of Base, if it has a method
// of that name. It is what [http.Client.CloseIdleConnections] calls.
func (t *RetryTransport) CloseIdleConnections() {
	if c, ok := t.base().(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

func (t *RetryTransport) base() http.RoundTripper {
	if t.Base != nil {
		return t.Base
	}
	return http.DefaultTransport
}

func (t *RetryTransport) policy() Policy {
	if t.Policy != nil {
		return t.Policy
	}
	return DefaultPolicy
}

func (t *RetryTransport) idempotent(req *http.Request) bool {
	if t.Idempotent != nil {
		return t.Idempotent(req)
	}
	return IsIdempotent(req)
}

func (t *RetryTransport) maxReplayBytes() int64 {
	if t.MaxReplayBytes != 0 {
		return t.MaxReplayBytes
	}
	return 1 << 20
}

// plain reports whether nobody but the default classifier is asked about an
// attempt that succeeds.
func (t *RetryTransport) plain(p Policy) bool {
	return !t.timed(p) && t.AttemptTimeout <= 0 && t.MaxResponseBytes <= 0 &&
		t.Classifier == nil && isDefault(DefaultClassifier)
}

// timed reports whether anybody will look at Attempt.Elapsed. Reading the
// clock takes longer than all else that an attempt that succeeds costs.
func (t *RetryTransport) timed(p Policy) bool {
	return t.OnAttempt != nil || t.Budget != nil || looksAtElapsed(p)
}

// A call is one call of RoundTrip: its request, and how far it has got.
type call struct {
	t      *RetryTransport
	ctx    context.Context // the caller's
	req    *http.Request   // the caller's
	policy Policy
	replay *replay   // nil if the body needs none, or can't be replayed
	start  time.Time // zero if nobody looks

	// The attempt under way.
	sent    *http.Request
	retries int // how many attempts came before it
	delay   time.Duration
	resp    *http.Response
	ahead   *aheadBody // what was read ahead of resp.Body; may be nil
	err     error
	failure error // err, or why the response body broke off
	status  int   // of the response, once that is given up
	verdict Verdict

	next io.ReadCloser // the next attempt's body, from GetBody
	over bool          // nothing is left to be closed
}

func newCall(t *RetryTransport, req *http.Request, p Policy) *call {
	return &call{t: t, ctx: req.Context(), req: req, sent: req, policy: p}
}

// record makes the request body replayable if it isn't, and could be needed.
func (c *call) record() {
	if replaysItself(c.req) {
		return
	}
	limit := c.t.maxReplayBytes()
	if makesOneAttempt(c.policy) {
		limit = -1
	}
	c.replay, c.sent = newReplay(c.req, limit, c.t.idempotent(c.req), c.t.AttemptTimeout > 0)
}

// conclude retries for as long as that is the decision, and ends the call.
func (c *call) conclude() (*http.Response, error) {
	for {
		c.judge()
		d := c.decide()
		if !d.Retry {
			return c.result(d.Reason)
		}
		if err := c.wait(d.Delay); err != nil {
			return nil, err
		}
		c.exchange()
	}
}

// exchange makes one attempt.
func (c *call) exchange() {
	if c.t.AttemptTimeout > 0 {
		c.exchangeTimed()
	} else {
		c.receive(c.t.base().RoundTrip(c.sent))
	}
}

// receive takes what an attempt brought.
func (c *call) receive(resp *http.Response, err error) {
	c.resp, c.err, c.ahead = resp, err, nil
	switch {
	case err != nil && resp != nil: // a breach of the contract
		closeResponse(resp)
		c.resp = nil
		return
	case err != nil:
		return
	case resp == nil:
		c.err = errNoResponse
		return
	}
	resp.Request = c.req
	if c.t.MaxResponseBytes > 0 {
		c.ahead = readAhead(c.sent.Context(), resp, c.t.MaxResponseBytes)
	}
}

// exchangeTimed makes one attempt within AttemptTimeout.
func (c *call) exchangeTimed() {
	ctx, cancel := context.WithCancelCause(c.sent.Context())
	timeout := &timeoutError{c.t.AttemptTimeout}
	number, replay := c.retries+1, c.replay // and not c, which would be on the heap
	timer := time.AfterFunc(c.t.AttemptTimeout, func() {
		cancel(timeout)
		if replay != nil {
			replay.interrupt(number, timeout)
		}
	})
	c.sent = c.sent.WithContext(ctx)
	c.receive(c.t.base().RoundTrip(c.sent))
	expired := !timer.Stop() && c.ctx.Err() == nil
	switch {
	case c.resp != nil && (c.ahead.whole() || !hasResponseBody(c.resp)):
		// All of it is here, in time or just so.
	case expired && c.err != nil:
		c.err = timeout
	case expired && c.ahead.broken() != nil:
		c.ahead.err = timeout
	case expired:
		// The response came just before the timeout, and its body went with it.
		closeResponse(c.resp)
		c.resp, c.err = nil, timeout
	case c.resp != nil:
		c.resp.Body = newTimedBody(c.resp.Body, cancel)
		return
	}
	cancel(nil)
}

// judge finds out what the outcome of the attempt means.
func (c *call) judge() {
	c.failure = c.err
	if c.err != nil && c.replay != nil && c.replay.failed() {
		c.verdict = Verdict{Outcome: Final} // the caller's body would fail again
		return
	}
	c.verdict = c.classify(c.resp, c.err)
	if broken := c.ahead.broken(); broken != nil && c.verdict.Outcome == Final {
		c.failure = broken
		c.verdict = c.classify(nil, broken)
	}
}

func (c *call) classify(resp *http.Response, err error) Verdict {
	classifier := c.t.Classifier
	if classifier == nil {
		classifier = DefaultClassifier
	}
	if !isDefault(classifier) { // which looks at no body
		defer c.takeBack(c.lend())
	}
	return classifier.Classify(c.req, resp, err)
}

// lend gives the response a body that may be read without taking anything
// from the caller. It returns the real one, for takeBack.
func (c *call) lend() (body io.ReadCloser) {
	if c.resp != nil {
		body, c.resp.Body = c.resp.Body, c.ahead.preview()
	}
	return body
}

func (c *call) takeBack(body io.ReadCloser) {
	if c.resp != nil {
		c.resp.Body = body
	}
}

// decide says what follows the attempt, also to OnAttempt.
func (c *call) decide() Decision {
	a := Attempt{Request: c.req, Response: c.resp, Number: c.retries + 1, Verdict: c.verdict, Delay: c.delay}
	if c.failure != nil {
		a.Response, a.Err = nil, c.failure
	}
	if !c.start.IsZero() {
		a.Elapsed = time.Since(c.start)
	}
	d := c.decision(a)
	if c.t.OnAttempt != nil {
		defer c.takeBack(c.lend())
		c.t.OnAttempt(a, d)
	}
	return d
}

func (c *call) decision(a Attempt) Decision {
	switch {
	case c.ctx.Err() != nil:
		return Decision{Reason: ReasonCanceled}
	case a.Verdict.Outcome != Rejected && a.Verdict.Outcome != Uncertain:
		return Decision{Reason: ReasonFinal}
	case a.Verdict.Outcome == Uncertain && !c.t.idempotent(c.req):
		return Decision{Reason: ReasonNotIdempotent}
	case !c.replayable() && !makesOneAttempt(c.policy):
		return Decision{Reason: ReasonNotReplayable}
	}
	delay, retry := c.backoff(a)
	if !retry {
		return Decision{Reason: ReasonPolicy}
	}
	delay = max(delay, 0)
	if deadline, ok := c.ctx.Deadline(); ok && delay >= time.Until(deadline) {
		return Decision{Reason: ReasonDeadline}
	}
	if c.replay == nil && hasBody(c.req) {
		next, err := c.req.GetBody()
		if err != nil {
			return Decision{Reason: ReasonNotReplayable}
		}
		c.next = next
	}
	if c.t.Budget != nil && !c.withdraw(a) {
		c.dropNext()
		return Decision{Reason: ReasonBudget}
	}
	return Decision{Retry: true, Delay: delay}
}

func (c *call) backoff(a Attempt) (time.Duration, bool) {
	defer c.takeBack(c.lend())
	return c.policy.Backoff(a)
}

func (c *call) withdraw(a Attempt) bool {
	defer c.takeBack(c.lend())
	return c.t.Budget.Withdraw(a)
}

// replayable reports whether the request body can be had again, as far as is
// known without calling GetBody.
func (c *call) replayable() bool {
	if c.replay != nil {
		return c.replay.hold()
	}
	return replaysItself(c.req)
}

// wait waits for the next attempt's time and prepares it. What the last one
// left is cleared away at once: many calls may wait, for long.
func (c *call) wait(delay time.Duration) error {
	c.retries++
	c.delay = delay
	resp := c.resp
	c.sent, c.resp, c.ahead = nil, nil, nil
	if c.replay != nil {
		c.replay.endAttempt()
	}
	if resp != nil {
		c.status = resp.StatusCode
	}
	if !pause(c.ctx, delay, resp) {
		return c.canceled()
	}
	c.prepare()
	return nil
}

// prepare makes the request of the next attempt.
func (c *call) prepare() {
	c.sent = newAttempt(c.ctx, c.req, c.retries+1)
	switch {
	case c.replay != nil:
		c.replay.next(c.sent)
	case hasBody(c.req):
		c.sent.Body, c.next = c.next, nil
	}
}

// canceled ends a call whose context is done while it waits.
func (c *call) canceled() error {
	c.over = true
	cause := context.Cause(c.ctx)
	if c.replay != nil {
		c.replay.settle(cause)
	}
	c.dropNext()
	if c.retries == 1 {
		return cause
	}
	e := &Error{Attempts: c.retries, Reason: ReasonCanceled, Err: cause, last: c.failure}
	if c.failure == nil {
		e.last = errors.New("HTTP status " + strconv.Itoa(c.status))
	}
	return e
}

// dropNext closes a body from GetBody that no attempt will send.
func (c *call) dropNext() {
	if c.next != nil {
		c.next.Close()
		c.next = nil
	}
}

// abandon closes what a call leaves behind when a hook, a classifier, a policy
// or Base panics. A server recovers from that, and goes on.
func (c *call) abandon() {
	if c.over {
		return
	}
	c.dropNext()
	if c.resp != nil {
		closeResponse(c.resp)
	}
	if c.replay != nil {
		c.replay.settle(errAttemptOver)
	}
}

// result ends the call with what the last attempt brought.
func (c *call) result(reason Reason) (*http.Response, error) {
	c.over = true
	if c.replay != nil {
		c.replay.settle(c.err)
	}
	if c.err != nil && c.retries > 0 {
		return nil, &Error{Attempts: c.retries + 1, Reason: reason, Err: c.err}
	}
	if c.t.ResumeDownloads && c.err == nil && c.ahead.broken() == nil && resumable(c.req, c.resp) {
		c.resp.Body = newDownload(c)
	}
	return c.resp, c.err
}
