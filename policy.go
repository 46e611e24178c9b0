package httpretry

import (
	"fmt"
	"math"
	"math/rand/v2"
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

// Never is the policy that makes one attempt. With it, no request body is
// recorded.
var Never = never{}

type never struct{}

func (never) Backoff(Attempt) (time.Duration, bool) { return 0, false }

// neverRetries reports whether p is known never to retry.
func neverRetries(p Policy) bool {
	switch p := p.(type) {
	case RetryConfig:
		return p.MaxRetries < 0
	case *RetryConfig:
		return p.MaxRetries < 0
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
	if a.Number > c.maxRetries() {
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

func (c RetryConfig) maxRetries() int {
	if c.MaxRetries == 0 {
		return 3
	}
	return c.MaxRetries
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
