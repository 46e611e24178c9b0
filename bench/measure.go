package main

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"
)

// A metric is the unit of a figure, as benchstat reads it.
type metric string

const (
	nsPerOp     metric = "ns/op"
	bytesPerOp  metric = "B/op"
	allocsPerOp metric = "allocs/op"
	p50         metric = "p50-ns"
	p90         metric = "p90-ns"
	p99         metric = "p99-ns"
	peakBytes   metric = "peak-B"
	firstByteNs metric = "first-byte-ns"
	connsOpened metric = "conns/call"
	connsLeaked metric = "leaked/call"
	bytesHeld   metric = "B/waiting-call"
	heapHeld    metric = "heap-B/waiting-call"
	stackHeld   metric = "stack-B/waiting-call"
)

// A sample has the figures of one run.
type sample map[metric]float64

// A trial makes one run.
type trial func() (sample, error)

// A workload is a kind of work that all contenders do.
type workload struct {
	name  string
	about string // a sentence for the page, without the full stop

	// metrics are measured. The first ranks the contenders.
	metrics []metric

	gate func(contender) finding
	open func(contender) (run trial, free func())

	// noPeers is set if only bare and httpretry are measured.
	noPeers bool

	// maxRuns, if not 0, limits the runs of a slow workload with little variance.
	maxRuns int
}

// A result has the samples of a contender at a workload.
type result struct {
	contender contender
	finding
	samples []sample
}

// series returns the figures of a metric, or nil if there are none.
func (r *result) series(m metric) []float64 {
	if r == nil || r.wrong != "" {
		return nil
	}
	xs := make([]float64, 0, len(r.samples))
	for _, s := range r.samples {
		if x, ok := s[m]; ok {
			xs = append(xs, x)
		}
	}
	return xs
}

// A measurement is a workload that is being measured.
type measurement struct {
	workload
	runs    int
	results []*result
	trials  []trial // one for each result; nil if the contender is incorrect
	order   *rand.Rand
	free    []func()
}

func begin(w workload, cs []contender, runs int) *measurement {
	if w.maxRuns > 0 {
		runs = min(runs, w.maxRuns)
	}
	m := &measurement{workload: w, runs: runs, order: rand.New(rand.NewPCG(1, 2))}
	for _, c := range cs {
		r := &result{contender: c, finding: w.gate(c)}
		var run trial
		if r.wrong == "" {
			var free func()
			run, free = w.open(c)
			m.free = append(m.free, free)
		}
		m.results, m.trials = append(m.results, r), append(m.trials, run)
	}
	return m
}

// round makes a run of each contender. The order varies, so that no contender
// always follows the one that leaves the most garbage.
func (m *measurement) round() {
	for _, i := range m.order.Perm(len(m.results)) {
		m.results[i].add(m.trials[i])
	}
}

func (m *measurement) end() {
	for _, free := range slices.Backward(m.free) {
		free()
	}
}

// measure makes the runs of several workloads. It interleaves the workloads, and
// the contenders within each: interference for some seconds affects all of them,
// and none in most of its runs.
func measure(ms []*measurement, progress io.Writer) {
	most := 0
	for _, m := range ms {
		defer m.end()
		most = max(most, m.runs)
	}
	for n := range most {
		for _, m := range ms {
			if n < m.runs {
				fmt.Fprintf(progress, "\rrun %d of %d: %-32s ", n+1, most, m.name)
				m.round()
			}
		}
	}
	fmt.Fprintf(progress, "\r%-60s\r", "")
}

func (r *result) add(run trial) {
	if r.wrong != "" {
		return
	}
	s, err := run()
	if err != nil {
		r.wrong = err.Error()
		return
	}
	r.samples = append(r.samples, s)
}

// A run of a CPU-bound workload consists of batches, of which the fastest
// counts, to exclude the interference of other processes.
const (
	batches   = 15
	batchTime = 5 * time.Millisecond
)

// timed returns a trial of f, which does n operations in each of width goroutines,
// for an n that takes about batchTime. The figure is the time of one operation
// while the other goroutines do theirs.
func timed(width int, f func(n int) error) trial {
	n := 0
	return func() (sample, error) {
		if n == 0 {
			var err error
			if n, err = calibrate(f); err != nil {
				return nil, err
			}
		}
		return timeBatches(f, n, width)
	}
}

// calibrate warms f up and returns the number of operations that it does in
// batchTime.
func calibrate(f func(n int) error) (int, error) {
	for n := 1; ; n *= 4 {
		start := time.Now()
		if err := f(n); err != nil {
			return 0, err
		}
		if d := time.Since(start); d >= batchTime/4 {
			return max(1, int(float64(n)*float64(batchTime)/float64(d))), nil
		}
	}
}

func timeBatches(f func(n int) error, n, width int) (sample, error) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	least := time.Duration(math.MaxInt64)
	for range batches {
		start := time.Now()
		if err := f(n); err != nil {
			return nil, err
		}
		least = min(least, time.Since(start))
	}
	runtime.ReadMemStats(&after)
	calls := float64(batches * n * width)
	return sample{
		nsPerOp:     float64(least.Nanoseconds()) / float64(n),
		bytesPerOp:  float64(after.TotalAlloc-before.TotalAlloc) / calls,
		allocsPerOp: float64(after.Mallocs-before.Mallocs) / calls,
	}, nil
}
