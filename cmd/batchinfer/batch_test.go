package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/inference"
)

type clientFunc func(context.Context, *inference.InferenceRequest) (*inference.InferenceResponse, *inference.InferenceError)

func (f clientFunc) Generate(ctx context.Context, req *inference.InferenceRequest) (*inference.InferenceResponse, *inference.InferenceError) {
	return f(ctx, req)
}

// echo is a client that answers immediately.
var echo = clientFunc(func(_ context.Context, req *inference.InferenceRequest) (*inference.InferenceResponse, *inference.InferenceError) {
	return &inference.InferenceResponse{RequestID: req.RequestID, Response: []byte(`{}`)}, nil
})

func newBatch(client inference.InferenceClient, in *input, out *output) *batch {
	cfg := defaultConfig()
	cfg.perWorker = 8
	return newBatchWith(cfg, client, in, out)
}

func newBatchWith(cfg config, client inference.InferenceClient, in *input, out *output) *batch {
	sum := newSummary(len(in.index), in.index.answered(), out.name)
	return &batch{
		crew:     &local{asker: newAsker(client, &cfg, sum.live)},
		input:    in,
		output:   out,
		deferral: newDeferral(cfg.maxBackoff),
		progress: newPlain(io.Discard, len(in.index)),
		summary:  sum,
	}
}

// A batch has exactly the configured number of requests in flight.
func TestBatchInFlight(t *testing.T) {
	var now, most atomic.Int32
	full := make(chan struct{})
	client := clientFunc(func(ctx context.Context, req *inference.InferenceRequest) (*inference.InferenceResponse, *inference.InferenceError) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		if n == 8 {
			select {
			case <-full:
			default:
				close(full)
			}
		}
		<-full // for ever, if there are never 8
		return echo(ctx, req)
	})
	out, in, _, err := reopen(t, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := newBatch(client, in, out).run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := most.Load(); got != 8 {
		t.Errorf("requests in flight: got %d, want 8", got)
	}
}

// A full disk ends the run. The file keeps its whole lines, and only they count
// as answered.
func TestBatchDiskFull(t *testing.T) {
	in := checkedInput(t, inputOf(1000))
	disk := &fullDisk{room: 2000}
	out := &output{name: "out", file: disk}
	b := newBatch(echo, in, out)
	err := b.run(t.Context())
	if !errors.Is(err, syscall.ENOSPC) || !strings.HasPrefix(err.Error(), "out: ") {
		t.Errorf("got error %v, want %v with the name of the file", err, syscall.ENOSPC)
	}
	text := disk.String()
	if !strings.HasSuffix(text, "\n") || strings.Count(text, "\n") != b.summary.answered || b.summary.answered == 0 {
		t.Errorf("got %d answered, want those in the file, whole:\n%s", b.summary.answered, text)
	}
	if free := disk.room - len(text); free > strings.IndexByte(text, '\n')+len("00") {
		t.Errorf("%d bytes of the disk are free, want less than a line: answers are written together, and those kept that fit", free)
	}
	if disk.late > 0 {
		t.Errorf("after the failure: got %d writes, want none", disk.late)
	}
}

// A fullDisk is a file whose disk becomes full in the middle of a line.
type fullDisk struct {
	bytes.Buffer
	room   int
	writes int
	late   int // writes after the first that failed
	full   bool
}

func (d *fullDisk) Write(p []byte) (int, error) {
	if d.writes++; d.full {
		d.late++
	}
	if d.Len()+len(p) <= d.room {
		return d.Buffer.Write(p)
	}
	d.full = true
	n, _ := d.Buffer.Write(p[:d.room-d.Len()])
	return n, syscall.ENOSPC
}

func (d *fullDisk) Truncate(size int64) error {
	d.Buffer.Truncate(int(size))
	return nil
}

func (d *fullDisk) Sync() error { return nil }

// Answers are written together, about a MiB at a time.
func TestOutput_WritesTogether(t *testing.T) {
	for _, tt := range []struct{ size, writes int }{{10, 1}, {400_000, 2}, {3_000_000, 6}} {
		disk := &fullDisk{room: 1 << 30}
		o := &output{name: "out", file: disk}
		var results []result
		for i := range 6 {
			body := []byte(`"` + strings.Repeat("a", tt.size) + `"`)
			results = append(results, result{answer: answer{ID: "b", CustomID: fmt.Sprint("r", i), Response: &response{200, "q", body}}})
		}
		written, err := o.write(results...)
		if err != nil || written != len(results) || strings.Count(disk.String(), "\n") != len(results) {
			t.Errorf("%d bytes: wrote %d answers, %v; want %d", tt.size, written, err, len(results))
		}
		if disk.writes != tt.writes {
			t.Errorf("%d bytes: got %d writes, want %d", tt.size, disk.writes, tt.writes)
		}
	}
}

// Of answers that are written together, those that fit on the disk are kept.
func TestOutput_KeepsAnswersThatFit(t *testing.T) {
	var results []result
	for i := range 5 {
		results = append(results, result{answer: answer{ID: "b", CustomID: fmt.Sprint("r", i), Error: &failure{}}})
	}
	line := len(results[0].appendLine(nil))
	disk := &fullDisk{room: 3*line + line/2}
	o := &output{name: "out", file: disk}
	written, err := o.write(results...)
	if written != 3 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("wrote %d answers, %v; want 3 and %v", written, err, syscall.ENOSPC)
	}
	if disk.Len() != 3*line || o.size != int64(3*line) {
		t.Errorf("the file has %d bytes, and counts as %d; want 3 lines of %d", disk.Len(), o.size, line)
	}
}

// An input that changes during the run ends it, after the answers to the requests
// in flight were written.
func TestBatchInputChanged(t *testing.T) {
	in := checkedInput(t, inputOf(10))
	in.src = strings.NewReader(inputOf(4) + "{}\n")
	disk := &fullDisk{room: 1 << 20}
	b := newBatch(echo, in, &output{name: "out", file: disk})
	err := b.run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "in.jsonl:5: the file was changed") {
		t.Errorf("got error %v, want one that names the line", err)
	}
	if got := strings.Count(disk.String(), "\n"); got != 4 {
		t.Errorf("answers written: got %d, want 4", got)
	}
}

// A run of 100 000 requests, and a run that finds them answered, take a few MiB of
// memory, although the input has more than 40 MiB.
func TestBatchMemory(t *testing.T) {
	const (
		requests = memoryRequests
		allowed  = 24 << 20
	)
	dir := t.TempDir()
	name := filepath.Join(dir, "in.jsonl")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriter(f)
	prompt := strings.Repeat("lorem ipsum ", 25)
	for i := range requests {
		fmt.Fprintf(w, `{"custom_id":"a-rather-long-custom-id-%032d","method":"POST","url":"/v1/completions","body":{"model":"m","prompt":%q}}`+"\n", i, prompt)
	}
	if err := errors.Join(w.Flush(), f.Close()); err != nil {
		t.Fatal(err)
	}
	for _, earlier := range []int{0, requests} {
		peak := peakHeap(func() {
			in, err := openInput(t.Context(), name, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer in.close()
			if err := in.check(t.Context()); err != nil {
				t.Fatal(err)
			}
			out, err := openOutput(t.Context(), filepath.Join(dir, "out.jsonl"), in)
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			b := newBatch(echo, in, out)
			if err := b.run(t.Context()); err != nil {
				t.Fatal(err)
			}
			if b.summary.earlier != earlier || b.summary.answered != requests-earlier {
				t.Errorf("got %d answered, %d earlier, want %d in all", b.summary.answered, b.summary.earlier, requests)
			}
		})
		t.Logf("%d answered earlier: the heap grew by %d KiB", earlier, peak>>10)
		if peak > allowed {
			t.Errorf("%d answered earlier: the heap grew by %d MiB, want at most %d", earlier, peak>>20, allowed>>20)
		}
	}
}

// A large answer takes a small multiple of its size, whatever it would take
// decoded.
func TestBatchMemory_LargeAnswer(t *testing.T) {
	const (
		size    = 16 << 20
		allowed = 10 * size // with the gateway, which is in the same process
	)
	answer := `{"choices":[{"text":"x"}],"logprobs":[0` + strings.Repeat(",0", size/2-100) + "]}"
	g := newGateway(t, func(w http.ResponseWriter, _ *http.Request, _ int) bool {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, answer)
		return true
	})
	in, out := writeFile(t, inputOf(1)), filepath.Join(t.TempDir(), "out")
	peak := peakHeap(func() {
		startPlain(t, "-input", in, "-output", out, "-url", g.URL).want(t, exitOK)
	})
	t.Logf("the heap grew by %d MiB", peak>>20)
	if peak > allowed {
		t.Errorf("the heap grew by %d MiB, want at most %d", peak>>20, allowed>>20)
	}
	if info, err := os.Stat(out); err != nil || info.Size() < int64(len(answer)) {
		t.Errorf("output: got %v, %v, want the answer", info, err)
	}
}

// peakHeap returns the maximum growth of the heap while f runs.
func peakHeap(f func()) uint64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	before, peak := stats.HeapAlloc, stats.HeapAlloc
	done := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				runtime.ReadMemStats(&stats)
				peak = max(peak, stats.HeapAlloc)
			}
		}
	}()
	f()
	close(done)
	<-watched
	return peak - before
}

// The key does not get into the output, however a gateway quotes it.
func TestBatchRedact(t *testing.T) {
	const key = `Se<"\/>cret`
	b := &asker{secrets: (&config{apiKey: key}).secrets()}
	once := string(quoteJSON(key))
	for _, tt := range []struct{ name, text, want string }{
		{"as it is", "key " + key + ".", "key [redacted]."},
		{"in JSON", `{"key":` + once + `}`, `{"key":"[redacted]"}`},
		{"as encoding/json has it", `{"key":"Se\u003c\"\\/\u003ecret"}`, `{"key":"[redacted]"}`},
		{"escaped slash", `{"key":"Se<\"\\\/>cret"}`, `{"key":"[redacted]"}`},
		{"every character", `{"key":"\u0053\u0065\u003C\u0022\u005c\u002F\u003E\u0063\u0072\u0065\u0074"}`, `{"key":"[redacted]"}`},
		{"JSON in JSON", string(quoteJSON(once)), `"\"[redacted]\""`},
		{"part of it", "Se<", "Se<"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := b.redact(t.Context(), tt.text); got != tt.want {
				t.Errorf("%s: got %s, want %s", tt.text, got, tt.want)
			}
		})
	}
	if got := (&asker{secrets: (&config{apiKey: "abc"}).secrets()}).redact(t.Context(), "abc"); got != "abc" {
		t.Errorf("a key of three characters: got %s, want the text as it is", got)
	}
}

// A key is redacted wherever the client has cut the body of a failure.
func TestBatchRedact_CutBody(t *testing.T) {
	const key = "Secret-0123456789abcdefg"
	b := &asker{secrets: (&config{apiKey: key}).secrets()}
	everyEscape := ""
	for _, c := range key {
		everyEscape += fmt.Sprintf(`\u%04x`, c)
	}
	for name, form := range map[string]string{
		"as it is":        key,
		"escaped":         everyEscape,
		"escaped in JSON": strings.ReplaceAll(everyEscape, `\`, `\\`),
	} {
		for cut := 0; cut < len(form); cut += 11 { // any phase of an escape
			body := strings.Repeat("x", maxFailureBytes-cut-2) + ": " + form[:cut]
			shown := strings.TrimLeft(b.redact(t.Context(), body), "x")
			if n := cut * len(key) / len(form); n >= 4 && !strings.HasPrefix(shown, ": [redacted]") {
				t.Errorf("%s, cut after %d bytes: got the end %q, want %d characters of the key redacted", name, cut, shown, n)
			}
		}
	}
}

// The password and the key in a gateway's URL do not get into the output.
func TestBatchRedact_URL(t *testing.T) {
	c := config{gatewayURL: "https://me:pass-w0rd@h/base?api-version=1&sig=s1gnature"}
	b := &asker{secrets: c.secrets()}
	got := b.redact(t.Context(), `{"u":"https:\/\/me:pass-w0rd@h\/base?api-version=1&sig=s1gnature"}`)
	if want := `{"u":"https:\/\/[redacted]@h\/base?api-version=1&[redacted]"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestCause(t *testing.T) {
	reset := &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	response := func(status int, body io.Reader) *http.Response {
		return &http.Response{StatusCode: status, Body: io.NopCloser(body)}
	}
	brokenOff := func(err error) io.Reader {
		return io.MultiReader(strings.NewReader("{"), errorReader{err})
	}
	for _, tt := range []struct {
		name string
		resp *http.Response
		err  error
		want string
	}{
		{"status", response(503, strings.NewReader("")), nil, "HTTP 503"},
		{"status with a body that breaks off", response(503, brokenOff(io.ErrUnexpectedEOF)), nil, "HTTP 503"},
		{"truncated", nil, io.ErrUnexpectedEOF, "body truncated"},
		{"timeout", nil, context.DeadlineExceeded, "timeout"},
		{"reset", nil, fmt.Errorf("wrapped: %w", reset), "connection reset"},
		{"broken pipe", nil, &net.OpError{Op: "write", Err: syscall.EPIPE}, "connection reset"},
		{"refused", nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, "connection refused"},
		{"closed", nil, io.EOF, "connection closed"},
		{"timeout", nil, os.ErrDeadlineExceeded, "timeout"},
		{"dns", nil, &net.DNSError{Name: "h"}, "name not resolved"},
		{"error in an answer", nil, &inference.StatusError{StatusCode: 500}, "HTTP 500"},
		{"no answer", nil, &inference.StatusError{StatusCode: 200}, "HTTP 200 without an answer"},
		{"other", nil, errors.New("odd"), "other network failure"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := cause(httpretry.Attempt{Response: tt.resp, Err: tt.err}); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }
