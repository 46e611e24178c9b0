package inference_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/httpretry/httpretry"
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
		{"JSON array", `[{"error":{"message":"slow down"}}]`, "slow down"},
		{"without an envelope", `{"object":"error","message":"slow down","code":429}`, "slow down"},
		{"long JSON", `{"error":{"message":"slow down"},"input":"` + strings.Repeat("x", 300<<10) + `"}`, "slow down"},
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
			if !errors.As(err, &status) || string(status.Body) != tc.body[:min(len(tc.body), 64<<10)] {
				t.Errorf("got %#v, want a *StatusError with the body as it came", err.RawError)
			}
			if want := "HTTP 429 Too Many Requests"; status.Error() != want {
				t.Errorf("StatusError: got %s, want %s: without the body", status.Error(), want)
			}
		})
	}
}

// TestErrorBody_ContentType has the same error under each Content-Type, as JSON and as
// an event.
func TestErrorBody_ContentType(t *testing.T) {
	const refusal = `{"error":{"message":"slow down","code":429}}`
	for _, mediaType := range []string{
		"", "application/json", "application/problem+json; charset=utf-8", "text/plain", "text/html", "text/event-stream",
		"Text/Event-Stream;charset=utf-8", "application/x-ndjson", "application/octet-stream", "no/such type; ;",
	} {
		for _, body := range []string{refusal, "\uFEFF" + refusal, "\n" + refusal + "\n", sse(refusal), "\uFEFF\r\nevent: error\r\ndata: " + refusal + "\r\n\r\n", "data: " + refusal} {
			for _, status := range []int{200, 429} {
				for method, ask := range methods {
					step := flaky.Status(status).WithHeader("Content-Type", mediaType).WithBody(body)
					client := newClient(t, inference.HTTPInferenceClientConfig{BaseURL: fakeURL, Transport: flaky.New(step).Transport(nil)})
					if err := ask(t, client); err == nil || err.Category != inference.ErrCategoryRateLimit || err.Message != "HTTP 429: slow down" {
						t.Errorf("%s, %d, %q, %q: got %v, want HTTP 429: slow down", method, status, mediaType, body, err)
					}
				}
			}
		}
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

// TestAnswerErrorThatComesOnce has a body that returns its error only once.
func TestAnswerErrorThatComesOnce(t *testing.T) {
	answers := &body{results: []any{answer, syscall.ECONNRESET}}
	client := newClient(t, inference.HTTPInferenceClientConfig{
		BaseURL: fakeURL,
		Transport: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			req.Body.Close()
			return &http.Response{StatusCode: 200, ContentLength: -1, Header: http.Header{}, Body: answers}, nil
		}),
	})
	if got, err := client.Generate(t.Context(), question()); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v and %v, want the reset", got, err)
	}
	if !answers.closed.Load() {
		t.Error("the body that broke off was not closed")
	}
}

// TestGenerate_RetriesASuccessWithoutAnAnswer has bodies that proxies and gateways
// return temporarily.
func TestGenerate_RetriesASuccessWithoutAnAnswer(t *testing.T) {
	ok := func(body string) flaky.Step {
		return flaky.Status(200).WithHeader("Content-Type", "application/json").WithBody(body)
	}
	const noJSON, noAnswer = "HTTP 200: response is not JSON (application/json)", "HTTP 200: response has no answer (application/json)"
	for _, tc := range []struct {
		name     string
		step     flaky.Step
		message  string
		attempts int
	}{
		{"a page", flaky.Status(200).WithHeader("Content-Type", "text/html; charset=utf-8").WithBody("<html>"), "HTTP 200: response is not JSON (text/html)", 3},
		{"half an answer", ok(answer[:9]), noJSON, 3},
		{"all of an answer but a byte", ok(answer[:len(answer)-1]), noJSON, 3},
		{"two answers", ok(answer + answer), noJSON, 3},
		{"no body", flaky.Status(204), "HTTP 204: response is not JSON (no Content-Type)", 3},
		{"empty body", ok(""), noJSON, 3},
		{"empty object", ok("{}"), noAnswer, 3},
		{"null", ok("null"), noAnswer, 3},
		{"string", ok(`"x"`), noAnswer, 3},
		{"number", ok("1"), noAnswer, 3},
		{"list", ok("[ ]"), noAnswer, 3},
		{"empty string", ok(`""`), noAnswer, 3},
		{"no choices", ok(`{"id":"1","choices":[],"usage":{"total_tokens":1}}`), noAnswer, 3},
		{"choices that are null", ok(`{"id":"1","choices":null}`), noAnswer, 3},
		{"a choice with nothing in it", ok(`{"id":"1","choices":[{"index":0,"message":{"role":"assistant","content":""}}]}`), noAnswer, 3},
		{"error that is null", ok(`{"error":null}`), noAnswer, 3},
		{"MiniMax", ok(`{"id":"1","base_resp":{"status_code":1002,"status_msg":"rate limit"}}`), "HTTP 429: rate limit", 3},
		{"MiniMax without a balance", ok(`{"choices":null,"base_resp":{"status_code":1008,"status_msg":"insufficient balance"}}`), "HTTP 402: insufficient balance", 1},
		{"MiniMax with another error", ok(`{"choices":[],"base_resp":{"status_code":1013,"status_msg":"no"}}`), "HTTP 500: no", 3},
		{"success that is false", ok(`{"success":false}`), `HTTP 500: {"success":false}`, 3},
		{"error as an event stream", flaky.Status(200).WithHeader("Content-Type", "text/event-stream").WithBody(anthropicOverloaded), "HTTP 529: Overloaded", 3},
		{"Cloudflare", ok(`{"success":false,"errors":[{"code":7009,"message":"no"}],"result":null}`), "HTTP 500: no", 3},
		{"FastAPI", ok(`{"detail":"Internal Server Error"}`), `HTTP 500: {"detail":"Internal Server Error"}`, 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				script := repeat(tc.step)
				client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
					BaseURL: fakeURL, MaxRetries: 2, JitterFraction: noJitter, Transport: script.Transport(nil),
				})
				start := time.Now()
				_, err := client.Generate(t.Context(), question())
				if err == nil || err.Message != tc.message {
					t.Errorf("got %v, want %s", err, tc.message)
				}
				if n := len(script.Requests()); n != tc.attempts {
					t.Errorf("got %d attempts, want %d", n, tc.attempts)
				}
				wait := map[int]time.Duration{1: 0, 3: 3 * time.Second}[tc.attempts]
				if elapsed := time.Since(start); elapsed != wait {
					t.Errorf("took %v, want %v", elapsed, wait)
				}
			})
		})
	}
}

// TestGenerate_AnswersOfOtherPaths has answers without choices. Of a path whose
// answers are not known, all JSON is an answer, unless it describes an error.
func TestGenerate_AnswersOfOtherPaths(t *testing.T) {
	const noJSON = "HTTP 200: response is not JSON (application/json)"
	for _, tc := range []struct {
		name, path, body string
		message          string // "": an answer
	}{
		{"embeddings", "/v1/embeddings", `{"object":"list","data":[{"object":"embedding","index":0,"embedding":[1]}],"usage":{"total_tokens":1}}`, ""},
		{"responses", "/v1/responses", `{"object":"response","status":"completed","error":null,"output":[]}`, ""},
		{"moderations", "/v1/moderations", `{"id":"1","results":[{"flagged":false}]}`, ""},
		{"rerank", "/v1/rerank", `{"results":[]}`, ""},
		{"score", "/score?a=b", `{"data":[]}`, ""},
		{"list", "/pooling", `[]`, ""},
		{"empty object", "/v1/x", `{}`, ""},
		{"null", "/v1/x", `null`, ""},
		{"choices", "/v1/x", `{"choices":[]}`, ""},
		{"error", "/v1/embeddings", `{"error":{"message":"no","code":503}}`, "HTTP 503: no"},
		{"error that the status of a response tells", "/v1/responses", `{"status":"failed","error":{"message":"no","code":"server_error"},"output":[]}`, "HTTP 500: no"},
		{"empty body", "/v1/embeddings", ``, noJSON},
		{"cut off", "/v1/embeddings", `{"object":"list","data":[`, noJSON},
		{"chat", "/v1/chat/completions", `{"choices":[]}`, "HTTP 200: response has no answer (application/json)"},
		{"chat of a deployment", "/openai/deployments/m/chat/completions?api-version=1", `{}`, "HTTP 200: response has no answer (application/json)"},
		{"completions", "/v1/completions", `null`, "HTTP 200: response has no answer (application/json)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			script := repeat(flaky.Status(200).WithHeader("Content-Type", "application/json").WithBody(tc.body))
			client := newClient(t, inference.HTTPInferenceClientConfig{
				BaseURL: fakeURL, MaxRetries: 1, InitialBackoff: 1, Transport: script.Transport(nil),
			})
			got, err := client.Generate(t.Context(), &inference.InferenceRequest{Path: tc.path})
			if tc.message == "" {
				if err != nil || string(got.Response) != tc.body {
					t.Errorf("got %v, want the body as it came", err)
				}
				return
			}
			checkError(t, err, inference.ErrCategoryServer, tc.message)
			if n := len(script.Requests()); n != 2 {
				t.Errorf("got %d attempts, want 2", n)
			}
		})
	}
}

var methods = map[string]func(*testing.T, *inference.HTTPInferenceClient) *inference.InferenceError{
	"Generate": func(t *testing.T, c *inference.HTTPInferenceClient) *inference.InferenceError {
		_, err := c.Generate(t.Context(), question())
		return err
	},
	"Stream": func(t *testing.T, c *inference.HTTPInferenceClient) *inference.InferenceError {
		_, _, err := collect(t, c.Stream(t.Context(), question()))
		return err
	},
}

// TestErrorInASuccess has gateways that send a 200 before they know the outcome.
func TestErrorInASuccess(t *testing.T) {
	const s = time.Second
	const server, rate = inference.ErrCategoryServer, inference.ErrCategoryRateLimit
	const choiceFailed = `{"choices":[{"index":0,"message":{"role":"assistant","content":""},"finish_reason":"error","error":{"code":503,"message":"no"}}]}`
	for _, tc := range []struct {
		name     string
		body     string
		category inference.ErrorCategory
		message  string
		starts   []time.Duration
	}{
		{"OpenRouter", `{"error":{"message":"Provider returned error","code":502},"user_id":"u"}`, server, "HTTP 502: Provider returned error", []time.Duration{0, s}},
		{"overloaded", anthropicOverloaded, server, "HTTP 529: Overloaded", []time.Duration{0, s}},
		{"rate, and when to come back", geminiRate, rate, "HTTP 429: Quota exceeded", []time.Duration{0, 34070 * time.Millisecond}},
		{"in an array", "[" + geminiRate + "]", rate, "HTTP 429: Quota exceeded", []time.Duration{0, 34070 * time.Millisecond}},
		{"quota", openAIQuota, rate, "HTTP 429: You exceeded your current quota", []time.Duration{0}},
		{"no key", `{"error":{"message":"no","code":"invalid_api_key"}}`, inference.ErrCategoryAuth, "HTTP 401: no", []time.Duration{0}},
		{"bad request", `{"error":{"message":"no","code":"400"}}`, inference.ErrCategoryInvalidReq, "HTTP 400: no", []time.Duration{0}},
		{"beside others that are null", `{"choices":null,"x_groq":{"error" : null},"error":{"message":"no","code":503}}`, server, "HTTP 503: no", []time.Duration{0, s}},
		{"another of its own", `{"error":{"message":"no","type":"x"}}`, server, "HTTP 500: no", []time.Duration{0, s}},
		{"a string", `{"error":"no"}`, server, "HTTP 500: no", []time.Duration{0, s}},
		{"without an envelope", `{"object":"error","message":"no","code":503}`, server, "HTTP 503: no", []time.Duration{0, s}},
		{"by its type alone", `{"message":"no","type":"overloaded_error"}`, server, "HTTP 529: no", []time.Duration{0, s}},
		{"beside no choices", `{"choices":[],"usage":{"total_tokens":1},"error":{"message":"no","code":503}}`, server, "HTTP 503: no", []time.Duration{0, s}},
		{"beside choices that are null", `{"choices":null,"error":{"message":"no","code":503}}`, server, "HTTP 503: no", []time.Duration{0, s}},
		{"of a choice that brings nothing", choiceFailed, server, "HTTP 503: no", []time.Duration{0, s}},
		{"of a choice with a part of the answer", `{"choices":[{"message":{"content":"fo"},"finish_reason":"error","error":{"code":502,"message":"no"}}]}`, server, "HTTP 502: no", []time.Duration{0, s}},
		{"of one of two choices", `{"choices":[{"text":"four"},{"text":"","finish_reason":"error","error":{"code":502,"message":"no"}}]}`, server, "HTTP 502: no", []time.Duration{0, s}},
		{"written for humans", "\n{\n  \"error\" : {\n\"message\":\"no\",\n\"code\":503\n}\n}\n", server, "HTTP 503: no", []time.Duration{0, s}},
		{"quotes the prompt", `{"error":{"message":"What is two plus two? No.","code":503}}`, server, "HTTP 503: [redacted] No.", []time.Duration{0, s}},
	} {
		for method, ask := range methods {
			t.Run(tc.name+"/"+method, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					script := repeat(flaky.Status(200).WithHeader("Content-Type", "application/json").WithBody(tc.body))
					err := ask(t, inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
						BaseURL: fakeURL, MaxRetries: 1, JitterFraction: noJitter, Transport: script.Transport(nil),
						OnAttempt: func(a httpretry.Attempt, _ httpretry.Decision) {
							status, ok := errors.AsType[*inference.StatusError](a.Err)
							if !ok || status.StatusCode == 200 || string(status.Body) != tc.body {
								t.Errorf("OnAttempt got %v and %v, want a *StatusError with the status of the error", a.Response, a.Err)
							}
						},
					}))
					checkError(t, err, tc.category, tc.message)
					var status *inference.StatusError
					if !errors.As(err, &status) || string(status.Body) != tc.body {
						t.Errorf("got %#v, want a *StatusError with the body as it came", err.RawError)
					}
					if diff := cmp.Diff(tc.starts, starts(script)); diff != "" {
						t.Errorf("starts of the attempts (-want +got):\n%s", diff)
					}
				})
			})
		}
	}
}

// TestGenerate_RefusalAsAnEventStream has gateways that label a 200 without an
// answer as the stream that was not asked for, or send an error as an event.
func TestGenerate_RefusalAsAnEventStream(t *testing.T) {
	const server, rate, noJSON = inference.ErrCategoryServer, inference.ErrCategoryRateLimit, "HTTP 200: response is not JSON (text/event-stream)"
	const slow = `{"error":{"message":"slow down","code":429}}`
	frame := func(text string) flaky.Step {
		return flaky.Status(200).WithHeader("Content-Type", "text/event-stream").WithBody(text)
	}
	for _, tc := range []struct {
		name     string
		step     flaky.Step
		category inference.ErrorCategory
		message  string
		body     string
		attempts int
	}{
		{"nothing", frame(""), server, noJSON, "", 3},
		{"page", frame("<html>busy</html>"), server, noJSON, "<html>busy</html>", 3},
		{"[DONE]", frame(sse("[DONE]")), server, noJSON, "data: [DONE]", 3},
		{"part of an answer", frame(sse(fo)), server, noJSON, sse(fo), 3},
		{"rate limit", frame(sse(slow)), rate, "HTTP 429: slow down", slow, 3},
		{"rate limit with a name", frame("event: error\n" + sse(slow)), rate, "HTTP 429: slow down", slow, 3},
		{"rate limit without a blank line", frame("data: " + slow), rate, "HTTP 429: slow down", slow, 3},
		{"rate limit, and the stream stays open", frame(sse(slow)+": ping\n").Slow(len(sse(slow)), time.Hour), rate, "HTTP 429: slow down", slow, 3},
		{"text with a name", frame("event: error\ndata: busy\n\n"), server, "HTTP 500: busy", "busy", 3},
		{"overloaded after keep-alives", frame(": ping\n\nevent: ping\ndata: {}\n\n" + sse(anthropicOverloaded)), server, "HTTP 529: Overloaded", anthropicOverloaded, 3},
		{"bad request", frame(sse(`{"error":{"message":"no","code":400}}`)), inference.ErrCategoryInvalidReq, "HTTP 400: no", `{"error":{"message":"no","code":400}}`, 1},
		{"quota", frame(sse(openAIQuota)), rate, "HTTP 429: You exceeded your current quota", openAIQuota, 1},
		{"quota that is labelled as JSON", ok().WithBody(sse(openAIQuota)), rate, "HTTP 429: You exceeded your current quota", openAIQuota, 1},
		{"quota without a label", flaky.Status(200).WithBody("\uFEFF\nevent: error\n" + sse(openAIQuota)), rate, "HTTP 429: You exceeded your current quota", openAIQuota, 1},
		{
			"stream that would go on for hours",
			flaky.Status(200).WithHeader("Content-Type", "Text/Event-Stream; charset=utf-8").WithBody("data: 1\n\n").Slow(1, time.Hour),
			server, "HTTP 200: response is not JSON (Text/Event-Stream)", "d", 3,
		},
		{"keep-alives without end", frame(": ping\n\n").Slow(1, time.Second), server, noJSON, ": ping", 3},
		{"comments of a megabyte", frame(strings.Repeat(": ping\n", 150_000) + sse(slow)), server, noJSON, strings.Repeat(": ping\n", 10_000)[:64<<10], 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				script, start := repeat(tc.step), time.Now()
				_, err := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
					BaseURL: fakeURL, MaxRetries: 2, JitterFraction: noJitter, Transport: script.Transport(nil),
				}).Generate(t.Context(), question())
				checkError(t, err, tc.category, tc.message)
				status, ok := errors.AsType[*inference.StatusError](err)
				if !ok || strings.TrimSpace(string(status.Body)) != strings.TrimSpace(tc.body) {
					t.Errorf("got %#v, want a *StatusError with the body %.100q", err.RawError, tc.body)
				}
				if n := len(script.Requests()); n != tc.attempts {
					t.Errorf("got %d attempts, want %d", n, tc.attempts)
				}
				if elapsed := time.Since(start); elapsed > 18*time.Second {
					t.Errorf("took %v, want at most 5 s for each attempt and the waits between them", elapsed)
				}
			})
		})
	}
}

// TestAnswerAfterEmptyLines has the keep-alive of DeepSeek.
func TestAnswerAfterEmptyLines(t *testing.T) {
	for _, mediaType := range []string{"text/event-stream", "application/json", "text/plain"} {
		for _, before := range []string{strings.Repeat("\n", 5000), strings.Repeat("\r\n", 1<<20), "\uFEFF" + strings.Repeat(" \n", 4095)} {
			for method, ask := range methods {
				t.Run(method+"/"+mediaType, func(t *testing.T) {
					step := flaky.Status(200).WithHeader("Content-Type", mediaType).WithBody(before + answer)
					client := newClient(t, inference.HTTPInferenceClientConfig{BaseURL: fakeURL, Transport: flaky.New(step).Transport(nil)})
					if err := ask(t, client); err != nil {
						t.Errorf("%d bytes of empty lines: got %v, want the answer", len(before), err)
					}
				})
			}
		}
	}
}

// TestErrorWithoutAHeader has a transport whose responses have no header.
func TestErrorWithoutAHeader(t *testing.T) {
	for method, ask := range methods {
		client := newClient(t, inference.HTTPInferenceClientConfig{
			BaseURL: fakeURL,
			Transport: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				req.Body.Close()
				return &http.Response{StatusCode: 200, Body: &body{results: []any{anthropicOverloaded}}}, nil
			}),
		})
		t.Run(method, func(t *testing.T) {
			checkError(t, ask(t, client), inference.ErrCategoryServer, "HTTP 529: Overloaded")
		})
	}
}

func TestErrorBesideAnAnswerIsNone(t *testing.T) {
	for _, tc := range []struct{ name, body string }{
		{"null", `{"error":null,"choices":[{"message":{"content":"four"}}]}`},
		{"empty", `{"error":{},"output":"four"}`},
		{"a warning", `{"error":{"message":"slow","code":503},"choices":[{"message":{"content":"four"}}]}`},
		{"a warning beside an empty answer", `{"error":{"code":503},"choices":[{"message":{"content":""},"finish_reason":"stop"}]}`},
		{"after a part of the answer", `{"choices":[{"message":{"content":"fo"},"finish_reason":"error"}]}`},
		{"of one of two choices", `{"choices":[{"text":"","finish_reason":"error"},{"text":"four"}]}`},
		{"in the text", `{"choices":[{"message":{"content":"{\"error\":{\"code\":503}}"}}]}`},
		{"the text", `{"choices":[{"text":"error"}]}`},
		{"of another form", `{"output":"four"}`},
		{"of MiniMax", `{"choices":[{"message":{"content":"four"}}],"base_resp":{"status_code":0,"status_msg":""}}`},
		{"success that is false", `{"success":false,"choices":[{"message":{"content":"four"}}]}`},
		{"very long", `{"error":{"code":503,"message":"` + strings.Repeat("x", 256<<10) + `"}}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := generate(t, flaky.Status(200).WithBody(tc.body))
			if err != nil || string(got.Response) != tc.body {
				t.Errorf("got %v, want the body as it came: an answer must not be lost", err)
			}
		})
	}
}

// TestSwitchedProtocol has a gateway that upgrades the connection without being
// asked, and never sends a byte.
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
		flaky.Status(200).WithHeader("Content-Type", "text/event-stream").WithBody("\n" + answer),
		flaky.Status(200).WithBody(answer),
		flaky.Status(201).WithHeader("Content-Type", "text/plain").WithBody(" " + answer + "\n"),
	} {
		if _, err := generate(t, step); err != nil {
			t.Errorf("got %v, want the answer: only the body matters", err)
		}
	}
}

// endless is an infinite body that takes no memory.
type endless struct{ closed *bool }

func (endless) Read(p []byte) (int, error) { return len(p), nil }
func (b endless) Close() error             { *b.closed = true; return nil }

// maxFailureBody is the size of the body in a StatusError.
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

// TestGenerate_ByteOrderMark has answers and errors after a byte order mark.
func TestGenerate_ByteOrderMark(t *testing.T) {
	got, err := generate(t, flaky.Status(200).WithBody("\uFEFF"+answer))
	if err != nil || string(got.Response) != answer {
		t.Errorf("got %v and %v, want the answer without the mark", got, err)
	}
	_, err = generate(t, flaky.Status(200).WithBody("\uFEFF"+anthropicOverloaded))
	checkError(t, err, inference.ErrCategoryServer, "HTTP 529: Overloaded")
	_, err = generate(t, flaky.Status(400).WithBody("\uFEFF"+`{"error":{"message":"no"}}`))
	checkError(t, err, inference.ErrCategoryInvalidReq, "HTTP 400: no")
	if status, ok := errors.AsType[*inference.StatusError](err); !ok || status.Body[0] != '{' {
		t.Errorf("got %#v, want a body without the mark", err.RawError)
	}
}

// TestGenerate_LargeNumbers has numbers that JSON allows and float64 does not.
func TestGenerate_LargeNumbers(t *testing.T) {
	digits := strings.Repeat("9", 400)
	body := `{"choices":[{"text":"four","n":[1e400,-1e400,` + digits + `,1.5,1e-400]}],"id":7}`
	got, err := generate(t, flaky.Status(200).WithBody(body))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"id": 7.0, "choices": []any{map[string]any{
		"text": "four", "n": []any{json.Number("1e400"), json.Number("-1e400"), json.Number(digits), 1.5, 0.0},
	}}}
	if diff := cmp.Diff(want, got.RawData); diff != "" {
		t.Errorf("RawData (-want +got):\n%s", diff)
	}
	if string(got.Response) != body {
		t.Errorf("Response: got %s, want the body as it came", got.Response)
	}
}

// TestRefusalAsAnEventStream has gateways that label their errors with the
// Content-Type of the requested stream.
func TestRefusalAsAnEventStream(t *testing.T) {
	const s = time.Second
	frame := func(text string) flaky.Step {
		return flaky.Status(429).WithHeader("Content-Type", "text/event-stream").WithBody(text)
	}
	quota := "You exceeded your current quota"
	for _, tc := range []struct {
		name    string
		step    flaky.Step
		message string
		body    string
		starts  []time.Duration // of the attempts; MaxRetries is 1
	}{
		{"JSON", frame(openAIQuota), quota, openAIQuota, []time.Duration{0}},
		{"JSON of several lines", frame("{\n\n" + openAIQuota[1:]), quota, "{\n\n" + openAIQuota[1:], []time.Duration{0}},
		{"an event", frame(sse(openAIQuota)), quota, sse(openAIQuota), []time.Duration{0}},
		{"an event with a name", frame("event: error\ndata: " + openAIQuota + "\n\n"), quota, "event: error\ndata: " + openAIQuota + "\n\n", []time.Duration{0}},
		{"an event without its end", frame("data: " + openAIQuota), quota, "data: " + openAIQuota, []time.Duration{0}},
		{"an event, and the stream stays open", frame(sse(openAIQuota)+": ping\n").Slow(len(sse(openAIQuota)), time.Hour), quota, sse(openAIQuota), []time.Duration{0}},
		{"JSON, and the stream stays open", frame(openAIQuota+" ").Slow(len(openAIQuota), time.Hour), quota, openAIQuota, []time.Duration{0}},
		{"an event after keep-alives", frame(": ping\n\nevent: ping\ndata: {}\n\n" + sse(`{"type":"ping"}`) + sse(openAIQuota)), quota, ": ping\n\nevent: ping\ndata: {}\n\n" + sse(`{"type":"ping"}`) + sse(openAIQuota), []time.Duration{0}},
		{"when to come back", frame(sse(geminiRate)), "Quota exceeded", sse(geminiRate), []time.Duration{0, 34070 * time.Millisecond}},
		{"text", frame("slow down"), "slow down", "slow down", []time.Duration{0, s}},
		{"nothing", frame(""), "Too Many Requests", "", []time.Duration{0, s}},
	} {
		for method, ask := range methods {
			t.Run(tc.name+"/"+method, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					script, start := repeat(tc.step), time.Now()
					err := ask(t, inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
						BaseURL: fakeURL, MaxRetries: 1, JitterFraction: noJitter, Transport: script.Transport(nil),
					}))
					checkError(t, err, inference.ErrCategoryRateLimit, "HTTP 429: "+tc.message)
					status, ok := errors.AsType[*inference.StatusError](err)
					if !ok || status.StatusCode != 429 || string(status.Body) != tc.body {
						t.Errorf("got %#v, want a *StatusError with 429 and the body as it came", err.RawError)
					}
					if elapsed, limit := time.Since(start), tc.starts[len(tc.starts)-1]+5*time.Second; elapsed > limit {
						t.Errorf("took %v, want at most %v", elapsed, limit)
					}
					if diff := cmp.Diff(tc.starts, starts(script)); diff != "" {
						t.Errorf("starts of the attempts (-want +got):\n%s", diff)
					}
				})
			})
		}
	}
}

// TestGenerate_Memory has answers of the maximum size.
func TestGenerate_Memory(t *testing.T) {
	const size = 16 << 20
	for _, tc := range []struct{ name, body string }{
		{"text", `{"choices":[{"text":"` + strings.Repeat("x", size-26) + `"}]}`},
		{"list", `{"choices":[{"text":"x","a":[` + strings.Repeat("0,", size/2-20) + `0]}]}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client := newClient(t, inference.HTTPInferenceClientConfig{
				BaseURL: fakeURL, OmitRawData: true,
				Transport: roundTripFunc(func(req *http.Request) (*http.Response, error) {
					req.Body.Close()
					return &http.Response{
						StatusCode: 200, ContentLength: int64(len(tc.body)), Header: http.Header{}, Body: io.NopCloser(strings.NewReader(tc.body)),
					}, nil
				}),
			})
			allocated := allocatedBy(func() {
				got, err := client.Generate(t.Context(), question())
				if err != nil || len(got.Response) != len(tc.body) || got.RawData != nil {
					t.Errorf("got %v, want the answer without RawData", err)
				}
			})
			if limit := uint64(len(tc.body) * 5 / 4); allocated > limit {
				t.Errorf("an answer of %d MiB took %d MiB, want one buffer", len(tc.body)>>20, allocated>>20)
			}
		})
	}
}

// BenchmarkGenerate_Answer measures Generate without a network. The check of the
// answer must stay a small part of it.
func BenchmarkGenerate_Answer(b *testing.B) {
	body := `{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"small","choices":[{"index":0,"message":` +
		`{"role":"assistant","content":"` + strings.Repeat(`Two plus two is \"four\".\n`, 55) + `","refusal":null},"logprobs":null,"finish_reason":"stop"}],` +
		`"usage":{"prompt_tokens":500,"completion_tokens":300,"total_tokens":800}}`
	client := newClient(b, inference.HTTPInferenceClientConfig{
		BaseURL: fakeURL, OmitRawData: true,
		Transport: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			req.Body.Close()
			return &http.Response{
				StatusCode: 200, Header: http.Header{}, ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body)),
			}, nil
		}),
	})
	req := &inference.InferenceRequest{Params: map[string]any{"prompt": strings.Repeat("What is two plus two? ", 90)}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.Generate(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
}
