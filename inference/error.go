package inference

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
)

// An ErrorCategory classifies an [InferenceError]. An error in a 2xx response has the
// category of the status that the API documents for it, or of a 500 if it documents
// none.
type ErrorCategory string

const (
	// ErrCategoryRateLimit is for status 429.
	ErrCategoryRateLimit ErrorCategory = "RATE_LIMIT"

	// ErrCategoryServer is for status 5xx, a 2xx response with neither an answer nor
	// an error, a network failure, and an exceeded deadline or
	// [HTTPInferenceClientConfig.Timeout].
	ErrCategoryServer ErrorCategory = "SERVER_ERROR"

	// ErrCategoryInvalidReq is for status 400, and for requests found to be
	// invalid before they are sent.
	ErrCategoryInvalidReq ErrorCategory = "INVALID_REQ"

	// ErrCategoryAuth is for status 401 and 403.
	ErrCategoryAuth ErrorCategory = "AUTH_ERROR"

	// ErrCategoryUnknown is for every other status, for a canceled request, and
	// for a 2xx response of more than 16 MiB.
	ErrCategoryUnknown ErrorCategory = "UNKNOWN"
)

// An InferenceError describes why a request failed.
type InferenceError struct {
	Category ErrorCategory

	// Message describes the failure: "HTTP 429: …" with the API's error message
	// or else the body, "request cancelled", "request timeout", "failed to
	// execute request: …", or the fault of the request. It has at most 1 KiB of
	// text from the gateway.
	//
	// Gateways often quote the request. In text that comes from the gateway,
	// "[redacted]" replaces the API key, the userinfo and query of each gateway's
	// URL, the values of each Header, and every string in the request's messages,
	// prompt, suffix, input, instructions, query, documents, text_1 and text_2 (other
	// than role and type names), as well as any part of these of 16 bytes or more.
	// Quotations are recognized verbatim and with JSON escapes, nested up to three
	// levels. Paraphrases, other encodings, strings of the prompt shorter than 4 bytes,
	// header values shorter than 8 bytes and the query parameter api-version are not
	// redacted. A user name shorter than 8 bytes is redacted only within the userinfo,
	// and a query value shorter than 8 bytes only with the name of its parameter. If
	// the context is done, and the request is larger than 256 KiB, "[redacted]" may
	// replace all text from the gateway.
	Message string

	// RawError is the underlying error: a [*StatusError] if the gateway
	// responded, a [*StreamError] if a stream failed after its first content, a
	// network error, a context error, or nil. Secrets are redacted in its text and
	// in that of every error that it wraps.
	RawError error
}

// Error returns the category and the message. For a nil e it returns "<nil>".
func (e *InferenceError) Error() string {
	if e == nil {
		return "<nil>"
	}
	return string(e.Category) + ": " + e.Message
}

// Unwrap returns e.RawError, so that [errors.Is] finds [context.Canceled] and
// [context.DeadlineExceeded], and [errors.As] finds a [*StatusError] or, if the
// last of several attempts got no response, an [*httpretry.Error]. It returns nil
// for a nil e.
func (e *InferenceError) Unwrap() error {
	if e == nil {
		return nil
	}
	return e.RawError
}

// IsRetryable reports whether the same request may succeed later. It is true for
// [ErrCategoryRateLimit] and [ErrCategoryServer]. It considers only the category.
// [Classifier], which decides about retries, considers more. It is false for a
// nil e.
func (e *InferenceError) IsRetryable() bool {
	return e != nil && (e.Category == ErrCategoryRateLimit || e.Category == ErrCategoryServer)
}

// A StatusError is the [InferenceError.RawError] of a response without an answer.
type StatusError struct {
	// StatusCode is the response's status, or the status for an error found in a
	// 2xx response.
	StatusCode int

	// Body is the response body without a byte order mark, at most its first 64
	// KiB. It is not part of the error's text, because it may quote the prompt or
	// the API key. For an event stream it is the data of the failing event. If there
	// is no such event, Stream leaves it nil, and Generate sets it to the bytes
	// received. It is nil if the body exceeds 16 MiB, and incomplete if reading it
	// failed.
	Body []byte
}

// newStatusError returns a StatusError with the beginning of body.
func newStatusError(status int, body []byte) *StatusError {
	if len(body) > maxFailureBytes {
		body = bytes.Clone(body[:maxFailureBytes]) // releases the rest
	}
	return &StatusError{StatusCode: status, Body: body}
}

// Error returns the status, such as "HTTP 429 Too Many Requests".
func (e *StatusError) Error() string {
	if text := http.StatusText(e.StatusCode); text != "" {
		return fmt.Sprintf("HTTP %d %s", e.StatusCode, text)
	}
	return fmt.Sprintf("HTTP %d", e.StatusCode)
}

func statusCategory(code int) ErrorCategory {
	switch {
	case code == http.StatusTooManyRequests:
		return ErrCategoryRateLimit
	case code >= 500:
		return ErrCategoryServer
	case code == http.StatusBadRequest:
		return ErrCategoryInvalidReq
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return ErrCategoryAuth
	}
	return ErrCategoryUnknown
}

func invalidRequest(message string, err error) *InferenceError {
	return &InferenceError{Category: ErrCategoryInvalidReq, Message: message, RawError: err}
}

// failed returns the error for f.
func (x *exchange) failed(f *failure) *InferenceError {
	return &InferenceError{
		Category: f.category,
		Message:  fmt.Sprintf("HTTP %d: %s", f.status, x.redact(f.text)),
		RawError: f.cause,
	}
}

// statusFailure returns the error for a response that is not a 2xx.
func (x *exchange) statusFailure(resp *http.Response) *InferenceError {
	switch {
	case x.err == errResponseTooLarge:
		return &InferenceError{
			Category: statusCategory(resp.StatusCode),
			Message:  fmt.Sprintf("HTTP %d: %s", resp.StatusCode, x.err),
			RawError: newStatusError(resp.StatusCode, nil),
		}
	case x.ctx.Err() != nil && x.err != nil:
		return x.executeError(x.err)
	}
	text := failureText(resp.StatusCode, x.body, parseAPIErrors(unframed(x.body)))
	return &InferenceError{
		Category: statusCategory(resp.StatusCode),
		Message:  fmt.Sprintf("HTTP %d: %s", resp.StatusCode, x.redact(text)),
		RawError: newStatusError(resp.StatusCode, x.body),
	}
}

// executeError returns the error for a call that ended without a response.
func (x *exchange) executeError(err error) *InferenceError {
	if u, ok := err.(*url.Error); ok {
		err = u.Err // without the URL, whose query may be secret
	}
	done := x.ctx.Err()
	if f, ok := errors.AsType[*failure](err); ok && done == nil {
		return x.failed(f)
	}
	if x.err != nil && done == nil {
		err = x.err // reading the body failed, which says more than the attempts
	}
	if done != nil && !errors.Is(err, done) {
		// A cause of the caller's need not match ctx.Err().
		err = fmt.Errorf("%w: %w", done, err)
	}
	raw := x.redactError(err)
	switch {
	case done == context.Canceled:
		return &InferenceError{ErrCategoryUnknown, "request cancelled", raw}
	case done != nil || isAttemptTimeout(err):
		return &InferenceError{ErrCategoryServer, "request timeout", raw}
	}
	return &InferenceError{ErrCategoryServer, "failed to execute request: " + raw.Error(), raw}
}

// isAttemptTimeout reports whether err is the timeout of an attempt. Timeouts of
// single operations, such as dialing, are reported as network failures, with more
// detail.
func isAttemptTimeout(err error) bool {
	_, operation := errors.AsType[*net.OpError](err)
	return errors.Is(err, context.DeadlineExceeded) && !operation
}
