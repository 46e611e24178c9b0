package main

import (
	"errors"
	"net/http"
	"time"
)

// errExpelled is the cause of the end of a request that waited for the gateway while
// another machine may ask it.
var errExpelled = errors.New("batchinfer: the request is asked by another worker")

const (
	// maxClosed is how long requests wait for an unreachable gateway before they are
	// handed back. Most interruptions of a connection are shorter.
	maxClosed = 5 * time.Second

	// maxHeld is how long requests wait for a gateway that accepts none, before they are
	// handed back.
	maxHeld = 10 * time.Second

	// maxProbe is how long a worker keeps one request as a probe of the gateway. It is
	// limited because the request may be the last one of its job.
	maxProbe = 30 * time.Second

	// probePause is how long a worker then takes no probe, so that others can take the
	// request.
	probePause = 2 * time.Second
)

// stalled reports whether requests would wait for so long that others should get them.
// sample is a request to the gateway.
func (g *gate) stalled(sample *http.Request) bool {
	delay := g.next.Delay(sample)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.updateRefusing()
	switch {
	case delay > maxHeld:
		return true
	case g.closed:
		return time.Since(g.closedAt) >= maxClosed
	}
	return g.refusing || g.unsent > 0 && g.flying == 0 && time.Since(g.moved) >= maxHeld
}

// updateRefusing finds out whether the gateway refuses all attempts. It may work on those
// that are in flight, so it has accepted none only when there are none. From then on, an
// attempt is a probe, until it has been in flight for so long that it is not refused. The
// lock is held.
func (g *gate) updateRefusing() {
	switch {
	case g.flying == 0:
		g.refusing = !g.refused.IsZero() && time.Since(g.refused) >= maxHeld
	case time.Since(g.moved) >= maxHeld:
		g.refusing = false
	}
}

// isProbing reports whether an attempt under way is a probe. The lock is held.
func (g *gate) isProbing() bool { return g.probing || g.refusing && g.flying > 0 }

// isClosed reports whether the gateway is unreachable.
func (g *gate) isClosed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}

// problem returns why the gateway is unreachable, or "" if it is not.
func (g *gate) problem() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		return ""
	}
	return g.failure
}

// counts returns the number of waiting requests without an attempt, the number of attempts
// under way, and whether one of these is a probe.
func (g *gate) counts() (unsent, flying int, probing bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.unsent, g.flying, g.isProbing()
}

// expel ends the waiting requests except for keep of them. A probe under way counts as
// one of these.
func (g *gate) expel(keep int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isProbing() {
		keep--
	}
	for w := range g.waiting {
		if keep > 0 {
			keep--
			continue
		}
		w.expel()
	}
}

// expelUntried ends the waiting requests that have used no retry, and returns their
// number. The others use up their retries here: another worker would begin with them
// from the first attempt.
func (g *gate) expelUntried() (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for w := range g.waiting {
		if !w.tried {
			w.expel()
			n++
		}
	}
	return n
}

func (w *waiter) expel() {
	if w.cancel != nil {
		w.cancel(errExpelled)
	}
}

// shutDown ends all requests that wait, and those that will. Attempts that are under way
// may end.
func (g *gate) shutDown() {
	g.mu.Lock()
	g.shut = true
	g.mu.Unlock()
	g.expel(0)
}
