package compat_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-retryablehttp"
	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/flaky"
)

func newMigrated() *http.Client {
	client := &http.Client{Transport: &httpretry.RetryTransport{
		Policy: httpretry.RetryConfig{MaxRetries: 4, MaxBackoff: 30 * time.Second}, // RetryMax, RetryWaitMax
	}}
	return client
}

var finalBefore = regexp.MustCompile(`unsupported protocol scheme|invalid header|certificate is not trusted|stopped after \d+ redirects$`)

// asBefore decides as the DefaultRetryPolicy of go-retryablehttp does.
var asBefore = func(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
	if err != nil {
		_, untrusted := err.(*tls.CertificateVerificationError) // not if it is wrapped
		if untrusted || req.Context().Err() != nil || finalBefore.MatchString(err.Error()) {
			return httpretry.Verdict{}
		}
		return httpretry.Verdict{Outcome: httpretry.Unprocessed}
	}
	if resp.StatusCode == http.StatusTooManyRequests ||
		resp.StatusCode >= 500 && resp.StatusCode != http.StatusNotImplemented {
		wait, _ := httpretry.RetryAfter(resp)
		return httpretry.Verdict{Outcome: httpretry.Unprocessed, RetryAfter: wait}
	}
	return httpretry.Verdict{}
}

// A cell is a call all of whose attempts end in the same way.
type cell struct {
	method, body string // the kind of body; "": none
	status       int    // of each attempt, unless it ends with err
	err          error
	retryAfter   string
	canceled     bool // the context, during the attempt
}

// A callResult is what the caller and the server see of a call.
type callResult struct {
	Attempts int
	Took     time.Duration
	Status   int    // 0: the call returned an error
	Body     string // of the response
	Cause    bool   // the error wraps that of the last attempt
	Sent     string // the lengths of the bodies
	Closed   bool   // the caller's body was closed; true if it is not watched
}

// A difference is a line of docs/migrating.md. It turns the result of
// go-retryablehttp into that of httpretry.
type difference struct {
	page  string // is in the line
	apply func(c cell, r *callResult)
}

// once is the result of a call that is not retried.
func (r *callResult) once() {
	if r.Attempts > 1 {
		sent, _, _ := strings.Cut(r.Sent, " ")
		r.Attempts, r.Took, r.Sent = 1, 0, sent
	}
}

// retried is the result of a call that is retried to the end, if its body can be
// sent again.
func (r *callResult) retried(c cell) {
	if strings.HasPrefix(c.body, "large") {
		return
	}
	r.Attempts, r.Took = 1+migrationRetries, 7*time.Second
	r.Sent = strings.TrimSpace(strings.Repeat(r.Sent+" ", 1+migrationRetries))
}

const (
	migrationRetries = 3
	migrationReplay  = 1000 // MaxReplayBytes, so that a large body need not be
)

var (
	errReset     = &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	errRefused   = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	errTimeout   = &net.OpError{Op: "read", Net: "tcp", Err: os.ErrDeadlineExceeded}
	errNoHost    = &net.DNSError{Err: "no such host", Name: "example.com", IsNotFound: true}
	errMalformed = textproto.ProtocolError("malformed MIME header line: x")
	errUntrusted = &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}
	errPinned    = x509.HostnameError{Certificate: &x509.Certificate{}, Host: "example.com"}
	errUnknown   = errors.New("middleware failed")
	errScheme    = errors.New(`unsupported protocol scheme "htp"`)
	errBadHeader = errors.New(`net/http: invalid header field name "a b"`)
	errWrapped   = fmt.Errorf("middleware: %w", errUntrusted)
	errProxy     = &net.OpError{Op: "proxyconnect", Net: "tcp", Err: errUntrusted}
	errTrustText = errors.New("x509: “example.com” certificate is not trusted")
	errRedirects = errors.New("stopped after 10 redirects")
)

func (c cell) uncertain() bool {
	switch c.status {
	case 408, 500, 502, 504:
		return true
	}
	return c.err == errReset || c.err == errTimeout || c.err == errUnknown || c.err == io.EOF || c.err == io.ErrUnexpectedEOF
}

func (c cell) idempotent() bool { return c.method != http.MethodPost && c.method != http.MethodPatch }

// In the order of the page.
var (
	sameRetries = []difference{
		{"returns the last response", func(c cell, r *callResult) {
			if r.Status == 0 && c.err == nil && !c.canceled {
				r.Status, r.Body = c.status, "why"
			}
		}},
		{"up to `MaxReplayBytes`", func(c cell, r *callResult) {
			if c.body == "large" || c.body == "large seeker" {
				r.once()
			}
		}},
		{"from its current offset", func(c cell, r *callResult) {
			if c.body == "file" {
				r.Sent = strings.ReplaceAll(r.Sent, "10", "7")
			}
		}},
		{"another `io.ReadSeeker`", func(c cell, r *callResult) {
			if c.body == "seeker" {
				r.Sent = strings.ReplaceAll(r.Sent, "10", "7")
			}
			if c.body == "large seeker" {
				r.Sent = strings.ReplaceAll(r.Sent, "1004", "1001")
			}
		}},
		{"closes the request body", func(_ cell, r *callResult) { r.Closed = true }},
		{"is a minimum", func(c cell, r *callResult) {
			asked, waited := httpretry.RetryAfter(&http.Response{Header: http.Header{"Retry-After": {c.retryAfter}}})
			if !waited || r.Attempts == 1 {
				return
			}
			r.Took = 0
			for n := range migrationRetries {
				r.Took += max(asked, time.Second<<n)
			}
		}},
		{"longer than `MaxRetryAfter`", func(c cell, r *callResult) {
			if c.retryAfter == "3600" {
				r.once()
			}
		}},
		{"if the context is canceled", func(c cell, r *callResult) {
			if c.canceled {
				r.Status, r.Body = c.status, "why"
			}
		}},
	}
	defaultDecisions = []difference{
		{"POST and PATCH are not retried", func(c cell, r *callResult) {
			if c.uncertain() && !c.idempotent() {
				r.once()
			}
		}},
		{"505 and above are not retried", func(c cell, r *callResult) {
			if c.status >= 505 {
				r.once()
			}
		}},
		{"a 408 is retried", func(c cell, r *callResult) {
			if c.status == http.StatusRequestTimeout && c.idempotent() {
				r.retried(c)
			}
		}},
		{"a host that does not exist", func(c cell, r *callResult) {
			if c.err == errNoHost {
				r.once()
			}
		}},
		{"a malformed response", func(c cell, r *callResult) {
			if c.err == errMalformed {
				r.once()
			}
		}},
		{"a certificate that a callback", func(c cell, r *callResult) {
			if c.err == error(errPinned) {
				r.once()
			}
		}},
		{"also if its error is wrapped", func(c cell, r *callResult) {
			if c.err == errWrapped || c.err == error(errProxy) {
				r.once()
			}
		}},
		{"`certificate is not trusted`", func(c cell, r *callResult) {
			if (c.err == errTrustText || c.err == errRedirects) && c.idempotent() {
				r.retried(c)
			}
		}},
	}
)

func migrationCells() (cells []cell) {
	statuses := []int{200, 204, 304, 400, 401, 403, 404, 408, 409, 425, 429, 500, 501, 502, 503, 504, 505, 507, 511, 599}
	errs := []error{
		errReset, errRefused, errTimeout, errNoHost, errMalformed, errUntrusted, errPinned, errUnknown, errScheme, errBadHeader,
		io.EOF, io.ErrUnexpectedEOF, errWrapped, errProxy, errTrustText, errRedirects,
	}
	for _, method := range []string{"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH"} {
		bodies := []string{"", "bytes", "stream", "large", "file", "seeker", "large seeker"}
		if method == "HEAD" {
			bodies = bodies[:1]
		}
		for _, body := range bodies {
			for _, status := range statuses {
				cells = append(cells, cell{method: method, body: body, status: status})
			}
			for _, err := range errs {
				cells = append(cells, cell{method: method, body: body, err: err})
			}
		}
	}
	for _, asked := range []string{"0", "2", "20", "3600", "soon"} {
		for _, status := range []int{429, 502, 503, 404} {
			cells = append(cells, cell{method: "GET", status: status, retryAfter: asked})
		}
	}
	for _, status := range []int{200, 404, 503} {
		cells = append(cells, cell{method: "GET", status: status, canceled: true})
	}
	return cells
}

// A request that go-retryablehttp and httpretry send has the same result with
// both, except for the differences on the page.
func TestMigrating_DifferencesAreThoseOfThePage(t *testing.T) {
	page, err := os.ReadFile("../docs/migrating.md")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(file, []byte("0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	compare := func(t *testing.T, open func(base http.RoundTripper) *http.Client, differences []difference) {
		unused := map[string]bool{}
		for _, d := range differences {
			unused[d.page] = true
			if !strings.Contains(string(page), d.page) {
				t.Errorf("docs/migrating.md: got no %q in it", d.page)
			}
		}
		for _, c := range migrationCells() {
			want := c.call(t, file, openRetryablehttp)
			for _, d := range differences {
				before := want
				if d.apply(c, &want); want != before {
					delete(unused, d.page)
				}
			}
			if got := c.call(t, file, open); got != want {
				t.Errorf("%+v:\ngot  %+v,\nwant %+v", c, got, want)
			}
		}
		for page := range maps.Keys(unused) {
			t.Errorf("%q makes no difference to any call", page)
		}
	}
	policy := httpretry.RetryConfig{MaxRetries: migrationRetries, MaxBackoff: 30 * time.Second, JitterFraction: -1}
	t.Run("by default", func(t *testing.T) {
		compare(t, func(base http.RoundTripper) *http.Client {
			return &http.Client{Transport: &httpretry.RetryTransport{Base: base, Policy: policy, MaxReplayBytes: migrationReplay}}
		}, slices.Concat(sameRetries, defaultDecisions))
	})
	t.Run("with its decisions", func(t *testing.T) {
		compare(t, func(base http.RoundTripper) *http.Client {
			retry := &httpretry.RetryTransport{Base: base, Policy: policy, MaxReplayBytes: migrationReplay, Classifier: asBefore}
			return &http.Client{Transport: retry}
		}, sameRetries)
	})
}

func openRetryablehttp(base http.RoundTripper) *http.Client {
	client := retryablehttp.NewClient()
	client.HTTPClient = &http.Client{Transport: base}
	client.RetryMax = migrationRetries
	client.Logger = nil
	return client.StandardClient()
}

// call makes the call of c, in virtual time.
func (c cell) call(t *testing.T, file string, open func(http.RoundTripper) *http.Client) (r callResult) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		base := &ending{cell: c, cancel: cancel}
		body, closed := c.source(t, file)
		req, err := http.NewRequestWithContext(ctx, c.method, "http://example.com/", body)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		resp, err := open(base).Do(req)
		r = callResult{Attempts: len(base.sent), Took: time.Since(start), Sent: strings.Join(base.sent, " "), Closed: closed()}
		if err != nil {
			r.Cause = c.err != nil && errors.Is(err, c.err)
			return
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Errorf("%+v: reading the response: %v", c, err)
		}
		r.Status, r.Body = resp.StatusCode, string(text)
	})
	return r
}

// source returns the body of c, and a function that reports whether it was
// closed.
func (c cell) source(t *testing.T, file string) (io.Reader, func() bool) {
	switch c.body {
	case "bytes":
		return bytes.NewReader([]byte("an order")), func() bool { return true }
	case "stream":
		s := &watched{Reader: strings.NewReader("a streamed order")}
		return s, func() bool { return s.closed }
	case "large":
		s := &watched{Reader: io.LimitReader(zeros{}, migrationReplay+1)}
		return s, func() bool { return s.closed }
	case "seeker":
		return watchedSeeker(10)
	case "large seeker":
		return watchedSeeker(migrationReplay + 4)
	case "file":
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		if _, err := f.Seek(3, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		return f, func() bool {
			_, err := f.Stat()
			return errors.Is(err, os.ErrClosed)
		}
	}
	return nil, func() bool { return true }
}

type watched struct {
	io.Reader
	closed bool
}

func (w *watched) Close() error {
	w.closed = true
	return nil
}

// watchedSeeker returns a body of n bytes at offset 3 that is no file.
func watchedSeeker(n int) (io.Reader, func() bool) {
	s := &struct {
		watched
		io.Seeker
	}{}
	r := strings.NewReader(strings.Repeat("x", n))
	s.Reader, s.Seeker = r, r
	r.Seek(3, io.SeekStart)
	return s, func() bool { return s.closed }
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// An ending is a RoundTripper that ends each attempt of a call in the same way.
type ending struct {
	cell
	sent   []string // the lengths of the bodies
	cancel func()
}

func (e *ending) RoundTrip(req *http.Request) (*http.Response, error) {
	var n int64
	if req.Body != nil {
		n, _ = io.Copy(io.Discard, req.Body)
		req.Body.Close()
	}
	e.sent = append(e.sent, fmt.Sprint(n))
	if e.canceled {
		e.cancel()
	}
	if e.err != nil {
		return nil, e.err
	}
	resp := &http.Response{StatusCode: e.status, Status: fmt.Sprint(e.status), Header: http.Header{}, Request: req}
	if e.retryAfter != "" {
		resp.Header.Set("Retry-After", e.retryAfter)
	}
	resp.Body = io.NopCloser(strings.NewReader("why"))
	return resp, nil
}

// With the settings of the page, a call ends like one of go-retryablehttp's
// default client, apart from jitter.
func TestMigrating_Defaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before, after, zero := &ending{cell: cell{status: 503}}, &ending{cell: cell{status: 503}}, &ending{cell: cell{status: 503}}
		old := retryablehttp.NewClient()
		old.HTTPClient, old.Logger = &http.Client{Transport: before}, nil
		if _, err := old.StandardClient().Get("http://example.com"); err == nil {
			t.Error("got no error, want go-retryablehttp to give up with one")
		}
		client := newMigrated()
		client.Transport.(*httpretry.RetryTransport).Base = after
		start := time.Now()
		get(t.Context(), client.Transport, "http://example.com")
		if got := time.Since(start); got < 13*time.Second || got > 17*time.Second {
			t.Errorf("took %v, want 1 + 2 + 4 + 8 s ± 10 %%", got)
		}
		get(t.Context(), &httpretry.RetryTransport{Base: zero}, "http://example.com")
		if len(before.sent) != 5 || len(after.sent) != 5 || len(zero.sent) != 4 {
			t.Errorf("got %d, %d and %d attempts, want 5, 5, and 4 of the zero value", len(before.sent), len(after.sent), len(zero.sent))
		}
	})
}

// The Timeout of go-retryablehttp's HTTPClient limits an attempt, and that of an
// http.Client above a RetryTransport the call. AttemptTimeout limits an attempt.
func TestMigrating_Timeouts(t *testing.T) {
	slow := func() *slowOnce { return &slowOnce{} }
	old := retryablehttp.NewClient()
	old.Logger = nil
	tests := []struct {
		name   string
		client func(base http.RoundTripper) *http.Client
		ok     bool
	}{
		{"HTTPClient.Timeout", func(base http.RoundTripper) *http.Client {
			old.HTTPClient = &http.Client{Transport: base, Timeout: time.Second}
			return old.StandardClient()
		}, true},
		{"Timeout", func(base http.RoundTripper) *http.Client {
			return &http.Client{Transport: &httpretry.RetryTransport{Base: base}, Timeout: time.Second}
		}, false},
		{"AttemptTimeout", func(base http.RoundTripper) *http.Client {
			return &http.Client{Transport: &httpretry.RetryTransport{Base: base, AttemptTimeout: time.Second}}
		}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				resp, err := tt.client(slow()).Get("http://example.com")
				if err == nil {
					resp.Body.Close()
				}
				if ok := err == nil; ok != tt.ok {
					t.Errorf("got error %v, want success %t", err, tt.ok)
				}
			})
		})
	}
}

// A slowOnce never ends its first attempt.
type slowOnce struct{ ending }

func (s *slowOnce) RoundTrip(req *http.Request) (*http.Response, error) {
	s.status = http.StatusOK
	if len(s.sent) == 0 {
		s.sent = append(s.sent, "")
		<-req.Context().Done()
		return nil, context.Cause(req.Context())
	}
	return s.ending.RoundTrip(req)
}

// A wait that would end after the deadline is not begun, so that the caller gets
// the last response, and gets it earlier.
func TestMigrating_Deadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		call := func(open func(http.RoundTripper) *http.Client) (status int, took time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://example.com", nil)
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			if resp, err := open(&ending{cell: cell{status: 503}}).Do(req); err == nil {
				resp.Body.Close()
				status = resp.StatusCode
			}
			return status, time.Since(start)
		}
		if status, took := call(openRetryablehttp); status != 0 || took != 2500*time.Millisecond {
			t.Errorf("go-retryablehttp: got status %d after %v, want an error after 2.5s", status, took)
		}
		status, took := call(func(base http.RoundTripper) *http.Client {
			return &http.Client{Transport: &httpretry.RetryTransport{Base: base}}
		})
		if status != 503 || took > 1100*time.Millisecond {
			t.Errorf("got status %d after %v, want the 503 after 1 s", status, took)
		}
	})
}

// go-retryablehttp follows redirects within its RoundTripper. httpretry leaves
// that to the http.Client above it, which has a CheckRedirect.
func TestMigrating_Redirects(t *testing.T) {
	base := redirecting{}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	for rt, want := range map[http.RoundTripper]int{
		openRetryablehttp(base).Transport:     http.StatusOK,
		&httpretry.RetryTransport{Base: base}: http.StatusFound,
	} {
		resp, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%T: got status %d, want %d", rt, resp.StatusCode, want)
		}
	}
}

type redirecting struct{}

func (redirecting) RoundTrip(req *http.Request) (*http.Response, error) {
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody, Request: req}
	if req.URL.Path == "/" {
		resp.StatusCode = http.StatusFound
		resp.Header.Set("Location", "/moved")
	}
	return resp, nil
}

func newBackoff() *httpretry.RetryTransport {
	retry := &httpretry.RetryTransport{Policy: httpretry.RetryConfig{
		MaxRetries:     1000,                   // backoff has no limit by default
		InitialBackoff: 500 * time.Millisecond, // InitialInterval
		BackoffFactor:  1.5,                    // Multiplier
		JitterFraction: 0.5,                    // RandomizationFactor
		MaxBackoff:     time.Minute,            // MaxInterval
		MaxElapsed:     15 * time.Minute,       // WithMaxElapsedTime
	}}
	return retry
}

type raise struct{ http.RoundTripper }

func (r raise) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.RoundTripper.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode < http.StatusInternalServerError {
		return resp, err
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	return nil, fmt.Errorf("%s after %d attempts: %s", resp.Status, httpretry.AttemptNumber(resp.Request.Context()), body)
}

func newLinear() httpretry.RetryConfig {
	linear := httpretry.RetryConfig{
		MaxRetries:    5,
		BackoffFactor: 1, // backoff is a second, or what the server asks for
		Jitter: func(backoff, previous time.Duration) time.Duration {
			return max(backoff, min(previous+time.Second, 10*time.Second))
		},
	}
	return linear
}

func newTimedWithBody() *httpretry.RetryTransport {
	retry := &httpretry.RetryTransport{AttemptTimeout: 10 * time.Second, MaxResponseBytes: 1 << 20}
	return retry
}

func newClamped() func(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
	clamped := func(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
		v := httpretry.DefaultClassifier(req, resp, err)
		v.RetryAfter = min(v.RetryAfter, 30*time.Second)
		return v
	}
	return clamped
}

type history struct{}

func remember(a httpretry.Attempt, _ httpretry.Decision) {
	errs, ok := a.Request.Context().Value(history{}).(*[]error)
	switch {
	case !ok:
	case a.Err != nil:
		*errs = append(*errs, a.Err)
	case a.Verdict.Outcome != httpretry.Final:
		*errs = append(*errs, errors.New(a.Response.Status))
	}
}

// The recipes of the page have the effects that it states.
func TestMigrating_Recipes(t *testing.T) {
	tests := []struct {
		name     string
		cell     cell
		build    func(base http.RoundTripper) http.RoundTripper
		attempts int
		took     time.Duration
		err      string
	}{
		{"an error in place of the last response", cell{status: 503},
			func(base http.RoundTripper) http.RoundTripper { return raise{&httpretry.RetryTransport{Base: base}} },
			4, 7 * time.Second, "503 after 4 attempts: why"},
		{"no error for a 404", cell{status: 404},
			func(base http.RoundTripper) http.RoundTripper { return raise{&httpretry.RetryTransport{Base: base}} }, 1, 0, "status"},
		{"a linear backoff", cell{status: 503},
			func(base http.RoundTripper) http.RoundTripper {
				return &httpretry.RetryTransport{Base: base, Policy: newLinear()}
			}, 6, 15 * time.Second, "status"},
		{"a linear backoff with Retry-After", cell{status: 503, retryAfter: "20"},
			func(base http.RoundTripper) http.RoundTripper {
				return &httpretry.RetryTransport{Base: base, Policy: newLinear()}
			}, 6, 100 * time.Second, "status"},
		{"clamping Retry-After above MaxBackoff", cell{status: 503, retryAfter: "3600"},
			func(base http.RoundTripper) http.RoundTripper {
				return &httpretry.RetryTransport{Base: base, Classifier: newClamped(), Policy: httpretry.RetryConfig{MaxBackoff: 20 * time.Second}}
			}, 1, 0, "status"},
		{"clamping Retry-After", cell{status: 503, retryAfter: "3600"},
			func(base http.RoundTripper) http.RoundTripper {
				return &httpretry.RetryTransport{Base: base, Classifier: newClamped()}
			}, 4, 90 * time.Second, "status"},
		{"backoff's defaults", cell{status: 503},
			func(base http.RoundTripper) http.RoundTripper {
				retry := newBackoff()
				retry.Base = base
				return retry
			}, 25, 15 * time.Minute, "status"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := &ending{cell: tt.cell}
				start := time.Now()
				_, err := get(t.Context(), tt.build(base), "http://example.com")
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got error %v, want %q", err, tt.err)
				}
				took := time.Since(start)
				if took < tt.took*3/4 || took > tt.took*5/4 || len(base.sent) < tt.attempts*3/4 || len(base.sent) > tt.attempts*5/4 {
					t.Errorf("got %d attempts in %v, want %d in %v, or nearly", len(base.sent), took, tt.attempts, tt.took)
				}
			})
		})
	}
}

// A body that stalls is part of the attempt that times out.
func TestMigrating_TimeoutWithBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		script := flaky.New(flaky.Status(http.StatusOK).WithBody("half").Slow(1, 4*time.Second), flaky.Status(http.StatusOK).WithBody("whole"))
		retry := newTimedWithBody()
		retry.Base = script.Transport(nil)
		if body, err := get(t.Context(), retry, "http://example.com"); err != nil || body != "whole" {
			t.Errorf("got %q, %v, want the body of the second attempt", body, err)
		}
	})
}

func TestMigrating_ErrorsOfAllAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		script := flaky.New(flaky.Reset(), down.Step, flaky.Status(http.StatusOK))
		retry := &httpretry.RetryTransport{Base: script.Transport(nil), OnAttempt: remember}
		var errs []error
		ctx := context.WithValue(t.Context(), history{}, &errs)
		if _, err := get(ctx, retry, "http://example.com"); err != nil {
			t.Error(err)
		}
		if len(errs) != 2 || !errors.Is(errs[0], syscall.ECONNRESET) || !strings.HasPrefix(errs[1].Error(), "503") {
			t.Errorf("got %v, want the reset and the 503", errs)
		}
	})
}

// below puts retry below a client of an SDK that exposes go-retryablehttp.
func below(client *retryablehttp.Client, retry *httpretry.RetryTransport) {
	retry.Base = client.HTTPClient.Transport
	client.HTTPClient.Transport = retry
	client.RetryMax = 0                                         // disables its own retries
	client.ErrorHandler = retryablehttp.PassthroughErrorHandler // returns the last response
	client.Logger = nil                                         // its log has no attempts to report
}

// An SDK whose client is go-retryablehttp's makes one attempt, and returns its
// last response.
func TestMigrating_SDKs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &ending{cell: cell{status: 503}}
		client := retryablehttp.NewClient()
		client.HTTPClient = &http.Client{Transport: base}
		below(client, &httpretry.RetryTransport{})
		resp, err := client.Get("http://example.com")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if len(base.sent) != 4 || resp.StatusCode != 503 {
			t.Errorf("got status %d after %d attempts, want 503 after 4: those of the RetryTransport", resp.StatusCode, len(base.sent))
		}
	})
}
