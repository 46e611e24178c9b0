package httpretry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
)

// failing returns a base whose every attempt fails with err.
func failing(err error) roundTripFunc {
	return func(req *http.Request) (*http.Response, error) {
		if _, err := consume(req); err != nil {
			return nil, err
		}
		return nil, err
	}
}

func TestSingleErrorComesBackAsItIs(t *testing.T) {
	boom := &net.OpError{Op: "read", Err: syscall.ECONNRESET}
	tests := []struct {
		name   string
		rt     *httpretry.RetryTransport
		method string
		reason string
	}{
		{"Never", &httpretry.RetryTransport{Policy: httpretry.Never}, "GET", "the policy makes one attempt"},
		{"not idempotent", &httpretry.RetryTransport{}, "POST", "there is no retry"},
		{"OnAttempt", &httpretry.RetryTransport{OnAttempt: func(httpretry.Attempt, httpretry.Decision) {}}, "POST", "listening changes nothing"},
		{"final", &httpretry.RetryTransport{Classifier: httpretry.ClassifierFunc(
			func(*http.Request, *http.Response, error) httpretry.Verdict { return httpretry.Verdict{} })}, "GET", "there is no retry"},
	}
	for _, tt := range tests {
		tt.rt.Base = failing(boom)
		resp, err := tt.rt.RoundTrip(newRequest(t, tt.method, "http://example.com/", nil))
		if err != error(boom) || resp != nil {
			t.Errorf("%s: got %v, %v, want no response and the very error of the attempt: %s", tt.name, resp, err, tt.reason)
		}
	}
}

func TestErrorAfterSeveralAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reset := &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
		client := &http.Client{Transport: &httpretry.RetryTransport{Base: failing(reset)}}
		_, err := client.Do(newRequest(t, "GET", "http://example.com/", nil))
		var e *httpretry.Error
		if !errors.As(err, &e) {
			t.Fatalf("got %v (%T), want an *Error within", err, err)
		}
		if e.Attempts != 4 || e.Reason != httpretry.ReasonPolicy || e.Err != error(reset) {
			t.Errorf("got %d attempts, reason %q, %v, want 4, %q and the last attempt's error", e.Attempts, e.Reason, e.Err, httpretry.ReasonPolicy)
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

// The error is that of the last attempt, whatever came before it.
func TestLastErrorCounts(t *testing.T) {
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

// timeout is a timeout as net has them: by its method.
type timeout bool

func (timeout) Error() string   { return "timeout, perhaps" }
func (t timeout) Timeout() bool { return bool(t) }

// url.Error asserts Timeout and does not unwrap: what stands between it and
// the timeout has to pass the question on.
func TestTimeoutIsSeenThroughTheClient(t *testing.T) {
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
		{"wrapped", httpretry.RetryTransport{Base: failing(fmt.Errorf("reading: %w", timeout(true)))}, true, "wrapping is looked through"},
		{"joined", httpretry.RetryTransport{Base: failing(errors.Join(io.EOF, timeout(true)))}, true, "wrapping is looked through"},
		{"net.OpError", httpretry.RetryTransport{Base: failing(&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded})}, true, "a timeout of a connection"},
		{"a deadline", httpretry.RetryTransport{Base: failing(context.DeadlineExceeded)}, true, "a deadline of an attempt's own"},
		{"AttemptTimeout", httpretry.RetryTransport{Base: slow, AttemptTimeout: time.Second}, true, "the layer's own"},
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
				if e.Timeout() != tt.want || asked.Timeout() != tt.want {
					t.Errorf("Timeout: got %t, and %t through *url.Error, want %t: %s", e.Timeout(), asked.Timeout(), tt.want, tt.reason)
				}
			})
		})
	}
}

func TestAttemptTimeoutMatchesDeadlineExceeded(t *testing.T) {
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
func onErrorReason(t *testing.T, reason httpretry.Reason, onAttempt func(httpretry.Attempt, httpretry.Decision)) error {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if reason == httpretry.ReasonDeadline {
		ctx, cancel = context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
	}
	verdicts := map[httpretry.Reason]httpretry.Outcome{
		httpretry.ReasonFinal: httpretry.Final, httpretry.ReasonNotIdempotent: httpretry.Uncertain,
	}
	rt := &httpretry.RetryTransport{
		OnAttempt: onAttempt,
		Policy: httpretry.PolicyFunc(func(a httpretry.Attempt) (time.Duration, bool) {
			return time.Second, reason != httpretry.ReasonPolicy || a.Number == 1
		}),
		Classifier: httpretry.ClassifierFunc(func(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
			if outcome, ok := verdicts[reason]; ok && err != nil {
				return httpretry.Verdict{Outcome: outcome}
			}
			if err != nil && req.Context().Err() != nil {
				return httpretry.Verdict{Outcome: httpretry.Final}
			}
			return httpretry.Verdict{Outcome: httpretry.Unprocessed}
		}),
		Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			if httpretry.AttemptNumber(req.Context()) == 1 {
				return busy(http.StatusServiceUnavailable, nil)(req)
			}
			if reason == httpretry.ReasonCanceled {
				cancel()
			}
			return failing(io.ErrUnexpectedEOF)(req)
		}),
	}
	req := newRequest(t, "POST", "http://example.com/", strings.NewReader("x")).WithContext(ctx)
	if reason == httpretry.ReasonNotReplayable {
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

// The error says why no other attempt was made, and says the same whether
// anybody listens to the attempts or not.
func TestErrorReason(t *testing.T) {
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
					if e.Attempts != 2 || e.Reason != want || e.Err != io.ErrUnexpectedEOF {
						t.Errorf("got %d attempts, reason %q and %v, want 2, %q and %v", e.Attempts, e.Reason, e.Err, want, io.ErrUnexpectedEOF)
					}
				})
			})
		}
	}
}

// canceledIn has a context end while the layer waits, for the first time or
// for the second, and returns the error that comes of it. The waits are 1 s
// and 2 s long.
func canceledIn(t *testing.T, wait int, base roundTripFunc, body io.Reader, cause error) error {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	start := time.Now()
	after := []time.Duration{0, 300 * time.Millisecond, 1300 * time.Millisecond}[wait]
	time.AfterFunc(after, func() { cancel(cause) })
	rt := &httpretry.RetryTransport{Base: base, Policy: httpretry.RetryConfig{MaxRetries: 5, Jitter: httpretry.None()}}
	resp, err := rt.RoundTrip(newRequest(t, "PUT", "http://example.com/", body).WithContext(ctx))
	if elapsed := time.Since(start); resp != nil || elapsed != after {
		t.Errorf("got response %v after %v, want none, at once, after %v", resp, elapsed, after)
	}
	return err
}

func TestCancellationEndsTheWait(t *testing.T) {
	cause, boom := errors.New("user went home"), errors.New("boom")
	tests := []struct {
		name   string
		wait   int
		base   roundTripFunc
		cause  error
		want   error
		last   string
		reason string
	}{
		{"first wait", 1, statuses(503), cause, cause, "", "the cause itself: there was one attempt"},
		{"first wait, after an error", 1, failing(boom), cause, cause, "", "the cause itself: there was one attempt"},
		{"first wait, no cause", 1, statuses(503), nil, context.Canceled, "", "what context.Cause gives"},
		{"second wait", 2, statuses(503), cause, cause, "503", "the message tells of the last response"},
		{"second wait, after an error", 2, failing(boom), cause, cause, "boom", "the message tells of the last error"},
		{"second wait, no cause", 2, statuses(503), nil, context.Canceled, "503", "what context.Cause gives"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				body := newTestBody("x")
				err := canceledIn(t, tt.wait, tt.base, body, tt.cause)
				synctest.Wait()
				body.wantClosedOnce(t)
				if tt.wait == 1 {
					if err != tt.want {
						t.Errorf("got %v (%T), want %v as it is: %s", err, err, tt.want, tt.reason)
					}
					return
				}
				var e *httpretry.Error
				if !errors.As(err, &e) {
					t.Fatalf("got %v (%T), want an *Error: there were two attempts", err, err)
				}
				if e.Attempts != 2 || e.Reason != httpretry.ReasonCanceled || e.Err != tt.want || !errors.Is(err, tt.want) {
					t.Errorf("got %d attempts, reason %q, %v, want 2, %q, %v", e.Attempts, e.Reason, e.Err, httpretry.ReasonCanceled, tt.want)
				}
				for _, want := range []string{"2 attempts", "(canceled)", tt.want.Error(), tt.last} {
					if !strings.Contains(e.Error(), want) {
						t.Errorf("got message %q, want %q in it: %s", e, want, tt.reason)
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

// What a cancelled wait leaves behind is closed: the superseded response, and
// the body that the next attempt would have sent.
func TestCancellationLeavesNothingBehind(t *testing.T) {
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
				Policy: httpretry.RetryConfig{MaxRetries: 5, Jitter: httpretry.None()},
				Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
					resp, err := busy(http.StatusServiceUnavailable, nil)(req)
					resp.Body = newBody("come back later")
					return resp, err
				}),
			}
			rt.RoundTrip(req)
			synctest.Wait()
			if want := 2*wait + 1; len(bodies) != want {
				t.Errorf("got %d bodies, want %d: a request's and a response's for each attempt, and the next request's", len(bodies), want)
			}
			for i, b := range bodies {
				if b.closes != 1 {
					t.Errorf("cancelled in wait %d: body %d was closed %d times, want once", wait, i, b.closes)
				}
			}
		})
	}
}

// The cause also comes through http.Client.
func TestCauseThroughTheClient(t *testing.T) {
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

// secrets are what no message and no log line may hold.
var secrets = []string{"alice", "pass-word", "api_key", "query-secret", "fragment-secret", "header-secret"}

// secretURL has a secret at each place where a URL can hold one.
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

// wantNoSecret fails if text holds one of the secrets.
func wantNoSecret(t *testing.T, what, text string) {
	t.Helper()
	for _, secret := range secrets {
		if strings.Contains(text, secret) {
			t.Errorf("%s: got %q, which tells %q", what, text, secret)
			return
		}
	}
}

func TestErrorTellsNoSecret(t *testing.T) {
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
func TestContextTellsNoSecret(t *testing.T) {
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

// What may be known of a URL stays in the message: it says where it failed.
func TestErrorKeepsHostAndPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := &httpretry.RetryTransport{Base: failing(secretErrors["url.Error"])}
		_, err := rt.RoundTrip(newRequest(t, "GET", secretURL, nil))
		if want := "https://example.com/v1/models"; !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want %q in it", err, want)
		}
	})
}
