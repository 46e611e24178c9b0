package main

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/httpretry/httpretry"
)

// A tally describes the attempts of one request. It is a value in the context of
// the request, and is used by one goroutine at a time.
type tally struct {
	attempts int           // not counting redirects
	excused  int           // attempts whose failure does not count as a retry
	tooLong  time.Duration // the wait that the gateway asked for, if it was too long
	waited   time.Duration // for attempts
	paced    time.Duration // for one of several gateways
	sent     time.Time     // when the last attempt began
	again    bool          // the request was put off before
	final    bool          // the last attempt failed in a way that a retry would repeat
	failure  string        // the cause if the last attempt failed without a status
	live     *live         // may be nil

	refusals      int  // attempts that the gateway refused
	answersBefore int  // answers of the run at the first of them
	overtaken     bool // it was refused often while others were answered
	singled       int  // refusals, each after others had been answered
	goods         int  // of the gate, at the last refusal

	crowded int // attempts for which this machine had no file

	unavailable bool // an attempt got a 503 or the like, without a time to come back

	cancel context.CancelCauseFunc // ends the request; nil: not possible

	responded func(*http.Response) // called with each response; may be nil
}

// A live has counts that are updated while requests are in flight. It is safe
// for concurrent use.
type live struct {
	mu      sync.Mutex
	retries map[string]int // by cause
	retried int            // sum of retries
	waited  time.Duration  // sum of the waits between attempts
	failure string         // the cause of the last failure

	plain     bool // the gateway's URL begins with http:
	responded bool // the gateway has responded
}

// perhapsTLS is advice for a gateway that closes connections instead of responding, as
// some servers do to which http is spoken in place of https.
const perhapsTLS = "the gateway has never responded: check whether its URL must begin with https"

// hint returns advice about the last failure, or "".
func (l *live) hint() string {
	if l == nil {
		return ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	closed := l.failure == connectionClosed || l.failure == connectionReset
	if l.plain && !l.responded && closed {
		return perhapsTLS
	}
	return ""
}

func (l *live) respond() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.responded = true
}

func (l *live) note(failure string, retried bool) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failure = failure
	if !retried {
		return
	}
	if l.retries == nil {
		l.retries = make(map[string]int)
	}
	l.retries[failure]++
	l.retried++
}

// add adds the counts of a request that another machine has sent.
func (l *live) add(retries map[string]int, waited time.Duration) {
	l.wait(waited)
	if len(retries) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.retries == nil {
		l.retries = make(map[string]int)
	}
	for cause, n := range retries {
		l.retries[cause] += n
		l.retried += n
		l.failure = cause
	}
}

func (l *live) wait(d time.Duration) {
	if l == nil || d <= 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waited += d
}

// now returns the number of retries and the last failure.
func (l *live) now() (retries int, failure string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.retried, l.failure
}

// totals returns the retries by cause, and the sum of the waits.
func (l *live) totals() (retries map[string]int, waited time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.retries), l.waited
}

type tallyKey struct{}

func withTally(ctx context.Context, t *tally) context.Context {
	return context.WithValue(ctx, tallyKey{}, t)
}

// tallyOf returns the tally in ctx, or an unused one if there is none.
func tallyOf(ctx context.Context) *tally {
	if t, ok := ctx.Value(tallyKey{}).(*tally); ok {
		return t
	}
	return new(tally)
}

// countAttempt adds an attempt to the tally in its context. The client calls it
// after each attempt.
func countAttempt(a httpretry.Attempt, d httpretry.Decision) {
	t := tallyOf(a.Request.Context())
	// The request that follows a redirect is a call of its own, whose first
	// attempt has number 1.
	if a.Number > 1 || t.attempts == 0 {
		t.attempts++
	}
	if a.Response != nil && t.responded != nil && !isRedirected(a) {
		t.responded(a.Response)
	}
	if statusOf(a) > 0 {
		t.live.respond()
	}
	t.waited += a.Delay
	t.live.wait(a.Delay)
	t.final = d.Reason == "final"
	t.failure = ""
	if !d.Retry && a.Err == nil && a.Response.StatusCode < 400 {
		return
	}
	if statusOf(a) == 0 {
		t.failure = cause(a)
	}
	if d.Reason == "policy" && isRefusal(a) && !t.overtaken {
		t.tooLong = d.Delay
	}
	t.live.note(cause(a), d.Retry)
}

const (
	connectionReset  = "connection reset"
	connectionClosed = "connection closed"
)

// cause returns the cause of a failed attempt for the summary.
func cause(a httpretry.Attempt) string {
	if status := statusOf(a); status >= 400 {
		return "HTTP " + strconv.Itoa(status)
	}
	err := a.Err
	var timeout interface{ Timeout() bool }
	var dns *net.DNSError
	switch {
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case isOutOfFiles(err):
		return "too many open files"
	case errors.As(err, &dns):
		return "name not resolved"
	case isCertificateError(err):
		return "certificate"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return connectionReset
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "body truncated"
	case errors.Is(err, io.EOF):
		return connectionClosed
	case statusOf(a) > 0:
		return "HTTP " + strconv.Itoa(statusOf(a)) + " without an answer"
	}
	return "other network failure"
}
