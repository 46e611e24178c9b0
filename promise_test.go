package httpretry_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
)

// The source of the body may be filling the caller's Trailer.
func TestHooks_RequestHasNoTrailer(t *testing.T) {
	req := newRequest(t, "POST", "http://example.com/", strings.NewReader("x"))
	req.Trailer = http.Header{"X-Sum": nil}
	var got []http.Header
	rt := &httpretry.RetryTransport{
		Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			consume(req)
			return response(req, 200, ""), nil
		}),
		OnAttempt: func(a httpretry.Attempt, _ httpretry.Decision) { got = append(got, a.Request.Trailer) },
		OnDone:    func(s httpretry.Summary) { got = append(got, s.Request.Trailer) },
	}
	if _, err := rt.RoundTrip(req); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0] != nil || got[1] != nil {
		t.Errorf("got Trailers %v in the hooks, want none in 2 calls", got)
	}
}

// Base may read the Trailer of an attempt that has ended while the caller's is
// filled, also if the body is one of http.NewRequest.
func TestTrailer_IsNotSharedByABodyOfNewRequest(t *testing.T) {
	req := newRequest(t, "PUT", "http://example.com/", bytes.NewReader([]byte("x")))
	req.Trailer = http.Header{"X-Sum": nil}
	var trailers []http.Header
	rt := &httpretry.RetryTransport{Policy: every(0), Base: roundTripFunc(func(r *http.Request) (*http.Response, error) {
		consume(r)
		trailers = append(trailers, r.Trailer)
		return response(r, 503, ""), nil
	})}
	if _, err := rt.RoundTrip(req); err != nil {
		t.Fatal(err)
	}
	if len(trailers) != 3 {
		t.Fatalf("got %d attempts, want 3", len(trailers))
	}
	trailers[0].Set("X-First", "1")
	if trailers[1].Get("X-First") != "" || req.Trailer.Get("X-First") != "" {
		t.Error("the first attempt shares its Trailer")
	}
}

// A retry would fail at the same offset of the source.
func TestReplay_FailedSourceIsNotReadAgainAfterAResponse(t *testing.T) {
	req := newRequest(t, "PUT", "http://example.com/", nil)
	req.Body = io.NopCloser(io.MultiReader(strings.NewReader("x"), errorReader{errors.New("source")}))
	attempts := 0
	var reason string
	rt := &httpretry.RetryTransport{
		Policy: now,
		Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			attempts++
			consume(req)
			return response(req, 503, ""), nil
		}),
		OnAttempt: func(_ httpretry.Attempt, d httpretry.Decision) { reason = d.Reason },
	}
	resp, err := rt.RoundTrip(req)
	if err != nil || resp.StatusCode != 503 || attempts != 1 || reason != "not_replayable" {
		t.Errorf("got %v, %v after %d attempts, reason %q; want the 503 after 1, not_replayable", resp, err, attempts, reason)
	}
}

// Reading a response of that size costs more than another connection.
func TestDiscard_DoesNotReadAResponseThatIsDeclaredTooLarge(t *testing.T) {
	for _, delay := range []time.Duration{0, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			body := &countingReads{}
			attempts := 0
			rt := &httpretry.RetryTransport{Policy: every(delay), Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				if attempts++; attempts > 1 {
					return response(req, 200, ""), nil
				}
				resp := response(req, 503, "")
				resp.Body, resp.ContentLength = body, 1<<20
				return resp, nil
			})}
			if _, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil)); err != nil {
				t.Fatal(err)
			}
			if body.reads != 0 || !body.closed {
				t.Errorf("after a wait of %v: got %d Reads, closed %t, want a Close alone", delay, body.reads, body.closed)
			}
		})
	}
}

type countingReads struct {
	reads  int
	closed bool
}

func (b *countingReads) Read(p []byte) (int, error) { b.reads++; return len(p), nil }
func (b *countingReads) Close() error               { b.closed = true; return nil }

// The response before the retry is returned with the part of its body that was
// received during the wait.
func TestGetBody_FailureReturnsATruncatedResponseAsSuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		req := newRequest(t, "POST", "http://example.com/", nil)
		req.Body = io.NopCloser(strings.NewReader("x"))
		req.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("gone") }
		rt := &httpretry.RetryTransport{Policy: every(time.Second), Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			consume(req)
			resp := response(req, 503, "")
			resp.Body, resp.ContentLength = newHangingBody("half"), -1
			return resp, nil
		})}
		resp, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if string(got) != "half" || err != io.ErrUnexpectedEOF {
			t.Errorf("got %q and %v, want half of the body and %v", got, err, io.ErrUnexpectedEOF)
		}
		resp.Body.Close()
	})
}

// A Base other than http.Transport may not report it.
func TestMaxResponseBytes_RetriesABodyShorterThanDeclared(t *testing.T) {
	attempts := 0
	rt := &httpretry.RetryTransport{Policy: now, MaxResponseBytes: 100, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
		attempts++
		resp := response(req, 200, "whole"[:min(3*attempts, 5)])
		resp.ContentLength = 5
		return resp, nil
	})}
	resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
	if err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, resp); got != "whole" || attempts != 2 {
		t.Errorf("got %q after %d attempts, want the whole body after 2", got, attempts)
	}
}
