package httpretry

import (
	"log/slog"
	"net/http"
)

// LogAttempts returns a function for [RetryTransport.OnAttempt] that logs to l:
//
//   - at Info, each failed attempt that will be retried, and each success after
//     more than one attempt;
//   - at Warn, each retryable failure that will not be retried, and each retry
//     whose request body could not be sent again;
//   - at Debug, all other attempts.
//
// A record has the attributes method, url, attempt and status or error. The record
// of a retry also has remote_addr and conn_reused, which are [Attempt.RemoteAddr]
// and [Attempt.ConnReused]. The record of a failure also has delay, the wait before
// the next attempt. If there is no next attempt, it has reason instead, and delay
// only if a wait was computed. Like [Error.Error], a record never includes
// userinfo, a query string, a header value or quoted text.
//
// If l is nil, [slog.Default] is used for each record.
func LogAttempts(l *slog.Logger) func(Attempt, Decision) {
	return func(a Attempt, d Decision) {
		l := l
		if l == nil {
			l = slog.Default()
		}
		ctx := a.Request.Context()
		level, msg := describe(a, d)
		if !l.Enabled(ctx, level) {
			return
		}
		l.LogAttrs(ctx, level, msg, attrs(a, d)...)
	}
}

func describe(a Attempt, d Decision) (slog.Level, string) {
	switch {
	case d.Retry:
		return slog.LevelInfo, "attempt failed, retrying"
	case a.Verdict.Outcome != Final, d.Reason == reasonNotReplayable:
		return slog.LevelWarn, "attempt failed, not retrying"
	case succeeded(a) && a.Number > 1:
		return slog.LevelInfo, "succeeded after retries"
	}
	return slog.LevelDebug, "attempt ended"
}

func attrs(a Attempt, d Decision) []slog.Attr {
	as := []slog.Attr{
		slog.String("method", method(a.Request)),
		slog.String("url", publicURL(a.Request.URL)),
		slog.Int("attempt", a.Number),
	}
	if a.Err != nil {
		as = append(as, slog.String("error", redacted(a.Err)))
	} else {
		as = append(as, slog.Int("status", a.Response.StatusCode))
	}
	if a.RemoteAddr != "" {
		as = append(as, slog.String("remote_addr", a.RemoteAddr), slog.Bool("conn_reused", a.ConnReused))
	}
	if succeeded(a) && !d.Retry {
		// A reason would read like a failure.
		return as
	}
	if d.Retry || d.Delay > 0 {
		as = append(as, slog.Duration("delay", d.Delay))
	}
	if !d.Retry {
		as = append(as, slog.String("reason", d.Reason))
	}
	return as
}

// succeeded reports whether a ended with a success. A Classifier may consider a
// response of any status a failure.
func succeeded(a Attempt) bool {
	return a.Verdict.Outcome == Final && a.Err == nil && a.Response.StatusCode < http.StatusBadRequest
}

func method(req *http.Request) string {
	if req.Method == "" {
		return http.MethodGet
	}
	return req.Method
}
