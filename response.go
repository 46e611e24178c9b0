package httpretry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// maxDrainBytes is how much of a superseded response is read so that its
	// connection can be used again. Beyond it a new connection is cheaper.
	maxDrainBytes = 64 << 10

	// minDrainTime is how long reading it may take when the backoff is
	// shorter. A body that is already there takes microseconds.
	minDrainTime = 10 * time.Millisecond
)

func hasResponseBody(resp *http.Response) bool { return resp.Body != nil && resp.Body != http.NoBody }

func closeResponse(resp *http.Response) {
	if resp.Body != nil {
		resp.Body.Close()
	}
}

// pause waits for delay. Meanwhile it drains and closes resp, unless that is
// nil. It reports false if ctx was done first.
func pause(ctx context.Context, delay time.Duration, resp *http.Response) bool {
	switch {
	case resp == nil || !hasResponseBody(resp):
		return sleep(ctx, delay)
	case delay < minDrainTime:
		start := time.Now()
		drainHere(ctx, resp)
		return sleep(ctx, delay-time.Since(start))
	}
	d := startDrain(resp)
	defer d.cut()
	return sleep(ctx, delay)
}

// sleep reports whether it slept for d, and was not ended by ctx.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return ctx.Err() == nil // both may have come at once
}

// drainHere drains resp in this goroutine and closes it, at the latest after
// minDrainTime or when ctx is done: so that is what ends a Read. Another
// goroutine would take longer than most bodies, and there is no wait to hide it
// in.
func drainHere(ctx context.Context, resp *http.Response) {
	closeBody := func() { resp.Body.Close() }
	if ctx.Done() != nil {
		closeBody = sync.OnceFunc(closeBody)
		defer context.AfterFunc(ctx, closeBody)()
	}
	watch := time.AfterFunc(minDrainTime, closeBody)
	discard(resp)
	if watch.Stop() {
		closeBody()
	}
}

// A drain reads what is left of a superseded response and closes it, in a
// goroutine of its own: Read and Close may both block.
type drain struct {
	mu   sync.Mutex    // held while body is being closed
	body io.ReadCloser // nil once it is
}

func startDrain(resp *http.Response) *drain {
	d := &drain{body: resp.Body}
	go func() {
		discard(resp)
		d.close()
	}()
	return d
}

// cut ends the drain. It does not wait: a Close may block behind the Read that
// it is to break off.
func (d *drain) cut() {
	if !d.mu.TryLock() {
		return // it is ending
	}
	defer d.mu.Unlock()
	if d.body != nil {
		go d.close()
	}
}

func (d *drain) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.body != nil {
		d.body.Close()
		d.body = nil
	}
}

// discard reads what is left of resp, or a byte more than maxDrainBytes. An
// error means that nothing is left.
func discard(resp *http.Response) {
	if resp.ContentLength > maxDrainBytes {
		return
	}
	buf := drainBuffers.Get().(*[8 << 10]byte)
	defer drainBuffers.Put(buf)
	for left := maxDrainBytes; left >= 0; {
		n, err := resp.Body.Read(buf[:min(len(buf), left+1)])
		if err != nil {
			return
		}
		left -= max(n, 1) // a Read may bring nothing, but not for ever
	}
}

var drainBuffers = sync.Pool{New: func() any { return new([8 << 10]byte) }}

// An aheadBody is a response body of which a part, or all, was read ahead.
type aheadBody struct {
	ahead []byte // not read by the caller yet
	view  []byte // all that was read ahead
	err   error  // what follows: io.EOF, or why the body broke off; nil: rest
	rest  io.ReadCloser
}

// readAhead replaces resp.Body by one of which up to limit bytes are in
// memory. If that is all of it, its connection is free again. It returns nil
// for a body that must not be held back. When ctx is done it closes the body,
// which need not know of ctx.
func readAhead(ctx context.Context, resp *http.Response, limit int64) *aheadBody {
	_, upgraded := resp.Body.(io.Writer)
	if !hasResponseBody(resp) || upgraded || resp.ContentLength > limit || isEventStream(resp.Header) {
		return nil
	}
	limit = min(limit, math.MaxInt64-1)
	closeBody := sync.OnceValue(resp.Body.Close)
	stop := context.AfterFunc(ctx, func() { closeBody() })
	defer stop()
	var buf bytes.Buffer
	buf.Grow(int(min(max(resp.ContentLength, 0), maxDrainBytes)) + bytes.MinRead)
	// The byte beyond the limit tells a body that fits from one that does not.
	_, err := buf.ReadFrom(&io.LimitedReader{R: resp.Body, N: limit + 1})
	a := &aheadBody{ahead: buf.Bytes(), err: err, rest: resp.Body}
	a.view = a.ahead[:min(int64(len(a.ahead)), limit)]
	if err == nil && int64(len(a.ahead)) <= limit {
		a.err = io.EOF
		if int64(len(a.ahead)) < resp.ContentLength {
			a.err = io.ErrUnexpectedEOF // http.Transport says so itself
		}
	}
	if a.err != nil {
		closeBody()
	}
	if a.broken() != nil && ctx.Err() != nil {
		a.err = context.Cause(ctx) // and not what came of closing the body
	}
	resp.Body = a
	return a
}

func isEventStream(h http.Header) bool {
	mediaType, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(mediaType), "text/event-stream")
}

// broken returns why the body broke off, nil if it did not.
func (a *aheadBody) broken() error {
	if a == nil || a.err == io.EOF {
		return nil
	}
	return a.err
}

// whole reports whether all of the body is in memory.
func (a *aheadBody) whole() bool { return a != nil && a.err == io.EOF }

// Read implements [io.Reader].
func (a *aheadBody) Read(p []byte) (int, error) {
	if len(a.ahead) > 0 {
		n := copy(p, a.ahead)
		a.ahead = a.ahead[n:]
		return n, nil
	}
	if a.err != nil {
		return 0, a.err
	}
	return a.rest.Read(p)
}

// Close implements [io.Closer].
func (a *aheadBody) Close() error {
	if a.err != nil {
		return nil
	}
	return a.rest.Close()
}

// preview is a body for those who may look but not take: what was read ahead.
func (a *aheadBody) preview() io.ReadCloser {
	if a == nil || len(a.view) == 0 {
		return http.NoBody
	}
	return io.NopCloser(bytes.NewReader(a.view))
}

// A timedBody is the response body of an attempt that had a timeout: it frees
// the attempt's context when it has been read or closed.
type timedBody struct {
	io.ReadCloser
	free context.CancelCauseFunc
}

func (b timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.free(nil)
	}
	return n, err
}

func (b timedBody) Close() error {
	err := b.ReadCloser.Close()
	b.free(nil)
	return err
}

// An upgradedBody is a timedBody that can be written to, as a body after 101
// Switching Protocols can.
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

func newTimedBody(body io.ReadCloser, free context.CancelCauseFunc) io.ReadCloser {
	b := timedBody{body, free}
	if w, ok := body.(io.Writer); ok {
		return upgradedBody{b, w}
	}
	return b
}
