package httpretry

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"time"
)

// An Attempt describes an attempt that has ended, with a response or an error.
//
// Its Request and Response are copies, which a hook may retain. Modifying them,
// or reading the body of the response, has no effect on the call.
type Attempt struct {
	// Request is a copy of the caller's request, without its body.
	Request *http.Request

	// Response is a copy of the response, or nil if Err is not nil. Its Body
	// has the bytes that [RetryTransport.MaxResponseBytes] allowed to be
	// buffered, and is empty otherwise.
	Response *http.Response

	// Err is the error of the attempt, or nil if there is a response.
	Err error

	// Number is 1 for the first attempt and 2 for the first retry. If a resumed
	// download fails after new bytes, Number starts again at 1.
	Number int

	// Verdict is the result of [RetryTransport.Classifier].
	Verdict Verdict

	// Elapsed is the time since RoundTrip was called or, if a resumed download
	// fails after new bytes, since that failure.
	Elapsed time.Duration

	// Delay is the time that RetryTransport waited before this attempt. For the
	// first attempt it is the time that [RetryTransport.Pacer] required.
	Delay time.Duration

	// RemoteAddr is the network address of the peer of the attempt's
	// connection, which may be a proxy. It is set from the first retry on, if
	// [RetryTransport.OnAttempt] is set and Base supports
	// [net/http/httptrace]. It is empty if the attempt had no connection.
	RemoteAddr string

	// ConnReused reports whether an earlier request used that connection.
	ConnReused bool
}

// A Decision states whether an [Attempt] is followed by another one.
type Decision struct {
	// Retry reports whether another attempt follows.
	Retry bool

	// Delay is the wait before that attempt, which [RetryTransport.Pacer] may
	// prolong. If Retry is false, it is the wait that would have been necessary,
	// or 0 if none was computed.
	Delay time.Duration

	// Reason states why no attempt follows. It is empty if Retry is true, and
	// otherwise one of these values, which are checked in this order:
	//
	//   - "canceled": the caller's context is done, and the attempt failed;
	//   - "final": the attempt succeeded, or failed permanently;
	//   - "not_idempotent": the request was possibly processed and is not
	//     idempotent;
	//   - "not_replayable": the request body cannot be sent again;
	//   - "policy": the policy allows no further attempt, or the server asked for
	//     too long a wait;
	//   - "deadline": the wait would end after the context's deadline;
	//   - "budget": the budget allows no further retry.
	//
	// The first that applies is reported, with three exceptions. A response
	// that is [Final] gives "final" even if the context is done. A retry whose
	// request body fails gives "not_replayable". A Policy known never to retry
	// gives "policy" even if the body cannot be replayed.
	//
	// It can be used as the value of a metric label.
	Reason string
}

// The values of Decision.Reason.
const (
	reasonCanceled      = "canceled"
	reasonFinal         = "final"
	reasonNotIdempotent = "not_idempotent"
	reasonNotReplayable = "not_replayable"
	reasonPolicy        = "policy"
	reasonDeadline      = "deadline"
	reasonBudget        = "budget"
)

// A Summary describes a call that has ended.
//
// Its Request and Response are copies without bodies, which a hook may retain.
type Summary struct {
	// Request is a copy of the caller's request.
	Request *http.Request

	// Response is a copy of the response that the call returned, or nil.
	Response *http.Response

	// Err is the error that the call returned or, for a resumed download, the
	// error of the caller's last Read. It is nil after a success.
	Err error

	// Attempts is the number of attempts that were made. It is 0 if no attempt was
	// made, because the context was done or Pacer would have exceeded its
	// deadline.
	Attempts int

	// Reason states why the call made no further attempt, as [Decision.Reason]
	// does.
	Reason string

	// Elapsed is the duration of the call, including all waits and, for a
	// resumed download, the caller's reading of the body.
	Elapsed time.Duration
}

// requestForHooks returns a copy of req that a hook may modify. It has no
// Trailer, because the source of the body may be filling it.
func requestForHooks(req *http.Request) *http.Request {
	r := req.WithContext(req.Context())
	r.GetBody, r.Trailer = nil, nil
	if hasBody(req) {
		r.Body = http.NoBody
	}
	return r.Clone(req.Context())
}

// responseForHooks returns a copy of resp whose body consists of preview.
func responseForHooks(resp *http.Response, req *http.Request, preview []byte) *http.Response {
	r := new(http.Response)
	*r = *resp
	r.Request = req
	r.Header = resp.Header.Clone()
	r.Trailer = resp.Trailer.Clone()
	r.TransferEncoding = slices.Clone(resp.TransferEncoding)
	if resp.TLS != nil {
		r.TLS = new(*resp.TLS)
	}
	r.Body = http.NoBody
	if len(preview) > 0 {
		r.Body = io.NopCloser(bytes.NewReader(preview))
	}
	return r
}
