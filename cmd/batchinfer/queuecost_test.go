//go:build unix

package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

var queueRequests = flag.Int("queue.requests", 1000, "requests of TestQueueCost")

// TestQueueCost measures the costs of a queue for each request, with workers that answer
// immediately, and prints a row of a table for one server and for three:
//
//	go test -run TestQueueCost -v -queue.requests 200000
func TestQueueCost(t *testing.T) {
	if *queueRequests <= 1000 {
		t.Parallel() // a measurement runs alone
	}
	for _, servers := range []int{1, 3} {
		t.Run(fmt.Sprint(servers), func(t *testing.T) {
			c := startCluster(t, servers, "GOMEMLIMIT=200MiB") // without it, a server of three has 300 MiB, and is not faster
			in, out := costInput(t, *queueRequests), filepath.Join(t.TempDir(), "out")
			var workers []*exec.Cmd
			for range 2 {
				w := exec.CommandContext(t.Context(), os.Args[0], c.url())
				w.Env = append(os.Environ(), asNoop+"=1")
				w.Stderr = os.Stderr
				if err := w.Start(); err != nil {
					t.Fatal(err)
				}
				workers = append(workers, w)
			}
			head := command(t, "-input", in, "-output", out, "-queue", c.url())
			printed, err := head.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := head.Start(); err != nil {
				t.Fatal(err)
			}
			took := ""
			for lines := bufio.NewScanner(printed); lines.Scan(); {
				if text, ok := strings.CutPrefix(lines.Text(), "took"); ok {
					took = strings.Join(strings.Fields(text), " ")
				}
			}
			if err := head.Wait(); err != nil {
				t.Fatal(err)
			}
			if n := countLines(t, out); n != *queueRequests {
				t.Errorf("got %d answers, want %d", n, *queueRequests)
			}
			for _, w := range workers {
				_ = w.Process.Signal(syscall.SIGTERM)
				if err := w.Wait(); err != nil {
					t.Errorf("a worker: %v", err)
				}
			}
			ofServers := time.Duration(0)
			memory := int64(0)
			for _, s := range c.servers {
				c.kill(s)
				ofServers += cpuOf(s.cmd)
				memory = max(memory, s.cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss>>10) // KiB on Linux
			}
			n := time.Duration(*queueRequests)
			t.Logf("%d servers, %d requests: %s; CPU of a request: head %v, workers %v, servers %v; memory of a server %d MiB",
				servers, n, took, cpuOf(head)/n, (cpuOf(workers[0])+cpuOf(workers[1]))/n, ofServers/n, memory)
		})
	}
}

// cpuOf returns the CPU time of a process that has ended.
func cpuOf(cmd *exec.Cmd) time.Duration {
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}
