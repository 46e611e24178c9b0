package inference

import (
	"errors"
	"log/slog"
	"slices"

	"github.com/httpretry/httpretry"
)

// levelRetry corresponds to klog's V(3): logr maps verbosity n to level -n.
const levelRetry = slog.Level(-3)

// onAttempt returns the RetryTransport's OnAttempt.
func (c HTTPInferenceClientConfig) onAttempt() func(httpretry.Attempt, httpretry.Decision) {
	if c.Logger == nil {
		return c.OnAttempt
	}
	return func(a httpretry.Attempt, d httpretry.Decision) {
		if c.OnAttempt != nil {
			c.OnAttempt(a, d) // first, so that it may prepare attributes for the Logger
		}
		c.log(a, d)
	}
}

func (c HTTPInferenceClientConfig) log(a httpretry.Attempt, d httpretry.Decision) {
	ctx := a.Request.Context()
	if !c.Logger.Enabled(ctx, levelRetry) {
		return
	}
	id := slog.String("request_id", a.Request.Header.Get(requestIDHeader))
	limit := slog.Int("max", c.MaxRetries)
	switch {
	case d.Retry: // the retry that follows attempt n is the nth
		attrs := []slog.Attr{id, slog.Duration("delay", d.Delay), slog.Int("attempt", a.Number), limit,
			slog.String("category", string(attemptCategory(a)))}
		if status := attemptStatus(a); status > 0 {
			attrs = slices.Insert(attrs, 0, slog.Int("status", status))
		}
		c.Logger.LogAttrs(ctx, levelRetry, "inference attempt failed, retrying", attrs...)
	case a.Number > 1 && a.Err == nil && a.Response.StatusCode/100 == 2:
		c.Logger.LogAttrs(ctx, levelRetry, "inference request succeeded after retries", id,
			slog.Int("attempt", a.Number-1), limit)
	}
}

// attemptCategory returns the category of a failed attempt.
func attemptCategory(a httpretry.Attempt) ErrorCategory {
	if a.Err == nil {
		return statusCategory(a.Response.StatusCode)
	}
	if f, ok := errors.AsType[*failure](a.Err); ok {
		return f.category
	}
	return ErrCategoryServer
}

// attemptStatus returns the status of a failed attempt, which for an error in a 2xx
// response is that of the error, or 0 if there was no response.
func attemptStatus(a httpretry.Attempt) int {
	if a.Err == nil {
		return a.Response.StatusCode
	}
	if f, ok := errors.AsType[*failure](a.Err); ok {
		return f.status
	}
	return 0
}
