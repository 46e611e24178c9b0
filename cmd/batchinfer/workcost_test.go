//go:build unix

package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

var (
	workRequests = flag.Int("work.requests", 2000, "requests of TestWorkCost")
	workCPU      = flag.Duration("work.cpu", 0, "CPU time of a request that TestWorkCost allows; 0: any")
)

// A bottomless is a queue that costs nothing: it has requests of 2 KB until all are
// taken, and forgets their results.
type bottomless struct {
	queue.Worker
	line     []byte
	left     atomic.Int64
	finished atomic.Int64
	all      int64
	done     chan struct{} // closed when all are finished
}

func (e *bottomless) Take(ctx context.Context, limit int) (tasks []queue.Task, err error) {
	for len(tasks) < limit && e.left.Add(-1) >= 0 {
		tasks = append(tasks, queue.Task{Request: queue.Request{ID: "x", Line: e.line}, Job: "a", DeadAfter: 30 * time.Second, MaxDeaths: 3})
	}
	if len(tasks) == 0 {
		<-ctx.Done()
	}
	return tasks, ctx.Err()
}

func (e *bottomless) Finish(context.Context, queue.Task, []byte) error {
	if e.finished.Add(1) == e.all {
		close(e.done)
	}
	return nil
}

func (e *bottomless) Renew(queue.Task) error { return nil }

func (e *bottomless) Return(queue.Task, time.Duration) error { return nil }

func (e *bottomless) Flush(context.Context) error { return nil }

func (e *bottomless) Report(context.Context, queue.WorkerState) error { return nil }

// TestWorkCost measures the CPU time that a worker takes for a request, without that of
// the queue and of HTTP:
//
//	go test -run TestWorkCost -v -work.requests 500000 -work.cpu 35us
func TestWorkCost(t *testing.T) {
	prompt := strings.Repeat(`What is \"two plus two\", if you add them in the way of an honest calculator?\n`, 23)
	q := &bottomless{
		all: int64(*workRequests), done: make(chan struct{}),
		line: fmt.Appendf(nil, `{"custom_id":"request-1","method":"POST","url":"/v1/chat/completions","body":{"model":"small","messages":[{"role":"user","content":"%s"}],"max_tokens":300}}`, prompt),
	}
	q.left.Store(q.all)
	cfg := defaultConfig()
	cfg.gatewayURL = "http://gateway.test"
	w, err := newWorker(q, echo, &cfg, cfg.pacer(), func(string, ...any) {})
	if err != nil {
		t.Fatal(err)
	}
	before, start := cpuTime(t), time.Now()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.run(ctx, func() <-chan os.Signal { return nil }) }()
	<-q.done
	each := (cpuTime(t) - before) / time.Duration(q.all)
	t.Logf("%d requests in %v: CPU of a request %v", q.all, time.Since(start).Round(time.Millisecond), each)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if *workCPU > 0 && each > *workCPU {
		t.Errorf("a request takes %v of CPU, want at most %v", each, *workCPU)
	}
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// A second signal makes a worker hand back the requests that its gateway works on.
func TestWork_Signals(t *testing.T) {
	s, q := startQueue(t)
	asked := make(chan struct{}, 10)
	g := newGateway(t, func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		asked <- struct{}{}
		<-r.Context().Done()
		return true
	})
	h, err := q.Open(t.Context(), queue.Job{Name: "night", Window: 100, DeadAfter: time.Minute, MaxDeaths: 3, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	job := &jobOf{head: h}
	job.handOut(t, chatLine("a"), "a")
	cmd := command(t, "work", "-queue", s.URL(), "-url", g.URL)
	cmd.Env = append(cmd.Env, queueCredentialsVariable+"=me:p4ssw0rd")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-asked
	start := time.Now()
	text := ""
	for printed := bufio.NewScanner(stderr); printed.Scan(); text += printed.Text() + "\n" {
		for line, signal := range map[string]os.Signal{"takes requests from": syscall.SIGTERM, "1 requests have": syscall.SIGINT} {
			if strings.Contains(printed.Text(), line) {
				if err := cmd.Process.Signal(signal); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(text, "1 handed back") {
		t.Errorf("got %v, and stderr:\n%s", err, text)
	}
	tasks, err := q.Join(t.Context(), "another", "")
	if err != nil {
		t.Fatal(err)
	}
	defer tasks.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if taken, err := tasks.Take(ctx, 1); err != nil || len(taken) != 1 || taken[0].ID != queueID(digestOf("a"), checksumOf([]byte(chatLine("a")))) {
		t.Errorf("another worker got %v, %v, want the request", taken, err)
	}
	if took := time.Since(start); took > maxEnding {
		t.Errorf("another worker got the request after %v, want less than %v", took, maxEnding)
	}
}
