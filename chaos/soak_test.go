package chaos_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/httpretry/httpretry/flaky"
	"github.com/httpretry/httpretry/inference"
)

var soakRequests = flag.Int("soak.requests", 10_000, "number of requests of TestSoakInference")

// A soaked is an endpoint that fails in many ways, and its client. Both use
// constant memory.
type soaked struct {
	t      *testing.T
	server *httptest.Server
	client *inference.HTTPInferenceClient

	arrived                    atomic.Int64
	answered, streamed, failed atomic.Int64
}

func newSoaked(t *testing.T) *soaked {
	s := &soaked{t: t}
	s.server = httptest.NewUnstartedServer(s)
	s.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.server.Start()
	t.Cleanup(s.server.Close)
	s.client = inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
		BaseURL: s.server.URL, Timeout: time.Second, StreamIdleTimeout: time.Second,
		MaxRetries: 3, InitialBackoff: time.Millisecond, MaxBackoff: 10 * time.Millisecond,
	})
	t.Cleanup(s.client.CloseIdleConnections)
	return s
}

// ServeHTTP fails every other request, in each of the ways in turn.
func (s *soaked) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	faults := [...]flaky.Step{
		flaky.Status(503).WithHeader("retry-after-ms", "1"),
		flaky.Status(429).WithBody(`{"error":{"message":"slow down","code":"rate_limit_exceeded"}}`),
		flaky.Status(500).WithBody("<html>"),
		flaky.Reset(),
		flaky.Status(503).Early(),
		flaky.Pass().Truncate(10),
		flaky.Pass().Truncate(120),
		flaky.Pass().Slow(40, time.Millisecond),
		flaky.Status(400).WithBody(`{"error":{"message":"no"}}`),
	}
	step := flaky.Pass()
	if n := s.arrived.Add(1); n%2 == 0 {
		step = faults[n/2%int64(len(faults))]
	}
	// A script records its requests, so each call has its own.
	flaky.New(step).Handler(http.HandlerFunc(generate)).ServeHTTP(w, r)
}

// generate responds with a stream or a whole answer, as the request asks.
func generate(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("X-Request-ID") != "stream" {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"choices":[{"message":{"content":"%0200d"}}]}`, 1)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for range 10 {
		fmt.Fprint(w, `data: {"choices":[{"index":0,"delta":{"content":"word "}}]}`, "\n\n")
	}
	fmt.Fprint(w, `data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`, "\n\ndata: [DONE]\n\n")
}

// calls makes n requests and returns when they have left nothing behind.
func (s *soaked) calls(n int) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				switch i % 3 {
				case 0:
					s.generate()
				case 1:
					s.stream(100)
				default:
					s.stream(1) // leaves the stream before its end
				}
			}
		})
	}
	wg.Wait()
	s.client.CloseIdleConnections()
}

func (s *soaked) generate() {
	req := &inference.InferenceRequest{Model: "m", Params: map[string]any{"messages": []string{}}}
	resp, failure := s.client.Generate(context.Background(), req)
	switch {
	case (resp == nil) == (failure == nil):
		s.t.Errorf("got %v and %v, want one of an answer and an error", resp, failure)
	case failure != nil:
		s.failed.Add(1)
	default:
		s.answered.Add(1)
	}
}

// stream reads up to most events.
func (s *soaked) stream(most int) {
	req := &inference.InferenceRequest{RequestID: "stream", Model: "m", Params: map[string]any{"messages": []string{}}}
	text, ended := "", false
	for event, err := range s.client.Stream(context.Background(), req) {
		var failure *inference.InferenceError
		switch {
		case ended:
			s.t.Errorf("an event after the last")
		case err != nil && !errors.As(err, &failure):
			s.t.Errorf("got error %v, want an InferenceError", err)
		case err != nil:
			s.failed.Add(1)
			return
		}
		text, ended = text+event.Text, event.FinishReason != ""
		if most--; most == 0 {
			break
		}
	}
	if ended && len(text) != len("word ")*10 {
		s.t.Errorf("got %q, want 10 words", text)
	}
	s.streamed.Add(1)
}

// Memory does not grow with the number of answers, whole or as streams that end,
// fail or are left early.
func TestSoakInference(t *testing.T) {
	s := newSoaked(t)
	goroutines, files := runtime.NumGoroutine(), openFiles()
	start := time.Now()
	s.calls(*soakRequests / 10)
	warm := s.settled(goroutines, files)
	s.calls(*soakRequests - *soakRequests/10)
	heap := s.settled(goroutines, files)
	t.Logf("%d requests, %d arrivals, %d answers, %d streams, %d failures in %v; the heap went from %d to %d KiB", *soakRequests,
		s.arrived.Load(), s.answered.Load(), s.streamed.Load(), s.failed.Load(), time.Since(start).Round(time.Millisecond), warm>>10, heap>>10)
	if heap > warm+512<<10 {
		t.Errorf("the heap grew from %d to %d KiB after a tenth of the requests", warm>>10, heap>>10)
	}
	if got := s.answered.Load() + s.streamed.Load() + s.failed.Load(); got != int64(*soakRequests) {
		t.Errorf("got %d results, want %d", got, *soakRequests)
	}
	if s.answered.Load() == 0 || s.streamed.Load() == 0 || s.failed.Load() == 0 {
		t.Error("got no answers, no streams or no failures")
	}
}

// settled waits until there are no more goroutines and files than at the start,
// and returns the size of the heap.
func (s *soaked) settled(goroutines, files int) uint64 {
	s.t.Helper()
	const patience = 10 * time.Second
	if n := eventually(patience, goroutines, runtime.NumGoroutine); n > goroutines {
		s.t.Errorf("got %d goroutines, want the %d of the start", n, goroutines)
	}
	if n := eventually(patience, files, openFiles); n > files {
		s.t.Errorf("got %d open files, want the %d of the start", n, files)
	}
	return heapInUse()
}
