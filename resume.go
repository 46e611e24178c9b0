package httpretry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

var errSurplus = errors.New("httpretry: response body exceeds its declared length")

// A download is a response body that is resumed when it fails. It takes over the
// call that returned the response and makes further attempts with it, so that
// they are classified, decided and reported like any other.
type download struct {
	call  call
	first *http.Response // the caller's; a Read may fill its Trailer
	begun *http.Response // a copy of it from before the first Read; nil if there is no OnDone
	tag   validator
	limit string        // the last byte that the caller asked for, or "" for all
	root  *http.Request // whose redirects led to first; nil: there were none

	// Only Read uses these.
	resp     *http.Response // the latest
	latest   *http.Request  // that resp responds to
	sent     *http.Request  // the last one of the current attempt
	expired  bool           // the URL of latest has been rejected since resp failed
	offset   int64          // of the next byte in the whole representation
	end      int64          // where the download ends; negative: not known yet
	total    int64          // length of the whole representation; negative: not known yet
	progress bool           // bytes have been received since the last attempt
	failure  error          // of the latest body, which the next Read resumes
	err      error          // what Read returns from now on; nil: not ended

	mu       sync.Mutex
	body     io.ReadCloser      // of the latest response; nil while there is none
	resuming bool               // a Read is making attempts, and ends the call
	closed   bool               // by the caller
	done     bool               // OnDone has been called
	cancel   context.CancelFunc // of the further attempts; nil before the first failure
}

// resumable reports whether resp can be resumed: it is the response to a plain
// GET and has a validator that tells whether a later response belongs to it.
func resumable(req *http.Request, resp *http.Response) bool {
	if req.Method != http.MethodGet && req.Method != "" || hasBody(req) || resp.Uncompressed ||
		resp.Body == nil || resp.ContentLength == 0 || isEventStream(resp.Header) || isMultipart(resp.Header) {
		return false
	}
	switch resp.StatusCode {
	case http.StatusOK:
		// RFC 9110, section 14.4: a Content-Range has no meaning in a 200. A
		// server that sends one may have applied the caller's Range or not.
		if len(resp.Header["Content-Range"]) > 0 {
			return false
		}
	case http.StatusPartialContent:
		ranges := req.Header["Range"]
		if _, ok := partOf(resp); !ok || len(ranges) != 1 || strings.Contains(ranges[0], ",") {
			return false
		}
	default:
		return false
	}
	_, ok := strongValidator(resp.Header)
	return ok
}

// newDownload returns the body for c's response, which is resumable.
func newDownload(c *call) *download {
	resp := c.resp
	tag, _ := strongValidator(resp.Header)
	d := &download{
		call: *c, first: resp, resp: resp, body: resp.Body, tag: tag,
		root: beforeRedirects(c.req), latest: c.req,
		end: resp.ContentLength, total: resp.ContentLength,
	}
	if c.t.OnDone != nil {
		d.begun = new(*resp)
		d.begun.Trailer = maps.Clone(resp.Trailer)
	}
	if resp.StatusCode == http.StatusPartialContent {
		r, _ := partOf(resp)
		d.offset, d.end, d.total = r.first, r.last+1, r.total
		d.limit = strconv.FormatInt(r.last, 10)
	}
	return d
}

// Read implements [io.Reader].
func (d *download) Read(p []byte) (int, error) {
	for d.err == nil {
		if failure := d.failure; failure != nil {
			d.failure = nil
			d.resume(failure)
			continue
		}
		if n, err := d.readBody(p); n > 0 || err == nil {
			return n, d.err
		}
	}
	return 0, d.err
}

// readBody reads the latest body. It sets d.err at the end of the download, and
// d.failure if the body ends before that.
func (d *download) readBody(p []byte) (int, error) {
	body := d.current()
	if body == nil {
		d.finish(reasonFinal, http.ErrBodyReadAfterClose)
		return 0, d.err
	}
	left := d.end - d.offset
	if d.end >= 0 && int64(len(p)) > left {
		// At the end, one byte more shows a body that exceeds its length.
		p = p[:max(left, 1)]
	}
	n, err := body.Read(p)
	if d.end >= 0 && int64(n) > left {
		// Base's body may return more than Content-Length announces.
		d.finish(reasonFinal, errSurplus)
		return 0, d.err
	}
	d.offset += int64(n)
	d.progress = d.progress || n > 0
	switch {
	case err == io.EOF && d.offset < d.end:
		// http.Transport reports this itself; other RoundTrippers may not.
		d.failure = io.ErrUnexpectedEOF
	case err == io.EOF:
		if d.resp != d.first {
			setTrailer(d.first, d.resp.Trailer)
		}
		d.finish(reasonFinal, err)
	default:
		d.failure = err
	}
	return n, err
}

// current returns the body to read from, or nil if the caller has closed it.
func (d *download) current() io.ReadCloser {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.body
}

// finish makes err the error that Read returns from now on.
func (d *download) finish(reason string, err error) {
	d.err = err
	d.release(reason, d.first, err)
}

// release frees the context of the further attempts and ends the call.
func (d *download) release(reason string, resp *http.Response, err error) {
	d.mu.Lock()
	if d.cancel != nil {
		d.cancel()
	}
	first := !d.done
	d.done = true
	d.mu.Unlock()
	if err == io.EOF {
		err = nil
	}
	if first && d.call.t.OnDone != nil {
		d.call.summarize(reason, resp, err)
	}
}

// Close implements [io.Closer]. It also ends a Read, even if that waits for
// another attempt.
func (d *download) Close() error {
	d.mu.Lock()
	body, resuming := d.body, d.resuming
	d.closed, d.body = true, nil
	if d.cancel != nil {
		d.cancel()
	}
	d.mu.Unlock()
	if !resuming {
		d.release(reasonFinal, d.begun, nil) // a Read may be in progress
	}
	if body == nil {
		return nil
	}
	return body.Close()
}

// resume makes attempts to get the rest of a body that has failed. If no response
// continues the download, it ends with failure or, if Close or the context ended
// the attempts, with that error.
func (d *download) resume(failure error) {
	if d.offset == d.end {
		d.finish(reasonFinal, failure) // all bytes were received, but perhaps not the trailers
		return
	}
	if !d.begin() {
		d.finish(reasonFinal, http.ErrBodyReadAfterClose)
		return
	}
	c := &d.call
	c.resp, c.buffer, c.err = nil, nil, failure
	returned := false
	defer func() {
		d.mu.Lock()
		d.resuming = false
		d.mu.Unlock()
		// A hook, a Policy or Base may have panicked. If the caller recovers
		// and continues to read, it gets an error.
		if !returned {
			d.err = failure
			c.reportPanic()
		}
		if c.resp != nil && c.resp != d.resp {
			closeResponse(c.resp)
		}
	}()
	reason, err := c.retry()
	returned = true
	switch {
	case err == nil && c.resp != nil && d.continues(c.resp) && d.accept(c.resp):
	case c.ctx.Err() != nil:
		d.finish(reasonCanceled, d.interruption())
	default:
		d.finish(reason, failure)
	}
}

// begin prepares the call for further attempts. It reports false if the caller
// has closed the body.
func (d *download) begin() bool {
	c := &d.call
	d.mu.Lock()
	body := d.body
	d.body, d.resuming = nil, body != nil
	if body != nil && d.cancel == nil {
		c.ctx, d.cancel = context.WithCancel(c.ctx)
		c.body = &remainder{d}
	}
	d.mu.Unlock()
	if body == nil {
		return false
	}
	// The failed body is closed before the wait, which frees its connection.
	body.Close()
	d.expired = false
	if d.progress {
		// A long download may fail many times, but a server that stays down
		// ends it.
		d.progress = false
		c.number, c.delay = 1, 0
		if !c.start.IsZero() {
			c.start = time.Now()
		}
	}
	return true
}

// interruption returns the error of a Read that Close or the caller's context
// has ended.
func (d *download) interruption() error {
	if err := context.Cause(d.call.req.Context()); err != nil {
		return err
	}
	return http.ErrBodyReadAfterClose
}

// accept makes resp the source of the next Reads. It reports false if the caller
// has closed the body.
func (d *download) accept(resp *http.Response) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	r, _ := partOf(resp)
	d.body, d.resp, d.end, d.total = resp.Body, resp, r.last+1, max(d.total, r.total)
	d.latest = d.sent
	return true
}

// continues reports whether resp is the rest of the download: a single part of
// the same representation that begins at the missing byte and does not
// contradict the known end.
func (d *download) continues(resp *http.Response) bool {
	r, ok := partOf(resp)
	end := d.end
	if end < 0 {
		// If the total is unknown too, the part may be less than the rest, and
		// no part matches.
		end = r.total
	}
	return ok && resp.StatusCode == http.StatusPartialContent && resp.Body != nil && !resp.Uncompressed &&
		r.first == d.offset && r.last+1 == end &&
		(d.total < 0 || r.total < 0 || d.total == r.total) &&
		slices.Equal(resp.Header["Content-Encoding"], d.first.Header["Content-Encoding"]) &&
		d.tag.matches(resp.Header)
}

// A remainder prepares the requests for the rest of a download, which have no
// body.
type remainder struct{ d *download }

func (*remainder) untouched() bool { return false }
func (*remainder) hold() bool      { return true }
func (*remainder) stop() bool      { return true }
func (*remainder) settle(bool)     {}
func (*remainder) failure() error  { return nil }

// start prepares req to ask for the missing bytes where the latest came from.
func (r *remainder) start(req *http.Request, _ bool) error {
	*req = *r.d.latest.WithContext(req.Context())
	req.Header = req.Header.Clone()
	r.d.ask(req)
	return nil
}

// ask makes req, whose header is a copy, ask for the missing bytes (RFC 9110,
// sections 14.2 and 13.1.5).
func (d *download) ask(req *http.Request) {
	if req.Header == nil {
		req.Header = make(http.Header)
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%s", d.offset, d.limit))
	req.Header.Set("If-Range", d.tag.value)
}
