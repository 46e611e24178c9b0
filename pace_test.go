package httpretry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
)

// A testPacer delays each attempt and records all that it is told.
type testPacer struct {
	delay  time.Duration
	events []string
	err    error                     // of Wait
	hook   func(method, call string) // may be nil
}

func (p *testPacer) add(event string, args ...any) {
	p.events = append(p.events, fmt.Sprintf(event, args...))
	if p.hook != nil {
		p.hook(strings.Fields(event)[0], p.events[len(p.events)-1])
	}
}

func (p *testPacer) Delay(req *http.Request) time.Duration {
	req.Header.Set("X-Hook", "modifies a copy")
	p.add("delay")
	return p.delay
}

func (p *testPacer) Wait(ctx context.Context, req *http.Request, backoff time.Duration) (func(httpretry.Attempt), error) {
	req.Header.Set("X-Hook", "modifies a copy")
	n := httpretry.AttemptNumber(ctx)
	p.add("wait %d %v", n, backoff)
	if p.err != nil {
		return nil, p.err
	}
	select {
	case <-time.After(max(p.delay, backoff)):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return func(a httpretry.Attempt) {
		a.Request.Header.Set("X-Hook", "modifies a copy")
		if a.Response != nil {
			a.Response.Header.Set("X-Hook", "modifies a copy")
		}
		p.add("done %d %s", n, outcomeNames[a.Verdict.Outcome])
	}, nil
}

// sending returns a Base that adds an event to p for each attempt.
func (p *testPacer) sending(base roundTripFunc) roundTripFunc {
	return func(req *http.Request) (*http.Response, error) {
		if req.Header.Get("X-Hook") != "" {
			panic("the Pacer has modified the request")
		}
		p.add("send")
		return base(req)
	}
}

// Every attempt waits for the Pacer, and ends before the next decision.
func TestPacer_DelaysEachAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &testPacer{delay: 3 * time.Second}
		var delays []time.Duration
		rt := &httpretry.RetryTransport{
			Base: p.sending(statuses(503, 503, 200)), Pacer: p,
			Policy: policyFunc(func(a httpretry.Attempt) (time.Duration, bool) {
				p.add("policy")
				return time.Duration(a.Number*a.Number) * 2 * time.Second, true
			}),
			OnAttempt: func(a httpretry.Attempt, d httpretry.Decision) { delays = append(delays, a.Delay, d.Delay) },
			OnDone:    func(s httpretry.Summary) { delays = append(delays, s.Elapsed) },
		}
		resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
		if err != nil || resp.StatusCode != 200 || resp.Header.Get("X-Hook") != "" {
			t.Fatalf("got %v, %v, want 200 unchanged", resp, err)
		}
		want := []string{
			"wait 1 0s", "send", "done 1 unprocessed", "policy", "delay",
			"wait 2 2s", "send", "done 2 unprocessed", "policy", "delay",
			"wait 3 8s", "send", "done 3 final",
		}
		if !slices.Equal(p.events, want) {
			t.Errorf("got  %q\nwant %q", p.events, want)
		}
		const sec = time.Second
		// The later of backoff and Pacer counts, not their sum.
		if want := []time.Duration{3 * sec, 3 * sec, 3 * sec, 8 * sec, 8 * sec, 0, 14 * sec}; !slices.Equal(delays, want) {
			t.Errorf("got delays %v, want %v", delays, want)
		}
	})
}

// The context ends a wait before the first attempt and before a retry.
func TestPacer_CanceledWait(t *testing.T) {
	for attempts := range 2 {
		synctest.Test(t, func(t *testing.T) {
			cause := errors.New("cause")
			ctx, cancel := context.WithCancelCause(t.Context())
			p := &testPacer{delay: time.Second}
			time.AfterFunc(time.Duration(attempts)*time.Second+500*time.Millisecond, func() { cancel(cause) })
			var summary httpretry.Summary
			onAttempts := 0
			rt := &httpretry.RetryTransport{
				Base: p.sending(statuses(503)), Pacer: p, Policy: every(0),
				OnAttempt: func(httpretry.Attempt, httpretry.Decision) { onAttempts++ },
				OnDone:    func(s httpretry.Summary) { summary = s },
			}
			body := &countedCloses{Reader: strings.NewReader("x")}
			resp, err := rt.RoundTrip(newRequest(t, "PUT", "http://example.com/", body).WithContext(ctx))
			e, ok := errors.AsType[*httpretry.Error](err)
			if resp != nil || !ok || e.Attempts != attempts || e.Reason != "canceled" || e.Err != cause || (e.Last != nil) != (attempts > 0) {
				t.Errorf("got %v and error %#v, want an *Error after %d attempts with the cause", resp, err, attempts)
			}
			if summary.Attempts != attempts || summary.Reason != "canceled" || onAttempts != attempts {
				t.Errorf("got %+v and %d attempts, want %d", summary, onAttempts, attempts)
			}
			if body.closed != 1 || p.count("done") != attempts {
				t.Errorf("got %d Closes and events %q, want the body closed once and %d ends", body.closed, p.events, attempts)
			}
		})
	}
}

type countedCloses struct {
	io.Reader
	closed int
}

func (c *countedCloses) Close() error { c.closed++; return nil }

func (p *testPacer) count(method string) (n int) {
	for _, e := range p.events {
		if strings.HasPrefix(e, method) {
			n++
		}
	}
	return n
}

// A wait that would end after the deadline is not begun, not even for a first
// attempt.
func TestPacer_DoesNotWaitPastTheDeadline(t *testing.T) {
	late := errors.New("late")
	for _, tt := range []struct {
		name     string
		refuse   int // the number of the attempt whose Wait fails
		delay    time.Duration
		attempts int
		err      error // nil: the response is returned
	}{
		{"first attempt", 1, 0, 0, late},
		{"known before the retry", 0, 20 * time.Second, 1, nil},
		{"found in Wait", 2, 0, 1, late},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &testPacer{}
				p.hook = func(method, event string) {
					switch {
					case method == "wait" && strings.HasPrefix(event, fmt.Sprintf("wait %d ", tt.refuse)):
						p.err = late
					case method == "send":
						p.delay = tt.delay
					}
				}
				var decision httpretry.Decision
				var summary httpretry.Summary
				rt := &httpretry.RetryTransport{
					Base: p.sending(statuses(503)), Pacer: p, Policy: every(time.Second),
					OnAttempt: func(_ httpretry.Attempt, d httpretry.Decision) { decision = d },
					OnDone:    func(s httpretry.Summary) { summary = s },
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				body := &countedCloses{Reader: strings.NewReader("x")}
				begun := time.Now()
				resp, err := rt.RoundTrip(newRequest(t, "PUT", "http://example.com/", body).WithContext(ctx))
				if took := time.Since(begun); took > 0 {
					t.Errorf("the call took %v, want no wait", took)
				}
				if summary.Reason != "deadline" || summary.Attempts != tt.attempts || body.closed != 1 {
					t.Errorf("got %+v and %d Closes, want reason deadline after %d attempts, and the body closed", summary, body.closed, tt.attempts)
				}
				if tt.err == nil {
					want := httpretry.Decision{Delay: tt.delay, Reason: "deadline"}
					if err != nil || resp.StatusCode != 503 || decision != want {
						t.Errorf("got %v, %v and decision %v, want the response and %v", resp, err, decision, want)
					}
					return
				}
				e, ok := errors.AsType[*httpretry.Error](err)
				if !ok || e.Err != tt.err || e.Reason != "deadline" || e.Attempts != tt.attempts || (e.Last != nil) != (tt.attempts > 0) {
					t.Errorf("got error %#v, want an *Error with reason deadline after %d attempts", err, tt.attempts)
				}
			})
		})
	}
}

func TestPacer_WaitIsNotPartOfTheAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &testPacer{delay: time.Minute}
		rt := &httpretry.RetryTransport{
			Pacer: p, AttemptTimeout: time.Second, Policy: every(0),
			Base: p.sending(func(req *http.Request) (*http.Response, error) {
				if req.Context().Err() != nil {
					t.Error("the attempt's time began before it was sent")
				}
				time.Sleep(time.Second / 2)
				return statuses(503)(req)
			}),
		}
		if resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil)); err != nil || resp.StatusCode != 503 || p.count("send") != 3 {
			t.Errorf("got %v, %v after %d attempts, want 503 after 3", resp, err, p.count("send"))
		}
	})
}

// While a call waits for the Pacer, its response is discarded as in every wait.
func TestPacer_ResponseIsDiscardedInTheWait(t *testing.T) {
	for _, delay := range []time.Duration{0, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			body := &countedCloses{Reader: strings.NewReader("too fast")}
			p := &testPacer{delay: delay}
			sent := 0
			rt := &httpretry.RetryTransport{Pacer: p, Policy: every(0), Base: p.sending(func(req *http.Request) (*http.Response, error) {
				if sent++; sent > 1 {
					return response(req, 200, ""), nil
				}
				resp := response(req, 503, "")
				resp.Body, resp.ContentLength = body, -1
				return resp, nil
			})}
			p.hook = func(_, event string) {
				if event == "wait 2 0s" && delay > 0 {
					synctest.Wait()
				}
				if event == "wait 2 0s" && body.closed != 1 {
					t.Errorf("with a delay of %v: the response is closed %d times during the wait, want once", delay, body.closed)
				}
			}
			if resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil)); err != nil || resp.StatusCode != 200 {
				t.Errorf("got %v, %v, want 200", resp, err)
			}
		})
	}
}

// Each Wait that succeeded is followed by one call of done, whatever panics, and
// the request's body is closed.
func TestPacer_DoneIsCalledOnceDespiteAPanic(t *testing.T) {
	for _, where := range []string{"wait", "send", "done", "classify", "policy", "delay", "attempt"} {
		t.Run(where, func(t *testing.T) {
			p := &testPacer{}
			p.hook = func(method, _ string) {
				if method == where {
					panic("boom")
				}
			}
			rt := &httpretry.RetryTransport{
				Base: p.sending(statuses(503)), Pacer: p,
				Classifier: func(*http.Request, *http.Response, error) httpretry.Verdict {
					p.add("classify")
					return httpretry.Verdict{Outcome: httpretry.Unprocessed}
				},
				Policy:    policyFunc(func(httpretry.Attempt) (time.Duration, bool) { p.add("policy"); return 0, true }),
				OnAttempt: func(httpretry.Attempt, httpretry.Decision) { p.add("attempt") },
			}
			body := &countedCloses{Reader: strings.NewReader("x")}
			func() {
				defer func() {
					if recover() != "boom" {
						t.Error("the panic did not reach the caller")
					}
				}()
				rt.RoundTrip(newRequest(t, "PUT", "http://example.com/", body))
			}()
			want := 1
			if where == "wait" {
				want = 0
			}
			if got := p.count("done"); got != want || body.closed != 1 {
				t.Errorf("got events %q and %d Closes, want %d ends and 1 Close", p.events, body.closed, want)
			}
		})
	}
}

// The Pacer also hears of an attempt that could not be sent.
func TestPacer_HearsOfAnAttemptWithoutABody(t *testing.T) {
	p := &testPacer{}
	rt := &httpretry.RetryTransport{Base: p.sending(statuses(503)), Pacer: p, Policy: every(0)}
	req := newRequest(t, "PUT", "http://example.com/", nil)
	req.Body = io.NopCloser(strings.NewReader("x"))
	req.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("gone") }
	if resp, err := rt.RoundTrip(req); err != nil || resp.StatusCode != 503 {
		t.Errorf("got %v, %v, want the 503", resp, err)
	}
	want := []string{"wait 1 0s", "send", "done 1 unprocessed", "delay", "wait 2 0s", "done 2 final"}
	if !slices.Equal(p.events, want) {
		t.Errorf("got %q, want %q", p.events, want)
	}
}

// The attempts that resume a download are paced and reported like the others.
func TestPacer_ResumedDownload(t *testing.T) {
	for name, tt := range map[string]struct {
		replies []reply
		panics  string
		want    []string
	}{
		"resumed": {[]reply{whole(10, io.ErrUnexpectedEOF), part(5, io.ErrUnexpectedEOF), part(-1, nil)}, "", []string{
			"wait 1 0s", "send", "done 1 final", "delay", "wait 2 1s", "send", "done 2 final",
			"delay", "wait 2 1s", "send", "done 2 final",
		}},
		"panic": {[]reply{whole(10, io.ErrUnexpectedEOF), func(*http.Request) (*http.Response, error) { panic("boom") }}, "boom", []string{
			"wait 1 0s", "send", "done 1 final", "delay", "wait 2 1s", "send", "done 2 final",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &testPacer{}
				o := newOrigin(tt.replies...)
				rt := o.downloads(httpretry.RetryTransport{Pacer: p, Policy: every(time.Second)})
				rt.Base = p.sending(rt.Base.RoundTrip)
				resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
				if err != nil {
					t.Fatal(err)
				}
				func() {
					defer func() {
						if r := recover(); (r != nil) != (tt.panics != "") {
							t.Errorf("got panic %v", r)
						}
					}()
					io.ReadAll(resp.Body)
				}()
				resp.Body.Close()
				if !slices.Equal(p.events, tt.want) {
					t.Errorf("got  %q\nwant %q", p.events, tt.want)
				}
			})
		})
	}
}
