package compat_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/flaky"
	"github.com/httpretry/httpretry/inference"
)

func newServiceTransport() *httpretry.RetryTransport {
	service := &httpretry.RetryTransport{
		Policy:         httpretry.RetryConfig{MaxRetries: 1, InitialBackoff: 100 * time.Millisecond, Jitter: httpretry.FullJitter},
		AttemptTimeout: time.Second, // longer than an answer takes on a bad day
		Budget:         &httpretry.TokenBudget{Ratio: 0.1, MinPerSecond: 1},
	}
	return service
}

func newFleetTransport() *httpretry.RetryTransport {
	fleet := &httpretry.RetryTransport{
		Budget: httpretry.PerHost(func(string) httpretry.Budget {
			return &httpretry.TokenBudget{Ratio: 0.1, MinPerSecond: -1, Burst: 2}
		}),
	}
	return fleet
}

func newBatchTransport() *httpretry.RetryTransport {
	batch := &httpretry.RetryTransport{
		Policy: httpretry.RetryConfig{MaxRetries: 8, Jitter: httpretry.EqualJitter, MaxElapsed: 10 * time.Minute},
	}
	return batch
}

func newLLMTransport() *httpretry.RetryTransport {
	llm := &httpretry.RetryTransport{
		Policy: httpretry.RetryConfig{
			MaxRetries:    5,
			Jitter:        httpretry.EqualJitter,
			MaxRetryAfter: 2 * time.Minute, // the next minute's quota is worth waiting for
		},
		Classifier:       inference.Classifier, // a quota that is used up is final
		MaxResponseBytes: 1 << 20,              // lets it read error bodies
		Budget:           &httpretry.TokenBudget{Ratio: 1, MinPerSecond: 1, Burst: 20},
	}
	return llm
}

// The settings of docs/retry-storms.md limit attempts as the page says: 100
// calls, one every 10 ms, to a service that refuses all of them.
func TestStormSettings(t *testing.T) {
	tests := []struct {
		name     string
		retry    func() *httpretry.RetryTransport
		attempts int
		reason   string
	}{
		{"service", newServiceTransport, 100 + 10 + 10 + 1, "a tenth of the calls, a burst of 10, and one for the second that it takes"},
		{"fleet", newFleetTransport, 100 + 10 + 2, "a tenth of the calls, and a burst of 2"},
		{"batch", newBatchTransport, 9 * 100, "all that the policy allows: the limit is the number of workers"},
		{"LLM", newLLMTransport, 100 + 100 + 20 + 60, "one for each call, a burst of 20, and one for each second that the waits take"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				script := flaky.Func(func(int, *http.Request) flaky.Step { return flaky.Status(http.StatusServiceUnavailable) })
				retry := tt.retry()
				retry.Base = script.Transport(nil)
				if config, ok := retry.Policy.(httpretry.RetryConfig); ok && config.Validate() != nil {
					t.Error(config.Validate())
				}
				var calls sync.WaitGroup
				for range 100 {
					time.Sleep(10 * time.Millisecond)
					calls.Go(func() { post(t, retry) })
				}
				calls.Wait()
				if got := len(script.Requests()); got > tt.attempts || got <= 100 {
					t.Errorf("got %d attempts, want more than 100 and at most %d: %s", got, tt.attempts, tt.reason)
				}
			})
		})
	}
}

func post(t *testing.T, retry http.RoundTripper) {
	resp, err := (&http.Client{Transport: retry}).Post("http://example.com", "text/plain", strings.NewReader("a question"))
	if err != nil {
		t.Error(err)
		return
	}
	resp.Body.Close()
}
