package httpretry

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/httpretry/httpretry/internal/jitter"
)

// A Policy decides whether a failed attempt is followed by another, and when.
//
// It is asked after the [Classifier] found that trying again may help, and after
// it is known that the request may be sent again and that its body can be; only
// the context's deadline and the [Budget] come after it. Backoff is called from
// many goroutines at once.
type Policy interface {
	// Backoff returns how long to wait before the attempt after a, and
	// whether to make it at all. A negative delay counts as 0.
	//
	// The wait that the server asked for is in a.Verdict.RetryAfter; a policy
	// that ignores it comes back too early. The context's deadline is not the
	// policy's concern: a wait that would end after it is not begun.
	Backoff(a Attempt) (delay time.Duration, retry bool)
}

// PolicyFunc lets a function be a [Policy].
type PolicyFunc func(Attempt) (time.Duration, bool)

// Backoff calls f.
func (f PolicyFunc) Backoff(a Attempt) (time.Duration, bool) { return f(a) }

// DefaultPolicy is the policy of a [RetryTransport] that has none. It must not
// be changed while requests are under way.
var DefaultPolicy Policy = RetryConfig{MaxRetries: 3}

// Never is the policy that makes one attempt. With it, no request body is
// recorded.
var Never Policy = never{}

type never struct{}

func (never) Backoff(Attempt) (time.Duration, bool) { return 0, false }

// looksAtElapsed reports whether p may want to know Attempt.Elapsed.
func looksAtElapsed(p Policy) bool {
	switch p := p.(type) { // copies the config once, and the form with ", ok" twice
	case RetryConfig:
		return p.MaxElapsed > 0
	case never:
		return false
	}
	return true
}

// makesOneAttempt reports whether p is known never to retry.
func makesOneAttempt(p Policy) bool {
	switch p := p.(type) {
	case RetryConfig:
		return p.MaxRetries <= 0
	case *RetryConfig:
		return p.MaxRetries <= 0
	case never:
		return true
	}
	return false
}

// RetryConfig is exponential backoff: the wait before retry n, counted from 0, is
//
//	min(InitialBackoff × BackoffFactor^n, MaxBackoff) × (1 ± JitterFraction)
//
// A longer wait that the server asked for takes its place. Jitter that would
// make a wait shorter than was asked makes it longer by as much, so that
// clients spread out without coming back too early.
//
// The zero value never retries; every other zero field has the default that
// it names. A field with an impossible value counts as zero, so that a mistake
// never shortens a wait; [RetryConfig.Validate] finds it.
type RetryConfig struct {
	// MaxRetries is the number of retries after the first attempt.
	// If zero, none.
	MaxRetries int

	// InitialBackoff is the wait before the first retry. If zero, 1 s.
	InitialBackoff time.Duration

	// MaxBackoff bounds the wait before jitter. If zero, 60 s.
	MaxBackoff time.Duration

	// BackoffFactor multiplies the wait from each retry to the next. It is
	// at least 1. If zero, 2.
	BackoffFactor float64

	// JitterFraction is how much longer or shorter than computed a wait may
	// be, from 0 to 1. If zero, 0.1; for no jitter at all, set Jitter to
	// [None]().
	JitterFraction float64

	// Jitter, if not nil, is used in place of JitterFraction.
	Jitter Jitter

	// MaxElapsed is how long after the start of the first attempt a retry
	// may still start. If zero, there is no such limit.
	MaxElapsed time.Duration

	// MaxRetryAfter is the longest wait that a server may ask for. If it
	// asks for more, there is no retry: the caller gets the response at
	// once and can read from it when to come back. If zero, MaxBackoff.
	MaxRetryAfter time.Duration
}

const (
	defaultInitialBackoff = time.Second
	defaultMaxBackoff     = 60 * time.Second
	defaultBackoffFactor  = 2
	defaultJitterFraction = 0.1
)

// Backoff implements [Policy].
func (c RetryConfig) Backoff(a Attempt) (time.Duration, bool) {
	if a.Number > c.MaxRetries {
		return 0, false
	}
	asked := a.Verdict.RetryAfter
	if asked > c.maxRetryAfter() {
		return 0, false
	}
	delay := max(asked, c.exponential(a.Number-1))
	delay = spreadUp(asked, c.jittered(delay, a.Delay))
	if c.MaxElapsed > 0 && delay > c.MaxElapsed-a.Elapsed {
		return 0, false
	}
	return delay, true
}

// exponential returns the wait before retry n, without jitter.
func (c RetryConfig) exponential(n int) time.Duration {
	limit := c.maxBackoff()
	// In floating point an overflow is +Inf, which the limit takes care of.
	d := float64(c.initialBackoff()) * math.Pow(c.backoffFactor(), float64(n))
	if d >= float64(limit) {
		return limit
	}
	return time.Duration(d)
}

func (c RetryConfig) initialBackoff() time.Duration {
	if c.InitialBackoff > 0 {
		return c.InitialBackoff
	}
	return defaultInitialBackoff
}

func (c RetryConfig) maxBackoff() time.Duration {
	if c.MaxBackoff > 0 {
		return c.MaxBackoff
	}
	return defaultMaxBackoff
}

func (c RetryConfig) backoffFactor() float64 {
	if validFactor(c.BackoffFactor) {
		return c.BackoffFactor
	}
	return defaultBackoffFactor
}

func (c RetryConfig) jittered(backoff, previous time.Duration) time.Duration {
	if c.Jitter != nil {
		return c.Jitter(backoff, previous)
	}
	return jitter.Proportional(backoff, c.jitterFraction(), rand.Float64())
}

func (c RetryConfig) jitterFraction() float64 {
	if c.JitterFraction != 0 && validFraction(c.JitterFraction) {
		return c.JitterFraction
	}
	return defaultJitterFraction
}

func (c RetryConfig) maxRetryAfter() time.Duration {
	if c.MaxRetryAfter > 0 {
		return c.MaxRetryAfter
	}
	return c.maxBackoff()
}

// Validate returns an error that names the first field with an impossible
// value, the value, and what it must be. It is nil for the zero value.
func (c RetryConfig) Validate() error {
	switch {
	case c.MaxRetries < 0:
		return invalid("MaxRetries", c.MaxRetries, "at least 0")
	case c.InitialBackoff < 0:
		return invalid("InitialBackoff", c.InitialBackoff, "at least 0")
	case c.MaxBackoff < 0:
		return invalid("MaxBackoff", c.MaxBackoff, "at least 0")
	case c.BackoffFactor != 0 && !validFactor(c.BackoffFactor):
		return invalid("BackoffFactor", c.BackoffFactor, "a number that is at least 1, or 0 for the default")
	case !validFraction(c.JitterFraction):
		return invalid("JitterFraction", c.JitterFraction, "from 0 to 1")
	case c.MaxElapsed < 0:
		return invalid("MaxElapsed", c.MaxElapsed, "at least 0")
	case c.MaxRetryAfter < 0:
		return invalid("MaxRetryAfter", c.MaxRetryAfter, "at least 0")
	}
	return nil
}

// Both are false for NaN.
func validFactor(f float64) bool { return f >= 1 && f <= math.MaxFloat64 }

func validFraction(f float64) bool { return f >= 0 && f <= 1 }

func invalid(field string, value any, must string) error {
	return fmt.Errorf("httpretry: %s is %v: it must be %s", field, value, must)
}

// An Attempt is one attempt that has come to its end: a response or an error.
type Attempt struct {
	// Request is the caller's request. It must not be modified.
	Request *http.Request

	// Response is what came back, nil if Err is not. It must not be
	// modified, kept or closed. Its Body holds what
	// [RetryTransport.MaxResponseBytes] allowed to be read ahead, and
	// nothing without it; reading it takes nothing from the caller.
	Response *http.Response

	// Err is why there is no response, nil if there is one.
	Err error

	// Number is 1 for the first attempt, 2 for the first retry. In a download
	// that goes on, the attempt that broke off after new bytes is 1 again.
	Number int

	// Verdict is what the [Classifier] made of the outcome.
	Verdict Verdict

	// Elapsed is the time since RoundTrip was called; in a download that goes
	// on, since it last broke off after new bytes.
	Elapsed time.Duration

	// Delay is how long the layer waited before this attempt; 0 for the first.
	Delay time.Duration
}

// A Decision is what follows an [Attempt].
type Decision struct {
	Retry  bool          // another attempt is made
	Delay  time.Duration // after this wait
	Reason Reason        // why no other attempt is made; "" when one is
}

// A Reason says why no attempt follows. The checks are made in the order of
// the constants; the first that holds is the reason. There are two exceptions.
// A GetBody that fails gives [ReasonNotReplayable], and is called only after the
// deadline was checked. A policy that is known never to retry gives
// [ReasonPolicy] also where the body can't be had again: nothing was recorded.
type Reason string

const (
	ReasonCanceled      Reason = "canceled"            // the caller's context is done
	ReasonFinal         Reason = "final"               // success, or a failure that trying again won't change
	ReasonNotIdempotent Reason = "not idempotent"      // the request may have been processed, and must not be twice
	ReasonNotReplayable Reason = "body not replayable" // the request body can't be had again
	ReasonPolicy        Reason = "policy"              // the policy wants no further attempt
	ReasonDeadline      Reason = "deadline"            // the wait would end after the context's deadline
	ReasonBudget        Reason = "budget"              // all requests together have retried enough
)

type policyKey struct{}

// contextPolicies is set once WithPolicy has been called: until then no
// request's context needs to be searched, which is half of what an attempt
// that succeeds costs.
var contextPolicies atomic.Bool

// WithPolicy returns a context that makes p the policy of the requests that
// carry it, in place of the transport's own. [Never] turns retries off. A nil
// p leaves ctx as it is.
func WithPolicy(ctx context.Context, p Policy) context.Context {
	if p == nil {
		return ctx
	}
	contextPolicies.Store(true)
	return context.WithValue(ctx, policyKey{}, p)
}

// policyFrom returns the policy that ctx carries, fallback if there is none.
func policyFrom(ctx context.Context, fallback Policy) Policy {
	if p, ok := ctx.Value(policyKey{}).(Policy); ok {
		return p
	}
	return fallback
}

// A retryContext is the context of the request of an attempt after the first.
type retryContext struct {
	context.Context // the caller's
	number          int
}

// newAttempt returns a copy of req for the attempt with that number.
func newAttempt(ctx context.Context, req *http.Request, number int) *http.Request {
	// In one place to save an allocation, and not in the context: those who
	// print that want to see no header.
	a := &struct {
		ctx retryContext
		req http.Request
	}{ctx: retryContext{ctx, number}}
	a.req = *req.WithContext(&a.ctx)
	return &a.req
}

type attemptKey struct{}

// Value implements [context.Context].
func (c *retryContext) Value(key any) any {
	if key == (attemptKey{}) {
		return c.number
	}
	return c.Context.Value(key)
}

// AttemptNumber returns the number of the attempt that a request's context
// belongs to: 1 on the first, 2 on the first retry. Middleware below a
// [RetryTransport] uses it to label what it sends. It is 1 for a context that
// no RetryTransport has made.
//
// A first attempt keeps the caller's context. If that is itself of an attempt
// of another RetryTransport, as when one sits below another, the number is that
// one's.
func AttemptNumber(ctx context.Context) int {
	if n, ok := ctx.Value(attemptKey{}).(int); ok {
		return n
	}
	return 1
}
