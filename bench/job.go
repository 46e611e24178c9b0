package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
)

// A bodyKind is the kind of a request body.
type bodyKind int

const (
	noBody   bodyKind = iota
	getBody           // made by http.NewRequest, with a GetBody
	streamed          // can be read once; the length is unknown
)

// A job is one request that one goroutine makes again and again. Between calls
// only its body is rewound, so that making requests is not measured.
type job struct {
	req    *http.Request
	url    string
	kind   bodyKind
	body   source
	sent   io.ReadCloser // the body of req
	reader *bytes.Reader // under sent if kind is getBody
	src    *source       // equal to sent if kind is streamed
}

// newJob returns a GET if kind is noBody, otherwise a POST of body.
func newJob(target string, kind bodyKind, body source) *job {
	j := &job{url: target, kind: kind, body: body}
	method, content := http.MethodGet, io.Reader(nil)
	switch kind {
	case getBody:
		j.reader = bytes.NewReader(body.data)
		method, content = http.MethodPost, j.reader
	case streamed:
		j.src = new(body)
		method, content = http.MethodPost, j.src
	}
	req, err := http.NewRequest(method, target, content)
	if err != nil {
		panic(err) // a mistake in this program
	}
	if kind == streamed {
		req.ContentLength = -1 // 0 would make net/http wait for the first byte
	}
	j.req, j.sent = req, req.Body
	return j
}

// withContext returns a copy of j with a body of its own and the context ctx.
func (j *job) withContext(ctx context.Context) *job {
	c := newJob(j.url, j.kind, j.body)
	c.req = c.req.WithContext(ctx)
	return c
}

// fresh returns a copy of j for one call. It is needed where the transport may
// still use the request of the previous call.
func (j *job) fresh() *job { return j.withContext(j.req.Context()) }

// next returns the request for the next call.
func (j *job) next() *http.Request {
	switch j.kind {
	case getBody:
		j.reader.Reset(j.body.data)
	case streamed:
		*j.src = j.body
	}
	j.req.Body = j.sent // some contenders replace it
	return j.req
}

// payload returns the body for a contender that makes its own requests: nil,
// a []byte, or an [io.Reader] if it is streamed.
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

// A source is a request body that has no methods but Read and Close.
type source struct {
	data   []byte // repeated up to size
	size   int
	off    int
	closed bool
	watch  func(off int) // called after each Read; may be nil
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

// pattern returns n bytes without a repeated sequence, so that a shifted, short
// or mixed copy differs.
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
