package httpretry

import (
	"log/slog"
	"net/http"
)

// LogAttempts returns a function for [RetryTransport.OnAttempt] that logs to l:
//
//   - at Info each failed attempt that is followed by another, and a success
//     that took more than one attempt;
//   - at Warn a failure that could have passed, and why it is not retried;
//   - at Debug everything else.
//
// A record has the attributes method, url, attempt, status or error, and delay
// or reason. It holds no userinfo, query string or header value. If l is nil,
// [slog.Default] is asked at each record.
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
	case a.Verdict.Outcome != Final:
		return slog.LevelWarn, "attempt failed, not retrying"
	case a.Err == nil && a.Response.StatusCode < http.StatusBadRequest && a.Number > 1:
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
	if d.Retry {
		return append(as, slog.Duration("delay", d.Delay))
	}
	return append(as, slog.String("reason", string(d.Reason)))
}

func method(req *http.Request) string {
	if req.Method == "" {
		return http.MethodGet
	}
	return req.Method
}
