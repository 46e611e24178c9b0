package inference

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/internal/redact"
)

// maxMessageBytes limits the text from the gateway in a message.
const maxMessageBytes = 1024

// redact returns the beginning of text without secrets.
func (x *exchange) redact(text string) string {
	return x.redactor.Text(x.ctx, text, maxMessageBytes, x.request)
}

// redactError returns err without secrets in its text, and in those of the errors
// that it wraps, including the secrets in the URL of a failed request that
// middleware made.
func (x *exchange) redactError(err error) error {
	if err == context.Canceled || err == context.DeadlineExceeded {
		return err // the most common ones once ctx is done
	}
	secrets := x.redactor
	if other, ok := errors.AsType[*url.Error](err); ok {
		if u, parseErr := url.Parse(other.URL); parseErr == nil {
			secrets = secrets.With(u)
		}
	}
	// All texts together, since comparing them with a long prompt takes time.
	const separator = "\x00\n\x00"
	texts := appendTexts(nil, err, 0)
	redacted := strings.Split(secrets.Text(x.ctx, strings.Join(texts, separator), maxFailureBytes, x.request), separator)
	r := make(redactor)
	for i, text := range texts {
		r[text] = redact.Mark
		if len(redacted) == len(texts) {
			r[text] = redacted[i]
		}
	}
	if r.isSafe(err) && len(err.Error()) <= maxMessageBytes {
		return err
	}
	return r.wrap(err)
}

// appendTexts appends the text of err and of each error that it wraps. A text may
// omit parts of those below it.
func appendTexts(texts []string, err error, depth int) []string {
	if err == nil || depth == maxErrorDepth {
		return texts
	}
	texts = append(texts, err.Error())
	for _, cause := range unwrap(err) {
		texts = appendTexts(texts, cause, depth+1)
	}
	return texts
}

// maxErrorDepth limits recursion, since an error may wrap itself.
const maxErrorDepth = 100

// unwrap returns the errors that err holds.
func unwrap(err error) []error {
	switch e := err.(type) {
	case *httpretry.Error:
		return []error{e.Err, e.Last}
	case interface{ Unwrap() error }:
		return []error{e.Unwrap()}
	case interface{ Unwrap() []error }:
		return e.Unwrap()
	}
	return nil
}

// A redactor maps the texts of errors to those without secrets.
type redactor map[string]string

// isSafe reports whether neither err nor an error that it wraps has a secret in its
// text.
func (r redactor) isSafe(err error) bool {
	return !slices.ContainsFunc(appendTexts(nil, err, 0), func(text string) bool { return r[text] != text })
}

// wrap returns a redactedError for err, or nil if err is nil.
func (r redactor) wrap(err error) error {
	if err == nil {
		return nil
	}
	text := r[err.Error()]
	if len(text) > maxMessageBytes {
		text = strings.ToValidUTF8(text[:maxMessageBytes]+"…", "\uFFFD")
	}
	timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return &redactedError{
		text:    text,
		is:      func(target error) bool { return errors.Is(err, target) },
		safe:    r.appendSafe(nil, err, 0),
		timeout: ok && timeout.Timeout(),
	}
}

// appendSafe appends the errors that err wraps and that have no secret. Of an
// [*httpretry.Error] it appends a copy without secrets.
func (r redactor) appendSafe(safe []error, err error, depth int) []error {
	if err == nil || depth == maxErrorDepth {
		return safe
	}
	if r.isSafe(err) {
		return append(safe, err)
	}
	if e, ok := err.(*httpretry.Error); ok {
		return append(safe, &httpretry.Error{Attempts: e.Attempts, Reason: e.Reason, Err: r.wrap(e.Err), Last: r.wrap(e.Last)})
	}
	for _, cause := range unwrap(err) {
		safe = r.appendSafe(safe, cause, depth+1)
	}
	return safe
}

// A redactedError replaces an error whose text, or that of an error that it wraps,
// has a secret. It holds the original only in a func, so that package fmt does not
// print it.
type redactedError struct {
	text    string
	is      func(target error) bool // errors.Is of the original
	safe    []error                 // the errors without secrets that the original wraps
	timeout bool
}

func (e *redactedError) Error() string { return e.text }

// Is reports whether the original is target.
func (e *redactedError) Is(target error) bool { return e.is(target) }

// As finds target among the errors without secrets.
func (e *redactedError) As(target any) bool {
	return slices.ContainsFunc(e.safe, func(err error) bool { return errors.As(err, target) })
}

// Timeout reports whether the original is a timeout.
func (e *redactedError) Timeout() bool { return e.timeout }

// Temporary makes it a [net.Error], together with Timeout.
func (e *redactedError) Temporary() bool { return e.timeout }
