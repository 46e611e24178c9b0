package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	_ "embed"

	"github.com/httpretry/httpretry/flaky"
)

//go:embed sample.jsonl
var sampleRequests []byte

func sampleInput() *input {
	return &input{name: "sample.jsonl", src: bytes.NewReader(sampleRequests), close: func() error { return nil }}
}

// newDemoOutput creates a temporary file, so that a demonstration leaves nothing
// in the working directory. The file is not removed, because its answers are the
// result of the demonstration.
func newDemoOutput() (string, error) {
	f, err := os.CreateTemp("", "batchinfer-output-*.jsonl")
	if err != nil {
		return "", err
	}
	return f.Name(), f.Close()
}

// demoConfig returns backoffs for an endpoint that recovers within a second, and
// more retries than the demo has failures for any request.
func demoConfig() config {
	c := defaultConfig()
	c.maxRetries = maxDemoFaults + maxDemoLimits + 1
	c.initialBackoff = 50 * time.Millisecond
	c.maxBackoff = 2 * time.Second
	c.requestTimeout = 10 * time.Second
	return c
}

const (
	demoWindow    = time.Second // of the rate limit
	demoQuota     = 80          // requests in a window
	maxDemoFaults = 3           // in the script of a request
	maxDemoLimits = 4           // refusals of one request by the rate limit
)

// A demo is an endpoint on loopback that responds like a model. It has a rate
// limit, and for some requests a script of failures.
type demo struct {
	url    string
	server *http.Server
	served chan struct{}

	mu     sync.Mutex
	window time.Time // start of the current window
	used   int       // requests in the current window
	visits map[string]*visits
}

// visits are the attempts of one request.
type visits struct {
	limited int          // refusals by the rate limit
	script  []flaky.Step // failures to come
}

// startDemo starts the endpoint.
func startDemo() (*demo, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &demo{
		url:    "http://" + l.Addr().String(),
		served: make(chan struct{}),
		visits: make(map[string]*visits),
	}
	d.server = &http.Server{
		Handler:  flaky.Func(d.step).Handler(http.HandlerFunc(generate)),
		ErrorLog: log.New(io.Discard, "", 0),
	}
	go func() {
		defer close(d.served)
		d.server.Serve(l)
	}()
	return d, nil
}

func (d *demo) close() {
	d.server.Close()
	<-d.served
}

// step returns the behavior of the endpoint for one attempt.
func (d *demo) step(_ int, r *http.Request) flaky.Step {
	d.mu.Lock()
	defer d.mu.Unlock()
	id := r.Header.Get("X-Request-ID")
	v := d.visits[id]
	if v == nil {
		v = &visits{script: script(id)}
		d.visits[id] = v
	}
	now := time.Now()
	if now.Sub(d.window) >= demoWindow {
		d.window, d.used = now, 0
	}
	if d.used++; d.used > demoQuota && v.limited < maxDemoLimits {
		v.limited++
		return tooMany(v.limited, d.window.Add(demoWindow).Sub(now))
	}
	if len(v.script) == 0 {
		return flaky.Pass().After(latency(id))
	}
	step := v.script[0]
	v.script = v.script[1:]
	return step
}

// tooMany returns a refusal that asks for a wait, in seconds the first time and
// then in milliseconds. Gateways do both.
func tooMany(times int, wait time.Duration) flaky.Step {
	step := flaky.Status(http.StatusTooManyRequests).
		WithHeader("Content-Type", "application/json").
		WithBody(`{"error":{"message":"Rate limit reached","type":"requests","code":"rate_limit_exceeded"}}`)
	if times == 1 {
		return step.WithHeader("Retry-After", "1")
	}
	return step.WithHeader("retry-after-ms", fmt.Sprint(wait.Milliseconds()+1))
}

// script returns the failures of a request, the same in every run. Three of ten
// requests have some.
func script(id string) []flaky.Step {
	unavailable := flaky.Status(http.StatusServiceUnavailable).
		WithHeader("Content-Type", "application/json").
		WithBody(`{"error":{"message":"The engine is overloaded","type":"server_error","code":503}}`)
	broken := flaky.Status(http.StatusInternalServerError)
	reset := flaky.Reset()
	truncated := flaky.Pass().Truncate(100)
	switch n := number(id) % 100; {
	case n < 3:
		return []flaky.Step{unavailable}
	case n < 12:
		return []flaky.Step{broken}
	case n < 19:
		return []flaky.Step{reset}
	case n < 25:
		return []flaky.Step{truncated}
	case n < 28:
		return []flaky.Step{broken, truncated}
	case n < 30:
		return []flaky.Step{reset, truncated, broken}
	}
	return nil
}

// latency returns the time until the endpoint responds.
func latency(id string) time.Duration {
	return time.Duration(20+number(id)%40) * time.Millisecond
}

func number(id string) uint32 {
	h := fnv.New32a()
	io.WriteString(h, id)
	return h.Sum32()
}

// generate responds like a model that repeats its prompt.
func generate(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Model    string `json:"model"`
		Prompt   string `json:"prompt"`
		Messages []struct {
			Content string `json:"content"`
		} `json:"messages"`
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"message": err.Error()}})
		return
	}
	text := req.Prompt
	choice := map[string]any{"index": 0, "finish_reason": "stop"}
	if n := len(req.Messages); n > 0 {
		text = req.Messages[n-1].Content
	}
	reply := "You said: " + text
	object := "text_completion"
	if len(req.Messages) > 0 {
		object = "chat.completion"
		choice["message"] = map[string]any{"role": "assistant", "content": reply}
	} else {
		choice["text"] = reply
	}
	in, out := len(strings.Fields(text)), len(strings.Fields(reply))
	json.NewEncoder(w).Encode(map[string]any{
		"id":      "demo-" + r.Header.Get("X-Request-ID"),
		"object":  object,
		"created": time.Now().Unix(),
		"model":   req.Model,
		"choices": []any{choice},
		"usage":   map[string]any{"prompt_tokens": in, "completion_tokens": out, "total_tokens": in + out},
	})
}
