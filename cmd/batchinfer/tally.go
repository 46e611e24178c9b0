package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"github.com/httpretry/httpretry"
)

// A tally counts what one request goes through. It travels in the context of
// the request.
type tally struct {
	attempts int
	waited   time.Duration // between attempts
	causes   []string      // of each retry
}

type tallyKey struct{}

func withTally(ctx context.Context, t *tally) context.Context {
	return context.WithValue(ctx, tallyKey{}, t)
}

// countAttempt is what the client calls after each attempt.
func countAttempt(a httpretry.Attempt, d httpretry.Decision) {
	t, ok := a.Request.Context().Value(tallyKey{}).(*tally)
	if !ok {
		return
	}
	t.attempts++
	t.waited += a.Delay
	if d.Retry {
		t.causes = append(t.causes, cause(a))
	}
}

// cause names what made an attempt fail, in words for a summary.
func cause(a httpretry.Attempt) string {
	if a.Response != nil && a.Response.StatusCode >= 400 {
		return "HTTP " + strconv.Itoa(a.Response.StatusCode)
	}
	err := a.Err
	if err == nil {
		// A success that is tried again is one whose body broke off: reading
		// it tells how.
		_, err = io.Copy(io.Discard, a.Response.Body)
	}
	var timeout interface{ Timeout() bool }
	var dns *net.DNSError
	switch {
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.As(err, &dns):
		return "name not resolved"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "body truncated"
	case errors.Is(err, io.EOF), errors.Is(err, http.ErrServerClosed):
		return "connection closed"
	}
	return "other network failure"
}
