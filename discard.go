package httpretry

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	// maxDiscardBytes is the maximum number of bytes to read of a response that
	// is not returned, so that its connection can be reused. A new connection
	// is cheaper than reading more.
	maxDiscardBytes = 64 << 10

	// minDiscardTime is how long that may take if the wait is shorter. A body
	// that has arrived is read in microseconds.
	minDiscardTime = 10 * time.Millisecond
)

func closeResponse(resp *http.Response) {
	if resp.Body != nil {
		resp.Body.Close()
	}
}

// sleep waits for d. It reports false if ctx was done first.
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
	return ctx.Err() == nil // both may have happened
}

// A discard reads the rest of a response that is not returned and closes it.
type discard struct {
	resp *http.Response
	keep bool // the bytes that are read are buffered, for result

	closing sync.Mutex // held while the body is being closed
	closed  bool

	mu      sync.Mutex
	stopped bool         // nothing more is added to read
	read    bytes.Buffer // if keep is set, the bytes that were read
	err     error        // that ended the reading; nil: it was stopped

	panicked any // the value with which the body has panicked
}

// wait waits for delay and meanwhile discards the response. It reports false if
// ctx was done first.
func (d *discard) wait(ctx context.Context, delay time.Duration) bool {
	if !hasResponseBody(d.resp) {
		return sleep(ctx, delay)
	}
	if delay < minDiscardTime {
		// Another goroutine would take longer than most bodies.
		begun := time.Now()
		d.runHere(ctx)
		return sleep(ctx, delay-time.Since(begun))
	}
	go func() {
		defer func() {
			// A panic of the body is for the caller, who can recover from it.
			panicked := recover()
			d.mu.Lock()
			defer d.mu.Unlock()
			d.panicked = panicked
		}()
		d.run()
	}()
	defer d.stop()
	return sleep(ctx, delay)
}

// runHere discards the response in this goroutine. After minDiscardTime, or when
// ctx is done, the body is closed, which ends a Read of it.
func (d *discard) runHere(ctx context.Context) {
	if ctx.Done() != nil {
		defer context.AfterFunc(ctx, d.close)()
	}
	timer := time.AfterFunc(minDiscardTime, d.close)
	defer timer.Stop()
	d.run()
}

// run reads what is left of the body, or a byte more than maxDiscardBytes, and
// closes it.
func (d *discard) run() {
	defer d.close()
	if d.resp.ContentLength > maxDiscardBytes {
		return
	}
	buf := discardBuffers.Get().(*[8 << 10]byte)
	defer discardBuffers.Put(buf)
	for left := maxDiscardBytes; left >= 0; {
		n, err := d.resp.Body.Read(buf[:min(len(buf), left+1)])
		if d.keep {
			d.add(buf[:n], err)
		}
		if err != nil {
			return
		}
		left -= max(n, 1) // a Read may return no bytes, but not forever
	}
}

var discardBuffers = sync.Pool{New: func() any { return new([8 << 10]byte) }}

func (d *discard) add(p []byte, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.stopped {
		d.read.Write(p)
		d.err = err
	}
}

// stop ends the discard. It does not wait, because a Close may block behind the
// Read that it is to end.
func (d *discard) stop() {
	if !d.closing.TryLock() {
		return // the body is being closed
	}
	defer d.closing.Unlock()
	if !d.closed {
		go d.close()
	}
}

func (d *discard) close() {
	d.closing.Lock()
	defer d.closing.Unlock()
	if !d.closed {
		d.closed = true
		d.resp.Body.Close()
	}
}

// result returns the response with the part of its body that has been read, or
// nil if it is not to be kept. The discard must have been stopped.
func (d *discard) result() *http.Response {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
	if d.panicked != nil {
		panic(d.panicked)
	}
	if !d.keep {
		return nil
	}
	resp := *d.resp
	if hasResponseBody(d.resp) {
		err := d.err
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		resp.Body = &bufferedBody{unread: d.read.Bytes(), err: err}
	}
	return &resp
}
