package httpretry

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"runtime"
	"sync"
	"time"
	"weak"
)

// FreshConnections returns an [http.RoundTripper] that sends requests using t. A
// retry after an attempt that timed out or stalled does not use the connection of
// that attempt, whose peer may have disappeared without closing it. Such a
// connection could otherwise stay in the pool of t for 17 minutes.
//
// Before the retry, all HTTP/2 connections of t to the host are retired: they
// complete the requests in progress and are given no new ones. HTTP/1.1
// connections that have been idle since the failed attempt began are closed when
// the retry would use them. Nothing happens while attempts succeed or fail for
// another reason.
//
// An attempt that times out before it has a response header retires the HTTP/2
// connections also if no retry follows, or if it is made at another server.
//
// A [RetryTransport] whose Base is nil or an [http.Transport] does the same. Use
// FreshConnections if there are other RoundTrippers in between. They must pass on
// the context of the request:
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
	host := hostPort(req.URL)
	if !poolOf(f.t).retire(f.t, host, silent) {
		return f.dial(req, host)
	}
	if hasBody(req) && req.GetBody == nil {
		// t could not send it again after the connection was closed.
		return f.t.RoundTrip(req)
	}
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if info.IdleTime > time.Since(silent) {
			// A Transport that cannot write the first byte of a request takes
			// another connection.
			info.Conn.Close()
		}
	}}
	return f.t.RoundTrip(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
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

// dial sends req over a connection of its own, because the one that t would use is
// blocked and can't be retired.
func (f freshConnections) dial(req *http.Request, host string) (*http.Response, error) {
	conn, err := f.t.NewClientConn(req.Context(), req.URL.Scheme, host)
	if err != nil {
		closeBody(req)
		return nil, err
	}
	resp, err := conn.RoundTrip(req)
	if err != nil {
		conn.Close()
		return nil, err
	}
	resp.Body = newTimedBody(resp.Body, func(error) { conn.Close() })
	return resp, nil
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
	retired map[string]time.Time // by host and port
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
	p, loaded := pools.LoadOrStore(key, &pool{retired: make(map[string]time.Time)})
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
	if p.retired[host].After(silent) {
		return true
	}
	if !retireAll(t, host) {
		return false
	}
	if len(p.retired) >= maxRetiredHosts {
		clear(p.retired)
	}
	p.retired[host] = time.Now()
	return true
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
