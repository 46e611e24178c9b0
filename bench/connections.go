package main

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

const (
	endless = -1 // the size of a body that never ends

	connectionCalls   = 3
	connectionBackoff = 10 * time.Millisecond
	callPatience      = 300 * time.Millisecond // a call that takes longer hangs
	leakPatience      = 100 * time.Millisecond
)

// connections returns a workload that makes calls with a 503 of size bytes and
// then a 200, each on a transport of its own, and counts connections.
func connections(name string, size int) workload {
	body := fmt.Sprintf("of %d KiB", size>>10)
	if size == endless {
		body = "that never ends (4 KiB every ms)"
	}
	return workload{
		name: name,
		about: fmt.Sprintf("GET; a 503 with a body %s, then a 200; backoff %v; a server on loopback: connections that a call opens, "+
			"connections still open %v after it, and its time", body, connectionBackoff, leakPatience),
		metrics: []metric{connsOpened, connsLeaked, nsPerOp},
		gate: func(x contender) finding {
			if x.once {
				return finding{wrong: "does not retry"}
			}
			return finding{}
		},
		open: func(x contender) (trial, func()) {
			srv := newServer(&failer{size: size})
			return func() (sample, error) { return countConnections(x, srv) }, srv.stop
		},
		maxRuns: 3,
	}
}

func countConnections(x contender, srv *server) (sample, error) {
	var opened, leaked int
	var took time.Duration
	for range connectionCalls {
		c, err := oneConnectionCount(x, srv)
		if err != nil {
			return nil, err
		}
		opened, leaked, took = opened+c.opened, leaked+c.leaked, took+c.took
	}
	return sample{
		connsOpened: float64(opened) / connectionCalls,
		connsLeaked: float64(leaked) / connectionCalls,
		nsPerOp:     float64(took) / connectionCalls,
	}, nil
}

type connectionCount struct {
	opened, leaked int
	took           time.Duration
}

func oneConnectionCount(x contender, srv *server) (connectionCount, error) {
	// The context ends after the leaks are counted, because it closes them.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	hung := time.AfterFunc(callPatience, cancel)
	base, before := network(), srv.opens()
	defer base.CloseIdleConnections()
	s := x.open(base, connectionBackoff)
	start := time.Now()
	err := repeat(s, newJob(srv.URL, noBody, source{}).withContext(ctx), 1)
	took := time.Since(start)
	if !hung.Stop() {
		return connectionCount{}, fmt.Errorf("hangs: no result after %v", callPatience)
	}
	if err != nil {
		return connectionCount{}, err
	}
	base.CloseIdleConnections()
	c := connectionCount{srv.opens() - before, srv.leaked(leakPatience), took}
	srv.CloseClientConnections()
	return c, nil
}

// A failer is a handler that responds to every other request with a 503,
// including the first.
type failer struct {
	size  int
	calls atomic.Int64
}

// ServeHTTP implements [http.Handler].
func (f *failer) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if f.calls.Add(1)%2 == 0 {
		return
	}
	if f.size == endless {
		w.WriteHeader(http.StatusServiceUnavailable)
		drip(w, req)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(f.size))
	w.WriteHeader(http.StatusServiceUnavailable)
	w.Write(make([]byte, f.size))
}

// drip writes until the client disconnects.
func drip(w http.ResponseWriter, req *http.Request) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	piece := make([]byte, 4<<10)
	for {
		select {
		case <-req.Context().Done():
			return
		case <-tick.C:
		}
		if _, err := w.Write(piece); err != nil {
			return
		}
		http.NewResponseController(w).Flush()
	}
}
