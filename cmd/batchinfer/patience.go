package main

import (
	"errors"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/inference"
)

// A patience is the [httpretry.Policy] of a run. Being asked to wait is not a
// failure, and a gateway that cannot be reached is not the fault of a request.
// Neither uses up the retries of a request.
type patience struct {
	retries       httpretry.RetryConfig
	maxRetryAfter time.Duration
	answers       func() int // so far, of the run
	crowded       func()     // called when this machine has no file for a connection
}

// maxOvertaken is the number of refusals of a request, and of answers to others since
// the first of them, after which the request is put off to the end of the run. Otherwise
// requests that are always refused, such as those for one model, would be all that is
// in flight.
const maxOvertaken = 8

// Backoff implements [httpretry.Policy].
func (p patience) Backoff(a httpretry.Attempt) (time.Duration, bool) {
	t := tallyOf(a.Request.Context())
	if isOutOfFiles(a.Err) {
		// The fault is this machine's, and passes when other requests end.
		t.excused++
		t.crowded++
		p.crowded()
		return min(time.Duration(min(t.crowded, maxCrowded))*p.retries.InitialBackoff, p.retries.MaxBackoff), true
	}
	if isRefusal(a) || isUnreachable(a) || isDenial(a) {
		t.excused++
		// No backoff of its own, in which the request would wait beside an idle
		// gateway: the gate and the Pacer know when it is the request's turn.
		asked := a.Verdict.RetryAfter
		t.overtaken = isRefusal(a) && p.isOvertaken(t)
		return asked, asked <= p.maxRetryAfter && !t.overtaken
	}
	a.Number -= t.excused
	return p.retries.Backoff(a)
}

// isOvertaken counts a refusal, and reports whether the gateway accepts other requests
// rather than this one.
func (p patience) isOvertaken(t *tally) bool {
	if t.refusals == 0 {
		t.answersBefore = p.answers()
	}
	t.refusals++
	return !t.again && t.refusals >= maxOvertaken && p.answers()-t.answersBefore >= maxOvertaken
}

// isRefusal reports whether the gateway only asked the request to wait: with a time
// to come back, or because of a rate.
func isRefusal(a httpretry.Attempt) bool {
	status := statusOf(a)
	if a.Verdict.Outcome != httpretry.Unprocessed || status == 0 {
		return false
	}
	return a.Verdict.RetryAfter > 0 || status == http.StatusTooManyRequests
}

// maxCrowded is the number of waits for a file of which each is longer than the previous
// one.
const maxCrowded = 10

// isOutOfFiles reports whether an attempt failed because this machine allows no more open
// files.
func isOutOfFiles(err error) bool {
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		return true
	}
	// A resolver that can't open its files or a socket returns a text only.
	dns, ok := errors.AsType[*net.DNSError](err)
	return ok && strings.Contains(dns.Err, syscall.EMFILE.Error())
}

// isDenial reports whether one of several gateways will not serve the request, such as
// for the key that it was sent. Another one may.
func isDenial(a httpretry.Attempt) bool {
	if a.Verdict.Outcome != httpretry.Uncertain || isRedirected(a) {
		return false
	}
	switch statusOf(a) {
	case http.StatusUnauthorized, http.StatusPaymentRequired, http.StatusForbidden, http.StatusNotFound, http.StatusTooManyRequests:
		return true
	}
	return false
}

// statusOf returns the status of an attempt's response, or 0 if there was none.
func statusOf(a httpretry.Attempt) int {
	if a.Response != nil {
		return a.Response.StatusCode
	}
	if status, ok := errors.AsType[*inference.StatusError](a.Err); ok {
		return status.StatusCode
	}
	return 0
}
