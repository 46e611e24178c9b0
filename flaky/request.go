package flaky

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// maxBody is how many bytes of each request body are kept.
const maxBody = 1 << 20

// A Request is what a [Script] saw of a request.
type Request struct {
	// Time is when the request arrived, before any delay. Under virtual time
	// the differences between requests are exact.
	Time time.Time

	Method string
	URL    *url.URL // as in [http.Request]: a Handler sees no scheme and no host here
	Host   string   // for which host; a Transport takes it from the URL if need be
	Header http.Header

	// ContentLength is the length that was declared for the body; -1: unknown.
	// As in [http.Request], 0 in a request that a Transport sees may also
	// mean unknown.
	ContentLength int64

	// Body is what was read of the body, at most its first MiB (1<<20 bytes),
	// and BodySize how many bytes were read altogether. Of a body that nobody
	// read, see [Refuse] and [Step.Early], there is nothing here, and of one
	// still being read there is the part read so far. A body that a Transport
	// hands on and that is then replayed through GetBody counts once: the
	// last replay that was read from.
	Body     []byte
	BodySize int64

	// BodyErr is the error that reading the body ended in; nil if there was
	// none. It is also set when a Transport read another number of bytes
	// than declared.
	BodyErr error
}

// newRequest describes r as it stands before its body is read.
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

// cloneURL copies u, including its userinfo, which is immutable and so shared.
func cloneURL(u *url.URL) *url.URL {
	if u == nil {
		return nil
	}
	c := *u
	return &c
}

// A record is the one request that a script saw and goes on filling in while
// the request's body is read.
type record struct {
	mu     sync.Mutex
	seen   Request
	bodies int // how many recordedBody values there are
	latest int // the number of the one whose bytes count
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

// request returns req with a body that is recorded while it is read. That is
// req itself if there is no body, and else a copy.
func (r *record) request(req *http.Request) *http.Request {
	if req.Body == nil || req.Body == http.NoBody {
		return req
	}
	out := req.WithContext(req.Context())
	out.Body = r.body(req.Body)
	if req.GetBody != nil {
		out.GetBody = func() (io.ReadCloser, error) {
			body, err := req.GetBody()
			if err != nil {
				return nil, err
			}
			return r.body(body), nil
		}
	}
	return out
}

// body returns src as a body that is recorded while it is read and that
// closes src once, however often it is closed itself.
func (r *record) body(src io.ReadCloser) io.ReadCloser {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bodies++
	return &recordedBody{rec: r, number: r.bodies, src: src, close: sync.OnceValue(src.Close)}
}

// note records what a Read of the body with that number returned. The first
// read from a newer body makes the older ones irrelevant, even though whoever
// had them may still be reading.
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

// fail records that the body did not turn out as it should.
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
