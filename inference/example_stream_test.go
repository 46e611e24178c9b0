package inference_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/flaky"
	"github.com/httpretry/httpretry/inference"
)

// A Classifier can be used with any client of such an API.
func ExampleClassifier() {
	api := flaky.New(
		flaky.Status(529).WithBody(anthropicOverloaded),
		flaky.Status(429).WithBody(openAIRate).WithHeader("retry-after-ms", "20"),
		flaky.Status(429).WithBody(openAIQuota),
	)
	client := &http.Client{Transport: &httpretry.RetryTransport{
		Base:             api.Transport(nil),
		Policy:           httpretry.RetryConfig{MaxRetries: 5, InitialBackoff: time.Millisecond},
		Classifier:       inference.Classifier,
		MaxResponseBytes: 1 << 20,
		OnAttempt: func(a httpretry.Attempt, d httpretry.Decision) {
			fmt.Println(a.Response.StatusCode, d.Retry, a.Verdict.RetryAfter)
		},
	}}
	resp, err := client.Post("http://api.test/v1/messages", "application/json", strings.NewReader("{}"))
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	// Output:
	// 529 true 0s
	// 429 true 20ms
	// 429 false 0s
}

// events returns a response that streams data.
func events(data ...string) flaky.Step {
	var body string
	for _, d := range data {
		body += "data: " + d + "\n\n"
	}
	return flaky.Status(200).WithHeader("Content-Type", "text/event-stream").WithBody(body)
}

// Failures before the first content are retried, and not visible to the loop.
func ExampleHTTPInferenceClient_Stream() {
	gateway := httptest.NewServer(flaky.New(
		flaky.Status(503),
		events(`{"error":{"message":"Overloaded","type":"overloaded_error"}}`),
		events(
			`{"choices":[{"index":0,"delta":{"role":"assistant"}}]}`,
			`{"choices":[{"index":0,"delta":{"content":"Two plus two"}}]}`,
			`{"choices":[{"index":0,"delta":{"content":" is four."}}]}`,
			`{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`,
			`[DONE]`,
		),
	).Handler(nil))
	defer gateway.Close()

	client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
		BaseURL:           gateway.URL,
		Timeout:           time.Minute, // for an attempt, up to the first content
		StreamIdleTimeout: 20 * time.Second,
		MaxRetries:        3,
		InitialBackoff:    time.Millisecond, // the default of 1 s suits real gateways
	})
	defer client.CloseIdleConnections()

	for event, err := range client.Stream(context.Background(), &inference.InferenceRequest{
		Model: "small",
		Params: map[string]any{
			"messages": []map[string]any{{"role": "user", "content": "What is two plus two?"}},
		},
	}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Print(event.Text)
		if event.FinishReason != "" {
			fmt.Printf("\n(%s)\n", event.FinishReason)
		}
	}
	// Output:
	// Two plus two is four.
	// (stop)
}

// Failures after the first content are not retried. The error has the text received
// so far.
func ExampleStreamError() {
	gateway := flaky.New(events(
		`{"choices":[{"index":0,"text":"Two plus"}]}`,
		`{"choices":[{"index":0,"text":" two"}]}`,
		`{"error":{"message":"out of memory","code":500}}`,
	))
	client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
		BaseURL:    "http://gateway.test",
		MaxRetries: 3,
		Transport:  gateway.Transport(nil),
	})
	req := &inference.InferenceRequest{Params: map[string]any{"prompt": "What is two plus two?"}}
	for _, err := range client.Stream(context.Background(), req) {
		var partial *inference.StreamError
		if errors.As(err, &partial) {
			fmt.Println(err)
			fmt.Printf("%q\n", partial.Text)
		}
	}
	// Output:
	// SERVER_ERROR: HTTP 500: out of memory
	// "Two plus two"
}
