package httpretry

import "context"

type overrideKey struct{}

// Override returns a context whose requests are sent with a copy of the
// RetryTransport that change has modified: with another Policy, a longer
// AttemptTimeout or, if change sets Policy to [Never], without retries.
//
// change is called once for each call of RoundTrip, and must be safe for
// concurrent use. If ctx already has an override, that is applied first. If
// several RetryTransports handle a request, each is overridden. A nil change
// leaves ctx unchanged.
func Override(ctx context.Context, change func(*RetryTransport)) context.Context {
	if change == nil {
		return ctx
	}
	all := change
	if outer, ok := ctx.Value(overrideKey{}).(func(*RetryTransport)); ok {
		all = func(t *RetryTransport) {
			outer(t)
			change(t)
		}
	}
	return context.WithValue(ctx, overrideKey{}, all)
}

// overridden returns t, or the copy of it that ctx asks for.
func (t *RetryTransport) overridden(ctx context.Context) *RetryTransport {
	change, ok := ctx.Value(overrideKey{}).(func(*RetryTransport))
	if !ok {
		return t
	}
	modified := *t
	change(&modified)
	return &modified
}

type attemptKey struct{}

// withAttemptNumber returns ctx as the context of attempt n. A first attempt
// needs a value only below another RetryTransport, whose number it would
// inherit.
func withAttemptNumber(ctx context.Context, n int) context.Context {
	if n == AttemptNumber(ctx) {
		return ctx
	}
	return context.WithValue(ctx, attemptKey{}, n)
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
	if n, ok := ctx.Value(attemptKey{}).(int); ok {
		return n
	}
	return 1
}
