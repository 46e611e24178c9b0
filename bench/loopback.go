package main

import (
	"io"
	"net/http"
	"runtime"
	"time"
)

// loopbackCalls is the number of calls in a run, of which the percentiles are
// taken.
const loopbackCalls = 500

// loopback returns a workload of sequential calls to a server.
func loopback(name string, kind bodyKind) workload {
	return workload{
		name:    name,
		about:   call{kind: kind}.String() + "; a server on loopback, one connection, sequential calls",
		metrics: []metric{p50, p90, p99, bytesPerOp, allocsPerOp},
		gate:    func(x contender) finding { return gate(x, kind, false) },
		open: func(x contender) (trial, func()) {
			srv := newServer(http.HandlerFunc(respond))
			base := network()
			s := x.open(base, shortWait)
			j := newJob(srv.URL, kind, call{kind: kind}.body())
			free := func() {
				base.CloseIdleConnections()
				srv.stop()
			}
			return func() (sample, error) { return latencies(s, j) }, free
		},
	}
}

// respond reads the request and responds with a short text.
func respond(w http.ResponseWriter, req *http.Request) {
	io.Copy(io.Discard, req.Body)
	io.WriteString(w, "done\n")
}

// latencies makes some calls to warm up, and measures the calls after that.
func latencies(s send, j *job) (sample, error) {
	if err := repeatFresh(s, j, loopbackCalls/10, nil); err != nil {
		return nil, err
	}
	took := make([]float64, 0, loopbackCalls)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	err := repeatFresh(s, j, loopbackCalls, func(d time.Duration) { took = append(took, float64(d.Nanoseconds())) })
	runtime.ReadMemStats(&after)
	return sample{
		p50:         quantile(took, 0.5),
		p90:         quantile(took, 0.9),
		p99:         quantile(took, 0.99),
		bytesPerOp:  float64(after.TotalAlloc-before.TotalAlloc) / loopbackCalls,
		allocsPerOp: float64(after.Mallocs-before.Mallocs) / loopbackCalls,
	}, err
}

func repeatFresh(s send, j *job, n int, took func(time.Duration)) error {
	for range n {
		next := j.fresh()
		start := time.Now()
		if err := repeat(s, next, 1); err != nil {
			return err
		}
		if took != nil {
			took(time.Since(start))
		}
	}
	return nil
}
