package httpretry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
)

// A sharedReader is the body of a request whose GetBody rewinds it, as in SDKs based
// on azcore, in connect-go and in openai-go. A Read that overlaps with another
// method is a data race.
type sharedReader struct {
	bytes.Reader
	busy   atomic.Int32
	faults atomic.Int32
	closes int
}

func (r *sharedReader) Read(p []byte) (int, error) {
	if r.busy.Add(1) > 1 {
		r.faults.Add(1)
	}
	defer r.busy.Add(-1)
	return r.Reader.Read(p)
}

func (r *sharedReader) Close() error {
	r.closes++
	return nil
}

// set makes r the body of req.
func (r *sharedReader) set(req *http.Request, content []byte) {
	r.Reset(content)
	req.Body, req.ContentLength = r, int64(len(content))
	req.GetBody = func() (io.ReadCloser, error) {
		if r.busy.Load() > 0 {
			r.faults.Add(1)
		}
		_, err := r.Seek(0, io.SeekStart)
		return r, err
	}
}

// After an early response, net/http may still be sending when the next attempt
// begins.
func TestRewound_EarlyResponseToLargeUpload(t *testing.T) {
	for _, size := range []int{10, 100 << 10, 4 << 20} {
		content := pattern(size)
		for _, proto := range []int{1, 2} {
			t.Run(fmt.Sprintf("%d bytes, HTTP/%d", size, proto), func(t *testing.T) {
				var attempts atomic.Int32
				srv := newProtoServer(t, proto, func(w http.ResponseWriter, r *http.Request) {
					if attempts.Add(1)%2 == 1 {
						w.WriteHeader(http.StatusServiceUnavailable)
						return
					}
					if err := sameBytes(r.Body, content); err != nil {
						http.Error(w, err.Error(), http.StatusTeapot)
					}
				})
				client := newClient(t, srv, &httpretry.RetryTransport{Policy: now})
				for range 40 {
					body := new(sharedReader)
					req := newRequest(t, "POST", srv.URL, nil)
					body.set(req, content)
					resp, err := client.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					if got := readAll(t, resp); resp.StatusCode != 200 || body.faults.Load() > 0 {
						t.Fatalf("status %d: %s; %d overlapping calls, want 200 and none", resp.StatusCode, got, body.faults.Load())
					}
				}
			})
		}
	}
}

// GetBody is called after the Read that is under way has ended and the copies of the
// previous attempt are closed. Reads of those copies fail.
func TestRewound_WaitsForReadUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		content := []byte("content")
		gate := make(chan struct{})
		time.AfterFunc(time.Minute, func() { close(gate) })
		start := time.Now()
		body := &gatedReader{gate: gate}
		body.Reset(content)
		req := newRequest(t, "POST", "http://example.com/", nil)
		req.Body = body
		req.GetBody = func() (io.ReadCloser, error) {
			if got := time.Since(start); got != time.Minute || body.closes != 1 {
				t.Errorf("GetBody was called after %v and %d closes, want 1m0s and 1", got, body.closes)
			}
			body.Seek(0, io.SeekStart)
			return body, nil
		}
		var first io.ReadCloser
		attempts := 0
		rt := &httpretry.RetryTransport{Policy: every(time.Second), Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			if attempts++; attempts == 1 {
				first = req.Body
				go io.Copy(io.Discard, req.Body)
				synctest.Wait()
				return response(req, 503, ""), nil
			}
			if n, err := first.Read(make([]byte, 1)); n > 0 || err == nil {
				t.Errorf("the first attempt read %d bytes and error %v during the second", n, err)
			}
			first.Close()
			if got, err := consume(req); got != "content" {
				t.Errorf("the second attempt sent %q, %v", got, err)
			}
			return response(req, 200, ""), nil
		})}
		if resp, err := rt.RoundTrip(req); err != nil || resp.StatusCode != 200 || body.closes != 2 {
			t.Errorf("got %v, %v and %d closes, want 200 and 2", resp, err, body.closes)
		}
	})
}

// A gatedReader blocks in its first Read.
type gatedReader struct {
	sharedReader
	gate chan struct{}
}

func (r *gatedReader) Read(p []byte) (int, error) {
	<-r.gate
	return r.sharedReader.Read(p)
}

// The context ends the wait for a Read that blocks.
func TestRewound_BlockedReadEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		pr, pw := io.Pipe()
		req := newRequest(t, "PUT", "http://example.com/", nil).WithContext(ctx)
		req.Body, req.GetBody = pr, func() (io.ReadCloser, error) { return pr, nil }
		rt := &httpretry.RetryTransport{Policy: every(time.Second), Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			go io.Copy(io.Discard, req.Body)
			synctest.Wait()
			return response(req, 503, ""), nil
		})}
		time.AfterFunc(time.Hour, func() { cancel(cause) })
		start := time.Now()
		if _, err := rt.RoundTrip(req); !errors.Is(err, cause) || time.Since(start) != time.Hour {
			t.Errorf("got %v after %v, want %v after 1h", err, time.Since(start), cause)
		}
		wantLetGo(t, pw)
	})
}

// If GetBody returns independent copies, middleware may read one before it sends
// the body, as a signer does.
func TestRewound_MiddlewareMayReadACopy(t *testing.T) {
	var got []string
	rt := &httpretry.RetryTransport{Policy: now, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
		c, err := req.GetBody()
		if err != nil {
			return nil, err
		}
		peeked, err := io.ReadAll(c)
		if err != nil {
			return nil, err
		}
		c.Close()
		sent, err := consume(req)
		got = append(got, string(peeked)+" "+sent)
		return response(req, 503-303*(len(got)/2), ""), err
	})}
	req := newRequest(t, "POST", "http://example.com/", nil)
	req.Body = newTestBody("a")
	req.GetBody = func() (io.ReadCloser, error) { return newTestBody("a"), nil }
	if _, err := rt.RoundTrip(req); err != nil || fmt.Sprint(got) != "[a a a a]" {
		t.Errorf("got %q, %v, want each attempt to read both", got, err)
	}
}

// A body may fill Request.Trailer while an earlier attempt still uses its trailer,
// so each attempt has a copy.
func TestTrailer_EachAttemptHasItsOwn(t *testing.T) {
	for _, kind := range []string{"buffered", "GetBody", "too large"} {
		t.Run(kind, func(t *testing.T) {
			for range 50 {
				srvTrailers := make(chan string, 10)
				req := newRequest(t, "PUT", "http://example.com/", nil)
				req.Trailer = http.Header{"X-Sum": nil}
				source := func() io.ReadCloser {
					r := bytes.NewReader(pattern(100 << 10))
					return io.NopCloser(readerFunc(func(p []byte) (int, error) {
						n, err := r.Read(p)
						if err == io.EOF {
							req.Trailer.Set("X-Sum", "42")
						}
						return n, err
					}))
				}
				req.Body = source()
				switch kind {
				case "GetBody":
					req.GetBody = func() (io.ReadCloser, error) { return source(), nil }
				case "too large":
					req.ContentLength = 100 << 20
				}
				attempts := 0
				rt := &httpretry.RetryTransport{Policy: now, Base: roundTripFunc(func(r *http.Request) (*http.Response, error) {
					for name := range r.Trailer {
						_ = name
					}
					if attempts++; attempts == 1 && kind != "too large" {
						go consume(r)
						return response(r, 503, ""), nil
					}
					if _, err := consume(r); err != nil {
						return nil, err
					}
					srvTrailers <- r.Trailer.Get("X-Sum")
					return response(r, 200, ""), nil
				})}
				if _, err := rt.RoundTrip(req); err != nil {
					t.Fatal(err)
				}
				if got := <-srvTrailers; got != "42" {
					t.Fatalf("the attempt had the trailer %q when its body ended, want 42", got)
				}
			}
		})
	}
}
