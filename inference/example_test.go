package inference_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/flaky"
	"github.com/httpretry/httpretry/inference"
)

func ExampleHTTPInferenceClient() {
	gateway := httptest.NewServer(flaky.New(
		flaky.Status(200).WithBody(`{"choices":[{"message":{"role":"assistant","content":"Four."}}]}`),
	).Handler(nil))
	defer gateway.Close()

	client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{BaseURL: gateway.URL})
	defer client.CloseIdleConnections()

	resp, err := client.Generate(context.Background(), &inference.InferenceRequest{
		RequestID: "sum-1",
		Model:     "small",
		Params: map[string]any{
			"messages": []map[string]any{{"role": "user", "content": "What is two plus two?"}},
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s: %s\n", resp.RequestID, resp.Response)
	// Output: sum-1: {"choices":[{"message":{"role":"assistant","content":"Four."}}]}
}

// Transient failures are retried if MaxRetries is set.
func ExampleHTTPInferenceClient_withRetry() {
	script := flaky.New(
		flaky.Status(429),
		flaky.Reset(),
		flaky.Status(200).WithBody(`{"choices":[{"text":"Four."}]}`),
	)
	gateway := httptest.NewServer(script.Handler(nil))
	defer gateway.Close()

	client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
		BaseURL:        gateway.URL,
		MaxRetries:     3,
		InitialBackoff: time.Millisecond, // the default of 1 s suits real gateways
	})
	defer client.CloseIdleConnections()

	resp, err := client.Generate(context.Background(), &inference.InferenceRequest{
		Model:  "small",
		Params: map[string]any{"prompt": "Two plus two is"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("after %d attempts: %s\n", len(script.Requests()), resp.Response)
	// Output: after 3 attempts: {"choices":[{"text":"Four."}]}
}

// The waits grow from InitialBackoff by BackoffFactor up to MaxBackoff.
func ExampleHTTPInferenceClient_customBackoff() {
	gateway := flaky.New(
		flaky.Status(503), flaky.Status(503), flaky.Status(503),
		flaky.Status(200).WithBody(`{"choices":[{"text":"Four."}]}`),
	)
	client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
		BaseURL:        "http://gateway.test",
		MaxRetries:     5,
		InitialBackoff: 2 * time.Millisecond,
		MaxBackoff:     10 * time.Millisecond,
		BackoffFactor:  3,
		JitterFraction: 0.01,
		Transport:      gateway.Transport(nil),
		OnAttempt: func(a httpretry.Attempt, d httpretry.Decision) {
			if d.Retry {
				fmt.Printf("attempt %d: %s, next in about %v\n",
					a.Number, a.Response.Status, d.Delay.Round(time.Millisecond))
			}
		},
	})
	if _, err := client.Generate(context.Background(), &inference.InferenceRequest{Model: "small"}); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("done")
	// Output:
	// attempt 1: 503 Service Unavailable, next in about 2ms
	// attempt 2: 503 Service Unavailable, next in about 6ms
	// attempt 3: 503 Service Unavailable, next in about 10ms
	// done
}

// A request can be sent to any path of the gateway.
func ExampleInferenceRequest_path() {
	gateway := httptest.NewServer(flaky.New(
		flaky.Status(200).WithBody(`{"object":"list","data":[{"index":0,"embedding":[0.25,-0.5]}]}`),
	).Handler(nil))
	defer gateway.Close()

	client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{BaseURL: gateway.URL})
	defer client.CloseIdleConnections()

	resp, err := client.Generate(context.Background(), &inference.InferenceRequest{
		Path: "/v1/embeddings",
		Body: json.RawMessage(`{"model":"small","input":"two plus two"}`),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", resp.Response)
	// Output: {"object":"list","data":[{"index":0,"embedding":[0.25,-0.5]}]}
}

// Category classifies an error, and RawError has the details.
func ExampleInferenceError() {
	gateway := flaky.New(flaky.Status(429).WithBody(`{"error":{"message":"Rate limit reached","code":"rate_limit_exceeded"}}`))
	client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
		BaseURL:   "http://gateway.test",
		Transport: gateway.Transport(nil),
	})
	_, err := client.Generate(context.Background(), &inference.InferenceRequest{Model: "small"})
	if err == nil {
		return
	}
	fmt.Println(err.Category, err.IsRetryable())
	fmt.Println(err.Message)
	var status *inference.StatusError
	if errors.As(err, &status) {
		fmt.Println(status.StatusCode)
	}
	// Output:
	// RATE_LIMIT true
	// HTTP 429: Rate limit reached
	// 429
}

func ExampleHTTPInferenceClientConfig_Validate() {
	config := inference.HTTPInferenceClientConfig{
		BaseURL: "http://localhost:8000",
		Timeout: -time.Second,
	}
	fmt.Println(config.Validate())
	// Output: inference: invalid Timeout -1s: must not be negative
}
