package httpretry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"sync"
	"syscall"

	"github.com/httpretry/httpretry/internal/stall"
)

// A stallError is the error of an attempt whose request or response body made too
// little progress.
type stallError struct {
	timeout
	body   string // "request body" or "response body"
	limits stall.Limits
	slow   bool  // there were bytes within limits.Idle, but too few
	offset int64 // of the next byte
}

func (e *stallError) Error() string {
	progress := "no byte"
	if e.slow {
		progress = fmt.Sprintf("fewer than %d bytes/s", e.limits.Rate)
	}
	return fmt.Sprintf("httpretry: %s stalled: %s for %v after %d", e.body, progress, e.limits.Idle, e.offset)
}

// newWatch returns the watch of a body that begins at the byte first.
func (t *RetryTransport) newWatch(body string, first int64, stalled func(error)) *stall.Watch {
	limits := stall.Limits{Idle: t.IdleTimeout, Rate: max(t.MinBytesPerSecond, 0)}
	return stall.NewWatch(limits, func(n int64, slow bool) error {
		return &stallError{body: body, limits: limits, slow: slow, offset: first + n}
	}, stalled)
}

// watchResponse makes the body of resp return an error when it stalls. cancel
// cancels the context of the attempt.
func (c *call) watchResponse(resp *http.Response, cancel context.CancelCauseFunc) {
	if !hasResponseBody(resp) || isTunnel(c.req, resp) {
		return
	}
	var first int64
	if r, ok := partOf(resp); ok && resp.StatusCode == http.StatusPartialContent {
		first = r.first
	}
	b := &watchedResponse{ReadCloser: resp.Body, close: sync.OnceValue(resp.Body.Close)}
	b.watch = c.t.newWatch("response body", first, func(err error) {
		// It depends on Base which of the two ends a Read that waits.
		cancel(err)
		b.close()
	})
	resp.Body = b
}

// A watchedResponse is a response body whose Reads are watched.
type watchedResponse struct {
	io.ReadCloser
	watch *stall.Watch
	close func() error // closes the ReadCloser once
}

// Read implements [io.Reader]. The clock runs only here, so a caller that reads
// slowly is not a stall.
func (b *watchedResponse) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return b.ReadCloser.Read(p)
	}
	b.watch.Start(0)
	n, err := b.ReadCloser.Read(p)
	if stalled := b.watch.Stop(max(n, 0)); stalled != nil {
		err = stalled // instead of the result of closing the body
	}
	if err != nil {
		b.watch.End()
	}
	return n, err
}

// Close implements [io.Closer].
func (b *watchedResponse) Close() error {
	b.watch.End()
	return b.close()
}

const (
	// unwatchedBytes is the largest body of http.NewRequest that is sent
	// unwrapped, in one write with the header. HTTP/2 sends as much on a stream
	// before the server allows more (RFC 9113, section 6.9.2), and the buffer of a
	// socket takes about as much, so a watch would rarely see a stall. It would if
	// other streams have used up the window of the connection: of 40 PUTs of
	// 60 000 bytes whose handlers don't read, the later ones wait. AttemptTimeout
	// covers that.
	unwatchedBytes = 64<<10 - 1

	// pieceBytes limits a Read of a request body, because progress shows only
	// between Reads. HTTP/1 reads as much; HTTP/2 would read up to 512 KiB.
	pieceBytes = 32 << 10
)

// An uploadWatch has the watches of all copies of a request body that an attempt
// reads. Base may send one copy after the other, or read one to sign the request,
// so each copy has a clock of its own.
type uploadWatch struct {
	t      *RetryTransport
	cancel context.CancelCauseFunc
	length int64 // of the body; zero or negative: not known

	mu      sync.Mutex
	watches []*stall.Watch
	ended   bool
}

// add returns body, a copy, with a watch.
func (u *uploadWatch) add(body io.ReadCloser) *watchedRequest {
	w := u.t.newWatch("request body", 0, u.cancel)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.watches = append(u.watches, w)
	if u.ended {
		w.End()
	}
	return &watchedRequest{body, w, u.length}
}

// end ends the watches. It returns the error of a stall if there was one.
func (u *uploadWatch) end() (stalled error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ended = true
	for _, w := range u.watches {
		if err := w.End(); err != nil {
			stalled = err
		}
	}
	return stalled
}

// watchUpload makes req cancel its attempt when its body stalls. It returns nil if
// the body is not watched.
func (c *call) watchUpload(req *http.Request, cancel context.CancelCauseFunc) *uploadWatch {
	if !hasBody(req) {
		return nil
	}
	if _, ok := c.body.(independent); ok && 0 < req.ContentLength && req.ContentLength <= unwatchedBytes {
		return nil
	}
	u := &uploadWatch{t: c.t, cancel: cancel, length: req.ContentLength}
	body := u.add(req.Body)
	req.Body = body
	if f, ok := body.ReadCloser.(sendfileBody); ok && sendfileMovesOffset {
		req.Body = watchedFile{body, f}
	}
	if getBody := req.GetBody; getBody != nil {
		req.GetBody = func() (io.ReadCloser, error) {
			body, err := getBody()
			if err != nil || body == nil {
				return body, err
			}
			return u.add(body), nil
		}
	}
	return u
}

// A watchedRequest is a request body whose transfer is watched. The clock runs
// from the end of a Read to the beginning of the next one, while Base is sending.
// It is stopped during a Read, because a slow source is not a stall, and after the
// end of the body.
type watchedRequest struct {
	io.ReadCloser
	watch *stall.Watch
	left  int64 // of the declared length; only Read uses it
}

// Read implements [io.Reader].
func (b *watchedRequest) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return b.ReadCloser.Read(p)
	}
	if err := b.watch.Stop(0); err != nil {
		return 0, err
	}
	probe := len(p) == 1
	p = p[:min(len(p), pieceBytes)]
	if b.left > 1 && int64(len(p)) >= b.left {
		// HTTP/2 reads the end of the body before it sends the last piece. The
		// clock does not run after the end, so the last piece is a single byte.
		p = p[:b.left-1]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(max(n, 0))
	switch {
	case n <= 0 || err != nil:
	case probe:
		// HTTP/1 reads a byte before the header, to find out whether there is a
		// body. After Expect: 100-continue the server may ask for it later.
		b.watch.Stop(n)
	default:
		b.watch.Start(n)
	}
	return n, err
}

// Close implements [io.Closer].
func (b *watchedRequest) Close() error {
	b.watch.End()
	return b.ReadCloser.Close()
}

// sendfileMovesOffset reports whether the offset of a file shows the progress of a
// sendfile. Other systems update the offset when the sendfile ends.
const sendfileMovesOffset = runtime.GOOS == "linux" || runtime.GOOS == "android"

// A watchedFile is a watchedRequest that package net can send with sendfile.
type watchedFile struct {
	*watchedRequest
	body sendfileBody
}

// SyscallConn implements [syscall.Conn]. Package net calls it when it begins to
// send. The next Read or Close ends that.
func (b watchedFile) SyscallConn() (syscall.RawConn, error) {
	conn, err := b.body.SyscallConn()
	if err == nil {
		start := b.offset()
		b.watch.StartPolling(func() int64 { return b.offset() - start })
	}
	return conn, err
}

// offset returns the offset of the file, or 0 if it is closed.
func (b watchedFile) offset() int64 {
	offset, _ := b.body.file.Seek(0, io.SeekCurrent)
	return offset
}
