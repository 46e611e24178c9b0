package flaky_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/httpretry/httpretry/flaky"
)

// A countedBody is a request body that counts how often it was closed.
type countedBody struct {
	io.Reader
	closed atomic.Int32
}

func (b *countedBody) Close() error {
	b.closed.Add(1)
	return nil
}

// everyStep lists each kind of step with the result of a Transport.
var everyStep = []struct {
	name string
	step flaky.Step
	err  error  // of RoundTrip; nil: a response
	body string // the part read of the request body "hello"
}{
	{"Pass", flaky.Pass(), nil, "hello"},
	{"Pass Early", flaky.Pass().Early(), nil, "hello"},
	{"Status", flaky.Status(503), nil, "hello"},
	{"Status Early", flaky.Status(503).Early(), nil, ""},
	{"Status After", flaky.Status(503).After(time.Second), nil, "hello"},
	{"Status Truncate", flaky.Status(200).WithBody("hello").Truncate(2), nil, "hello"},
	{"Status Slow", flaky.Status(200).WithBody("hello").Slow(2, time.Second), nil, "hello"},
	{"Refuse", flaky.Refuse(), syscall.ECONNREFUSED, ""},
	{"Reset", flaky.Reset(), syscall.ECONNRESET, "hello"},
	{"Reset Early", flaky.Reset().Early(), syscall.ECONNRESET, ""},
	{"Hang", flaky.Hang(), errBroken, "hello"},
	{"Hang Early", flaky.Hang().Early(), errBroken, ""},
	{"Error", flaky.Error(io.ErrNoProgress), io.ErrNoProgress, "hello"},
	{"Error Early", flaky.Error(io.ErrNoProgress).Early(), io.ErrNoProgress, ""},
}

// The contract of http.RoundTripper, for each step.
func TestTransport_KeepsContract(t *testing.T) {
	for _, tt := range everyStep {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(time.Minute, func() { cancel(errBroken) }) // for Hang
				body := &countedBody{Reader: strings.NewReader("hello")}
				req := newRequest(t, "POST", "/", body).WithContext(ctx)
				req.ContentLength = 5
				before := *req
				header := req.Header.Clone()

				script := flaky.New(tt.step)
				resp, err := script.Transport(nil).RoundTrip(req)

				if !errors.Is(err, tt.err) {
					t.Errorf("RoundTrip: got error %v, want %v", err, tt.err)
				}
				if (resp == nil) != (tt.err != nil) {
					t.Errorf("RoundTrip: got response %v with error %v, want exactly one of the two", resp, err)
				}
				if got := body.closed.Load(); got != 1 {
					t.Errorf("request body: closed %d times, want once", got)
				}
				if diff := cmp.Diff(before, *req, cmpopts.IgnoreUnexported(http.Request{}),
					cmp.Comparer(func(a, b io.ReadCloser) bool { return a == b })); diff != "" || !cmp.Equal(header, req.Header) {
					t.Errorf("request: modified, got + want -\n%s", diff)
				}
				if got := string(script.Requests()[0].Body); got != tt.body {
					t.Errorf("request body: read %q, want %q", got, tt.body)
				}
				if resp != nil {
					if resp.Request != req {
						t.Errorf("Response.Request: got %p, want the caller's %p", resp.Request, req)
					}
					_, _ = io.ReadAll(resp.Body)
					if err := resp.Body.Close(); err != nil {
						t.Errorf("Close: got %v, want nil", err)
					}
				}
				cancel(nil)
			})
		})
	}
}

// If the context is done before a step takes effect, the error is its cause.
func TestTransport_ReturnsCauseOfContext(t *testing.T) {
	for _, tt := range everyStep {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(errBroken)
			body := &countedBody{Reader: strings.NewReader("hello")}
			req := newRequest(t, "POST", "/", body).WithContext(ctx)
			resp, err := flaky.New(tt.step).Transport(nil).RoundTrip(req)
			if resp != nil || err != errBroken {
				t.Errorf("RoundTrip: got %v, %v, want nil and the context's cause", resp, err)
			}
			if got := body.closed.Load(); got != 1 {
				t.Errorf("request body: closed %d times, want once", got)
			}
		})
	}
}

func TestTransport_ErrorsOfConnections(t *testing.T) {
	tests := []struct {
		name    string
		url     string
		step    flaky.Step
		op      string
		call    string
		errno   syscall.Errno
		address string
	}{
		{"Refuse", "http://example.test/", flaky.Refuse(), "dial", "connect", syscall.ECONNREFUSED, "example.test:80"},
		{"Refuse with TLS", "https://example.test/", flaky.Refuse(), "dial", "connect", syscall.ECONNREFUSED, "example.test:443"},
		{"Reset", "http://[::1]:8080/", flaky.Reset(), "read", "read", syscall.ECONNRESET, "[::1]:8080"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), "GET", tt.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			_, err = flaky.New(tt.step).Transport(nil).RoundTrip(req)
			op, ok := err.(*net.OpError)
			if !ok {
				t.Fatalf("error: got %T, want *net.OpError", err)
			}
			if op.Op != tt.op || op.Net != "tcp" || op.Addr.Network() != "tcp" || op.Addr.String() != tt.address {
				t.Errorf("error: got %q over %s to %v, want %q over tcp to %s", op.Op, op.Net, op.Addr, tt.op, tt.address)
			}
			call, ok := op.Err.(*os.SyscallError)
			if !ok || call.Syscall != tt.call || call.Err != tt.errno {
				t.Errorf("error: got %#v within, want *os.SyscallError of %s with %v", op.Err, tt.call, tt.errno)
			}
		})
	}
}

// The Timeout of an http.Client ends Hang with an error that is a timeout.
func TestTransport_HangEndsWithClientTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &http.Client{Transport: flaky.New(flaky.Hang()).Transport(nil), Timeout: 5 * time.Second}
		start := time.Now()
		_, err := client.Do(newRequest(t, "GET", "/", nil))
		if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
			t.Errorf("Do: got %v, want a timeout", err)
		}
		if got := time.Since(start); got != 5*time.Second {
			t.Errorf("Do: took %v, want 5s", got)
		}
	})
}

func TestTransport_Response(t *testing.T) {
	tests := []struct {
		name   string
		reason string
		method string
		step   flaky.Step
		want   http.Response
		body   string
	}{{
		name:   "Pass",
		reason: "an empty 200 without a base",
		method: "GET",
		step:   flaky.Pass().WithBody("ignored").WithHeader("Ignored", "1"),
		want:   http.Response{Status: "200 OK", StatusCode: 200, Header: http.Header{"Content-Length": {"0"}}},
	}, {
		name:   "header and body",
		reason: "fields of the same name are added; the caller does not set the framing",
		method: "GET",
		step: flaky.Status(429).WithHeader("retry-after", "1").WithHeader("Retry-After", "2").
			WithHeader("Content-Length", "99").WithHeader("Transfer-Encoding", "chunked").WithBody("slow down"),
		want: http.Response{Status: "429 Too Many Requests", StatusCode: 429, ContentLength: 9,
			Header: http.Header{"Retry-After": {"1", "2"}, "Content-Length": {"9"}}},
		body: "slow down",
	}, {
		name:   "unknown status",
		reason: "the reason phrase that an http.Server sends",
		method: "GET",
		step:   flaky.Status(599),
		want:   http.Response{Status: "599 status code 599", StatusCode: 599, Header: http.Header{"Content-Length": {"0"}}},
	}, {
		name:   "HEAD",
		reason: "the length as for GET, and no body",
		method: "HEAD",
		step:   flaky.Status(200).WithBody("hello").Truncate(1),
		want:   http.Response{Status: "200 OK", StatusCode: 200, ContentLength: 5, Header: http.Header{"Content-Length": {"5"}}},
	}, {
		name:   "204",
		reason: "neither body nor length",
		method: "GET",
		step:   flaky.Status(204).WithBody("ignored"),
		want:   http.Response{Status: "204 No Content", StatusCode: 204, Header: http.Header{}},
	}}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp, err := flaky.New(tt.step).Transport(nil).RoundTrip(newRequest(t, tt.method, "/", nil))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if string(body) != tt.body || err != nil {
				t.Errorf("body (%s): got %q, %v, want %q, nil", tt.reason, body, err, tt.body)
			}
			tt.want.Proto, tt.want.ProtoMajor, tt.want.ProtoMinor = "HTTP/1.1", 1, 1
			resp.Body, resp.Request = nil, nil
			if diff := cmp.Diff(tt.want, *resp, cmpopts.IgnoreUnexported(http.Response{})); diff != "" {
				t.Errorf("response (%s) (-want +got):\n%s", tt.reason, diff)
			}
		})
	}
}

// A delay is exact, comes after the request's body, and ends with the context.
func TestTransport_After(t *testing.T) {
	tests := []struct {
		name    string
		reason  string
		step    flaky.Step
		timeout time.Duration // 0: none
		want    time.Duration
		err     error
	}{
		{name: "Status", reason: "the whole delay", step: flaky.Status(503).After(time.Second), want: time.Second},
		{name: "last call", reason: "later calls override earlier ones", step: flaky.Status(503).After(time.Hour).After(time.Second), want: time.Second},
		{name: "negative", reason: "no wait", step: flaky.Status(503).After(-time.Second)},
		{name: "Pass", reason: "also before base gets the request", step: flaky.Pass().After(time.Second), want: time.Second},
		{name: "Refuse", reason: "also before a failure", step: flaky.Refuse().After(time.Second), want: time.Second, err: syscall.ECONNREFUSED},
		{name: "context", reason: "ends early with the context", step: flaky.Refuse().After(time.Hour),
			timeout: time.Second, want: time.Second, err: context.DeadlineExceeded},
		{name: "Pass and context", reason: "ends early with the context", step: flaky.Pass().After(time.Hour),
			timeout: time.Second, want: time.Second, err: context.DeadlineExceeded},
	}
	base := roundTripFunc(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: http.NoBody}, r.Body.Close()
	})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				if tt.timeout > 0 {
					ctx, cancel = context.WithTimeout(t.Context(), tt.timeout)
				}
				defer cancel()
				start := time.Now()
				body := &countedBody{Reader: strings.NewReader("hello")}
				resp, err := flaky.New(tt.step).Transport(base).RoundTrip(newRequest(t, "PUT", "/", body).WithContext(ctx))
				if !errors.Is(err, tt.err) {
					t.Errorf("RoundTrip: got error %v, want %v", err, tt.err)
				}
				if got := time.Since(start); got != tt.want {
					t.Errorf("delay (%s): got %v, want %v", tt.reason, got, tt.want)
				}
				if got := body.closed.Load(); got != 1 {
					t.Errorf("request body: closed %d times, want once", got)
				}
				if resp != nil {
					resp.Body.Close()
				}
			})
		})
	}
}

// The times of Requests show how long a client waited between attempts.
func TestRequests_TimeOfArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		script := flaky.New(flaky.Status(503).After(time.Second))
		rt := script.Transport(nil)
		statuses(t, rt, 1)
		time.Sleep(2 * time.Second)
		statuses(t, rt, 1)
		requests := script.Requests()
		if got, want := requests[1].Time.Sub(requests[0].Time), 3*time.Second; got != want {
			t.Errorf("between two arrivals: got %v, want %v", got, want)
		}
	})
}

// Truncate applies to the body of a Status step and to that of base.
func TestTransport_TruncatesBody(t *testing.T) {
	tests := []struct {
		name   string
		reason string
		n      int64
		want   string
		err    error
	}{
		{"negative", "counts as 0", -1, "", io.ErrUnexpectedEOF},
		{"at 0", "before the first byte", 0, "", io.ErrUnexpectedEOF},
		{"inside", "after n bytes", 3, "hel", io.ErrUnexpectedEOF},
		{"at the last byte", "there was one more", 4, "hell", io.ErrUnexpectedEOF},
		{"at the end", "a body that ends there is not truncated", 5, "hello", nil},
		{"after the end", "a shorter body is not truncated", 6, "hello", nil},
	}
	base := roundTripFunc(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, ContentLength: 5, Body: io.NopCloser(iotest.OneByteReader(strings.NewReader("hello")))}, nil
	})
	for _, tt := range tests {
		for form, rt := range map[string]http.RoundTripper{
			"Status": flaky.New(flaky.Status(200).WithBody("hello").Truncate(tt.n)).Transport(nil),
			"Pass":   flaky.New(flaky.Pass().Truncate(tt.n)).Transport(base),
		} {
			t.Run(tt.name+"/"+form, func(t *testing.T) {
				resp, err := rt.RoundTrip(newRequest(t, "GET", "/", nil))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if resp.ContentLength != 5 {
					t.Errorf("ContentLength: got %d, want 5, the length before truncation", resp.ContentLength)
				}
				got, err := io.ReadAll(resp.Body)
				if string(got) != tt.want || err != tt.err {
					t.Errorf("body (%s): got %q, %v, want %q, %v", tt.reason, got, err, tt.want, tt.err)
				}
				if n, err := resp.Body.Read(make([]byte, 1)); n != 0 || err == nil || err != io.EOF && err != tt.err {
					t.Errorf("Read after the end: got %d, %v, want 0 and the same error again", n, err)
				}
			})
		}
	}
}

func TestTransport_SlowsBody(t *testing.T) {
	tests := []struct {
		name   string
		reason string
		step   flaky.Step
		want   string
		took   time.Duration
		err    error
	}{
		{"chunks", "a wait between two chunks", flaky.Status(200).WithBody("abcdefg").Slow(3, time.Second), "abcdefg", 2 * time.Second, nil},
		{"whole chunks", "no wait before the end", flaky.Status(200).WithBody("abcdef").Slow(3, time.Second), "abcdef", time.Second, nil},
		{"one chunk", "no wait before the first chunk", flaky.Status(200).WithBody("abc").Slow(3, time.Second), "abc", 0, nil},
		{"chunk of 0", "counts as 1", flaky.Status(200).WithBody("abc").Slow(0, time.Second), "abc", 2 * time.Second, nil},
		{"no wait", "every may be 0", flaky.Status(200).WithBody("abc").Slow(1, 0), "abc", 0, nil},
		{"with Truncate", "they combine", flaky.Status(200).WithBody("abcdefg").Slow(2, time.Second).Truncate(5), "abcde", 2 * time.Second, io.ErrUnexpectedEOF},
		{"after Pass", "also a response of base", flaky.Pass().Slow(2, time.Second), "hello", 2 * time.Second, nil},
		{"Stall", "until the context is done", flaky.Status(200).WithBody("abc").Stall(2), "ab", time.Hour, context.DeadlineExceeded},
		{"Stall after Pass", "also a response of base", flaky.Pass().Stall(0), "", time.Hour, context.DeadlineExceeded},
		{"Stall at the end", "the body is whole", flaky.Pass().Stall(5), "hello", 0, nil},
		{"Stall with Slow", "they combine", flaky.Pass().Slow(1, time.Minute).Stall(3), "hel", time.Hour, context.DeadlineExceeded},
		{"Stall after Truncate", "the later call counts", flaky.Pass().Truncate(1).Stall(3), "hel", time.Hour, context.DeadlineExceeded},
		{"Truncate after Stall", "the later call counts", flaky.Pass().Stall(1).Truncate(3), "hel", 0, io.ErrUnexpectedEOF},
	}
	base := roundTripFunc(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, ContentLength: -1, Body: io.NopCloser(iotest.OneByteReader(strings.NewReader("hello")))}, nil
	})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				resp, err := flaky.New(tt.step).Transport(base).RoundTrip(newRequest(t, "GET", "/", nil).WithContext(ctx))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				start := time.Now()
				got, err := io.ReadAll(resp.Body)
				if string(got) != tt.want || err != tt.err {
					t.Errorf("body (%s): got %q, %v, want %q, %v", tt.reason, got, err, tt.want, tt.err)
				}
				if took := time.Since(start); took != tt.took {
					t.Errorf("body (%s): took %v, want %v", tt.reason, took, tt.took)
				}
			})
		})
	}
}

// A request body is read at the pace of the step, by the step itself and by base,
// and also a copy from GetBody.
func TestTransport_SlowsRequest(t *testing.T) {
	base := roundTripFunc(func(req *http.Request) (*http.Response, error) {
		if req.URL.Path == "/copy" {
			body, err := req.GetBody()
			if err != nil {
				return nil, err
			}
			req = req.WithContext(req.Context())
			req.Body = body
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return nil, err
		}
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	})
	tests := []struct {
		name   string
		reason string
		path   string
		step   flaky.Step
		took   time.Duration
		err    error
	}{
		{"Status", "a wait between chunks", "/", flaky.Status(200).SlowRequest(2, time.Second), 2 * time.Second, nil},
		{"Pass", "base reads slowly", "/", flaky.Pass().SlowRequest(1, time.Second), 5 * time.Second, nil},
		{"GetBody", "a copy is read slowly", "/copy", flaky.Pass().SlowRequest(3, time.Second), time.Second, nil},
		{"After", "they add up", "/", flaky.Status(200).SlowRequest(2, time.Second).After(time.Second), 3 * time.Second, nil},
		{"stall", "until the context is done", "/", flaky.Status(200).SlowRequest(2, 2*time.Hour), time.Hour, context.DeadlineExceeded},
		{"unread", "the body is not read", "/", flaky.Status(200).SlowRequest(2, time.Second).Early(), 0, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				start := time.Now()
				_, err := flaky.New(tt.step).Transport(base).RoundTrip(newRequest(t, "PUT", tt.path, strings.NewReader("hello")).WithContext(ctx))
				if took := time.Since(start); took != tt.took || err != tt.err {
					t.Errorf("%s: took %v and returned %v, want %v and %v", tt.reason, took, err, tt.took, tt.err)
				}
			})
		})
	}
}

// The end of the request's context and Close end a Read of the response body,
// also during a wait.
func TestTransport_BodyEndsWithContextOrClose(t *testing.T) {
	tests := []struct {
		name string
		end  func(cancel context.CancelCauseFunc, body io.Closer)
		want error
	}{
		{"context", func(cancel context.CancelCauseFunc, _ io.Closer) { cancel(errBroken) }, errBroken},
		{"Close", func(_ context.CancelCauseFunc, body io.Closer) { body.Close() }, http.ErrBodyReadAfterClose},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				rt := flaky.New(flaky.Status(200).WithBody("abc").Slow(1, time.Hour)).Transport(nil)
				resp, err := rt.RoundTrip(newRequest(t, "GET", "/", nil).WithContext(ctx))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				start := time.Now()
				time.AfterFunc(time.Second, func() { tt.end(cancel, resp.Body) })
				got, err := io.ReadAll(resp.Body)
				if string(got) != "a" || err != tt.want {
					t.Errorf("body: got %q, %v, want %q, %v", got, err, "a", tt.want)
				}
				if took := time.Since(start); took != time.Second {
					t.Errorf("body: took %v, want 1s", took)
				}
			})
		})
	}
}

func TestTransport_BodyUnreadableAfterContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	resp, err := flaky.New(flaky.Status(200).WithBody("abc")).Transport(nil).
		RoundTrip(newRequest(t, "GET", "/", nil).WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	cancel(errBroken)
	if got, err := io.ReadAll(resp.Body); len(got) != 0 || err != errBroken {
		t.Errorf("body: got %q, %v, want nothing and the context's cause", got, err)
	}
}

// A request body that fails, or whose length differs from ContentLength, fails
// the request, as in a real transport.
func TestTransport_RejectsFaultyRequestBody(t *testing.T) {
	tests := []struct {
		name   string
		reason string
		body   io.Reader
		length int64
		read   string
		is     error // nil: any error
	}{
		{"failing", "the error of the caller's body", io.MultiReader(strings.NewReader("he"), iotest.ErrReader(errBroken)), -1, "he", errBroken},
		{"short", "fewer bytes than declared", strings.NewReader("he"), 5, "he", nil},
		{"long", "more bytes than declared", strings.NewReader("hello"), 2, "hello", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			body := &countedBody{Reader: tt.body}
			req := newRequest(t, "PUT", "/", body)
			req.ContentLength = tt.length
			script := flaky.New(flaky.Status(200))
			resp, err := script.Transport(nil).RoundTrip(req)
			if err == nil {
				resp.Body.Close()
				t.Fatalf("RoundTrip: got a response, want an error: %s", tt.reason)
			}
			if tt.is != nil && err != tt.is {
				t.Errorf("RoundTrip: got error %v, want %v", err, tt.is)
			}
			if got := script.Requests()[0]; string(got.Body) != tt.read || got.BodyErr != err {
				t.Errorf("recorded: got %q, %v, want %q, %v", got.Body, got.BodyErr, tt.read, err)
			}
			if got := body.closed.Load(); got != 1 {
				t.Errorf("request body: closed %d times, want once", got)
			}
		})
	}
}

// RoundTrip returns when the context is done, even if a Read of the request body
// blocks.
func TestTransport_ReturnsWhileRequestBodyBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr, pw := io.Pipe()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		script := flaky.New(flaky.Status(200))
		go pw.Write([]byte("he"))
		_, err := script.Transport(nil).RoundTrip(newRequest(t, "PUT", "/", pr).WithContext(ctx))
		if err != context.DeadlineExceeded {
			t.Errorf("RoundTrip: got error %v, want %v", err, context.DeadlineExceeded)
		}
		if _, err := pw.Write([]byte("llo")); err != io.ErrClosedPipe {
			t.Errorf("writing to the request body: got %v, want %v, because it was closed", err, io.ErrClosedPipe)
		}
		if got := string(script.Requests()[0].Body); got != "he" {
			t.Errorf("recorded body: got %q, want %q", got, "he")
		}
	})
}

// Pass forwards the caller's request without reading its body, and returns the
// response of base with Response.Request set.
func TestTransport_PassKeepsRequestAndResponse(t *testing.T) {
	var seen *http.Request
	base := roundTripFunc(func(r *http.Request) (*http.Response, error) {
		seen = r
		buf := make([]byte, 2)
		_, err := io.ReadFull(r.Body, buf)
		r.Body.Close()
		r.Body.Close()
		return &http.Response{StatusCode: 200, Header: http.Header{"Got": {string(buf)}}, Body: http.NoBody, Request: r}, err
	})
	script := flaky.New()
	body := &countedBody{Reader: io.MultiReader(strings.NewReader("hello"), iotest.ErrReader(errBroken))}
	req := newRequest(t, "PUT", "/path", body)
	resp, err := script.Transport(base).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.Request != req || req.Body != body {
		t.Errorf("got Response.Request %p with body %T, want the caller's request %p unchanged", resp.Request, req.Body, req)
	}
	if seen.URL != req.URL || seen.Method != req.Method || resp.Header.Get("Got") != "he" {
		t.Errorf("the base got %s %s %q, want the caller's request", seen.Method, seen.URL, resp.Header.Get("Got"))
	}
	if got := script.Requests()[0]; string(got.Body) != "he" || got.BodyErr != nil {
		t.Errorf("recorded: got %q, %v, want the part that the base read", got.Body, got.BodyErr)
	}
	if got := body.closed.Load(); got != 1 {
		t.Errorf("request body: closed %d times, want once, though the base closed it twice", got)
	}
}

func TestTransport_PassReturnsError(t *testing.T) {
	base := roundTripFunc(func(*http.Request) (*http.Response, error) { return nil, errBroken })
	resp, err := flaky.New(flaky.Pass().Truncate(1)).Transport(base).RoundTrip(newRequest(t, "GET", "/", nil))
	if resp != nil || err != errBroken {
		t.Errorf("RoundTrip: got %v, %v, want nil and the base's error", resp, err)
	}
}

// A body that base replays through GetBody is recorded once, even if base still
// reads the first copy.
func TestTransport_PassRecordsReplayOnce(t *testing.T) {
	base := roundTripFunc(func(r *http.Request) (*http.Response, error) {
		var first [2]byte
		_, err := io.ReadFull(r.Body, first[:])
		again, errAgain := r.GetBody()
		unread, errUnread := r.GetBody()
		replayed, errReplayed := io.ReadAll(again)
		_, errRest := io.ReadAll(r.Body)
		return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(string(replayed)))},
			errors.Join(err, errAgain, errUnread, errReplayed, errRest, again.Close(), unread.Close(), r.Body.Close())
	})
	script := flaky.New()
	resp, err := script.Transport(base).RoundTrip(newRequest(t, "PUT", "/", strings.NewReader("hello")))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); string(got) != "hello" || err != nil {
		t.Errorf("replayed body: got %q, %v, want %q, nil", got, err, "hello")
	}
	if got := script.Requests()[0]; string(got.Body) != "hello" || got.BodySize != 5 {
		t.Errorf("recorded: got %q (%d bytes), want %q once", got.Body, got.BodySize, "hello")
	}
}

// The body of a 101 is a connection, which must remain writable.
func TestTransport_PassKeeps101Writable(t *testing.T) {
	client, server := net.Pipe()
	defer server.Close()
	base := roundTripFunc(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 101, Body: client}, nil
	})
	resp, err := flaky.New(flaky.Pass().Truncate(1).Slow(1, 0)).Transport(base).RoundTrip(newRequest(t, "GET", "/", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, ok := resp.Body.(io.Writer); !ok {
		t.Errorf("body: got %T, want an io.Writer", resp.Body)
	}
}

// Steps work over a real base as they do without one, and idle connections can be
// closed.
func TestTransport_OverNetwork(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	}))
	defer srv.Close()
	idle := &idleCloser{RoundTripper: srv.Client().Transport}
	client := &http.Client{Transport: flaky.New(flaky.Reset(), flaky.Pass().Truncate(2)).Transport(idle)}

	_, err := client.Post(srv.URL, "text/plain", strings.NewReader("hello"))
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("first: got %v, want %v", err, syscall.ECONNRESET)
	}
	for _, want := range []struct {
		body string
		err  error
	}{{"he", io.ErrUnexpectedEOF}, {"hello", nil}} {
		resp, err := client.Post(srv.URL, "text/plain", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(got) != want.body || err != want.err {
			t.Errorf("body: got %q, %v, want %q, %v", got, err, want.body, want.err)
		}
	}
	client.CloseIdleConnections()
	if !idle.closed {
		t.Error("CloseIdleConnections: did not reach the base")
	}
	flaky.New().Transport(nil).(interface{ CloseIdleConnections() }).CloseIdleConnections() // and needs none
}

type idleCloser struct {
	http.RoundTripper
	closed bool
}

func (c *idleCloser) CloseIdleConnections() {
	c.closed = true
	c.RoundTripper.(*http.Transport).CloseIdleConnections()
}
