package httpretry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
)

// every waits d before each retry.
func every(d time.Duration) httpretry.Policy {
	return policyFunc(func(a httpretry.Attempt) (time.Duration, bool) { return d, a.Number < 3 })
}

// A hangingBody returns data, and then blocks until it is closed or, if deaf is
// not nil, until that is closed. Its Close then blocks too.
type hangingBody struct {
	io.Reader
	deaf   <-chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newHangingBody(data string) *hangingBody {
	return &hangingBody{Reader: strings.NewReader(data), closed: make(chan struct{})}
}

func (b *hangingBody) Read(p []byte) (int, error) {
	if n, err := b.Reader.Read(p); err == nil {
		return n, nil
	}
	if b.deaf != nil {
		<-b.deaf
	} else {
		<-b.closed
	}
	return 0, errors.New("read on a closed body")
}

func (b *hangingBody) Close() error {
	b.once.Do(func() { close(b.closed) })
	if b.deaf != nil {
		<-b.deaf
	}
	return nil
}

// An emptyReads returns neither a byte nor an error.
type emptyReads struct{}

func (emptyReads) Read([]byte) (int, error) { return 0, nil }

// endsAfter returns a function for an empty body that ends after d.
func endsAfter(d time.Duration) func(<-chan struct{}) io.ReadCloser {
	return func(<-chan struct{}) io.ReadCloser {
		return io.NopCloser(readerFunc(func([]byte) (int, error) {
			<-time.After(d)
			return 0, io.EOF
		}))
	}
}

// A response body that does not end delays the retry by no more than the backoff.
func TestDiscard_SlowBody(t *testing.T) {
	tests := []struct {
		name    string
		backoff time.Duration
		body    func(release <-chan struct{}) io.ReadCloser
		want    time.Duration
	}{
		{"hangs", time.Second, func(<-chan struct{}) io.ReadCloser { return newHangingBody("x") }, 2 * time.Second},
		{"neither reads nor closes", time.Second, func(release <-chan struct{}) io.ReadCloser {
			b := newHangingBody("x")
			b.deaf = release
			return b
		}, 2 * time.Second},
		{"endless", time.Second, func(<-chan struct{}) io.ReadCloser { return io.NopCloser(zero{}) }, 2 * time.Second},
		{"ends", 0, func(<-chan struct{}) io.ReadCloser { return io.NopCloser(strings.NewReader("x")) }, 0},
		{"hangs, no backoff", 0, func(<-chan struct{}) io.ReadCloser { return newHangingBody("x") }, 20 * time.Millisecond},
		{"hangs, short backoff", 5 * time.Millisecond, func(<-chan struct{}) io.ReadCloser { return newHangingBody("x") }, 20 * time.Millisecond},
		{"endless, no backoff", 0, func(<-chan struct{}) io.ReadCloser { return io.NopCloser(zero{}) }, 0},
		{"empty reads, no backoff", 0, func(<-chan struct{}) io.ReadCloser { return io.NopCloser(emptyReads{}) }, 0},
		{"ends within a short backoff", 5 * time.Millisecond, endsAfter(3 * time.Millisecond), 10 * time.Millisecond},
		{"ends after a short backoff", 5 * time.Millisecond, endsAfter(7 * time.Millisecond), 14 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				rt := &httpretry.RetryTransport{Policy: every(tt.backoff), Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
					resp := response(req, 503, "")
					resp.Body, resp.ContentLength = tt.body(release), -1
					if httpretry.AttemptNumber(req.Context()) == 3 {
						resp = response(req, 200, "ok")
					}
					return resp, nil
				})}
				start := time.Now()
				resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
				if err != nil {
					t.Fatal(err)
				}
				readAll(t, resp)
				if got := time.Since(start); got != tt.want {
					t.Errorf("two retries took %v, want %v", got, tt.want)
				}
				close(release) // goroutines that do not end now are reported by the bubble
			})
		})
	}
}

// At most 64 KiB are discarded: beyond that, a new connection is cheaper.
func TestDiscard_IsBounded(t *testing.T) {
	for _, backoff := range []time.Duration{0, time.Second} {
		synctest.Test(t, func(t *testing.T) {
			var read atomic.Int64
			rt := &httpretry.RetryTransport{Policy: every(backoff), Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				if httpretry.AttemptNumber(req.Context()) > 1 {
					return response(req, 200, "ok"), nil
				}
				resp := response(req, 503, "")
				resp.ContentLength = -1
				resp.Body = io.NopCloser(readerFunc(func(p []byte) (int, error) {
					read.Add(int64(len(p)))
					return len(p), nil
				}))
				return resp, nil
			})}
			if _, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil)); err != nil {
				t.Fatal(err)
			}
			if got := read.Load(); got != 64<<10+1 {
				t.Errorf("backoff %v: %d bytes of an endless body were read, want 64 KiB and one byte more", backoff, got)
			}
		})
	}
}

func TestDiscard_EndsWithContext(t *testing.T) {
	tests := []struct {
		name          string
		backoff, want time.Duration
	}{
		{"during the wait", time.Hour, time.Second},
		{"before a short wait", 0, 5 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				body := newHangingBody("x")
				rt := &httpretry.RetryTransport{Policy: every(tt.backoff), Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
					resp := response(req, 503, "")
					resp.Body, resp.ContentLength = body, -1
					return resp, nil
				})}
				time.AfterFunc(tt.want, cancel)
				start := time.Now()
				if _, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil).WithContext(ctx)); !errors.Is(err, context.Canceled) || time.Since(start) != tt.want {
					t.Errorf("got %v after %v, want %v after %v", err, time.Since(start), context.Canceled, tt.want)
				}
				synctest.Wait()
				select {
				case <-body.closed:
				default:
					t.Error("the response body of the last attempt was not closed")
				}
			})
		})
	}
}

// A program may use one transport in several synctest bubbles, one after the
// other: nothing that is pooled belongs to a bubble.
func TestRoundTrip_SharedBySynctestBubbles(t *testing.T) {
	rt := &httpretry.RetryTransport{Policy: every(time.Millisecond), Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
		io.Copy(io.Discard, req.Body)
		req.Body.Close()
		if httpretry.AttemptNumber(req.Context()) < 3 {
			return response(req, 503, "busy"), nil
		}
		return response(req, 200, "ok"), nil
	})}
	for range 3 {
		synctest.Test(t, func(t *testing.T) {
			resp, err := rt.RoundTrip(newRequest(t, "POST", "http://example.com/", io.NopCloser(strings.NewReader("data"))))
			if err != nil {
				t.Fatal(err)
			}
			readAll(t, resp)
		})
	}
}

// The connection of a discarded response is reused if its body is small, and
// closed otherwise.
func TestDiscard_ReusesConnections(t *testing.T) {
	tests := []struct {
		name   string
		body   func(w http.ResponseWriter, r *http.Request)
		conns  int32
		reason string
	}{
		{"empty", func(w http.ResponseWriter, r *http.Request) {}, 1, "no body"},
		{"1 KiB", func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 1<<10)) }, 1, "the body is discarded"},
		{"60 KiB, chunked", func(w http.ResponseWriter, r *http.Request) {
			for range 60 {
				w.Write(make([]byte, 1<<10))
				http.NewResponseController(w).Flush()
			}
		}, 1, "the body is discarded"},
		{"1 MiB", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(1<<20))
			w.Write(make([]byte, 1<<20))
		}, 3, "a new connection is cheaper"},
		{"endless", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<10)); err != nil {
					return
				}
			}
		}, 3, "the connection is closed"},
	}
	for _, tt := range tests {
		for _, backoff := range []time.Duration{0, 50 * time.Millisecond} {
			t.Run(fmt.Sprint(tt.name, ", backoff ", backoff), func(t *testing.T) {
				// In a bubble, so that no time passes while a body is read.
				synctest.Test(t, func(t *testing.T) {
					tr, url := protocols[0].serve(t, func(w http.ResponseWriter, r *http.Request) {
						if r.Header.Get("X-Attempt") != "3" {
							w.WriteHeader(http.StatusServiceUnavailable)
							tt.body(w, r)
						}
					})
					var conns atomic.Int32
					dial := tr.DialContext
					tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
						conns.Add(1)
						return dial(ctx, network, addr)
					}
					client := &http.Client{Transport: &httpretry.RetryTransport{Policy: every(backoff), Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
						req = req.Clone(req.Context())
						req.Header.Set("X-Attempt", fmt.Sprint(httpretry.AttemptNumber(req.Context())))
						return tr.RoundTrip(req)
					})}}
					resp, err := client.Do(newRequest(t, "GET", url, nil))
					if err != nil {
						t.Fatal(err)
					}
					readAll(t, resp)
					if got := conns.Load(); got != tt.conns {
						t.Errorf("three attempts took %d connections, want %d: %s", got, tt.conns, tt.reason)
					}
				})
			})
		}
	}
}

// brokenReader returns a body that consists of data and fails with err.
func brokenReader(data string, err error) io.ReadCloser {
	return io.NopCloser(io.MultiReader(strings.NewReader(data), errorReader{err}))
}

func TestMaxResponseBytes_RetriesFailedBody(t *testing.T) {
	const limit = 100
	whole, tooLarge := strings.Repeat("x", limit), strings.Repeat("y", limit+1)
	tests := []struct {
		name     string
		method   string
		status   int
		broken   int // number of attempts whose body fails
		body     string
		header   string
		attempts int
		err      error
		reason   string
	}{
		{"whole", "GET", 200, 0, "body", "", 1, nil, ""},
		{"exactly the limit", "GET", 200, 0, whole, "", 1, nil, "it fits"},
		{"more than the limit", "GET", 200, 0, tooLarge, "", 1, nil, "the whole body is passed through"},
		{"fails once", "GET", 200, 1, "body", "", 2, nil, "an attempt whose body fails is retried"},
		{"fails in a POST", "POST", 200, 1, "body", "", 1, io.ErrUnexpectedEOF, "which was possibly processed"},
		{"fails in a 503 to a POST", "POST", 503, 1, "body", "", 3, nil, "the status means that it was not processed"},
		{"fails always", "GET", 200, 9, "body", "", 3, io.ErrUnexpectedEOF, "the caller gets the response and the error from its body"},
		{"fails beyond the limit", "GET", 200, 1, tooLarge, "", 1, io.ErrUnexpectedEOF, "the rest is not buffered, so the caller gets its error"},
		{"event stream", "GET", 200, 1, "body", "Text/Event-Stream; charset=utf-8", 1, io.ErrUnexpectedEOF, "is never buffered"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			attempts, closes := 0, 0
			rt := &httpretry.RetryTransport{Policy: every(0), MaxResponseBytes: limit, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				attempts++
				resp := response(req, tt.status, "")
				resp.Header.Set("Content-Type", tt.header)
				end := io.EOF
				if attempts <= tt.broken {
					end = io.ErrUnexpectedEOF
				}
				resp.ContentLength = -1
				resp.Body = closeFunc{brokenReader(tt.body, end), func() { closes++ }}
				return resp, nil
			})}
			resp, err := rt.RoundTrip(newRequest(t, tt.method, "http://example.com/", nil))
			if err != nil {
				t.Fatalf("got %v, want a response", err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if string(got) != tt.body || err != tt.err {
				t.Errorf("got body %q, %v, want %q, %v: %s", got, err, tt.body, tt.err, tt.reason)
			}
			if attempts != tt.attempts || closes != attempts {
				t.Errorf("got %d attempts and %d closes, want %d of both: %s", attempts, closes, tt.attempts, tt.reason)
			}
		})
	}
}

type closeFunc struct {
	io.ReadCloser
	f func()
}

func (c closeFunc) Close() error {
	c.f()
	return c.ReadCloser.Close()
}

// Classifier, Policy, Budget and OnAttempt may read the buffered part of the body.
// The caller still gets all of it.
func TestMaxResponseBytes_HooksReadPreview(t *testing.T) {
	for _, tt := range []struct {
		limit int64
		want  string
	}{{0, ""}, {4, "look"}, {100, "look at me"}} {
		var seen []string
		look := func(resp *http.Response) {
			b, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Error(err)
			}
			resp.Body.Close()
			seen = append(seen, string(b))
		}
		classifier := func(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
			look(resp)
			return httpretry.DefaultClassifier(req, resp, err)
		}
		rt := &httpretry.RetryTransport{
			MaxResponseBytes: tt.limit,
			Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				resp := response(req, 500, "look at me")
				resp.ContentLength = -1 // a body that is known to be too large is not buffered
				return resp, nil
			}),
			Policy: policyFunc(func(a httpretry.Attempt) (time.Duration, bool) {
				look(a.Response)
				return 0, true
			}),
			Budget:    refusing(look),
			OnAttempt: func(a httpretry.Attempt, _ httpretry.Decision) { look(a.Response) },
		}
		rt.Classifier = classifier
		resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
		if err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, resp); got != "look at me" {
			t.Errorf("limit %d: the caller got %q, want the whole body", tt.limit, got)
		}
		if want := []string{tt.want, tt.want, tt.want, tt.want}; fmt.Sprint(seen) != fmt.Sprint(want) {
			t.Errorf("limit %d: classifier, policy, budget and hook saw %q, want %q", tt.limit, seen, want)
		}
	}
}

// refusing is a Budget that allows no retry. It is called with the response.
type refusing func(*http.Response)

func (refusing) Deposit(*http.Request) {}

func (r refusing) Withdraw(a httpretry.Attempt) bool {
	r(a.Response)
	return false
}

func TestAttemptTimeout_IncludesBuffering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attempts := 0
		var failure error
		rt := &httpretry.RetryTransport{
			Policy: every(0), MaxResponseBytes: 100, AttemptTimeout: time.Second,
			Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				attempts++
				resp := response(req, 200, "")
				resp.ContentLength = -1
				resp.Body = &contextBody{ctx: req.Context(), after: time.Hour, data: "late"}
				return resp, nil
			}),
			OnAttempt: func(a httpretry.Attempt, _ httpretry.Decision) { failure = a.Err },
		}
		start := time.Now()
		resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.ReadAll(resp.Body); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(failure, context.DeadlineExceeded) {
			t.Errorf("got %v from the body and %v in the hook, want the attempt's timeout in both", err, failure)
		}
		if got := time.Since(start); attempts != 3 || got != 3*time.Second {
			t.Errorf("got %d attempts in %v, want 3 in 3s", attempts, got)
		}
	})
}

// Buffering ends with the request's context, even if the response body ignores it.
func TestMaxResponseBytes_BufferingEndsWithContext(t *testing.T) {
	for _, timeout := range []time.Duration{0, time.Second} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			body := newHangingBody("half")
			rt := &httpretry.RetryTransport{
				Policy: httpretry.Never, MaxResponseBytes: 100, AttemptTimeout: timeout,
				Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
					resp := response(req, 200, "")
					resp.Body, resp.ContentLength = body, -1
					return resp, nil
				}),
			}
			resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil).WithContext(ctx))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(resp.Body); string(got) != "half" || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("timeout %v: got %q, %v, want the bytes received and a timeout", timeout, got, err)
			}
		})
	}
}

// A truncated response is retried over a real connection.
func TestMaxResponseBytes_TruncatedResponse(t *testing.T) {
	var n atomic.Int32
	srv := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "7")
		io.WriteString(w, "con")
		if n.Add(1) < 3 {
			panic(http.ErrAbortHandler)
		}
		io.WriteString(w, "tent")
	})
	client := newClient(t, srv, &httpretry.RetryTransport{Policy: now, MaxResponseBytes: 1 << 10})
	resp, err := client.Do(newRequest(t, "GET", srv.URL, nil))
	if err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, resp); got != "content" || n.Load() != 3 {
		t.Errorf("got %q after %d attempts, want %q after 3", got, n.Load(), "content")
	}
}
