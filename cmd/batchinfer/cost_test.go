//go:build unix

package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	costRequests = flag.Int("cost.requests", 1000, "requests in the input of TestCost")
	costCPU      = flag.Duration("cost.cpu", 0, "CPU time of a request that TestCost allows; 0: any")
	costMemory   = flag.Int("cost.memory", 0, "memory in MiB that TestCost allows; 0: any")
)

// TestCost runs the command against a gateway in another process, with requests of
// 2 KB and answers of 1.5 KB, and measures the resources of the command alone:
//
//	go test -run TestCost -v -cost.requests 50000 -cost.cpu 150us -cost.memory 150
func TestCost(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	used, took := runForCost(t, out, *costRequests, "-input", costInput(t, *costRequests), "-output", out, "-url", startGateway(t))
	each := (used.UserTime() + used.SystemTime()) / time.Duration(*costRequests)
	memory := peakMemory(used)
	t.Logf("%d requests in %v: CPU of a request %v (user %v, system %v in all), memory %d MiB",
		*costRequests, took.Round(time.Millisecond), each, used.UserTime(), used.SystemTime(), memory)
	if *costCPU > 0 && each > *costCPU {
		t.Errorf("a request takes %v of CPU, want at most %v", each, *costCPU)
	}
	if *costMemory > 0 && memory > *costMemory {
		t.Errorf("%d requests take %d MiB, want at most %d", *costRequests, memory, *costMemory)
	}
}

// runForCost runs the command, which must write n answers to out, and returns the
// resources that it used and the time that it took.
func runForCost(t *testing.T, out string, n int, args ...string) (*os.ProcessState, time.Duration) {
	t.Helper()
	cmd := command(t, args...)
	var printed strings.Builder
	cmd.Stderr = &printed
	start := time.Now()
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v; stderr:\n%s", err, printed.String())
	}
	took := time.Since(start)
	if got := countLines(t, out); got != n {
		t.Errorf("got %d answers, want %d", got, n)
	}
	return cmd.ProcessState, took
}

var (
	joinRequests = flag.Int("join.requests", 1000, "requests in the input of TestJoin_Cost")
	joinMemory   = flag.Int("join.memory", 0, "memory in MiB that TestJoin_Cost allows; 0: any")
)

// TestJoin_Cost joins 8 parts with answers of 1.5 KB, and measures the resources of
// the command, without those of the page cache:
//
//	go test -run TestJoin_Cost -v -join.requests 1000000 -join.memory 150
func TestJoin_Cost(t *testing.T) {
	in, dir := costInput(t, *joinRequests), t.TempDir()
	costParts(t, in, filepath.Join(dir, "part-"), 8)
	out := filepath.Join(dir, "out")
	used, took := runForCost(t, out, *joinRequests, "join", "-input", in, "-output", out, filepath.Join(dir, "part-*"))
	memory := peakMemory(used)
	t.Logf("%d requests in %v: CPU %v, memory %d MiB", *joinRequests, took.Round(time.Millisecond),
		used.UserTime()+used.SystemTime(), memory)
	if *joinMemory > 0 && memory > *joinMemory {
		t.Errorf("%d requests take %d MiB, want at most %d", *joinRequests, memory, *joinMemory)
	}
}

// costParts writes the answers to an input, in n files.
func costParts(t *testing.T, in, prefix string, n int) {
	t.Helper()
	f, err := os.Open(in)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	parts := make([]*bufio.Writer, n)
	for i := range parts {
		part, err := os.Create(fmt.Sprint(prefix, i))
		if err != nil {
			t.Fatal(err)
		}
		defer part.Close()
		parts[i] = bufio.NewWriterSize(part, 1<<20)
	}
	body := []byte(`{"choices":[{"message":{"content":"` + strings.Repeat(`Two plus two is \"four\".\n`, 50) + `"}}]}`)
	for l := newLines(f, maxLineBytes); l.next(); {
		req := checkedRequest(l)
		part := shard{0, n}.of(digestOf(req.customID)).number
		parts[part].Write(answer{ID: newID(req.content), CustomID: req.customID, Response: &response{200, req.customID, body}}.append(nil))
	}
	for _, part := range parts {
		if err := part.Flush(); err != nil {
			t.Fatal(err)
		}
	}
}

// peakMemory returns the largest resident memory of a process, in MiB.
func peakMemory(state *os.ProcessState) int {
	memory := int(state.SysUsage().(*syscall.Rusage).Maxrss) >> 10 // KiB
	if runtime.GOOS == "darwin" {
		memory >>= 10 // bytes
	}
	return memory
}

// costInput writes an input of n requests of 2 KB.
func costInput(t *testing.T, n int) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "in.jsonl")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	prompt := strings.Repeat("What is \\\"two plus two\\\", if you add them in the way of an honest calculator?\\n", 23)
	for i := range n {
		fmt.Fprintf(w, `{"custom_id":"request-%d","method":"POST","url":"/v1/chat/completions","body":{"model":"small",`+
			`"messages":[{"role":"system","content":"You are a calculator."},{"role":"user","content":"%s"}],"max_tokens":300}}`+"\n", i, prompt)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return name
}

// startGateway returns the URL of a gateway in another process.
func startGateway(t *testing.T) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), asGateway+"=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Wait()
	})
	url, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(url)
}

func countLines(t *testing.T, name string) int {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	for l := newLines(f, maxAnswerBytes); l.next(); {
		n++
	}
	return n
}
