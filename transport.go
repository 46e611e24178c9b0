// Package httpretry provides an [http.RoundTripper], [RetryTransport], that
// wraps another RoundTripper and retries failed requests.
//
//	client := &http.Client{Transport: &httpretry.RetryTransport{}}
//
// By default a request is retried up to three times, after about 1, 2 and 4
// seconds, or later if the server sends a Retry-After header.
// [DefaultClassifier] decides which failures are retried, [IsIdempotent]
// decides which requests may be resent when the server may already have
// processed them, and [RetryConfig] decides how long to wait.
//
// The zero RetryTransport sends a GET unchanged. If the first attempt succeeds,
// it returns the response unchanged and allocates nothing. The same holds for a
// request with a body whose GetBody was set by [http.NewRequest].
//
// Other fields of RetryTransport detect bodies that stall (IdleTimeout), resume
// downloads (ResumeDownloads), and limit the attempts (Pacer) and the retries
// (Budget) of all calls together. Package failover provides a Base that sends
// requests to several servers.
package httpretry

import (
	"context"
	"net/http"
	"time"
)

// RetryTransport is an [http.RoundTripper] that sends requests using another
// RoundTripper and retries those that fail for reasons that may be transient.
// It can be used as the Transport of any [http.Client], including an SDK's, or
// between other RoundTrippers. The RoundTripper it wraps sees every attempt;
// its caller sees a single call.
//
// The zero value is ready to use. A RetryTransport is safe for concurrent use
// by multiple goroutines. Its fields must not be modified while requests are in
// progress.
//
// It honors the contract of http.RoundTripper. The caller's request is not
// modified, and its body is closed exactly once. If the last attempt ends with a
// 503, the caller gets that 503 with its body. The error of a call's only attempt,
// or of a context that is done before it, is returned unchanged. Any other error
// is an [*Error]. If a wait for a retry is cut short, RoundTrip returns an
// *Error, even if the attempt before it ended with a response.
//
// An [http.Client] calls RoundTrip for every hop of a redirect, so each hop has
// its own retries.
type RetryTransport struct {
	// Base is the RoundTripper used for each attempt. If it is an
	// [http.Transport], a retry after a timeout does not use the same
	// connection again; see [FreshConnections].
	// If nil, [http.DefaultTransport] is used.
	Base http.RoundTripper

	// Policy decides whether to retry and how long to wait first.
	// If nil, RetryConfig{} is used. [Override] replaces it for one request.
	Policy Policy

	// Classifier decides whether the outcome of an attempt is retryable. Exactly
	// one of resp and err is not nil. With MaxResponseBytes, if reading the
	// response body fails, Classifier is called with the response and, if it
	// returns [Final], again with the read error.
	//
	// resp.Body is a copy of the buffered part of the body. It is empty if
	// nothing was buffered. Classifier may read it, but must not retain or
	// otherwise modify its arguments. It must be safe for concurrent use. A
	// decision that depends on the number of the attempt belongs in Policy.
	//
	// If nil, [DefaultClassifier] is used.
	Classifier func(req *http.Request, resp *http.Response, err error) Verdict

	// Idempotent reports whether it is safe for the server to process a
	// request more than once. It is called after an attempt whose outcome is
	// [Uncertain], and before the first attempt of a request that has a body
	// but no GetBody: RetryTransport adds a GetBody only to idempotent
	// requests, because [http.Transport] may resend any request that has one.
	// It is given a copy of the request and must be safe for concurrent use.
	// If nil, [IsIdempotent] is used.
	Idempotent func(*http.Request) bool

	// Budget limits the total number of retries across all requests; see
	// [TokenBudget] and [PerHost]. It may be shared between transports.
	// If nil, retries are not limited.
	Budget Budget

	// Pacer limits how fast attempts are sent, across all requests; see
	// [AdaptivePacer]. It can delay every attempt, including the first of a call.
	// AttemptTimeout begins after the delay. A retry waits for the Pacer and for
	// its backoff at the same time. It may be shared between transports.
	// If nil, attempts are not delayed.
	Pacer Pacer

	// MaxReplayBytes is the maximum number of bytes to buffer of a request
	// body that can be read only once, so that it can be replayed. The body is
	// buffered while the first attempt sends it. If it exceeds the limit, the
	// buffer is dropped, the attempt continues, and the request is not retried.
	// The limit applies neither to requests with a GetBody nor to a body that is
	// an [*os.File] of a regular file, which is read again from its current
	// offset.
	// If zero, the limit is 1 MiB. If negative, bodies are not buffered.
	MaxReplayBytes int64

	// MaxResponseBytes, if positive, makes reading the response body part of
	// the attempt: an error while reading it counts as a failed attempt, and
	// Classifier, Policy and OnAttempt can read Response.Body. Bodies of up to
	// this many bytes are buffered before RoundTrip returns. Larger bodies are
	// streamed, and event streams (text/event-stream), tunnels and upgraded
	// connections are never buffered. Error responses are buffered too. A slow one
	// delays the retry, for up to AttemptTimeout if that is set.
	//
	// If the body of the last attempt fails, the caller gets the response; its
	// body returns the bytes that were received and then the error.
	// If zero or negative, bodies are streamed, and their errors are not
	// retried.
	MaxResponseBytes int64

	// AttemptTimeout is the maximum duration of one attempt, up to the end of
	// the response header or, with MaxResponseBytes, of the buffered body. It
	// does not limit the caller's reading of the body. An attempt that exceeds
	// it fails with a timeout error that matches [context.DeadlineExceeded];
	// DefaultClassifier considers it [Uncertain].
	// If zero or negative, attempts have no timeout of their own.
	AttemptTimeout time.Duration

	// IdleTimeout is the longest time without progress of a request or response
	// body. A body that exceeds it has stalled. Its attempt is canceled and fails
	// with a timeout error that states the offset of the next byte and matches
	// [context.DeadlineExceeded]. DefaultClassifier considers it [Uncertain].
	//
	// For a response body, time counts only while a Read waits. Read returns the
	// error, unless MaxResponseBytes makes the body part of the attempt or
	// ResumeDownloads resumes it. For a request body, time counts only between
	// two Reads, while Base sends the bytes of the first, and only until the
	// response header arrives. The error is that of the attempt. A slow caller,
	// a slow source and a late response header are therefore not stalls.
	// AttemptTimeout limits the wait for the response header.
	//
	// Each HTTP/2 stream is watched separately. Upgraded connections and tunnels
	// are not watched, nor are request bodies below 64 KiB made by
	// [http.NewRequest], which can stall only if other streams have used up the
	// flow-control window of an HTTP/2 connection. AttemptTimeout covers that.
	// If zero or negative, stalls are not detected.
	IdleTimeout time.Duration

	// MinBytesPerSecond is the minimum rate of a body, averaged over IdleTimeout.
	// The same time counts as for IdleTimeout. A slower body has stalled. That is
	// detected within 1.1 times IdleTimeout. Without IdleTimeout,
	// MinBytesPerSecond has no effect.
	// If zero or negative, one byte within IdleTimeout suffices.
	MinBytesPerSecond int64

	// ResumeDownloads resumes a GET whose response body fails: the missing
	// bytes are requested by further attempts, subject to the same Policy,
	// Classifier, Budget, Pacer and OnAttempt. New bytes reset the number of attempts
	// and MaxElapsed. A response can be resumed if it is a 200, or a 206 to a
	// single range that the caller asked for, and has a strong ETag or a strong
	// Last-Modified date. It is resumed only with a 206 that matches it in
	// every respect; otherwise the caller gets the original read error. A body
	// that exceeds its declared length is an error.
	//
	// A server may redirect to a signed URL that expires. If the response to a
	// request for the missing bytes is a 401, 403, 404 or 410, and redirects led
	// to the URL, the URL before the redirects is requested again, with the same
	// range. Redirects are then followed as by an [http.Client], but not from
	// https to http. These requests are part of one attempt, and are made once
	// for each read error.
	// If false, response bodies are not resumed.
	ResumeDownloads bool

	// OnAttempt, if not nil, is called after each attempt, including the last,
	// with the decision that follows it. If ResumeDownloads is set, it is called
	// again for an attempt whose body fails later. It is called synchronously,
	// from the goroutine that called RoundTrip or that reads the body, and must
	// be safe for concurrent use.
	OnAttempt func(Attempt, Decision)

	// OnDone, if not nil, is called once at the end of each call that returns,
	// including one whose wait was canceled. A call whose response body can be
	// resumed ends when that body returns an error, such as [io.EOF], or is
	// closed. It is called synchronously and must be safe for concurrent use.
	OnDone func(Summary)
}

// RoundTrip implements [http.RoundTripper].
//
// A request whose context is done is not sent. If the context is done during an
// attempt, the attempt ends with Base's error. A wait ends immediately, with an
// [*Error] that wraps [context.Cause]. A wait that would end after the context's
// deadline is not begun; the result of the attempt before it is returned instead.
// If there is none, because Pacer delays the first attempt, or if the Wait of Pacer
// fails, the call ends with an [*Error].
//
// Request.Cancel, which is deprecated, ends an attempt if Base supports it, but
// not a wait.
func (t *RetryTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	var c call // a composite literal is built elsewhere and copied, in 7 ns
	c.t, c.ctx, c.req, c.context = t, ctx, req, valueOf(ctx)
	defer func() {
		if !c.ended {
			// An Override, a hook, a Policy or Base has panicked. A server
			// recovers from that and continues.
			c.abandon()
		}
	}()
	if c.context.override != nil {
		c.t = t.overridden(c.context.override)
	}
	if ctx.Err() != nil {
		c.closeBody()
		return c.end(reasonCanceled, nil, context.Cause(ctx))
	}
	if c.t.readsClock() {
		c.start = time.Now()
	}
	if c.t.Budget != nil {
		// Before newBody, because abandon then closes the caller's body if
		// Deposit panics.
		c.t.Budget.Deposit(req)
	}
	c.number = 1
	if c.t.Pacer != nil {
		if err := c.paceFirst(); err != nil {
			return c.unsent(err)
		}
	}
	c.body = c.newBody()
	c.attempt()
	reason, err := c.retry()
	if err != nil {
		return c.unsent(err)
	}
	return c.result(reason)
}

// CloseIdleConnections calls the method of the same name of Base, if there is
// one. [http.Client.CloseIdleConnections] calls it.
func (t *RetryTransport) CloseIdleConnections() {
	if c, ok := t.base().(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

func (t *RetryTransport) base() http.RoundTripper {
	if t.Base != nil {
		return t.Base
	}
	return http.DefaultTransport
}

func (t *RetryTransport) policy() Policy {
	if c, ok := t.Policy.(*RetryConfig); t.Policy == nil || ok && c == nil {
		return RetryConfig{}
	}
	return t.Policy
}

func (t *RetryTransport) maxReplayBytes() int64 {
	if t.MaxReplayBytes != 0 {
		return t.MaxReplayBytes
	}
	return 1 << 20
}

// readsClock reports whether an attempt's Elapsed is used. Reading the clock
// takes 40 ns, which is as long as everything else that RetryTransport adds to
// an attempt that succeeds.
func (t *RetryTransport) readsClock() bool {
	_, adaptive := t.Pacer.(*AdaptivePacer) // it does not use Elapsed
	if t.Budget != nil || t.Pacer != nil && !adaptive || t.OnAttempt != nil || t.OnDone != nil {
		return true
	}
	switch p := t.Policy.(type) {
	case nil, never:
		return false
	case RetryConfig:
		return p.MaxElapsed > 0
	}
	return true
}
