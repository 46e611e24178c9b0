package httpretry

import (
	"context"
	"time"
)

// A contextValue is the value of this package in a context. It serves both Override
// and AttemptNumber, so that a call needs one lookup.
type contextValue struct {
	override func(*RetryTransport) // nil: there is none
	attempt  int                   // 0: the context belongs to no attempt
	silent   time.Time             // if an attempt before timed out at the same server: since when; else zero
}

type contextKey struct{}

var noValue contextValue

// valueOf returns the value in ctx, which must not be modified.
func valueOf(ctx context.Context) *contextValue {
	if v, ok := ctx.Value(contextKey{}).(*contextValue); ok {
		return v
	}
	return &noValue
}

// Override returns a context that changes the settings of its requests. A
// [RetryTransport] sends such a request with a copy of itself that change has
// modified: with another Policy, a longer AttemptTimeout or, if change sets Policy
// to [Never], without retries.
//
// change is called once for each call of RoundTrip, and must be safe for
// concurrent use. An override that ctx already has is applied first. The
// override applies to each RetryTransport that handles the request, so change
// must not set Base to another RetryTransport. A nil change leaves ctx
// unchanged.
func Override(ctx context.Context, change func(*RetryTransport)) context.Context {
	if change == nil {
		return ctx
	}
	v := *valueOf(ctx)
	if outer := v.override; outer != nil {
		v.override = func(t *RetryTransport) {
			outer(t)
			change(t)
		}
	} else {
		v.override = change
	}
	return context.WithValue(ctx, contextKey{}, &v)
}

// overridden returns a copy of t that change has modified.
func (t *RetryTransport) overridden(change func(*RetryTransport)) *RetryTransport {
	modified := *t
	change(&modified)
	return &modified
}

// AttemptNumber returns the number of the attempt that ctx belongs to: 1 for
// the first attempt, 2 for the first retry. Middleware below a [RetryTransport]
// calls it with the context of the request that it is given.
//
// Called with the context of Response.Request, it returns the number of
// attempts that the call took to get that response.
//
// It returns 1 for a context without an attempt number.
func AttemptNumber(ctx context.Context) int {
	return max(valueOf(ctx).attempt, 1)
}
