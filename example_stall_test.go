package httpretry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/flaky"
)

// A server that falls silent keeps its connection open, so that nothing fails.
// IdleTimeout makes it a failure, after which the download is resumed.
func ExampleRetryTransport_idleTimeout() {
	serve := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"first-edition"`)
		http.ServeContent(w, r, "story.txt", time.Time{}, strings.NewReader("And they lived happily ever after."))
	}
	script := flaky.New(flaky.Pass().Stall(8))
	server := httptest.NewServer(script.Handler(http.HandlerFunc(serve)))
	defer server.Close()

	client := &http.Client{Transport: &httpretry.RetryTransport{
		Policy:          httpretry.RetryConfig{InitialBackoff: time.Millisecond},
		IdleTimeout:     200 * time.Millisecond, // 30 s in practice
		ResumeDownloads: true,
		OnAttempt: func(a httpretry.Attempt, d httpretry.Decision) {
			if a.Err != nil {
				fmt.Println(a.Err)
			}
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
	// httpretry: response body stalled: no byte for 200ms after 8
	// And they lived happily ever after. <nil>
}

// A server that sends a byte now and then is never silent for long. With
// MinBytesPerSecond it is too slow.
func ExampleRetryTransport_minBytesPerSecond() {
	script := flaky.New(flaky.Status(200).WithBody(strings.Repeat("x", 10_000)).Slow(1, 10*time.Millisecond))
	server := httptest.NewServer(script.Handler(nil))
	defer server.Close()

	client := &http.Client{Transport: &httpretry.RetryTransport{
		IdleTimeout:       200 * time.Millisecond, // 30 s in practice
		MinBytesPerSecond: 1000,                   // on average over IdleTimeout
	}}
	resp, err := client.Get(server.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	text, _, _ := strings.Cut(err.Error(), " after")
	fmt.Println(text)
	fmt.Println("timeout:", errors.Is(err, context.DeadlineExceeded))
	// Output:
	// httpretry: response body stalled: fewer than 1000 bytes/s for 200ms
	// timeout: true
}
