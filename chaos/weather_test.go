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

	// lineTime is how long a line stands. It is longer than an attempt may take,
	// so that one that hangs counts as hanging before it is cut.
	lineTime = 600 * time.Millisecond
)

// A weather is the lines to a server, which come and go.
type weather struct {
	upstream string

	mu    sync.Mutex
	lines [linesPerRoute]line
	names [linesPerRoute]string // of their faults
	dials int
	met   map[string]int // connections made, by the name of the fault
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

// turn puts another line in the place of one, and cuts what is still on that.
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

// clear puts lines without a fault in the place of all.
func (w *weather) clear() {
	for n := range w.lines {
		w.turn(n, faults[0], nil)
	}
}

// close leaves no line. Who dials all the same is refused.
func (w *weather) close() {
	for n := range w.lines {
		w.turn(n, fault{"closed", 0, layNothing}, nil)
	}
}

// rage changes the lines of the weathers, one after the other, by what r draws,
// until the returned function is called.
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
