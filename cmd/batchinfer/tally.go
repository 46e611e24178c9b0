package main

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/httpretry/httpretry"
)

// A tally counts the attempts of one request. It is a value in the context of
// the request.
type tally struct {
	attempts int           // not counting redirects
	waited   time.Duration // between attempts
	causes   []string      // one for each retry
	live     *live         // may be nil
}

// A live has counts that are updated while requests are in flight. It is safe
// for concurrent use.
type live struct {
	mu      sync.Mutex
	retries int
	failure string // the cause of the last failure
}

func (l *live) note(failure string, retried bool) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failure = failure
	if retried {
		l.retries++
	}
}

// now returns the number of retries and the last failure.
func (l *live) now() (retries int, failure string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.retries, l.failure
}

type tallyKey struct{}

func withTally(ctx context.Context, t *tally) context.Context {
	return context.WithValue(ctx, tallyKey{}, t)
}

// countAttempt adds an attempt to the tally in its context. The client calls it
// after each attempt.
func countAttempt(a httpretry.Attempt, d httpretry.Decision) {
	t, ok := a.Request.Context().Value(tallyKey{}).(*tally)
	if !ok {
		return
	}
	// The request that follows a redirect is a call of its own, whose first
	// attempt has number 1.
	if a.Number > 1 || t.attempts == 0 {
		t.attempts++
	}
	t.waited += a.Delay
	if !d.Retry && a.Err == nil && a.Response.StatusCode < 400 {
		return
	}
	why := cause(a)
	t.live.note(why, d.Retry)
	if d.Retry {
		t.causes = append(t.causes, why)
	}
}

// cause returns the cause of a failed attempt for the summary.
func cause(a httpretry.Attempt) string {
	if a.Response != nil && a.Response.StatusCode >= 400 {
		return "HTTP " + strconv.Itoa(a.Response.StatusCode)
	}
	err := a.Err
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
	case errors.Is(err, io.EOF):
		return "connection closed"
	}
	return "other network failure"
}
