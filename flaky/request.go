package flaky

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// maxBody is the number of bytes that a record keeps of a request body.
const maxBody = 1 << 20

// A Request is the record that a [Script] made of a request.
type Request struct {
	// Time is when the request arrived, before any delay.
	Time time.Time

	Method string
	URL    *url.URL // without scheme and host if a Handler recorded it
	Host   string   // as in [http.Request], or the host of URL if that is empty
	Header http.Header

	// ContentLength is the declared length of the body, or -1 if it is unknown.
	// As in [http.Request], a Transport's 0 may also mean that it is unknown.
	ContentLength int64

	// Body holds the part of the body that has been read, up to 1 MiB
	// (1<<20 bytes), and BodySize the number of bytes that have been read. Body
	// is empty if the body was not read; see [Refuse] and [Step.Early]. If a
	// body is replayed through GetBody, the record holds the last replay that
	// was read.
	Body     []byte
	BodySize int64

	// BodyErr is the error of reading the body, or nil if there was none. It is
	// also set if a Transport read a number of bytes other than ContentLength.
	BodyErr error
}

// newRequest records r before its body is read.
func newRequest(r *http.Request) Request {
	host := r.Host
	if host == "" && r.URL != nil {
		host = r.URL.Host
	}
	return Request{
		Method:        r.Method,
		URL:           cloneURL(r.URL),
		Host:          host,
		Header:        r.Header.Clone(),
		ContentLength: r.ContentLength,
	}
}

// cloneURL returns a copy of u. The copy shares the userinfo, which is immutable.
func cloneURL(u *url.URL) *url.URL {
	if u == nil {
		return nil
	}
	return new(*u)
}

// A record is a recorded request. It is updated while the body of the request
// is read.
type record struct {
	mu     sync.Mutex
	seen   Request
	bodies int // number of recordedBody values made so far
	latest int // number of the latest that was read, which seen describes
}

func (r *record) snapshot() Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := r.seen
	seen.URL = cloneURL(seen.URL)
	seen.Header = seen.Header.Clone()
	seen.Body = bytes.Clone(seen.Body)
	return seen
}

// request returns a copy of req whose body is recorded as it is read, at the pace
// of s, or req itself if it has no body.
func (r *record) request(req *http.Request, s Step) *http.Request {
	if req.Body == nil || req.Body == http.NoBody {
		return req
	}
	out := req.WithContext(req.Context())
	body := func(src io.ReadCloser) io.ReadCloser {
		if s.requestPace.chunk > 0 {
			src = &requestBody{src, req.Context(), s.requestPace}
		}
		return r.body(src)
	}
	out.Body = body(req.Body)
	if req.GetBody != nil {
		out.GetBody = func() (io.ReadCloser, error) {
			src, err := req.GetBody()
			if err != nil {
				return nil, err
			}
			return body(src), nil
		}
	}
	return out
}

// body returns a body that records src as it is read. It closes src once, also
// if it is itself closed several times.
func (r *record) body(src io.ReadCloser) io.ReadCloser {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bodies++
	return &recordedBody{rec: r, number: r.bodies, src: src, close: sync.OnceValue(src.Close)}
}

// note records a Read of the body with that number. After the first Read of a
// newer body, reads of older ones are ignored; a transport may still read the
// body of an attempt that has ended.
func (r *record) note(number int, p []byte, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if number < r.latest {
		return
	}
	if number > r.latest {
		r.latest = number
		r.seen.Body, r.seen.BodySize, r.seen.BodyErr = nil, 0, nil
	}
	keep := min(len(p), maxBody-len(r.seen.Body))
	r.seen.Body = append(r.seen.Body, p[:keep]...)
	r.seen.BodySize += int64(len(p))
	if err != nil && err != io.EOF {
		r.seen.BodyErr = err
	}
}

// fail records an error of the body.
func (r *record) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen.BodyErr = err
}

type recordedBody struct {
	rec    *record
	number int
	src    io.Reader
	close  func() error
}

func (b *recordedBody) Read(p []byte) (int, error) {
	n, err := b.src.Read(p)
	b.rec.note(b.number, p[:n], err)
	return n, err
}

func (b *recordedBody) Close() error { return b.close() }
