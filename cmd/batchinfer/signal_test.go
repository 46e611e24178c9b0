//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// However a run ends, the next one sends only the requests without an answer in
// the output, and then each request has one.
func TestSignals(t *testing.T) {
	t.Parallel() // it mostly waits
	const requests = 300
	for _, tt := range []struct {
		signal syscall.Signal
		status int // -1: killed
		stderr string
		after  int // requests
	}{
		{syscall.SIGINT, exitInterrupted, "to go on:\n  batchinfer -input ", requests / 3},
		{syscall.SIGTERM, exitInterrupted, "to go on:\n  batchinfer -input ", requests / 3},
		{syscall.SIGKILL, -1, "", 10},
		{syscall.SIGKILL, -1, "", requests / 3},
		{syscall.SIGKILL, -1, "", requests - 10},
	} {
		t.Run(fmt.Sprintf("%v after %d", tt.signal, tt.after), func(t *testing.T) {
			t.Parallel()
			var g *gateway
			enough := make(chan struct{})
			g = newGateway(t, func(w http.ResponseWriter, r *http.Request, asked int) bool {
				if g.requests() == tt.after {
					close(enough)
				}
				// Without a pause, everything may be answered before the signal.
				select {
				case <-time.After(2 * time.Millisecond):
				case <-r.Context().Done():
				}
				return number(r.Header.Get("X-Request-ID"))%10 == 0 && asked == 1 && fail(w, 503, "")
			})
			out := filepath.Join(t.TempDir(), "out")
			args := []string{"-input", writeFile(t, inputOf(requests)), "-output", out, "-url", g.URL,
				"-concurrency", "4", "-config", writeFile(t, fastRetries)}
			var stderr bytes.Buffer
			cmd := command(t, args...)
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			<-enough
			if err := cmd.Process.Signal(tt.signal); err != nil {
				t.Fatal(err)
			}
			cmd.Wait()
			if got := cmd.ProcessState.ExitCode(); got != tt.status || !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("exit status: got %d, want %d; stderr: %s", got, tt.status, stderr.String())
			}
			first := answersIn(t, out)
			if len(first) == 0 || len(first) == requests {
				t.Fatalf("answers before the signal: got %d, want some and not all", len(first))
			}

			wantResumed(t, g, args, out, first, requests)
		})
	}
}

// wantResumed runs the program again, and checks that it sends only the requests
// that are not in first.
func wantResumed(t *testing.T, g *gateway, args []string, out string, first map[string]answer, requests int) {
	t.Helper()
	g.forget()
	outcomeOf(command(t, args...)).want(t, exitOK)
	for id := range g.forget() {
		if _, answered := first[id]; answered {
			t.Errorf("%s is sent again, though it is answered", id)
		}
	}
	answers := answersIn(t, out)
	for id, a := range answers {
		if !a.succeeded() {
			t.Errorf("answer to %s: got %+v, want a success", id, a)
		}
	}
	if len(answers) != requests {
		t.Errorf("answers: got %d, want %d", len(answers), requests)
	}
}

// A run ends when its context does, wherever it waits before the first request.
func TestRun_InterruptedBeforeFirstRequest(t *testing.T) {
	in := writeFile(t, inputOf(1))
	huge := writeFile(t, "")
	if err := os.Truncate(huge, 1<<36); err != nil {
		t.Fatal("the file system has no sparse files of this size:", err)
	}
	for _, tt := range []struct {
		name string
		args func(pipe string) []string
		open bool // the pipe has a writer, which writes nothing
	}{
		{"input without a writer", func(pipe string) []string { return []string{"-input", pipe} }, false},
		{"input with a silent writer", func(pipe string) []string { return []string{"-input", pipe} }, true},
		{"config without a writer", func(pipe string) []string { return []string{"-input", in, "-config", pipe} }, false},
		{"config with a silent writer", func(pipe string) []string { return []string{"-input", in, "-config", pipe} }, true},
		{"input that is one huge line", func(string) []string { return []string{"-input", huge} }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pipe := filepath.Join(t.TempDir(), "pipe")
			if err := syscall.Mkfifo(pipe, 0o600); err != nil {
				t.Fatal(err)
			}
			writer := func() *os.File {
				w, err := os.OpenFile(pipe, os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				return w
			}
			if tt.open {
				defer writer().Close()
			}
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			args := append(tt.args(pipe), "-output", filepath.Join(t.TempDir(), "out"), "-url", "http://localhost")
			start(ctx, nil, nil, args...).want(t, exitInterrupted, "interrupted before anything was sent")
			writer().Close() // ends a goroutine that still waits for one
		})
	}
}

// A second signal kills a process that the first has not ended. This one can't
// print its summary, because nothing reads its standard output.
func TestSecondSignal(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	fill(t, w)
	g := newGateway(t, nil)
	cmd := command(t, "-input", writeFile(t, inputOf(1)), "-output", filepath.Join(t.TempDir(), "out"), "-url", g.URL)
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if g.requests() == 0 {
				continue
			}
			if err := cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
				t.Fatal(err)
			}
			continue
		case <-ended:
		}
		break
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGINT {
		t.Errorf("got %v, want death by the signal", cmd.ProcessState)
	}
}

// fill writes to a pipe until it is full.
func fill(t *testing.T, w *os.File) {
	t.Helper()
	if err := w.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := w.Write(make([]byte, 4096)); errors.Is(err, os.ErrDeadlineExceeded) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// An input without an end is refused when it has a mistake, before its copy fills
// the disk.
func TestRun_RefusesEndlessInput(t *testing.T) {
	startPlain(t, "-input", "/dev/zero", "-output", filepath.Join(t.TempDir(), "out"), "-url", "http://localhost").
		want(t, exitUsage, "/dev/zero:1: longer than 16 MiB")
	for _, tt := range []struct{ name, text, want string }{
		{"one line", "x", "<stdin>:1: longer than 16 MiB"},
		{"lines", "x\n", "<stdin>: and more; these are the first 20"},
		{"a request, then one line", "x", "<stdin>:2: longer than 16 MiB"},
		{"the same request", chatLine("a") + "\n", "<stdin>: and more; these are the first 20"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stdin := &endless{text: tt.text}
			if tt.name == "a request, then one line" {
				stdin = &endless{first: chatLine("a") + "\n", text: "x"}
			}
			temp := t.TempDir()
			t.Setenv("TMPDIR", temp)
			start(t.Context(), nil, stdin, "-input", "-", "-output", filepath.Join(t.TempDir(), "out"), "-url", "http://localhost").
				want(t, exitUsage, tt.want)
			if got := stdin.read.Load(); got > 20<<20 {
				t.Errorf("read %d bytes, want at most the limit of a line", got)
			}
			if left, _ := os.ReadDir(temp); len(left) > 0 {
				t.Errorf("left behind in the temporary directory: %v", left)
			}
		})
	}
}

// An endless reader repeats text; to keep a failing test from filling the disk,
// it fails after 64 MiB.
type endless struct {
	first, text string
	read        atomic.Int64
}

func (e *endless) Read(p []byte) (int, error) {
	if e.first != "" {
		n := copy(p, e.first)
		e.first = e.first[n:]
		return n, nil
	}
	n := 0
	for n+len(e.text) <= len(p) {
		n += copy(p[n:], e.text)
	}
	if e.read.Add(int64(n)) > 64<<20 {
		return 0, errors.New("read too much")
	}
	return n, nil
}

// A process that is killed leaves no copy of its input behind.
func TestSignals_KilledRunLeavesNoCopyOfInput(t *testing.T) {
	temp := t.TempDir()
	arrived, done := make(chan struct{}), make(chan struct{})
	g := newGateway(t, func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		close(arrived)
		<-r.Context().Done()
		close(done)
		return true
	})
	cmd := command(t, "-input", "-", "-output", filepath.Join(t.TempDir(), "out"), "-url", g.URL)
	cmd.Env = append(cmd.Env, "TMPDIR="+temp)
	cmd.Stdin = strings.NewReader(inputOf(1))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-arrived
	cmd.Process.Kill()
	cmd.Wait()
	<-done
	if left, _ := os.ReadDir(temp); len(left) > 0 {
		t.Errorf("left behind in the temporary directory: %v", left)
	}
}

// A pipe is read like a file.
func TestRunPipe(t *testing.T) {
	g := newGateway(t, nil)
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() { written <- os.WriteFile(pipe, []byte(inputOf(3)), 0) }()
	startPlain(t, "-input", pipe, "-output", filepath.Join(t.TempDir(), "out"), "-url", g.URL).want(t, exitOK)
	if err := <-written; err != nil || g.requests() != 3 {
		t.Errorf("got %d requests, error %v, want 3", g.requests(), err)
	}
}
