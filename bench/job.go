package main

import (
	"context"
	"io"
	"net/http"
	"net/url"
)

// A bodyKind is what a contender may know of a request body in advance.
type bodyKind int

const (
	noBody   bodyKind = iota
	getBody           // the request has a GetBody
	streamed          // it can be read only once, and its length is not known
)

// A job is one request, to be made over and over by one goroutine. Between
// calls only its body is rewound, so that what is measured is the contender and
// not the making of requests.
type job struct {
	req  *http.Request
	url  string
	kind bodyKind
	body source  // rewound
	src  *source // the body of req; nil if it has none
}

// newJob returns a GET if kind is noBody, otherwise a POST of body.
func newJob(target string, kind bodyKind, body source) *job {
	u, err := url.Parse(target)
	if err != nil {
		panic(err) // a mistake in this program
	}
	j := &job{url: target, kind: kind, body: body}
	j.req = &http.Request{
		Method: http.MethodGet, URL: u, Host: u.Host, Header: http.Header{},
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	if kind == noBody {
		return j
	}
	j.src = &source{}
	*j.src = body
	j.req.Method = http.MethodPost
	j.req.Body = j.src
	j.req.ContentLength = -1
	if kind == getBody {
		j.req.ContentLength = int64(body.size)
		j.req.GetBody = func() (io.ReadCloser, error) { again := body; return &again, nil }
	}
	return j
}

// withContext returns a copy of j, with a body of its own, that has ctx.
func (j *job) withContext(ctx context.Context) *job {
	c := newJob(j.url, j.kind, j.body)
	c.req = c.req.WithContext(ctx)
	return c
}

// fresh returns a copy of j for one call, as needed where the transport may
// still hold the last call's request.
func (j *job) fresh() *job { return j.withContext(j.req.Context()) }

// next returns the request for the next call.
func (j *job) next() *http.Request {
	if j.src != nil {
		*j.src = j.body
		j.req.Body = j.src // some contenders leave another one
	}
	return j.req
}

// payload returns the body for a contender that makes requests of its own: nil,
// []byte, or an [io.Reader] if it is streamed.
func (j *job) payload() any {
	switch j.kind {
	case getBody:
		return j.body.data
	case streamed:
		j.next()
		return j.src
	}
	return nil
}

// A source is a request body that can do nothing but be read and closed.
type source struct {
	data   []byte // over and over, to size
	size   int
	off    int
	closed bool
	watch  func(off int) // told of every Read; may be nil
}

func bodyOf(data []byte) source { return source{data: data, size: len(data)} }

// Read implements [io.Reader].
func (s *source) Read(p []byte) (int, error) {
	if s.off == s.size {
		return 0, io.EOF
	}
	p = p[:min(len(p), s.size-s.off)]
	n := copy(p, s.data[s.off%len(s.data):])
	s.off += n
	if s.watch != nil {
		s.watch(s.off)
	}
	return n, nil
}

// Close implements [io.Closer].
func (s *source) Close() error {
	s.closed = true
	return nil
}

// pattern is n bytes in which no piece stands twice, so that a shifted, short
// or mixed copy shows.
func pattern(n int) []byte {
	p := make([]byte, n)
	x := uint32(2463534242) // any seed but zero will do for this generator (xorshift)
	for i := range p {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		p[i] = byte(x)
	}
	return p
}
