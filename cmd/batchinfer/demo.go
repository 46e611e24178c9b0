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
var sample []byte

func sampleInput() *input {
	return &input{name: "sample.jsonl", src: bytes.NewReader(sample), close: func() error { return nil }}
}

// newDemoOutput makes a temporary file, so that nothing is left in the
// directory where somebody wants to see what this program does. It stays: the
// answers are what there is to see.
func newDemoOutput() (string, error) {
	f, err := os.CreateTemp("", "batchinfer-output-*.jsonl")
	if err != nil {
		return "", err
	}
	return f.Name(), f.Close()
}

// demoConfig has waits that suit an endpoint that recovers within a second, and
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
	maxDemoFaults = 3           // in a request's script
	maxDemoLimits = 4           // times that the rate limit turns a request away; then it lets it pass
)

// A demo is an endpoint on loopback that answers like a model, and has bad
// days: a rate limit, and for some requests a script of failures.
type demo struct {
	url    string
	server *http.Server
	served chan struct{}
	quota  int // requests per window

	mu     sync.Mutex
	window time.Time // when the present window began
	used   int       // of the quota
	visits map[string]*visits
}

// visits is what has happened to one request.
type visits struct {
	limited int          // times the rate limit has turned it away
	script  []flaky.Step // what is still to happen to it
}

// startDemo starts the endpoint. Its quota is more than the clients have in
// flight, so that all who were told to come back in the next window get in.
func startDemo(inFlight int) (*demo, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &demo{
		url:    "http://" + l.Addr().String(),
		served: make(chan struct{}),
		quota:  max(100, 2*inFlight),
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

// step decides what happens to a request.
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
	if d.used++; d.used > d.quota && v.limited < maxDemoLimits {
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

// tooMany asks for a wait in each of the two ways that gateways have: whole
// seconds, and milliseconds.
func tooMany(times int, wait time.Duration) flaky.Step {
	step := flaky.Status(http.StatusTooManyRequests).
		WithHeader("Content-Type", "application/json").
		WithBody(`{"error":{"message":"Rate limit reached","type":"requests","code":"rate_limit_exceeded"}}`)
	if times == 1 {
		return step.WithHeader("Retry-After", "1")
	}
	return step.WithHeader("retry-after-ms", fmt.Sprint(wait.Milliseconds()+1))
}

// script is what happens to a request before it is answered, the same in every
// run. Three in ten meet something.
func script(id string) []flaky.Step {
	unavailable := flaky.Status(http.StatusServiceUnavailable).
		WithHeader("Content-Type", "application/json").
		WithBody(`{"error":{"message":"The engine is overloaded","type":"server_error","code":503}}`)
	reset := flaky.Reset()
	truncated := flaky.Pass().Truncate(100)
	switch n := number(id) % 100; {
	case n < 12:
		return []flaky.Step{unavailable}
	case n < 19:
		return []flaky.Step{reset}
	case n < 25:
		return []flaky.Step{truncated}
	case n < 28:
		return []flaky.Step{unavailable, truncated}
	case n < 30:
		return []flaky.Step{reset, truncated, unavailable}
	}
	return nil
}

// latency is how long the model thinks.
func latency(id string) time.Duration {
	return time.Duration(20+number(id)%40) * time.Millisecond
}

func number(id string) uint32 {
	h := fnv.New32a()
	io.WriteString(h, id)
	return h.Sum32()
}

// generate answers as a model would that repeats what it was told.
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
