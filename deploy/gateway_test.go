package deploy

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// A gateway answers each request with its prompt, and fails the first attempt of every
// tenth.
type gateway struct {
	*httptest.Server
	admit func(r *http.Request, prompt string) // nil, or waits before a request is answered

	mu       sync.Mutex
	attempts map[string]int // by prompt
}

func newGateway(t *testing.T, admit func(*http.Request, string)) *gateway {
	t.Helper()
	g := &gateway{admit: admit, attempts: make(map[string]int)}
	g.Server = httptest.NewServer(g)
	t.Cleanup(g.Close)
	return g
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Messages []struct{ Content string }
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || len(body.Messages) != 1 {
		http.Error(w, "not a request of the test", http.StatusBadRequest)
		return
	}
	prompt := body.Messages[0].Content
	if g.admit != nil {
		g.admit(r, prompt)
	}
	g.mu.Lock()
	g.attempts[prompt]++
	fails := g.attempts[prompt] == 1 && strings.HasSuffix(prompt, "0")
	g.mu.Unlock()
	if fails {
		http.Error(w, "try again", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"choices": [{"message": {"role": "assistant", "content": %q}}]}`, "re: "+prompt)
}

// writeRequests writes an input of n requests, and returns its name.
func writeRequests(t *testing.T, name string, n int) {
	t.Helper()
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, `{"custom_id": "r%d", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": [{"role": "user", "content": "prompt %[1]d"}]}}`+"\n", i)
	}
	writeFile(t, name, text.String())
}

// verifyAnswers reports each request of writeRequests that does not have its answer in
// the output exactly once.
func verifyAnswers(t *testing.T, name string, n int) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	count := make(map[string]int)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var line struct {
			ID       string `json:"custom_id"`
			Response struct {
				Body struct {
					Choices []struct{ Message struct{ Content string } }
				}
			}
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatalf("%s: %v in %s", name, err, lines.Text())
		}
		count[line.ID]++
		if c := line.Response.Body.Choices; len(c) != 1 || c[0].Message.Content != "re: prompt "+strings.TrimPrefix(line.ID, "r") {
			t.Errorf("got another answer: %s", lines.Text())
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if id := fmt.Sprintf("r%d", i); count[id] != 1 {
			t.Errorf("%s has %d answers, want 1", id, count[id])
		}
	}
	if len(count) != n {
		t.Errorf("got answers to %d requests, want %d", len(count), n)
	}
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// freePort returns a port of 127.0.0.1 that nobody listens to at the moment.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// eventually waits until a condition is true.
func eventually(t *testing.T, limit time.Duration, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, limit)
		}
	}
}
