package compat_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-github/v87/github"
	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/flaky"
	"github.com/sony/gobreaker/v2"
	"golang.org/x/sync/singleflight"
)

func waitForGitHub(retry *httpretry.RetryTransport) {
	retry.Policy = httpretry.RetryConfig{MaxRetryAfter: time.Hour} // the limit of GitHub is per hour
	retry.Classifier = func(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
		if resp != nil && resp.StatusCode == http.StatusForbidden {
			if wait, asked := httpretry.RetryAfter(resp); asked {
				return httpretry.Verdict{Outcome: httpretry.Unprocessed, RetryAfter: wait}
			}
		}
		return httpretry.DefaultClassifier(req, resp, err)
	}
}

// Of GitHub's 403s, those for a rate limit are retried when it has been reset.
// Those for a lack of permission are not.
func TestGitHub_RateLimits(t *testing.T) {
	const date, reset = "Sun, 09 Sep 2001 01:46:40 GMT", "1000001800" // half an hour later
	forbidden := flaky.Status(http.StatusForbidden).WithHeader("Date", date)
	tests := []struct {
		name     string
		step     flaky.Step
		attempts int
		wait     time.Duration
	}{
		{"primary limit", forbidden.WithHeader("X-RateLimit-Remaining", "0").WithHeader("X-RateLimit-Reset", reset), 2, 30 * time.Minute},
		{"secondary limit", forbidden.WithHeader("X-RateLimit-Remaining", "9").WithHeader("Retry-After", "60"), 2, time.Minute},
		{"no permission", forbidden.WithHeader("X-RateLimit-Remaining", "9").WithHeader("X-RateLimit-Reset", reset), 1, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				script := flaky.New(tt.step, flaky.Status(http.StatusOK).WithBody(`{"number":7}`))
				retry := &httpretry.RetryTransport{Base: script.Transport(nil)}
				waitForGitHub(retry)
				client, err := github.NewClient(
					github.WithHTTPClient(&http.Client{Transport: retry}),
					github.WithDisableRateLimitCheck(),
				)
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				issue, _, err := client.Issues.Get(t.Context(), "owner", "repo", 7)
				if ok := err == nil && issue.GetNumber() == 7; ok != (tt.attempts == 2) {
					t.Errorf("got issue %v, %v", issue, err)
				}
				if got := len(script.Requests()); got != tt.attempts {
					t.Errorf("got %d attempts, want %d", got, tt.attempts)
				}
				if got := time.Since(start); got < tt.wait || got > tt.wait*5/4 {
					t.Errorf("took %v, want %v or a little more", got, tt.wait)
				}
			})
		})
	}
}

type renewing struct {
	http.RoundTripper
	fetch func(context.Context) (string, error)

	flights singleflight.Group // golang.org/x/sync/singleflight
	mu      sync.Mutex
	token   string
	tried   time.Time // when the last renewal ended
}

const renewedField = "X-Token-Renewed" // is set in a 401 that is worth a retry

func (r *renewing) RoundTrip(req *http.Request) (*http.Response, error) {
	token := r.current()
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := r.RoundTripper.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusUnauthorized && r.renew(req.Context(), token) {
		resp.Header.Set(renewedField, "true")
	}
	return resp, err
}

func (r *renewing) current() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.token
}

// renew reports whether there is another token than the one that was rejected.
// It waits for a renewal until ctx is done.
func (r *renewing) renew(ctx context.Context, rejected string) bool {
	renewal := r.flights.DoChan(rejected, func() (any, error) { return nil, r.replace(context.WithoutCancel(ctx), rejected) })
	select {
	case <-renewal:
	case <-ctx.Done():
	}
	return r.current() != rejected
}

func (r *renewing) replace(ctx context.Context, rejected string) error {
	r.mu.Lock()
	skip := r.token != rejected || time.Since(r.tried) < 10*time.Second
	r.mu.Unlock()
	if skip {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	token, err := r.fetch(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tried = time.Now(); err == nil {
		r.token = token
	}
	return err
}

// Backoff makes renewing a Policy as well. It retries immediately with a new token.
func (r *renewing) Backoff(a httpretry.Attempt) (time.Duration, bool) {
	if a.Response != nil && a.Response.StatusCode == http.StatusUnauthorized {
		return 0, a.Number <= 3
	}
	return httpretry.RetryConfig{}.Backoff(a)
}

func renewTokens(retry *httpretry.RetryTransport, tokens *renewing) {
	retry.Base, retry.Policy = tokens, tokens // a *renewing
	retry.Classifier = func(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
		if resp != nil && resp.StatusCode == http.StatusUnauthorized && resp.Header.Get(renewedField) != "" {
			return httpretry.Verdict{Outcome: httpretry.Unprocessed}
		}
		return httpretry.DefaultClassifier(req, resp, err)
	}
}

// An authority accepts one token, and counts requests and renewals. It answers no
// request before as many have arrived as there are calls.
type authority struct {
	accepts            string
	calls              int64
	arrived            chan struct{} // closed when they have
	requests, renewals atomic.Int64
}

func (a *authority) RoundTrip(req *http.Request) (*http.Response, error) {
	if a.requests.Add(1) == a.calls {
		close(a.arrived)
	}
	<-a.arrived
	body, err := io.ReadAll(req.Body)
	req.Body.Close()
	resp := &http.Response{StatusCode: http.StatusUnauthorized, Header: http.Header{}, Request: req}
	if req.Header.Get("Authorization") == "Bearer "+a.accepts {
		resp.StatusCode = http.StatusOK
	}
	resp.Body = io.NopCloser(strings.NewReader(string(body)))
	return resp, err
}

// renew is a fetch of a renewing.
func (a *authority) renew(context.Context) (string, error) {
	return fmt.Sprintf("token-%d", 1+a.renewals.Add(1)), nil
}

// 1 000 calls whose token has expired share one renewal, make two requests each,
// and send their bodies whole. If the new token is bad as well, each ends after
// the same two requests.
func TestRecipe_TokenIsRenewedOnce(t *testing.T) {
	for accepts, status := range map[string]int{"token-2": http.StatusOK, "none": http.StatusUnauthorized} {
		t.Run(accepts, func(t *testing.T) {
			const calls = 1000
			server := &authority{accepts: accepts, calls: calls, arrived: make(chan struct{})}
			retry := &httpretry.RetryTransport{}
			renewTokens(retry, &renewing{RoundTripper: server, fetch: server.renew, token: "token-1"})
			client := &http.Client{Transport: retry}
			var all sync.WaitGroup
			for n := range calls {
				all.Go(func() {
					order := fmt.Sprintf("order %d", n)
					resp, err := client.Post("http://example.com", "text/plain", io.MultiReader(strings.NewReader(order)))
					if err != nil {
						t.Error(err)
						return
					}
					defer resp.Body.Close()
					if body, err := io.ReadAll(resp.Body); resp.StatusCode != status || string(body) != order {
						t.Errorf("got status %d, body %q, %v, want %d, %q", resp.StatusCode, body, err, status, order)
					}
				})
			}
			all.Wait()
			if requests, renewals := server.requests.Load(), server.renewals.Load(); requests != 2*calls || renewals != 1 {
				t.Errorf("got %d requests and %d renewals, want %d and 1", requests, renewals, 2*calls)
			}
		})
	}
}

// If a call that gets a 401 can't be sent again, its caller gets the 401.
func TestRecipe_TokenRejectedInTheLastAttempt(t *testing.T) {
	tests := []struct {
		name  string
		steps []flaky.Step
		body  io.Reader
	}{
		{"after the last retry", []flaky.Step{down.Step, down.Step, down.Step, flaky.Status(http.StatusUnauthorized)}, nil},
		{"a body too large to replay", []flaky.Step{flaky.Status(http.StatusUnauthorized)}, io.LimitReader(zeros{}, 2<<20)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				script := flaky.New(append(tt.steps, flaky.Status(http.StatusOK))...)
				fetch := func(context.Context) (string, error) { return "token-2", nil }
				retry := &httpretry.RetryTransport{}
				renewTokens(retry, &renewing{RoundTripper: script.Transport(nil), fetch: fetch, token: "token-1"})
				resp, err := (&http.Client{Transport: retry}).Post("http://example.com", "text/plain", tt.body)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if got := len(script.Requests()); resp.StatusCode != http.StatusUnauthorized || got != len(tt.steps) {
					t.Errorf("got status %d after %d attempts, want 401 after %d", resp.StatusCode, got, len(tt.steps))
				}
			})
		})
	}
}

// A call waits for the renewal of another until its own deadline, and a renewal
// that fails is not repeated by each call that waited for it.
func TestRecipe_TokenRenewalIsSlowAndFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rejecting := flaky.Func(func(int, *http.Request) flaky.Step { return flaky.Status(http.StatusUnauthorized) })
		var fetches atomic.Int64
		fetch := func(context.Context) (string, error) {
			fetches.Add(1)
			time.Sleep(3 * time.Second)
			return "", errors.New("no connection")
		}
		retry := &httpretry.RetryTransport{}
		renewTokens(retry, &renewing{RoundTripper: rejecting.Transport(nil), fetch: fetch, token: "token-1"})
		call := func(limit, most time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			start := time.Now()
			_, err := get(ctx, retry, "http://example.com")
			if took := time.Since(start); err == nil || took > most {
				t.Errorf("with a limit of %v: got %v after %v, want a 401 within %v", limit, err, took, most)
			}
		}
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() { call(time.Minute, 3*time.Second) })
		}
		time.Sleep(time.Second)
		call(200*time.Millisecond, 200*time.Millisecond)
		all.Wait()
		call(time.Minute, 0)
		if got := fetches.Load(); got != 1 {
			t.Errorf("got %d renewals, want 1 for all calls", got)
		}
		time.Sleep(11 * time.Second)
		call(time.Minute, 3*time.Second)
		if got := fetches.Load(); got != 2 {
			t.Errorf("got %d renewals, want another one later", got)
		}
	})
}

func readAnswers(retry *httpretry.RetryTransport) {
	retry.MaxResponseBytes = 1 << 20
	retry.Classifier = func(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
		if resp != nil && resp.StatusCode == http.StatusOK {
			var answer struct{ Error string }
			if json.NewDecoder(resp.Body).Decode(&answer) == nil && answer.Error == "try again" {
				return httpretry.Verdict{Outcome: httpretry.Unprocessed}
			}
		}
		return httpretry.DefaultClassifier(req, resp, err)
	}
}

type breakers struct {
	http.RoundTripper
	hosts sync.Map // of breakers
}

func (b *breakers) RoundTrip(req *http.Request) (*http.Response, error) {
	host, ok := b.hosts.Load(req.URL.Host)
	if !ok {
		settings := gobreaker.Settings{Name: req.URL.Host}
		host, _ = b.hosts.LoadOrStore(req.URL.Host, breaker{b.RoundTripper, gobreaker.NewTwoStepCircuitBreaker[any](settings)})
	}
	return host.(breaker).RoundTrip(req)
}

type numbered struct{ http.RoundTripper }

func (n numbered) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context()) // a RoundTripper must not modify its request
	req.Header.Set("X-Attempt", strconv.Itoa(httpretry.AttemptNumber(req.Context())))
	return n.RoundTripper.RoundTrip(req)
}

type keyed struct{ http.RoundTripper }

func (k keyed) RoundTrip(req *http.Request) (*http.Response, error) {
	if !httpretry.IsIdempotent(req) {
		req = req.Clone(req.Context())
		req.Header.Set("Idempotency-Key", rand.Text()) // crypto/rand
	}
	return k.RoundTripper.RoundTrip(req)
}

func retryUnavailable(retry *httpretry.RetryTransport) {
	retry.Classifier = func(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
		if resp != nil && resp.StatusCode == http.StatusOK && resp.Header.Get("Grpc-Status") == "14" {
			return httpretry.Verdict{Outcome: httpretry.Uncertain}
		}
		return httpretry.DefaultClassifier(req, resp, err)
	}
}

func waitForHost(retry *httpretry.RetryTransport) {
	retry.Classifier = func(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
		if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound && req.Context().Err() == nil {
			return httpretry.Verdict{Outcome: httpretry.Unprocessed}
		}
		return httpretry.DefaultClassifier(req, resp, err)
	}
}

// Each recipe that is a setting or a RoundTripper has the effect that its page
// states on a call that fails at first.
func TestRecipes(t *testing.T) {
	ok := flaky.Status(http.StatusOK).WithBody("done")
	tests := []struct {
		name  string
		steps []flaky.Step
		build func(base http.RoundTripper) http.RoundTripper
		want  []string // of each request: its host and its X-Attempt
	}{
		{"a 200 whose body is an error", []flaky.Step{ok.WithBody(`{"error":"try again"}`), ok.WithBody(`{"error":"no"}`)},
			with(readAnswers), []string{"example.com", "example.com"}},
		{"a header with the number", []flaky.Step{down.Step, down.Step, ok},
			func(base http.RoundTripper) http.RoundTripper { return &httpretry.RetryTransport{Base: numbered{base}} },
			[]string{"example.com 1", "example.com 2", "example.com 3"}},
		{"unavailable in gRPC", []flaky.Step{ok.WithHeader("Grpc-Status", "14"), ok.WithHeader("Grpc-Status", "5")},
			with(retryUnavailable), []string{"example.com", "example.com"}},
		{"a host that does not exist yet", []flaky.Step{flaky.Error(errNoHost), ok},
			with(waitForHost), []string{"example.com", "example.com"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				script := flaky.New(tt.steps...)
				if _, err := get(t.Context(), tt.build(script.Transport(nil)), "http://example.com/"); err != nil {
					t.Error(err)
				}
				var got []string
				for _, r := range script.Requests() {
					got = append(got, strings.TrimSpace(r.URL.Host+" "+r.Header.Get("X-Attempt")))
				}
				if !slices.Equal(got, tt.want) {
					t.Errorf("got requests %q, want %q", got, tt.want)
				}
			})
		})
	}
}

// with returns a function that builds a transport with those settings.
func with(set func(*httpretry.RetryTransport)) func(http.RoundTripper) http.RoundTripper {
	return func(base http.RoundTripper) http.RoundTripper {
		retry := &httpretry.RetryTransport{Base: base}
		set(retry)
		return retry
	}
}

// All attempts of a call have the same key, another call has another, and the
// caller's own key is kept.
func TestRecipe_IdempotencyKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		script := flaky.Func(func(n int, _ *http.Request) flaky.Step {
			if n%2 == 1 {
				return flaky.Reset()
			}
			return flaky.Status(http.StatusOK)
		})
		client := &http.Client{Transport: keyed{&httpretry.RetryTransport{Base: script.Transport(nil)}}}
		for _, key := range []string{"", "", "mine"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://example.com", strings.NewReader("an order"))
			if err != nil {
				t.Fatal(err)
			}
			if key != "" {
				req.Header.Set("Idempotency-Key", key)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if got := req.Header.Get("Idempotency-Key"); got != key {
				t.Errorf("got key %q in the caller's request, want it unchanged", got)
			}
		}
		var keys []string
		for _, r := range script.Requests() {
			keys = append(keys, r.Header.Get("Idempotency-Key"))
		}
		if len(keys) != 6 || keys[0] == "" || keys[0] != keys[1] || keys[2] != keys[3] || keys[0] == keys[2] || keys[4] != "mine" || keys[5] != "mine" {
			t.Errorf("got keys %q, want one for each of two calls, and then the caller's", keys)
		}
	})
}

// A breaker that opens for one host lets calls to another pass.
func TestRecipe_BreakerPerHost(t *testing.T) {
	script := flaky.Func(func(_ int, req *http.Request) flaky.Step {
		if req.URL.Host == "bad.example" {
			return flaky.Status(http.StatusBadGateway)
		}
		return flaky.Status(http.StatusOK)
	})
	b := &breakers{RoundTripper: script.Transport(nil)}
	for range 6 { // one more than a breaker allows by default
		get(t.Context(), b, "http://bad.example")
	}
	if _, err := get(t.Context(), b, "http://bad.example"); !errors.Is(err, gobreaker.ErrOpenState) {
		t.Errorf("got %v, want the breaker to be open", err)
	}
	if _, err := get(t.Context(), b, "http://good.example"); err != nil {
		t.Errorf("got %v, want another host to have another breaker", err)
	}
}
