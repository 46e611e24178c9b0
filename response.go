package httpretry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"math"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
)

func hasResponseBody(resp *http.Response) bool { return resp.Body != nil && resp.Body != http.NoBody }

// withoutContent reports whether resp, a response to req, has no content,
// whatever its Content-Length says (RFC 9110, sections 9.3.2, 15.3.5 and
// 15.4.5). Its Body is not http.NoBody over HTTP/2 and below middleware that wraps
// every body.
func withoutContent(req *http.Request, resp *http.Response) bool {
	return req.Method == http.MethodHead || resp.StatusCode == http.StatusNoContent ||
		resp.StatusCode == http.StatusNotModified
}

// bufferable reports whether the body of resp, a response to req, may be
// buffered.
func bufferable(req *http.Request, resp *http.Response) bool {
	return hasResponseBody(resp) && !withoutContent(req, resp) && !isEventStream(resp.Header) && !isTunnel(req, resp)
}

// isTunnel reports whether the body of resp, a response to req, is a connection of
// another protocol.
func isTunnel(req *http.Request, resp *http.Response) bool {
	// RFC 9110, section 9.3.6: a tunnel follows a 2xx to CONNECT.
	return resp.StatusCode == http.StatusSwitchingProtocols ||
		req.Method == http.MethodConnect && resp.StatusCode/100 == 2
}

func isEventStream(h http.Header) bool { return hasMediaType(h, "text/event-stream") }

func hasMediaType(h http.Header, want string) bool {
	mediaType, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(mediaType), want)
}

// A bufferedBody is a response body of which all or the beginning is in memory.
type bufferedBody struct {
	unread []byte
	view   []byte         // for hooks: the bytes that were buffered
	err    error          // follows unread: io.EOF or the error of the body; nil: rest follows
	rest   io.ReadCloser  // of the body, if err is nil
	resp   *http.Response // gets trailer when the caller has read the body; may be nil
	closed atomic.Bool

	trailer http.Header
}

// bufferBody replaces resp.Body by one of which up to limit bytes are in memory.
// If that is the whole body, its connection can be reused. It returns nil if the
// body is declared to be larger. When ctx is done it closes the body, because not
// every Base ends a Read then.
func bufferBody(ctx context.Context, resp *http.Response, limit int64) *bufferedBody {
	if resp.ContentLength > limit {
		// The body will not fit, so the caller need not wait for its beginning.
		return nil
	}
	limit = min(limit, math.MaxInt64-1)
	closeBody := sync.OnceValue(resp.Body.Close)
	defer context.AfterFunc(ctx, func() { closeBody() })()
	announced := maps.Clone(resp.Trailer) // before the values are there
	var buf bytes.Buffer
	buf.Grow(int(min(max(resp.ContentLength, 0), maxDiscardBytes)) + bytes.MinRead)
	// A byte beyond the limit shows that the body does not fit.
	_, err := buf.ReadFrom(&io.LimitedReader{R: resp.Body, N: limit + 1})
	b := &bufferedBody{unread: buf.Bytes(), err: err, rest: resp.Body}
	b.view = b.unread[:min(int64(len(b.unread)), limit)]
	if err == nil && int64(len(b.unread)) <= limit {
		b.err = io.EOF
		if int64(len(b.unread)) < resp.ContentLength {
			b.err = io.ErrUnexpectedEOF // as http.Transport reports it
		}
		b.resp, b.trailer, resp.Trailer = resp, resp.Trailer, announced
	}
	if b.err != nil {
		closeBody()
	}
	if b.failure() != nil && ctx.Err() != nil {
		b.err = context.Cause(ctx) // instead of the result of closing the body
	}
	resp.Body = b
	return b
}

// failure returns the error of the body, or nil.
func (b *bufferedBody) failure() error {
	if b == nil || b.err == io.EOF {
		return nil
	}
	return b.err
}

// complete reports whether all of the body is in memory.
func (b *bufferedBody) complete() bool { return b != nil && b.err == io.EOF }

// preview returns the bytes of the body for hooks.
func (b *bufferedBody) preview() []byte {
	if b == nil {
		return nil
	}
	return b.view
}

// Read implements [io.Reader].
func (b *bufferedBody) Read(p []byte) (int, error) {
	switch {
	case b.closed.Load():
		return 0, http.ErrBodyReadAfterClose
	case len(b.unread) > 0:
		n := copy(p, b.unread)
		b.unread = b.unread[n:]
		return n, nil
	case b.err == nil:
		return b.rest.Read(p)
	case b.err == io.EOF && b.resp != nil:
		setTrailer(b.resp, b.trailer)
	}
	return 0, b.err
}

// Close implements [io.Closer].
func (b *bufferedBody) Close() error {
	if b.closed.Swap(true) || b.err != nil {
		return nil
	}
	return b.rest.Close()
}

// setTrailer adds trailer to resp.Trailer. It fills an existing map, as net/http
// does, because a copy of the response may have it too.
func setTrailer(resp *http.Response, trailer http.Header) {
	if resp.Trailer == nil {
		resp.Trailer = trailer
	} else {
		maps.Copy(resp.Trailer, trailer)
	}
}

// A timedBody is the response body of an attempt that had a timeout. It cancels
// the attempt's context at the end of the body, at an error, or when it is closed.
type timedBody struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

func (b timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.cancel(nil)
	}
	return n, err
}

func (b timedBody) Close() error {
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

// An upgradedBody is a timedBody that can be written to, like the body of a 101.
type upgradedBody struct {
	timedBody
	io.Writer
}

// CloseWrite half-closes the connection, as the body of [http.Transport] can.
func (b upgradedBody) CloseWrite() error {
	if c, ok := b.ReadCloser.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

func newTimedBody(body io.ReadCloser, cancel context.CancelCauseFunc) io.ReadCloser {
	b := timedBody{body, cancel}
	if w, ok := body.(io.Writer); ok {
		return upgradedBody{b, w}
	}
	return b
}
