package httpretry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/httpretry/httpretry"
)

// newUnsteadyServer starts a server that fails the first requests with the given
// status and echoes the content of the later ones.
func newUnsteadyServer(failures int32, status int) *httptest.Server {
	var n atomic.Int32
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, _ := io.ReadAll(r.Body)
		if n.Add(1) <= failures {
			http.Error(w, "try again", status)
			return
		}
		fmt.Fprintf(w, "%s %s %q after %d failures", r.Method, r.URL.Path, content, failures)
	}))
}

// soon is a policy with short waits.
var soon = httpretry.RetryConfig{MaxRetries: 3, InitialBackoff: time.Millisecond}

func Example() {
	server := newUnsteadyServer(2, http.StatusServiceUnavailable)
	defer server.Close()

	client := &http.Client{Transport: &httpretry.RetryTransport{
		Policy: httpretry.RetryConfig{MaxRetries: 3, InitialBackoff: time.Millisecond},
	}}
	resp, err := client.Get(server.URL + "/hello")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(resp.StatusCode, string(body), err)
	// Output: 200 GET /hello "" after 2 failures <nil>
}

// The zero value is ready to use. It wraps http.DefaultTransport and retries a
// request up to three times.
func ExampleRetryTransport() {
	server := newUnsteadyServer(0, 0)
	defer server.Close()

	client := &http.Client{Transport: &httpretry.RetryTransport{}}
	resp, err := client.Get(server.URL + "/hello")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	// Output: 200 OK
}

// An SDK is a client of an API that is built on an *http.Client.
type SDK struct {
	Client  *http.Client
	BaseURL string
}

// Complete posts a prompt.
func (s *SDK) Complete(ctx context.Context, prompt string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.BaseURL+"/v1/completions", strings.NewReader(prompt))
	if err != nil {
		return "", err
	}
	resp, err := s.Client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// An SDK that accepts an *http.Client retries with it. If the SDK has retries of
// its own, turn them off: otherwise their numbers multiply. A completion has no
// side effect, so Idempotent allows all failures of this POST to be retried.
func ExampleRetryTransport_sdk() {
	server := newUnsteadyServer(1, http.StatusBadGateway)
	defer server.Close()

	sdk := &SDK{
		Client: &http.Client{Transport: &httpretry.RetryTransport{
			Policy:     soon,
			Idempotent: func(*http.Request) bool { return true },
		}},
		BaseURL: server.URL,
	}
	fmt.Println(sdk.Complete(context.Background(), "Once upon a time"))
	// Output: POST /v1/completions "Once upon a time" after 1 failures <nil>
}

// The middleware type is an adapter to allow the use of ordinary functions as
// RoundTrippers.
type middleware func(*http.Request) (*http.Response, error)

func (m middleware) RoundTrip(req *http.Request) (*http.Response, error) { return m(req) }

// Middleware above a RetryTransport sees one call. Middleware below it sees every
// attempt.
func ExampleRetryTransport_middleware() {
	server := newUnsteadyServer(2, http.StatusServiceUnavailable)
	defer server.Close()

	below := middleware(func(req *http.Request) (*http.Response, error) {
		n := httpretry.AttemptNumber(req.Context())
		fmt.Println("below: attempt", n)
		req = req.Clone(req.Context())
		req.Header.Set("X-Attempt", fmt.Sprint(n))
		return http.DefaultTransport.RoundTrip(req)
	})
	retry := &httpretry.RetryTransport{Base: below, Policy: soon}
	above := middleware(func(req *http.Request) (*http.Response, error) {
		fmt.Println("above: one call")
		return retry.RoundTrip(req)
	})

	client := &http.Client{Transport: above}
	resp, err := client.Get(server.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	// Output:
	// above: one call
	// below: attempt 1
	// below: attempt 2
	// below: attempt 3
	// 200 OK
}

// A retry after a timeout does not use the same connection again, although there
// is middleware between the RetryTransport and the Transport.
func ExampleFreshConnections() {
	server := newUnsteadyServer(1, http.StatusServiceUnavailable)
	defer server.Close()

	tr := http.DefaultTransport.(*http.Transport).Clone()
	defer tr.CloseIdleConnections()
	// Close an HTTP/2 connection on which nothing arrives, not even a ping.
	tr.HTTP2 = &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second}
	base := httpretry.FreshConnections(tr)
	signer := middleware(func(req *http.Request) (*http.Response, error) {
		req = req.Clone(req.Context()) // with the context of the attempt
		req.Header.Set("X-Signature", "signed")
		return base.RoundTrip(req)
	})
	client := &http.Client{Transport: &httpretry.RetryTransport{
		Base:           signer,
		Policy:         soon,
		AttemptTimeout: 10 * time.Second,
	}}
	resp, err := client.Get(server.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	// Output: 200 OK
}

// A body that can be read only once is buffered while the first attempt sends it,
// so that it can be replayed.
func ExampleRetryTransport_streamedBody() {
	server := newUnsteadyServer(1, http.StatusServiceUnavailable)
	defer server.Close()

	client := &http.Client{Transport: &httpretry.RetryTransport{
		Policy:         soon,
		MaxReplayBytes: 16 << 20,
	}}
	r, w := io.Pipe()
	go func() {
		fmt.Fprint(w, "row 1, ")
		fmt.Fprint(w, "row 2")
		w.Close()
	}()
	resp, err := client.Post(server.URL+"/rows", "text/plain", r)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(string(body), err)
	// Output: POST /rows "row 1, row 2" after 1 failures <nil>
}

// With MaxResponseBytes, an attempt includes reading the response body. If the
// body fails, the request is retried before the caller has received any of it.
func ExampleRetryTransport_maxResponseBytes() {
	var n atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "13")
		if n.Add(1) == 1 {
			fmt.Fprint(w, "Hello, ") // then the server closes the connection
			return
		}
		fmt.Fprint(w, "Hello, world!")
	}))
	defer server.Close()

	client := &http.Client{Transport: &httpretry.RetryTransport{
		Policy:           soon,
		MaxResponseBytes: 1 << 20,
		OnAttempt: func(a httpretry.Attempt, d httpretry.Decision) {
			fmt.Printf("attempt %d: error %v, retry %t\n", a.Number, a.Err, d.Retry)
		},
	}}
	resp, err := client.Get(server.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(string(body), err)
	// Output:
	// attempt 1: error unexpected EOF, retry true
	// attempt 2: error <nil>, retry false
	// Hello, world! <nil>
}

// AttemptTimeout limits the time of each attempt, not of the call.
func ExampleRetryTransport_attemptTimeout() {
	var n atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			<-r.Context().Done() // until the client closes the connection
			return
		}
		fmt.Fprint(w, "done")
	}))
	defer server.Close()

	client := &http.Client{Transport: &httpretry.RetryTransport{
		Policy:         soon,
		AttemptTimeout: 500 * time.Millisecond,
		OnAttempt: func(a httpretry.Attempt, d httpretry.Decision) {
			fmt.Println("timed out:", errors.Is(a.Err, context.DeadlineExceeded))
		},
	}}
	resp, err := client.Get(server.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(string(body), err)
	// Output:
	// timed out: true
	// timed out: false
	// done <nil>
}

// A POST that the server may have processed is retried only if Idempotent reports
// true for it. IsIdempotent does so if the request has an Idempotency-Key header.
func ExampleRetryTransport_idempotent() {
	server := newUnsteadyServer(2, http.StatusBadGateway)
	defer server.Close()

	client := &http.Client{Transport: &httpretry.RetryTransport{
		Policy: soon,
		Idempotent: func(req *http.Request) bool {
			return req.URL.Path == "/search" || httpretry.IsIdempotent(req)
		},
	}}
	for _, path := range []string{"/orders", "/search"} {
		resp, err := client.Post(server.URL+path, "text/plain", strings.NewReader("shoes"))
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
		fmt.Println(path, resp.Status)
	}
	// Output:
	// /orders 502 Bad Gateway
	// /search 200 OK
}

// OnAttempt is called after each attempt, with the reason if no retry follows.
func ExampleRetryTransport_onAttempt() {
	server := newUnsteadyServer(1, http.StatusInternalServerError)
	defer server.Close()

	client := &http.Client{Transport: &httpretry.RetryTransport{
		OnAttempt: func(a httpretry.Attempt, d httpretry.Decision) {
			fmt.Printf("attempt %d: status %d, retry %t, reason %q\n", a.Number, a.Response.StatusCode, d.Retry, d.Reason)
		},
	}}
	resp, err := client.Post(server.URL, "text/plain", strings.NewReader("an order"))
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	// Output: attempt 1: status 500, retry false, reason "not_idempotent"
}

// OnDone is called once for each call, after its last attempt.
func ExampleRetryTransport_onDone() {
	server := newUnsteadyServer(2, http.StatusServiceUnavailable)
	defer server.Close()

	client := &http.Client{Transport: &httpretry.RetryTransport{
		Policy: soon,
		OnDone: func(s httpretry.Summary) {
			fmt.Printf("%d after %d attempts, reason %s, error %v\n", s.Response.StatusCode, s.Attempts, s.Reason, s.Err)
		},
	}}
	resp, err := client.Get(server.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	// Output: 200 after 3 attempts, reason final, error <nil>
}

// The request of a response has the number of the attempt that received it.
func ExampleAttemptNumber() {
	server := newUnsteadyServer(2, http.StatusServiceUnavailable)
	defer server.Close()

	client := &http.Client{Transport: &httpretry.RetryTransport{Policy: soon}}
	resp, err := client.Get(server.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(httpretry.AttemptNumber(resp.Request.Context()))
	// Output: 3
}

func ExampleRetryConfig() {
	config := httpretry.RetryConfig{
		MaxRetries:     5,
		InitialBackoff: 100 * time.Millisecond,
		BackoffFactor:  3,
		MaxBackoff:     2 * time.Second,
		Jitter:         httpretry.NoJitter, // for a fixed output
	}
	for n := 1; ; n++ {
		delay, retry := config.Backoff(httpretry.Attempt{Number: n})
		if !retry {
			fmt.Println("no retry after attempt", n)
			return
		}
		fmt.Println(delay)
	}
	// Output:
	// 100ms
	// 300ms
	// 900ms
	// 2s
	// 2s
	// no retry after attempt 6
}

func ExampleRetryConfig_Validate() {
	err := httpretry.RetryConfig{MaxRetries: 3, BackoffFactor: 0.5}.Validate()
	fmt.Println(err)
	// Output: httpretry: invalid BackoffFactor 0.5: must be at least 1
}

// One request may be retried more often than the others.
func ExampleOverride() {
	server := newUnsteadyServer(4, http.StatusServiceUnavailable)
	defer server.Close()

	client := &http.Client{Transport: &httpretry.RetryTransport{Policy: soon}}
	patient := httpretry.RetryConfig{MaxRetries: 10, InitialBackoff: time.Millisecond, BackoffFactor: 1}
	ctx := httpretry.Override(context.Background(), func(t *httpretry.RetryTransport) { t.Policy = patient })
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	// Output: 200 OK
}

// A health check reports the first failure.
func ExampleNever() {
	server := newUnsteadyServer(1, http.StatusServiceUnavailable)
	defer server.Close()

	client := &http.Client{Transport: &httpretry.RetryTransport{Policy: soon}}
	ctx := httpretry.Override(context.Background(), func(t *httpretry.RetryTransport) { t.Policy = httpretry.Never })
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/healthz", nil)
	if err != nil {
		log.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	// Output: 503 Service Unavailable
}

// This classifier modifies two verdicts of the default one. Behind a proxy that
// sends 503 when an upstream server fails, a request with a 503 was possibly
// processed. A request with a 425 (Too Early) was not.
func ExampleRetryTransport_classifier() {
	classifier := func(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
		v := httpretry.DefaultClassifier(req, resp, err)
		if resp != nil {
			switch resp.StatusCode {
			case http.StatusServiceUnavailable:
				v.Outcome = httpretry.Uncertain
			case http.StatusTooEarly:
				v.Outcome = httpretry.Unprocessed
			}
		}
		return v
	}
	for _, status := range []int{http.StatusServiceUnavailable, http.StatusTooEarly} {
		server := newUnsteadyServer(1, status)
		client := &http.Client{Transport: &httpretry.RetryTransport{Policy: soon, Classifier: classifier}}
		resp, err := client.Post(server.URL, "text/plain", strings.NewReader("an order"))
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
		fmt.Println(status, "then", resp.StatusCode)
		server.Close()
	}
	// Output:
	// 503 then 503
	// 425 then 200
}

func ExampleIsIdempotent() {
	req := httptest.NewRequest(http.MethodPost, "/orders", nil)
	fmt.Println(httpretry.IsIdempotent(req))
	req.Header.Set("Idempotency-Key", "b52f3a1e")
	fmt.Println(httpretry.IsIdempotent(req))
	// Output:
	// false
	// true
}

func ExampleLogAttempts() {
	server := newUnsteadyServer(1, http.StatusServiceUnavailable)
	defer server.Close()

	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			switch a.Key {
			case slog.TimeKey:
				return slog.Attr{} // differs in each run, as the port does
			case "url":
				a.Value = slog.StringValue(strings.ReplaceAll(a.Value.String(), server.URL, "http://example.com"))
			case "remote_addr":
				a.Value = slog.StringValue("192.0.2.1:80")
			}
			return a
		},
	}))
	client := &http.Client{Transport: &httpretry.RetryTransport{
		Policy:    httpretry.RetryConfig{MaxRetries: 3, InitialBackoff: time.Millisecond, Jitter: httpretry.NoJitter},
		OnAttempt: httpretry.LogAttempts(logger),
	}}
	resp, err := client.Get(server.URL + "/models?key=secret")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	// Output:
	// level=INFO msg="attempt failed, retrying" method=GET url=http://example.com/models attempt=1 status=503 delay=1ms
	// level=INFO msg="succeeded after retries" method=GET url=http://example.com/models attempt=2 status=200 remote_addr=192.0.2.1:80 conn_reused=true
}

// If the server asks for a longer wait than MaxRetryAfter, the call returns its
// response, and RetryAfter returns the wait.
func ExampleRetryAfter() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "3600")
		http.Error(w, "closed for today", http.StatusTooManyRequests)
	}))
	defer server.Close()

	client := &http.Client{Transport: &httpretry.RetryTransport{}}
	resp, err := client.Get(server.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	wait, ok := httpretry.RetryAfter(resp)
	fmt.Println(resp.StatusCode, wait, ok)
	// Output: 429 1h0m0s true
}

func ExampleError() {
	server := newUnsteadyServer(0, 0)
	url := server.URL
	server.Close() // connections to it are refused

	client := &http.Client{Transport: &httpretry.RetryTransport{Policy: soon}}
	_, err := client.Get(url)
	if e, ok := errors.AsType[*httpretry.Error](err); ok {
		fmt.Printf("%d attempts, reason %s\n", e.Attempts, e.Reason)
	}
	// Output: 4 attempts, reason policy
}

// The output shows the range of waits that each kind of jitter computes from a
// backoff of 10 s.
func ExampleRetryConfig_jitter() {
	jitters := []struct {
		name   string
		jitter func(backoff, previous time.Duration) time.Duration
	}{
		{"FullJitter", httpretry.FullJitter},
		{"EqualJitter", httpretry.EqualJitter},
		{"NoJitter", httpretry.NoJitter},
		{"DecorrelatedJitter", httpretry.DecorrelatedJitter(time.Second, time.Minute)},
	}
	const backoff, previous = 10 * time.Second, 5 * time.Second
	for _, j := range jitters {
		low, high := backoff, backoff
		for range 10_000 {
			wait := j.jitter(backoff, previous)
			low, high = min(low, wait), max(high, wait)
		}
		fmt.Printf("%s: %v to %v\n", j.name, low.Round(time.Second), high.Round(time.Second))
	}
	// Output:
	// FullJitter: 0s to 10s
	// EqualJitter: 5s to 10s
	// NoJitter: 10s to 10s
	// DecorrelatedJitter: 1s to 15s
}

// A Jitter may be any function. This one gives each of several workers a delay of
// its own.
func ExampleRetryConfig_ownJitter() {
	const worker, workers = 3, 10
	config := httpretry.RetryConfig{
		MaxRetries: 3,
		Jitter: func(backoff, _ time.Duration) time.Duration {
			return backoff + worker*time.Second/workers
		},
	}
	fmt.Println(config.Backoff(httpretry.Attempt{Number: 1}))
	// Output: 1.3s true
}

// Each host has a budget of its own, so an outage of one host does not use up the
// retries of the others.
func ExamplePerHost() {
	budget := httpretry.PerHost(func(string) httpretry.Budget {
		return &httpretry.TokenBudget{Ratio: 0.1, MinPerSecond: 1, Burst: 2}
	})
	down := func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusServiceUnavailable, Body: http.NoBody}, nil
	}
	client := &http.Client{Transport: &httpretry.RetryTransport{
		Base:   middleware(down),
		Policy: httpretry.RetryConfig{MaxRetries: 5, InitialBackoff: time.Millisecond},
		Budget: budget,
		OnAttempt: func(a httpretry.Attempt, d httpretry.Decision) {
			fmt.Printf("%s %d %q\n", a.Request.URL.Host, a.Number, d.Reason)
		},
	}}
	for _, url := range []string{"http://a.example", "http://b.example"} {
		resp, err := client.Get(url)
		if err != nil {
			fmt.Println(err)
			return
		}
		resp.Body.Close()
	}
	// Output:
	// a.example 1 ""
	// a.example 2 ""
	// a.example 3 "budget"
	// b.example 1 ""
	// b.example 2 ""
	// b.example 3 "budget"
}

// Calls to a server with a limit are sent at the rate that it accepts.
func ExampleAdaptivePacer() {
	client := &http.Client{Transport: &httpretry.RetryTransport{
		Pacer: &httpretry.AdaptivePacer{MaxInFlight: 100},
	}}
	server := newUnsteadyServer(0, http.StatusOK)
	defer server.Close()
	resp, err := client.Get(server.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.StatusCode)
	// Output: 200
}
