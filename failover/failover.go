// Package failover provides an [http.RoundTripper], [Transport], that spreads
// requests over several equivalent servers and avoids those that fail or refuse.
//
//	retry := &httpretry.RetryTransport{Base: &failover.Transport{
//		Endpoints: []failover.Endpoint{{URL: "https://a.example.com"}, {URL: "https://b.example.com/api"}},
//	}}
//
// A Transport sends each request once. Below an [httpretry.RetryTransport], a retry
// is sent to an endpoint that the call has not tried, without a backoff if that
// endpoint is available.
package failover

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/internal/route"
)

// A Transport is an [http.RoundTripper] that sends each request to one of several
// endpoints. It can be used as the Transport of an [http.Client], but does not
// retry by itself. It is meant to be the Base of an [httpretry.RetryTransport].
//
// # Requests
//
// The scheme and the host of the request's URL are replaced by the endpoint's, and
// its path and query are appended to the endpoint's. Request.Host is replaced too.
// The caller's request is not modified, and its Body and GetBody are passed on
// unchanged. Response.Request has the caller's URL. An error names the endpoint.
//
// If an endpoint's URL has a path, a request whose path has a segment "." or ".."
// fails without being sent, because it might leave that path. This includes a segment
// that is escaped, that ends at an escaped slash or a backslash, or that has
// parameters.
//
// All endpoints share the cookies in the Jar of an [http.Client], which stores them for
// the host of the caller's URL. A cookie that one endpoint sets is sent to the others.
//
// # Choice
//
// A request goes to the endpoint with the fewest requests in flight per Weight. A
// request is in flight until its response body ends or is closed. Endpoints with
// equal numbers take turns in proportion to their weights. An endpoint that
// responds faster has fewer requests in flight, so each gets as many as it can
// serve. Latencies are not measured, because those of generated text depend on
// its length. All endpoints are compared, because the counts within a process are
// exact. Choosing between two random ones helps only if counts are shared and
// outdated.
//
// Without a Pacer, a refusal (a 429 or 503) also limits the number of requests in
// flight to that endpoint, to 0.7 times the number at that moment. Each success raises
// the limit. The limit is exceeded only if no other endpoint is available.
//
// # Failures
//
// An endpoint whose response is a refusal or another failure with a Retry-After is
// closed for that time. An endpoint that refuses a request without a Retry-After, or
// that can't be reached, is closed for 250 ms. So is an endpoint after three failures
// in a row, such as a 500, a broken connection, a timeout or a response body that ends
// early. The time doubles with each failure that follows, up to 2 s. After a timeout it
// is at least the duration of the attempt, up to a minute.
//
// A closed endpoint gets no requests while another is open. When an endpoint that failed
// opens again, it gets one request at a time until one succeeds. After that, its limit
// grows with each success. If all endpoints are closed, a request is sent to the one
// that opens first. In this choice, 2 s are added to the opening time of an endpoint
// that failed, because it may fail again. An endpoint that refused a request is known to
// respond.
//
// # Retries
//
// A retry of a RetryTransport above goes to an endpoint that the call has not
// tried. If one is open, there is no wait, because the failure of one endpoint does not
// concern the others. Otherwise the wait lasts until the first endpoint opens, but at
// least for the backoff. A failure to connect that would be final, such as a host that
// does not exist, is retried if another endpoint is open. Apart from this, retries are
// as with a single server: a request that was possibly processed is sent to another
// endpoint only if it is idempotent, or if [httpretry.RetryTransport.Idempotent]
// reports that it is.
//
// A download that is resumed stays at the endpoint that sent its validator.
//
// A retry does not use a connection over which an attempt of the same call timed out
// or stalled, because its peer may have disappeared. This holds if Base is nil or an
// [http.Transport]. If it wraps one, use [httpretry.FreshConnections].
//
// # Pacing
//
// A Pacer of the RetryTransport limits the endpoints together. A refusal is reported
// to it only if no other endpoint is open. To find the limit of each endpoint, set
// the Pacer of the Transport instead.
//
// With such a Pacer, a request that has to wait does so at all endpoints, and is sent to
// the one at which the Pacer lets it pass first. It begins at the endpoint that would be
// chosen without a Pacer, continues after 10 ms at the others too, and after a second at
// the one where the previous attempt failed. It waits for an endpoint that is closed
// until that opens, unless all endpoints have failed. The Pacer's Wait is called
// concurrently, with a context that has no deadline if there are several endpoints. Waits
// that are no longer necessary are canceled. A Pacer that does not take back the turn of
// such a Wait makes several endpoints as slow as one. If such a Wait returns nil
// nevertheless, its done is called with an Err and a Verdict that is [httpretry.Final].
//
// If there is only one endpoint for a request, such as that of a resumed download, it is
// sent when the Pacer lets it pass, although the endpoint is closed. While an endpoint
// that failed gets one request at a time and then more, the order of the requests is not
// kept.
//
// A refusal does not limit the requests in flight, because the Pacer limits them. A
// single refusal without a Retry-After does not close the endpoint either.
//
// # Redirects
//
// If a redirect leads to a URL below the endpoint's, its Location is replaced by the
// caller's URL with the new path and query, without the endpoint's query. The next
// request is then spread like any other. Any other Location is made absolute. A
// request for a URL below another endpoint's is sent to that endpoint. Any other
// request for a host that is not that of the caller's URL is sent with Base, without
// the Header of an endpoint.
//
// A URL is below an endpoint's if it has the same scheme, host and port, and its
// path begins with the segments of the endpoint's path and has no segments "." and
// "..". Segments are compared after they are decoded.
//
// A Transport is safe for concurrent use by multiple goroutines. Its fields must not
// be modified, and it must not be copied, after the first request.
type Transport struct {
	// Endpoints are the servers. There must be at least one.
	Endpoints []Endpoint

	// Base sends the requests, except for endpoints with a Base of their own.
	// If nil, [http.DefaultTransport] is used.
	Base http.RoundTripper

	// Classifier decides which outcomes are failures of an endpoint. The
	// endpoint is closed for the RetryAfter of the Verdict. The response given
	// to Classifier has no body. If nil, [httpretry.DefaultClassifier] is used.
	Classifier func(req *http.Request, resp *http.Response, err error) httpretry.Verdict

	// Pacer limits how fast attempts are sent to each endpoint. It is given the
	// requests with the URLs of the endpoints, and must tell the endpoints apart.
	// An [httpretry.AdaptivePacer] tells them apart by host. If several have the
	// same host, set its Key.
	// The delay is not part of the AttemptTimeout of a RetryTransport above. If
	// nil, there is no limit.
	Pacer httpretry.Pacer

	once    sync.Once
	invalid error
	direct  http.RoundTripper // for other hosts, and for endpoints without a Base

	mu      sync.Mutex // guards the state of the servers
	servers []*server
}

// An Endpoint is a server that a [Transport] sends requests to.
type Endpoint struct {
	// URL is the http or https URL to which the path and the query of each
	// request are appended. It must not have a fragment. Userinfo is sent as Basic
	// authentication, unless Header has an Authorization.
	URL string

	// Weight is the share of this endpoint relative to the others. If zero, it is
	// 1.
	Weight int

	// Header replaces headers of each request to this endpoint, for example
	// Authorization. A Host header sets Request.Host. A header without values is
	// removed. The fields Content-Length, Transfer-Encoding and Trailer are invalid.
	// Header is not sent to the target of a redirect outside the endpoint.
	Header http.Header

	// Base sends the requests to this endpoint, for example to sign them. If
	// nil, the Transport's is used.
	Base http.RoundTripper
}

// RoundTrip implements [http.RoundTripper]. If the configuration is invalid, it
// returns the error of Validate.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	t.once.Do(t.init)
	if err := t.check(req); err != nil {
		return nil, notSent(req, err)
	}
	target, local := t.target(req)
	if !local {
		return t.direct.RoundTrip(req)
	}
	if target == nil && t.mayLeave(req.URL) {
		return nil, notSent(req, errDots)
	}
	var a *attempt
	var resp *http.Response
	returned := false
	defer func() {
		if !returned { // Base, the Classifier or the Pacer has panicked
			a.abandon(req, resp)
		}
	}()
	a, out, err := t.start(req, target)
	if err != nil {
		returned = true
		return nil, a.unsent(req, err)
	}
	resp, err = a.server.base.RoundTrip(out)
	if err == nil && resp == nil {
		err = errNoResponse
	}
	if err != nil {
		a.failed(req, err)
		returned = true
		return resp, &endpointError{a, err}
	}
	a.answered(req, resp)
	returned = true
	return resp, nil
}

var (
	errNoResponse = errors.New("neither a response nor an error from Base")
	errPanicked   = errors.New("panic in Base")
	errNoURL      = errors.New("failover: invalid request: it has no URL")
	errOpaque     = errors.New("failover: invalid request: its URL has an opaque part")
	errDots       = errors.New(`failover: invalid request: the path of its URL has a segment "." or "..", and that of an endpoint is not empty`)
)

func (t *Transport) check(req *http.Request) error {
	switch {
	case t.invalid != nil:
		return t.invalid
	case req.URL == nil:
		return errNoURL
	case req.URL.Opaque != "":
		return errOpaque
	}
	return nil
}

// notSent closes the body of an invalid request, and returns err for a RetryTransport.
func notSent(req *http.Request, err error) error {
	if req.Body != nil {
		req.Body.Close()
	}
	return httpretry.Permanent(err)
}

// CloseIdleConnections calls the methods of the same name of Base and of the Base
// of each endpoint. [http.Client.CloseIdleConnections] calls it.
func (t *Transport) CloseIdleConnections() {
	closeIdle(t.base())
	for _, e := range t.Endpoints {
		closeIdle(e.Base)
	}
}

func closeIdle(rt http.RoundTripper) {
	if c, ok := rt.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

func (t *Transport) base() http.RoundTripper {
	if t.Base != nil {
		return t.Base
	}
	return http.DefaultTransport
}

func (t *Transport) classify(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
	if t.Classifier == nil {
		return httpretry.DefaultClassifier(req, resp, err)
	}
	if resp != nil {
		unread := *resp
		unread.Body = http.NoBody
		resp = &unread
	}
	return t.Classifier(req, resp, err)
}

// start begins an attempt. If there is a Pacer, it waits until that lets it send the
// request. If it fails, the attempt is not in flight.
func (t *Transport) start(req *http.Request, target *server) (*attempt, *http.Request, error) {
	previous := route.PreviousOf(req.Context())
	last := t.attemptOf(previous.Choice)
	fixed := target != nil
	if target == nil && last != nil && previous.Resuming {
		target = last.server
	}
	if t.Pacer != nil {
		return t.pace(req, target, last, fixed)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if target == nil {
		target = t.choose(last, now)
	}
	return t.enter(target, last, fixed, now), target.request(req, fixed), nil
}

// enter begins an attempt at s. last is the attempt of the call before it, or nil. The
// lock is held.
func (t *Transport) enter(s *server, last *attempt, fixed bool, now time.Time) *attempt {
	a := &attempt{t: t, server: s, fixed: fixed, begun: now}
	if !last.tried(s) {
		// Otherwise a new round begins, so the list does not grow further.
		a.last = last
	}
	s.inFlight++
	a.load, a.era = s.inFlight, s.era
	a.early = s.wait(now) > 0
	return a
}

// attemptOf returns the attempt that c is, or nil. c may belong to another Transport,
// above this one.
func (t *Transport) attemptOf(c route.Choice) *attempt {
	var a *attempt
	switch c := c.(type) {
	case *attempt:
		a = c
	case *endpointError:
		a = c.attempt
	}
	if a == nil || a.t != t {
		return nil
	}
	return a
}

// answered handles the response of an attempt.
func (a *attempt) answered(req *http.Request, resp *http.Response) {
	v := a.t.classify(req, resp, nil)
	a.report(resp, nil, v)
	switch v.Outcome {
	case httpretry.Final:
		a.accepted()
	case httpretry.Unprocessed:
		a.refused(v.RetryAfter)
	default:
		a.broke(v.RetryAfter, 0)
	}
	if location := resp.Header.Get("Location"); location != "" && resp.StatusCode/100 == 3 {
		resp.Header.Set("Location", a.location(req.URL, location))
	}
	a.watch(req, resp)
	// In place: net/http adds the trailers to this response.
	resp.Request = req.WithContext(route.WithChoice(req.Context(), a))
}

// failed handles the error of an attempt.
func (a *attempt) failed(req *http.Request, err error) {
	defer a.release()
	v := a.t.classify(req, nil, err)
	a.report(nil, err, v)
	if e, ok := err.(*httpretry.Error); ok && e.Attempts == 0 {
		return // not sent, because of a Pacer in Base
	}
	if req.Context().Err() != nil {
		a.interrupted(req.Context())
		return
	}
	a.unreached = isUnreached(err)
	switch {
	case a.unreached, v.Outcome == httpretry.Unprocessed:
		a.refusedConnection()
	case v.Outcome == httpretry.Uncertain && isTimeout(err):
		a.broke(0, time.Since(a.begun))
	case v.Outcome == httpretry.Uncertain:
		a.broke(0, 0)
	}
}

// interrupted handles an attempt whose context has ended. A timeout is a failure of
// the endpoint; a cancellation is not.
func (a *attempt) interrupted(ctx context.Context) {
	if isTimeout(context.Cause(ctx)) {
		a.broke(0, time.Since(a.begun))
	}
}
