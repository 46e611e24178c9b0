package httpretry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

var errDownloadClosed = errors.New("httpretry: read on closed response body")

// A download is a response body that goes on where it broke off. It holds the
// call that brought the response, and makes further attempts through that:
// they are judged, decided, waited for and told as any other.
type download struct {
	call  *call
	first *http.Response // the caller's
	tag   validator
	limit string // the last byte that the caller asked for, "" if all

	// What Read alone touches.
	offset int64 // of the next byte, in the whole representation
	end    int64 // where the download ends; negative: not known yet
	total  int64 // length of the whole representation; negative: not known yet
	moved  bool  // bytes have come since the last attempt
	broken error // to be resumed from at the next Read
	err    error // what Read returns from now on

	mu     sync.Mutex
	resp   *http.Response // the latest
	body   io.ReadCloser  // its body; nil: closed because it broke off
	closed bool
	cancel context.CancelFunc // nil before the first break
}

// resumable reports whether resp can be continued: it is a plain answer to a
// GET, and has what it takes to know that a continuation belongs to it.
func resumable(req *http.Request, resp *http.Response) bool {
	if req.Method != http.MethodGet && req.Method != "" || hasBody(req) || resp.Uncompressed ||
		resp.Body == nil || resp.Body == http.NoBody || isEventStream(resp.Header) {
		return false
	}
	if _, ok := strongValidator(resp.Header); !ok {
		return false
	}
	if resp.StatusCode == http.StatusPartialContent {
		ranges := req.Header["Range"]
		_, ok := partOf(resp)
		return ok && len(ranges) == 1 && !strings.Contains(ranges[0], ",")
	}
	return resp.StatusCode == http.StatusOK
}

// newDownload makes the body of c's response, which is resumable, go on.
func newDownload(c *call) *download {
	resp := c.resp
	tag, _ := strongValidator(resp.Header)
	outlives := *c // so that calls which end with RoundTrip need not be on the heap
	d := &download{call: &outlives, first: resp, resp: resp, body: resp.Body, tag: tag, end: resp.ContentLength, total: resp.ContentLength}
	if resp.StatusCode == http.StatusPartialContent {
		r, _ := partOf(resp)
		d.offset, d.end, d.total = r.first, r.last+1, r.total
		d.limit = strconv.FormatInt(r.last, 10)
	}
	return d
}

// Read implements [io.Reader].
func (d *download) Read(p []byte) (int, error) {
	for {
		if d.broken != nil {
			d.err = d.resume(d.broken)
			d.broken = nil
		}
		if d.err != nil {
			return 0, d.err
		}
		n, err := d.readBody(p)
		if n > 0 || err == nil || d.err != nil {
			return n, d.err
		}
	}
}

// readBody reads from what the last attempt brought. It leaves in d.err the
// end of the download, and in d.broken the end of the body before that.
func (d *download) readBody(p []byte) (int, error) {
	body := d.current()
	if body == nil {
		d.err = errDownloadClosed
		return 0, d.err
	}
	n, err := body.Read(p)
	d.offset += int64(n)
	d.moved = d.moved || n > 0
	switch {
	case err == io.EOF && (d.end < 0 || d.offset == d.end):
		d.err = io.EOF
		d.first.Trailer = d.resp.Trailer
		d.release()
	case err == io.EOF:
		d.broken = io.ErrUnexpectedEOF
	default:
		d.broken = err
	}
	return n, err
}

func (d *download) current() io.ReadCloser {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	return d.body
}

// Close implements [io.Closer]. It ends a Read too, also while that waits for
// another attempt.
func (d *download) Close() error {
	d.mu.Lock()
	body := d.body
	d.closed, d.body = true, nil
	d.mu.Unlock()
	d.release()
	if body == nil {
		return nil
	}
	return body.Close()
}

// release frees what the attempts after the first took.
func (d *download) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cancel != nil {
		d.cancel()
	}
}

// resume makes attempts to get the rest, after the body has failed with
// broken. It returns nil when the rest is on its way, and else what the
// caller's Read is to return: broken, or why the wait for an attempt ended.
func (d *download) resume(broken error) error {
	if d.end >= 0 && d.offset >= d.end {
		return broken
	}
	c := d.call
	if !d.begin() {
		return errDownloadClosed
	}
	c.resp, c.ahead, c.err = nil, nil, broken
	for {
		c.judge()
		decision := c.decide()
		if !decision.Retry {
			break
		}
		if c.wait(decision.Delay) != nil {
			return d.interrupted()
		}
		c.sent.Header = d.rangeHeader(c.req.Header)
		c.exchange()
	}
	if c.resp != nil && d.goesOn(c.resp) {
		return d.accept()
	}
	if c.resp != nil {
		closeResponse(c.resp)
	}
	if c.ctx.Err() != nil {
		return d.interrupted()
	}
	d.release()
	return broken
}

// begin prepares the call for further attempts. It reports false if the caller
// has closed the body.
func (d *download) begin() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	d.body.Close()
	d.body = nil
	c := d.call
	if d.cancel == nil {
		c.ctx, d.cancel = context.WithCancel(c.ctx)
	}
	if d.moved {
		// A long download may break off many times; a dead server may not.
		d.moved = false
		c.retries, c.delay = 0, 0
		if !c.start.IsZero() {
			c.start = time.Now()
		}
	}
	return true
}

// interrupted is the error of a Read that Close or the caller's context ended.
func (d *download) interrupted() error {
	d.release()
	if err := context.Cause(d.call.req.Context()); err != nil {
		return err
	}
	return errDownloadClosed
}

// accept takes the rest from the call.
func (d *download) accept() error {
	resp := d.call.resp
	r, _ := partOf(resp)
	d.end = r.last + 1
	d.total = max(d.total, r.total)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		closeResponse(resp)
		return errDownloadClosed
	}
	d.resp, d.body = resp, resp.Body
	return nil
}

// rangeHeader is the caller's header with the request for what is missing
// (RFC 9110, sections 14.2 and 13.1.5).
func (d *download) rangeHeader(h http.Header) http.Header {
	h = h.Clone()
	if h == nil {
		h = make(http.Header)
	}
	h.Set("Range", fmt.Sprintf("bytes=%d-%s", d.offset, d.limit))
	h.Set("If-Range", d.tag.value)
	return h
}

// goesOn reports whether resp is the rest of the download: a single part of
// the same representation that begins at the byte which is missing, and agrees
// with all that is known of its end.
func (d *download) goesOn(resp *http.Response) bool {
	r, ok := partOf(resp)
	return ok && resp.StatusCode == http.StatusPartialContent &&
		r.first == d.offset &&
		(d.end < 0 || d.end == r.last+1) &&
		(d.total < 0 || r.total < 0 || d.total == r.total) &&
		(d.limit != "" || r.total < 0 || r.total == r.last+1) &&
		(resp.ContentLength < 0 || resp.ContentLength == r.last+1-r.first) &&
		!resp.Uncompressed &&
		resp.Header.Get("Content-Encoding") == d.first.Header.Get("Content-Encoding") &&
		d.tag.matches(resp.Header)
}

// A validator tells representations of one resource apart.
type validator struct{ name, value string }

// strongValidator returns a validator that differs whenever a byte does.
func strongValidator(h http.Header) (validator, bool) {
	if tag := h.Get("ETag"); tag != "" {
		// A weak one begins with W/ (RFC 9110, section 8.8.3). If-Range takes
		// neither it nor, beside it, a date (section 13.1.5).
		return validator{"Etag", tag}, len(tag) >= 2 && tag[0] == '"' && tag[len(tag)-1] == '"'
	}
	// A date counts in full seconds. It is strong if the representation had
	// not been changed for a while when it was sent (RFC 9110, section
	// 8.8.2.2): for a minute, in case the two clocks are not the same.
	modified, err := http.ParseTime(h.Get("Last-Modified"))
	if err != nil {
		return validator{}, false
	}
	date, err := http.ParseTime(h.Get("Date"))
	return validator{"Last-Modified", h.Get("Last-Modified")}, err == nil && date.Sub(modified) >= time.Minute
}

// matches reports whether a 206 with header h is of the same representation.
// It must repeat an ETag; it may leave out the date that was in If-Range (RFC
// 9110, section 15.3.7).
func (v validator) matches(h http.Header) bool {
	got := h.Get(v.name)
	return got == v.value || v.name == "Last-Modified" && got == "" && h.Get("ETag") == ""
}

// A byteRange is a Content-Range in bytes. A negative total is unknown.
type byteRange struct{ first, last, total int64 }

// partOf returns which part of its representation resp holds. It is false for
// several parts, and for a Content-Range that is missing or malformed.
func partOf(resp *http.Response) (byteRange, bool) {
	values := resp.Header["Content-Range"]
	if len(values) != 1 || strings.HasPrefix(strings.ToLower(resp.Header.Get("Content-Type")), "multipart/byteranges") {
		return byteRange{}, false
	}
	return parseContentRange(values[0])
}

// parseContentRange reads "bytes first-last/total", where total may be "*"
// (RFC 9110, section 14.4).
func parseContentRange(s string) (byteRange, bool) {
	unit, s, _ := strings.Cut(s, " ")
	span, total, ok := strings.Cut(s, "/")
	if !ok || !strings.EqualFold(unit, "bytes") {
		return byteRange{}, false
	}
	first, last, _ := strings.Cut(span, "-")
	r := byteRange{total: -1}
	var okFirst, okLast bool
	r.first, okFirst = parsePosition(first)
	r.last, okLast = parsePosition(last)
	if total != "*" {
		r.total, ok = parsePosition(total)
	}
	if !ok || !okFirst || !okLast || r.last < r.first || r.total >= 0 && r.total <= r.last {
		return byteRange{}, false
	}
	return r, true
}

// parsePosition reads digits, and nothing else that strconv would take. The
// largest number is left out, so that the one after it can be computed.
func parsePosition(s string) (int64, bool) {
	if strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n+1 > 0
}
