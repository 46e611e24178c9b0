package main

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"net/http"
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"time"
)

const (
	uploadSize   = 64 << 20
	uploadPeriod = 1<<20 - 3 // not a power of two

	// uploads is the number of uploads in a run, of which the shortest time and
	// the largest memory count. With any contender, half of the uploads wait a
	// millisecond for the server's goroutine.
	uploads = 5
)

var uploadPattern = pattern(uploadPeriod)

func uploadBody() source { return source{data: uploadPattern, size: uploadSize} }

// upload returns a workload that sends 64 MiB to a server on an open connection.
func upload() workload {
	return workload{
		name:    "upload-64MiB",
		about:   "POST of 64 MiB from a reader that can be read once, of unknown length, to a server on loopback: the growth of the heap at its peak, and the shortest time of several uploads until the server reads the first byte of the body",
		metrics: []metric{peakBytes, firstByteNs, nsPerOp},
		// Replays are not checked: nobody should buffer a body of this size.
		gate: uploadGate,
		open: openUpload,
	}
}

// uploadGate checks that an upload arrives whole.
func uploadGate(x contender) finding {
	found := examineSuccess(x, streamed)
	if found.wrong != "" {
		return found
	}
	run, free := openUpload(x)
	defer free()
	if _, err := run(); err != nil {
		return finding{wrong: err.Error()}
	}
	return found
}

func openUpload(x contender) (trial, func()) {
	r := &receiver{}
	srv := newServer(r)
	base := network()
	s := x.open(base, shortWait)
	run := func() (sample, error) {
		best := sample{peakBytes: 0, firstByteNs: math.Inf(1), nsPerOp: math.Inf(1)}
		for range uploads {
			one, err := uploadOnce(s, srv.URL, r)
			if err != nil {
				return nil, err
			}
			best[peakBytes] = max(best[peakBytes], one[peakBytes])
			best[firstByteNs] = min(best[firstByteNs], one[firstByteNs])
			best[nsPerOp] = min(best[nsPerOp], one[nsPerOp])
		}
		return best, nil
	}
	return run, func() {
		base.CloseIdleConnections()
		srv.stop()
	}
}

func uploadOnce(s send, url string, r *receiver) (sample, error) {
	if err := repeat(s, newJob(url, noBody, source{}), 1); err != nil {
		return nil, err
	}
	body := uploadBody()
	body.watch = r.heap.watch
	j := newJob(url, streamed, body)
	r.heap.start()
	start := time.Now()
	err := repeat(s, j, 1)
	return sample{
		peakBytes:   r.heap.grown(),
		firstByteNs: float64(r.first.Load().(time.Time).Sub(start).Nanoseconds()),
		nsPerOp:     float64(time.Since(start).Nanoseconds()),
	}, err
}

// A receiver is a handler that checks an upload and records the arrival of its
// first byte.
type receiver struct {
	first atomic.Value // time.Time
	heap  heapPeak
}

// ServeHTTP implements [http.Handler].
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method == http.MethodGet {
		return
	}
	if err := r.receive(req.Body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

func (r *receiver) receive(body io.Reader) error {
	want := uploadBody()
	got, expected := make([]byte, 32<<10), make([]byte, 32<<10)
	for first := true; ; first = false {
		n, err := body.Read(got)
		if first {
			r.first.Store(time.Now())
		}
		m, _ := io.ReadFull(&want, expected[:n])
		r.heap.watch(want.off)
		switch {
		case m != n || !bytes.Equal(got[:n], expected[:n]):
			return fmt.Errorf("a wrong byte after %d", want.off-m)
		case err == io.EOF && want.off != want.size:
			return fmt.Errorf("%d bytes of %d", want.off, want.size)
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// A heapPeak finds the largest size of the heap during an upload, including
// garbage that has not been collected.
type heapPeak struct {
	before uint64
	most   atomic.Uint64
}

func (h *heapPeak) start() {
	runtime.GC()
	runtime.GC() // pools keep their contents through the first
	h.before = heapSize()
	h.most.Store(h.before)
}

// watch reads the size of the heap about once per 256 KiB of the body.
func (h *heapPeak) watch(off int) {
	const step = 256 << 10
	if off%step >= 32<<10 {
		return
	}
	size := heapSize()
	for most := h.most.Load(); size > most && !h.most.CompareAndSwap(most, size); most = h.most.Load() {
	}
}

func (h *heapPeak) grown() float64 { return float64(h.most.Load() - h.before) }

func heapSize() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
