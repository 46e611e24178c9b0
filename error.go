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
	"unicode"
)

const prefix = "httpretry: "

// An Error is the error of a call whose last retry failed, or whose wait for an
// attempt was cut short because the context was done or a [Pacer] would have
// exceeded the deadline. A retry whose request body cannot be replayed has
// failed, too. An Error unwraps to Err, and is a [net.Error].
//
// If a call ends with its only attempt, the error of that attempt is returned
// unchanged. If a call ends with a response, the response is returned whatever its
// status.
type Error struct {
	// Attempts is the number of attempts that were made. It is 0 if the wait for
	// the first one, which a [Pacer] required, was cut short.
	Attempts int

	// Reason states why no further attempt was made, as [Decision.Reason] does.
	Reason string

	// Err is the error of the last attempt or, if a wait was cut short, the
	// cause given by the context or the error of the Pacer.
	Err error

	// Last is the last failure of the server or the connection, after which a
	// wait was cut short or the request body could not be sent again. For a
	// response, it states the status. If there was no such failure, it is nil.
	Last error
}

// Error describes the number of attempts, the reason and the last failure.
//
// It includes no userinfo, query string or header value that net/http puts into
// an error. Since net/http quotes the bytes that it received, quoted text is
// replaced with "…", and URLs are reduced to scheme, host and path. Other text in
// the errors of middleware is unchanged. Err and Last have the full texts.
func (e *Error) Error() string {
	attempts := "attempts"
	if e.Attempts == 1 {
		attempts = "attempt"
	}
	text := fmt.Sprintf("gave up after %d %s (%s): %s", e.Attempts, attempts, e.Reason, redacted(e.Err))
	if e.Last != nil {
		text += "; last failure: " + redacted(e.Last)
	}
	// An error of this package has the prefix too, and may be wrapped.
	return prefix + strings.ReplaceAll(text, prefix, "")
}

// Unwrap returns e.Err.
func (e *Error) Unwrap() error { return e.Err }

// Timeout reports whether Err is or wraps a timeout. [url.Error.Timeout], which
// does not unwrap errors, calls it.
func (e *Error) Timeout() bool { return isTimeout(e.Err) }

// Temporary reports whether Err is or wraps a temporary error. It exists to
// implement [net.Error], where it is deprecated.
func (e *Error) Temporary() bool { return isTemporary(e.Err) }

func isTimeout(err error) bool {
	return anyError(err, 0, func(err error) bool {
		t, ok := err.(interface{ Timeout() bool })
		return ok && t.Timeout()
	})
}

func isTemporary(err error) bool {
	return anyError(err, 0, func(err error) bool {
		t, ok := err.(interface{ Temporary() bool })
		return ok && t.Temporary()
	})
}

// anyError reports whether is returns true for err or an error that it wraps.
// [errors.As] would stop at the first error that has the method, although its
// result may ignore the errors that it wraps.
func anyError(err error, depth int, is func(error) bool) bool {
	if err == nil || isNilPointer(err) || depth > maxErrorDepth {
		return false
	}
	return is(err) || slices.ContainsFunc(unwrap(err), func(err error) bool { return anyError(err, depth+1, is) })
}

var (
	errNoResponse     = errors.New("httpretry: Base returned neither a response nor an error")
	errAttemptOver    = errors.New("httpretry: read of the request body of an attempt that has ended")
	errBodyClosed     = errors.New("httpretry: read of a closed request body")
	errNotReplayable  = errors.New("httpretry: request body cannot be replayed")
	errNilBody        = errors.New("GetBody returned no body")
	errSourcePanicked = errors.New("httpretry: Read of the request body panicked")
	errPanicked       = errors.New("httpretry: attempt panicked")
	errInvalidCount   = errors.New("httpretry: request body returned an invalid count from Read")
)

// A replayError is the error of an attempt that was not sent, because there was
// no copy of the request body to send.
type replayError struct{ err error }

func (e *replayError) Error() string {
	return "httpretry: request body cannot be replayed: " + e.err.Error()
}

func (e *replayError) Unwrap() error { return e.err }

// A timeout is the part that the timeouts of this package have in common. Timeout
// and Temporary make them a [net.Error]. Is makes them match
// [context.DeadlineExceeded], as the timeouts of net/http do.
type timeout struct{}

func (timeout) Timeout() bool        { return true }
func (timeout) Temporary() bool      { return true }
func (timeout) Is(target error) bool { return target == context.DeadlineExceeded }

// A timeoutError is the error of an attempt that exceeded AttemptTimeout.
type timeoutError struct {
	timeout
	limit time.Duration
	begun time.Time // when the attempt began
}

func (e *timeoutError) Error() string {
	return fmt.Sprintf("httpretry: attempt timed out after %v", e.limit)
}

// redacted returns the text of err without secrets.
//
// net/http and the packages below it repeat bytes of the peer, of headers and of
// proxy settings only in quotes, as in `malformed HTTP response "…"`. Therefore
// all quoted text is removed. Text from another package may have a single quote
// mark, after which quoted and unquoted text could not be distinguished, so the
// text between two quotations is removed too. The URL of a [url.Error] is replaced
// with its public part first.
func redacted(err error) string {
	if err == nil {
		return "no error"
	}
	text := err.Error()
	anyError(err, 0, func(err error) bool {
		if u, ok := err.(*url.Error); ok && u.URL != "" {
			public := redactedURL(u.URL)
			text = strings.NewReplacer(strconv.Quote(u.URL), public, u.URL, public).Replace(text)
		}
		return false
	})
	return redactWords(withholdQuoted(withholdQuoted(text, '"'), '`'))
}

// withholdQuoted replaces the text from the first quote to the last, or to the
// end if there is one quote, because the text was cut off there.
func withholdQuoted(text string, quote byte) string {
	first, last := strings.IndexByte(text, quote), strings.LastIndexByte(text, quote)
	switch {
	case first < 0:
		return text
	case first == last:
		last = len(text) - 1
	}
	return text[:first] + `"…"` + text[last+1:]
}

// redactWords reduces each word of text that is a URL, or a part of one, to its
// public part.
func redactWords(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		end := strings.IndexFunc(text, unicode.IsSpace)
		if end < 0 {
			end = len(text)
		}
		b.WriteString(redactWord(text[:end]))
		text = text[end:]
		space := len(text) - len(strings.TrimLeftFunc(text, unicode.IsSpace))
		b.WriteString(text[:space])
		text = text[space:]
	}
	return b.String()
}

func redactWord(word string) string {
	if colon := strings.Index(word, "://"); colon >= 0 {
		start := len(strings.TrimRightFunc(word[:colon], isSchemeChar))
		end := len(strings.TrimRight(word, ".,:;)}"))
		return word[:start] + redactedURL(word[start:max(start, end)]) + word[max(start, end):]
	}
	if at := strings.LastIndexByte(word, '@'); at >= 0 {
		word = "…" + word[at:]
	}
	if query := strings.IndexByte(word, '?'); query >= 0 && query+1 < len(word) {
		word = word[:query] + "?…"
	}
	return word
}

// isSchemeChar reports whether r may occur in the scheme of a URL (RFC 3986,
// section 3.1).
func isSchemeChar(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("+-.", r)
}

// redactedURL returns rawURL without userinfo, query and fragment.
func redactedURL(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "(invalid URL)"
	}
	return publicURL(u)
}

// publicURL returns u without userinfo, query and fragment.
func publicURL(u *url.URL) string {
	if u == nil {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
}
