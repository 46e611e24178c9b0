package main

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/natsqueue"
	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

// A brokenPipe can't be written to.
type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, syscall.EPIPE }

// closedAddress returns an address of this machine that refuses connections.
func closedAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// A mistake ends a command before it has asked the queue, and no message has a secret.
func TestInquiry_Mistakes(t *testing.T) {
	closed := closedAddress(t)
	config := filepath.Join(t.TempDir(), "config.yaml")
	(&joinCase{}).write(t, config, "queue_url: 5\n")
	for _, test := range []struct {
		name string
		args []string
		want string
	}{
		{"no queue", []string{"status"}, "no queue: give -queue, or queue_url in the file of -config"},
		{"empty queue", []string{"status", "-queue", ""}, "-queue: empty"},
		{"empty job", []string{"status", "-queue", "nats://" + closed, "-job", ""}, "-job: empty"},
		{"not a URL", []string{"status", "-queue", "nobody:geheim@q"}, "-queue: must "},
		{"unknown flag", []string{"status", "-geheim"}, "flag provided but not defined"},
		{"argument", []string{"cancel", "-job", "a", "nats://u:geheim@q"}, `unexpected argument "URL"`},
		{"no job", []string{"cancel", "-queue", "nats://" + closed}, "-job is missing"},
		{"JSON of cancel", []string{"cancel", "-job", "a", "-json"}, "flag provided but not defined: -json"},
		{"config", []string{"status", "-config", config}, config + ":1: queue_url"},
		{"no config", []string{"status", "-config", config + "x"}, "no such file"},
		{"unreachable", []string{"status", "-queue", "nats://u:geheim@" + closed}, "no server can be reached"},
		{"unreachable, to cancel", []string{"cancel", "-queue", "nats://u:geheim@" + closed, "-job", "a"}, "no server can be reached"},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := startPlain(t, test.args...)
			o.want(t, exitUsage, test.want)
			if test.name != "unknown flag" && strings.Contains(o.stderr+o.stdout, "geheim") {
				t.Errorf("the password is in %q", o.stderr+o.stdout)
			}
			if o.stdout != "" {
				t.Errorf("stdout: got %q, want nothing", o.stdout)
			}
		})
	}
}

func TestInquiry_Help(t *testing.T) {
	for _, verb := range []string{"status", "cancel"} {
		o := startPlain(t, verb, "-h")
		o.want(t, exitOK, "usage: batchinfer "+verb+" -queue URL", "  -queue URL", "  -job NAME", "Exit status:")
	}
}

// TestInquiry_Server runs the commands against a server.
func TestInquiry_Server(t *testing.T) {
	const credentials = "u:geheim"
	s, err := natsqueue.Serve("127.0.0.1:0", t.TempDir(), credentials)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ask := func(args ...string) outcome {
		t.Helper()
		env := map[string]string{queueCredentialsVariable: credentials}
		return start(t.Context(), env, strings.NewReader(""), append(args, "-queue", s.URL())...)
	}
	startPlain(t, "status", "-queue", s.URL()).want(t, exitUsage, "the credentials are wrong or missing")
	if o := ask("status"); o.status != exitOK || o.stdout != "no jobs\n" {
		t.Errorf("no jobs: got %+v", o)
	}
	ask("status", "-job", "a b").want(t, exitFailed, `job "a b": there is no such job`)
	ask("cancel", "-job", "a b").want(t, exitFailed, `job "a b": there is no such job`)

	failing := process{[]string{"status", "-queue", s.URL()}, func(string) string { return credentials }, nil, brokenPipe{}, io.Discard}
	if got := run(t.Context(), failing); got != exitUsage {
		t.Errorf("exit status if nothing can be printed: got %d, want %d", got, exitUsage)
	}
	canceled, stop := context.WithCancel(t.Context())
	stop()
	if o := start(canceled, nil, nil, "status", "-queue", s.URL()); o.status != exitInterrupted || !strings.Contains(o.stderr, "interrupted") {
		t.Errorf("after a signal: got %+v, want exit status %d", o, exitInterrupted)
	}

	q, err := natsqueue.Dial(t.Context(), natsqueue.Options{URL: s.URL(), Credentials: credentials})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	h, err := q.Open(t.Context(), queue.Job{Name: "a b", Window: 10, DeadAfter: 30 * time.Second, MaxDeaths: 3, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.Report(t.Context(), queue.State{Requests: 77}); err != nil {
		t.Fatal(err)
	}
	if o := ask("status", "-job", "a b"); o.status != exitOK || !strings.Contains(o.stdout, `"a b"        77 `) {
		t.Errorf("a job: got %+v", o)
	}
	if o := ask("status", "-json"); o.status != exitOK || !strings.Contains(o.stdout, `"requests":77`) {
		t.Errorf("JSON: got %+v", o)
	}
	ask("cancel", "-job", "a b").want(t, exitOK, `canceled job "a b"`)
	// The head sees the cancellation at its next renewal.
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	_, err = h.Results(ctx, 1)
	if !errors.Is(err, queue.ErrCanceled) {
		t.Errorf("the head: got %v, want %v", err, queue.ErrCanceled)
	}
	ask("cancel", "-job", "a b").want(t, exitFailed, `job "a b": there is no such job`)
}
