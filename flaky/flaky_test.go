package flaky_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/httpretry/httpretry/flaky"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// newRequest returns a request for http://example.test with the given body.
func newRequest(t *testing.T, method, path string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://example.test"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// statuses sends n requests, one after the other, and returns the statuses of
// the responses.
func statuses(t *testing.T, rt http.RoundTripper, n int) []int {
	t.Helper()
	var got []int
	for range n {
		resp, err := rt.RoundTrip(newRequest(t, "GET", "/", nil))
		if err != nil {
			t.Fatalf("RoundTrip: got error %v, want a response", err)
		}
		resp.Body.Close()
		got = append(got, resp.StatusCode)
	}
	return got
}

func TestScript_AssignsStepsInOrder(t *testing.T) {
	steps := []flaky.Step{flaky.Status(503), {}, flaky.Status(429)}
	script := flaky.New(steps...)
	steps[0] = flaky.Status(500) // the script must have a copy

	tests := []struct {
		name   string
		reason string
		script *flaky.Script
		want   []int
	}{{
		name:   "steps",
		reason: "request i gets step i; the zero Step and requests after the last step pass",
		script: script,
		want:   []int{503, 200, 429, 200, 200},
	}, {
		name:   "no steps",
		reason: "every request is after the last step",
		script: flaky.New(),
		want:   []int{200},
	}, {
		name:   "zero Script",
		reason: "the zero value passes every request",
		script: new(flaky.Script),
		want:   []int{200, 200},
	}, {
		name:   "Func",
		reason: "n counts from 1",
		script: flaky.Func(func(n int, _ *http.Request) flaky.Step { return flaky.Status(500 + n) }),
		want:   []int{501, 502, 503},
	}, {
		name:   "Error(nil)",
		reason: "a nil error is not a failure",
		script: flaky.New(flaky.Error(nil)),
		want:   []int{200},
	}}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := statuses(t, tt.script.Transport(nil), len(tt.want))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("statuses (%s) (-want +got):\n%s", tt.reason, diff)
			}
			if got, want := len(tt.script.Requests()), len(tt.want); got != want {
				t.Errorf("recorded requests: got %d, want %d", got, want)
			}
		})
	}
}

// All transports of a script share its sequence of steps.
func TestScript_SharesStepsBetweenTransports(t *testing.T) {
	script := flaky.New(flaky.Status(501), flaky.Status(502))
	got := append(statuses(t, script.Transport(nil), 1), statuses(t, script.Transport(nil), 1)...)
	if diff := cmp.Diff([]int{501, 502}, got); diff != "" {
		t.Errorf("statuses through two transports (-want +got):\n%s", diff)
	}
}

func TestScript_ConcurrentUse(t *testing.T) {
	const n = 64
	var mu sync.Mutex
	met := make(map[int]string)
	script := flaky.Func(func(n int, r *http.Request) flaky.Step {
		mu.Lock()
		defer mu.Unlock()
		met[n] = r.URL.Path
		return flaky.Status(200).WithBody("ok")
	})
	rt := script.Transport(nil)

	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			req := newRequest(t, "PUT", fmt.Sprintf("/%d", i), strings.NewReader("body"))
			resp, err := rt.RoundTrip(req)
			if err != nil {
				t.Errorf("RoundTrip: got error %v, want a response", err)
				return
			}
			defer resp.Body.Close()
			if got, err := io.ReadAll(resp.Body); err != nil || string(got) != "ok" {
				t.Errorf("body: got %q, %v, want %q, nil", got, err, "ok")
			}
			_ = script.Requests()
		})
	}
	wg.Wait()

	requests := script.Requests()
	if len(requests) != n || len(met) != n {
		t.Fatalf("got %d recorded requests and %d numbers, want %d of both", len(requests), len(met), n)
	}
	for i, r := range requests {
		if r.URL.Path != met[i+1] {
			t.Errorf("request %d: recorded as %s, but Func got %s: not in order of arrival", i+1, r.URL.Path, met[i+1])
		}
		if string(r.Body) != "body" {
			t.Errorf("request %d: got body %q, want %q", i+1, r.Body, "body")
		}
	}
}

func TestRequests_AreCopies(t *testing.T) {
	script := flaky.New()
	req := newRequest(t, "POST", "/a?b=c", strings.NewReader("hello"))
	req.Header.Set("X-Test", "1")
	resp, err := script.Transport(nil).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()

	check := func(reason string) {
		t.Helper()
		r := script.Requests()[0]
		if r.Time.IsZero() {
			t.Errorf("Time (%s): got zero, want the time of arrival", reason)
		}
		got := []any{r.Method, r.URL.String(), r.Host, r.Header, r.ContentLength, string(r.Body), r.BodySize, r.BodyErr}
		want := []any{"POST", "http://example.test/a?b=c", "example.test", http.Header{"X-Test": {"1"}}, int64(5), "hello", int64(5), nil}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("request (%s) (-want +got):\n%s", reason, diff)
		}
	}
	check("as it was sent")
	req.Header.Set("X-Test", "2")
	req.URL.Path = "/changed"
	check("after the caller changed its request")
	snapshot := script.Requests()[0]
	snapshot.Header.Set("X-Test", "3")
	snapshot.URL.Path = "/changed"
	snapshot.Body[0] = 'j'
	check("after the caller changed a snapshot")
}

func TestRequests_HostOverridesURL(t *testing.T) {
	script := flaky.New()
	req := newRequest(t, "GET", "/", nil)
	req.Host = "other.test"
	resp, err := script.Transport(nil).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got, want := script.Requests()[0].Host, "other.test"; got != want {
		t.Errorf("Host: got %q, want %q, which overrides the URL's", got, want)
	}
}

// The record keeps the first MiB of a large body and counts all of its bytes.
func TestRequests_KeepOneMiBOfBody(t *testing.T) {
	const mib = 1 << 20
	body := bytes.Repeat([]byte("0123456789abcdef"), 3*mib/16)
	for _, size := range []int{mib - 1, mib, mib + 1, 3 * mib} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			script := flaky.New()
			resp, err := script.Transport(nil).RoundTrip(newRequest(t, "PUT", "/", bytes.NewReader(body[:size])))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			r := script.Requests()[0]
			if want := body[:min(size, mib)]; !bytes.Equal(r.Body, want) {
				t.Errorf("Body: got %d bytes, want the first %d unchanged", len(r.Body), len(want))
			}
			if r.BodySize != int64(size) {
				t.Errorf("BodySize: got %d, want %d", r.BodySize, size)
			}
		})
	}
}

// Methods of a Step return modified copies.
func TestStep_IsImmutable(t *testing.T) {
	base := flaky.Status(503).WithHeader("A", "1")
	one := base.WithHeader("A", "2").WithBody("x").Truncate(0)
	two := base.WithHeader("B", "3")

	tests := []struct {
		name   string
		step   flaky.Step
		header http.Header
	}{
		{"base", base, http.Header{"A": {"1"}, "Content-Length": {"0"}}},
		{"one", one, http.Header{"A": {"1", "2"}, "Content-Length": {"1"}}},
		{"two", two, http.Header{"A": {"1"}, "B": {"3"}, "Content-Length": {"0"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rt := flaky.New(tt.step, tt.step).Transport(nil)
			for range 2 {
				resp, err := rt.RoundTrip(newRequest(t, "GET", "/", nil))
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if diff := cmp.Diff(tt.header, resp.Header); diff != "" {
					t.Errorf("header (-want +got):\n%s", diff)
				}
				resp.Header.Set("A", "changed by the caller")
			}
		})
	}
}

func TestStatus_PanicsOnInvalidCode(t *testing.T) {
	for _, code := range []int{-1, 0, 100, 199, 1000} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Status(%d): got a step, want a panic: no final response has that status", code)
				}
			}()
			flaky.Status(code)
		}()
	}
}

// errBroken is an error that only tests return.
var errBroken = errors.New("broken on purpose")
