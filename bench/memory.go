package main

import (
	"io"
	"net/http"
	"sync"
)

const memoryURL = "http://memory.test/v1/things"

// A memory is a transport without a network. It reads the request body with a
// buffer of net/http's size, closes it, and returns a response.
type memory struct {
	failing bool // every other response is a 503, including the first
	calls   int  // not for parallel use if failing
}

// RoundTrip implements [http.RoundTripper].
func (m *memory) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := discardBody(req); err != nil {
		return nil, err
	}
	if m.failing {
		m.calls++
		if m.calls%2 == 1 {
			return failure(req, &errorBody{left: errorBodySize}), nil
		}
	}
	return response(req, http.StatusOK, http.NoBody), nil
}

func response(req *http.Request, status int, body io.ReadCloser) *http.Response {
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: body, Request: req,
	}
}

const errorBodySize = 512

func failure(req *http.Request, body *errorBody) *http.Response {
	resp := response(req, http.StatusServiceUnavailable, body)
	resp.ContentLength = int64(body.left)
	return resp
}

// An errorBody is the body of a 503, of zeros.
type errorBody struct {
	left          int
	ended, closed bool
}

func (b *errorBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		b.ended = true
		return 0, io.EOF
	}
	n := min(len(p), b.left)
	clear(p[:n])
	b.left -= n
	return n, nil
}

func (b *errorBody) Close() error {
	b.closed = true
	return nil
}

// copyBuffers have the size of net/http's copy buffer.
var copyBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

func discardBody(req *http.Request) error {
	if req.Body == nil || req.Body == http.NoBody {
		return nil
	}
	buf := copyBuffers.Get().(*[32 << 10]byte)
	defer copyBuffers.Put(buf)
	defer req.Body.Close()
	for {
		switch _, err := req.Body.Read(buf[:]); err {
		case nil:
		case io.EOF:
			return nil
		default:
			return err
		}
	}
}

// nothing is a transport of negligible cost, which shows the cost of the
// contender alone. It closes the body and returns the response that
// [withResponse] has put into the request.
type nothing struct{}

// RoundTrip implements [http.RoundTripper].
func (nothing) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		req.Body.Close()
	}
	resp := req.Response
	if resp == nil { // the contender made a request of its own
		return response(req, http.StatusOK, http.NoBody), nil
	}
	resp.Body = http.NoBody // some contenders replace it
	return resp, nil
}

// withResponse puts a response for [nothing] into the request's Response field,
// which otherwise holds the redirect that led to the request. Copies of the
// request keep it.
func withResponse(j *job) *job {
	j.req.Response = response(j.req, http.StatusOK, http.NoBody)
	return j
}
