package main

import (
	"cmp"
	"context"
	"sync"
	"time"
)

// A batch sends the requests of an input that have no answer yet, and writes
// the answers to an output.
type batch struct {
	crew     crew
	input    *input
	output   *output
	progress progress
	summary  *summary

	deferral *deferral // of the requests that failed
	streak   streak    // of final failures
}

// A crew answers the requests of a batch.
type crew interface {
	// begin is called first. Later, stop may be called to end the run, when there is no
	// hope for the requests that are left.
	begin(stop context.CancelCauseFunc)

	// enter waits until the crew has room for another request. It fails with the
	// cause of ctx when that is done first.
	enter(ctx context.Context) error

	// drain notes that the input has no more requests: those that are sent from now
	// on have failed before.
	drain()

	// work answers requests until the channel is closed, and sends the result of each,
	// together with others that are there at the same time. When ctx is done, the
	// results are marked as interrupted.
	work(ctx context.Context, requests <-chan request, results chan<- []result)

	// traffic describes the attempts at this time.
	traffic() traffic
}

// run returns when every request has its answer in the output, when ctx is done,
// when there is no hope for the remaining requests, or when reading the input or
// writing the output fails. When it returns, no request is in flight, and the
// answers to all requests that ended before a failure of the files are written.
func (b *batch) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	b.crew.begin(cancel)
	b.summary.traffic = func() traffic { return b.deferral.traffic(b.crew.traffic()) }
	requests := make(chan request)
	results := make(chan []result)

	var feedErr error
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(requests)
		feedErr = b.feed(ctx, requests)
	})
	wg.Go(func() { b.crew.work(ctx, requests, results) })
	go func() {
		wg.Wait()
		close(results)
	}()

	err := b.collect(results, cancel)
	switch {
	case err != nil:
		return err
	case feedErr != nil:
		return feedErr
	case b.summary.done() < b.summary.todo():
		return context.Cause(ctx) // ctx was done after the last request was sent
	}
	return nil
}

// feed sends the requests that have no answer yet to the channel, and then those
// that failed for a reason that may pass, once more.
func (b *batch) feed(ctx context.Context, requests chan<- request) error {
	send := func(req request) error {
		if err := b.crew.enter(ctx); err != nil {
			return err
		}
		select {
		case requests <- req:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	err := b.input.unanswered(ctx, func(req request) error {
		b.deferral.begin()
		return send(req)
	})
	if err != nil {
		return err
	}
	b.crew.drain()
	for {
		d, ok := b.deferral.next(ctx)
		if !ok {
			return nil // run finds out whether ctx is done
		}
		req, err := b.input.at(ctx, int(d.line), d.offset)
		if err != nil {
			return err
		}
		req.again, req.attempts = true, int(d.attempts)
		if err := send(req); err != nil {
			return err
		}
	}
}

// collect writes answers as they arrive, until results is closed. If the output
// fails, it calls stop and writes no more.
func (b *batch) collect(results <-chan []result, stop context.CancelCauseFunc) (err error) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var hopeless error
	for {
		select {
		case now := <-tick.C:
			b.summary.samples.take(now, b.summary)
			b.progress.show(b.summary)
			if err != nil {
				continue
			}
			// A request that is under way may take minutes. There is no need
			// to wait for it if its answer can't be written.
			if err = b.output.intact(); err != nil {
				stop(err)
			}
		case group, ok := <-results:
			if !ok {
				return cmp.Or(err, hopeless)
			}
			if err != nil {
				for _, r := range group {
					r.settle(false)
				}
				continue
			}
			for _, r := range group {
				if hopeless == nil && !r.interrupted {
					if hopeless = b.streak.add(r); hopeless != nil {
						stop(hopeless)
					}
				}
			}
			if err = b.settle(group); err != nil {
				stop(err)
			}
		}
	}
}

// settle writes the answers of results, except for requests that failed for the first
// time and are put off. It tells the crew which ones were written.
func (b *batch) settle(group []result) error {
	final := group[:0]
	for _, r := range group {
		switch {
		case r.interrupted:
			r.settle(false)
		case b.putOff(r):
			r.settle(true)
		default:
			final = append(final, r)
		}
	}
	written, err := b.output.write(final...)
	for i, r := range final {
		if i < written {
			b.summary.add(r)
		}
		r.settle(i < written)
	}
	b.progress.show(b.summary)
	return err
}

// putOff puts a request off that failed for the first time, and reports whether it did.
func (b *batch) putOff(r result) bool {
	if r.request.again {
		b.summary.deferred--
		return false
	}
	b.deferral.end(r, r.passing)
	if r.passing {
		b.summary.deferred++
	}
	return r.passing
}

// settle tells the crew whether the result was written, if it wants to know.
func (r result) settle(written bool) {
	if r.settled != nil {
		r.settled(written)
	}
}
