package failover

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/internal/route"
)

// An attempt is a request that was sent to a server. It implements
// [route.Choice], by which the RetryTransport above and the next attempt know it.
type attempt struct {
	t         *Transport
	server    *server
	fixed     bool     // the request had the server's own URL
	last      *attempt // of the same call, at another server; nil: there is none
	begun     time.Time
	era       int                     // of the server, then
	early     bool                    // the server was closed then, as all were
	load      int                     // requests in flight at the server when it began, with this one
	unreached bool                    // set before the attempt is returned
	request   *http.Request           // for done
	done      func(httpretry.Attempt) // the Pacer's, until it is called; nil: there is none

	// The following fields are guarded by t.mu.
	success  bool // the status of the response is not a failure
	released bool // it is no longer in flight
}

var _ route.Choice = (*attempt)(nil)

// tried reports whether a, which may be nil, or an attempt before it used s.
func (a *attempt) tried(s *server) bool {
	for ; a != nil; a = a.last {
		if a.server == s {
			return true
		}
	}
	return false
}

// Next implements [route.Choice].
func (a *attempt) Next() (wait time.Duration, other bool) {
	now := time.Now()
	a.t.mu.Lock()
	defer a.t.mu.Unlock()
	wait = a.server.wait(now)
	if a.fixed {
		return wait, false
	}
	for _, s := range a.t.servers {
		wait = min(wait, s.wait(now))
		other = other || s.available(now) && !a.tried(s)
	}
	return wait, other
}

// Unreached implements [route.Choice].
func (a *attempt) Unreached() bool { return a.unreached }

// abandon ends an attempt after a panic. a is nil if the Pacer has panicked.
func (a *attempt) abandon(req *http.Request, resp *http.Response) {
	switch {
	case a == nil:
		if req.Body != nil {
			req.Body.Close() // it was not sent
		}
		return
	case resp != nil && resp.Body != nil:
		defer resp.Body.Close()
	}
	defer a.release()
	a.report(nil, errPanicked, httpretry.Verdict{})
}

// report reports the outcome of the attempt to the Pacer.
func (a *attempt) report(resp *http.Response, err error, v httpretry.Verdict) {
	done := a.done
	if done == nil {
		return
	}
	a.done = nil
	outcome := httpretry.Attempt{
		Request: hookRequest(a.request),
		Err:     err,
		Number:  httpretry.AttemptNumber(a.request.Context()),
		Verdict: v,
	}
	if resp != nil {
		own := *resp
		own.Request, own.Header, own.Body = outcome.Request, resp.Header.Clone(), http.NoBody
		outcome.Response = &own
	}
	a.request = nil
	done(outcome)
}

// hookRequest returns a copy of req without its body.
func hookRequest(req *http.Request) *http.Request {
	r := req.Clone(req.Context())
	r.Body, r.GetBody = http.NoBody, nil
	return r
}

// isUnreached reports whether err shows that a connection to this server can't be
// set up. Most of these errors are Final, because a retry would repeat them at the
// same server.
func isUnreached(err error) bool {
	return isA[*net.DNSError](err) || isA[*net.AddrError](err) || isA[*tls.CertificateVerificationError](err) ||
		isA[tls.RecordHeaderError](err) || isA[x509.UnknownAuthorityError](err) ||
		isA[x509.HostnameError](err) || isA[x509.CertificateInvalidError](err)
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// isTimeout reports whether err is or wraps a timeout.
func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout() || errors.Is(err, context.DeadlineExceeded)
}

// An endpointError is the error of an attempt. It is found by RetryTransport as the
// attempt's [route.Choice].
type endpointError struct {
	*attempt
	err error
}

func (e *endpointError) Error() string {
	return "failover: endpoint " + e.server.name + ": " + e.err.Error()
}

func (e *endpointError) Unwrap() error { return e.err }

// Timeout implements [net.Error]. [url.Error.Timeout] calls it, since that does not
// unwrap errors.
func (e *endpointError) Timeout() bool { return isTimeout(e.err) }

// Temporary implements [net.Error].
func (e *endpointError) Temporary() bool {
	t, ok := e.err.(interface{ Temporary() bool })
	return ok && t.Temporary()
}

// watch keeps the attempt in flight until the body of resp ends.
func (a *attempt) watch(req *http.Request, resp *http.Response) {
	_, upgraded := resp.Body.(io.Writer)
	if resp.Body == nil || resp.Body == http.NoBody || upgraded {
		// An upgraded connection must remain an io.Writer and can last for
		// days, so it is not counted.
		a.completed()
		return
	}
	resp.Body = &body{resp.Body, a, req.Context()}
}

// A body is a response body that tells when and how it ends.
type body struct {
	io.ReadCloser
	attempt *attempt
	ctx     context.Context // of the request
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == io.EOF:
		b.attempt.completed()
	case err != nil:
		b.attempt.cutOff(b.ctx)
	}
	return n, err
}

// cutOff notes a response that has ended with an error.
func (a *attempt) cutOff(ctx context.Context) {
	a.t.mu.Lock()
	counted := !a.success || a.released
	a.releaseLocked()
	a.t.mu.Unlock()
	switch {
	case counted:
	case ctx.Err() != nil:
		a.interrupted(ctx)
	default:
		a.broke(0, 0)
	}
}

func (b *body) Close() error {
	if isTimeout(context.Cause(b.ctx)) {
		// A RetryTransport closes a body that has stalled, instead of waiting
		// for its Read to return.
		b.attempt.cutOff(b.ctx)
	}
	err := b.ReadCloser.Close()
	b.attempt.completed()
	return err
}
