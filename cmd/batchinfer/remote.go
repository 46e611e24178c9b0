package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

// A remote is the crew of a run whose requests are answered by the workers of a queue.
// The record of the run is the input and the output, not the queue: a request is handed
// out again when the queue has forgotten it, and a second result is dropped.
type remote struct {
	queue  queue.Queue
	head   queue.Head
	job    string
	input  *input
	window int // requests that are handed out, at most
	state  queue.State
	live   *live
	stop   context.CancelCauseFunc
	limits *limitFile // of requests that all workers have at one time; may be nil
	log    io.Writer
	told   map[string]struct{} // reasons why workers have stopped; of follow alone

	mostKept int // bytes of results

	room chan struct{} // receives a value when there may be room, unless one is waiting

	mu    sync.Mutex
	used  int // of the window
	out   map[queue.ID]*handout
	held  map[queue.ID]struct{}     // handed out by an earlier head, and not by this one yet
	early map[queue.ID]queue.Result // of requests that this head will hand out
	kept  int                       // bytes of their payloads
	left  int                       // more results of such requests, which the queue delivers again
	line  int                       // of the last request that was handed out for the first time

	answered, failed atomic.Int64
	status           atomic.Pointer[queue.Status] // may be nil
}

// A handout is a request that was handed out and has no result yet.
type handout struct {
	request  request // without its text
	at       time.Time
	missed   int  // looks in a row at which the queue did not hold it
	repeated bool // it was handed out again because the queue had forgotten it
	foreign  int  // results that could not be read
}

const (
	resultsAtOnce = 256 // written before they are acknowledged

	// The results that are there when a head begins are read before it hands out
	// anything, unless the queue delivers none for backlogTimeout: while a leader is
	// replaced, it delivers nothing for some 10 s. At most mostKept bytes of them are
	// kept in memory.
	backlogTimeout = time.Minute
	mostKept       = 64 << 20

	// A request fails when the workers have sent so many results that are not of this
	// version of batchinfer.
	maxForeign = 3

	// A request is handed out again after the queue did not hold it at maxMissed looks,
	// one each lookInterval. Its result may be on its way for some seconds, such as
	// while a server is replaced.
	lookInterval = 5 * time.Second
	maxMissed    = 3

	reportInterval = time.Second
)

func newRemote(q queue.Queue, head queue.Head, job queue.Job, in *input, sum *summary) *remote {
	return &remote{
		queue: q, head: head, job: job.Name, window: job.Window, input: in, live: sum.live,
		state:    queue.State{Requests: sum.total, Answered: sum.earlier},
		mostKept: mostKept,
		room:     make(chan struct{}, 1),
		out:      make(map[queue.ID]*handout),
		held:     make(map[queue.ID]struct{}),
		told:     make(map[string]struct{}),
		log:      io.Discard,
		early:    make(map[queue.ID]queue.Result),
	}
}

func (c *remote) begin(stop context.CancelCauseFunc) { c.stop = stop }

// enter waits until fewer requests are handed out than the window has room for.
func (c *remote) enter(ctx context.Context) error {
	for {
		c.mu.Lock()
		if c.used < c.window {
			c.used++
			c.mu.Unlock()
			return nil
		}
		c.mu.Unlock()
		select {
		case <-c.room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (c *remote) drain() {}

func (c *remote) work(ctx context.Context, requests <-chan request, results chan<- []result) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	begin := func(f func(context.Context) error) {
		wg.Go(func() { c.stopAfter(ctx, f(ctx)) })
	}
	begin(c.report)
	begin(c.follow)
	c.stopAfter(ctx, c.resume(ctx, results))
	begin(func(ctx context.Context) error { return c.receive(ctx, results) })
	begin(c.watch)
	for req := range requests {
		c.stopAfter(ctx, c.handOut(ctx, req, results))
	}
	c.finish(ctx)
	cancel()
}

// stopAfter stops the run after a failure.
func (c *remote) stopAfter(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		c.stop(err)
	}
}

// finish waits until each request that was handed out has its result.
func (c *remote) finish(ctx context.Context) {
	for {
		c.mu.Lock()
		left := len(c.out)
		c.mu.Unlock()
		if left == 0 {
			return
		}
		select {
		case <-c.room:
		case <-ctx.Done():
			return
		}
	}
}

// resume continues the work of an earlier head: no request is handed out again that the
// queue holds, or whose result is there. It removes requests from the queue that are not
// in the input, or that are answered: the earlier head may have had another input.
func (c *remote) resume(ctx context.Context, results chan<- []result) error {
	held, err := c.head.Held(ctx)
	if err != nil {
		return err
	}
	for id := range held {
		if c.entryOf(id) != nil {
			c.held[id] = struct{}{}
		} else if err := c.head.Remove(ctx, id); err != nil {
			return err
		}
	}
	// The results of requests that the queue no longer held are among these.
	quiet := time.Now()
	for {
		pending, err := c.head.Pending(ctx)
		if err != nil || pending <= c.unwritten() || time.Since(quiet) > backlogTimeout {
			return err
		}
		try, cancel := context.WithTimeout(ctx, time.Second)
		batch, err := c.head.Results(try, resultsAtOnce)
		cancel()
		switch {
		case err == nil:
			quiet = time.Now()
			if err := c.deliver(batch, results); err != nil {
				return err
			}
		case !errors.Is(err, context.DeadlineExceeded):
			return err
		}
	}
}

// unwritten returns the number of results that keep keeps.
func (c *remote) unwritten() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.early) + c.left
}

// entryOf returns the entry of a request that had no answer when the run began, or nil.
func (c *remote) entryOf(id queue.ID) *entry {
	key, content, ok := parseQueueID(id)
	if !ok {
		return nil
	}
	e, known := c.input.index[key]
	if !known || e.content != content || e.answered > 0 {
		return nil
	}
	return &e
}

// handOut adds a request to the queue, unless an earlier head has done so.
func (c *remote) handOut(ctx context.Context, req request, results chan<- []result) error {
	id, text := queueID(digestOf(req.customID), req.content), req.text
	req.text = nil
	c.mu.Lock()
	c.out[id] = &handout{request: req, at: time.Now()}
	if !req.again {
		c.line = req.line
	}
	res, early := c.early[id]
	delete(c.early, id)
	c.kept -= len(res.Payload)
	_, held := c.held[id]
	delete(c.held, id)
	c.mu.Unlock()
	switch {
	case early:
		return c.deliver([]queue.Result{res}, results)
	case held:
		return nil
	}
	return c.add(ctx, queue.Request{ID: id, Line: text, Attempts: req.attempts})
}

// add adds a request to the queue. If that is full, the error says how to go on.
func (c *remote) add(ctx context.Context, r queue.Request) error {
	err := c.head.HandOut(ctx, r)
	if !errors.Is(err, queue.ErrFull) {
		return err
	}
	c.mu.Lock()
	n := len(c.out)
	c.mu.Unlock()
	return fmt.Errorf("the queue has no room for %d requests without an answer: start again with queue_window, which is %d, below that: %w", n, c.window, err)
}

// receive passes results on until ctx is done.
func (c *remote) receive(ctx context.Context, results chan<- []result) error {
	for {
		batch, err := c.head.Results(ctx, resultsAtOnce)
		if err != nil {
			return err
		}
		if err := c.deliver(batch, results); err != nil {
			return err
		}
	}
}

// deliver sends results to the batch, and acknowledges those that it has written or
// that nobody needs.
func (c *remote) deliver(batch []queue.Result, results chan<- []result) error {
	var group []result
	var written sync.WaitGroup
	ack := make([]bool, len(batch))
	for i, res := range batch {
		r, known, needed := c.match(res)
		if !known {
			ack[i] = !needed
			continue
		}
		written.Add(1)
		r.settled = func(ok bool) {
			ack[i] = ok
			written.Done()
		}
		group = append(group, r)
	}
	if len(group) > 0 {
		results <- group
	}
	written.Wait()
	acked := batch[:0]
	for i, res := range batch {
		if ack[i] {
			acked = append(acked, res)
		}
	}
	if len(acked) == 0 {
		return nil
	}
	return c.head.Ack(acked)
}

// match finds the request of a result. If it is not known, it may be needed later.
func (c *remote) match(res queue.Result) (r result, known, needed bool) {
	r, w, err := decodeResult(res.ID, res.Payload)
	c.mu.Lock()
	h := c.out[res.ID]
	if err != nil && h != nil {
		r, w = h.failForeign()
	}
	switch {
	case err != nil && r.answer.Error == nil: // the request is handed out again
		h = nil
	case h == nil:
		needed = c.keep(res)
	case w.Attempts <= h.request.attempts && h.request.again:
		h = nil // a second copy of the result after which the request was put off
	default:
		delete(c.out, res.ID)
		c.used--
		c.wake()
	}
	c.mu.Unlock()
	if h == nil {
		return r, false, needed
	}
	if h.repeated { // the queue may hold it once more
		_ = c.head.Remove(context.Background(), res.ID)
	}
	r.request = h.request
	c.live.add(w.Retries, w.Waited)
	switch {
	case r.answer.Error == nil:
		c.answered.Add(1)
	case !r.passing || h.request.again:
		c.failed.Add(1)
	}
	return r, true, true
}

// failForeign returns the failure of a request whose results can't be read. Before
// maxForeign of them, the result has no error.
func (h *handout) failForeign() (r result, w wireResult) {
	if h.foreign++; h.foreign < maxForeign {
		return r, w
	}
	w.Attempts = h.request.attempts + h.foreign
	r.answer = answer{ID: newID(h.request.content), CustomID: h.request.customID, Error: &failure{
		Code:    categoryForeign,
		Message: fmt.Sprintf("workers sent %d results of another version of batchinfer", h.foreign),
	}}
	r.tally.attempts, r.tally.final = w.Attempts, true
	return r, w
}

// keep keeps a result for the time when this head hands out the request, and reports
// whether it will. The lock is held.
func (c *remote) keep(res queue.Result) bool {
	e := c.entryOf(res.ID)
	if e == nil || int(e.line) <= c.line {
		return false
	}
	_, twice := c.early[res.ID]
	_, held := c.held[res.ID]
	switch {
	case twice:
		return false
	case c.kept < c.mostKept:
		c.kept += len(res.Payload)
		c.early[res.ID] = res
	case !held:
		c.held[res.ID] = struct{}{} // the queue delivers it again
		c.left++
	}
	return true
}

// wake makes enter look again. The lock is held.
func (c *remote) wake() {
	select {
	case c.room <- struct{}{}:
	default:
	}
}

// watch hands out again the requests that the queue has forgotten.
func (c *remote) watch(ctx context.Context) error {
	unneeded := make(map[queue.ID]struct{})
	for sleep(ctx, lookInterval) {
		start := time.Now()
		held, err := c.head.Held(ctx)
		var pending int
		if err == nil {
			unneeded, err = c.removeAnswered(ctx, held, unneeded)
		}
		if err == nil {
			pending, err = c.head.Pending(ctx)
		}
		if ended(err) {
			return err
		}
		if err != nil || pending > 2*resultsAtOnce { // results that nobody has read yet
			continue
		}
		for _, req := range c.forgotten(held, start) {
			again, err := c.input.at(ctx, req.line, req.offset)
			if err != nil {
				return err
			}
			r := queue.Request{ID: queueID(digestOf(again.customID), again.content), Line: again.text, Attempts: req.attempts}
			if err := c.add(ctx, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeAnswered removes requests that the queue holds although nobody needs them, at two
// looks in a row: the acknowledgment of a worker was lost, and another worker would ask
// them again. It returns those to remove at the next look.
func (c *remote) removeAnswered(ctx context.Context, held, before map[queue.ID]struct{}) (unneeded map[queue.ID]struct{}, err error) {
	unneeded = make(map[queue.ID]struct{})
	c.mu.Lock()
	for id := range held {
		_, out := c.out[id]
		_, early := c.early[id]
		_, later := c.held[id]
		if !out && !early && !later {
			unneeded[id] = struct{}{}
		}
	}
	c.mu.Unlock()
	for id := range unneeded {
		if _, twice := before[id]; twice {
			delete(unneeded, id)
			if err := c.head.Remove(ctx, id); err != nil {
				return unneeded, err
			}
		}
	}
	return unneeded, nil
}

// forgotten returns the requests that the queue has not held for some time, although
// they have no result.
func (c *remote) forgotten(held map[queue.ID]struct{}, start time.Time) (all []request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, h := range c.out {
		if _, ok := held[id]; ok {
			h.missed = 0
			continue
		}
		if start.Sub(h.at) < lookInterval {
			continue
		}
		if h.missed++; h.missed >= maxMissed {
			h.missed, h.repeated, h.at = 0, true, time.Now()
			all = append(all, h.request)
		}
	}
	return all
}

// report tells the queue how far the run is.
func (c *remote) report(ctx context.Context) error {
	for {
		s := c.state
		s.Answered += int(c.answered.Load())
		s.Failed = int(c.failed.Load())
		c.mu.Lock()
		s.HandedOut = len(c.out)
		c.mu.Unlock()
		if err := c.head.Report(ctx, s); ended(err) {
			return err
		}
		if !sleep(ctx, reportInterval) {
			return nil
		}
	}
}

// follow asks for the state of the workers, and passes on changes of their limit.
func (c *remote) follow(ctx context.Context) error {
	for {
		if jobs, err := c.queue.Jobs(ctx); err == nil { // otherwise the next time
			for _, job := range jobs {
				if job.Job == c.job {
					c.status.Store(&job)
					c.tell(job.Workers)
				}
			}
		}
		if n, changed := c.limits.changed(ctx); changed {
			if err := c.head.Limit(ctx, n); ended(err) {
				return err
			} else if err != nil {
				c.limits.forget() // until the queue responds
			}
		}
		if !sleep(ctx, lookInterval) {
			return nil
		}
	}
}

// tell logs why workers have stopped, each reason once.
func (c *remote) tell(workers []queue.WorkerStatus) {
	for _, w := range workers {
		reason, _, _ := strings.Cut(w.Problem, ":") // the rest may differ from request to request
		if _, known := c.told[reason]; w.Stopped && !known {
			c.told[reason] = struct{}{}
			fmt.Fprintf(c.log, "batchinfer: worker %s stopped: %s\n", cellOf(w.Name), onOneLine(w.Problem))
		}
	}
}

// ended reports whether a run cannot go on after an error of its queue.
func ended(err error) bool {
	return errors.Is(err, queue.ErrCanceled) || errors.Is(err, queue.ErrLost)
}

// traffic describes the attempts of all workers.
func (c *remote) traffic() (t traffic) {
	s := c.status.Load()
	if s == nil {
		return t
	}
	for _, w := range s.Workers {
		if w.Counts() {
			t.limit += w.Limit
			t.flying += w.InFlight
		}
	}
	t.waiting = s.Waiting
	return t
}

// close removes the job from the queue if nothing is left to do for its workers, and
// otherwise leaves it for a later run. err is that with which the run ended.
func (c *remote) close(ctx context.Context, err error) error {
	_, hopeless := errors.AsType[*hopelessError](err)
	var finishErr error
	if err == nil || hopeless || errors.Is(err, queue.ErrCanceled) {
		finishErr = c.head.Finish(ctx)
	}
	return cmp.Or(finishErr, c.head.Close())
}
