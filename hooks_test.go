package httpretry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
)

// A body is closed also if the function given to Override panics.
func TestOverride_PanicClosesTheBody(t *testing.T) {
	body := newTestBody("x")
	req := newRequest(t, "PUT", "http://example.com/", nil)
	req.Body = body
	req = req.WithContext(httpretry.Override(t.Context(), func(*httpretry.RetryTransport) { panic("override") }))
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic did not reach the caller")
			}
		}()
		(&httpretry.RetryTransport{Base: statuses(200)}).RoundTrip(req)
	}()
	body.wantClosedOnce(t)
}

// No field of the caller's request or response is shared with a hook.
func TestHooks_GetDeepCopies(t *testing.T) {
	req := newRequest(t, "GET", "http://example.com/", nil)
	req.TransferEncoding = []string{"chunked"}
	req.Form = map[string][]string{"f": {"1"}}
	req.PostForm = map[string][]string{"f": {"1"}}
	rt := &httpretry.RetryTransport{
		Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			resp := response(req, 200, "")
			resp.TransferEncoding = []string{"chunked"}
			resp.Trailer = http.Header{"T": nil}
			return resp, nil
		}),
		OnAttempt: func(a httpretry.Attempt, _ httpretry.Decision) {
			a.Request.TransferEncoding[0] = "hook"
			a.Request.Form.Set("f", "hook")
			a.Request.PostForm.Set("f", "hook")
			a.Response.TransferEncoding[0] = "hook"
			a.Response.Trailer.Set("T", "hook")
		},
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(req.TransferEncoding, req.Form, req.PostForm, resp.TransferEncoding, resp.Trailer)
	if want := "[chunked] map[f:[1]] map[f:[1]] [chunked] map[T:[]]"; got != want {
		t.Errorf("after the hook the caller has %s, want %s", got, want)
	}
}

// A hook may modify and keep its copies: neither the call nor another hook sees
// that.
func TestHooks_DoNotShareCopies(t *testing.T) {
	var wg sync.WaitGroup
	var hosts []string
	attempts := 0
	rt := &httpretry.RetryTransport{
		Policy:     now,
		Idempotent: httpretry.IsIdempotent,
		Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			attempts++
			return response(req, 500-300*(attempts/3), ""), nil
		}),
		Budget: withdrawFunc(func(a httpretry.Attempt) bool {
			hosts = append(hosts, a.Request.URL.Host)
			return true
		}),
		OnAttempt: func(a httpretry.Attempt, _ httpretry.Decision) {
			a.Request.URL.Host = "hook.example"
			wg.Go(func() { a.Request.Header.Del("Idempotency-Key") }) // to log it without
		},
	}
	req := newRequest(t, "POST", "http://example.com/", nil)
	req.Header.Set("Idempotency-Key", "1")
	resp, err := rt.RoundTrip(req)
	wg.Wait()
	if err != nil || resp.StatusCode != 200 || fmt.Sprint(hosts) != "[example.com example.com]" {
		t.Errorf("got %v, %v after %d attempts, and a budget for %q", resp, err, attempts, hosts)
	}
}

type withdrawFunc func(httpretry.Attempt) bool

func (withdrawFunc) Deposit(*http.Request)               {}
func (f withdrawFunc) Withdraw(a httpretry.Attempt) bool { return f(a) }

// A request whose context ends in GetBody or in a hook is not sent.
func TestRoundTrip_DoesNotSendAfterCancellation(t *testing.T) {
	for name, set := range map[string]func(*http.Request, *httpretry.RetryTransport, func()){
		"GetBody": func(req *http.Request, _ *httpretry.RetryTransport, cancel func()) {
			req.GetBody = func() (io.ReadCloser, error) {
				cancel()
				return newTestBody("x"), nil
			}
		},
		"Idempotent": func(_ *http.Request, rt *httpretry.RetryTransport, cancel func()) {
			rt.Idempotent = func(*http.Request) bool { cancel(); return true }
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			body := newTestBody("x")
			req := newRequest(t, "PUT", "http://example.com/", nil).WithContext(ctx)
			req.Body = body
			rt := &httpretry.RetryTransport{Policy: now, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				if req.Context().Err() != nil {
					t.Error("a request was sent with a context that is done")
				}
				consume(req)
				return response(req, 503, ""), nil
			})}
			set(req, rt, cancel)
			if _, err := rt.RoundTrip(req); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want %v", err, context.Canceled)
			}
			body.wantClosedOnce(t)
		})
	}
}

// A panic of a body that is discarded reaches the goroutine of RoundTrip, where
// it can be recovered.
func TestDiscard_PanicReachesTheCaller(t *testing.T) {
	for _, delay := range []time.Duration{0, time.Second} {
		synctest.Test(t, func(t *testing.T) {
			rt := &httpretry.RetryTransport{Policy: every(delay), Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				resp := response(req, 503, "")
				resp.Body = io.NopCloser(readerFunc(func([]byte) (int, error) { panic("body") }))
				return resp, nil
			})}
			defer func() {
				if got := recover(); got != "body" {
					t.Errorf("after a wait of %v: recovered %v, want the panic of the body", delay, got)
				}
			}()
			rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
		})
	}
}

// However often a download is closed while it waits, the Read ends the call.
func TestDownload_ClosedSeveralTimesInAWait(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			var sums []httpretry.Summary
			o := newOrigin(whole(10, errBreak), status(503))
			rt := o.downloads(httpretry.RetryTransport{
				Policy: every(time.Hour),
				OnDone: func(s httpretry.Summary) { sums = append(sums, s) },
			})
			resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					<-time.After(time.Minute)
					resp.Body.Close()
					resp.Body.Close()
				})
			}
			got, err := io.ReadAll(resp.Body)
			wg.Wait()
			if string(got) != alphabet[:10] || !errors.Is(err, http.ErrBodyReadAfterClose) {
				t.Errorf("got %q, %v, want the beginning and %v", got, err, http.ErrBodyReadAfterClose)
			}
			if len(sums) != 1 || sums[0].Reason != "canceled" || sums[0].Err != err {
				t.Errorf("got summaries %+v, want one, canceled, with the error of the Read", sums)
			}
		})
	}
}

// Defaults that are set explicitly cost as little as none, except for a Classifier.
func TestSuccess_ExplicitDefaultsAllocateNothing(t *testing.T) {
	resp := &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}
	req := newRequest(t, "POST", "http://example.com/", strings.NewReader("x"))
	for name, rt := range map[string]*httpretry.RetryTransport{
		"Policy":     {Policy: httpretry.RetryConfig{}},
		"Idempotent": {Idempotent: httpretry.IsIdempotent},
		"Budget":     {Budget: &httpretry.TokenBudget{}},
	} {
		rt.Base = countedFunc(func(req *http.Request) (*http.Response, error) {
			resp.Request = req
			return resp, nil
		})
		if got := testing.AllocsPerRun(100, func() { rt.RoundTrip(req) }); got > 0 {
			t.Errorf("%s: %v allocations, want none", name, got)
		}
	}
}

// An old response is returned only in place of a failure of the caller's body.
func TestRoundTrip_FailureAfterAnOverflowIsReturned(t *testing.T) {
	reset := errors.New("reset")
	attempts := 0
	rt := &httpretry.RetryTransport{MaxReplayBytes: 10, Policy: now, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
		if attempts++; attempts == 1 {
			io.ReadFull(req.Body, make([]byte, 5))
			return response(req, 503, "busy"), nil
		}
		consume(req) // exceeds the buffer
		return nil, reset
	})}
	_, err := rt.RoundTrip(newRequest(t, "PUT", "http://example.com/", iotest.OneByteReader(strings.NewReader("a body of more than ten bytes"))))
	if !errors.Is(err, reset) || attempts != 2 {
		t.Errorf("got %v after %d attempts, want %v after 2", err, attempts, reset)
	}
}

// If the caller's body fails on a retry and there is no response to return, the
// error has the failure before it.
func TestError_LastBeforeAFailureOfTheBody(t *testing.T) {
	reset, gone := errors.New("reset"), errors.New("gone")
	rt := &httpretry.RetryTransport{Policy: now, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
		if _, err := consume(req); err != nil {
			return nil, err
		}
		return nil, reset
	})}
	req := newRequest(t, "PUT", "http://example.com/", nil)
	req.Body = newTestBody("x")
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(errorReader{gone}), nil }
	_, err := rt.RoundTrip(req)
	e, ok := errors.AsType[*httpretry.Error](err)
	if !ok || !errors.Is(e.Err, gone) || e.Last != reset || e.Reason != "not_replayable" {
		t.Errorf("got %#v, want %v, after %v", err, gone, reset)
	}
}
