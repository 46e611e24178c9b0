package httpretry_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/httpretry/httpretry"
)

// alphabet is the content that most of these tests download.
const alphabet = "abcdefghijklmnopqrstuvwxyz"

// errBreak is the error of a body that fails.
var errBreak = errors.New("the body failed")

// A reply responds to one attempt.
type reply func(*http.Request) (*http.Response, error)

// whole responds with a 200 that has a strong ETag. After n bytes its body ends
// with err, or with io.EOF if err is nil.
func whole(n int, err error) reply {
	return func(req *http.Request) (*http.Response, error) {
		resp := response(req, 200, "")
		resp.Header.Set("ETag", `"v1"`)
		resp.ContentLength = int64(len(alphabet))
		resp.Body = bodyOf(alphabet[:n], err)
		return resp, nil
	}
}

// part responds with a 206 and the requested range. After n bytes of it, or all if
// n is negative, its body ends with err, or with io.EOF if err is nil.
func part(n int, err error) reply {
	return func(req *http.Request) (*http.Response, error) {
		first, last := askedRange(req)
		resp := response(req, 206, "")
		resp.Header.Set("ETag", `"v1"`)
		resp.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, len(alphabet)))
		resp.ContentLength = int64(last + 1 - first)
		if n < 0 {
			n = last + 1 - first
		}
		resp.Body = bodyOf(alphabet[first:first+n], err)
		return resp, nil
	}
}

// askedRange returns the range of alphabet that req asks for.
func askedRange(req *http.Request) (first, last int) {
	a, b, _ := strings.Cut(strings.TrimPrefix(req.Header.Get("Range"), "bytes="), "-")
	last = len(alphabet) - 1
	if n, err := strconv.Atoi(b); err == nil {
		last = n
	}
	if n, err := strconv.Atoi(a); err == nil {
		return n, last
	}
	return len(alphabet) - last, len(alphabet) - 1 // bytes=-n
}

func bodyOf(s string, err error) io.ReadCloser {
	if err == nil {
		return io.NopCloser(strings.NewReader(s))
	}
	return brokenReader(s, err)
}

// status responds with a status and the alphabet, which must not become part of
// the download.
func status(code int) reply {
	return func(req *http.Request) (*http.Response, error) {
		resp := response(req, code, alphabet)
		resp.Header.Set("ETag", `"v1"`)
		return resp, nil
	}
}

func fails(err error) reply {
	return func(*http.Request) (*http.Response, error) { return nil, err }
}

// with returns a reply whose response is modified by change.
func (r reply) with(change func(*http.Response)) reply {
	return func(req *http.Request) (*http.Response, error) {
		resp, err := r(req)
		if err == nil {
			change(resp)
		}
		return resp, err
	}
}

// An origin is a Base that responds to one attempt after the other and records
// the requests.
type origin struct {
	replies []reply

	mu     sync.Mutex
	sent   []*http.Request
	at     []time.Time
	bodies []*countedBody
}

type countedBody struct {
	io.ReadCloser
	closes atomic.Int32
}

func (b *countedBody) Close() error {
	b.closes.Add(1)
	return b.ReadCloser.Close()
}

func newOrigin(replies ...reply) *origin { return &origin{replies: replies} }

func (o *origin) RoundTrip(req *http.Request) (*http.Response, error) {
	o.mu.Lock()
	o.sent, o.at = append(o.sent, req), append(o.at, time.Now())
	n := len(o.sent)
	o.mu.Unlock()
	if n > len(o.replies) {
		return nil, fmt.Errorf("attempt %d, want no more than %d", n, len(o.replies))
	}
	resp, err := o.replies[n-1](req)
	if err == nil && resp.Body != nil {
		body := &countedBody{ReadCloser: resp.Body}
		resp.Body = body
		o.mu.Lock()
		o.bodies = append(o.bodies, body)
		o.mu.Unlock()
	}
	return resp, err
}

// wantClosed checks that each response body was closed exactly once.
func (o *origin) wantClosed(t *testing.T) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, body := range o.bodies {
		if got := body.closes.Load(); got != 1 {
			t.Errorf("response body %d of %d was closed %d times, want exactly once", i+1, len(o.bodies), got)
		}
	}
}

// ranges returns the Range headers of all requests.
func (o *origin) ranges() []string {
	var ranges []string
	for _, req := range o.sent {
		ranges = append(ranges, req.Header.Get("Range"))
	}
	return ranges
}

// downloads returns rt with o as its Base and with ResumeDownloads.
func (o *origin) downloads(rt httpretry.RetryTransport) *httpretry.RetryTransport {
	rt.Base, rt.ResumeDownloads = o, true
	if rt.Policy == nil {
		rt.Policy = now
	}
	return &rt
}

// download reads the whole response to req and closes it.
func download(t *testing.T, rt http.RoundTripper, req *http.Request) (string, error) {
	t.Helper()
	resp, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatalf("got error %v, want a response", err)
	}
	b, err := io.ReadAll(resp.Body)
	if n, again := resp.Body.Read(make([]byte, 1)); n != 0 || err != nil && again != err || err == nil && again != io.EOF {
		t.Errorf("another Read after the end: got %d bytes and error %v, want none and %v again", n, again, err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	resp.Body.Close()
	if _, err := resp.Body.Read(make([]byte, 1)); err == nil {
		t.Error("Read after Close: got no error")
	}
	return string(b), err
}

func TestDownload_Resumes(t *testing.T) {
	tests := []struct {
		name    string
		replies []reply
		ranges  []string
		reason  string
	}{
		{"no break", []reply{whole(26, nil)}, []string{""}, "nothing to do"},
		{"one break", []reply{whole(10, errBreak), part(-1, nil)}, []string{"", "bytes=10-"}, "from the first missing byte"},
		{"several", []reply{whole(10, errBreak), part(1, errBreak), part(2, io.ErrUnexpectedEOF), part(-1, nil)},
			[]string{"", "bytes=10-", "bytes=11-", "bytes=13-"}, "each from the first missing byte"},
		{"before the first byte", []reply{whole(0, errBreak), part(-1, nil)}, []string{"", "bytes=0-"}, "all bytes are missing"},
		{"again and again before the first byte", []reply{whole(0, errBreak), part(0, errBreak), part(0, nil), part(-1, nil)},
			[]string{"", "bytes=0-", "bytes=0-", "bytes=0-"}, "as long as the policy allows"},
		{"before the last byte", []reply{whole(25, errBreak), part(-1, nil)}, []string{"", "bytes=25-"}, "one byte is a part"},
		{"ends early", []reply{whole(10, nil), part(3, nil), part(-1, nil)}, []string{"", "bytes=10-", "bytes=13-"}, "io.EOF before Content-Length is a failure"},
		{"errors and statuses in between", []reply{whole(10, errBreak), fails(io.EOF), status(503), status(500), part(-1, nil)},
			[]string{"", "bytes=10-", "bytes=10-", "bytes=10-", "bytes=10-"}, "are retried as usual"},
		{"stall and reset", []reply{whole(10, &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}), part(1, &net.OpError{Op: "read", Err: syscall.ECONNRESET}), part(-1, nil)},
			[]string{"", "bytes=10-", "bytes=11-"}, "a read deadline of the connection turns a stall into a failure"},
		{"failure first", []reply{status(503), whole(10, errBreak), part(-1, nil)}, []string{"", "", "bytes=10-"}, "the response to a retry is resumed too"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := newOrigin(tt.replies...)
			got, err := download(t, o.downloads(httpretry.RetryTransport{}), newRequest(t, "GET", "http://example.com/", nil))
			if got != alphabet || err != nil {
				t.Errorf("got %q, %v, want the alphabet: %s", got, err, tt.reason)
			}
			if diff := cmp.Diff(tt.ranges, o.ranges()); diff != "" {
				t.Errorf("Range headers (-want +got): %s\n%s", tt.reason, diff)
			}
			for _, req := range o.sent {
				if want := req.Header.Get("Range") != ""; want != (req.Header.Get("If-Range") == `"v1"`) {
					t.Errorf("got If-Range %q with Range %q", req.Header.Get("If-Range"), req.Header.Get("Range"))
				}
			}
			o.wantClosed(t)
		})
	}
}

// A candidate is a first response that can or cannot be resumed.
type candidate struct {
	name   string
	req    func(*http.Request)  // nil: a plain GET
	resp   func(*http.Response) // nil: a 200 with a strong ETag
	want   bool
	reason string
}

// setting removes the ETag and sets header fields.
func setting(namesAndValues ...string) func(*http.Response) {
	return func(resp *http.Response) {
		resp.Header.Del("ETag")
		for name, values := range headerOf(namesAndValues...) {
			resp.Header[name] = values
		}
	}
}

func asking(ranges ...string) func(*http.Request) {
	return func(r *http.Request) { r.Header["Range"] = ranges }
}

// ranged turns a response into a 206 with the whole alphabet.
func ranged(change func(*http.Response)) func(*http.Response) {
	return func(resp *http.Response) {
		resp.StatusCode = 206
		resp.Header.Set("Content-Range", "bytes 0-25/26")
		if change != nil {
			change(resp)
		}
	}
}

var byRequestAndContent = []candidate{
	{"GET", nil, nil, true, "200 with a strong ETag"},
	{"no method", func(r *http.Request) { r.Method = "" }, nil, true, "is GET"},
	{"HEAD", func(r *http.Request) { r.Method = "HEAD" }, nil, false, "Range is for GET only"},
	{"POST", func(r *http.Request) { r.Method = "POST" }, nil, false, "Range is for GET only"},
	{"PUT", func(r *http.Request) { r.Method = "PUT" }, nil, false, "Range is for GET only"},
	{"with a body", func(r *http.Request) {
		r.Body = io.NopCloser(strings.NewReader("x"))
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("x")), nil }
	}, nil, false, "a body in a GET has no defined meaning: RFC 9110, section 9.3.1"},
	{"101", nil, func(r *http.Response) { r.StatusCode = 101 }, false, "the bytes of another protocol"},
	{"203", nil, func(r *http.Response) { r.StatusCode = 203 }, false, "a proxy may have changed it"},
	{"404", nil, func(r *http.Response) { r.StatusCode = 404 }, false, "not the resource"},
	{"Uncompressed", nil, func(r *http.Response) { r.Uncompressed = true }, false, "offsets are those of the compressed bytes"},
	{"event stream", nil, setting("Etag", `"v1"`, "Content-Type", "Text/Event-Stream; charset=utf-8"), false, "is resumed with Last-Event-ID"},
	{"multipart/byteranges", nil, setting("Etag", `"v1"`, "Content-Type", "multipart/byteranges; boundary=x"), false, "several parts"},
	{"empty", nil, func(r *http.Response) { r.ContentLength = 0 }, false, "nothing can be missing"},
	{"length unknown", nil, func(r *http.Response) { r.ContentLength = -1 }, true, "the next response has it"},
}

const noon, minuteAgo, justNow = "Mon, 02 Nov 2026 12:00:00 GMT", "Mon, 02 Nov 2026 11:59:00 GMT", "Mon, 02 Nov 2026 11:59:01 GMT"

var byValidator = []candidate{
	{"no validator", nil, setting(), false, "the rest could be of another representation"},
	{"weak ETag", nil, setting("Etag", `W/"v1"`), false, "other bytes may have the same ETag"},
	{"weak ETag in lower case", nil, setting("Etag", `w/"v1"`), false, "no entity tag at all"},
	{"weak ETag with a date", nil, setting("Etag", `W/"v1"`, "Last-Modified", minuteAgo, "Date", noon), false, "the weak ETag takes precedence"},
	{"empty ETag", nil, setting("Etag", `""`), true, "is one"},
	{"ETag of other characters", nil, setting("Etag", "\"!#\x80\xff~\""), true, "RFC 9110, section 8.8.3"},
	{"bare ETag", nil, setting("Etag", `v1`), false, "not quoted"},
	{"half an ETag", nil, setting("Etag", `"`), false, "not quoted"},
	{"ETag with a space", nil, setting("Etag", `"v 1"`), false, "RFC 9110, section 8.8.3"},
	{"list of ETags", nil, setting("Etag", `"v1", "v2"`), false, "ambiguous"},
	{"two ETags", nil, setting("Etag", `"v1"`, "Etag", `"v2"`), false, "ambiguous"},
	{"date", nil, setting("Last-Modified", minuteAgo, "Date", noon), true, "unchanged for a minute"},
	{"date in another form", nil, setting("Last-Modified", "Monday, 02-Nov-26 11:00:00 GMT", "Date", noon), true, "RFC 9110, section 5.6.7"},
	{"recent date", nil, setting("Last-Modified", justNow, "Date", noon), false, "may change again within the same second"},
	{"date of the future", nil, setting("Last-Modified", noon, "Date", minuteAgo), false, "clocks differ"},
	{"date without Date", nil, setting("Last-Modified", minuteAgo), false, "its age is not known"},
	{"date with a malformed Date", nil, setting("Last-Modified", minuteAgo, "Date", "noon"), false, "its age is not known"},
	{"malformed date", nil, setting("Last-Modified", "yesterday", "Date", noon), false, "no validator"},
	{"two dates", nil, setting("Last-Modified", minuteAgo, "Last-Modified", justNow, "Date", noon), false, "ambiguous"},
}

var byRange = []candidate{
	{"206 without being asked", nil, ranged(nil), false, "not requested"},
	{"206", asking("bytes=0-25"), ranged(nil), true, "the caller's own range"},
	{"206, open", asking("bytes=0-"), ranged(nil), true, "the caller's own range"},
	{"206, suffix", asking("bytes=-26"), ranged(nil), true, "the caller's own range"},
	{"206, total unknown", asking("bytes=0-25"),
		ranged(func(r *http.Response) { r.Header.Set("Content-Range", "bytes 0-25/*") }), true, "its end is known nevertheless"},
	{"206, several ranges", asking("bytes=0-9,10-25"), ranged(nil), false, "ambiguous"},
	{"206, several Range headers", asking("bytes=0-25", "bytes=3-"), ranged(nil), false, "ambiguous"},
	{"206, multipart", asking("bytes=0-25"),
		ranged(func(r *http.Response) { r.Header.Set("Content-Type", "Multipart/ByteRanges; boundary=x") }), false, "several parts"},
	{"206 without Content-Range", asking("bytes=0-25"),
		ranged(func(r *http.Response) { r.Header.Del("Content-Range") }), false, "no valid range"},
	{"206, malformed", asking("bytes=0-25"),
		ranged(func(r *http.Response) { r.Header.Set("Content-Range", "bytes 25-0/26") }), false, "no valid range"},
	{"206, other unit", asking("lines=0-25"),
		ranged(func(r *http.Response) { r.Header.Set("Content-Range", "lines 0-25/26") }), false, "lines are not bytes"},
	{"206 that contradicts itself", asking("bytes=0-25"),
		ranged(func(r *http.Response) { r.Header.Set("Content-Range", "bytes 0-24/26") }), false, "its length is not that of its range"},
	{"200 with Content-Range", asking("bytes=0-25"),
		func(r *http.Response) { r.Header.Set("Content-Range", "bytes 0-25/26") }, false, "the server may have obeyed or ignored Range: RFC 9110, section 14.4"},
	{"200 with Content-Range, without Range", nil,
		func(r *http.Response) { r.Header.Set("Content-Range", "bytes 0-25/26") }, false, "Content-Range has no meaning in a 200: RFC 9110, section 14.4"},
	{"200 to several ranges", asking("bytes=0-9,20-25"), nil, true, "the server ignored Range"},
}

func TestDownload_ResumableResponses(t *testing.T) {
	for _, c := range slices.Concat(byRequestAndContent, byValidator, byRange) {
		t.Run(c.name, c.test)
	}
}

func (c candidate) test(t *testing.T) {
	first := whole(10, errBreak)
	if c.resp != nil {
		first = first.with(c.resp)
	}
	rest := part(-1, nil).with(func(resp *http.Response) {
		if c.resp != nil {
			length := resp.ContentLength
			contentRange := resp.Header["Content-Range"]
			c.resp(resp)
			resp.StatusCode, resp.ContentLength, resp.Header["Content-Range"] = 206, length, contentRange
		}
	})
	o := newOrigin(first, rest)
	req := newRequest(t, "GET", "http://example.com/", nil)
	if c.req != nil {
		c.req(req)
	}
	resp, err := o.downloads(httpretry.RetryTransport{}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if untouched := resp.Body == io.ReadCloser(o.bodies[0]); untouched == c.want {
		t.Errorf("body passed through unchanged: %v, want %v: %s", untouched, !c.want, c.reason)
	}
	got, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if c.want && (string(got) != alphabet || err != nil) {
		t.Errorf("got %q, %v, want the alphabet: %s", got, err, c.reason)
	}
	if !c.want && (string(got) != alphabet[:10] || err != errBreak || len(o.sent) != 1) {
		t.Errorf("got %q, %v in %d attempts, want the first ten letters and the error, in one: %s", got, err, len(o.sent), c.reason)
	}
	o.wantClosed(t)
}

// withHeader returns a reply with the rest and with a header field that is set.
func withHeader(name string, values ...string) reply {
	return part(-1, nil).with(func(r *http.Response) { r.Header[name] = values })
}

// shifted returns a reply with another range than the requested one.
func shifted(first, last, total int) reply {
	return part(-1, nil).with(func(r *http.Response) {
		r.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, total))
		r.ContentLength = int64(last + 1 - first)
		r.Body = io.NopCloser(strings.NewReader(strings.Repeat("x", last+1-first)))
	})
}

// continuations are the responses to the request for the eleventh letter and all
// letters after it.
var continuations = []struct {
	name   string
	rest   reply
	want   bool
	reason string
}{
	{"the rest", part(-1, nil), true, "the requested range"},
	{"total unknown", withHeader("Content-Range", "bytes 10-25/*"), true, "it is known from the first response"},
	{"length unknown", part(-1, nil).with(func(r *http.Response) { r.ContentLength = -1 }), true, "it follows from the range"},
	{"unit in upper case", withHeader("Content-Range", "BYTES 10-25/26"), true, "RFC 9110, section 14.1"},

	{"200", status(200), false, "it has changed, or the server does not support ranges"},
	{"204", status(204), false, "not a part"},
	{"304", status(304), false, "not a part"},
	{"401", status(401), false, "the credentials have expired"},
	{"403", status(403), false, "the signature of the URL has expired"},
	{"404", status(404), false, "it was removed"},
	{"412", status(412), false, "it has changed"},
	{"416", status(416), false, "it has shrunk"},
	{"200 that looks like a part", part(-1, nil).with(func(r *http.Response) { r.StatusCode = 200 }), false, "Content-Range has no meaning in a 200"},
	{"starts early", shifted(9, 25, 26), false, "a byte would be repeated"},
	{"starts late", shifted(11, 25, 26), false, "a byte would be missing"},
	{"starts again", shifted(0, 25, 26), false, "ten bytes would be repeated"},
	{"ends early", shifted(10, 24, 26), false, "a byte would be missing"},
	{"ends late", shifted(10, 26, 27), false, "the first response had no such byte"},
	{"other total", withHeader("Content-Range", "bytes 10-25/27"), false, "another representation"},
	{"no Content-Range", part(-1, nil).with(func(r *http.Response) { r.Header.Del("Content-Range") }), false, "no valid range"},
	{"empty Content-Range", withHeader("Content-Range", ""), false, "malformed"},
	{"two Content-Ranges", withHeader("Content-Range", "bytes 10-25/26", "bytes 10-25/26"), false, "malformed"},
	{"two in one", withHeader("Content-Range", "bytes 10-25/26, bytes 0-9/26"), false, "malformed"},
	{"syntax of Range", withHeader("Content-Range", "bytes=10-25/26"), false, "malformed"},
	{"syntax of 416", withHeader("Content-Range", "bytes */26"), false, "malformed"},
	{"backwards", withHeader("Content-Range", "bytes 25-10/26"), false, "malformed"},
	{"overflow", withHeader("Content-Range", "bytes 10-18446744073709551641/26"), false, "malformed"},
	{"other unit", withHeader("Content-Range", "letters 10-25/26"), false, "letters are not bytes"},
	{"other ETag", withHeader("Etag", `"v2"`), false, "another representation"},
	{"weak ETag", withHeader("Etag", `W/"v1"`), false, "other bytes may have the same ETag"},
	{"no ETag", part(-1, nil).with(func(r *http.Response) { r.Header.Del("ETag") }), false, "a 206 must repeat it: RFC 9110, section 15.3.7"},
	{"two ETags", withHeader("Etag", `"v1"`, `"v2"`), false, "ambiguous"},
	{"shorter than it says", part(-1, nil).with(func(r *http.Response) { r.ContentLength-- }), false, "contradicts itself"},
	{"longer than it says", part(-1, nil).with(func(r *http.Response) { r.ContentLength++ }), false, "contradicts itself"},
	{"empty", part(-1, nil).with(func(r *http.Response) { r.Body, r.ContentLength = http.NoBody, 0 }), false, "contradicts itself"},
	{"no body", part(-1, nil).with(func(r *http.Response) { r.Body = nil }), false, "a breach of contract"},
	{"compressed", withHeader("Content-Encoding", "gzip"), false, "other bytes"},
	{"Uncompressed", part(-1, nil).with(func(r *http.Response) { r.Uncompressed = true }), false, "other bytes"},
	{"multipart", withHeader("Content-Type", "multipart/byteranges; boundary=x"), false, "headers separate the parts"},
}

// A download continues only with the rest of the same representation. After any
// other response the caller gets the original error, and not one byte more.
func TestDownload_RejectsMismatchedParts(t *testing.T) {
	for _, tt := range continuations {
		t.Run(tt.name, func(t *testing.T) {
			o := newOrigin(whole(10, errBreak), tt.rest)
			got, err := download(t, o.downloads(httpretry.RetryTransport{}), newRequest(t, "GET", "http://example.com/", nil))
			switch {
			case len(o.sent) != 2:
				t.Errorf("%d attempts, want 2: %s", len(o.sent), tt.reason)
			case tt.want && (got != alphabet || err != nil):
				t.Errorf("got %q, %v, want the alphabet: %s", got, err, tt.reason)
			case !tt.want && (got != alphabet[:10] || err != errBreak):
				t.Errorf("got %q, %v, want the first ten letters and the original error: %s", got, err, tt.reason)
			}
			o.wantClosed(t)
		})
	}
}

// The first response may lack a length, or have a date or a content coding that
// must stay the same.
func TestDownload_PartsWhenLessIsKnown(t *testing.T) {
	unknown := func(r *http.Response) { r.ContentLength = -1 }
	spanning := func(value string) func(*http.Response) {
		return func(r *http.Response) { r.Header.Set("Content-Range", value) }
	}
	const earlier, later = "Mon, 02 Nov 2026 10:00:00 GMT", "Mon, 02 Nov 2026 10:00:01 GMT"
	dated := func(modified string) func(*http.Response) {
		return func(r *http.Response) {
			r.Header.Del("ETag")
			r.Header.Set("Date", noon)
			if modified != "" {
				r.Header.Set("Last-Modified", modified)
			}
		}
	}
	coded := func(codings ...string) func(*http.Response) {
		return func(r *http.Response) { r.Header["Content-Encoding"] = codings }
	}
	tests := []struct {
		name        string
		first, rest func(*http.Response)
		want        bool
		reason      string
	}{
		{"length in the part", unknown, nil, true, "the total"},
		{"length unknown", unknown, spanning("bytes 10-25/*"), false, "the part may be shorter than the rest"},
		{"not the end", unknown, spanning("bytes 10-25/27"), false, "a byte would be missing"},
		{"same date", dated(earlier), dated(earlier), true, "unchanged"},
		{"no date", dated(earlier), dated(""), true, "it was in If-Range: RFC 9110, section 15.3.7"},
		{"other date", dated(earlier), dated(later), false, "changed"},
		{"ETag for a date", dated(earlier), nil, false, "perhaps from another server"},
		{"same coding", coded("gzip"), coded("gzip"), true, "the offsets are those of the coded bytes"},
		{"no coding", coded("gzip"), nil, false, "perhaps not the coded bytes"},
		{"one coding more", coded("gzip"), coded("gzip", "br"), false, "other bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rest := part(-1, nil)
			if tt.rest != nil {
				rest = rest.with(tt.rest)
			}
			o := newOrigin(whole(10, errBreak).with(tt.first), rest)
			got, err := download(t, o.downloads(httpretry.RetryTransport{}), newRequest(t, "GET", "http://example.com/", nil))
			if tt.want && (got != alphabet || err != nil) {
				t.Errorf("got %q, %v, want the alphabet: %s", got, err, tt.reason)
			}
			if !tt.want && (got != alphabet[:10] || err != errBreak) {
				t.Errorf("got %q, %v, want the first ten letters and the original error: %s", got, err, tt.reason)
			}
			if want := o.sent[1].Header.Get("If-Range"); want != `"v1"` && want != earlier {
				t.Errorf("got If-Range %q, want the validator of the first response", want)
			}
			o.wantClosed(t)
		})
	}
}

// Once the length is known, every later part and the bytes received must agree
// with it.
func TestDownload_LengthsMustAgree(t *testing.T) {
	unknown := func(r *http.Response) { r.ContentLength = -1 }
	total := func(n int) func(*http.Response) {
		return func(r *http.Response) {
			first, _ := askedRange(r.Request)
			r.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, n-1, n))
			r.ContentLength = int64(n - first)
		}
	}
	spanning := func(value string) func(*http.Response) {
		return func(r *http.Response) { r.Header.Set("Content-Range", value) }
	}
	surplus := func(s string) func(*http.Response) {
		return func(r *http.Response) {
			r.ContentLength = -1
			r.Body = io.NopCloser(strings.NewReader(s))
		}
	}
	tests := []struct {
		name    string
		replies []reply
		want    string
		err     error // nil: any, but not io.EOF
		reason  string
	}{
		{"another total later", []reply{whole(10, errBreak).with(unknown), part(5, io.ErrUnexpectedEOF), part(-1, nil).with(total(25))},
			alphabet[:15], io.ErrUnexpectedEOF, "the second part says 26, the third 25"},
		{"more than the range", []reply{whole(10, errBreak), part(-1, nil).with(surplus("klmnopqrstuvwxyz!!"))},
			alphabet, nil, "bytes beyond the end are not returned"},
		{"more than the length", []reply{whole(10, nil).with(func(r *http.Response) { r.Body = io.NopCloser(strings.NewReader(alphabet + "!!")) })},
			alphabet, nil, "bytes beyond the end are not returned"},
		{"another total later, for a range", []reply{part(10, errBreak).with(spanning("bytes 0-19/*")), part(5, io.ErrUnexpectedEOF), part(-1, nil).with(spanning("bytes 15-19/27"))},
			alphabet[:15], io.ErrUnexpectedEOF, "the second part says 26, the third 27"},
		{"fails at the end, length unknown", []reply{whole(26, errBreak).with(unknown), status(416)},
			alphabet, errBreak, "bytes may be missing"},
		{"fails at the end", []reply{whole(26, errBreak)}, alphabet, errBreak, "the trailers may be missing"},
		{"a part fails at the end", []reply{whole(10, nil), part(16, errBreak)}, alphabet, errBreak, "the trailers may be missing"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := newOrigin(tt.replies...)
			req := newRequest(t, "GET", "http://example.com/", nil)
			if strings.HasSuffix(tt.name, "for a range") {
				req.Header.Set("Range", "bytes=0-19")
			}
			got, err := download(t, o.downloads(httpretry.RetryTransport{}), req)
			if got != tt.want || err == nil || tt.err != nil && err != tt.err {
				t.Errorf("got %q, %v, want %q and an error (%v): %s", got, err, tt.want, tt.err, tt.reason)
			}
			if len(o.sent) != len(tt.replies) {
				t.Errorf("%d attempts, want %d: %s", len(o.sent), len(tt.replies), tt.reason)
			}
			o.wantClosed(t)
		})
	}
}

// A download of the caller's own range is resumed within its limits.
func TestDownload_ResumesCallersRange(t *testing.T) {
	tests := []struct{ asked, want, first, second string }{
		{"bytes=5-19", "fghijklmnopqrst", "bytes=9-19", "bytes=12-19"},
		{"bytes=5-", "fghijklmnopqrstuvwxyz", "bytes=9-25", "bytes=12-25"},
		{"bytes=-10", "qrstuvwxyz", "bytes=20-25", "bytes=23-25"},
		{"bytes=0-25", alphabet, "bytes=4-25", "bytes=7-25"},
	}
	for _, tt := range tests {
		t.Run(tt.asked, func(t *testing.T) {
			o := newOrigin(part(4, errBreak), part(3, errBreak), part(-1, nil))
			req := newRequest(t, "GET", "http://example.com/", nil)
			req.Header.Set("Range", tt.asked)
			req.Header.Set("If-Range", `"an older one"`)
			got, err := download(t, o.downloads(httpretry.RetryTransport{}), req)
			if got != tt.want || err != nil {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
			if diff := cmp.Diff([]string{tt.asked, tt.first, tt.second}, o.ranges()); diff != "" {
				t.Errorf("Range headers (-want +got):\n%s", diff)
			}
			if got := o.sent[1].Header["If-Range"]; len(got) != 1 || got[0] != `"v1"` {
				t.Errorf("got If-Range %q, want the ETag of the first response", got)
			}
			o.wantClosed(t)
		})
	}
}

// After new bytes the number of the attempt starts again at 1. Without any, the
// Policy ends the download.
func TestDownload_FollowsPolicy(t *testing.T) {
	doubling := httpretry.RetryConfig{MaxRetries: 3, InitialBackoff: time.Second, Jitter: httpretry.NoJitter}
	steady := httpretry.RetryConfig{MaxRetries: 1000, InitialBackoff: time.Second, BackoffFactor: 1, Jitter: httpretry.NoJitter, MaxElapsed: 3 * time.Second}
	dead := []reply{fails(io.EOF), fails(io.EOF), fails(io.EOF), fails(io.EOF)}
	after := func(d time.Duration, r reply) reply {
		return func(req *http.Request) (*http.Response, error) {
			time.Sleep(d)
			return r(req)
		}
	}
	busy := status(503).with(func(r *http.Response) { r.Header.Set("Retry-After", "20") })
	tests := []struct {
		name    string
		policy  httpretry.Policy
		replies []reply
		at      []int // seconds, when the attempts are made
		err     error
		reason  string
	}{
		{"survives", doubling, []reply{whole(1, errBreak), part(1, errBreak), part(1, errBreak), part(1, errBreak), part(1, errBreak), part(-1, nil)},
			[]int{0, 1, 2, 3, 4, 5}, nil, "each failure after new bytes counts as the first"},
		{"ends", doubling, append([]reply{whole(10, errBreak)}, dead[:3]...), []int{0, 1, 3, 7}, errBreak, "three retries"},
		{"ends later", doubling, append([]reply{whole(10, errBreak), fails(io.EOF), part(1, errBreak)}, dead[:3]...),
			[]int{0, 1, 3, 4, 6, 10}, errBreak, "three retries after the last byte"},
		{"no progress", doubling, []reply{whole(10, errBreak), part(0, errBreak), part(0, nil), part(0, io.ErrUnexpectedEOF)},
			[]int{0, 1, 3, 7}, io.ErrUnexpectedEOF, "an empty body is no progress"},
		{"no progress from the start", doubling, []reply{status(503), whole(0, errBreak), part(0, errBreak), part(0, errBreak)},
			[]int{0, 1, 3, 7}, errBreak, "the count continues"},
		{"asked to wait", doubling, []reply{whole(10, errBreak), busy, part(-1, nil)}, []int{0, 1, 21}, nil, "Retry-After is a floor"},
		{"MaxElapsed", steady, append([]reply{after(10*time.Second, whole(10, errBreak))}, dead[:3]...), []int{0, 11, 12, 13}, errBreak, "counted from the failure"},
		{"MaxElapsed after progress", steady, append([]reply{whole(10, errBreak), fails(io.EOF), part(1, errBreak)}, dead[:3]...),
			[]int{0, 1, 2, 3, 4, 5}, errBreak, "counted from the last failure"},
		{"MaxElapsed without progress", steady, []reply{after(10*time.Second, whole(0, errBreak))}, []int{0}, errBreak, "counted from the start"},
		{"never", httpretry.Never, []reply{whole(10, errBreak)}, []int{0}, errBreak, "the policy never retries"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOrigin(tt.replies...)
				start := time.Now()
				got, err := download(t, o.downloads(httpretry.RetryTransport{Policy: tt.policy}), newRequest(t, "GET", "http://example.com/", nil))
				if err != tt.err || err == nil && got != alphabet || !strings.HasPrefix(alphabet, got) {
					t.Errorf("got %q, %v, want error %v: %s", got, err, tt.err, tt.reason)
				}
				var at []int
				for _, when := range o.at {
					at = append(at, int(when.Sub(start)/time.Second))
				}
				if diff := cmp.Diff(tt.at, at); diff != "" {
					t.Errorf("seconds at which attempts were made (-want +got): %s\n%s", tt.reason, diff)
				}
				o.wantClosed(t)
			})
		})
	}
}

func TestDownload_RespectsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		o := newOrigin(whole(10, errBreak), fails(io.EOF))
		rt := o.downloads(httpretry.RetryTransport{Policy: httpretry.RetryConfig{MaxRetries: 9, Jitter: httpretry.NoJitter}})
		start := time.Now()
		got, err := download(t, rt, newRequest(t, "GET", "http://example.com/", nil).WithContext(ctx))
		if got != alphabet[:10] || err != errBreak || time.Since(start) != time.Second {
			t.Errorf("got %q, %v after %v, want the first ten letters and %v after 1s: the next wait would end after the deadline", got, err, time.Since(start), errBreak)
		}
		o.wantClosed(t)
	})
}

// downloadStages returns the replies that bring a download to a stage and keep it
// there for a second. The last attempt or body ends with its context or its Close.
func downloadStages() map[string][]reply {
	hangs := func(req *http.Request) (*http.Response, error) {
		<-req.Context().Done()
		return nil, req.Context().Err() // not the cause, as with older transports
	}
	hanging := func(r *http.Response) {
		ctx, hung := r.Request.Context(), newHangingBody("")
		context.AfterFunc(ctx, func() { hung.Close() })
		r.Body = hung
	}
	slow := status(503).with(func(r *http.Response) { r.Body, r.ContentLength = newHangingBody("x"), -1 })
	return map[string][]reply{
		"the first body":            {whole(10, nil).with(hanging)},
		"the wait":                  {whole(10, errBreak), fails(io.EOF), fails(io.EOF)},
		"the wait after a response": {whole(10, errBreak), slow, slow},
		"the attempt":               {whole(10, errBreak), hangs},
		"a later body":              {whole(10, errBreak), part(0, nil).with(hanging)},
	}
}

// stagePolicy waits for 0.3 s, then for 300 s.
var stagePolicy = httpretry.RetryConfig{MaxRetries: 9, InitialBackoff: 300 * time.Millisecond, BackoffFactor: 1000, MaxBackoff: time.Hour, Jitter: httpretry.NoJitter}

func TestDownload_EndsImmediately(t *testing.T) {
	cause := errors.New("the reason")
	for stage, replies := range downloadStages() {
		for _, by := range []string{"cancellation", "Close"} {
			t.Run(by+" during "+stage, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithCancelCause(t.Context())
					defer cancel(nil)
					o := newOrigin(replies...)
					rt := o.downloads(httpretry.RetryTransport{Policy: stagePolicy})
					resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil).WithContext(ctx))
					if err != nil {
						t.Fatal(err)
					}
					want := cause
					time.AfterFunc(time.Second, func() { cancel(cause) })
					if by == "Close" {
						want = http.ErrBodyReadAfterClose
						time.AfterFunc(time.Second-1, func() { resp.Body.Close() })
					}
					start := time.Now()
					got, err := io.ReadAll(resp.Body)
					if elapsed := time.Since(start).Round(time.Millisecond); err != want || elapsed != time.Second || !strings.HasPrefix(alphabet, string(got)) {
						t.Errorf("got %q, %v after %v, want %v after 1s", got, err, elapsed, want)
					}
					if _, again := resp.Body.Read(make([]byte, 1)); again != err {
						t.Errorf("another Read: got %v, want %v again", again, err)
					}
					resp.Body.Close()
					synctest.Wait()
					o.wantClosed(t)
				})
			})
		}
	}
}

// A panic in a hook or in Base during a Read that resumes a download reaches the
// caller of Read. It leaves no response open, and the download has ended.
func TestDownload_PanicLeavesNothingOpen(t *testing.T) {
	is := func(resp *http.Response, status int) bool { return resp != nil && resp.StatusCode == status }
	busyThenRest := []reply{whole(10, errBreak), status(503), part(-1, nil)}
	panics := func(*http.Request) (*http.Response, error) { panic("boom") }
	tests := []struct {
		name    string
		rt      httpretry.RetryTransport
		replies []reply
	}{
		{"Base", httpretry.RetryTransport{}, []reply{whole(10, errBreak), panics}},
		{"Base, after a wait", httpretry.RetryTransport{}, []reply{whole(10, errBreak), status(503), panics}},
		{"Base with AttemptTimeout", httpretry.RetryTransport{AttemptTimeout: time.Hour}, []reply{whole(10, errBreak), panics}},
		{"OnAttempt for the failure", httpretry.RetryTransport{OnAttempt: func(a httpretry.Attempt, _ httpretry.Decision) {
			if a.Err != nil {
				panic("boom")
			}
		}}, busyThenRest},
		{"OnAttempt for a response", httpretry.RetryTransport{OnAttempt: func(a httpretry.Attempt, _ httpretry.Decision) {
			if is(a.Response, 503) {
				panic("boom")
			}
		}}, busyThenRest},
		{"OnAttempt for the rest", httpretry.RetryTransport{OnAttempt: func(a httpretry.Attempt, _ httpretry.Decision) {
			if is(a.Response, 206) {
				panic("boom")
			}
		}}, busyThenRest},
		{"Policy for the failure", httpretry.RetryTransport{Policy: policyFunc(func(httpretry.Attempt) (time.Duration, bool) { panic("boom") })}, busyThenRest},
		{"Policy for a response", httpretry.RetryTransport{Policy: policyFunc(func(a httpretry.Attempt) (time.Duration, bool) {
			if is(a.Response, 503) {
				panic("boom")
			}
			return 0, true
		})}, busyThenRest},
		{"Classifier", httpretry.RetryTransport{Classifier: func(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
			if is(resp, 206) {
				panic("boom")
			}
			return httpretry.DefaultClassifier(req, resp, err)
		}}, busyThenRest},
		{"Idempotent", httpretry.RetryTransport{Idempotent: func(*http.Request) bool { panic("boom") }}, busyThenRest},
		{"Budget", httpretry.RetryTransport{Budget: refusing(func(resp *http.Response) { panic("boom") })}, busyThenRest},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOrigin(tt.replies...)
				resp, err := o.downloads(tt.rt).RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
				if err != nil {
					t.Fatal(err)
				}
				func() {
					defer func() {
						if got := recover(); got != "boom" {
							t.Errorf("recovered %v, want the panic", got)
						}
					}()
					got, err := io.ReadAll(resp.Body)
					t.Errorf("Read returned %q, %v, want a panic", got, err)
				}()
				for range 2 {
					if n, err := resp.Body.Read(make([]byte, 1)); n != 0 || err != errBreak {
						t.Errorf("Read after the panic returned %d, %v, want 0, %v", n, err, errBreak)
					}
				}
				synctest.Wait()
				o.wantClosed(t)
				if err := resp.Body.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
				o.wantClosed(t)
				for i, req := range o.sent[1:] {
					if req.Context().Err() == nil {
						t.Errorf("context of attempt %d is not canceled after Close", i+2)
					}
				}
			})
		})
	}
}

// A panic in OnDone leaves nothing open either.
func TestDownload_PanicInOnDone(t *testing.T) {
	for name, replies := range map[string][]reply{
		"complete":     {whole(10, errBreak), part(-1, nil)},
		"rejected":     {whole(10, errBreak), status(404)},
		"attempt ends": {whole(10, errBreak), fails(httpretry.Permanent(errBreak))},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(replies...)
			rt := o.downloads(httpretry.RetryTransport{OnDone: func(httpretry.Summary) { panic("boom") }})
			resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
			if err != nil {
				t.Fatal(err)
			}
			func() {
				defer func() {
					if got := recover(); got != "boom" {
						t.Errorf("recovered %v, want the panic", got)
					}
				}()
				io.ReadAll(resp.Body)
			}()
			if n, err := resp.Body.Read(make([]byte, 1)); n != 0 || err == nil {
				t.Errorf("Read after the panic returned %d, %v, want an error", n, err)
			}
			if err := resp.Body.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			o.wantClosed(t)
		})
	}
}

// However a download is interrupted, also in a wait, OnDone is called once.
func TestOnDone_InterruptedDownload(t *testing.T) {
	cause := errors.New("cause")
	for stage, replies := range downloadStages() {
		for _, by := range []string{"cancellation", "Close"} {
			t.Run(by+" during "+stage, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithCancelCause(t.Context())
					defer cancel(nil)
					var summaries []httpretry.Summary
					o := newOrigin(replies...)
					rt := o.downloads(httpretry.RetryTransport{Policy: stagePolicy, OnDone: func(s httpretry.Summary) { summaries = append(summaries, s) }})
					resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil).WithContext(ctx))
					if err != nil {
						t.Fatal(err)
					}
					end := func() { cancel(cause) }
					if by == "Close" {
						end = func() { resp.Body.Close() }
					}
					time.AfterFunc(time.Second, end)
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					synctest.Wait()
					if len(summaries) != 1 {
						t.Fatalf("OnDone was called %d times, want once", len(summaries))
					}
					s := summaries[0]
					if s.Attempts != len(o.sent) || s.Elapsed != time.Second {
						t.Errorf("got %d attempts in %v, want %d in 1s", s.Attempts, s.Elapsed, len(o.sent))
					}
					if by == "cancellation" && (s.Reason != "canceled" || s.Err != cause) {
						t.Errorf("got reason %q and error %v, want \"canceled\" and %v", s.Reason, s.Err, cause)
					}
				})
			})
		}
	}
}

// Close may be called at any time, also during a Read.
func TestDownload_CloseDuringRead(t *testing.T) {
	replies := []reply{whole(1, errBreak)}
	for range 24 {
		replies = append(replies, part(1, errBreak), fails(io.EOF), status(503))
	}
	for i := range 500 {
		synctest.Test(t, func(t *testing.T) {
			o := newOrigin(replies...)
			resp, err := o.downloads(httpretry.RetryTransport{}).RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				go func() {
					for range rand.IntN(i + 1) {
						runtime.Gosched()
					}
					resp.Body.Close()
				}()
			}
			got, err := io.ReadAll(resp.Body)
			if err == nil || !strings.HasPrefix(alphabet, string(got)) {
				t.Errorf("got %q, %v, want a prefix of the alphabet and an error", got, err)
			}
			synctest.Wait()
			o.wantClosed(t)
		})
	}
}

// A download makes no attempt and has no goroutine while the caller does not read.
func TestDownload_ResumesOnlyWhenRead(t *testing.T) {
	running := goleak.IgnoreCurrent()
	o := newOrigin(whole(10, errBreak), part(10, errBreak), part(-1, nil))
	resp, err := o.downloads(httpretry.RetryTransport{}).RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{alphabet[:10], alphabet[10:20]} {
		buf := make([]byte, 10)
		if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != want {
			t.Errorf("got %q, %v, want %q", buf, err, want)
		}
		if len(o.sent) != i+1 {
			t.Errorf("%d attempts before a Read beyond the failure, want %d", len(o.sent), i+1)
		}
		if err := goleak.Find(running); err != nil {
			t.Errorf("without a Read: %v", err)
		}
	}
	resp.Body.Close()
	o.wantClosed(t)
}

// The end of a download frees its context, even if the caller does not close it.
func TestDownload_FreesContext(t *testing.T) {
	for _, last := range []reply{part(-1, nil), status(404), fails(io.EOF)} {
		o := newOrigin(whole(10, errBreak), part(5, errBreak), last)
		policy := policyFunc(func(a httpretry.Attempt) (time.Duration, bool) { return 0, a.Number < 2 })
		resp, err := o.downloads(httpretry.RetryTransport{Policy: policy}).RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 12)
		if _, err := io.ReadFull(resp.Body, buf); err != nil || o.sent[1].Context().Err() != nil {
			t.Errorf("got %v and a context with %v in the middle of the download, want none", err, o.sent[1].Context().Err())
		}
		io.Copy(io.Discard, resp.Body)
		for i, req := range o.sent[1:] {
			if req.Context().Err() == nil {
				t.Errorf("the context of attempt %d outlives the download", i+2)
			}
		}
		resp.Body.Close()
	}
}

func TestDownload_CallsOnAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin(status(503), whole(10, errBreak), fails(io.EOF), status(500), part(5, nil), status(404))
		var calls []string
		rt := o.downloads(httpretry.RetryTransport{
			Policy: httpretry.RetryConfig{MaxRetries: 5, Jitter: httpretry.NoJitter},
			OnAttempt: func(a httpretry.Attempt, d httpretry.Decision) {
				outcome := fmt.Sprint(a.Err)
				if a.Response != nil {
					outcome = fmt.Sprint(a.Response.StatusCode)
				}
				calls = append(calls, fmt.Sprintf("%d after %v: %s; then %v %q, at %v", a.Number, a.Delay, outcome, d.Delay, d.Reason, a.Elapsed))
			},
		})
		req := newRequest(t, "GET", "http://example.com/", nil)
		got, err := download(t, rt, req)
		if got != alphabet[:15] || err != io.ErrUnexpectedEOF {
			t.Errorf("got %q, %v, want the first fifteen letters and %v", got, err, io.ErrUnexpectedEOF)
		}
		want := []string{
			`1 after 0s: 503; then 1s "", at 0s`,
			`2 after 1s: 200; then 0s "final", at 1s`,
			`1 after 0s: the body failed; then 1s "", at 0s`,
			`2 after 1s: EOF; then 2s "", at 1s`,
			`3 after 2s: 500; then 4s "", at 3s`,
			`4 after 4s: 206; then 0s "final", at 7s`,
			`1 after 0s: unexpected EOF; then 1s "", at 0s`,
			`2 after 1s: 404; then 0s "final", at 1s`,
		}
		if diff := cmp.Diff(want, calls); diff != "" {
			t.Errorf("OnAttempt (-want +got):\n%s", diff)
		}
		for i, want := range []int{1, 2, 2, 3, 4, 2} {
			if got := httpretry.AttemptNumber(o.sent[i].Context()); got != want {
				t.Errorf("request %d: got attempt number %d, want %d", i+1, got, want)
			}
		}
		o.wantClosed(t)
	})
}

// All fields of the RetryTransport apply to the attempts of a download too.
func TestDownload_UsesAllFields(t *testing.T) {
	final := func(_ *http.Request, _ *http.Response, err error) httpretry.Verdict { return httpretry.Verdict{} }
	strange := func(_ *http.Request, resp *http.Response, err error) httpretry.Verdict {
		if resp != nil && resp.StatusCode == 206 || err != nil {
			return httpretry.Verdict{Outcome: httpretry.Uncertain}
		}
		return httpretry.Verdict{}
	}
	twice := policyFunc(func(a httpretry.Attempt) (time.Duration, bool) { return 0, a.Number < 3 })
	tests := []struct {
		name     string
		rt       httpretry.RetryTransport
		replies  []reply
		attempts int
		err      error
		reason   string
	}{
		{"classifier", httpretry.RetryTransport{Classifier: final}, []reply{whole(10, errBreak)}, 1, errBreak, "the failure is final"},
		{"classifier that accepts no part", httpretry.RetryTransport{Classifier: strange, Policy: twice},
			[]reply{whole(10, errBreak), part(-1, nil), part(-1, nil)}, 3, nil, "the last part is used when the policy allows no retry"},
		{"policy", httpretry.RetryTransport{Policy: httpretry.Never}, []reply{whole(10, errBreak)}, 1, errBreak, "it allows no retry"},
		{"idempotent", httpretry.RetryTransport{Idempotent: func(*http.Request) bool { return false }}, []reply{whole(10, errBreak)}, 1, errBreak, "the failure is uncertain"},
		{"budget", httpretry.RetryTransport{Budget: &httpretry.TokenBudget{Ratio: -1, MinPerSecond: -1, Burst: 1}},
			[]reply{whole(10, errBreak), part(1, errBreak)}, 2, errBreak, "it allows one retry"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := newOrigin(tt.replies...)
			_, err := download(t, o.downloads(tt.rt), newRequest(t, "GET", "http://example.com/", nil))
			if err != tt.err || len(o.sent) != tt.attempts {
				t.Errorf("got %v after %d attempts, want %v after %d: %s", err, len(o.sent), tt.err, tt.attempts, tt.reason)
			}
			o.wantClosed(t)
		})
	}
	t.Run("Override", func(t *testing.T) {
		o := newOrigin(whole(10, errBreak))
		req := newRequest(t, "GET", "http://example.com/", nil)
		req = req.WithContext(withPolicy(req.Context(), httpretry.Never))
		if _, err := download(t, o.downloads(httpretry.RetryTransport{}), req); err != errBreak {
			t.Errorf("got %v, want %v: the policy of the request allows no retry", err, errBreak)
		}
	})
}

func TestDownload_DoesNotModifyRequest(t *testing.T) {
	for _, header := range []http.Header{{"X-Test": {"1"}, "Range": {"bytes=0-25"}}, nil} {
		first := whole(10, errBreak)
		if header != nil {
			first = part(10, errBreak)
		}
		o := newOrigin(first, part(3, errBreak), part(-1, nil))
		req := newRequest(t, "GET", "http://example.com/", nil)
		req.Header = header
		before := *req
		want := header.Clone()
		if got, err := download(t, o.downloads(httpretry.RetryTransport{}), req); got != alphabet || err != nil {
			t.Errorf("got %q, %v, want the alphabet", got, err)
		}
		if diff := cmp.Diff(want, req.Header); diff != "" || req.Context() != before.Context() || req.URL != before.URL {
			t.Errorf("the caller's request was modified, its header (-want +got):\n%s", diff)
		}
		if header != nil && o.sent[1].Header.Get("X-Test") != "1" {
			t.Error("the caller's header is missing in the request for the rest")
		}
	}
}

// Middleware below a RetryTransport can sign the requests of a download as any
// other.
func TestDownload_MiddlewareSignsEachAttempt(t *testing.T) {
	o := newOrigin(whole(10, errBreak), status(503), part(-1, nil))
	signer := roundTripFunc(func(req *http.Request) (*http.Response, error) {
		n := httpretry.AttemptNumber(req.Context())
		req = req.Clone(req.Context())
		req.Header.Set("Authorization", fmt.Sprintf("%d %q %q", n, req.Header.Get("Range"), req.Header.Get("If-Range")))
		return o.RoundTrip(req)
	})
	rt := &httpretry.RetryTransport{Base: signer, Policy: now, ResumeDownloads: true}
	if got, err := download(t, rt, newRequest(t, "GET", "http://example.com/", nil)); got != alphabet || err != nil {
		t.Errorf("got %q, %v, want the alphabet", got, err)
	}
	for i, want := range []string{`1 "" ""`, `2 "bytes=10-" "\"v1\""`, `3 "bytes=10-" "\"v1\""`} {
		if got := o.sent[i].Header["Authorization"]; len(got) != 1 || got[0] != want {
			t.Errorf("request %d: got signature %q, want %q alone", i+1, got, want)
		}
	}
}

func TestDownload_AttemptTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			return nil, context.Cause(req.Context())
		}
		slow := func(r *http.Response) {
			r.Body = &contextBody{ctx: r.Request.Context(), after: time.Minute, data: alphabet[10:]}
		}
		o := newOrigin(whole(10, errBreak), hangs, part(-1, nil).with(slow))
		rt := o.downloads(httpretry.RetryTransport{AttemptTimeout: time.Second})
		start := time.Now()
		got, err := download(t, rt, newRequest(t, "GET", "http://example.com/", nil))
		if elapsed := time.Since(start); got != alphabet || err != nil || elapsed < 61*time.Second || elapsed > 3*time.Minute {
			t.Errorf("got %q, %v after %v, want the alphabet: the timeout limits each attempt up to its header", got, err, elapsed)
		}
		o.wantClosed(t)
		for i, req := range o.sent[1:] {
			if req.Context().Err() == nil {
				t.Errorf("the context of attempt %d outlives the download", i+2)
			}
		}
	})
}

func TestDownload_MaxResponseBytes(t *testing.T) {
	tests := []struct {
		name    string
		limit   int64
		replies []reply
		ranges  []string
		reason  string
	}{
		{"fits", 26, []reply{whole(10, errBreak), whole(26, nil)}, []string{"", ""}, "the buffered response is requested again from its first byte"},
		{"does not fit", 5, []reply{whole(10, errBreak), part(8, errBreak), part(-1, nil)}, []string{"", "bytes=10-", "bytes=18-"}, "the part that the caller has read is resumed"},
		{"the rest fits", 16, []reply{whole(20, errBreak), part(3, errBreak), part(-1, nil)}, []string{"", "bytes=20-", "bytes=20-"}, "the buffered part is requested again from its first byte"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := newOrigin(tt.replies...)
			got, err := download(t, o.downloads(httpretry.RetryTransport{MaxResponseBytes: tt.limit}), newRequest(t, "GET", "http://example.com/", nil))
			if got != alphabet || err != nil {
				t.Errorf("got %q, %v, want the alphabet: %s", got, err, tt.reason)
			}
			if diff := cmp.Diff(tt.ranges, o.ranges()); diff != "" {
				t.Errorf("Range headers (-want +got): %s\n%s", tt.reason, diff)
			}
			o.wantClosed(t)
		})
	}
	t.Run("buffered bytes are used", func(t *testing.T) {
		once := policyFunc(func(a httpretry.Attempt) (time.Duration, bool) { return 0, a.Number < 2 })
		o := newOrigin(whole(20, errBreak), part(3, errBreak), part(-1, nil))
		got, err := download(t, o.downloads(httpretry.RetryTransport{MaxResponseBytes: 16, Policy: once}), newRequest(t, "GET", "http://example.com/", nil))
		if diff := cmp.Diff([]string{"", "bytes=20-", "bytes=23-"}, o.ranges()); diff != "" || got != alphabet || err != nil {
			t.Errorf("got %q, %v, want the alphabet; Range headers (-want +got):\n%s", got, err, diff)
		}
		o.wantClosed(t)
	})
}

func TestDownload_TrailersOfLastPart(t *testing.T) {
	for _, announced := range []bool{true, false} {
		// As in net/http, announced trailers are keys of the map from the start.
		trailing := func(sum string) func(*http.Response) {
			return func(r *http.Response) {
				if announced {
					r.Trailer = http.Header{"X-Sum": nil}
				}
				body := r.Body
				r.Body = closeFunc{readFunc{body, func(err error) {
					if err == io.EOF {
						r.Trailer = http.Header{"X-Sum": {sum}}
					}
				}}, func() {}}
			}
		}
		o := newOrigin(whole(10, errBreak).with(trailing("first")), part(-1, nil).with(trailing("last")))
		resp, err := o.downloads(httpretry.RetryTransport{}).RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
		if err != nil {
			t.Fatal(err)
		}
		copied := *resp // as middleware may do
		if got := readAll(t, resp); got != alphabet || resp.Trailer.Get("X-Sum") != "last" {
			t.Errorf("got %q and trailer %q, want the alphabet and %q", got, resp.Trailer.Get("X-Sum"), "last")
		}
		if announced && copied.Trailer.Get("X-Sum") != "last" {
			t.Errorf("a copy of the response has trailer %q, want %q too: the map is the same", copied.Trailer.Get("X-Sum"), "last")
		}
	}
}

// A readFunc calls f with the error of each Read.
type readFunc struct {
	io.ReadCloser
	f func(error)
}

func (r readFunc) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.f(err)
	return n, err
}

// A response that cannot be resumed costs no allocation.
func TestDownload_NotResumableAllocatesNothing(t *testing.T) {
	tests := []struct {
		name   string
		method string
		status int
		header http.Header
	}{
		{"no validator", "GET", 200, http.Header{}},
		{"date without Date", "GET", 200, http.Header{"Last-Modified": {"Mon, 02 Nov 2026 10:00:00 GMT"}}},
		{"recent date", "GET", 200, http.Header{"Last-Modified": {"Mon, 02 Nov 2026 10:00:00 GMT"}, "Date": {"Mon, 02 Nov 2026 10:00:00 GMT"}}},
		{"weak ETag", "GET", 200, http.Header{"Etag": {`W/"v1"`}}},
		{"event stream", "GET", 200, http.Header{"Etag": {`"v1"`}, "Content-Type": {"text/event-stream"}}},
		{"multipart", "GET", 206, http.Header{"Etag": {`"v1"`}, "Content-Type": {"Multipart/Byteranges; boundary=x"}, "Content-Range": {"bytes 0-9/10"}}},
		{"HEAD", "HEAD", 200, http.Header{"Etag": {`"v1"`}}},
		{"POST", "POST", 200, http.Header{"Etag": {`"v1"`}}},
		{"404", "GET", 404, http.Header{"Etag": {`"v1"`}}},
	}
	for _, tt := range tests {
		body := io.NopCloser(strings.NewReader("x"))
		resp := &http.Response{StatusCode: tt.status, Header: tt.header, Body: body, ContentLength: 10}
		rt := &httpretry.RetryTransport{ResumeDownloads: true, Base: countedFunc(func(*http.Request) (*http.Response, error) { return resp, nil })}
		req := newRequest(t, tt.method, "http://example.com/", nil)
		if got := testing.AllocsPerRun(100, func() { rt.RoundTrip(req) }); got != 0 {
			t.Errorf("%s: %v allocations, want none", tt.name, got)
		}
		if resp.Body != body {
			t.Errorf("%s: the body was wrapped", tt.name)
		}
	}
}

// A faultyOrigin responds at random, and mostly wrong. The bytes of a response that
// must be rejected are wrong too.
type faultyOrigin struct {
	*rand.Rand
	content []byte
	unknown bool // the length, to begin with
	changed bool
	opened  int
	closed  int
}

func (o *faultyOrigin) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Header.Get("If-Range") == "" {
		return o.begin(req), nil
	}
	var first, last int
	size := len(o.content)
	if n, _ := fmt.Sscanf(req.Header.Get("Range"), "bytes=%d-%d", &first, &last); n < 2 {
		last = size - 1
	}
	if o.IntN(60) == 0 {
		o.changed = true
	}
	if o.IntN(8) == 0 {
		return nil, errBreak
	}
	if first >= size {
		return o.respond(req, 416, nil, nil), nil
	}
	resp := o.part(req, first, last)
	if o.IntN(3) == 0 {
		o.spoil(resp, first, last)
	}
	if o.changed {
		resp.Header.Set("ETag", `"v2"`)
		resp.Body.(*faultyBody).content = bytes.Repeat([]byte{'!'}, size)
	}
	return resp, nil
}

// begin responds to the first attempt.
func (o *faultyOrigin) begin(req *http.Request) *http.Response {
	if req.Header.Get("Range") != "" {
		var first, last int
		fmt.Sscanf(req.Header.Get("Range"), "bytes=%d-%d", &first, &last)
		return o.part(req, first, last)
	}
	resp := o.respond(req, 200, o.content, o.end(req))
	if o.IntN(2) == 0 {
		o.unknown = true
		resp.ContentLength = -1
		resp.Body.(*faultyBody).end = errBreak // with io.EOF, a truncated body would be complete
	}
	return resp
}

func (o *faultyOrigin) part(req *http.Request, first, last int) *http.Response {
	resp := o.respond(req, 206, o.content[first:last+1], o.end(req))
	total := strconv.Itoa(len(o.content))
	if o.IntN(4) == 0 {
		total = "*"
	}
	resp.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%s", first, last, total))
	if o.IntN(4) == 0 {
		resp.ContentLength = -1
	}
	return resp
}

// end returns the error of a truncated body.
func (o *faultyOrigin) end(req *http.Request) error {
	return []error{io.EOF, io.ErrUnexpectedEOF, errBreak}[o.IntN(3)]
}

func (o *faultyOrigin) respond(req *http.Request, status int, content []byte, end error) *http.Response {
	resp := response(req, status, "")
	resp.Header.Set("ETag", `"v1"`)
	resp.ContentLength = int64(len(content))
	o.opened++
	body := &faultyBody{origin: o, content: content, end: end, left: len(content)}
	if o.IntN(3) > 0 {
		body.left = o.IntN(len(content) + 1)
	}
	resp.Body = body
	return resp
}

// spoil turns a part into one that must be rejected.
func (o *faultyOrigin) spoil(resp *http.Response, first, last int) {
	total := len(o.content)
	ranged := func(format string, args ...any) { resp.Header.Set("Content-Range", fmt.Sprintf(format, args...)) }
	switch o.IntN(22) {
	case 0:
		resp.StatusCode = []int{500, 502, 503, 504, 429}[o.IntN(5)]
	case 1:
		resp.StatusCode = []int{200, 204, 304, 401, 403, 404, 410, 412, 416}[o.IntN(9)]
	case 2:
		ranged("bytes %d-%d/%d", max(0, first-1), last, total)
		if first == 0 {
			resp.Header.Del("Content-Range")
		}
	case 3:
		ranged("bytes %d-%d/%d", first+1, max(last, first+1), total+1)
	case 4:
		ranged("bytes 0-%d/%d", last, total)
		if first == 0 {
			resp.Header.Del("Content-Range")
		}
	case 5:
		ranged("bytes %d-%d/%d", first, last+1, total+1)
		if o.unknown { // otherwise this part would be valid
			resp.Header.Del("Content-Range")
		}
	case 6:
		ranged("bytes %d-%d/%d", first, last-1, total)
	case 7:
		ranged("bytes %d-%d/%d", first, last, total+1)
		resp.Header.Set("ETag", `"v2"`)
	case 8:
		resp.Header.Del("ETag")
	case 9:
		resp.Header.Set("ETag", `W/"v1"`)
	case 10:
		resp.Header.Set("ETag", `"v2"`)
	case 11:
		resp.Header.Add("ETag", `"v2"`)
	case 12:
		resp.ContentLength = int64(last + 2 - first)
	case 13:
		resp.ContentLength = int64(last - first)
	case 14:
		resp.Header.Set("Content-Encoding", "gzip")
	case 15:
		resp.Uncompressed = true
	case 16:
		resp.Header.Set("Content-Type", "multipart/byteranges; boundary=x")
	case 17:
		resp.Header.Add("Content-Range", resp.Header.Get("Content-Range"))
	case 18:
		ranged("bytes %d-%d", first, last)
	case 19:
		ranged("bytes */%d", total)
	case 20:
		ranged("bytes %d-%d/%d", first, uint64(1<<63)+uint64(last), total)
	case 21:
		// This part is valid, but its body is too long.
		body := resp.Body.(*faultyBody)
		resp.ContentLength = -1
		body.surplus = "!!!"
		return
	}
	body := resp.Body.(*faultyBody)
	body.content = bytes.Repeat([]byte{'!'}, len(body.content))
}

// A faultyBody returns pieces of random size, some of them empty, and its end with
// the last piece or after it.
type faultyBody struct {
	origin  *faultyOrigin
	content []byte
	left    int // bytes before it ends
	end     error
	surplus string // after all of the content
	closed  bool
}

func (b *faultyBody) Read(p []byte) (int, error) {
	if b.closed {
		return 0, errors.New("read of a closed body")
	}
	if b.left == 0 && len(b.content) == 0 && b.surplus != "" {
		n := copy(p, b.surplus)
		b.surplus = b.surplus[n:]
		return n, nil
	}
	n := min(len(p), b.left)
	if n > 0 && b.origin.IntN(3) > 0 {
		n = b.origin.IntN(n + 1)
	}
	copy(p, b.content[:n])
	b.content, b.left = b.content[n:], b.left-n
	if b.left > 0 || len(b.content) == 0 && b.surplus != "" || n > 0 && b.origin.IntN(2) == 0 {
		return n, nil
	}
	if len(b.content) == 0 && b.origin.IntN(4) > 0 {
		return n, io.EOF // all of it
	}
	return n, b.end
}

func (b *faultyBody) Close() error {
	if !b.closed {
		b.closed = true
		b.origin.closed++
	}
	return nil
}

// The caller gets the right bytes or an error, whatever the server does: no wrong
// byte, no byte twice, and no io.EOF before the end.
func TestDownload_RandomFaults(t *testing.T) {
	const runs = 10_000
	var complete, failed int
	synctest.Test(t, func(t *testing.T) {
		for seed := range uint64(runs) {
			if randomDownload(t, seed) {
				complete++
			} else {
				failed++
			}
		}
	})
	t.Logf("%d complete, %d failed", complete, failed)
	if complete < runs/10 || failed < runs/10 {
		t.Errorf("%d downloads were complete and %d failed, want many of both", complete, failed)
	}
}

func randomDownload(t *testing.T, seed uint64) (complete bool) {
	rng := rand.New(rand.NewPCG(seed, 1))
	o := &faultyOrigin{Rand: rng, content: pattern(1 + rng.IntN(200))}
	for i := range o.content {
		o.content[i] |= 0x80 // so that no right byte equals a wrong one
	}
	rt := &httpretry.RetryTransport{Base: o, ResumeDownloads: true, Policy: httpretry.RetryConfig{MaxRetries: 1 + rng.IntN(5)}}
	if rng.IntN(4) == 0 {
		rt.MaxResponseBytes = 1 + rng.Int64N(int64(len(o.content)))
	}
	want := o.content
	req := newRequest(t, "GET", "http://example.com/", nil)
	if rng.IntN(3) == 0 {
		first := rng.IntN(len(want))
		last := first + rng.IntN(len(want)-first)
		want = want[first : last+1]
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", first, last))
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return false // all attempts failed while they were buffered
	}
	var got []byte
	buf := make([]byte, 1+rng.IntN(300))
	for err == nil {
		var n int
		n, err = resp.Body.Read(buf)
		got = append(got, buf[:n]...)
	}
	if !bytes.HasPrefix(want, got) {
		t.Errorf("seed %d: got %d bytes that are not a prefix of the %d", seed, len(got), len(want))
	}
	if err == io.EOF && len(got) != len(want) {
		t.Errorf("seed %d: got io.EOF after %d of %d bytes", seed, len(got), len(want))
	}
	if _, again := resp.Body.Read(buf); again != err {
		t.Errorf("seed %d: another Read: got %v, want %v again", seed, again, err)
	}
	resp.Body.Close()
	if synctest.Wait(); o.opened != o.closed {
		t.Errorf("seed %d: %d of %d response bodies were closed", seed, o.closed, o.opened)
	}
	return err == io.EOF
}

// The tests below use real connections.

// cutOff lets h write n bytes of content for each of the first few requests, and
// then resets the connection or the stream.
func cutOff(few, n int, h http.HandlerFunc) http.HandlerFunc {
	var requests atomic.Int32
	return func(w http.ResponseWriter, r *http.Request) {
		if int(requests.Add(1)) > few {
			h(w, r)
			return
		}
		h(&cutWriter{ResponseWriter: w, left: n}, r)
	}
}

type cutWriter struct {
	http.ResponseWriter
	left int
}

func (w *cutWriter) Write(p []byte) (int, error) {
	if len(p) < w.left {
		w.left -= len(p)
		return w.ResponseWriter.Write(p)
	}
	w.ResponseWriter.Write(p[:w.left])
	http.NewResponseController(w.ResponseWriter).Flush()
	panic(http.ErrAbortHandler)
}

func (w *cutWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// quiet discards the log of a server.
func quiet(srv *httptest.Server) *httptest.Server {
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	return srv
}

// A download from http.ServeContent is resumed, over HTTP/1.1 and HTTP/2, after a
// redirect, with an ETag or a date.
func TestDownload_ServeContent(t *testing.T) {
	content := pattern(1 << 20)
	serve := func(etag string, modified time.Time) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if etag != "" {
				w.Header().Set("ETag", etag)
			}
			w.Header().Set("Content-Type", "application/octet-stream")
			http.ServeContent(w, r, "", modified, bytes.NewReader(content))
		}
	}
	old, recent := time.Now().Add(-time.Hour), time.Now()
	tests := []struct {
		name  string
		serve http.HandlerFunc
		asked string
		goes  bool
	}{
		{"ETag", serve(`"v1"`, time.Time{}), "", true},
		{"ETag and a recent date", serve(`"v1"`, recent), "", true},
		{"old date", serve("", old), "", true},
		{"recent date", serve("", recent), "", false},
		{"weak ETag", serve(`W/"v1"`, old), "", false},
		{"neither", serve("", time.Time{}), "", false},
		{"a range", serve(`"v1"`, time.Time{}), "bytes=1000-900000", true},
		{"an open range", serve("", old), "bytes=1000-", true},
		{"a suffix", serve(`"v1"`, time.Time{}), "bytes=-900000", true},
	}
	for _, tt := range tests {
		for _, proto := range []int{1, 2} {
			t.Run(fmt.Sprint(tt.name, ", HTTP/", proto), func(t *testing.T) {
				cut := cutOff(3, 200_000, tt.serve)
				srv := quiet(newProtoServer(t, proto, func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/latest" {
						http.Redirect(w, r, "/v1", http.StatusFound)
						return
					}
					cut(w, r)
				}))
				client := newClient(t, srv, &httpretry.RetryTransport{Policy: now, ResumeDownloads: true})
				req := newRequest(t, "GET", srv.URL+"/latest", nil)
				want := content
				if tt.asked != "" {
					req.Header.Set("Range", tt.asked)
					want = map[string][]byte{
						"bytes=1000-900000": content[1000:900001], "bytes=1000-": content[1000:], "bytes=-900000": content[len(content)-900000:],
					}[tt.asked]
				}
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				got, err := io.ReadAll(resp.Body)
				if tt.goes && (!bytes.Equal(got, want) || err != nil) {
					t.Errorf("got %d bytes, %v, want all %d", len(got), err, len(want))
				}
				if !tt.goes && (!bytes.Equal(got, want[:200_000]) || err == nil) {
					t.Errorf("got %d bytes, %v, want 200000 and the error", len(got), err)
				}
			})
		}
	}
}

// A body that ends before its Content-Length or its last chunk is resumed. The
// length of a chunked body follows from the next response.
func TestDownload_TruncatedBody(t *testing.T) {
	const header = "HTTP/1.1 200 OK\r\nETag: \"v1\"\r\nConnection: close\r\n"
	tests := []struct{ name, first string }{
		{"Content-Length not reached", header + "Content-Length: 26\r\n\r\nabcdefghij"},
		{"no byte of it", header + "Content-Length: 26\r\n\r\n"},
		{"chunked, after a chunk", header + "Transfer-Encoding: chunked\r\n\r\na\r\nabcdefghij\r\n"},
		{"chunked, in a chunk", header + "Transfer-Encoding: chunked\r\n\r\n1a\r\nabcdefghij"},
		{"chunked, before a chunk", header + "Transfer-Encoding: chunked\r\n\r\n"},
		{"chunked, in the size", header + "Transfer-Encoding: chunked\r\n\r\na\r\nabcdefghij\r\n1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			attempts := 0
			addr := serveRaw(t, func(conn net.Conn) {
				defer conn.Close()
				req, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				if attempts++; attempts == 1 {
					io.WriteString(conn, tt.first)
					return
				}
				first, last := askedRange(req)
				fmt.Fprintf(conn, "HTTP/1.1 206 Partial Content\r\nETag: \"v1\"\r\nConnection: close\r\nContent-Range: bytes %d-%d/26\r\n\r\n%s",
					first, last, alphabet[first:last+1])
			})
			tr := &http.Transport{}
			defer tr.CloseIdleConnections()
			rt := &httpretry.RetryTransport{Base: tr, Policy: now, ResumeDownloads: true}
			if got, err := download(t, rt, get(t, "http://"+addr)); got != alphabet || err != nil || attempts != 2 {
				t.Errorf("got %q, %v in %d attempts, want the alphabet in 2", got, err, attempts)
			}
		})
	}
	t.Run("HTTP/2", func(t *testing.T) {
		var attempts atomic.Int32
		srv := newProtoServer(t, 2, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"v1"`)
			if attempts.Add(1) == 1 {
				w.Header().Set("Content-Length", "26")
				io.WriteString(w, alphabet[:10]) // the stream then ends without an error
				return
			}
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(alphabet))
		})
		rt := newClient(t, srv, &httpretry.RetryTransport{Policy: now, ResumeDownloads: true}).Transport
		if got, err := download(t, rt, get(t, srv.URL)); got != alphabet || err != nil || attempts.Load() != 2 {
			t.Errorf("got %q, %v in %d attempts, want the alphabet in 2", got, err, attempts.Load())
		}
	})
}

func TestDownload_TrailersOverLoopback(t *testing.T) {
	for _, proto := range []int{1, 2} {
		t.Run(fmt.Sprint("HTTP/", proto), func(t *testing.T) {
			srv := quiet(newProtoServer(t, proto, cutOff(1, 10, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("ETag", `"v1"`)
				w.Header().Set("Trailer", "X-Sum")
				first, last := 0, len(alphabet)-1
				if r.Header.Get("Range") != "" {
					first, last = askedRange(r)
					w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, len(alphabet)))
					w.WriteHeader(http.StatusPartialContent)
				}
				io.WriteString(w, alphabet[first:last+1])
				w.Header().Set("X-Sum", "sum")
			})))
			client := newClient(t, srv, &httpretry.RetryTransport{Policy: now, ResumeDownloads: true})
			resp, err := client.Do(get(t, srv.URL))
			if err != nil {
				t.Fatal(err)
			}
			if got := readAll(t, resp); got != alphabet || resp.Trailer.Get("X-Sum") != "sum" {
				t.Errorf("got %q with trailer %q, want the alphabet and %q", got, resp.Trailer.Get("X-Sum"), "sum")
			}
		})
	}
}

// If the file has changed, the server responds to the range of the old one with
// the whole new file.
func TestDownload_ChangedRepresentation(t *testing.T) {
	var attempts atomic.Int32
	cut := cutOff(1, 200_000, func(w http.ResponseWriter, r *http.Request) {
		version := min(attempts.Add(1), 2)
		w.Header().Set("ETag", fmt.Sprintf(`"v%d"`, version))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(bytes.Repeat([]byte{byte(version)}, 1<<20)))
	})
	srv := quiet(newHTTP1Server(t, cut))
	client := newClient(t, srv, &httpretry.RetryTransport{Policy: now, ResumeDownloads: true})
	resp, err := client.Do(get(t, srv.URL))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if !bytes.Equal(got, bytes.Repeat([]byte{1}, 200_000)) || err != io.ErrUnexpectedEOF || attempts.Load() != 2 {
		t.Errorf("got %d bytes, %v in %d attempts, want 200000 of the first version and %v in 2", len(got), err, attempts.Load(), io.ErrUnexpectedEOF)
	}
}

var downloadMiB = flag.Int64("download.mib", 64, "size of the download over an unreliable connection, in MiB")

// A largeFile has content of any size in little memory.
type largeFile struct {
	table        []byte // its length is no multiple of a power of 2
	size, offset int64
}

func newLargeFile(size int64) *largeFile { return &largeFile{table: pattern(1_000_003), size: size} }

func (f *largeFile) Read(p []byte) (int, error) {
	if f.offset >= f.size {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), f.size-f.offset)]
	n := copy(p, f.table[f.offset%int64(len(f.table)):])
	f.offset += int64(n)
	return n, nil
}

func (f *largeFile) Seek(offset int64, whence int) (int64, error) {
	f.offset = offset + map[int]int64{io.SeekStart: 0, io.SeekCurrent: f.offset, io.SeekEnd: f.size}[whence]
	return f.offset, nil
}

// A badLine forwards connections to a server at 100 MiB/s, and ends each after a
// random number of bytes with a FIN or a reset.
type badLine struct {
	ln   net.Listener
	to   string
	mean int64 // bytes; 0: no cuts
	cuts atomic.Int32
	wg   sync.WaitGroup
}

func newBadLine(t *testing.T, to string, mean int64) *badLine {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &badLine{ln: ln, to: to, mean: mean}
	l.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			l.wg.Go(func() { l.forward(conn.(*net.TCPConn)) })
		}
	})
	return l
}

func (l *badLine) forward(client *net.TCPConn) {
	defer client.Close()
	server, err := net.Dial("tcp", l.to)
	if err != nil {
		return
	}
	defer server.Close()
	server.(*net.TCPConn).SetReadBuffer(256 << 10) // its content is lost with each cut
	l.wg.Go(func() {
		io.Copy(server, client)
		server.(*net.TCPConn).CloseWrite()
	})
	if l.mean == 0 {
		io.Copy(client, &pacedReader{r: server, start: time.Now()})
		return
	}
	if _, err := io.CopyN(client, &pacedReader{r: server, start: time.Now()}, 1+rand.Int64N(2*l.mean)); err != nil {
		return
	}
	l.cuts.Add(1)
	if rand.IntN(2) == 0 {
		client.SetLinger(0)
	}
}

// A pacedReader reads 100 MiB/s.
type pacedReader struct {
	r     io.Reader
	start time.Time
	read  int64
}

func (p *pacedReader) Read(b []byte) (int, error) {
	time.Sleep(time.Until(p.start.Add(time.Duration(p.read) * time.Second / (100 << 20))))
	n, err := p.r.Read(b)
	p.read += int64(n)
	return n, err
}

func (l *badLine) close() {
	l.ln.Close()
	l.wg.Wait()
}

// fetch downloads url and returns the SHA-256 of its content, the duration and the
// largest growth of the heap.
func fetch(t *testing.T, url string, policy httpretry.Policy) (sum [sha256.Size]byte, took time.Duration, grown int64) {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: &httpretry.RetryTransport{Base: tr, Policy: policy, ResumeDownloads: true}}
	runtime.GC()
	var before, during runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	resp, err := client.Do(get(t, url))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	hash := sha256.New()
	for err == nil {
		if _, err = io.CopyN(hash, resp.Body, 16<<20); err == nil || err == io.EOF {
			runtime.ReadMemStats(&during)
			grown = max(grown, int64(during.HeapAlloc)-int64(before.HeapAlloc))
		}
	}
	if err != io.EOF {
		t.Fatalf("the download ended with %v", err)
	}
	return [sha256.Size]byte(hash.Sum(nil)), time.Since(start), grown
}

// A large download over a connection that fails every few MiB is correct, uses
// constant memory, and takes about as long as over a reliable connection.
func TestDownload_UnreliableConnection(t *testing.T) {
	const backoff = 10 * time.Millisecond
	size := *downloadMiB << 20
	hash := sha256.New()
	io.Copy(hash, newLargeFile(size))
	want := [sha256.Size]byte(hash.Sum(nil))
	srv := quiet(newHTTP1Server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		http.ServeContent(w, r, "large.bin", time.Time{}, newLargeFile(size))
	}))
	policy := httpretry.RetryConfig{MaxRetries: 5, InitialBackoff: backoff, Jitter: httpretry.NoJitter}

	good := newBadLine(t, srv.Listener.Addr().String(), 0)
	sum, uncut, _ := fetch(t, "http://"+good.ln.Addr().String(), policy)
	good.close()
	if sum != want {
		t.Errorf("over a reliable connection: got SHA-256 %x, want %x", sum, want)
	}
	bad := newBadLine(t, srv.Listener.Addr().String(), 4<<20)
	sum, took, grown := fetch(t, "http://"+bad.ln.Addr().String(), policy)
	bad.close()
	if sum != want {
		t.Errorf("over an unreliable connection: got SHA-256 %x, want %x", sum, want)
	}
	cuts := bad.cuts.Load()
	if cuts == 0 {
		t.Error("the connection never failed")
	}
	const limit = 16 << 20
	if grown > limit {
		t.Errorf("the heap grew by %d bytes, want less than %d for any size", grown, limit)
	}
	waits := time.Duration(cuts) * backoff
	longer := float64(took)/float64(uncut+waits) - 1
	t.Logf("%d MiB: uncut %v; %d cuts, with %v of backoffs: %v (%+.1f %%); heap grew by %d KiB", *downloadMiB,
		uncut, cuts, waits, took, 100*longer, grown>>10)
}

// The program in docs/downloads.md compiles and prints the documented output.
func TestDocs_DownloadsProgram(t *testing.T) {
	page, err := os.ReadFile("docs/downloads.md")
	if err != nil {
		t.Fatal(err)
	}
	programs := regexp.MustCompile("(?s)```go\n(package main\n.*?)```").FindAllSubmatch(page, -1)
	if len(programs) != 1 {
		t.Fatalf("the page has %d programs, want 1", len(programs))
	}
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, programs[0][1], 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "run", file)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	if got, want := strings.TrimSpace(string(out)), "67108864 bytes, as they should be"; got != want {
		t.Errorf("the program printed %q, want %q", got, want)
	}
}
