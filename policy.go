package httpretry

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/httpretry/httpretry/internal/jitter"
)

// A Policy decides whether a failed attempt is retried, and how long to wait
// first.
//
// It is consulted only if [RetryTransport.Classifier] found the failure
// retryable and the request and its body can be sent again. After it, only a
// wait of more than 60 seconds that the server asked for, the context's
// deadline and the [Budget] can prevent the retry. A Policy must be safe for
// concurrent use.
type Policy interface {
	// Backoff returns how long to wait after attempt a, and whether to retry
	// at all. A negative delay counts as 0. If retry is false, delay may be the
	// wait that was too long. [Decision.Delay] reports it.
	//
	// RetryTransport waits at least for a.Verdict.RetryAfter, the wait that the
	// server asked for. If that is longer than delay and longer than 60 seconds,
	// there is no retry. A Policy can ignore the context's deadline, because a
	// wait that would outlast it is not begun.
	Backoff(a Attempt) (delay time.Duration, retry bool)
}

// Never is a [Policy] that never retries. With it, request bodies are not
// buffered.
var Never = never{}

type never struct{}

// Backoff returns 0, false.
func (never) Backoff(Attempt) (time.Duration, bool) { return 0, false }

// neverRetries reports whether p, which is not a nil *RetryConfig, is known never
// to retry.
func neverRetries(p Policy) bool {
	switch p := p.(type) {
	case never:
		return true
	case RetryConfig:
		return p.MaxRetries < 0
	case *RetryConfig:
		return p.MaxRetries < 0
	}
	return false
}

// A RetryConfig is a [Policy] of exponential backoff. The wait before retry n,
// counted from 0, is
//
//	min(InitialBackoff × BackoffFactor^n, MaxBackoff) × (1 ± JitterFraction)
//
// If the server asks for a longer wait, that is used instead. A wait that
// jitter would make shorter than the server asked for is lengthened instead: if
// the server asked for 10 s, 9 s becomes 11 s. Clients thus spread out without
// retrying too soon.
//
// A zero field has the default that its documentation states. An invalid value
// counts as zero, so that a mistake never shortens a wait;
// [RetryConfig.Validate] reports it.
type RetryConfig struct {
	// MaxRetries is the maximum number of retries. If zero, it is 3. If
	// negative, there are no retries.
	MaxRetries int

	// InitialBackoff is the wait before the first retry. If zero, it is 1
	// second.
	InitialBackoff time.Duration

	// MaxBackoff limits the wait before jitter. If zero, it is 60 seconds.
	MaxBackoff time.Duration

	// BackoffFactor multiplies the wait from each retry to the next. It must
	// be at least 1. If zero, it is 2.
	BackoffFactor float64

	// JitterFraction is the fraction, at most 1, by which a wait is randomly
	// lengthened or shortened. If zero, it is 0.1. If negative, there is no
	// jitter.
	JitterFraction float64

	// Jitter, if not nil, is used instead of JitterFraction to vary the wait, so
	// that clients that failed together do not retry together. It is called with
	// the backoff or, if that is longer, the wait that the server asked for, and
	// with the wait before the failed attempt, which is [Attempt.Delay]. The
	// result is the wait, unless it is shorter than the server asked for; see
	// RetryConfig. A negative result counts as 0. Jitter must be safe for
	// concurrent use.
	//
	// The algorithms and names of [FullJitter], [EqualJitter] and
	// [DecorrelatedJitter] are from Marc Brooker, "Exponential Backoff And
	// Jitter", AWS Architecture Blog, 2015.
	Jitter func(backoff, previous time.Duration) time.Duration

	// MaxElapsed limits how long after the start of the call a retry may start,
	// unless [RetryTransport.Pacer] delays it further. If zero, there is no
	// limit.
	MaxElapsed time.Duration

	// MaxRetryAfter is the longest wait that the server may ask for. If it
	// asks for more, there is no retry, and the caller can read Retry-After
	// from the response. If zero, it is MaxBackoff.
	MaxRetryAfter time.Duration
}

const (
	defaultMaxRetries     = 3
	defaultInitialBackoff = time.Second
	defaultMaxBackoff     = 60 * time.Second
	defaultBackoffFactor  = 2
	defaultJitterFraction = 0.1
)

// Backoff implements [Policy]. If MaxElapsed or MaxRetryAfter prevents a retry,
// it returns the wait that was too long.
func (c RetryConfig) Backoff(a Attempt) (delay time.Duration, retry bool) {
	if a.Number > c.maxRetries() {
		return 0, false
	}
	asked := a.Verdict.RetryAfter
	if asked > c.maxRetryAfter() {
		return asked, false
	}
	delay = max(asked, c.exponential(a.Number-1))
	delay = spreadUp(asked, c.jittered(delay, a.Delay))
	// The difference cannot overflow, unlike the sum of Elapsed and delay.
	return delay, c.MaxElapsed <= 0 || delay <= c.MaxElapsed-a.Elapsed
}

// exponential returns the wait before retry n, without jitter.
func (c RetryConfig) exponential(n int) time.Duration {
	limit := c.maxBackoff()
	// In floating point an overflow is +Inf, which exceeds every limit.
	d := float64(c.initialBackoff()) * math.Pow(c.backoffFactor(), float64(n))
	if d >= float64(limit) {
		return limit
	}
	return time.Duration(d)
}

func (c RetryConfig) maxRetries() int {
	if c.MaxRetries != 0 {
		return c.MaxRetries
	}
	return defaultMaxRetries
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
		return max(c.JitterFraction, 0)
	}
	return defaultJitterFraction
}

func (c RetryConfig) maxRetryAfter() time.Duration {
	if c.MaxRetryAfter > 0 {
		return c.MaxRetryAfter
	}
	return c.maxBackoff()
}

// Validate returns an error that describes the first invalid field, or nil if
// all fields are valid. The zero RetryConfig is valid.
func (c RetryConfig) Validate() error {
	const notNegative = "must not be negative"
	switch {
	case c.InitialBackoff < 0:
		return invalid("InitialBackoff", c.InitialBackoff, notNegative)
	case c.MaxBackoff < 0:
		return invalid("MaxBackoff", c.MaxBackoff, notNegative)
	case math.IsInf(c.BackoffFactor, 1):
		return invalid("BackoffFactor", c.BackoffFactor, "must be finite")
	case c.BackoffFactor != 0 && !validFactor(c.BackoffFactor):
		return invalid("BackoffFactor", c.BackoffFactor, "must be at least 1")
	case !validFraction(c.JitterFraction):
		return invalid("JitterFraction", c.JitterFraction, "must be at most 1")
	case c.MaxElapsed < 0:
		return invalid("MaxElapsed", c.MaxElapsed, notNegative)
	case c.MaxRetryAfter < 0:
		return invalid("MaxRetryAfter", c.MaxRetryAfter, notNegative)
	}
	return nil
}

// Both comparisons are false for NaN.
func validFactor(f float64) bool { return f >= 1 && f <= math.MaxFloat64 }

func validFraction(f float64) bool { return f <= 1 }

func invalid(field string, value any, must string) error {
	return fmt.Errorf("httpretry: invalid %s %v: %s", field, value, must)
}
