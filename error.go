package httpretry

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An Error is what [RetryTransport.RoundTrip] returns when more than one
// attempt was made and there is no response to return: the last attempt brought
// none, or the wait after it was cut short. [errors.Is] and [errors.As] see
// through it.
//
// An error after a single attempt comes back as it is, and so does every
// response, whatever its status.
type Error struct {
	// Attempts is how many attempts were made, at least 2.
	Attempts int

	// Reason says why there was no other.
	Reason Reason

	// Err is the error of the last attempt; or, when a wait was cut short,
	// the cause that the caller's context gave.
	Err error

	Last error // the last attempt's failure, if Err is something else
}

var errNoResponse = errors.New("httpretry: Base returned neither a response nor an error")

// A timeoutError is the error of an attempt that took longer than
// AttemptTimeout.
type timeoutError struct{ limit time.Duration }

func (e *timeoutError) Error() string {
	return fmt.Sprintf("httpretry: attempt took longer than its timeout of %v", e.limit)
}

func (e *timeoutError) Timeout() bool { return true }

// Temporary makes it a [net.Error].
func (e *timeoutError) Temporary() bool { return true }

// Is makes it match what a context's own timeout gives.
func (e *timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// Error names the number of attempts, the reason and the last failure. It
// holds no userinfo, query string or header value of the request.
func (e *Error) Error() string {
	text := fmt.Sprintf("httpretry: gave up after %d attempts (%s): %s", e.Attempts, e.Reason, redacted(e.Err))
	if e.Last != nil {
		text += "; the last attempt: " + redacted(e.Last)
	}
	return text
}

// Unwrap returns e.Err.
func (e *Error) Unwrap() error { return e.Err }

// Temporary makes it a [net.Error], together with Timeout.
func (e *Error) Temporary() bool { return e.Timeout() }

// Timeout reports whether Err is, or wraps, a timeout. It is what
// [net/url.Error] asks, which asserts the method and does not unwrap.
func (e *Error) Timeout() bool { return isTimeout(e.Err, 0) }

func isTimeout(err error, depth int) bool {
	// An error in between may have the method and not know better.
	if t, ok := err.(interface{ Timeout() bool }); ok && !isNilPointer(err) && t.Timeout() {
		return true
	}
	if depth == maxErrorDepth {
		return false
	}
	return slices.ContainsFunc(unwrap(err), func(err error) bool { return isTimeout(err, depth+1) })
}

// redacted is err's text without what any [url.Error] in it tells of userinfo
// and query.
func redacted(err error) string {
	if err == nil {
		return "no error"
	}
	return redact(err.Error(), err, 0)
}

func redact(text string, err error, depth int) string {
	if u, ok := err.(*url.Error); ok && u != nil && u.URL != "" {
		public := redactedURL(u.URL)
		quoted := strconv.Quote(u.URL) // as its own text has it
		text = strings.NewReplacer(u.URL, public, quoted[1:len(quoted)-1], public).Replace(text)
	}
	if depth == maxErrorDepth {
		return text
	}
	for _, cause := range unwrap(err) {
		text = redact(text, cause, depth+1)
	}
	return text
}

// redactedURL is rawURL without userinfo, query and fragment.
func redactedURL(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "(URL withheld)"
	}
	return publicURL(u)
}

// publicURL is u without userinfo, query and fragment.
func publicURL(u *url.URL) string {
	if u == nil {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
}
