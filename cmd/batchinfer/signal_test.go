//go:build unix

package main

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// command is the program in a process of its own.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asMain+"=1")
	return cmd
}

// However a run ends, the next one asks only what has no answer in the output,
// and in the end each request has one.
func TestSignals(t *testing.T) {
	const requests = 300
	for _, tt := range []struct {
		signal syscall.Signal
		status int // -1: killed
		stderr string
	}{
		{syscall.SIGINT, exitInterrupted, "to go on:\n  batchinfer -input "},
		{syscall.SIGTERM, exitInterrupted, "to go on:\n  batchinfer -input "},
		{syscall.SIGKILL, -1, ""},
	} {
		t.Run(tt.signal.String(), func(t *testing.T) {
			var g *gateway
			enough := make(chan struct{})
			g = newGateway(t, func(w http.ResponseWriter, r *http.Request, asked int) bool {
				if g.requests() == requests/3 {
					close(enough)
				}
				// Without a pause the signal may find everything answered.
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

			g.forget()
			startPlain(t, args...).want(t, exitOK)
			for id := range g.forget() {
				if _, answered := first[id]; answered {
					t.Errorf("%s is asked again, though it is answered", id)
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
		})
	}
}

// A second signal ends a process that does not react to the first: here one
// that waits for somebody to write to a pipe.
func TestSecondSignal(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := command(t, "-input", pipe, "-output", filepath.Join(t.TempDir(), "out"), "-url", "http://localhost")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
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
