package compat_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/gregjones/httpcache"
	"github.com/httpretry/httpretry"
	"github.com/klauspost/compress/gzhttp"
	"github.com/sony/gobreaker/v2"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"golang.org/x/oauth2"
	"golang.org/x/time/rate"
)

// get makes a GET and returns the body, and an error for every status but 200.
func get(ctx context.Context, rt http.RoundTripper, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := (&http.Client{Transport: rt}).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), errors.Join(err, want("status", resp.StatusCode, http.StatusOK))
}

// Tracing middleware passes the attempt's context to FreshConnections. The first
// attempt times out, so the second one opens another connection.
func TestFreshConnections(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var addrs []string // of the clients
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		addrs = append(addrs, r.RemoteAddr)
		n := len(addrs)
		mu.Unlock()
		if n == 2 {
			<-r.Context().Done()
		}
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	retry := &httpretry.RetryTransport{AttemptTimeout: 500 * time.Millisecond, Policy: httpretry.RetryConfig{InitialBackoff: time.Millisecond}}
	tr := http.DefaultTransport.(*http.Transport).Clone()
	tr.HTTP2 = &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second}
	retry.Base = otelhttp.NewTransport(httpretry.FreshConnections(tr))
	defer tr.CloseIdleConnections()
	tr.TLSClientConfig = srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	for range 2 {
		if _, err := get(t.Context(), retry, srv.URL); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(addrs) != 3 || addrs[0] != addrs[1] || addrs[1] == addrs[2] {
		t.Errorf("got requests from %q, want two from one connection and one from another", addrs)
	}
}

// Below the RetryTransport, oauth2 gets a token for each attempt, so that none
// expires during a wait.
func TestOAuth2(t *testing.T) {
	t.Parallel()
	s := serve(t, failures{1: down, 2: down}, respond("text/plain", "hello"))
	tokens := &countingTokens{}
	retry, base := s.retry(), s.transport
	retry.Base = &oauth2.Transport{Source: tokens, Base: base}
	if body, err := get(t.Context(), retry, s.url); err != nil || body != "hello" {
		t.Errorf("got %q, %v, want hello", body, err)
	}
	var got []string
	for _, r := range s.script.Requests() {
		got = append(got, r.Header.Get("Authorization"))
	}
	if want := []string{"Bearer token-1", "Bearer token-2", "Bearer token-3"}; !slices.Equal(got, want) {
		t.Errorf("got tokens %q, want a new one for each attempt: %q", got, want)
	}
}

type countingTokens struct{ n atomic.Int64 }

func (c *countingTokens) Token() (*oauth2.Token, error) {
	return &oauth2.Token{AccessToken: "token-" + strconv.FormatInt(c.n.Add(1), 10)}, nil
}

// gzhttp works above the RetryTransport and below it.
func TestGzhttp(t *testing.T) {
	text := strings.Repeat("hello, ", 1<<10)
	tests := []struct {
		name  string
		stack func(*httpretry.RetryTransport, http.RoundTripper) http.RoundTripper
	}{
		{"above", func(retry *httpretry.RetryTransport, _ http.RoundTripper) http.RoundTripper {
			return gzhttp.Transport(retry)
		}},
		{"below", func(retry *httpretry.RetryTransport, base http.RoundTripper) http.RoundTripper {
			retry.Base = gzhttp.Transport(base)
			return retry
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, failures{1: reset, 2: down}, gzhttp.GzipHandler(respond("text/plain", text)))
			retry := s.retry()
			retry.MaxResponseBytes = 1 << 20
			body, err := get(t.Context(), tt.stack(retry, s.transport), s.url)
			if err != nil || body != text {
				t.Errorf("got %d bytes, %v, want the %d that were compressed", len(body), err, len(text))
			}
			s.check(t, 1)
			for _, r := range s.script.Requests() {
				if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
					t.Errorf("got Accept-Encoding %q, want gzip on each attempt", r.Header.Get("Accept-Encoding"))
				}
			}
		})
	}
}

// Above the RetryTransport, a cache stores only final responses, and a hit makes
// no attempt.
func TestHTTPCache(t *testing.T) {
	t.Parallel()
	s := serve(t, failures{1: reset, 2: down}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "max-age=3600")
		io.WriteString(w, "hello")
	}))
	retry := s.retry()
	cache := httpcache.NewTransport(httpcache.NewMemoryCache())
	cache.Transport = retry
	for call := range 2 {
		if body, err := get(t.Context(), cache, s.url); err != nil || body != "hello" {
			t.Errorf("call %d: got %q, %v, want hello", call+1, body, err)
		}
	}
	s.check(t, 1)
}

// A breaker belongs below the RetryTransport and counts attempts.
type breaker struct {
	http.RoundTripper
	*gobreaker.TwoStepCircuitBreaker[any]
}

func (b breaker) RoundTrip(req *http.Request) (*http.Response, error) {
	done, err := b.Allow()
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	resp, err := b.RoundTripper.RoundTrip(req)
	failure := err
	if err == nil && resp.StatusCode >= http.StatusInternalServerError {
		failure = errors.New(resp.Status)
	}
	done(failure)
	return resp, err
}

// breakerAware ends retries when the breaker is open.
var breakerAware = func(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return httpretry.Verdict{Outcome: httpretry.Final}
	}
	return httpretry.DefaultClassifier(req, resp, err)
}

func TestCircuitBreaker(t *testing.T) {
	tests := []struct {
		name     string
		fails    failures
		requests int
		err      error
		reason   string
	}{
		{"closed", failures{1: down, 2: down}, 3, nil, "two failures in a row are not yet an outage"},
		{"opens", failures{1: reset, 2: down, 3: down, 4: down}, 3, gobreaker.ErrOpenState, "the third opens it, and no further attempt arrives"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, tt.fails, respond("text/plain", "hello"))
			retry := s.retry()
			retry.Classifier = breakerAware
			retry.Base = breaker{s.transport, gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
				ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures > 2 },
			})}
			if _, err := get(t.Context(), retry, s.url); !errors.Is(err, tt.err) {
				t.Errorf("got error %v, want %v: %s", err, tt.err, tt.reason)
			}
			if got := len(s.script.Requests()); got != tt.requests {
				t.Errorf("got %d requests, want %d: %s", got, tt.requests, tt.reason)
			}
		})
	}
}

// limited belongs below the RetryTransport, so that retries count against the
// limit.
type limited struct {
	http.RoundTripper
	*rate.Limiter
}

func (l limited) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := l.Wait(req.Context()); err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	return l.RoundTripper.RoundTrip(req)
}

func TestRateLimiter(t *testing.T) {
	t.Parallel()
	s := serve(t, failures{1: down, 2: down}, respond("text/plain", "hello"))
	limiter := rate.NewLimiter(rate.Every(24*time.Hour), 5)
	retry := s.retry()
	retry.Base = limited{s.transport, limiter}
	if body, err := get(t.Context(), retry, s.url); err != nil || body != "hello" {
		t.Errorf("got %q, %v, want hello", body, err)
	}
	s.check(t, 1)
	if got := int(limiter.Tokens()); got != 2 {
		t.Errorf("got %d tokens left of 5, want 2: each of three attempts takes one", got)
	}
}

// newProxy returns a reverse proxy that retries.
func newProxy(backend *url.URL, retry *httpretry.RetryTransport) *httputil.ReverseProxy {
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(backend) },
		Transport: retry,
	}
	return proxy
}

// proxied starts a reverse proxy in front of the service and returns its URL.
func proxied(t *testing.T, s *service) string {
	backend, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	retry := s.retry()
	retry.MaxReplayBytes = 8 << 20
	retry.AttemptTimeout = 5 * time.Second
	proxy := newProxy(backend, retry)
	proxy.ErrorLog = quiet
	srv := httptest.NewServer(proxy)
	t.Cleanup(srv.Close)
	return srv.URL
}

// The body of a request to a reverse proxy can be read once. The backend
// receives all of it.
func TestReverseProxy(t *testing.T) {
	t.Parallel()
	s := serve(t, failures{1: early, 2: down, 3: busy}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Digest")
		io.WriteString(w, "got it")
		w.Header().Set("Digest", digest(r.Body))
	}))
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	resp, err := client.Post(proxied(t, s), "application/octet-stream", stream(objectSize))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Error(err)
	}
	if got := resp.Trailer.Get("Digest"); got != objectDigest {
		t.Errorf("got digest %q in the trailer, want %q", got, objectDigest)
	}
	s.check(t, 1)
}

// After 101 Switching Protocols the connection stays open in both directions,
// with a RetryTransport and with a reverse proxy that has one.
func TestWebsocket(t *testing.T) {
	tests := []struct {
		name  string
		stack func(t *testing.T, s *service) (url string, rt http.RoundTripper)
	}{
		{"direct", func(_ *testing.T, s *service) (string, http.RoundTripper) {
			retry := s.retry()
			retry.AttemptTimeout = 5 * time.Second
			return s.url, retry
		}},
		{"proxied", func(t *testing.T, s *service) (string, http.RoundTripper) {
			base := &http.Transport{}
			t.Cleanup(base.CloseIdleConnections)
			return proxied(t, s), base
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, failures{1: reset, 2: down}, http.HandlerFunc(echoFrames))
			url, rt := tt.stack(t, s)
			conn, err := dialWebsocket(t.Context(), url, rt)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.CloseNow()
			for _, message := range []string{"hello", "and on"} {
				if err := conn.Write(t.Context(), websocket.MessageText, []byte(message)); err != nil {
					t.Fatal(err)
				}
				if _, echo, err := conn.Read(t.Context()); err != nil || string(echo) != message {
					t.Errorf("got %q, %v, want %q", echo, err, message)
				}
			}
			if err := conn.Close(websocket.StatusNormalClosure, ""); err != nil {
				t.Error(err)
			}
			s.check(t, 1)
		})
	}
}

func dialWebsocket(ctx context.Context, url string, retry http.RoundTripper) (*websocket.Conn, error) {
	client := &http.Client{Transport: retry}
	conn, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: client})
	return conn, err
}

func echoFrames(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	for {
		kind, message, err := conn.Read(r.Context())
		if err != nil {
			return
		}
		if err := conn.Write(r.Context(), kind, message); err != nil {
			return
		}
	}
}
