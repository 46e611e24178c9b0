package inference_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/failover"
	"github.com/httpretry/httpretry/flaky"
	"github.com/httpretry/httpretry/inference"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	fakeURL = "http://gateway.test"
	answer  = `{"choices":[{"message":{"content":"four"}}]}`

	// noJitter is too small to move a wait; 0 would mean the default.
	noJitter = 1e-300
)

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// newClient returns a client whose connections are closed at the end of the test.
func newClient(t testing.TB, config inference.HTTPInferenceClientConfig) *inference.HTTPInferenceClient {
	c := inference.NewHTTPInferenceClient(config)
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func newServer(t testing.TB, h http.Handler) *httptest.Server {
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server
}

func question() *inference.InferenceRequest {
	return &inference.InferenceRequest{
		RequestID: "request-1",
		Params: map[string]any{
			"model":    "small",
			"messages": []map[string]string{{"role": "user", "content": "What is two plus two?"}},
		},
	}
}

const questionBody = `{"messages":[{"content":"What is two plus two?","role":"user"}],"model":"small"}`

func ok() flaky.Step {
	return flaky.Status(200).WithHeader("Content-Type", "application/json").WithBody(answer)
}

func repeat(step flaky.Step) *flaky.Script {
	return flaky.Func(func(int, *http.Request) flaky.Step { return step })
}

// starts returns the times at which the requests arrived, relative to the first.
func starts(script *flaky.Script) []time.Duration {
	requests := script.Requests()
	var at []time.Duration
	for _, r := range requests {
		at = append(at, r.Time.Sub(requests[0].Time))
	}
	return at
}

func checkError(t *testing.T, got *inference.InferenceError, category inference.ErrorCategory, message string) {
	t.Helper()
	if got == nil {
		t.Fatalf("got no error, want %s: %s", category, message)
	}
	if got.Category != category || got.Message != message {
		t.Errorf("got %s: %s\nwant %s: %s", got.Category, got.Message, category, message)
	}
	retryable := category == inference.ErrCategoryRateLimit || category == inference.ErrCategoryServer
	if got.IsRetryable() != retryable {
		t.Errorf("IsRetryable of %s: got %t, want %t", category, got.IsRetryable(), retryable)
	}
}

func TestGenerate(t *testing.T) {
	script := flaky.New(ok())
	server := newServer(t, script.Handler(nil))
	client := newClient(t, inference.HTTPInferenceClientConfig{BaseURL: server.URL, APIKey: "sk-1234"})

	got, err := client.Generate(t.Context(), question())
	if err != nil {
		t.Fatal(err)
	}
	want := &inference.InferenceResponse{
		RequestID: "request-1",
		Response:  []byte(answer),
		RawData: map[string]any{"choices": []any{
			map[string]any{"message": map[string]any{"content": "four"}},
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("response (-want +got):\n%s", diff)
	}
	sent := script.Requests()[0]
	if sent.Method != "POST" || sent.URL.String() != "/v1/chat/completions" {
		t.Errorf("got %s %s, want POST /v1/chat/completions", sent.Method, sent.URL)
	}
	for name, want := range map[string]string{
		"Authorization": "Bearer sk-1234",
		"X-Request-Id":  "request-1",
		"Content-Type":  "application/json",
	} {
		if got := sent.Header.Get(name); got != want {
			t.Errorf("header %s: got %q, want %q", name, got, want)
		}
	}
	if string(sent.Body) != questionBody {
		t.Errorf("body: got %s, want %s", sent.Body, questionBody)
	}
}

func TestRetriedFailures(t *testing.T) {
	for _, tc := range []struct {
		name string
		step flaky.Step
	}{
		{"429", flaky.Status(429)},
		{"500", flaky.Status(500)},
		{"502", flaky.Status(502)},
		{"503", flaky.Status(503)},
		{"504", flaky.Status(504)},
		{"reset", flaky.Reset()},
		{"refused", flaky.Refuse()},
		{"closed without an answer", flaky.Error(io.EOF)},
		{"no answer in time", flaky.Hang()},
		{"body that stops coming", ok().Slow(5, time.Hour)},
		{"truncated body", ok().Truncate(9)},
		{"truncated error body", flaky.Status(503).WithBody("overloaded").Truncate(3)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				script := flaky.New(tc.step, tc.step, ok())
				client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
					BaseURL: fakeURL, MaxRetries: 2, Transport: script.Transport(nil),
				})
				got, err := client.Generate(t.Context(), question())
				if err != nil {
					t.Fatalf("after two failures and a success: got %v, want the answer", err)
				}
				if string(got.Response) != answer {
					t.Errorf("got %s, want %s", got.Response, answer)
				}
				requests := script.Requests()
				if len(requests) != 3 {
					t.Fatalf("got %d attempts, want 3", len(requests))
				}
				for i, r := range requests {
					// A refused connection receives no body.
					if r.BodySize > 0 && string(r.Body) != questionBody {
						t.Errorf("attempt %d sent %s, want %s", i+1, r.Body, questionBody)
					}
				}
			})
		})
	}
}

// TestRetriedFailuresOnTheWire repeats TestRetriedFailures with real connections.
func TestRetriedFailuresOnTheWire(t *testing.T) {
	for _, tc := range []struct {
		name string
		step flaky.Step
	}{
		{"503", flaky.Status(503)},
		{"reset", flaky.Reset()},
		{"truncated body", ok().Truncate(9)},
		{"no answer in time", flaky.Hang()},
		{"body that stops coming", ok().Slow(5, time.Hour)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			script := flaky.New(tc.step, ok())
			server := newServer(t, script.Handler(nil))
			client := newClient(t, inference.HTTPInferenceClientConfig{
				BaseURL: server.URL, Timeout: 200 * time.Millisecond,
				MaxRetries: 8, InitialBackoff: time.Millisecond,
			})
			got, err := client.Generate(t.Context(), question())
			if err != nil {
				t.Fatalf("got %v, want the answer", err)
			}
			if string(got.Response) != answer {
				t.Errorf("got %s, want %s", got.Response, answer)
			}
			requests := script.Requests()
			if len(requests) < 2 {
				t.Fatalf("got %d attempts, want a retry", len(requests))
			}
			if last := requests[len(requests)-1].Body; string(last) != questionBody {
				t.Errorf("the last attempt sent %q, want %s", last, questionBody)
			}
		})
	}
}

func TestFinalFailuresAreNotRetried(t *testing.T) {
	for _, code := range []int{301, 302, 304, 400, 401, 402, 403, 404, 405, 409, 413, 422, 501, 505} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				script := repeat(flaky.Status(code))
				client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
					BaseURL: fakeURL, MaxRetries: 5, Transport: script.Transport(nil),
				})
				if _, err := client.Generate(t.Context(), question()); err == nil {
					t.Error("got no error")
				}
				if n := len(script.Requests()); n != 1 {
					t.Errorf("got %d attempts, want 1", n)
				}
			})
		})
	}
}

func TestRetriesAreOffByDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		script := repeat(flaky.Status(503))
		client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
			BaseURL: fakeURL, InitialBackoff: time.Second, Transport: script.Transport(nil),
		})
		_, err := client.Generate(t.Context(), question())
		checkError(t, err, inference.ErrCategoryServer, "HTTP 503: Service Unavailable")
		if n := len(script.Requests()); n != 1 {
			t.Errorf("got %d attempts, want 1", n)
		}
	})
}

func TestBackoff(t *testing.T) {
	const s = time.Second
	for _, tc := range []struct {
		name   string
		config inference.HTTPInferenceClientConfig
		step   flaky.Step
		want   []time.Duration // when each attempt starts
	}{
		{
			name:   "defaults",
			config: inference.HTTPInferenceClientConfig{MaxRetries: 8},
			step:   flaky.Status(503),
			want:   []time.Duration{0, 1 * s, 3 * s, 7 * s, 15 * s, 31 * s, 63 * s, 123 * s, 183 * s},
		},
		{
			name: "own",
			config: inference.HTTPInferenceClientConfig{
				MaxRetries: 4, InitialBackoff: 2 * s, MaxBackoff: 10 * s, BackoffFactor: 3,
			},
			step: flaky.Status(429),
			want: []time.Duration{0, 2 * s, 8 * s, 18 * s, 28 * s},
		},
		{
			name:   "the server's wish is the least wait",
			config: inference.HTTPInferenceClientConfig{MaxRetries: 2},
			step:   flaky.Status(429).WithHeader("Retry-After", "30"),
			want:   []time.Duration{0, 30 * s, 60 * s},
		},
		{
			name:   "a wish beyond MaxBackoff ends it",
			config: inference.HTTPInferenceClientConfig{MaxRetries: 2, MaxBackoff: 20 * s},
			step:   flaky.Status(429).WithHeader("Retry-After", "30"),
			want:   []time.Duration{0},
		},
		{
			name:   "each attempt has the whole timeout",
			config: inference.HTTPInferenceClientConfig{MaxRetries: 2, Timeout: 10 * s},
			step:   flaky.Hang(),
			want:   []time.Duration{0, 11 * s, 23 * s},
		},
		{
			name:   "the default timeout",
			config: inference.HTTPInferenceClientConfig{MaxRetries: 1},
			step:   flaky.Hang(),
			want:   []time.Duration{0, 301 * s},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				script := repeat(tc.step)
				tc.config.BaseURL = fakeURL
				tc.config.JitterFraction = noJitter
				tc.config.Transport = script.Transport(nil)
				client := inference.NewHTTPInferenceClient(tc.config)
				if _, err := client.Generate(t.Context(), question()); err == nil {
					t.Error("got no error")
				}
				if diff := cmp.Diff(tc.want, starts(script)); diff != "" {
					t.Errorf("starts of the attempts (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestJitterFractionBoundsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 50 {
			script := flaky.New(flaky.Status(503), ok())
			client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
				BaseURL: fakeURL, MaxRetries: 1, JitterFraction: 0.5, Transport: script.Transport(nil),
			})
			if _, err := client.Generate(t.Context(), question()); err != nil {
				t.Fatal(err)
			}
			if wait := starts(script)[1]; wait < 500*time.Millisecond || wait > 1500*time.Millisecond {
				t.Errorf("got a wait of %v, want 1s ± 50%%", wait)
			}
		}
	})
}

func TestPolicyOfOneRequest(t *testing.T) {
	script := repeat(flaky.Status(503))
	client := newClient(t, inference.HTTPInferenceClientConfig{
		BaseURL: fakeURL, MaxRetries: 5, Transport: script.Transport(nil),
	})
	client.Generate(httpretry.Override(t.Context(), func(rt *httpretry.RetryTransport) { rt.Policy = httpretry.Never }), question())
	if n := len(script.Requests()); n != 1 {
		t.Errorf("with httpretry.Never on the context: got %d attempts, want 1", n)
	}
}

func TestOverride_Base(t *testing.T) {
	other := repeat(ok()).Transport(nil)
	replaced := httpretry.Override(t.Context(), func(rt *httpretry.RetryTransport) { rt.Base = other })
	client := newClient(t, inference.HTTPInferenceClientConfig{BaseURL: fakeURL, Transport: repeat(ok()).Transport(nil)})
	_, err := client.Generate(replaced, question())
	checkError(t, err, inference.ErrCategoryInvalidReq, "invalid context: Base of the RetryTransport was replaced")
	_, _, err = collect(t, client.Stream(replaced, question()))
	checkError(t, err, inference.ErrCategoryInvalidReq, "invalid context: Base of the RetryTransport was replaced")

	wrapped := httpretry.Override(t.Context(), func(rt *httpretry.RetryTransport) {
		base := rt.Base
		rt.Base = roundTripFunc(func(req *http.Request) (*http.Response, error) { return base.RoundTrip(req) })
	})
	if _, err := client.Generate(wrapped, question()); err != nil {
		t.Errorf("got %v with a Base that was wrapped, want the answer", err)
	}
}

func TestCancellation(t *testing.T) {
	own := errors.New("shutting down")
	for _, tc := range []struct {
		name  string
		step  flaky.Step
		after time.Duration
		cause error
	}{
		{"before the first attempt", ok(), 0, nil},
		{"while waiting for a retry", flaky.Status(503), 1500 * time.Millisecond, nil},
		{"while waiting for the response", flaky.Hang(), 1500 * time.Millisecond, nil},
		{"while reading the response", ok().Slow(1, time.Hour), 1500 * time.Millisecond, nil},
		{"while reading an error response", flaky.Status(400).WithBody("no good").Slow(1, time.Hour), 1500 * time.Millisecond, nil},
		{"with a cause of the caller's", flaky.Status(503), 1500 * time.Millisecond, own},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				script := repeat(tc.step)
				client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
					BaseURL: fakeURL, MaxRetries: 5, JitterFraction: noJitter, Transport: script.Transport(nil),
				})
				ctx, cancel := context.WithCancelCause(t.Context())
				if tc.after == 0 {
					cancel(tc.cause)
				}
				timer := time.AfterFunc(tc.after, func() { cancel(tc.cause) })
				defer timer.Stop()
				start := time.Now()
				_, err := client.Generate(ctx, question())
				checkError(t, err, inference.ErrCategoryUnknown, "request cancelled")
				if elapsed := time.Since(start); elapsed != tc.after {
					t.Errorf("returned after %v, want %v: as soon as cancelled", elapsed, tc.after)
				}
				if !errors.Is(err, context.Canceled) {
					t.Errorf("got %#v, want an error that is context.Canceled", err.RawError)
				}
				if tc.cause != nil && !errors.Is(err, tc.cause) {
					t.Errorf("got %v, want an error that is the cause", err.RawError)
				}
			})
		})
	}
}

func TestDeadline(t *testing.T) {
	for _, tc := range []struct {
		name    string
		step    flaky.Step
		message string
		after   time.Duration
	}{
		{"passes during an attempt", flaky.Hang(), "request timeout", 5 * time.Second},
		{"passes during the body", ok().Slow(1, time.Hour), "request timeout", 5 * time.Second},
		{"comes before the next retry", flaky.Status(503), "HTTP 503: Service Unavailable", 3 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
					BaseURL: fakeURL, MaxRetries: 5, JitterFraction: noJitter,
					Transport: repeat(tc.step).Transport(nil),
				})
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				start := time.Now()
				_, err := client.Generate(ctx, question())
				checkError(t, err, inference.ErrCategoryServer, tc.message)
				if elapsed := time.Since(start); elapsed != tc.after {
					t.Errorf("returned after %v, want %v", elapsed, tc.after)
				}
				if tc.message == "request timeout" && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %#v, want an error that is context.DeadlineExceeded", err.RawError)
				}
			})
		})
	}
}

func TestTimeoutOfTheLastAttempt(t *testing.T) {
	for _, tc := range []struct {
		name     string
		step     flaky.Step
		retries  int
		attempts int // as an *httpretry.Error tells; 0: none
	}{
		{"only one", flaky.Hang(), 0, 0},
		{"third", flaky.Hang(), 2, 3},
		{"only one, in its body", ok().Slow(1, time.Hour), 0, 0},
		{"third, in its body", ok().Slow(1, time.Hour), 2, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
					BaseURL: fakeURL, Timeout: time.Second, MaxRetries: tc.retries,
					Transport: repeat(tc.step).Transport(nil),
				})
				_, err := client.Generate(t.Context(), question())
				checkError(t, err, inference.ErrCategoryServer, "request timeout")
				var timeout interface{ Timeout() bool }
				if !errors.As(err, &timeout) || !timeout.Timeout() {
					t.Errorf("got %#v, want a timeout", err.RawError)
				}
				var many *httpretry.Error
				if errors.As(err, &many) && many.Attempts != tc.attempts || many == nil && tc.attempts > 0 {
					t.Errorf("got %v, want %d attempts", err.RawError, tc.attempts)
				}
			})
		})
	}
}

func TestOnAttempt(t *testing.T) {
	type key struct{}
	type seen struct {
		Number int
		Status int
		Retry  bool
		Delay  time.Duration
		Value  any
	}
	synctest.Test(t, func(t *testing.T) {
		var got []seen
		client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
			BaseURL: fakeURL, MaxRetries: 3, JitterFraction: noJitter,
			Transport: flaky.New(flaky.Status(429), flaky.Reset(), ok()).Transport(nil),
			OnAttempt: func(a httpretry.Attempt, d httpretry.Decision) {
				s := seen{Number: a.Number, Retry: d.Retry, Delay: d.Delay, Value: a.Request.Context().Value(key{})}
				if a.Response != nil {
					s.Status = a.Response.StatusCode
				}
				got = append(got, s)
			},
		})
		if _, err := client.Generate(context.WithValue(t.Context(), key{}, "mine"), question()); err != nil {
			t.Fatal(err)
		}
		want := []seen{
			{1, 429, true, 1 * time.Second, "mine"},
			{2, 0, true, 2 * time.Second, "mine"},
			{3, 200, false, 0, "mine"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("attempts (-want +got):\n%s", diff)
		}
	})
}

func TestRedirects(t *testing.T) {
	for _, tc := range []struct {
		code     int
		followed bool
	}{
		{301, false}, {302, false}, {303, false}, {307, true}, {308, true},
	} {
		t.Run(fmt.Sprint(tc.code), func(t *testing.T) {
			script := flaky.New(flaky.Status(tc.code).WithHeader("Location", "/elsewhere"), ok())
			client := newClient(t, inference.HTTPInferenceClientConfig{
				BaseURL: newServer(t, script.Handler(nil)).URL, APIKey: "sk-1234",
			})
			_, err := client.Generate(t.Context(), question())
			requests := script.Requests()
			if !tc.followed {
				checkError(t, err, inference.ErrCategoryUnknown, fmt.Sprintf("HTTP %d: %s", tc.code, http.StatusText(tc.code)))
				if len(requests) != 1 {
					t.Errorf("got %d requests, want 1: a POST must not become a GET", len(requests))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			second := requests[1]
			if second.Method != "POST" || string(second.Body) != string(requests[0].Body) || second.Header.Get("Authorization") == "" {
				t.Errorf("got %s %s, want the first request again", second.Method, second.Body)
			}
		})
	}
}

// The target of a redirect must not receive the query of the BaseURL, nor a request
// without encryption that was meant for https.
func TestRedirectsKeepSecrets(t *testing.T) {
	for _, tc := range []struct {
		name           string
		from, location string
		followed       bool
	}{
		{"http to https", "http://gateway.test/?token=hidden", "https://gateway.test/", true},
		{"https to https", "https://gateway.test/?token=hidden", "https://other.test/", true},
		{"http to http", "http://gateway.test/?token=hidden", "http://other.test/", true},
		{"https to http", "https://gateway.test/?token=hidden", "http://gateway.test/", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			script := flaky.New(flaky.Status(307).WithHeader("Location", tc.location), ok())
			client := newClient(t, inference.HTTPInferenceClientConfig{BaseURL: tc.from, Transport: script.Transport(nil)})
			_, err := client.Generate(t.Context(), question())
			requests := script.Requests()
			if !tc.followed {
				checkError(t, err, inference.ErrCategoryUnknown, "HTTP 307: Temporary Redirect")
				if len(requests) != 1 {
					t.Errorf("got %d requests, want 1", len(requests))
				}
				return
			}
			if err != nil || len(requests) != 2 {
				t.Fatalf("got %d requests, error %v, want 2", len(requests), err)
			}
			if got := requests[1].Header.Values("Referer"); got != nil {
				t.Errorf("Referer: got %q, want none", got)
			}
		})
	}
}

// TestRedirects_HeaderStaysWithItsHost has redirects of a client with a Header.
func TestRedirects_HeaderStaysWithItsHost(t *testing.T) {
	for _, tc := range []struct {
		location string
		sent     bool
	}{
		{"/elsewhere", true},
		{"https://gateway.test/elsewhere", true},
		{"http://gateway.test:8080/", false},
		{"http://sub.gateway.test/", false},
		{"http://other.test/", false},
	} {
		t.Run(tc.location, func(t *testing.T) {
			script := flaky.New(flaky.Status(307).WithHeader("Location", tc.location), ok())
			client := newClient(t, inference.HTTPInferenceClientConfig{
				BaseURL: fakeURL, Header: http.Header{"x-key": {"secret"}}, Transport: script.Transport(nil),
			})
			if _, err := client.Generate(t.Context(), question()); err != nil {
				t.Fatal(err)
			}
			second := script.Requests()[1]
			if sent := second.Header.Get("X-Key") != ""; sent != tc.sent {
				t.Errorf("header sent: got %t, want %t", sent, tc.sent)
			}
			if second.Header.Get("X-Request-ID") == "" || second.Header.Get("Content-Type") == "" {
				t.Errorf("got %v, want the client's own fields", second.Header)
			}
		})
	}
}

func TestZeroClient(t *testing.T) {
	var client inference.HTTPInferenceClient
	_, err := client.Generate(t.Context(), question())
	checkError(t, err, inference.ErrCategoryInvalidReq, "invalid client: it was not created with NewHTTPInferenceClient")
	client.CloseIdleConnections()
}

func TestRedirectLoopEnds(t *testing.T) {
	script := repeat(flaky.Status(307).WithHeader("Location", "/again"))
	client := newClient(t, inference.HTTPInferenceClientConfig{BaseURL: fakeURL, Transport: script.Transport(nil)})
	_, err := client.Generate(t.Context(), question())
	checkError(t, err, inference.ErrCategoryUnknown, "HTTP 307: Temporary Redirect")
	if n := len(script.Requests()); n != 11 {
		t.Errorf("got %d requests, want 11: ten redirects", n)
	}
}

func TestConcurrentUse(t *testing.T) {
	script := flaky.Func(func(n int, r *http.Request) flaky.Step {
		if n%3 == 0 {
			return flaky.Status(503).WithBody("busy")
		}
		return flaky.Pass()
	})
	server := newServer(t, script.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct{ Prompt string }
		json.NewDecoder(r.Body).Decode(&body)
		json.NewEncoder(w).Encode(map[string]string{"text": body.Prompt})
	})))
	client := newClient(t, inference.HTTPInferenceClientConfig{
		BaseURL: server.URL, MaxRetries: 20, InitialBackoff: time.Microsecond, MaxBackoff: time.Millisecond,
	})
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			id := fmt.Sprintf("request-%d", i)
			got, err := client.Generate(t.Context(), &inference.InferenceRequest{
				RequestID: id, Params: map[string]any{"prompt": id},
			})
			if err != nil {
				t.Error(err)
				return
			}
			if want := map[string]any{"text": id}; got.RequestID != id || !cmp.Equal(want, got.RawData) {
				t.Errorf("request %s got the answer to %s: %v", id, got.RequestID, got.RawData)
			}
		})
	}
	wg.Wait()
}

// TestConnectionsAreReused fails if a body is left open, or if the number of idle
// connections is not MaxIdleConns.
func TestConnectionsAreReused(t *testing.T) {
	const rounds, parallel = 5, 10
	for _, tc := range []struct {
		name         string
		maxIdleConns int
		want         int32
	}{
		{"all are kept", 0, parallel},
		{"two are kept", 2, parallel + (rounds-1)*(parallel-2)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var opened atomic.Int32
			var arrived sync.WaitGroup
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				// The requests of a round are concurrent, so each needs a connection.
				arrived.Done()
				arrived.Wait()
				if r.Header.Get("X-Request-Id") == "request-0" {
					w.WriteHeader(http.StatusBadRequest)
				}
				io.WriteString(w, answer)
			}))
			server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					opened.Add(1)
				}
			}
			server.Start()
			t.Cleanup(server.Close)
			client := newClient(t, inference.HTTPInferenceClientConfig{BaseURL: server.URL, MaxIdleConns: tc.maxIdleConns})
			for range rounds {
				arrived.Add(parallel)
				generateMany(t, client, parallel)
			}
			if got := opened.Load(); got != tc.want {
				t.Errorf("%d rounds of %d parallel requests opened %d connections, want %d", rounds, parallel, got, tc.want)
			}
		})
	}
}

// generateMany sends n concurrent requests and waits for the responses.
func generateMany(t *testing.T, client *inference.HTTPInferenceClient, n int) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			req := question()
			req.RequestID = fmt.Sprintf("request-%d", i)
			client.Generate(t.Context(), req)
		})
	}
	wg.Wait()
}

// TestDeadConnectionIsClosed fails if an HTTP/2 connection whose peer no longer
// responds to anything is used until Timeout.
func TestDeadConnectionIsClosed(t *testing.T) {
	original := http.DefaultTransport
	t.Cleanup(func() { http.DefaultTransport = original })
	for _, tc := range []struct {
		name   string
		config *http.HTTP2Config // of http.DefaultTransport
		want   time.Duration
	}{
		{"pings", nil, 45 * time.Second},
		{"pings of http.DefaultTransport", &http.HTTP2Config{SendPingTimeout: time.Second, PingTimeout: time.Second}, 2 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				protocols := new(http.Protocols)
				protocols.SetUnencryptedHTTP2(true)
				http.DefaultTransport = &http.Transport{Protocols: protocols, HTTP2: tc.config,
					DialContext: func(context.Context, string, string) (net.Conn, error) {
						client, server := net.Pipe()
						go io.Copy(io.Discard, server)
						return client, nil
					}}
				client := newClient(t, inference.HTTPInferenceClientConfig{BaseURL: fakeURL})
				start := time.Now()
				_, err := client.Generate(t.Context(), question())
				if got := time.Since(start); err == nil || err.Category != inference.ErrCategoryServer || got != tc.want {
					t.Errorf("got %v after %v, want a server error after %v", err, got, tc.want)
				}
			})
		})
	}
}

// A mortal is a client's end of a connection whose peer can disappear.
type mortal struct {
	net.Conn
	dead *atomic.Bool
}

func (m mortal) Write(p []byte) (int, error) {
	if m.dead.Load() {
		return len(p), nil
	}
	return m.Conn.Write(p)
}

// A retry after a timeout does not use another connection of the pool, which may be as
// dead as the first.
func TestRetryAvoidsDeadConnections(t *testing.T) {
	for _, endpoints := range [][]failover.Endpoint{nil, {{URL: fakeURL}}} {
		synctest.Test(t, func(t *testing.T) {
			dead := new(atomic.Bool)
			transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
				client, server := net.Pipe()
				go func() {
					r := bufio.NewReader(server)
					for {
						req, err := http.ReadRequest(r)
						if err != nil {
							return
						}
						io.Copy(io.Discard, req.Body)
						time.Sleep(time.Second) // so that each call has a connection
						fmt.Fprintf(server, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(answer), answer)
					}
				}()
				return mortal{client, dead}, nil
			}}
			config := inference.HTTPInferenceClientConfig{BaseURL: fakeURL, Transport: transport, Timeout: time.Minute, MaxRetries: 1}
			if endpoints != nil {
				config.BaseURL, config.Endpoints = "", endpoints
			}
			client := newClient(t, config)
			generateMany(t, client, 3)
			time.Sleep(time.Second)
			dead.Store(true)
			dead = new(atomic.Bool) // of new connections
			if _, err := client.Generate(t.Context(), question()); err != nil {
				t.Errorf("with endpoints %v: got %v, want an answer to the retry", endpoints, err)
			}
			client.CloseIdleConnections()
		})
	}
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	for _, tc := range []struct {
		name   string
		config inference.HTTPInferenceClientConfig
		then   func(*inference.HTTPInferenceClient)
	}{
		{
			name:   "after IdleConnTimeout",
			config: inference.HTTPInferenceClientConfig{IdleConnTimeout: time.Millisecond},
			then:   func(*inference.HTTPInferenceClient) {},
		},
		{
			name: "by CloseIdleConnections",
			then: (*inference.HTTPInferenceClient).CloseIdleConnections,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			closed := make(chan struct{})
			server := httptest.NewUnstartedServer(repeat(ok()).Handler(nil))
			server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateClosed {
					close(closed)
				}
			}
			server.Start()
			t.Cleanup(server.Close)
			tc.config.BaseURL = server.URL
			client := newClient(t, tc.config)
			if _, err := client.Generate(t.Context(), question()); err != nil {
				t.Fatal(err)
			}
			tc.then(client)
			select {
			case <-closed:
			case <-time.After(10 * time.Second):
				t.Error("the connection is still open after 10s")
			}
		})
	}
}

func TestDefaultTransportOfAnotherType(t *testing.T) {
	original := http.DefaultTransport
	t.Cleanup(func() { http.DefaultTransport = original })
	script := flaky.New(ok())
	http.DefaultTransport = script.Transport(nil)
	client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{BaseURL: fakeURL})
	if _, err := client.Generate(t.Context(), question()); err != nil {
		t.Fatal(err)
	}
	if n := len(script.Requests()); n != 1 {
		t.Errorf("http.DefaultTransport got %d requests, want 1", n)
	}
}
