package compat_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/flaky"
)

// A failure is a step for one request, and the shortest time after which its
// client may send it again.
type failure struct {
	flaky.Step
	wait time.Duration
}

var (
	busy  = failure{flaky.Status(http.StatusTooManyRequests).WithHeader("Retry-After", "1"), time.Second}
	down  = failure{Step: flaky.Status(http.StatusServiceUnavailable).WithBody("down for maintenance")}
	early = failure{Step: flaky.Status(http.StatusServiceUnavailable).Early()}
	reset = failure{Step: flaky.Reset()}
)

// failures are the requests that fail, by their number. The first is 1.
type failures map[int]failure

// A service is a server on loopback that fails by a script.
type service struct {
	url       string
	transport *http.Transport // the Base of a RetryTransport
	script    *flaky.Script
	fails     failures
	attempts  atomic.Int64 // of the RetryTransport
	elsewhere int          // attempts that other servers or none received
}

// serve starts a service that passes requests that do not fail to next.
func serve(t *testing.T, fails failures, next http.Handler) *service {
	return start(t, fails, next, (*httptest.Server).Start)
}

// serveTLS starts a service that speaks HTTP/2 over TLS.
func serveTLS(t *testing.T, fails failures, next http.Handler) *service {
	return start(t, fails, next, func(srv *httptest.Server) {
		srv.EnableHTTP2 = true
		srv.StartTLS()
	})
}

func start(t *testing.T, fails failures, next http.Handler, listen func(*httptest.Server)) *service {
	t.Helper()
	script := flaky.Func(func(n int, _ *http.Request) flaky.Step { return fails[n].Step })
	srv := httptest.NewUnstartedServer(script.Handler(next))
	listen(srv)
	transport := srv.Client().Transport.(*http.Transport)
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		srv.CloseClientConnections()
		srv.Close()
	})
	return &service{url: srv.URL, transport: transport, script: script, fails: fails}
}

// retry returns a RetryTransport with short waits.
func (s *service) retry() *httpretry.RetryTransport {
	return &httpretry.RetryTransport{
		Base:      s.transport,
		Policy:    httpretry.RetryConfig{MaxRetries: 5, InitialBackoff: time.Millisecond},
		OnAttempt: func(httpretry.Attempt, httpretry.Decision) { s.attempts.Add(1) },
	}
}

// check verifies that the server received as many requests as pass plus one for
// each failure, and that each retry is the same request to the last byte and not
// earlier than allowed.
func (s *service) check(t *testing.T, pass int) {
	t.Helper()
	arrived := s.script.Requests()
	if got, want := len(arrived), pass+len(s.fails); got != want {
		t.Errorf("got %d requests at the server, want %d: those that pass, and one for each failure", got, want)
	}
	if got, want := int(s.attempts.Load()), len(arrived)+s.elsewhere; got != want {
		t.Errorf("got %d attempts of the RetryTransport, want %d: all that arrived", got, want)
	}
	for n := range s.fails {
		if n >= len(arrived) {
			t.Errorf("request %d failed and was not sent again", n)
			continue
		}
		if err := same(arrived[n-1], arrived[n]); err != nil {
			t.Errorf("the retry of request %d is another request: %v", n, err)
		}
		if got, want := arrived[n].Time.Sub(arrived[n-1].Time), s.fails[n].wait; got < want {
			t.Errorf("request %d was sent again after %v, the server asked for %v", n, got, want)
		}
	}
}

// same returns an error if retry differs from the request that failed. The body
// of a request that was refused early is unknown.
func same(failed, retry flaky.Request) error {
	switch {
	case failed.Method != retry.Method || failed.URL.String() != retry.URL.String() || failed.Host != retry.Host:
		return fmt.Errorf("got %s %s at %s, want %s %s at %s",
			retry.Method, retry.URL, retry.Host, failed.Method, failed.URL, failed.Host)
	case !reflect.DeepEqual(failed.Header, retry.Header):
		return fmt.Errorf("got header %v, want %v", retry.Header, failed.Header)
	case failed.ContentLength != retry.ContentLength:
		return fmt.Errorf("got Content-Length %d, want %d", retry.ContentLength, failed.ContentLength)
	case failed.BodySize != 0 && failed.BodySize != retry.BodySize:
		return fmt.Errorf("got a body of %d bytes, want %d", retry.BodySize, failed.BodySize)
	case !bytes.HasPrefix(retry.Body, failed.Body):
		return errors.New("the bodies differ")
	}
	return nil
}

// An sdkTest is a call through an SDK that succeeds after failures.
type sdkTest struct {
	name, reason string
	fails        failures
	pass         int // requests of the call when nothing fails; 0: 1
	elsewhere    int // attempts of the call that reach another server or none
	failFrom     int // the first request to fail when the SDK's own retries are tested; 0: 1
	tls          bool
	configure    func(*httpretry.RetryTransport) // may be nil

	// service stands in for the real one.
	service func() http.Handler

	// call makes the call and reports a wrong result as an error.
	call func(ctx context.Context, url string, retry *httpretry.RetryTransport) error
}

func runSDKTests(t *testing.T, tests []sdkTest) {
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, retry := tt.start(t, tt.fails)
			if err := tt.call(t.Context(), s.url, retry); err != nil {
				t.Errorf("got error %v, want the call to succeed: %s", err, tt.reason)
			}
			s.check(t, max(tt.pass, 1))
		})
		t.Run(tt.name+" without its own retries", func(t *testing.T) {
			t.Parallel()
			atOnce := failure{Step: flaky.Status(http.StatusServiceUnavailable).WithHeader("Retry-After", "0")}
			for name, fail := range map[string]failure{"unavailable": atOnce, "reset": reset} {
				first, all := max(tt.failFrom, 1), failures{}
				for n := first; n < first+3; n++ {
					all[n] = fail
				}
				s, retry := tt.start(t, all)
				retry.Policy = httpretry.Never
				if err := tt.call(t.Context(), s.url, retry); err == nil {
					t.Errorf("%s: the call succeeded against a server that fails", name)
				}
				if got := len(s.script.Requests()); got != first {
					t.Errorf("%s: got %d requests, want %d: the SDK retries too", name, got, first)
				}
			}
		})
	}
}

func (tt *sdkTest) start(t *testing.T, fails failures) (*service, *httpretry.RetryTransport) {
	listen := serve
	if tt.tls {
		listen = serveTLS
	}
	s := listen(t, fails, tt.service())
	s.elsewhere = tt.elsewhere
	retry := s.retry()
	if tt.configure != nil {
		tt.configure(retry)
	}
	return s, retry
}

// largeBodies lets bodies be buffered that are larger than by default.
func largeBodies(retry *httpretry.RetryTransport) { retry.MaxReplayBytes = 8 << 20 }

// respond reads every request and answers it with a body of the given type.
func respond(contentType, body string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", contentType)
		fmt.Fprint(w, body)
	})
}

// want reports a wrong result.
func want[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("got %s %v, want %v", what, got, want)
	}
	return nil
}

// stream returns a source that can be read once. Its n bytes are always the same.
func stream(n int64) io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{}), n) }

// digest returns the SHA-256 of a body, or the error of reading it.
func digest(r io.Reader) string {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// quiet replaces loggers that would write to standard error.
var quiet = log.New(io.Discard, "", 0)

func readAll(r io.Reader) string {
	var all strings.Builder
	io.Copy(&all, r) // a strings.Builder takes everything
	return all.String()
}
