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

var errSurplus = errors.New("httpretry: the response body goes on beyond the length that it was said to have")

// A download is a response body that goes on where it broke off. It holds the
// call that brought the response, and makes further attempts through that:
// they are judged, decided, waited for and told as any other.
type download struct {
	call  *call
	first *http.Response // the caller's
	tag   validator
	limit string // the last byte that the caller asked for, "" if all

	// What Read alone touches.
	resp   *http.Response // the latest
	offset int64          // of the next byte, in the whole representation
	end    int64          // where the download ends; negative: not known yet
	total  int64          // length of the whole representation; negative: not known yet
	moved  bool           // bytes have come since the last attempt
	broken error          // to be resumed from at the next Read
	err    error          // what Read returns from now on

	mu     sync.Mutex
	body   io.ReadCloser      // the latest response's; nil: closed
	closed bool               // by the caller
	cancel context.CancelFunc // nil before the first break
}

// resumable reports whether resp can be continued: it is a plain answer to a
// GET, and has what it takes to know that a continuation belongs to it.
func resumable(req *http.Request, resp *http.Response) bool {
	if req.Method != http.MethodGet && req.Method != "" || hasBody(req) || resp.Uncompressed ||
		resp.Body == nil || resp.ContentLength == 0 || isEventStream(resp.Header) || isMultipart(resp.Header) {
		return false
	}
	if resp.StatusCode == http.StatusPartialContent {
		ranges := req.Header["Range"]
		if _, ok := partOf(resp); !ok || len(ranges) != 1 || strings.Contains(ranges[0], ",") {
			return false
		}
	} else if resp.StatusCode != http.StatusOK {
		return false
	}
	_, ok := strongValidator(resp.Header)
	return ok
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
	for d.err == nil {
		if broken := d.broken; broken != nil {
			d.broken = nil
			if err := d.resume(broken); err != nil {
				d.finish(err)
			}
			continue
		}
		if n, err := d.readBody(p); n > 0 || err == nil {
			return n, d.err
		}
	}
	return 0, d.err
}

// readBody reads from what the last attempt brought. It leaves in d.err the
// end of the download, and in d.broken the end of the body before that.
func (d *download) readBody(p []byte) (int, error) {
	body := d.current()
	if body == nil {
		d.finish(http.ErrBodyReadAfterClose)
		return 0, d.err
	}
	left := d.end - d.offset
	if d.end >= 0 && int64(len(p)) > left {
		p = p[:max(left, 1)] // at the end one byte tells that there is more
	}
	n, err := body.Read(p)
	if d.end >= 0 && int64(n) > left {
		d.finish(errSurplus)
		return 0, d.err
	}
	d.offset += int64(n)
	d.moved = d.moved || n > 0
	switch {
	case err == io.EOF && d.offset < d.end:
		d.broken = io.ErrUnexpectedEOF
	case err == io.EOF:
		d.passTrailers()
		d.finish(err)
	default:
		d.broken = err
	}
	return n, err
}

// current is the body to read from, nil if the caller has closed it.
func (d *download) current() io.ReadCloser {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.body
}

// passTrailers gives the caller the trailers of the last part. A map that was
// there from the start is filled, as net/http does: it may have been copied.
func (d *download) passTrailers() {
	if d.first.Trailer == nil {
		d.first.Trailer = d.resp.Trailer
	} else {
		maps.Copy(d.first.Trailer, d.resp.Trailer)
	}
}

// finish makes err what Read returns from now on.
func (d *download) finish(err error) {
	d.err = err
	d.release()
}

// release frees what the attempts after the first took.
func (d *download) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cancel != nil {
		d.cancel()
	}
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

// resume makes attempts to get the rest, after the body has failed with
// broken. It returns nil when the rest is on its way, and else what the
// caller's Read is to return: broken, or why the wait for an attempt ended.
func (d *download) resume(broken error) error {
	if d.offset == d.end {
		return broken // all bytes have come, but perhaps not the trailers
	}
	if !d.begin() {
		return http.ErrBodyReadAfterClose
	}
	c := d.call
	c.resp, c.ahead, c.err = nil, nil, broken
	for {
		c.judge()
		decision := c.decide()
		if !decision.Retry {
			break
		}
		if c.wait(decision.Delay) != nil {
			return d.interruption()
		}
		c.sent.Header = d.rangeHeader(c.req.Header)
		c.exchange()
	}
	if c.resp != nil && d.goesOn(c.resp) {
		return d.accept(c.resp)
	}
	if c.resp != nil {
		closeResponse(c.resp)
	}
	if c.ctx.Err() != nil {
		return d.interruption()
	}
	return broken
}

// begin prepares the call for further attempts. It reports false if the caller
// has closed the body.
func (d *download) begin() bool {
	c := d.call
	d.mu.Lock()
	body := d.body
	d.body = nil
	if body != nil && d.cancel == nil {
		c.ctx, d.cancel = context.WithCancel(c.ctx)
	}
	d.mu.Unlock()
	if body == nil {
		return false
	}
	body.Close()
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

// interruption is the error of a Read that Close or the caller's context
// ended.
func (d *download) interruption() error {
	if err := context.Cause(d.call.req.Context()); err != nil {
		return err
	}
	return http.ErrBodyReadAfterClose
}

// accept goes on with resp. The caller may have closed the body meanwhile.
func (d *download) accept(resp *http.Response) error {
	d.mu.Lock()
	closed := d.closed
	if !closed {
		d.body = resp.Body
	}
	d.mu.Unlock()
	if closed {
		closeResponse(resp)
		return http.ErrBodyReadAfterClose
	}
	r, _ := partOf(resp)
	d.resp, d.end, d.total = resp, r.last+1, max(d.total, r.total)
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
	end := d.end
	if end < 0 {
		// If that is not known either, the part may be less than the rest.
		end = r.total
	}
	return ok && resp.StatusCode == http.StatusPartialContent && resp.Body != nil && !resp.Uncompressed &&
		r.first == d.offset && r.last+1 == end &&
		(d.total < 0 || r.total < 0 || d.total == r.total) &&
		slices.Equal(resp.Header["Content-Encoding"], d.first.Header["Content-Encoding"]) &&
		d.tag.matches(resp.Header)
}

// A validator tells representations of one resource apart.
type validator struct{ name, value string }

// strongValidator returns a validator that differs whenever a byte does.
func strongValidator(h http.Header) (validator, bool) {
	if tags := h["Etag"]; len(tags) > 0 {
		// If-Range takes no weak tag and, beside one, no date (RFC 9110,
		// section 13.1.5).
		return validator{"Etag", tags[0]}, len(tags) == 1 && isStrongTag(tags[0])
	}
	const name = "Last-Modified"
	if len(h[name]) != 1 || len(h["Date"]) != 1 {
		return validator{}, false
	}
	// A date counts in full seconds. It is strong if the representation had
	// not been changed for a while when it was sent (RFC 9110, section
	// 8.8.2.2): for a minute, in case the two clocks are not the same.
	modified, err := http.ParseTime(h[name][0])
	if err != nil {
		return validator{}, false
	}
	date, err := http.ParseTime(h["Date"][0])
	return validator{name, h[name][0]}, err == nil && date.Sub(modified) >= time.Minute
}

// isStrongTag reports whether s is one entity tag, and not a weak one (RFC
// 9110, section 8.8.3).
func isStrongTag(s string) bool {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return false
	}
	return !strings.ContainsFunc(s[1:len(s)-1], func(c rune) bool { return c <= ' ' || c == '"' || c == 0x7f })
}

// matches reports whether a 206 with header h is of the same representation.
// It must repeat an ETag; it may leave out the date that was in If-Range (RFC
// 9110, section 15.3.7).
func (v validator) matches(h http.Header) bool {
	values := h[v.name]
	if len(values) == 0 {
		return v.name != "Etag" && len(h["Etag"]) == 0
	}
	return len(values) == 1 && values[0] == v.value
}

// A byteRange is a Content-Range in bytes. A negative total is unknown.
type byteRange struct{ first, last, total int64 }

// partOf returns which part of its representation resp holds. It is false for
// several parts, for a Content-Range that is missing or malformed, and for one
// of another length than resp.
func partOf(resp *http.Response) (byteRange, bool) {
	values := resp.Header["Content-Range"]
	if len(values) != 1 || isMultipart(resp.Header) {
		return byteRange{}, false
	}
	r, ok := parseContentRange(values[0])
	return r, ok && (resp.ContentLength < 0 || resp.ContentLength == r.last+1-r.first)
}

func isMultipart(h http.Header) bool {
	mediaType, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(mediaType), "multipart/byteranges")
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
