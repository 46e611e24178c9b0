package main

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

const (
	// A worker takes the requests of the next aheadTime in advance, so that the gateway
	// does not wait while more are fetched. With a longer time, other workers might be
	// without requests.
	aheadTime = 100 * time.Millisecond

	maxAhead = 1000 // requests; each may be large
)

// A decaying measures a rate of the last second or so. Its zero value is ready to use.
type decaying struct {
	level float64
	at    time.Time
}

func (d *decaying) add(now time.Time) {
	d.level = d.perSecond(now) + 1
	d.at = now
}

func (d *decaying) perSecond(now time.Time) float64 {
	return d.level * math.Exp(-now.Sub(d.at).Seconds())
}

// take takes tasks until ctx is done.
func (w *worker) take(ctx, asking, sending context.Context) {
	for ctx.Err() == nil {
		n := w.room()
		if n == 0 {
			select {
			case <-w.changed:
			case <-ctx.Done():
			}
			continue
		}
		select {
		case w.fetching <- struct{}{}:
		case <-ctx.Done():
			return
		}
		taken, err := w.queue.Take(ctx, n)
		<-w.fetching
		if tasks := w.hold(taken); len(tasks) == 1 && tasks[0].Suspect {
			w.askAlone(ctx, asking, sending, tasks[0])
		} else {
			w.accept(tasks)
		}
		if err != nil && ctx.Err() == nil {
			w.warn("the queue has no requests: %v", err)
			sleep(ctx, retryPause)
		}
	}
}

// accept adds tasks to those that are to be asked.
func (w *worker) accept(tasks []*task) {
	w.mu.Lock()
	stopping := w.stopping
	if !stopping {
		w.ready = append(w.ready, tasks...)
	}
	w.mu.Unlock()
	if stopping {
		w.handBack(0, tasks...)
	}
	notify(w.supply)
}

// room returns the number of tasks to take.
func (w *worker) room() int {
	gate := w.asker.gate
	stalled := gate.stalled(w.sample)
	unsent, flying, probing := gate.counts()
	limit := w.limit()
	if limit == 0 {
		return 0 // others can ask the requests sooner
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if stalled {
		if probing || time.Now().Before(w.resting) || w.asking+len(w.ready) > flying || w.asking >= limit {
			return 0
		}
		return 1 // to find out whether the gateway is back
	}
	ahead := min(1+int(w.rate.perSecond(time.Now())*aheadTime.Seconds()), maxAhead)
	n := limit + ahead - w.asking - len(w.ready)
	ended := len(w.held) - w.asking - len(w.ready) // results that the queue has not confirmed
	if unsent > ahead || ended > limit+ahead || n < max(ahead/2, 1) {
		return 0
	}
	return n
}

// limit returns the number of requests in flight that the gateway makes use of and the
// worker's share allows.
func (w *worker) limit() int {
	limit := w.window.size()
	if w.shares != nil {
		if n := w.shares.Capacity(); n >= 0 {
			limit = min(limit, n)
		}
	}
	return limit
}

// watch renews the tasks, and hands them back if others can ask them sooner, until ctx
// is done.
func (w *worker) watch(ctx context.Context) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		w.renew()
		w.yield()
		w.decide()
		notify(w.changed) // the gate may be open again
	}
}

// decide ends the worker when the failures whose cause may be the worker have waited too
// long, unless it asks a request that may still show the cause.
func (w *worker) decide() {
	if first, ok := w.withheld.doubt(); !ok || w.asksSince(first) {
		return
	}
	if err := w.withheld.overdue(time.Now()); err != nil {
		w.giveUp(err)
	}
}

// yield hands back the requests that wait while the worker has no share of the limits of
// its gateway. While the gateway is stalled, it keeps a probe until maxProbe is over.
func (w *worker) yield() {
	gate, now := w.asker.gate, time.Now()
	if w.limit() == 0 {
		w.handBack(0, w.unasked()...)
		gate.expel(0)
	}
	if !gate.stalled(w.sample) {
		w.probing = time.Time{}
		return
	}
	if w.probing.IsZero() {
		w.probing = now
	}
	w.handBack(0, w.unasked()...)
	w.handBack(0, w.withheld.release(false)...)
	gate.expel(1)
	if now.Sub(w.probing) >= maxProbe && gate.expelUntried() > 0 {
		w.mu.Lock()
		w.resting = now.Add(probePause)
		w.mu.Unlock()
		w.probing = now
	}
}

// unasked removes and returns the tasks that are not being asked.
func (w *worker) unasked() []*task {
	w.mu.Lock()
	defer w.mu.Unlock()
	tasks := w.ready
	w.ready = nil
	return tasks
}

// askAlone asks a suspect, after all other requests of the worker have ended or were
// handed back.
func (w *worker) askAlone(ctx, asking, sending context.Context, t *task) {
	for w.others() > 0 {
		w.handBack(0, w.unasked()...)
		w.handBack(0, w.withheld.release(false)...)
		w.asker.gate.expel(0)
		select {
		case <-w.changed:
		case <-ctx.Done():
			w.handBack(0, t)
			return
		}
	}
	deaths, err := w.queue.Start(ctx, t.Task)
	switch {
	case err != nil && isOver(err):
		w.let(t)
	case err != nil:
		w.handBack(retryPause, t)
	case deaths >= t.MaxDeaths:
		w.finish(sending, ending{t, t.lost(ctx, deaths)})
	default:
		w.end(sending, ending{t, w.result(w.asker.withPatience(asking), t)})
	}
}

// others returns the number of tasks that the worker holds beside a suspect.
func (w *worker) others() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.held) - 1
}

const stateInterval = 2 * time.Second

// report reports the state of the worker, and logs it at growing intervals of up to a
// minute while there are requests, until ctx is done.
func (w *worker) report(ctx context.Context) {
	tick := time.NewTicker(stateInterval)
	defer tick.Stop()
	start, shown := time.Now(), time.Now()
	for ctx.Err() == nil {
		try, cancel := context.WithTimeout(ctx, stateInterval)
		_ = w.queue.Report(try, w.state()) // the next one comes soon
		cancel()
		now := time.Now()
		if now.Sub(shown) >= min(now.Sub(start)/4, time.Minute) && w.isBusy(shown) {
			w.log("%s", w.progress(now))
			shown = now
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// isBusy reports whether the worker holds a request, or has ended one since.
func (w *worker) isBusy(since time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.held) > 0 || w.rate.at.After(since)
}

// reportStop reports why the worker ends, for the head of the job and its status.
func (w *worker) reportStop(ctx context.Context, reason *workerError) {
	ctx, cancel := context.WithTimeout(ctx, stateInterval)
	defer cancel()
	s := w.state()
	s.Problem, s.Stopped, s.Limit = reason.problem(), true, 0
	if err := w.queue.Report(ctx, s); err != nil {
		w.log("the head does not learn why: %v", err)
	}
}

// progress returns a line about the work so far.
func (w *worker) progress(now time.Time) string {
	if failure := w.asker.gate.problem(); failure != "" {
		w.summary.live.note(failure, false)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprintf("%d requests done, %s", w.summary.done(), strings.Join(w.summary.status(now), ", "))
}

// state returns the state of the worker, for the status of a job.
func (w *worker) state() queue.WorkerState {
	problem := w.asker.gate.problem()
	if problem != "" {
		problem = "the gateway is unreachable: " + problem
	}
	limit, waiting := w.limit(), 0
	if w.shares != nil {
		waiting = w.shares.Waiting()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return queue.WorkerState{
		Gateways: w.asker.config.publicGateways(), InFlight: max(w.asking-waiting, 0), Limit: limit, Finished: w.summary.done(),
		Problem: problem,
	}
}
