package httpretry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
)

// HEAD, 204 and 304 have no body, whatever Content-Length says and whatever type
// the body has (RFC 9110, sections 9.3.2, 15.3.5 and 15.4.5).
func TestMaxResponseBytes_ResponsesWithoutContent(t *testing.T) {
	tests := []struct {
		method string
		status int
	}{{"HEAD", 200}, {"GET", 204}, {"GET", 304}, {"HEAD", 404}}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.method, tt.status), func(t *testing.T) {
			attempts := 0
			rt := &httpretry.RetryTransport{MaxResponseBytes: 1 << 20, Policy: now, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				attempts++
				resp := response(req, tt.status, "")
				resp.ContentLength = 1000
				resp.Body = struct{ io.ReadCloser }{http.NoBody}
				return resp, nil
			})}
			resp, err := rt.RoundTrip(newRequest(t, tt.method, "http://example.com/", nil))
			if err != nil || attempts != 1 || readAll(t, resp) != "" || resp.ContentLength != 1000 {
				t.Errorf("got %v, %v after %d attempts, want the response after 1", resp, err, attempts)
			}
		})
	}
}

// A tunnel follows a 2xx to CONNECT (RFC 9110, section 9.3.6).
func TestMaxResponseBytes_TunnelIsNotBuffered(t *testing.T) {
	near, far := io.Pipe()
	rt := &httpretry.RetryTransport{MaxResponseBytes: 1 << 20, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
		resp := response(req, 200, "")
		resp.Body, resp.ContentLength = near, -1
		return resp, nil
	})}
	resp, err := rt.RoundTrip(newRequest(t, "CONNECT", "http://example.com/", nil))
	if err != nil {
		t.Fatal(err)
	}
	go io.WriteString(far, "x")
	if n, err := io.ReadFull(resp.Body, make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("got %d bytes, %v, want one", n, err)
	}
	resp.Body.Close()
}

// A buffered body behaves as a streamed one: it is closed by Close, and trailers
// are there once it has been read.
func TestMaxResponseBytes_BodyBehavesAsStreamed(t *testing.T) {
	srv := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		io.WriteString(w, "content")
		w.Header().Set("X-Sum", "42")
		w.Header().Set(http.TrailerPrefix+"X-Late", "43")
	})
	client := newClient(t, srv, &httpretry.RetryTransport{MaxResponseBytes: 1 << 20})
	get := func() *http.Response {
		resp, err := client.Get(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	resp := get()
	if got, want := fmt.Sprint(resp.Trailer), "map[X-Sum:[]]"; got != want {
		t.Errorf("trailer before the body was read: got %v, want %v", got, want)
	}
	readAll(t, resp)
	if got, want := fmt.Sprint(resp.Trailer), "map[X-Late:[43] X-Sum:[42]]"; got != want {
		t.Errorf("trailer after the body was read: got %v, want %v", got, want)
	}
	resp = get()
	resp.Body.Close()
	if n, err := resp.Body.Read(make([]byte, 1)); n != 0 || !errors.Is(err, http.ErrBodyReadAfterClose) {
		t.Errorf("after Close: got %d bytes, %v, want %v", n, err, http.ErrBodyReadAfterClose)
	}
}

// streamReset looks to the classifier as the error of a reset HTTP/2 stream.
type streamReset struct {
	StreamID, Code uint32
	Cause          error
}

func (e streamReset) Error() string { return fmt.Sprintf("stream error: code %d", e.Code) }

// A server that has begun its response has possibly processed the request.
func TestClassify_BegunResponseIsNeverUnprocessed(t *testing.T) {
	for name, failure := range map[string]error{
		"REFUSED_STREAM": streamReset{1, 7, errors.New("received from peer")},
		"GOAWAY":         errors.New("http2: Transport received Server's graceful shutdown GOAWAY"),
	} {
		for method, want := range map[string]int{"POST": 1, "PUT": 10} {
			attempts := 0
			rt := &httpretry.RetryTransport{MaxResponseBytes: 100, Policy: now, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				attempts++
				consume(req)
				resp := response(req, 200, "")
				resp.Body, resp.ContentLength = brokenReader("half", failure), -1
				return resp, nil
			})}
			resp, err := rt.RoundTrip(newRequest(t, method, "http://example.com/", strings.NewReader("x")))
			if err != nil || attempts != want {
				t.Errorf("%s, %s: got %d attempts and error %v, want %d", name, method, attempts, err, want)
				continue
			}
			if got, err := io.ReadAll(resp.Body); string(got) != "half" || !errors.Is(err, failure) {
				t.Errorf("%s, %s: got body %q, %v, want half of it and its error", name, method, got, err)
			}
		}
	}
}

// OnDone is called once for each call, however that ends.
func TestOnDone_OncePerCall(t *testing.T) {
	boom := errors.New("boom")
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	tests := []struct {
		name string
		base roundTripFunc
		set  func(context.Context) (context.Context, context.CancelFunc)
		want string
	}{
		{"success", statuses(200), nil, "1 attempts, final, 200, <nil>, 0s"},
		{"success after retries", statuses(503, 503, 200), nil, "3 attempts, final, 200, <nil>, 2s"},
		{"retries exhausted", statuses(503), nil, "3 attempts, policy, 503, <nil>, 2s"},
		{"error", func(*http.Request) (*http.Response, error) { return nil, httpretry.Permanent(boom) }, nil, "1 attempts, final, 0, boom, 0s"},
		{"context done before", statuses(200), func(context.Context) (context.Context, context.CancelFunc) { return canceled, cancel },
			"0 attempts, canceled, 0, context canceled, 0s"},
		{"canceled wait", statuses(503), func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(1500*time.Millisecond, cancel)
			return ctx, cancel
		}, "2 attempts, canceled, 0, context canceled, 1.5s"},
		{"deadline", statuses(503), func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 1500*time.Millisecond)
		}, "2 attempts, deadline, 503, <nil>, 1s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got []string
				rt := &httpretry.RetryTransport{
					Base:   tt.base,
					Policy: policyFunc(func(a httpretry.Attempt) (time.Duration, bool) { return time.Second, a.Number < 3 }),
					OnDone: func(s httpretry.Summary) {
						status := 0
						if s.Response != nil {
							status = s.Response.StatusCode
							s.Response.Header.Set("X-Hook", "modifies a copy")
						}
						err := s.Err
						if e, ok := errors.AsType[*httpretry.Error](err); ok {
							err = e.Err
						}
						got = append(got, fmt.Sprintf("%d attempts, %s, %d, %v, %v", s.Attempts, s.Reason, status, err, s.Elapsed))
					},
				}
				ctx, free := context.Background(), context.CancelFunc(func() {})
				if tt.set != nil {
					ctx, free = tt.set(ctx)
				}
				defer free()
				resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil).WithContext(ctx))
				if err == nil && resp.Header.Get("X-Hook") != "" {
					t.Error("the hook modified the caller's response")
				}
				if len(got) != 1 || got[0] != tt.want {
					t.Errorf("got %q, want %q once", got, tt.want)
				}
			})
		})
	}
}

// A download is part of its call, which ends when the body has been read or closed.
func TestOnDone_Download(t *testing.T) {
	boom := errors.New("boom")
	for name, tt := range map[string]struct {
		replies []reply
		read    func(io.ReadCloser)
		want    string
	}{
		"read to the end": {[]reply{whole(10, boom), part(10, boom), part(-1, nil)}, func(b io.ReadCloser) { io.ReadAll(b) }, "3 attempts, final, <nil>"},
		"fails":           {[]reply{whole(10, boom), fails(httpretry.Permanent(boom))}, func(b io.ReadCloser) { io.ReadAll(b) }, "2 attempts, final, boom"},
		"closed":          {[]reply{whole(10, boom)}, func(io.ReadCloser) {}, "1 attempts, final, <nil>"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOrigin(tt.replies...)
				var got []string
				rt := o.downloads(httpretry.RetryTransport{OnDone: func(s httpretry.Summary) {
					got = append(got, fmt.Sprintf("%d attempts, %s, %v", s.Attempts, s.Reason, s.Err))
				}})
				resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
				if err != nil {
					t.Fatal(err)
				}
				if len(got) > 0 {
					t.Errorf("before the body was read: got %q", got)
				}
				tt.read(resp.Body)
				resp.Body.Close()
				if len(got) != 1 || got[0] != tt.want {
					t.Errorf("got %q, want %q once", got, tt.want)
				}
			})
		})
	}
}

// Hooks get copies: no modification reaches the caller or Base.
func TestHooks_GetCopies(t *testing.T) {
	spoil := func(req *http.Request, resp *http.Response) {
		if req != nil {
			req.Header.Set("X-Hook", "1")
			req.URL.Host = "hook.example"
			if req.Body != nil {
				io.ReadAll(req.Body)
				req.Body.Close()
			}
		}
		if resp != nil {
			resp.Header.Set("X-Hook", "1")
			io.ReadAll(resp.Body)
			resp.Body.Close()
			resp.StatusCode = 418
		}
	}
	var kept []*http.Response
	attempts := 0
	rt := &httpretry.RetryTransport{
		MaxResponseBytes: 100,
		Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			if b, err := consume(req); b != "body" || err != nil || req.URL.Host != "example.com" || req.Header.Get("X-Hook") != "" {
				t.Errorf("Base got body %q, %v, host %s, header %v", b, err, req.URL.Host, req.Header)
			}
			attempts++
			return response(req, 503-303*(attempts/2), "content"), nil
		}),
		Idempotent: func(req *http.Request) bool { spoil(req, nil); return true },
		Classifier: func(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
			v := httpretry.DefaultClassifier(req, resp, err)
			spoil(req, resp)
			return v
		},
		Policy: policyFunc(func(a httpretry.Attempt) (time.Duration, bool) {
			spoil(a.Request, a.Response)
			return 0, true
		}),
		OnAttempt: func(a httpretry.Attempt, _ httpretry.Decision) {
			kept = append(kept, a.Response)
			spoil(a.Request, a.Response)
		},
		OnDone: func(s httpretry.Summary) { spoil(s.Request, s.Response) },
	}
	req := newRequest(t, "POST", "http://example.com/", io.MultiReader(strings.NewReader("body")))
	resp, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	io.ReadAll(kept[1].Body) // a copy that a hook retains has its own body
	if got := readAll(t, resp); got != "content" || resp.StatusCode != 200 || len(resp.Header) > 0 || len(req.Header) > 0 || req.URL.Host != "example.com" {
		t.Errorf("the caller got %d with %q and header %v, and has header %v and host %s", resp.StatusCode, got, resp.Header, req.Header, req.URL.Host)
	}
}

// The Delay of a refused retry is the wait that would have been necessary.
func TestDecision_DelayOfRefusedWait(t *testing.T) {
	asks := func(seconds string) roundTripFunc {
		return func(req *http.Request) (*http.Response, error) {
			resp := response(req, 503, "")
			resp.Header.Set("Retry-After", seconds)
			return resp, nil
		}
	}
	for name, tt := range map[string]struct {
		rt   httpretry.RetryTransport
		want httpretry.Decision
	}{
		"deadline":                {httpretry.RetryTransport{Base: asks("30")}, httpretry.Decision{Delay: 30 * time.Second, Reason: "deadline"}},
		"budget":                  {httpretry.RetryTransport{Base: asks("3"), Budget: refusing(func(*http.Response) {})}, httpretry.Decision{Delay: 3 * time.Second, Reason: "budget"}},
		"Retry-After is too long": {httpretry.RetryTransport{Base: asks("3600")}, httpretry.Decision{Delay: time.Hour, Reason: "policy"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				var got httpretry.Decision
				tt.rt.Policy = httpretry.RetryConfig{Jitter: httpretry.NoJitter}
				tt.rt.OnAttempt = func(_ httpretry.Attempt, d httpretry.Decision) { got = d }
				if _, err := tt.rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil).WithContext(ctx)); err != nil {
					t.Fatal(err)
				}
				if got != tt.want {
					t.Errorf("got %+v, want %+v", got, tt.want)
				}
			})
		})
	}
}

// Retry-After is a floor for the backoff of every Policy. If it exceeds both the
// backoff and 60 s, no retry follows.
func TestPolicy_RetryAfterIsAFloor(t *testing.T) {
	for _, tt := range []struct {
		asked  string
		policy time.Duration
		want   time.Duration // negative: no retry
	}{
		{"30", time.Second, 30 * time.Second},
		{"30", time.Minute, time.Minute},
		{"60", 0, time.Minute},
		{"61", 0, -1},
		{"3600", time.Hour, time.Hour},
	} {
		t.Run(fmt.Sprint(tt.asked, " against ", tt.policy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				attempts := 0
				rt := &httpretry.RetryTransport{Policy: every(tt.policy), Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
					attempts++
					resp := response(req, 429-229*(attempts/2), "")
					resp.Header.Set("Retry-After", tt.asked)
					return resp, nil
				})}
				start := time.Now()
				if _, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil)); err != nil {
					t.Fatal(err)
				}
				if got := time.Since(start); tt.want >= 0 && (got != tt.want || attempts != 2) || tt.want < 0 && attempts != 1 {
					t.Errorf("got %d attempts after %v, want a retry after %v", attempts, got, tt.want)
				}
			})
		})
	}
}

// Below two RetryTransports, an attempt has the number of the inner one.
func TestAttemptNumber_Nested(t *testing.T) {
	var got []int
	inner := &httpretry.RetryTransport{Policy: httpretry.Never, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
		got = append(got, httpretry.AttemptNumber(req.Context()))
		return response(req, 503, ""), nil
	})}
	var between []int
	outer := &httpretry.RetryTransport{Policy: now, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
		between = append(between, httpretry.AttemptNumber(req.Context()))
		return inner.RoundTrip(req)
	})}
	ctx := httpretry.Override(t.Context(), func(rt *httpretry.RetryTransport) { rt.MaxReplayBytes = 7 })
	resp, err := outer.RoundTrip(newRequest(t, "GET", "http://example.com/", nil).WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != "[1 1 1 1 1 1 1 1 1 1]" || fmt.Sprint(between) != "[1 2 3 4 5 6 7 8 9 10]" {
		t.Errorf("got numbers %v below the inner and %v below the outer, want always 1, and 1 to 10", got, between)
	}
	if n := httpretry.AttemptNumber(resp.Request.Context()); n != 10 {
		t.Errorf("AttemptNumber of the response's request: got %d, want 10", n)
	}
}

// Override changes any field, for one request, and the outer change comes first.
func TestOverride_ChangesACopy(t *testing.T) {
	attempts := 0
	rt := &httpretry.RetryTransport{Policy: now, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
		attempts++
		if n := httpretry.AttemptNumber(req.Context()); n != attempts {
			t.Errorf("AttemptNumber: got %d, want %d", n, attempts)
		}
		return response(req, 503, ""), nil
	})}
	var order []string
	ctx := httpretry.Override(t.Context(), func(rt *httpretry.RetryTransport) {
		order = append(order, "outer")
		rt.Policy = httpretry.Never
		rt.OnAttempt = func(httpretry.Attempt, httpretry.Decision) { order = append(order, "hook") }
	})
	ctx = httpretry.Override(ctx, func(rt *httpretry.RetryTransport) {
		order = append(order, "inner")
		rt.Policy = httpretry.RetryConfig{MaxRetries: 1, InitialBackoff: 1}
	})
	if _, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil).WithContext(ctx)); err != nil {
		t.Fatal(err)
	}
	if want := "[outer inner hook hook]"; fmt.Sprint(order) != want || attempts != 2 || rt.OnAttempt != nil {
		t.Errorf("got %v and %d attempts, want %v and 2", order, attempts, want)
	}
	if httpretry.Override(ctx, nil) != ctx {
		t.Error("a nil change does not leave the context unchanged")
	}
}

// A panic in a source's Read reaches the goroutine in which Base reads, where
// it can be recovered, and the bytes before it are sent.
func TestReplay_PanicOfTheSourceReachesBase(t *testing.T) {
	body := newTestBody("")
	body.Reader = io.MultiReader(strings.NewReader("half"), readerFunc(func([]byte) (int, error) { panic("source") }))
	rt := &httpretry.RetryTransport{Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
		b := make([]byte, 4)
		if _, err := io.ReadFull(req.Body, b); err != nil || string(b) != "half" {
			t.Errorf("got %q, %v before the panic", b, err)
		}
		req.Body.Read(b)
		return nil, errors.New("no panic")
	})}
	req := newRequest(t, "PUT", "http://example.com/", nil)
	req.Body = body
	func() {
		defer func() {
			if got := recover(); got != "source" {
				t.Errorf("recovered %v, want the source's panic", got)
			}
		}()
		_, err := rt.RoundTrip(req)
		t.Errorf("got %v, want a panic", err)
	}()
	body.wantClosedOnce(t)
}

// An invalid count from Read is an error. No bytes of the buffer are sent.
func TestReplay_InvalidCountFromRead(t *testing.T) {
	for _, n := range []func(p []byte) int{
		func(p []byte) int { return len(p) + 1 },
		func(p []byte) int { return -1 },
	} {
		for _, limit := range []int64{0, -1} {
			rt := &httpretry.RetryTransport{MaxReplayBytes: limit, Policy: now, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				b, err := consume(req)
				if b != "" {
					t.Errorf("sent %d bytes that are not of the body", len(b))
				}
				return nil, err
			})}
			_, err := rt.RoundTrip(newRequest(t, "PUT", "http://example.com/", readerFunc(func(p []byte) (int, error) { return n(p), nil })))
			if err == nil || !strings.Contains(err.Error(), "invalid count") {
				t.Errorf("got %v, want an error that names the count", err)
			}
		}
	}
}

// A panic of Base frees the attempt's context and timer.
func TestAttemptTimeout_PanicFreesTheContext(t *testing.T) {
	var ctx context.Context
	rt := &httpretry.RetryTransport{AttemptTimeout: time.Hour, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
		ctx = req.Context()
		panic("base")
	})}
	func() {
		defer func() { recover() }()
		rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
	}()
	if ctx.Err() == nil {
		t.Error("the attempt's context was not canceled")
	}
}

// Elapsed is measured for each field that can use it, although the clock is not
// read otherwise.
func TestAttempt_ElapsedIsMeasuredForEachUse(t *testing.T) {
	var got []time.Duration
	note := func(elapsed time.Duration) { got = append(got, elapsed) }
	tests := map[string]httpretry.RetryTransport{
		"OnAttempt": {OnAttempt: func(a httpretry.Attempt, _ httpretry.Decision) { note(a.Elapsed) }},
		"OnDone":    {OnDone: func(s httpretry.Summary) { note(s.Elapsed) }},
		"Budget":    {Budget: budgetFunc(func(a httpretry.Attempt) bool { note(a.Elapsed); return false })},
		"Policy": {Policy: policyFunc(func(a httpretry.Attempt) (time.Duration, bool) {
			note(a.Elapsed)
			return 0, false
		})},
	}
	for name, rt := range tests {
		synctest.Test(t, func(t *testing.T) {
			got = nil
			status := 503
			if name == "OnDone" {
				status = 200 // its Elapsed is that of all attempts
			}
			rt.Base = roundTripFunc(func(req *http.Request) (*http.Response, error) {
				time.Sleep(time.Second)
				return response(req, status, ""), nil
			})
			if _, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil)); err != nil {
				t.Fatal(err)
			}
			if len(got) == 0 || got[0] != time.Second {
				t.Errorf("%s: got Elapsed %v, want 1s first", name, got)
			}
		})
	}
}

type budgetFunc func(httpretry.Attempt) bool

func (budgetFunc) Deposit(*http.Request)               {}
func (f budgetFunc) Withdraw(a httpretry.Attempt) bool { return f(a) }
