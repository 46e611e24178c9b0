package main

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"time"
)

// shortWait is the backoff where the wait is not measured: the shortest that
// every contender accepts.
const shortWait = time.Nanosecond

const (
	postSize   = 1 << 10
	streamSize = 64 << 10
)

var perOp = []metric{nsPerOp, bytesPerOp, allocsPerOp}

// workloads are measured and listed in this order.
var workloads = []workload{
	layerAlone("GET", call{kind: noBody}),
	layerAlone("POST", call{kind: getBody}),
	layerAlone("GET-cancellable", call{kind: noBody, cancellable: true}),
	layerAlone("POST-cancellable", call{kind: getBody, cancellable: true}),
	layerAlone("GET-parallel", call{kind: noBody, parallel: true}),
	layerAlone("POST-parallel", call{kind: getBody, parallel: true}),
	inMemory("GET-in-memory", call{kind: noBody}),
	inMemory("POST-in-memory", call{kind: getBody}),
	inMemory("POST-64KiB-streamed", call{kind: streamed}),
	inMemory("GET-503-then-200", call{kind: noBody, failing: true}),
	inMemory("POST-503-then-200", call{kind: getBody, failing: true}),
	upload(),
	download(),
	loopback("loopback-GET", noBody),
	loopback("loopback-POST", getBody),
	connections("connections-1KiB", 1<<10),
	connections("connections-60KiB", 60<<10),
	connections("connections-endless", endless),
	waiting("waiting-no-body", noBody),
	waiting("waiting-GetBody", getBody),
	waiting("waiting-1KiB-buffered", streamed),
}

// A call is the variable part of the CPU-bound workloads.
type call struct {
	kind        bodyKind
	cancellable bool // the request's context can be canceled, and is not
	parallel    bool // from one goroutine per core
	failing     bool // the first response is a 503
}

// String describes the call.
func (c call) String() string {
	s := map[bodyKind]string{
		noBody:   "GET",
		getBody:  "POST of 1 KiB made by http.NewRequest",
		streamed: "POST of 64 KiB from a reader that can be read once, of unknown length",
	}[c.kind]
	if c.cancellable {
		s += ", with a context that can be canceled"
	}
	if c.parallel {
		s += ", from all cores simultaneously"
	}
	if c.failing {
		s += fmt.Sprintf("; a 503 with %d bytes, then a 200; backoff %v", errorBodySize, shortWait)
	}
	return s
}

func (c call) body() source {
	if c.kind == streamed {
		return bodyOf(pattern(streamSize))
	}
	return bodyOf(pattern(postSize))
}

// layerAlone returns a workload of c on a transport of negligible cost.
func layerAlone(name string, c call) workload {
	return workload{
		name: name, about: c.String() + "; a transport of negligible cost", metrics: perOp,
		gate: func(x contender) finding { return gate(x, c.kind, false) },
		open: func(x contender) (trial, func()) { return c.open(x, nothing{}, withResponse) },
	}
}

// inMemory returns a workload of c on a transport in memory.
func inMemory(name string, c call) workload {
	return workload{
		name: name, about: c.String() + "; a transport in memory, which reads the body and makes a response", metrics: perOp,
		gate: func(x contender) finding { return gate(x, c.kind, c.failing) },
		open: func(x contender) (trial, func()) {
			return c.open(x, &memory{failing: c.failing}, func(j *job) *job { return j })
		},
	}
}

func (c call) open(x contender, base http.RoundTripper, prepare func(*job) *job) (trial, func()) {
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	if c.cancellable {
		ctx, cancel = context.WithCancel(ctx)
	}
	s := x.open(base, shortWait)
	if c.failing && x.once {
		s = twice(s)
	}
	workers := 1
	if c.parallel {
		workers = runtime.GOMAXPROCS(0)
	}
	jobs := make([]*job, workers)
	for i := range jobs {
		// Only the last of several is used: jobs next to each other in memory
		// would share cache lines and slow each other down.
		for range 8 {
			jobs[i] = prepare(newJob(memoryURL, c.kind, c.body()).withContext(ctx))
		}
	}
	return timed(workers, func(n int) error { return together(s, jobs, n) }), cancel
}

// together makes n calls with each of the jobs simultaneously.
func together(s send, jobs []*job, n int) error {
	if len(jobs) == 1 {
		return repeat(s, jobs[0], n)
	}
	errs := make(chan error, len(jobs))
	var wg sync.WaitGroup
	for _, j := range jobs {
		wg.Go(func() { errs <- repeat(s, j, n) })
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func repeat(s send, j *job, n int) error {
	for range n {
		status, _, err := s(j)
		if err != nil {
			return fmt.Errorf("fails: %w", err)
		}
		if status != http.StatusOK {
			return fmt.Errorf("fails with status %d", status)
		}
	}
	return nil
}
