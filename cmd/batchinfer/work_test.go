package main

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/natsqueue"
	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

// A shared buffer may be written to and read concurrently.
type sharedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *sharedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *sharedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// startQueue starts a server within the process, and connects to it.
func startQueue(t *testing.T) (*natsqueue.Server, queue.Queue) {
	t.Helper()
	s, err := natsqueue.Serve("127.0.0.1:0", t.TempDir(), "me:p4ssw0rd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	q, err := natsqueue.Dial(t.Context(), natsqueue.Options{URL: s.URL(), Credentials: "me:p4ssw0rd"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	return s, q
}

// The worker of the command line answers the requests of a real queue, keeps to the
// limits that it shares, and ends with status 0 after a signal.
func TestWork(t *testing.T) {
	s, q := startQueue(t)
	var now, most atomic.Int32
	g := newGateway(t, func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(5 * time.Millisecond)
		return false
	})
	h, err := q.Open(t.Context(), queue.Job{Name: "night", Window: 1000, DeadAfter: 5 * time.Second, MaxDeaths: 3, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	job := &jobOf{head: h, results: make(map[string][]wireResult), lines: make(map[string]answer)}
	for _, id := range []string{"a", "b", "c", "d", "e", "f"} {
		job.handOut(t, chatLine(id), id)
	}
	config := writeFile(t, "gateway_max_in_flight: 2\nqueue_job: night\n")
	ctx, signal := context.WithCancel(t.Context())
	var stderr sharedBuffer
	env := map[string]string{queueCredentialsVariable: "me:p4ssw0rd"}
	status := make(chan int, 1)
	go func() {
		status <- run(ctx, process{
			[]string{"work", "-queue", s.URL(), "-url", g.URL, "-config", config},
			func(name string) string { return env[name] }, strings.NewReader(""), &stderr, &stderr,
		})
	}()
	timeout, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	job.collect(timeout)
	job.want(t, nil)
	signal()
	if got := <-status; got != exitOK {
		t.Errorf("exit status: got %d, want %d", got, exitOK)
	}
	for _, text := range []string{"takes requests from the job night", "stopped: 6 requests done", "0 handed back"} {
		if !strings.Contains(stderr.String(), text) {
			t.Errorf("stderr does not have %q:\n%s", text, stderr.String())
		}
	}
	if strings.Contains(stderr.String(), "p4ssw0rd") {
		t.Errorf("the password is in the messages:\n%s", stderr.String())
	}
	if n := most.Load(); n > 2 {
		t.Errorf("%d attempts in flight, want at most 2", n)
	}
	if err := h.Finish(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestWork_Mistakes(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"no queue", []string{"-url", "http://g"}, "no queue: give -queue, or queue_url"},
		{"no gateway", []string{"-queue", "nats://q"}, "no gateway: give -url"},
		{"empty queue", []string{"-queue", "", "-url", "http://g"}, "-queue: empty"},
		{"empty job", []string{"-queue", "nats://q", "-url", "http://g", "-job", ""}, "-job: empty"},
		{"address", []string{"-queue", ":4222", "-url", "http://g"}, "the queue is :4222, which is an address for a head to listen on"},
		{"second of two", []string{"-queue", "nats://a,http://b", "-url", "http://g"}, "-queue: must begin with nats://"},
		{"input", []string{"-input", "x"}, "flag provided but not defined: -input"},
		{"argument", []string{"-queue", "nats://q", "-url", "http://g", "x"}, `unexpected argument "x"`},
		{"concurrency", []string{"-queue", "nats://q", "-url", "http://g", "-concurrency", "0"}, "-concurrency is 0"},
		{"unreachable", []string{"-queue", "nats://me:p4ss@127.0.0.1:1", "-url", "http://g"}, "queue nats://127.0.0.1:1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := startPlain(t, append([]string{"work"}, tt.args...)...)
			o.want(t, exitUsage, tt.want)
			if strings.Contains(o.stderr, "p4ss") {
				t.Errorf("the password is in the message: %s", o.stderr)
			}
		})
	}
	startPlain(t, "work", "-h").want(t, exitOK, "usage: batchinfer work", "-job NAME", "a signal stopped the worker")
}

// Wrong credentials are found before anything is sent.
func TestWork_WrongCredentials(t *testing.T) {
	s, _ := startQueue(t)
	start(t.Context(), map[string]string{queueCredentialsVariable: "me:other"}, strings.NewReader(""), "work", "-queue", s.URL(), "-url", "http://g").
		want(t, exitUsage, "credentials")
	start(t.Context(), map[string]string{queueCredentialsVariable: "a b"}, strings.NewReader(""), "work", "-queue", s.URL(), "-url", "http://g").
		want(t, exitUsage, queueCredentialsVariable+": must consist of")
}

// The state of a worker has the URLs of its gateways without secrets.
func TestConfig_PublicGateways(t *testing.T) {
	var c config
	if err := c.parseGateways([]string{"http://me:p4ss@a:80/x?key=secret", "https://b weight=2"}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(c.publicGateways(), " "); got != "http://a:80/x https://b" {
		t.Errorf("got %s", got)
	}
}

// The name of a worker is fit for the key of a board.
func TestWorkerName(t *testing.T) {
	if a, b := workerName(), workerName(); a == b || strings.Trim(a, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != "" {
		t.Errorf("got %s and %s", a, b)
	}
}
