package httpretry

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// A Pacer limits how fast attempts are sent, for all calls that share it. It
// can delay every attempt, including the first of a call, and gets the result of each.
// Several transports may share a Pacer. An [AdaptivePacer] is a Pacer that finds the
// limits of a server by itself.
//
// A Pacer and a [Budget] complement each other. A Pacer delays attempts, and a
// Budget prevents retries.
//
// Its methods must be safe for concurrent use.
type Pacer interface {
	// Delay returns the time that Wait is expected to take for an attempt to
	// send req, or 0 if that is not known. It is called before a retry. A retry
	// that would be sent after the context's deadline is not made.
	Delay(req *http.Request) time.Duration

	// Wait waits until an attempt to send req may be made. It waits at least for
	// backoff, which is the wait that the Policy and the server require, and 0
	// for the first attempt of a call. [AttemptNumber] of ctx is the number of
	// the attempt. req is a copy without its body.
	//
	// Wait returns an error if ctx is done, or as soon as the attempt cannot be
	// made before the deadline of ctx. The call then ends with an [*Error] whose
	// Reason is "canceled" or "deadline".
	//
	// If err is nil and done is not, done is called once when the attempt has
	// ended, after the Classifier and before the Policy. A response has then been
	// received up to the end of its header or, with MaxResponseBytes, of its
	// buffered body. If the attempt was not sent because its body failed, or
	// ended with a panic, done is called with an Err and a Verdict that is
	// [Final].
	Wait(ctx context.Context, req *http.Request, backoff time.Duration) (done func(Attempt), err error)
}

// A lateError is the error of a wait that would end after the deadline.
type lateError struct {
	timeout
	wait time.Duration
}

func (e *lateError) Error() string {
	return fmt.Sprintf("httpretry: a wait of %v would end after the context's deadline", e.wait)
}
