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

// A metric names what a figure means, in the form that benchstat reads: the
// unit comes last.
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

// A sample is what one run of one contender at one workload came to.
type sample map[metric]float64

// A trial makes one run.
type trial func() (sample, error)

// A workload is one kind of work, the same for every contender.
type workload struct {
	name  string
	about string // one sentence for the page, without a full stop

	// metrics are what it measures. Contenders are ranked by the first.
	metrics []metric

	gate func(contender) finding
	open func(contender) (run trial, free func())

	// maxRuns, if not 0, bounds the runs of what hardly varies and takes long.
	maxRuns int
}

// A result is what one contender came to at one workload.
type result struct {
	contender contender
	finding
	samples []sample
}

// series returns the runs of one metric, nil if nothing was measured.
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

// A measurement is one workload, while it is measured.
type measurement struct {
	workload
	runs    int
	results []*result
	trials  []trial // one for each result; nil: it can't do the work
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

// round makes a run of each contender. Every round has an order of its own:
// nobody always comes after the one that leaves most garbage.
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

// measure makes the runs of several workloads. They take turns, and in each
// their contenders do: what disturbs the machine for some seconds meets them
// all, and none in most of its runs.
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

// One run of a workload that is bound by the processor is a few batches, of
// which the fastest counts: what another process takes from the others says
// nothing about the contender.
const (
	batches   = 15
	batchTime = 5 * time.Millisecond
)

// timed returns a trial of f, which does n operations in each of width
// goroutines, for an n that takes about batchTime. The time is that of one
// operation while the other goroutines are at theirs.
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

// calibrate returns how many operations f does in batchTime, after warming it up.
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
