// Package route connects a RoundTripper that chooses a server for each attempt with
// the RetryTransport above it.
//
// The RoundTripper attaches a [Choice] to the outcome of an attempt: to the context
// of Response.Request, or to the error, which implements Choice or wraps an error
// that does. RetryTransport asks the Choice whether a retry must wait, and passes it
// to the next attempt.
package route

import (
	"context"
	"errors"
	"time"
)

// A Choice is the server to which an attempt was sent. Its methods are called after
// the attempt.
type Choice interface {
	// Next returns the time until a server accepts another attempt of the same
	// call. other reports whether a server that the call has not tried accepts one
	// now.
	Next() (wait time.Duration, other bool)

	// Unreached reports whether the attempt failed before the request was sent
	// because of the server's name, address or certificate. Another server may
	// then succeed, whatever the error.
	Unreached() bool
}

// ErrElsewhere is reported to a Pacer as the error of an attempt if another server
// accepts the next attempt.
var ErrElsewhere = errors.New("httpretry: another server accepts the attempt")

// ErrNotSent is reported to a Pacer as the error of an attempt that it has permitted, and
// that is not made.
var ErrNotSent = errors.New("httpretry: the attempt was not made")

// A Previous describes the attempt before the current one to the RoundTripper.
type Previous struct {
	Choice   Choice // nil: there was none
	Resuming bool   // the attempt requests the rest of a response of that server
}

// A Timer limits the duration of an attempt.
type Timer interface {
	// Pause stops the timer. It reports false if the timer has fired, is paused,
	// or belongs to an attempt that has ended.
	Pause() bool

	// Resume continues after a Pause that has reported true.
	Resume()
}

type (
	choiceKey   struct{}
	previousKey struct{}
	timerKey    struct{}
)

// WithTimer returns a context for an attempt that t limits.
func WithTimer(ctx context.Context, t Timer) context.Context {
	return context.WithValue(ctx, timerKey{}, t)
}

// Pause pauses the Timer in the context of an attempt, if there is one, until
// resume is called.
func Pause(ctx context.Context) (resume func()) {
	t, ok := ctx.Value(timerKey{}).(Timer)
	if !ok || !t.Pause() {
		return func() {}
	}
	return t.Resume
}

// WithChoice returns a context for Response.Request.
func WithChoice(ctx context.Context, c Choice) context.Context {
	return context.WithValue(ctx, choiceKey{}, c)
}

// ChoiceOf returns the Choice in the context of Response.Request, or nil.
func ChoiceOf(ctx context.Context) Choice {
	c, _ := ctx.Value(choiceKey{}).(Choice)
	return c
}

// WithPrevious returns a context for the attempt after p.
func WithPrevious(ctx context.Context, p Previous) context.Context {
	return context.WithValue(ctx, previousKey{}, p)
}

// PreviousOf returns the Previous in the context of an attempt, or the zero value.
func PreviousOf(ctx context.Context) Previous {
	p, _ := ctx.Value(previousKey{}).(Previous)
	return p
}
