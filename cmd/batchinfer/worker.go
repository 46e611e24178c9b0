package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
	"github.com/httpretry/httpretry/cmd/batchinfer/internal/share"
	"github.com/httpretry/httpretry/inference"
)

const (
	// maxEnding is the time that the gateway has for the requests that it works on
	// when the worker is asked to stop. Preemptible machines are gone after 15 to 30
	// seconds.
	maxEnding = 10 * time.Second

	// maxLeaving is the time that the queue has for the last results, and maxUrgent after
	// a second signal.
	maxLeaving = 2 * time.Second
	maxUrgent  = time.Second

	// maxFlush is the time in which the queue must respond at the end.
	maxFlush = 750 * time.Millisecond

	// publishers is the number of results that are sent at one time. Three servers
	// confirm a result after some 30 ms when they are busy: 64 of them bound a worker to
	// 2000 requests a second.
	publishers = 256

	watchInterval = 250 * time.Millisecond
	retryPause    = time.Second // before something is tried again that the queue refused
)

// errStopped is the cause of the end of requests that had no time to end.
var errStopped = errors.New("batchinfer: the worker was stopped")

// A worker takes requests from a queue, asks its gateway, and finishes them.
type worker struct {
	queue    queue.Worker
	asker    *asker
	window   *window // of the requests that are being asked
	sample   *http.Request
	shares   *share.Pacer // of the limits of the gateways; nil: no limits
	log      func(format string, args ...any)
	withheld withheld
	giveUp   context.CancelCauseFunc // stops the worker

	tasks    chan *task    // to be asked
	ended    chan ending   // to be finished
	fetching chan struct{} // has a value while requests are fetched
	changed  chan struct{} // receives a value when more may be taken, unless one is waiting
	supply   chan struct{} // receives a value when ready has a task, unless one is waiting

	mu       sync.Mutex
	held     map[*task]struct{}
	ready    []*task         // taken, and not asked yet
	asking   int             // tasks that are being asked, or are about to be
	stopping bool            // nothing is asked any more
	rate     decaying        // of the requests that end
	unlucky  map[taskKey]int // how often a request was handed back that failed while the gateway was unreachable
	summary  *summary
	returned int       // tasks
	leaving  int       // tasks that were returned since stopping
	lost     int       // tasks that could not be returned
	warned   time.Time // when a warning was logged last
	probing  time.Time // when the first probe of an outage was taken; of watch alone
	resting  time.Time // no probe is taken before
}

// A taskKey identifies a request of any job.
type taskKey struct {
	job string
	id  queue.ID
}

// newWorker returns a worker that sends its requests by client, at the pace of pacer.
func newWorker(q queue.Worker, client inference.InferenceClient, cfg *config, pacer httpretry.Pacer, log func(string, ...any)) (*worker, error) {
	sample, err := http.NewRequest(http.MethodPost, cfg.gatewayURL, nil)
	if err != nil {
		return nil, errors.New("the gateway's URL is not a URL") // err quotes it
	}
	a := newAsker(client, cfg, nil)
	// An outage does not end a worker, which would be started again.
	a.gate = newGate(cfg, pacer, func(error) {})
	w := &worker{
		queue: q, asker: a, sample: sample, log: log,
		window: newWindow(cfg.inFlight()),
		tasks:  make(chan *task), ended: make(chan ending, cfg.inFlight()),
		fetching: make(chan struct{}, 1), changed: make(chan struct{}, 1), supply: make(chan struct{}, 1),
		held: make(map[*task]struct{}), unlucky: make(map[taskKey]int),
		summary: newSummary(0, 0, ""),
	}
	w.summary.traffic = w.traffic
	a.window, a.warn = w.window, func(text string) { w.log("%s", text) }
	return w, nil
}

func (w *worker) traffic() traffic {
	t := w.asker.traffic()
	t.limit = w.window.size()
	return t
}

// run works until ctx is done or the worker must stop. Then it hands back
// the requests that wait, gives the gateway some time for those that it works on, and
// hands back the rest. It calls urgent at that time. When a signal arrives on the channel
// that urgent returns, it hands back everything immediately.
func (w *worker) run(ctx context.Context, urgent func() <-chan os.Signal) error {
	taking, giveUp := context.WithCancelCause(ctx)
	w.giveUp = giveUp
	asking, endAsking := context.WithCancelCause(context.WithoutCancel(ctx))
	sending, endSending := context.WithCancelCause(context.WithoutCancel(ctx))
	defer giveUp(nil)
	defer endAsking(nil)
	defer endSending(nil)

	var feeding, askers, senders, watching sync.WaitGroup
	feeding.Go(func() { w.take(taking, asking, sending) })
	feeding.Go(func() { w.dispatch(taking) })
	patient := w.asker.withPatience(asking)
	for range w.asker.config.inFlight() {
		askers.Go(func() { w.ask(patient) })
	}
	for range publishers {
		senders.Go(func() { w.send(sending) })
	}
	watched, endWatching := context.WithCancel(context.WithoutCancel(ctx))
	watching.Go(func() { w.watch(watched) })
	watching.Go(func() { w.report(watched) })

	<-taking.Done()
	w.stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		feeding.Wait()
		askers.Wait()
		close(w.ended)
		senders.Wait()
	}()
	w.windUp(done, urgent, endAsking, endSending)
	endWatching()
	watching.Wait()
	w.handBack(0, w.all()...)
	if w.flush() != nil {
		w.lost += w.leaving
	}
	if ctx.Err() != nil {
		return nil
	}
	err := context.Cause(taking)
	if reason, ok := errors.AsType[*workerError](err); ok {
		w.reportStop(ctx, reason)
	}
	return err
}

// windUp waits until done is closed: until the requests at the gateway have been answered
// and sent. It gives them some time, or less after a signal, and then ends them.
func (w *worker) windUp(done <-chan struct{}, urgent func() <-chan os.Signal, endAsking, endSending context.CancelCauseFunc) {
	signals := urgent()
	if asking := w.state().InFlight; asking > 0 {
		w.log("stopping: %d requests have %v to end", asking, maxEnding)
	}
	stopped := time.Now()
	if isClosedWithin(maxEnding, done, signals) {
		return
	}
	endAsking(errStopped)
	left := maxLeaving
	if time.Since(stopped) < maxEnding {
		left = maxUrgent
	}
	if w.flush() != nil {
		left = 0 // the queue takes nothing
	}
	if !isClosedWithin(left, done, nil) {
		endSending(errStopped)
		<-done
	}
}

// flush makes sure that the queue has received the tasks that were returned.
func (w *worker) flush() error {
	ctx, cancel := context.WithTimeout(context.Background(), maxFlush)
	defer cancel()
	return w.queue.Flush(ctx)
}

// isClosedWithin waits until done is closed, a signal arrives or the time is over, and
// reports whether done is closed.
func isClosedWithin(d time.Duration, done <-chan struct{}, signals <-chan os.Signal) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-signals:
	case <-timer.C:
	}
	return false
}

// stop hands back the requests that wait, and those that would wait later.
func (w *worker) stop() {
	// The queue must not give returned requests to this worker. From now on, nothing is
	// fetched.
	w.fetching <- struct{}{}
	w.mu.Lock()
	w.stopping = true
	ready := w.ready
	w.ready = nil
	w.mu.Unlock()
	w.handBack(0, ready...)
	w.handBack(0, w.withheld.release(true)...)
	w.asker.gate.shutDown()
}

// dispatch sends tasks to the askers, as many as the window has room for, until ctx is
// done.
func (w *worker) dispatch(ctx context.Context) {
	defer close(w.tasks)
	for w.window.enter(ctx) == nil {
		t := w.next(ctx)
		if t == nil {
			return
		}
		w.tasks <- t // an asker gets it soon: none waits for longer than run allows
	}
}

// next waits for a task to ask. It returns nil when ctx is done.
func (w *worker) next(ctx context.Context) *task {
	t := w.pop()
	if t != nil {
		return t
	}
	w.window.starve(time.Now())
	for {
		select {
		case <-w.supply:
		case <-ctx.Done():
			return nil
		}
		if t := w.pop(); t != nil {
			w.window.feed(time.Now())
			return t
		}
	}
}

func (w *worker) pop() *task {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.ready) == 0 {
		return nil
	}
	t := w.ready[0]
	w.ready = w.ready[1:]
	w.asking++
	notify(w.changed)
	return t
}

// ask asks tasks until there are no more.
func (w *worker) ask(ctx context.Context) {
	for t := range w.tasks {
		f := w.window.begin(time.Now())
		r := w.result(ctx, t)
		now := time.Now()
		w.window.leave(f, now, r.tokens, r.evidence())
		w.mu.Lock()
		w.asking--
		w.rate.add(now)
		w.mu.Unlock()
		notify(w.changed)
		w.ended <- ending{t, r}
	}
}

// result asks a task.
func (w *worker) result(ctx context.Context, t *task) result {
	req, err := t.request(ctx)
	if err != nil {
		return t.unreadable(ctx, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w.begin(t, cancel)
	defer w.begin(t, nil)
	req.cancel = cancel
	return w.asker.ask(ctx, req)
}

// begin notes that a task is being asked or, if cancel is nil, that this has ended.
func (w *worker) begin(t *task, cancel context.CancelCauseFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t.cancel, t.asked = cancel, time.Now()
	if t.left && cancel != nil {
		cancel(queue.ErrNoJob)
	}
}

// asksSince reports whether a task is being asked that was begun then or later.
func (w *worker) asksSince(at time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for t := range w.held {
		if t.cancel != nil && !t.asked.Before(at) {
			return true
		}
	}
	return false
}

// send ends tasks until there are no more.
func (w *worker) send(ctx context.Context) {
	for e := range w.ended {
		w.end(ctx, e)
	}
}

// end finishes a task, or hands it back if the result is not its own.
func (w *worker) end(ctx context.Context, e ending) {
	switch {
	case e.result.interrupted:
		w.handBack(0, e.task)
		return
	case w.isUnlucky(e):
		w.handBack(retryPause, e.task)
		return
	}
	finish, back, err := w.withheld.judge(e, time.Now())
	for _, e := range finish {
		w.finish(ctx, e)
	}
	w.handBack(0, back...)
	if err != nil {
		w.giveUp(err)
	}
}

const (
	// maxUnlucky is the number of times that a request is handed back that failed
	// while the gateway was unreachable. After that, it may be the reason.
	maxUnlucky = 3

	maxUnluckyKeys = 10_000 // in memory
)

// isUnlucky reports whether a request failed for a reason that may pass, while the
// gateway was unreachable. Another worker may have a gateway that is not.
func (w *worker) isUnlucky(e ending) bool {
	if !e.result.passing || !w.asker.gate.isClosed() {
		return false
	}
	key := taskKey{e.task.Job, e.task.ID}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.unlucky[key] >= maxUnlucky {
		delete(w.unlucky, key)
		return false
	}
	if len(w.unlucky) >= maxUnluckyKeys {
		clear(w.unlucky)
	}
	w.unlucky[key]++
	return true
}

// finish sends the result of a task until the queue has it or ctx is done.
func (w *worker) finish(ctx context.Context, e ending) {
	payload := encodeResult(e.result)
	for {
		err := w.queue.Finish(ctx, e.task.Task, payload)
		switch {
		case err == nil:
			if w.let(e.task) {
				w.count(e.result)
			}
			return
		case isOver(err):
			w.let(e.task)
			return
		case ctx.Err() != nil:
			return // run hands it back
		}
		w.warn("the queue does not take a result: %v", err)
		sleep(ctx, retryPause)
	}
}

// count adds a result to the counts of the worker.
func (w *worker) count(r result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.summary.add(r)
	w.summary.live.add(r.tally.live.totals())
}

// warn logs a message, but no more than one in a minute.
func (w *worker) warn(format string, args ...any) {
	now := time.Now()
	w.mu.Lock()
	silent := !w.warned.IsZero() && now.Sub(w.warned) < time.Minute
	if !silent {
		w.warned = now
	}
	w.mu.Unlock()
	if !silent {
		w.log(format, args...)
	}
}
