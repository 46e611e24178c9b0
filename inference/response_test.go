package inference_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry/flaky"
	"github.com/httpretry/httpretry/inference"
)

func generate(t *testing.T, step flaky.Step) (*inference.InferenceResponse, *inference.InferenceError) {
	t.Helper()
	client := newClient(t, inference.HTTPInferenceClientConfig{BaseURL: fakeURL, Transport: flaky.New(step).Transport(nil)})
	return client.Generate(t.Context(), question())
}

func TestStatus(t *testing.T) {
	for _, tc := range []struct {
		code     int
		category inference.ErrorCategory
		message  string
	}{
		{304, inference.ErrCategoryUnknown, "HTTP 304: Not Modified"},
		{400, inference.ErrCategoryInvalidReq, "HTTP 400: Bad Request"},
		{401, inference.ErrCategoryAuth, "HTTP 401: Unauthorized"},
		{402, inference.ErrCategoryUnknown, "HTTP 402: Payment Required"},
		{403, inference.ErrCategoryAuth, "HTTP 403: Forbidden"},
		{404, inference.ErrCategoryUnknown, "HTTP 404: Not Found"},
		{408, inference.ErrCategoryUnknown, "HTTP 408: Request Timeout"},
		{413, inference.ErrCategoryUnknown, "HTTP 413: Request Entity Too Large"},
		{422, inference.ErrCategoryUnknown, "HTTP 422: Unprocessable Entity"},
		{429, inference.ErrCategoryRateLimit, "HTTP 429: Too Many Requests"},
		{500, inference.ErrCategoryServer, "HTTP 500: Internal Server Error"},
		{501, inference.ErrCategoryServer, "HTTP 501: Not Implemented"},
		{502, inference.ErrCategoryServer, "HTTP 502: Bad Gateway"},
		{503, inference.ErrCategoryServer, "HTTP 503: Service Unavailable"},
		{504, inference.ErrCategoryServer, "HTTP 504: Gateway Timeout"},
		{529, inference.ErrCategoryServer, "HTTP 529: empty response body"},
	} {
		t.Run(tc.message, func(t *testing.T) {
			_, err := generate(t, flaky.Status(tc.code))
			checkError(t, err, tc.category, tc.message)
			var status *inference.StatusError
			if !errors.As(err, &status) || status.StatusCode != tc.code {
				t.Errorf("got %#v, want a *StatusError with %d", err.RawError, tc.code)
			}
			want := strings.TrimSpace(fmt.Sprintf("HTTP %d %s", tc.code, http.StatusText(tc.code)))
			if err.RawError.Error() != want {
				t.Errorf("StatusError: got %s, want %s", err.RawError.Error(), want)
			}
			if want := string(tc.category) + ": " + tc.message; err.Error() != want {
				t.Errorf("Error: got %s, want %s", err.Error(), want)
			}
		})
	}
}

func TestErrorBody(t *testing.T) {
	for _, tc := range []struct {
		name, body, want string
	}{
		{"OpenAI", `{"error":{"message":"slow down","type":"requests","param":null,"code":"rate_limit_exceeded"}}`, "slow down"},
		{"code is a number", `{"error":{"message":"slow down","code":429}}`, "slow down"},
		{"code is null", `{"error":{"message":"slow down","code":null}}`, "slow down"},
		{"code is an object", `{"error":{"message":"slow down","code":{"a":1}}}`, "slow down"},
		{"error is a string", `{"error":"slow down"}`, "slow down"},
		{"no message", `{"error":{"code":429}}`, `{"error":{"code":429}}`},
		{"message is not a string", `{"error":{"message":["slow"]}}`, `{"error":{"message":["slow"]}}`},
		{"empty message", `{"error":{"message":" "}}`, `{"error":{"message":" "}}`},
		{"error is null", `{"error":null}`, `{"error":null}`},
		{"other JSON", `{"detail":"slow down"}`, `{"detail":"slow down"}`},
		{"JSON array", `[{"error":{"message":"slow down"}}]`, `[{"error":{"message":"slow down"}}]`},
		{"text", "slow down\n", "slow down"},
		{"broken JSON", `{"error":{"message":"slow`, `{"error":{"message":"slow`},
		{"spaces", " \n", "Too Many Requests"},
		{"empty", "", "Too Many Requests"},
		{"not UTF-8", "slow \xff down", "slow \uFFFD down"},
		{"longest", strings.Repeat("x", 1024), strings.Repeat("x", 1024)},
		{"too long", strings.Repeat("x", 1025), strings.Repeat("x", 1024) + "…"},
		{"cut in a character", strings.Repeat("x", 1023) + "ééé", strings.Repeat("x", 1023) + "\uFFFD…"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := generate(t, flaky.Status(429).WithBody(tc.body))
			checkError(t, err, inference.ErrCategoryRateLimit, "HTTP 429: "+tc.want)
			var status *inference.StatusError
			if !errors.As(err, &status) || string(status.Body) != tc.body {
				t.Errorf("got %#v, want a *StatusError with the body as it came", err.RawError)
			}
			if want := "HTTP 429 Too Many Requests"; status.Error() != want {
				t.Errorf("StatusError: got %s, want %s: without the body", status.Error(), want)
			}
		})
	}
}

func TestTruncatedErrorBodyKeepsItsStatus(t *testing.T) {
	_, err := generate(t, flaky.Status(401).WithBody("key has expired").Truncate(3))
	checkError(t, err, inference.ErrCategoryAuth, "HTTP 401: key")
}

func TestTruncatedAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		script := repeat(ok().Truncate(9))
		client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
			BaseURL: fakeURL, MaxRetries: 2, Transport: script.Transport(nil),
		})
		_, err := client.Generate(t.Context(), question())
		checkError(t, err, inference.ErrCategoryServer, "failed to execute request: unexpected EOF")
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("got %#v, want an error that is io.ErrUnexpectedEOF", err.RawError)
		}
		if n := len(script.Requests()); n != 3 {
			t.Errorf("got %d attempts, want 3", n)
		}
	})
}

func TestSuccessThatIsNoAnswer(t *testing.T) {
	for _, tc := range []struct {
		name    string
		step    flaky.Step
		message string
	}{
		{"a page", flaky.Status(200).WithHeader("Content-Type", "text/html; charset=utf-8").WithBody("<html>"), "HTTP 200: response is not JSON (text/html)"},
		{"half an answer", flaky.Status(200).WithHeader("Content-Type", "application/json").WithBody(answer[:9]), "HTTP 200: response is not JSON (application/json)"},
		{"two answers", flaky.Status(200).WithHeader("Content-Type", "application/json").WithBody(answer + answer), "HTTP 200: response is not JSON (application/json)"},
		{"nothing", flaky.Status(204), "HTTP 204: response is not JSON (no Content-Type)"},
		{
			"an event stream that would go on for hours",
			flaky.Status(200).WithHeader("Content-Type", "Text/Event-Stream; charset=utf-8").WithBody("data: 1\n\n").Slow(1, time.Hour),
			"HTTP 200: response is not JSON (Text/Event-Stream)",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				script := repeat(tc.step)
				client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
					BaseURL: fakeURL, MaxRetries: 2, Transport: script.Transport(nil),
				})
				start := time.Now()
				_, err := client.Generate(t.Context(), question())
				checkError(t, err, inference.ErrCategoryServer, tc.message)
				if n := len(script.Requests()); n != 1 {
					t.Errorf("got %d attempts, want 1: the gateway has answered", n)
				}
				if elapsed := time.Since(start); elapsed != 0 {
					t.Errorf("took %v, want no wait", elapsed)
				}
			})
		})
	}
}

// TestSwitchedProtocol is about a gateway that takes the connection over unasked
// and never sends a byte.
func TestSwitchedProtocol(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	client := newClient(t, inference.HTTPInferenceClientConfig{
		BaseURL: fakeURL,
		Transport: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			req.Body.Close()
			return &http.Response{StatusCode: 101, Header: http.Header{}, Body: ours, Request: req}, nil
		}),
	})
	_, err := client.Generate(t.Context(), question())
	checkError(t, err, inference.ErrCategoryUnknown, "HTTP 101: Switching Protocols")
	if _, err := ours.Write(nil); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v from the connection, want io.ErrClosedPipe: it must be closed", err)
	}
}

func TestAnyJSONIsAnAnswer(t *testing.T) {
	for _, step := range []flaky.Step{
		flaky.Status(200).WithBody(answer),
		flaky.Status(201).WithHeader("Content-Type", "text/plain").WithBody(" " + answer + "\n"),
	} {
		if _, err := generate(t, step); err != nil {
			t.Errorf("got %v, want the answer: only the body matters", err)
		}
	}
}

// endless is a body without an end, as an io.Reader that costs no memory.
type endless struct{ closed *bool }

func (endless) Read(p []byte) (int, error) { return len(p), nil }
func (b endless) Close() error             { *b.closed = true; return nil }

// maxFailureBody is what a StatusError keeps of a body.
const maxFailureBody = 64 << 10

func TestLargeFailure(t *testing.T) {
	filler := strings.Repeat(" ", maxFailureBody)
	for _, tc := range []struct {
		name, body, want string
	}{
		{"message at the end", `{"a":` + filler + `1,"error":{"message":"slow down"}}`, "slow down"},
		{"no message", "slow" + filler + "down", "slow"},
		{"nothing at the beginning", filler + "slow down", "Too Many Requests"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := generate(t, flaky.Status(429).WithBody(tc.body))
			checkError(t, err, inference.ErrCategoryRateLimit, "HTTP 429: "+tc.want)
			var status *inference.StatusError
			if !errors.As(err, &status) || string(status.Body) != tc.body[:maxFailureBody] {
				t.Errorf("got a *StatusError with %d bytes, want the first %d of the body", len(status.Body), maxFailureBody)
			}
		})
	}
}

func TestLargeResponse(t *testing.T) {
	const limit = 16 << 20
	for _, tc := range []struct {
		name     string
		status   int
		length   int64 // declared; -1: not
		size     int64
		category inference.ErrorCategory
		message  string
	}{
		{"endless success", 200, -1, 1 << 50, inference.ErrCategoryUnknown, "HTTP 200: response body is larger than 16 MiB"},
		{"declared success", 200, limit + 1, limit + 1, inference.ErrCategoryUnknown, "HTTP 200: response body is larger than 16 MiB"},
		{"declared failure", 401, limit + 1, limit + 1, inference.ErrCategoryAuth, "HTTP 401: response body is larger than 16 MiB"},
		{"as large as may be", 401, -1, limit, inference.ErrCategoryAuth, "HTTP 401: " + strings.Repeat("\x00", 1024) + "…"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			closed := false
			client := newClient(t, inference.HTTPInferenceClientConfig{
				BaseURL: fakeURL,
				Transport: roundTripFunc(func(req *http.Request) (*http.Response, error) {
					req.Body.Close()
					body := endless{&closed}
					return &http.Response{
						StatusCode: tc.status, Header: http.Header{}, ContentLength: tc.length, Request: req,
						Body: struct {
							io.Reader
							io.Closer
						}{io.LimitReader(body, tc.size), body},
					}, nil
				}),
			})
			_, err := client.Generate(t.Context(), question())
			checkError(t, err, tc.category, tc.message)
			var status *inference.StatusError
			if !errors.As(err, &status) || cap(status.Body) > 2*maxFailureBody {
				t.Errorf("got a *StatusError that keeps %d bytes, want at most %d", cap(status.Body), maxFailureBody)
			}
			if !closed {
				t.Error("the response body was not closed")
			}
		})
	}
}
