package chaos_test

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

const (
	linesPerRoute = 3

	// lineTime is the lifetime of a line. It is longer than the timeout of an
	// attempt, so that an attempt that hangs times out before the line is cut.
	lineTime = 600 * time.Millisecond
)

// A weather has the lines to a server, which change over time.
type weather struct {
	upstream string

	mu    sync.Mutex
	lines [linesPerRoute]line
	names [linesPerRoute]string // of their faults
	dials int
	met   map[string]int // the number of connections, by the name of the fault
}

func newWeather(upstream string) *weather {
	w := &weather{upstream: upstream, met: make(map[string]int)}
	w.close()
	return w
}

// dial connects to the server over one of the lines.
func (w *weather) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	w.mu.Lock()
	n := w.dials % linesPerRoute
	w.dials++
	w.met[w.names[n]]++
	addr := w.lines[n].addr()
	w.mu.Unlock()
	return (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, addr)
}

// turn replaces one of the lines and cuts its connections.
func (w *weather) turn(n int, f fault, r *rand.Rand) {
	next := f.lay(w.upstream, r)
	w.mu.Lock()
	last := w.lines[n]
	w.lines[n], w.names[n] = next, f.name
	w.mu.Unlock()
	if last != nil {
		last.stop()
	}
}

// clear replaces all lines by lines without a fault.
func (w *weather) clear() {
	for n := range w.lines {
		w.turn(n, faults[0], nil)
	}
}

// close removes all lines. Further connections are refused.
func (w *weather) close() {
	for n := range w.lines {
		w.turn(n, fault{"closed", 0, layNothing}, nil)
	}
}

// rage changes random lines of the weathers, one at a time, until the returned
// function is called.
func rage(r *rand.Rand, weathers []*weather) (stop func()) {
	for _, w := range weathers {
		w.clear()
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(lineTime / time.Duration(len(weathers)*linesPerRoute))
		defer tick.Stop()
		for n := 0; ctx.Err() == nil; n++ {
			weathers[n%len(weathers)].turn(n/len(weathers)%linesPerRoute, pick(r), r)
			<-tick.C
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}
