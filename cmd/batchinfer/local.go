package main

import (
	"context"
	"sync"
	"time"
)

// A local is the crew of a run on one machine: it sends the requests itself.
type local struct {
	asker  *asker
	window *window // of the requests in flight
}

func (l *local) begin(stop context.CancelCauseFunc) {
	l.asker.begin(stop)
	l.window = newWindow(l.asker.config.inFlight())
	l.asker.window = l.window
}

func (l *local) enter(ctx context.Context) error { return l.window.enter(ctx) }

func (l *local) drain() { l.window.drain() }

func (l *local) work(ctx context.Context, requests <-chan request, results chan<- []result) {
	asking := l.asker.withPatience(ctx)
	var wg sync.WaitGroup
	for range l.asker.config.inFlight() {
		wg.Go(func() {
			for req := range requests {
				begun := l.window.begin()
				r := l.asker.ask(asking, req)
				results <- []result{r} // before another request is sent, in case this one ends the run
				l.window.leave(begun, time.Now(), r.tokens, r.evidence())
			}
		})
	}
	wg.Wait()
}

func (l *local) traffic() traffic {
	t := l.asker.traffic()
	t.limit = l.window.size()
	return t
}
