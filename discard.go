package httpretry

import (
	"bytes"
	"context"
	"io"
	"maps"
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

// sleep waits for d. It returns an error if ctx was done first.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return ctx.Err() // both may have happened
}

// A discard reads the rest of a response that is not returned and closes it.
type discard struct {
	source *http.Response // a Read of its body may fill its Trailer; nil: not kept
	resp   *http.Response // a copy for result
	size   int64          // of the body; negative: not known

	closing sync.Mutex    // held while the body is being closed
	body    io.ReadCloser // nil when it is or is being closed, so that a long wait does not hold it

	mu      sync.Mutex
	stopped bool         // nothing more is added to read
	read    bytes.Buffer // if resp is kept, the bytes that were read
	err     error        // that ended the reading; nil: it was stopped

	panicked any // the value with which the body has panicked
}

// newDiscard returns a discard of resp. If keep is set, its result is a copy of
// resp.
func newDiscard(resp *http.Response, keep bool) *discard {
	d := &discard{size: resp.ContentLength, body: resp.Body}
	if keep {
		kept := *resp
		kept.Trailer = maps.Clone(resp.Trailer)
		d.source, d.resp = resp, &kept
	}
	return d
}

// during discards the response during wait, which is expected to take as long as
// delay and ends when ctx is done. It returns the result of wait.
func (d *discard) during(ctx context.Context, delay time.Duration, wait func() error) error {
	if d.body == nil || d.body == http.NoBody {
		return wait()
	}
	if delay < minDiscardTime {
		// Another goroutine would take longer than most bodies.
		d.runHere(ctx)
		return wait()
	}
	body := d.body
	go func() {
		defer func() {
			// A panic of the body is for the caller, who can recover from it.
			panicked := recover()
			d.mu.Lock()
			defer d.mu.Unlock()
			d.panicked = panicked
		}()
		d.run(body)
	}()
	defer d.stop()
	return wait()
}

// runHere discards the response in this goroutine. After minDiscardTime, or when
// ctx is done, the body is closed, which ends a Read of it.
func (d *discard) runHere(ctx context.Context) {
	body := d.body // close sets it to nil
	if ctx.Done() != nil {
		defer context.AfterFunc(ctx, d.close)()
	}
	timer := time.AfterFunc(minDiscardTime, d.close)
	defer timer.Stop()
	d.run(body)
}

// run reads the rest of body, or a byte more than maxDiscardBytes, and closes it.
func (d *discard) run(body io.Reader) {
	defer d.close()
	if d.size > maxDiscardBytes {
		return
	}
	buf := discardBuffers.Get().(*[8 << 10]byte)
	defer discardBuffers.Put(buf)
	for left := maxDiscardBytes; left >= 0; {
		n, err := body.Read(buf[:min(len(buf), left+1)])
		if d.resp != nil {
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
		if err == io.EOF {
			d.resp.Trailer = d.source.Trailer
		}
	}
}

// stop ends the discard. It does not wait, because a Close may block behind the
// Read that it is to end.
func (d *discard) stop() {
	if !d.closing.TryLock() {
		return // the body is being closed
	}
	defer d.closing.Unlock()
	if d.body != nil {
		go d.close()
	}
}

func (d *discard) close() {
	d.closing.Lock()
	defer d.closing.Unlock()
	body := d.body
	d.body = nil
	if body != nil {
		body.Close()
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
	if d.resp == nil {
		return nil
	}
	if hasResponseBody(d.resp) {
		err := d.err
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		d.resp.Body = &bufferedBody{unread: d.read.Bytes(), err: err}
	}
	return d.resp
}
