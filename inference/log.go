package inference

import (
	"log/slog"

	"github.com/httpretry/httpretry"
)

// levelRetry is klog's V(3): the bridge turns the verbosity n into level -n.
const levelRetry = slog.Level(-3)

// onAttempt is what the retry layer calls after each attempt.
func (c HTTPInferenceClientConfig) onAttempt() func(httpretry.Attempt, httpretry.Decision) {
	if c.Logger == nil {
		return c.OnAttempt
	}
	return func(a httpretry.Attempt, d httpretry.Decision) {
		c.log(a, d)
		if c.OnAttempt != nil {
			c.OnAttempt(a, d)
		}
	}
}

func (c HTTPInferenceClientConfig) log(a httpretry.Attempt, d httpretry.Decision) {
	ctx := a.Request.Context()
	if !c.Logger.Enabled(ctx, levelRetry) {
		return
	}
	id := slog.String("request_id", a.Request.Header.Get(requestIDHeader))
	attempt, limit := slog.Int("attempt", a.Number), slog.Int("max", c.MaxRetries+1)
	switch {
	case d.Retry:
		c.Logger.LogAttrs(ctx, levelRetry, "inference attempt failed, retrying",
			id, slog.Duration("delay", d.Delay), attempt, limit, slog.String("category", string(attemptCategory(a))))
	case a.Number > 1 && succeeded(a):
		c.Logger.LogAttrs(ctx, levelRetry, "inference request succeeded after retries", id, attempt, limit)
	}
}

func succeeded(a httpretry.Attempt) bool { return a.Err == nil && a.Response.StatusCode/100 == 2 }

// attemptCategory is the category of a failed attempt.
func attemptCategory(a httpretry.Attempt) ErrorCategory {
	if a.Err != nil {
		return ErrCategoryServer
	}
	return statusCategory(a.Response.StatusCode)
}
