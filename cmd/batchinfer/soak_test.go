package main

import (
	"flag"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/httpretry/httpretry/flaky"
)

var soakRequests = flag.Int("soak.requests", 4000, "requests in the input of TestSoak")

// A footprint has the resources of a process at one time.
type footprint struct {
	heap       uint64
	goroutines int
	files      int
}

func measure() footprint {
	open, _ := os.ReadDir("/proc/self/fd") // none on systems that do not tell
	return footprint{liveHeap(), runtime.NumGoroutine(), len(open)}
}

// liveHeap returns the least that several collections found alive. A single one
// also counts what others allocate while it runs, which can be megabytes on a
// busy machine, and what pools held since the collection before.
func liveHeap() uint64 {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	least := uint64(math.MaxUint64)
	for range 5 {
		runtime.GC()
		metrics.Read(live)
		least = min(least, live[0].Value.Uint64())
	}
	return least
}

// A soakedGateway fails like the demo. It measures this process when a tenth of
// the requests is answered and when nine tenths are, because the same number is
// then in flight. The size of its own state is constant.
type soakedGateway struct {
	asked       []atomic.Int32 // by number of the request
	answered    atomic.Int32
	early, late footprint
}

func (g *soakedGateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get("X-Request-ID")
	n, err := strconv.Atoi(strings.TrimPrefix(id, "r"))
	if err != nil || n >= len(g.asked) {
		http.Error(w, "no such request", http.StatusNotFound)
		return
	}
	failures := script(id)
	if asked := int(g.asked[n].Add(1)); asked <= len(failures) {
		// A script keeps state, so each request has its own.
		flaky.New(failures[asked-1]).Handler(http.HandlerFunc(generate)).ServeHTTP(w, r)
		return
	}
	switch int(g.answered.Add(1)) {
	case len(g.asked) / 10:
		g.early = measure()
	case len(g.asked) - len(g.asked)/10:
		g.late = measure()
	}
	generate(w, r)
}

// wantAnswers checks that the output has a line for each request.
func (g *soakedGateway) wantAnswers(t *testing.T, out string) {
	t.Helper()
	answers := answersIn(t, out)
	for n := range g.asked {
		if a := answers[fmt.Sprint("r", n)]; !a.succeeded() {
			t.Fatalf("request %d: got %+v, want an answer", n, a)
		}
	}
	if len(answers) != len(g.asked) {
		t.Errorf("got %d answers, want %d", len(answers), len(g.asked))
	}
}

// A long run takes as much memory as a short one, and leaves nothing open.
func TestSoak(t *testing.T) {
	const (
		inFlight = 8
		noise    = 1 << 20 // memory of the requests in flight
	)
	before := measure()
	g := &soakedGateway{asked: make([]atomic.Int32, *soakRequests)}
	srv := httptest.NewServer(g)
	in, out := writeFile(t, inputOf(*soakRequests)), filepath.Join(t.TempDir(), "out.jsonl")
	start := time.Now()
	o := startPlain(t, "-input", in, "-output", out, "-url", srv.URL, "-config", writeFile(t, fastRetries+fmt.Sprintf("num_workers: %d\nmax_job_concurrency: 1\n", inFlight)))
	took := time.Since(start)
	o.want(t, exitOK)
	srv.Close()

	g.wantAnswers(t, out)
	asked := 0
	for n := range g.asked {
		asked += int(g.asked[n].Load())
	}
	t.Logf("%d requests, asked %d times, in %v: %+v, then %+v", *soakRequests, asked, took.Round(time.Millisecond), g.early, g.late)
	if grown := int64(g.late.heap) - int64(g.early.heap); grown > noise {
		t.Errorf("the heap grew by %d KiB after a tenth of the requests, want no growth", grown>>10)
	}
	// A request in flight may have one connection more or less, at both ends.
	if grown := g.late.goroutines - g.early.goroutines; grown > 3*inFlight {
		t.Errorf("there were %d goroutines more than after a tenth of the requests", grown)
	}
	after := measure()
	for deadline := time.Now().Add(10 * time.Second); after.goroutines > before.goroutines && time.Now().Before(deadline); after = measure() {
		time.Sleep(10 * time.Millisecond)
	}
	if after.goroutines > before.goroutines || after.files > before.files {
		t.Errorf("got %+v when all was over, want no more goroutines and files than the %+v before", after, before)
	}
}
