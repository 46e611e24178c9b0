package httpretry_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
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

func TestMain(m *testing.M) {
	// Tests that wait in real time run at the same time, more of them than there are
	// processors.
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(req *http.Request) (*http.Response, error) { return asBase(f(req)) }

type policyFunc func(httpretry.Attempt) (time.Duration, bool)

func (f policyFunc) Backoff(a httpretry.Attempt) (time.Duration, bool) { return f(a) }

// now retries immediately.
var now = policyFunc(func(a httpretry.Attempt) (time.Duration, bool) { return 0, a.Number < 10 })

func newRequest(t testing.TB, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func response(req *http.Request, status int, body string) *http.Response {
	return &http.Response{
		StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{},
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: req,
	}
}

// consume reads and closes a request body, as a transport does.
func consume(req *http.Request) (string, error) {
	if req.Body == nil {
		return "", nil
	}
	defer req.Body.Close()
	b, err := io.ReadAll(req.Body)
	return string(b), err
}

// statuses responds with one status after the other, and then always with the
// last one. It reads and closes request bodies.
func statuses(codes ...int) roundTripFunc {
	var n atomic.Int32
	return func(req *http.Request) (*http.Response, error) {
		if _, err := consume(req); err != nil {
			return nil, err
		}
		i := min(int(n.Add(1)), len(codes)) - 1
		return response(req, codes[i], fmt.Sprint("body of ", codes[i])), nil
	}
}

// A testBody is a request body that can be read once. It counts its Closes.
type testBody struct {
	io.Reader
	closes atomic.Int32
	closed chan struct{} // closed with the first, if not nil
}

func newTestBody(s string) *testBody { return &testBody{Reader: strings.NewReader(s)} }

func (b *testBody) Close() error {
	if b.closes.Add(1) == 1 && b.closed != nil {
		close(b.closed)
	}
	return nil
}

func (b *testBody) wantClosedOnce(t *testing.T) {
	t.Helper()
	if got := b.closes.Load(); got != 1 {
		t.Errorf("the body was closed %d times, want exactly once", got)
	}
}

func readAll(t testing.TB, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("reading the response body: %v", err)
	}
	return string(b)
}

func TestRoundTrip_ReturnsResultOfLastAttempt(t *testing.T) {
	boom := errors.New("boom")
	tests := []struct {
		name   string
		base   roundTripFunc
		status int
		err    error
		reason string
	}{
		{"success", statuses(200), 200, nil, "nothing to retry"},
		{"success after failures", statuses(503, 500, 200), 200, nil, "a GET is retried after both"},
		{"final status", statuses(404), 404, nil, "a 404 is not retried"},
		{"retries run out", statuses(503), 503, nil, "a response is never turned into an error"},
		{"single error", roundTripFunc(func(*http.Request) (*http.Response, error) {
			return nil, &url.Error{Op: "Get", Err: http.ErrSchemeMismatch, URL: "unsupported"}
		}), 0, http.ErrSchemeMismatch, "an unknown error is uncertain, and the last one is wrapped"},
		{"error after a response", func() roundTripFunc {
			first := true
			return func(req *http.Request) (*http.Response, error) {
				if first {
					first = false
					return response(req, 503, ""), nil
				}
				return nil, boom
			}
		}(), 0, boom, "the last failure is returned"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rt := &httpretry.RetryTransport{Base: tt.base}
				resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
				if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
					t.Fatalf("got error %v, want %v: %s", err, tt.err, tt.reason)
				}
				if (resp == nil) == (err == nil) {
					t.Fatalf("got response %v and error %v: RoundTrip must return exactly one", resp, err)
				}
				if resp == nil {
					return
				}
				if resp.StatusCode != tt.status {
					t.Errorf("got status %d, want %d: %s", resp.StatusCode, tt.status, tt.reason)
				}
				if got, want := readAll(t, resp), fmt.Sprint("body of ", tt.status); got != want {
					t.Errorf("got body %q, want %q", got, want)
				}
			})
		})
	}
}

func TestRoundTrip_DoesNotModifyRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		req := newRequest(t, "PUT", "http://user:secret@example.com/a?b=c", nil)
		body := newTestBody("content")
		req.Body = body
		req.Header.Set("X-Test", "1")
		want := *req
		wantHeader := req.Header.Clone()
		rt := &httpretry.RetryTransport{Base: statuses(503, 503, 200), AttemptTimeout: time.Hour}
		resp, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, resp)
		if req.Body != want.Body || req.GetBody != nil || req.URL != want.URL || req.Context() != want.Context() {
			t.Error("RoundTrip modified the request")
		}
		if diff := cmp.Diff(wantHeader, req.Header); diff != "" {
			t.Errorf("RoundTrip modified the header (-want +got):\n%s", diff)
		}
		body.wantClosedOnce(t)
	})
}

// If the first attempt adds nothing to the caller's request, it sends that.
func TestRoundTrip_FirstAttemptSendsCallersRequest(t *testing.T) {
	opaque := newTestBody("x")
	tests := []struct {
		name string
		rt   httpretry.RetryTransport
		body io.Reader
	}{
		{"no body", httpretry.RetryTransport{}, nil},
		{"NoBody", httpretry.RetryTransport{}, http.NoBody},
		{"GetBody", httpretry.RetryTransport{}, strings.NewReader("x")},
		{"a policy that never retries", httpretry.RetryTransport{Policy: httpretry.Never}, opaque},
		{"a config without retries", httpretry.RetryTransport{Policy: httpretry.RetryConfig{MaxRetries: -1}}, opaque},
		{"buffering disabled", httpretry.RetryTransport{MaxReplayBytes: -1}, opaque},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// This context is never done, so that it needs no watch.
			req := newRequest(t, "POST", "http://example.com/", tt.body).WithContext(context.Background())
			var sent *http.Request
			tt.rt.Base = roundTripFunc(func(req *http.Request) (*http.Response, error) {
				sent = req
				return statuses(200)(req)
			})
			if _, err := tt.rt.RoundTrip(req); err != nil {
				t.Fatal(err)
			}
			if sent != req {
				t.Error("the attempt sent another request than the caller's")
			}
		})
	}
}

func TestRoundTrip_MakesNoAttemptWithDoneContext(t *testing.T) {
	cause := errors.New("the reason")
	for _, getBody := range []bool{false, true} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		body := newTestBody("x")
		req := newRequest(t, "POST", "http://example.com/", nil).WithContext(ctx)
		req.Body = body
		if getBody {
			req.GetBody = func() (io.ReadCloser, error) { return newTestBody("x"), nil }
		}
		rt := &httpretry.RetryTransport{Base: roundTripFunc(func(*http.Request) (*http.Response, error) {
			t.Error("an attempt was made with a context that is done")
			return nil, io.EOF
		})}
		if _, err := rt.RoundTrip(req); err != cause {
			t.Errorf("got error %v, want the context's cause %v", err, cause)
		}
		body.wantClosedOnce(t)
	}
}

func TestRoundTrip_CancellationEndsAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("the reason")
		ctx, cancel := context.WithCancelCause(t.Context())
		attempts := 0
		rt := &httpretry.RetryTransport{Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			attempts++
			<-req.Context().Done()
			return nil, context.Cause(req.Context())
		})}
		time.AfterFunc(time.Second, func() { cancel(cause) })
		_, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil).WithContext(ctx))
		if err != cause || attempts != 1 {
			t.Errorf("got error %v after %d attempts, want %v after 1", err, attempts, cause)
		}
	})
}

func TestRoundTrip_BaseViolatesContract(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := newTestBody("")
		rt := &httpretry.RetryTransport{Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			return nil, nil
		})}
		resp, err := rt.RoundTrip(newRequest(t, "POST", "http://example.com/", nil))
		if resp != nil || err == nil {
			t.Errorf("neither response nor error: got %v, %v, want an error", resp, err)
		}
		rt.Base = roundTripFunc(func(req *http.Request) (*http.Response, error) {
			resp := response(req, 200, "")
			resp.Body = closed
			return resp, io.EOF
		})
		resp, err = rt.RoundTrip(newRequest(t, "POST", "http://example.com/", nil))
		if resp != nil || err != io.EOF {
			t.Errorf("response and error: got %v, %v, want the error alone", resp, err)
		}
		closed.wantClosedOnce(t)
		rt.Base = roundTripFunc(func(req *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 503}, nil
		})
		if resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil)); err != nil || resp.StatusCode != 503 {
			t.Errorf("response without a body: got %v, %v, want the 503", resp, err)
		}
	})
}

// A panic in a hook or a field of the RetryTransport leaves no body open.
func TestRoundTrip_PanicInHookClosesBodies(t *testing.T) {
	for name, set := range map[string]func(*httpretry.RetryTransport){
		"hook": func(rt *httpretry.RetryTransport) {
			rt.OnAttempt = func(httpretry.Attempt, httpretry.Decision) { panic("hook") }
		},
		"policy": func(rt *httpretry.RetryTransport) {
			rt.Policy = policyFunc(func(httpretry.Attempt) (time.Duration, bool) { panic("policy") })
		},
		"jitter": func(rt *httpretry.RetryTransport) {
			rt.Policy = httpretry.RetryConfig{MaxRetries: 1, Jitter: func(_, _ time.Duration) time.Duration { panic("jitter") }}
		},
		"idempotent": func(rt *httpretry.RetryTransport) {
			rt.Idempotent = func(*http.Request) bool { panic("idempotent") }
		},
		"budget": func(rt *httpretry.RetryTransport) { rt.Budget = panicking{} },
		"classifier": func(rt *httpretry.RetryTransport) {
			rt.Classifier = func(*http.Request, *http.Response, error) httpretry.Verdict { panic("classifier") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			body, respBody := newTestBody("x"), newTestBody("busy")
			responds := name != "idempotent" && name != "budget" // which are called before the attempt
			rt := &httpretry.RetryTransport{Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				consume(req)
				resp := response(req, 503, "")
				resp.Body = respBody
				return resp, nil
			})}
			set(rt)
			req := newRequest(t, "POST", "http://example.com/", nil)
			req.Body = body
			func() {
				defer func() {
					if recover() == nil {
						t.Error("the panic did not reach the caller")
					}
				}()
				rt.RoundTrip(req)
			}()
			body.wantClosedOnce(t)
			if responds {
				respBody.wantClosedOnce(t)
			}
		})
	}
}

type panicking struct{}

func (panicking) Deposit(*http.Request)           { panic("deposit") }
func (panicking) Withdraw(httpretry.Attempt) bool { panic("withdraw") }

// A panic during an attempt reaches the caller unchanged, and the request body is
// closed.
func TestRoundTrip_PanicInAttemptClosesBody(t *testing.T) {
	boom := errors.New("boom")
	tests := []struct {
		name   string
		source io.Reader
		number int // of the attempt
		max    int64
		reason string
	}{
		{"base", strings.NewReader("content"), 1, 0, "the body is buffered, so only RetryTransport can close it"},
		{"base, later", strings.NewReader("content"), 2, 0, "as in the first attempt"},
		{"source", readerFunc(func([]byte) (int, error) { panic(boom) }), 1, -1, "Base reads it, and can recover"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			rt := &httpretry.RetryTransport{MaxReplayBytes: tt.max, Policy: now, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				if httpretry.AttemptNumber(req.Context()) < tt.number {
					return response(req, 503, ""), nil
				}
				req.Body.Read(make([]byte, 1))
				panic(boom)
			})}
			body := &testBody{Reader: tt.source}
			req := newRequest(t, "POST", "http://example.com/", nil).WithContext(ctx)
			req.Body = body
			func() {
				defer func() {
					if got := recover(); got != boom {
						t.Errorf("recovered %v, want %v: %s", got, boom, tt.reason)
					}
				}()
				rt.RoundTrip(req)
			}()
			body.wantClosedOnce(t)
		})
	}
}

// Response.Request is the caller's, also if Base has set it to its own. After
// retries it is a copy whose context has the number of attempts.
func TestRoundTrip_ResponseRequestHasAttemptNumber(t *testing.T) {
	for _, fail := range []int{1, 3} {
		req := newRequest(t, "POST", "http://example.com/", strings.NewReader("x"))
		attempts := 0
		rt := &httpretry.RetryTransport{Policy: now, AttemptTimeout: time.Hour, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			if attempts++; attempts < fail {
				return statuses(503)(req.Clone(req.Context()))
			}
			return statuses(200)(req.Clone(req.Context()))
		})}
		resp, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if got := resp.Request; (got == req) != (fail == 1) || got.URL != req.URL || got.Method != req.Method || got.Context().Err() != nil {
			t.Errorf("success at attempt %d: Response.Request is %v, want the caller's or a copy of it", fail, got)
		}
		if got := httpretry.AttemptNumber(resp.Request.Context()); got != fail {
			t.Errorf("AttemptNumber of the response's request: got %d, want %d", got, fail)
		}
		readAll(t, resp)
	}
}

type closeIdler struct {
	roundTripFunc
	called int
}

func (c *closeIdler) CloseIdleConnections() { c.called++ }

func TestCloseIdleConnections_CallsBase(t *testing.T) {
	base := &closeIdler{}
	client := &http.Client{Transport: &httpretry.RetryTransport{Base: base}}
	client.CloseIdleConnections()
	if base.called != 1 {
		t.Errorf("CloseIdleConnections reached Base %d times, want 1", base.called)
	}
	(&httpretry.RetryTransport{Base: statuses(200)}).CloseIdleConnections() // Base has no such method
}

func TestRoundTrip_SuccessAllocatesNothing(t *testing.T) {
	resp := &http.Response{StatusCode: 200, Body: http.NoBody}
	base := countedFunc(func(*http.Request) (*http.Response, error) { return resp, nil })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	tests := []struct {
		name string
		rt   httpretry.RetryTransport
		req  *http.Request
	}{
		{"GET", httpretry.RetryTransport{Base: base}, newRequest(t, "GET", "http://example.com/", nil)},
		{"GET with cancel", httpretry.RetryTransport{Base: base}, newRequest(t, "GET", "http://example.com/", nil).WithContext(ctx)},
		{"POST with GetBody", httpretry.RetryTransport{Base: base}, newRequest(t, "POST", "http://example.com/", strings.NewReader("x"))},
	}
	for _, tt := range tests {
		if got := testing.AllocsPerRun(100, func() { tt.rt.RoundTrip(tt.req) }); got != 0 {
			t.Errorf("%s: %v allocations, want none when nothing fails", tt.name, got)
		}
	}
}

// A retry allocates the next request with its context (3 allocations), the
// Request of the response, and the discard of the last response: for a short
// wait a timer and a function, otherwise the timer of the wait (3 allocations)
// and a goroutine.
func TestRoundTrip_AllocationsOfRetry(t *testing.T) {
	attempt := 0
	base := countedFunc(func(*http.Request) (*http.Response, error) {
		if attempt++; attempt%2 == 0 {
			return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
		}
		return &http.Response{StatusCode: 503, Body: &struct{ io.ReadCloser }{http.NoBody}}, nil
	})
	const transport = 3 // two responses and a body
	for _, tt := range []struct {
		backoff time.Duration
		want    float64
	}{{time.Nanosecond, 7}, {11 * time.Millisecond, 9}} {
		rt := &httpretry.RetryTransport{Base: base, Policy: httpretry.RetryConfig{MaxRetries: 1, InitialBackoff: tt.backoff}}
		req := newRequest(t, "GET", "http://example.com/", nil).WithContext(context.Background())
		if got := testing.AllocsPerRun(20, func() { rt.RoundTrip(req) }) - transport; got > tt.want {
			t.Errorf("a retry after %v made %v allocations, want at most %v", tt.backoff, got, tt.want)
		}
	}
}

// hang is a Base that returns when the attempt's context is done. Its error is not
// the cause of the context, as with older transports.
func hang(req *http.Request) (*http.Response, error) {
	<-req.Context().Done()
	return nil, req.Context().Err()
}

// A Base may add the name of the server to the error of the context.
func TestAttemptTimeout_KeepsTextOfBase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := &httpretry.RetryTransport{AttemptTimeout: time.Second, Policy: httpretry.Never, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			return nil, fmt.Errorf("server a: %w", context.Cause(req.Context()))
		})}
		_, err := rt.RoundTrip(newRequest(t, "GET", "http://gateway", nil))
		const want = "server a: httpretry: attempt timed out after 1s"
		if err == nil || err.Error() != want || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want %s", err, want)
		}
	})
}

func TestAttemptTimeout_EndsAttempt(t *testing.T) {
	t.Run("is retried", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := 0
			rt := &httpretry.RetryTransport{AttemptTimeout: time.Second, Policy: now, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				if n++; n < 3 {
					return hang(req)
				}
				return response(req, 200, "ok"), nil
			})}
			start := time.Now()
			resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
			if err != nil {
				t.Fatal(err)
			}
			readAll(t, resp)
			if got := time.Since(start); got != 2*time.Second {
				t.Errorf("two attempts timed out after %v in all, want 2s", got)
			}
		})
	})
	t.Run("is a timeout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client := &http.Client{Transport: &httpretry.RetryTransport{AttemptTimeout: time.Second, Policy: now, Base: roundTripFunc(hang)}}
			_, err := client.Do(newRequest(t, "GET", "http://example.com/", nil))
			var timeout interface{ Timeout() bool }
			if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() || errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want a timeout that matches DeadlineExceeded and not Canceled", err)
			}
		})
	})
	t.Run("may have been processed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			rt := &httpretry.RetryTransport{AttemptTimeout: time.Second, Base: roundTripFunc(hang)}
			start := time.Now()
			if _, err := rt.RoundTrip(newRequest(t, "POST", "http://example.com/", nil)); err == nil || time.Since(start) != time.Second {
				t.Errorf("got %v after %v, want the timeout of the first attempt: a POST is not retried after it", err, time.Since(start))
			}
		})
	})
}

func TestAttemptTimeout_EndsWithResponseHeader(t *testing.T) {
	t.Run("ends with the header", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			rt := &httpretry.RetryTransport{AttemptTimeout: time.Second, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				resp := response(req, 200, "")
				resp.Body = &contextBody{ctx: req.Context(), after: time.Hour, data: "late"}
				return resp, nil
			})}
			// If a context derived from one of a foreign type is not freed,
			// its goroutine is found as leaked.
			req := newRequest(t, "GET", "http://example.com/", nil)
			resp, err := rt.RoundTrip(req.WithContext(foreignContext{req.Context(), make(chan struct{})}))
			if err != nil {
				t.Fatal(err)
			}
			if got := readAll(t, resp); got != "late" {
				t.Errorf("got body %q, want %q", got, "late")
			}
		})
	})
	t.Run("keeps a complete response", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			rt := &httpretry.RetryTransport{AttemptTimeout: time.Second, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				time.Sleep(time.Second) // the response arrives with the timeout
				resp := response(req, 204, "")
				resp.Body = http.NoBody
				return resp, nil
			})}
			if _, err := rt.RoundTrip(newRequest(t, "POST", "http://example.com/", nil)); err != nil {
				t.Errorf("a complete response was replaced by %v", err)
			}
		})
	})
	t.Run("closes a late response", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			body := newTestBody("late")
			rt := &httpretry.RetryTransport{AttemptTimeout: time.Second, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				<-time.After(2 * time.Second) // a Base that ignores the context
				resp := response(req, 200, "")
				resp.Body = body
				return resp, nil
			})}
			resp, err := rt.RoundTrip(newRequest(t, "POST", "http://example.com/", nil))
			if resp != nil || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v and %v, want the timeout alone", resp, err)
			}
			body.wantClosedOnce(t)
		})
	})
}

// The attempt's context is freed by EOF and by Close.
func TestAttemptTimeout_FreesContextWithBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, end := range []func(*http.Response){
			func(resp *http.Response) { io.Copy(io.Discard, resp.Body) },
			func(resp *http.Response) { resp.Body.Close() },
		} {
			var sent context.Context
			rt := &httpretry.RetryTransport{AttemptTimeout: time.Hour, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				sent = req.Context()
				return response(req, 200, "x"), nil
			})}
			resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
			if err != nil {
				t.Fatal(err)
			}
			if sent.Err() != nil {
				t.Error("the attempt's context is done before the body ends")
			}
			if end(resp); sent.Err() == nil {
				t.Error("the attempt's context outlives the body")
			}
		}
	})
}

type foreignContext struct {
	context.Context
	done chan struct{}
}

func (c foreignContext) Done() <-chan struct{} { return c.done }

// A contextBody returns data after a time, unless ctx is done before.
type contextBody struct {
	ctx   context.Context
	after time.Duration
	data  string
}

func (b *contextBody) Read(p []byte) (int, error) {
	select {
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	case <-time.After(b.after):
	}
	n := copy(p, b.data)
	b.data = b.data[n:]
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (b *contextBody) Close() error { return nil }

// The tests below use real connections. Whatever works with an http.Transport
// alone must work with a RetryTransport that wraps it.

func newServer(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := startInMode(httptest.NewUnstartedServer(h))
	t.Cleanup(srv.Close)
	return srv
}

// newClient returns a client with a RetryTransport that wraps the transport of srv.
func newClient(t *testing.T, srv *httptest.Server, rt *httpretry.RetryTransport) *http.Client {
	t.Helper()
	rt.Base = modeTransport{srv.Client().Transport.(*http.Transport)}
	client := &http.Client{Transport: rt}
	t.Cleanup(client.CloseIdleConnections)
	return client
}

// failFirst responds to the first request with a 503.
func failFirst(h http.HandlerFunc) http.HandlerFunc {
	var n atomic.Int32
	return func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			http.Error(w, "not yet", http.StatusServiceUnavailable)
			return
		}
		h(w, r)
	}
}

func TestRoundTrip_SwitchingProtocols(t *testing.T) {
	for _, timeout := range []time.Duration{0, time.Hour} {
		t.Run(timeout.String(), func(t *testing.T) {
			srv := newHTTP1Server(t, failFirst(func(w http.ResponseWriter, r *http.Request) {
				conn, rw, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
				line, _ := rw.ReadString('\n')
				io.WriteString(conn, "echo "+line)
			}))
			client := newClient(t, srv, &httpretry.RetryTransport{Policy: now, AttemptTimeout: timeout, MaxResponseBytes: 1 << 20})
			req := newRequest(t, "GET", srv.URL, nil)
			req.Header.Set("Connection", "Upgrade")
			req.Header.Set("Upgrade", "echo")
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			conn, ok := resp.Body.(io.ReadWriteCloser)
			if !ok || resp.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("status %d with a %T, want 101 with a body that can be written to", resp.StatusCode, resp.Body)
			}
			io.WriteString(conn, "hello\n")
			if got, err := bufio.NewReader(conn).ReadString('\n'); got != "echo hello\n" {
				t.Errorf("got %q, %v through the upgraded connection", got, err)
			}
			if cw, ok := conn.(interface{ CloseWrite() error }); !ok {
				t.Error("the upgraded body has lost CloseWrite")
			} else if err := cw.CloseWrite(); err != nil {
				t.Errorf("CloseWrite: %v", err)
			}
		})
	}
}

func TestRoundTrip_TrailersAndEarlyHints(t *testing.T) {
	srv := newServer(t, failFirst(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Trailer", "X-After")
		fmt.Fprintf(w, "%s, trailer %s", body, r.Trailer.Get("X-Sum"))
		w.Header().Set("X-After", "done")
	}))
	client := newClient(t, srv, &httpretry.RetryTransport{Policy: now, MaxResponseBytes: 1 << 20})
	req := newRequest(t, "POST", srv.URL, io.MultiReader(strings.NewReader("streamed")))
	req.Trailer = http.Header{"X-Sum": {"sum"}}
	hints := 0
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(int, textproto.MIMEHeader) error { hints++; return nil },
	}))
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := readAll(t, resp), "streamed, trailer sum"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := resp.Trailer.Get("X-After"); got != "done" || hints != 1 {
		t.Errorf("got response trailer %q and %d hints, want %q and 1", got, hints, "done")
	}
}

func TestRoundTrip_ExpectContinue(t *testing.T) {
	srv := newServer(t, failFirst(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	}))
	tr := srv.Client().Transport.(*http.Transport)
	tr.ExpectContinueTimeout = time.Hour
	client := newClient(t, srv, &httpretry.RetryTransport{Policy: now})
	read := &readFlag{Reader: strings.NewReader("large")}
	req := newRequest(t, "POST", srv.URL, read)
	req.Header.Set("Expect", "100-continue")
	var early atomic.Bool
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		Got100Continue: func() { early.Store(read.done.Load()) },
	}))
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, resp); got != "large" || early.Load() {
		t.Errorf("got %q, with the body read before 100 Continue: %v; want %q and false", got, early.Load(), "large")
	}
}

type readFlag struct {
	io.Reader
	done atomic.Bool
}

func (r *readFlag) Read(p []byte) (int, error) {
	r.done.Store(true)
	return r.Reader.Read(p)
}

func TestRoundTrip_RedirectReplaysBody(t *testing.T) {
	attempts := map[string]int{}
	srv := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if attempts[r.URL.Path]++; attempts[r.URL.Path] == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if r.URL.Path == "/" {
			http.Redirect(w, r, "/target", http.StatusTemporaryRedirect)
			return
		}
		w.Write(body)
	})
	client := newClient(t, srv, &httpretry.RetryTransport{Policy: now})
	asked := 0
	client.CheckRedirect = func(*http.Request, []*http.Request) error { asked++; return nil }
	resp, err := client.Do(newRequest(t, "POST", srv.URL+"/", strings.NewReader("content")))
	if err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, resp); got != "content" || asked != 1 {
		t.Errorf("got %q with CheckRedirect asked %d times, want %q and 1", got, asked, "content")
	}
	if diff := cmp.Diff(map[string]int{"/": 2, "/target": 2}, attempts); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
}

func TestRoundTrip_HTTP2(t *testing.T) {
	srv := httptest.NewUnstartedServer(failFirst(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	client := newClient(t, srv, &httpretry.RetryTransport{Policy: now, MaxReplayBytes: 1 << 30})
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	resp, err := client.Do(newRequest(t, "POST", srv.URL, io.MultiReader(bytes.NewReader(content))))
	if err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, resp); resp.ProtoMajor != 2 || got != string(content) {
		t.Errorf("HTTP/%d echoed %d bytes, want HTTP/2 and the %d that were sent", resp.ProtoMajor, len(got), len(content))
	}
}

// Many concurrent callers of one transport get the right responses from a server
// that sometimes resets connections.
func TestRoundTrip_ConcurrentCalls(t *testing.T) {
	var n atomic.Int32
	srv := newHTTP1Server(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		switch i := n.Add(1); {
		case i%5 == 0:
			w.WriteHeader(http.StatusServiceUnavailable)
		case i%7 == 0 && err == nil:
			conn, _, _ := http.NewResponseController(w).Hijack()
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		default:
			w.Write(body)
		}
	})
	// Ten failures in a row of one call are rare, but do happen.
	retry := policyFunc(func(a httpretry.Attempt) (time.Duration, bool) { return 0, a.Number < 1000 })
	client := newClient(t, srv, &httpretry.RetryTransport{Policy: retry})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 20 {
				want := strings.Repeat(fmt.Sprintf("%d-%d ", i, j), 100)
				resp, err := client.Do(newRequest(t, "PUT", srv.URL, io.MultiReader(strings.NewReader(want))))
				if err != nil {
					t.Error(err)
					return
				}
				if got := readAll(t, resp); got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			}
		})
	}
	wg.Wait()
}

// A refused connection is retried for any method, because nothing was processed.
func TestRoundTrip_RetriesRefusedConnection(t *testing.T) {
	srv := newHTTP1Server(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	attempts := 0
	tr := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if attempts++; attempts < 3 {
			return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: &httpretry.RetryTransport{Base: tr, Policy: now}}
	resp, err := client.Do(newRequest(t, "POST", srv.URL, io.MultiReader(strings.NewReader("x"))))
	if err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, resp); got != "x" || attempts != 3 {
		t.Errorf("got %q after %d attempts, want %q after 3", got, attempts, "x")
	}
}

// withPolicy returns a context whose requests use p.
func withPolicy(ctx context.Context, p httpretry.Policy) context.Context {
	return httpretry.Override(ctx, func(t *httpretry.RetryTransport) { t.Policy = p })
}
