package httpretry

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"weak"
)

// FreshConnections returns an [http.RoundTripper] that sends requests using t. A
// retry after an attempt that timed out or stalled does not use the connection of
// that attempt, whose peer may have disappeared without closing it. Such a
// connection could otherwise stay in the pool of t for 17 minutes.
//
// Before the retry, all HTTP/2 connections of t to the host are retired: they
// complete the requests in progress and are given no new ones. If all idle HTTP/1.1
// connections have been idle since the failed attempt began, one of them is closed,
// and the retry has a connection of its own, which is closed after it. Nothing
// happens while attempts succeed or fail for another reason.
//
// If an attempt times out before its response header arrives, the HTTP/2
// connections are retired immediately, even if no retry follows or the retry is
// sent to another server. The deadline of the caller's context does not count as
// such a timeout.
//
// A [RetryTransport] whose Base is nil or an [http.Transport] does the same for its
// retries, but retires nothing after a first attempt that is not retried. Use
// FreshConnections if that is not enough, or if other RoundTrippers lie between the
// RetryTransport and t. They must pass on the context of the request:
//
//	rt.Base = otelhttp.NewTransport(httpretry.FreshConnections(tr))
func FreshConnections(t *http.Transport) http.RoundTripper { return freshConnections{t} }

type freshConnections struct{ t *http.Transport }

// CloseIdleConnections calls the method of the same name of the Transport.
func (f freshConnections) CloseIdleConnections() { f.t.CloseIdleConnections() }

// RoundTrip implements [http.RoundTripper].
func (f freshConnections) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := f.send(req)
	if err != nil {
		f.failed(req, err)
	}
	return resp, err
}

func (f freshConnections) send(req *http.Request) (*http.Response, error) {
	silent := valueOf(req.Context()).silent
	if silent.IsZero() || req.URL == nil {
		return f.t.RoundTrip(req)
	}
	if !poolOf(f.t).retire(f.t, hostPort(req.URL), silent) {
		return f.alone(req)
	}
	return f.unlessIdleSince(req, silent)
}

// failed retires connections after an attempt that failed with err. Its call may
// make no retry, or make it at another server, and the next call must not use the
// connection either.
func (f freshConnections) failed(req *http.Request, err error) {
	if ctx := req.Context(); ctx.Err() != nil {
		err = context.Cause(ctx)
		switch err.(type) {
		case *timeoutError, *stallError:
		default:
			return // the time that the caller was ready to wait may be short
		}
	}
	if silent := silentSince(err); !silent.IsZero() {
		poolOf(f.t).retire(f.t, hostPort(req.URL), silent)
	}
}

// unlessIdleSince sends req, but not over an idle connection that was not used since
// silent. A Transport begins with the connection that was used last, so the others
// were not used either, and req is sent over a connection of its own.
func (f freshConnections) unlessIdleSince(req *http.Request, silent time.Time) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	var use bodyUse
	r := req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if info.IdleTime <= time.Since(silent) {
			return
		}
		// Nothing can be written to it now.
		info.Conn.Close()
		if use.CompareAndSwap(bodyUnused, bodyWithheld) {
			// net/http would try the next connection, which would be closed too.
			cancel(errIdle)
		}
	}}))
	if hasBody(req) {
		r.Body = withheldBody{req.Body, &use}
		if req.GetBody != nil {
			// It may rewind the reader that Body reads.
			r.GetBody = func() (io.ReadCloser, error) {
				if use.Load() == bodyWithheld {
					return nil, errIdle
				}
				return req.GetBody()
			}
		}
	}
	resp, err := f.t.RoundTrip(r)
	switch {
	case use.Load() == bodyWithheld:
		if err == nil {
			closeResponse(resp)
		}
		return f.alone(req)
	case err != nil:
		cancel(nil)
		return nil, err
	}
	resp.Request = req
	if !hasResponseBody(resp) {
		cancel(nil)
		return resp, nil
	}
	resp.Body = newTimedBody(resp.Body, cancel)
	return resp, nil
}

var errIdle = errors.New("httpretry: idle connection may be dead")

// A bodyUse is one of the constants below.
type bodyUse = atomic.Int32

const (
	bodyUnused   = iota
	bodyUsed     // read or closed
	bodyWithheld // must not be
)

// A withheldBody is a request body that is neither read nor closed when it is
// withheld.
type withheldBody struct {
	io.ReadCloser
	use *bodyUse
}

func (b withheldBody) withheld() bool {
	return !b.use.CompareAndSwap(bodyUnused, bodyUsed) && b.use.Load() == bodyWithheld
}

func (b withheldBody) Read(p []byte) (int, error) {
	if b.withheld() {
		return 0, errIdle
	}
	return b.ReadCloser.Read(p)
}

func (b withheldBody) Close() error {
	if b.withheld() {
		return nil
	}
	return b.ReadCloser.Close()
}

// alone sends req over a connection of its own, because those of t may be dead and
// can't be retired, or would have to be closed for all. [http.Transport.NewClientConn]
// would not call the GotConn of a trace.
func (f freshConnections) alone(req *http.Request) (*http.Response, error) {
	own := f.t.Clone()
	own.DisableKeepAlives = true
	if c := own.TLSClientConfig; c != nil && slices.Contains(c.NextProtos, "h2") {
		// Otherwise a copy of a Transport that uses HTTP/2 by default offers
		// HTTP/2 but does not speak it, because its TLSClientConfig is set.
		own.ForceAttemptHTTP2 = true
	}
	return own.RoundTrip(req)
}

// hostPort returns the host and the port of u.
func hostPort(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Host
	case u.Scheme == "http":
		return net.JoinHostPort(u.Hostname(), "80")
	}
	return net.JoinHostPort(u.Hostname(), "443")
}

// A pool knows when the HTTP/2 connections of one Transport were retired.
type pool struct {
	mu      sync.Mutex
	retired map[string]retirement // by host and port
}

type retirement struct {
	at  time.Time
	all bool // none was blocked
}

// maxRetiredHosts limits the memory of a pool. A host that is forgotten has its
// connections retired once more.
const maxRetiredHosts = 1000

// pools has the *pool of each weak.Pointer[http.Transport], since the connections
// of a Transport may be used by several RetryTransports. It is empty until an
// attempt times out.
var pools sync.Map

func poolOf(t *http.Transport) *pool {
	key := weak.Make(t)
	p, loaded := pools.LoadOrStore(key, &pool{retired: make(map[string]retirement)})
	if !loaded {
		runtime.AddCleanup(t, func(key weak.Pointer[http.Transport]) { pools.Delete(key) }, key)
	}
	return p.(*pool)
}

// retire retires the HTTP/2 connections of t to host, unless that has been done
// since silent, because another call failed at the same time. It reports false if
// one could not be retired.
func (p *pool) retire(t *http.Transport, host string, silent time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.retired[host]; r.at.After(silent) {
		return r.all
	}
	all := retireAll(t, host)
	if len(p.retired) >= maxRetiredHosts {
		clear(p.retired)
	}
	p.retired[host] = retirement{time.Now(), all}
	return all
}

const (
	// maxRetired limits the connections to one host that are retired together.
	maxRetired = 100

	// maxRetireTime limits retireOne, which takes some microseconds.
	maxRetireTime = 50 * time.Millisecond
)

// retireAll retires the HTTP/2 connections of t to host: t sends no further
// request over them, and closes each when its requests have ended. It reports
// false if one could not be retired, because another request is blocked while it
// writes its header: the peer may have stopped reading.
func retireAll(t *http.Transport, host string) bool {
	blockedBefore := false
	for range maxRetired {
		found, blocked := retireOne(t, host)
		if !found || blocked && blockedBefore {
			return !found
		}
		blockedBefore = blocked
	}
	return false
}

// retireOne retires the first HTTP/2 connection of t to host. It reports whether
// there is one, and whether it blocked.
//
// net/http has no function for this. But a request with Close set retires its
// connection before it is encoded. This request never causes a dial, because its
// method is invalid, and is never written, because its host is invalid: a Transport
// looks for an HTTP/2 connection before it checks either. It does so only for
// https, but unencrypted connections are in the same pool.
func retireOne(t *http.Transport, host string) (found, blocked bool) {
	ctx, cancel := context.WithTimeout(context.Background(), maxRetireTime)
	defer cancel()
	req := &http.Request{
		Method: "no method",
		URL:    &url.URL{Scheme: "https", Host: host},
		Host:   "no host",
		Header: make(http.Header),
		Close:  true,
	}
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { found = true }}
	if resp, err := t.RoundTrip(req.WithContext(httptrace.WithClientTrace(ctx, trace))); err == nil {
		closeResponse(resp)
	}
	return found, ctx.Err() != nil
}

// silentSince returns the time since when nothing has been received for an attempt
// that failed with err, if it timed out or stalled. Otherwise it returns the zero
// time.
func silentSince(err error) time.Time {
	if err == nil || !isTimeout(err) {
		return time.Time{}
	}
	if outcome, known := outcomeOf(err, false, 0); known && outcome == Unprocessed {
		// A dial or a TLS handshake, whose connection is not in use.
		return time.Time{}
	}
	if e, ok := errors.AsType[*timeoutError](err); ok {
		return e.begun
	}
	if e, ok := errors.AsType[*stallError](err); ok {
		return time.Now().Add(-e.limits.Idle)
	}
	return time.Now()
}

// A usedConn is the connection that an attempt has used.
type usedConn struct {
	mu   sync.Mutex // GotConn may be called after RoundTrip has returned
	info httptrace.GotConnInfo
}

// trace returns a context whose request sets u.
func (u *usedConn) trace(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.info = info
	}})
}

func (u *usedConn) describe() (remoteAddr string, reused bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.info.Conn == nil || u.info.Conn.RemoteAddr() == nil {
		return "", false
	}
	return u.info.Conn.RemoteAddr().String(), u.info.Reused
}
