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
	ctx = l.asker.withPatience(ctx)
	var askers sync.WaitGroup
	idle := make(chan request)
	for req := range requests {
		select {
		case idle <- req:
		default:
			// Only as many as there are requests in flight: the stacks of those
			// that have nothing to do would shrink, and grow again.
			askers.Go(func() { l.ask(ctx, req, idle, results) })
		}
	}
	close(idle)
	askers.Wait()
}

// ask asks a request, and then those from next.
func (l *local) ask(ctx context.Context, req request, next <-chan request, results chan<- []result) {
	for ok := true; ok; req, ok = <-next {
		f := l.window.begin(time.Now())
		r := l.asker.ask(ctx, req)
		results <- []result{r} // before another request is sent, in case this one ends the run
		l.window.leave(f, time.Now(), r.tokens, r.evidence())
	}
}

func (l *local) traffic() traffic {
	t := l.asker.traffic()
	t.limit = l.window.size()
	return t
}
