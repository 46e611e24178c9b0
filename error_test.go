package httpretry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
)

// failing returns a base that always fails with err.
func failing(err error) roundTripFunc {
	return func(req *http.Request) (*http.Response, error) {
		if _, err := consume(req); err != nil {
			return nil, err
		}
		return nil, err
	}
}

func TestRoundTrip_ReturnsASingleErrorUnchanged(t *testing.T) {
	boom := &net.OpError{Op: "read", Err: syscall.ECONNRESET}
	tests := []struct {
		name   string
		rt     *httpretry.RetryTransport
		method string
		reason string
	}{
		{"Never", &httpretry.RetryTransport{Policy: httpretry.Never}, "GET", "the policy makes one attempt"},
		{"not idempotent", &httpretry.RetryTransport{}, "POST", "there is no retry"},
		{"OnAttempt", &httpretry.RetryTransport{OnAttempt: func(httpretry.Attempt, httpretry.Decision) {}}, "POST", "a hook changes nothing"},
		{"final", &httpretry.RetryTransport{Classifier: func(*http.Request, *http.Response, error) httpretry.Verdict { return httpretry.Verdict{} }}, "GET", "there is no retry"},
	}
	for _, tt := range tests {
		tt.rt.Base = failing(boom)
		resp, err := tt.rt.RoundTrip(newRequest(t, tt.method, "http://example.com/", nil))
		if err != error(boom) || resp != nil {
			t.Errorf("%s: got %v, %v, want no response and the very error of the attempt: %s", tt.name, resp, err, tt.reason)
		}
	}
}

func TestError_AfterSeveralAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reset := &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
		client := &http.Client{Transport: &httpretry.RetryTransport{Base: failing(reset)}}
		_, err := client.Do(newRequest(t, "GET", "http://example.com/", nil))
		var e *httpretry.Error
		if !errors.As(err, &e) {
			t.Fatalf("got %v (%T), want an *Error within", err, err)
		}
		if e.Attempts != 4 || e.Reason != "policy" || e.Err != error(reset) {
			t.Errorf("got %d attempts, reason %q, %v, want 4, \"policy\" and the last attempt's error", e.Attempts, e.Reason, e.Err)
		}
		if errors.Unwrap(e) != e.Err {
			t.Errorf("Unwrap: got %v, want %v", errors.Unwrap(e), e.Err)
		}
		var op *net.OpError
		if !errors.Is(err, syscall.ECONNRESET) || !errors.As(err, &op) || op != reset {
			t.Errorf("errors.Is and errors.As do not see through %v", err)
		}
		for _, want := range []string{"httpretry: ", "4 attempts", "(policy)", reset.Error()} {
			if strings.Count(e.Error(), want) != 1 {
				t.Errorf("got message %q, want %q in it once", e, want)
			}
		}
	})
}

// The error is that of the last attempt, regardless of those before it.
func TestError_IsThatOfTheLastAttempt(t *testing.T) {
	first, last := errors.New("first"), errors.New("last")
	for _, script := range [][]any{{first, last}, {503, last}, {500, first, 503, last}} {
		synctest.Test(t, func(t *testing.T) {
			rt := &httpretry.RetryTransport{Base: scripted(0, script...), Policy: httpretry.RetryConfig{MaxRetries: len(script) - 1}}
			_, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
			var e *httpretry.Error
			if !errors.As(err, &e) || e.Attempts != len(script) || e.Err != last || errors.Is(err, first) {
				t.Errorf("%v: got %v, want an *Error with %d attempts and the error %q alone", script, err, len(script), last)
			}
		})
	}
}

// timeout is an error with the method Timeout, as those of net have.
type timeout bool

func (timeout) Error() string   { return "timeout, perhaps" }
func (t timeout) Timeout() bool { return bool(t) }

// url.Error calls Timeout and does not unwrap, so that every error between it
// and the timeout needs the method.
func TestError_TimeoutIsSeenThroughTheClient(t *testing.T) {
	slow := roundTripFunc(func(req *http.Request) (*http.Response, error) {
		<-req.Context().Done()
		return nil, context.Cause(req.Context())
	})
	tests := []struct {
		name   string
		rt     httpretry.RetryTransport
		want   bool
		reason string
	}{
		{"a timeout", httpretry.RetryTransport{Base: failing(timeout(true))}, true, "by its method"},
		{"not this time", httpretry.RetryTransport{Base: failing(timeout(false))}, false, "by its method"},
		{"wrapped", httpretry.RetryTransport{Base: failing(fmt.Errorf("reading: %w", timeout(true)))}, true, "wrapped errors count"},
		{"joined", httpretry.RetryTransport{Base: failing(errors.Join(io.EOF, timeout(true)))}, true, "wrapped errors count"},
		{"net.OpError", httpretry.RetryTransport{Base: failing(&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded})}, true, "a timeout of a connection"},
		{"a deadline", httpretry.RetryTransport{Base: failing(context.DeadlineExceeded)}, true, "a deadline of an attempt's own"},
		{"AttemptTimeout", httpretry.RetryTransport{Base: slow, AttemptTimeout: time.Second}, true, "the transport's own"},
		{"no timeout", httpretry.RetryTransport{Base: failing(io.ErrUnexpectedEOF)}, false, "no method"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := &http.Client{Transport: &tt.rt}
				_, err := client.Do(newRequest(t, "GET", "http://example.com/", nil))
				var e *httpretry.Error
				var asked *url.Error
				if !errors.As(err, &e) || !errors.As(err, &asked) {
					t.Fatalf("got %v, want a *url.Error around an *Error", err)
				}
				if netErr, ok := error(e).(net.Error); !ok || netErr.Timeout() != tt.want {
					t.Errorf("got %v, want a net.Error whose Timeout is %t, as that of a single attempt is", err, tt.want)
				}
				if e.Timeout() != tt.want || asked.Timeout() != tt.want {
					t.Errorf("Timeout: got %t, and %t through *url.Error, want %t: %s", e.Timeout(), asked.Timeout(), tt.want, tt.reason)
				}
			})
		})
	}
}

func TestError_Temporary(t *testing.T) {
	tests := []struct {
		err  error
		want bool
	}{
		{&net.DNSError{IsTemporary: true}, true},
		{fmt.Errorf("looking up: %w", &net.OpError{Op: "dial", Err: &net.DNSError{IsTemporary: true}}), true},
		{errors.Join(io.EOF, context.DeadlineExceeded), true},
		{&net.DNSError{IsNotFound: true}, false},
		{(*net.DNSError)(nil), false},
		{io.ErrUnexpectedEOF, false},
		{nil, false},
	}
	for _, tt := range tests {
		if got := (&httpretry.Error{Attempts: 2, Err: tt.err}).Temporary(); got != tt.want {
			t.Errorf("%v: got Temporary %t, want %t", tt.err, got, tt.want)
		}
	}
}

func TestAttemptTimeout_MatchesDeadlineExceeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := &httpretry.RetryTransport{AttemptTimeout: time.Second, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			return nil, fmt.Errorf("attempt: %w", context.Cause(req.Context()))
		})}
		_, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
		var e *httpretry.Error
		if !errors.As(err, &e) || e.Attempts != 4 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want an *Error of 4 attempts that matches context.DeadlineExceeded", err)
		}
	})
}

// onErrorReason fails the last of several attempts in a way that leads to
// reason, and returns the error.
func onErrorReason(t *testing.T, reason string, onAttempt func(httpretry.Attempt, httpretry.Decision)) error {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if reason == "deadline" {
		ctx, cancel = context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
	}
	verdicts := map[string]httpretry.Outcome{
		"final": httpretry.Final, "not_idempotent": httpretry.Uncertain,
	}
	rt := &httpretry.RetryTransport{
		OnAttempt: onAttempt,
		Policy: policyFunc(func(a httpretry.Attempt) (time.Duration, bool) {
			return time.Second, reason != "policy" || a.Number == 1
		}),
		Classifier: func(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
			if outcome, ok := verdicts[reason]; ok && err != nil {
				return httpretry.Verdict{Outcome: outcome}
			}
			if err != nil && req.Context().Err() != nil {
				return httpretry.Verdict{Outcome: httpretry.Final}
			}
			return httpretry.Verdict{Outcome: httpretry.Unprocessed}
		},
		Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			if httpretry.AttemptNumber(req.Context()) == 1 {
				return busy(http.StatusServiceUnavailable, nil)(req)
			}
			if reason == "canceled" {
				cancel()
			}
			return failing(io.ErrUnexpectedEOF)(req)
		}),
	}
	req := newRequest(t, "POST", "http://example.com/", strings.NewReader("x")).WithContext(ctx)
	if reason == "not_replayable" {
		once, calls := req.GetBody, 0
		req.GetBody = func() (io.ReadCloser, error) {
			if calls++; calls > 1 {
				return nil, errors.New("gone")
			}
			return once()
		}
	}
	_, err := rt.RoundTrip(req)
	return err
}

// The error has the reason for which no further attempt was made, with a hook
// and without.
func TestError_Reason(t *testing.T) {
	listen := func(httpretry.Attempt, httpretry.Decision) {}
	for _, want := range orderedReasons {
		for name, onAttempt := range map[string]func(httpretry.Attempt, httpretry.Decision){"no OnAttempt": nil, "OnAttempt": listen} {
			t.Run(string(want)+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					err := onErrorReason(t, want, onAttempt)
					var e *httpretry.Error
					if !errors.As(err, &e) {
						t.Fatalf("got %v, want an *Error", err)
					}
					failure := e.Err
					if want == "not_replayable" {
						failure = e.Last // Err is the error of GetBody
					}
					if e.Attempts != 2 || e.Reason != want || failure != io.ErrUnexpectedEOF {
						t.Errorf("got %d attempts, reason %q and %v, want 2, %q and %v", e.Attempts, e.Reason, failure, want, io.ErrUnexpectedEOF)
					}
				})
			})
		}
	}
}

// canceledIn cancels a context during the first or the second wait, and returns
// the error of the call. The waits are 1 s and 2 s long.
func canceledIn(t *testing.T, wait int, base roundTripFunc, body io.Reader, cause error) error {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	start := time.Now()
	after := []time.Duration{0, 300 * time.Millisecond, 1300 * time.Millisecond}[wait]
	time.AfterFunc(after, func() { cancel(cause) })
	rt := &httpretry.RetryTransport{Base: base, Policy: httpretry.RetryConfig{MaxRetries: 5, Jitter: httpretry.NoJitter}}
	resp, err := rt.RoundTrip(newRequest(t, "PUT", "http://example.com/", body).WithContext(ctx))
	if elapsed := time.Since(start); resp != nil || elapsed != after {
		t.Errorf("got response %v after %v, want none, after %v", resp, elapsed, after)
	}
	return err
}

func TestError_CanceledInAWait(t *testing.T) {
	cause, boom := errors.New("user went home"), errors.New("boom")
	tests := []struct {
		name  string
		wait  int
		base  roundTripFunc
		cause error
		want  error
		last  string
	}{
		{"first wait", 1, statuses(503), cause, cause, "HTTP status 503"},
		{"first wait, after an error", 1, failing(boom), cause, cause, "boom"},
		{"first wait, no cause", 1, statuses(503), nil, context.Canceled, "HTTP status 503"},
		{"second wait", 2, statuses(500, 503), cause, cause, "HTTP status 503"},
		{"second wait, after an error", 2, failing(boom), cause, cause, "boom"},
		{"second wait, no cause", 2, statuses(500, 503), nil, context.Canceled, "HTTP status 503"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				body := newTestBody("x")
				err := canceledIn(t, tt.wait, tt.base, body, tt.cause)
				synctest.Wait()
				body.wantClosedOnce(t)
				var e *httpretry.Error
				if !errors.As(err, &e) {
					t.Fatalf("got %v (%T), want an *Error", err, err)
				}
				if e.Attempts != tt.wait || e.Reason != "canceled" || e.Err != tt.want || !errors.Is(err, tt.want) {
					t.Errorf("got %d attempts, reason %q, %v, want %d, \"canceled\", %v", e.Attempts, e.Reason, e.Err, tt.wait, tt.want)
				}
				if e.Last == nil || e.Last.Error() != tt.last {
					t.Errorf("got Last %v, want %q: the failure must not be lost", e.Last, tt.last)
				}
				attempts := []string{1: "1 attempt ", 2: "2 attempts "}[tt.wait]
				for _, want := range []string{attempts, "(canceled)", tt.want.Error(), tt.last} {
					if !strings.Contains(e.Error(), want) {
						t.Errorf("got message %q, want %q in it", e, want)
					}
				}
			})
		})
	}
}

// closeCounter is a response body that counts its Closes.
type closeCounter struct {
	io.Reader
	closes int
}

func (c *closeCounter) Close() error {
	c.closes++
	return nil
}

// A canceled wait leaves neither a response nor a request body open.
func TestRoundTrip_CanceledWaitClosesEverything(t *testing.T) {
	for wait := 1; wait <= 2; wait++ {
		synctest.Test(t, func(t *testing.T) {
			var bodies []*closeCounter
			newBody := func(s string) *closeCounter {
				bodies = append(bodies, &closeCounter{Reader: strings.NewReader(s)})
				return bodies[len(bodies)-1]
			}
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Duration(2*wait-1)*700*time.Millisecond, cancel)
			req := newRequest(t, "PUT", "http://example.com/", newBody("x")).WithContext(ctx)
			req.GetBody = func() (io.ReadCloser, error) { return newBody("x"), nil }
			rt := &httpretry.RetryTransport{
				Policy: httpretry.RetryConfig{MaxRetries: 5, Jitter: httpretry.NoJitter},
				Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
					resp, err := busy(http.StatusServiceUnavailable, nil)(req)
					resp.Body = newBody("come back later")
					return resp, err
				}),
			}
			rt.RoundTrip(req)
			synctest.Wait()
			if want := 2 * wait; len(bodies) != want {
				t.Errorf("got %d bodies, want %d: a request's and a response's for each attempt", len(bodies), want)
			}
			for i, b := range bodies {
				if b.closes != 1 {
					t.Errorf("cancelled in wait %d: body %d was closed %d times, want once", wait, i, b.closes)
				}
			}
		})
	}
}

// http.Client keeps the cause.
func TestError_CauseIsSeenThroughTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("user went home")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(1500*time.Millisecond, func() { cancel(cause) })
		client := &http.Client{Transport: &httpretry.RetryTransport{Base: statuses(503)}}
		_, err := client.Do(newRequest(t, "GET", "http://example.com/", nil).WithContext(ctx))
		var e *httpretry.Error
		if !errors.Is(err, cause) || !errors.As(err, &e) {
			t.Errorf("got %v, want an *Error with the cause", err)
		}
	})
}

// secrets are the texts that no message and no log line may contain.
var secrets = []string{"alice", "pass-word", "api_key", "query-secret", "fragment-secret", "header-secret"}

// secretURL has a secret in each part that can contain one.
const secretURL = "https://alice:pass-word@example.com/v1/models?api_key=query-secret#fragment-secret"

// secretErrors are errors that carry the URL of a request, as a client within
// Base or a token source returns them.
var secretErrors = map[string]error{
	"url.Error":        &url.Error{Op: "Get", URL: secretURL, Err: io.ErrUnexpectedEOF},
	"wrapped":          fmt.Errorf("signing: %w", &url.Error{Op: "Get", URL: secretURL, Err: io.ErrUnexpectedEOF}),
	"of another host":  &url.Error{Op: "Post", URL: "https://auth.example.com/token?api_key=query-secret", Err: io.ErrUnexpectedEOF},
	"to be quoted":     &url.Error{Op: "Get", URL: "https://example.com/?api_key=query-secret\"\\é\n", Err: io.ErrUnexpectedEOF},
	"malformed":        &url.Error{Op: "Get", URL: "https://exa mple.com/%zz?api_key=query-secret", Err: io.ErrUnexpectedEOF},
	"password hidden":  &url.Error{Op: "Get", URL: "https://alice:***@example.com/?api_key=query-secret", Err: io.ErrUnexpectedEOF},
	"one in another":   &url.Error{Op: "Get", URL: "https://example.com/", Err: &url.Error{Op: "Post", URL: secretURL, Err: io.ErrUnexpectedEOF}},
	"another in one":   &url.Error{Op: "Get", URL: secretURL, Err: &url.Error{Op: "Post", URL: "https://example.com/", Err: io.ErrUnexpectedEOF}},
	"two side by side": errors.Join(&url.Error{Op: "Get", URL: "https://example.com/", Err: io.ErrUnexpectedEOF}, &url.Error{Op: "Get", URL: secretURL, Err: io.EOF}),
}

// wantNoSecret fails if text contains one of the secrets.
func wantNoSecret(t *testing.T, name, text string) {
	t.Helper()
	for _, secret := range secrets {
		if strings.Contains(text, secret) {
			t.Errorf("%s: got %q, which tells %q", name, text, secret)
			return
		}
	}
}

func TestError_WithholdsSecrets(t *testing.T) {
	for name, inner := range secretErrors {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				req := newRequest(t, "GET", secretURL, nil)
				req.Header.Set("Authorization", "Bearer header-secret")
				rt := &httpretry.RetryTransport{Base: failing(inner)}
				_, err := rt.RoundTrip(req)
				wantNoSecret(t, "failed", err.Error())
				if !strings.Contains(err.Error(), "EOF") {
					t.Errorf("got %q, want the failure still named in it", err)
				}
				if !errors.Is(err, inner) {
					t.Errorf("got %v, want the error itself within, whatever the message leaves out", err)
				}
				err = canceledIn(t, 2, failing(inner), nil, errors.New("user went home"))
				wantNoSecret(t, "cancelled", err.Error())
				err = canceledIn(t, 2, statuses(503), nil, fmt.Errorf("stop: %w", inner))
				wantNoSecret(t, "cause", err.Error())
			})
		})
	}
}

// Middleware and mocks print contexts.
func TestAttemptContext_WithholdsSecrets(t *testing.T) {
	rt := &httpretry.RetryTransport{Policy: now, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
		ctx, cancel := context.WithCancel(req.Context())
		defer cancel()
		for _, ctx := range []context.Context{req.Context(), ctx} {
			if got := fmt.Sprintf("%v %+v %#v", ctx, ctx, ctx); strings.Contains(got, "secret") {
				t.Errorf("attempt %d has the context %s", httpretry.AttemptNumber(ctx), got)
			}
		}
		if httpretry.AttemptNumber(ctx) < 3 {
			return response(req, 503, ""), nil
		}
		return response(req, 200, ""), nil
	})}
	req := newRequest(t, "GET", "http://user:secret@example.com/?key=secret", nil)
	req.Header.Set("Authorization", "Bearer secret")
	if _, err := rt.RoundTrip(req); err != nil {
		t.Fatal(err)
	}
}

// The public part of a URL stays in the message, because it says which request
// failed.
func TestError_KeepsHostAndPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := &httpretry.RetryTransport{Base: failing(secretErrors["url.Error"])}
		_, err := rt.RoundTrip(newRequest(t, "GET", secretURL, nil))
		if want := "https://example.com/v1/models"; !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want %q in it", err, want)
		}
	})
}

// A leaking is an error of net/http that repeats a secret.
type leaking struct {
	name   string
	err    func(t *testing.T) error
	secret string // in the error itself, if it has one
	want   string // in the message
}

// leakingErrors are made by net/http, so that they have the texts of the Go
// release in use.
var leakingErrors = []leaking{
	{"not HTTP", sentByPeer("header-secret\r\n\r\n"), "header-secret", `malformed HTTP response "…"`},
	{"version", sentByPeer("HTTP/header-secret 200 OK\r\n\r\n"), "header-secret", `malformed HTTP version "…"`},
	{"status code", sentByPeer("HTTP/1.1 header-secret OK\r\n\r\n"), "header-secret", `malformed HTTP status code "…"`},
	{"header line", sentByPeer("HTTP/1.1 200 OK\r\nheader-secret\r\n\r\n"), "header-secret", `malformed MIME header`},
	{"header value", sentByPeer("HTTP/1.1 200 OK\r\nX-Y: \"header-secret\"\x01\r\n\r\n"), "header-secret", `malformed MIME header line: "…"`},
	{"Content-Length", sentByPeer("HTTP/1.1 200 OK\r\nContent-Length: header-secret\r\n\r\n"), "header-secret", `bad Content-Length "…"`},
	{"Content-Length with a URL", sentByPeer("HTTP/1.1 200 OK\r\nContent-Length: https://example.com/header-secret\r\n\r\n"), "header-secret", `bad Content-Length "…"`},
	{"two Content-Lengths", sentByPeer("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: header-secret\r\n\r\n"), "header-secret", `"…"`},
	{"Transfer-Encoding", sentByPeer("HTTP/1.1 200 OK\r\nTransfer-Encoding: header-secret\r\n\r\n"), "header-secret", `unsupported transfer encoding: "…"`},
	{"trailer", sentByPeer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length, header-secret\r\n\r\n"), "", `bad trailer key "…"`},
	{"GOAWAY", sentByPeer("\x00\x00\x00\x04\x00\x00\x00\x00\x00" +
		"\x00\x00\x15\x07\x00\x00\x00\x00\x00" + "\x00\x00\x00\x01" + "\x00\x00\x00\x0b" + "header-secret"), "header-secret", `debug="…"`},
	{"proxy's port", throughProxy("http://alice:pass-word/x@proxy.example.com"), "pass-word", `invalid port "…" after host`},
	{"proxy's userinfo", throughProxy("http://alice:pass-word]@proxy.example.com"), "", "userinfo"},
	{"Location", redirectedTo("https://alice:pass-word@example.com:port/?api_key=query-secret"), "query-secret", `failed to parse Location header "…"`},
	{"redirect", redirectedTo("gopher://alice:pass-word@example.com/?api_key=query-secret"), "query-secret", `unsupported protocol scheme "…"`},
	{"header to send", sending("Authorization", "Bearer header-secret\n"), "", `invalid header field value for "…"`},
	{"scheme", func(t *testing.T) error {
		_, err := new(http.Transport).RoundTrip(&http.Request{URL: &url.URL{Scheme: "pass-word", Host: "h"}, Header: http.Header{}})
		return err
	}, "pass-word", `unsupported protocol scheme "…"`},
}

// sentByPeer returns the error of a request to a server that sends response,
// which is HTTP/2 if it begins with a frame.
func sentByPeer(response string) func(t *testing.T) error {
	return func(t *testing.T) error {
		tr := &http.Transport{DisableKeepAlives: true, Protocols: new(http.Protocols)}
		h2 := response[0] == 0
		tr.Protocols.SetHTTP1(!h2)
		tr.Protocols.SetUnencryptedHTTP2(h2)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		defer wg.Wait()
		defer l.Close()
		wg.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				if h2 {
					// Before the request, the same frame is another error.
					readHeadersFrame(conn)
				} else {
					conn.Read(make([]byte, 1024))
				}
				io.WriteString(conn, response)
				conn.(*net.TCPConn).CloseWrite()
				io.Copy(io.Discard, conn) // until the client closes it
				conn.Close()
			}
		})
		defer tr.CloseIdleConnections()
		resp, err := tr.RoundTrip(newRequest(t, "GET", "http://"+l.Addr().String()+"/", nil))
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		return err
	}
}

// readHeadersFrame reads the beginning of an HTTP/2 connection up to the first
// HEADERS frame (RFC 9113, sections 3.4 and 4.1).
func readHeadersFrame(conn io.Reader) {
	const headers = 1
	io.CopyN(io.Discard, conn, 24)
	for frame := [9]byte{}; frame[3] != headers; {
		if _, err := io.ReadFull(conn, frame[:]); err != nil {
			return
		}
		io.CopyN(io.Discard, conn, int64(frame[0])<<16|int64(frame[1])<<8|int64(frame[2]))
	}
}

// throughProxy returns the error of a request through a proxy whose URL cannot
// be parsed.
func throughProxy(proxy string) func(t *testing.T) error {
	return func(t *testing.T) error {
		tr := &http.Transport{Proxy: func(*http.Request) (*url.URL, error) { return url.Parse(proxy) }}
		_, err := tr.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
		return err
	}
}

// redirectedTo returns the error of a client, used as Base, that is redirected.
func redirectedTo(location string) func(t *testing.T) error {
	return func(t *testing.T) error {
		client := &http.Client{Transport: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			if req.URL.Host == "example.com" && req.URL.Scheme == "gopher" {
				return new(http.Transport).RoundTrip(req)
			}
			resp := response(req, http.StatusFound, "")
			resp.Header.Set("Location", location)
			return resp, nil
		})}
		_, err := client.Get("http://example.com/")
		return err
	}
}

func sending(key, value string) func(t *testing.T) error {
	return func(t *testing.T) error {
		req := newRequest(t, "GET", "http://example.com/", nil)
		req.Header.Set(key, value)
		_, err := new(http.Transport).RoundTrip(req)
		return err
	}
}

// net/http repeats bytes of the peer, of headers and of proxy settings in its
// errors. Neither the text of an Error nor a log record does.
func TestError_WithholdsWhatNetHTTPQuotes(t *testing.T) {
	for _, tt := range leakingErrors {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.err(t)
			if err == nil || !strings.Contains(err.Error(), tt.secret) {
				t.Fatalf("got %v, want an error of net/http with %q in it, so that there is something to withhold", err, tt.secret)
			}
			logger, buf := newLogger(slog.LevelDebug)
			httpretry.LogAttempts(logger)(httpretry.Attempt{Request: newRequest(t, "GET", "http://example.com/", nil), Number: 1, Err: err},
				httpretry.Decision{Reason: "final"})
			for name, wrapped := range map[string]error{"alone": err, "wrapped": fmt.Errorf("5\" wide: %w", err), "joined": errors.Join(io.EOF, err)} {
				for name, text := range map[string]string{
					name:               (&httpretry.Error{Attempts: 2, Err: wrapped}).Error(),
					name + ", as Last": (&httpretry.Error{Attempts: 2, Err: io.EOF, Last: wrapped}).Error(),
				} {
					wantNoSecret(t, name, text)
					if name == "alone" && !strings.Contains(text, tt.want) {
						t.Errorf("got %q, want %q in it", text, tt.want)
					}
				}
			}
			wantNoSecret(t, "log", buf.String())
			if !strings.Contains(strings.ReplaceAll(buf.String(), `\`, ""), tt.want) {
				t.Errorf("log: got %q, want %q in it", buf, tt.want)
			}
		})
	}
}

// Middleware prints URLs without quotes.
func TestError_ReducesURLs(t *testing.T) {
	tests := []struct{ text, want string }{
		{"GET " + secretURL + " failed", "GET https://example.com/v1/models failed"},
		{"(" + secretURL + ")", "(https://example.com/v1/models)"},
		{"no token:\n" + secretURL + "\n" + secretURL, "no token:\nhttps://example.com/v1/models\nhttps://example.com/v1/models"},
		{"größe " + secretURL, "größe https://example.com/v1/models"},
		{"tried=" + secretURL + ", again", "tried=https://example.com/v1/models, again"},
		{"via socks5://alice:pass-word@[::1]:1080: refused", "via socks5://[::1]:1080: refused"},
		{"https://alice:pass-word/@example.com/", "(invalid URL)"},
		{"https://[2001:db8::1]: refused", "https://[2001:db8::1]: refused"},
		{"https://alice:pass-word@", "https:"},
		{"://:,", "(invalid URL):,"},
		{"5\" wide", "5\"…\""}, // a text that was cut off
		{"a `b` c", "a \"…\" c"},
		{"GET /p?k=s failed", "GET /p?… failed"},
		{"why?", "why?"},
		{"dial u:p@h:80", "dial …@h:80"},
		{"failed //u:p@h/p", "failed …@h/p"},
		{"https://example.com/v1/models: EOF", "https://example.com/v1/models: EOF"},
	}
	for _, tt := range tests {
		got := (&httpretry.Error{Attempts: 2, Reason: "policy", Err: errors.New(tt.text)}).Error()
		if want := "httpretry: gave up after 2 attempts (policy): " + tt.want; got != want {
			t.Errorf("%q: got %q, want %q", tt.text, got, want)
		}
	}
}

// Nothing around a quoted text or a URL makes its secret visible.
func FuzzError(f *testing.F) {
	f.Add("bad Content-Length ", "", "", " again")
	f.Add(`5" wide: `, `\`, "\n", ` "`)
	f.Add("größe(", `"`, "://", ")")
	f.Fuzz(func(t *testing.T, before, within, rest, after string) {
		const secret = "pass-word"
		if strings.Contains(before+"|"+within+"|"+rest+"|"+after, secret) {
			return
		}
		errs := []error{errors.New(before + strconv.Quote(within+secret+rest) + after)}
		if !strings.Contains(before, ":/") { // the path of an absolute URL is public, also that of A:/https://…
			text := before + "https://alice:" + secret + "@example.com/?api_key=" + secret + after
			errs = append(errs, errors.New(text), &url.Error{Op: "Get", URL: text, Err: io.EOF})
		}
		for _, err := range errs {
			wantNoSecret(t, err.Error(), (&httpretry.Error{Attempts: 2, Err: err}).Error())
		}
	})
}

// An error of this package has the package's prefix, which is not repeated.
func TestError_HasOnePrefix(t *testing.T) {
	e := &httpretry.Error{Attempts: 2, Err: fmt.Errorf("signing: %w", errors.New("httpretry: a")), Last: errors.New("httpretry: b")}
	if got, want := e.Error(), "httpretry: gave up after 2 attempts (): signing: a; last failure: b"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
