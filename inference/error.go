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

// An ErrorCategory says what kind of failure an [InferenceError] is, and with
// it what to do next.
type ErrorCategory string

const (
	// ErrCategoryRateLimit is for status 429.
	ErrCategoryRateLimit ErrorCategory = "RATE_LIMIT"

	// ErrCategoryServer is for status 5xx, a success that is not JSON, a
	// network failure, and a deadline or [HTTPInferenceClientConfig.Timeout]
	// that has passed.
	ErrCategoryServer ErrorCategory = "SERVER_ERROR"

	// ErrCategoryInvalidReq is for status 400, and for what is found to be
	// wrong before anything is sent.
	ErrCategoryInvalidReq ErrorCategory = "INVALID_REQ"

	// ErrCategoryAuth is for status 401 and 403.
	ErrCategoryAuth ErrorCategory = "AUTH_ERROR"

	// ErrCategoryUnknown is for every other status, for a cancelled request,
	// and for a success that is too large to read.
	ErrCategoryUnknown ErrorCategory = "UNKNOWN"
)

// An InferenceError is why there is no answer.
type InferenceError struct {
	Category ErrorCategory

	// Message says what happened, in a bounded length: "HTTP 429: …" with the
	// gateway's error message or else its body, "request cancelled", "request
	// timeout", "failed to execute request: …" or what is wrong with the
	// request.
	//
	// Gateways like to quote the request. Where Message passes on foreign
	// words, "[redacted]" stands in place of the API key, of the userinfo and
	// query of the BaseURL, and of every string in the request's messages,
	// prompt and suffix but the names of roles and types. So it does in place
	// of a part of these, if it has 16 bytes or more. Quotes are recognised as
	// they are and with any escapes of JSON, down to JSON within JSON within
	// JSON; what was encoded otherwise or reworded is not, nor a string of
	// less than 4 bytes. A user name, and a value in the query, of less than 8
	// bytes is hidden only together with the rest, and api-version not at all.
	Message string

	// RawError is what Message was made from: a [*StatusError] if the gateway
	// answered, an error of the network, a context's error; nil if there is
	// nothing behind it.
	RawError error
}

// Error returns the category and the message, "<nil>" for a nil e.
func (e *InferenceError) Error() string {
	if e == nil {
		return "<nil>"
	}
	return string(e.Category) + ": " + e.Message
}

// Unwrap returns e.RawError, so that [errors.Is] finds [context.Canceled] and
// [context.DeadlineExceeded] and [errors.As] finds a [*StatusError] or, when the
// last of several attempts ended without a response, an [*httpretry.Error].
// There is no such when it ended in the middle of a response's body: the retry
// layer has returned that response, and its body the error. It is nil for a
// nil e.
func (e *InferenceError) Unwrap() error {
	if e == nil {
		return nil
	}
	return e.RawError
}

// IsRetryable reports whether the same request may succeed later: true for
// [ErrCategoryRateLimit] and [ErrCategoryServer]. It goes by the category
// alone; [Classifier], which decides what is retried, knows more. It is false
// for a nil e.
func (e *InferenceError) IsRetryable() bool {
	return e != nil && (e.Category == ErrCategoryRateLimit || e.Category == ErrCategoryServer)
}

// A StatusError is the [InferenceError.RawError] of a response that is no
// answer.
type StatusError struct {
	// StatusCode is the response's, or that of the error that came with a
	// success.
	StatusCode int

	// Body is the response body as it came, at most its first 64 KiB. It is
	// not part of the error's text: it may quote the prompt. Of an event stream
	// it is the data of the event that failed it, or nil. It is nil for a body
	// of more than 16 MiB, and short for one that broke off.
	Body []byte
}

// Error returns the status, such as "HTTP 429 Too Many Requests".
func (e *StatusError) Error() string {
	if text := http.StatusText(e.StatusCode); text != "" {
		return fmt.Sprintf("HTTP %d %s", e.StatusCode, text)
	}
	return fmt.Sprintf("HTTP %d", e.StatusCode)
}

func statusError(category ErrorCategory, resp *http.Response, body []byte, text string) *InferenceError {
	if len(body) > maxFailureBytes {
		body = bytes.Clone(body[:maxFailureBytes]) // so that the rest need not stay in memory
	}
	return &InferenceError{
		Category: category,
		Message:  fmt.Sprintf("HTTP %d: %s", resp.StatusCode, text),
		RawError: &StatusError{StatusCode: resp.StatusCode, Body: body},
	}
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

// executeError is the error of a request that ended without a response.
func executeError(ctx context.Context, err error, s secrets) *InferenceError {
	if u, ok := err.(*url.Error); ok {
		err = u.Err // without the URL, whose query may be secret
	}
	done := ctx.Err()
	if done != nil && !errors.Is(err, done) {
		// The cause that a caller gave its context need not say which it was.
		err = fmt.Errorf("%w: %w", done, err)
	}
	raw := s.redactError(err)
	switch {
	case done == context.Canceled:
		return &InferenceError{ErrCategoryUnknown, "request cancelled", raw}
	case done != nil || isAttemptTimeout(err):
		return &InferenceError{ErrCategoryServer, "request timeout", raw}
	}
	return &InferenceError{ErrCategoryServer, "failed to execute request: " + raw.Error(), raw}
}

// isAttemptTimeout reports whether the gateway did not answer in time. The
// timeout of a single operation, such as connecting, is a network failure that
// says more about itself.
func isAttemptTimeout(err error) bool {
	var operation *net.OpError
	return errors.Is(err, context.DeadlineExceeded) && !errors.As(err, &operation)
}
