package main

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

// A memQueue is a [queue.Queue] in memory, for tests in virtual time. Its fields may be
// changed under its lock, to break the promises of a queue.
type memQueue struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced after each change
	jobs    map[string]*memJob
	workers map[string]queue.WorkerStatus

	down   bool      // calls block until their context is done
	silent time.Time // until then no result is delivered, as while a consumer has no leader

	values   map[string]queue.Entry // of the board
	revision uint64
}

// memResultsAgain is the time after which a result is delivered again that the head has
// not acknowledged.
const memResultsAgain = 5 * time.Second

// A memJob is one job of a memQueue.
type memJob struct {
	queue.Job
	epoch    int // of the head
	seen     time.Time
	state    queue.State
	canceled bool
	requests map[queue.ID]*memRequest
	order    []queue.ID // of the requests that no worker has
	results  []*memResult
	starts   map[queue.ID]int
	handed   int // requests handed out, so far
}

type memResult struct {
	queue.Result
	sent time.Time // to the head; zero: not yet
}

type memRequest struct {
	queue.Request
	deliveries int
	taken      time.Time // until then a worker has it; zero: nobody
	owner      *memWorker
}

func newMemQueue() *memQueue {
	return &memQueue{
		changed: make(chan struct{}), jobs: make(map[string]*memJob),
		workers: make(map[string]queue.WorkerStatus), values: make(map[string]queue.Entry),
	}
}

// lose removes all requests and results, as the loss of all disks does.
func (q *memQueue) lose() {
	q.change(func() {
		for _, j := range q.jobs {
			clear(j.requests)
			clear(j.starts)
			j.order, j.results = nil, nil
		}
	})
}

// change changes the queue.
func (q *memQueue) change(f func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	f()
	close(q.changed)
	q.changed = make(chan struct{})
}

// until calls ready under the lock until it returns true, after each change and at
// least once a second.
func (q *memQueue) until(ctx context.Context, ready func() bool) error {
	for {
		q.mu.Lock()
		if !q.down && ready() {
			close(q.changed)
			q.changed = make(chan struct{})
			q.mu.Unlock()
			return nil
		}
		changed := q.changed
		q.mu.Unlock()
		timer := time.NewTimer(time.Second)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		timer.Stop()
	}
}

func (q *memQueue) Open(ctx context.Context, job queue.Job) (queue.Head, error) {
	h := &memHead{q: q, name: job.Name}
	err := error(queue.ErrRunning)
	waitErr := q.until(ctx, func() bool {
		j := q.jobs[job.Name]
		if j == nil {
			j = &memJob{requests: make(map[queue.ID]*memRequest), starts: make(map[queue.ID]int)}
			q.jobs[job.Name] = j
		}
		if time.Since(j.seen) < job.DeadAfter {
			return true
		}
		err = nil
		j.Job, j.canceled, j.seen = job, false, time.Now()
		j.epoch++
		for _, r := range j.results {
			r.sent = time.Time{} // to an earlier head
		}
		h.epoch = j.epoch
		return true
	})
	if err = cmp.Or(waitErr, err); err != nil {
		return nil, err
	}
	return h, nil
}

func (q *memQueue) Join(_ context.Context, worker, job string) (queue.Worker, error) {
	return &memWorker{q: q, name: worker, job: job}, nil
}

func (q *memQueue) Jobs(ctx context.Context) (all []queue.Status, err error) {
	err = q.until(ctx, func() bool {
		for _, name := range slices.Sorted(maps.Keys(q.jobs)) {
			j := q.jobs[name]
			s := queue.Status{Job: name, State: j.state, HeadSeen: j.seen, Waiting: len(j.order), Taken: len(j.requests) - len(j.order), Results: len(j.results)}
			for _, worker := range slices.Sorted(maps.Keys(q.workers)) {
				w := q.workers[worker]
				w.Lapsed = time.Since(w.Seen) > queue.LapseAfter
				s.Workers = append(s.Workers, w)
			}
			all = append(all, s)
		}
		return true
	})
	return all, err
}

func (q *memQueue) Cancel(ctx context.Context, job string) error {
	err := error(queue.ErrNoJob)
	return cmp.Or(q.until(ctx, func() bool {
		if j := q.jobs[job]; j != nil {
			err, j.canceled = nil, true
		}
		return true
	}), err)
}

func (q *memQueue) Close() error { return nil }

func (q *memQueue) Board() queue.Board { return memBoard{q} }

type memHead struct {
	q     *memQueue
	name  string
	epoch int
}

// with calls f with the job, if it is still that of the head.
func (h *memHead) with(ctx context.Context, f func(j *memJob) bool) (err error) {
	waitErr := h.q.until(ctx, func() bool {
		j := h.q.jobs[h.name]
		switch {
		case j == nil || j.epoch != h.epoch:
			err = queue.ErrLost
		case j.canceled:
			err = queue.ErrCanceled
		default:
			j.seen = time.Now()
			return f(j)
		}
		return true
	})
	return cmp.Or(waitErr, err)
}

func (h *memHead) HandOut(ctx context.Context, r queue.Request) error {
	return h.with(ctx, func(j *memJob) bool {
		if j.requests[r.ID] == nil {
			j.requests[r.ID] = &memRequest{Request: r}
			j.order = append(j.order, r.ID)
			j.handed++
		}
		return true
	})
}

func (h *memHead) Held(ctx context.Context) (held map[queue.ID]struct{}, err error) {
	err = h.with(ctx, func(j *memJob) bool {
		held = make(map[queue.ID]struct{})
		for id := range j.requests {
			held[id] = struct{}{}
		}
		return true
	})
	return held, err
}

func (h *memHead) Remove(ctx context.Context, id queue.ID) error {
	return h.with(ctx, func(j *memJob) bool {
		j.remove(id)
		return true
	})
}

func (h *memHead) Results(ctx context.Context, limit int) (results []queue.Result, err error) {
	err = h.with(ctx, func(j *memJob) bool {
		if time.Now().Before(h.q.silent) {
			return false
		}
		for _, r := range j.results {
			if len(results) < limit && (r.sent.IsZero() || time.Since(r.sent) > memResultsAgain) {
				r.sent = time.Now()
				results = append(results, r.Result)
			}
		}
		return len(results) > 0
	})
	return results, err
}

func (h *memHead) Pending(ctx context.Context) (n int, err error) {
	err = h.with(ctx, func(j *memJob) bool {
		n = len(j.results)
		return true
	})
	return n, err
}

func (h *memHead) Ack(results []queue.Result) error {
	return h.with(context.Background(), func(j *memJob) bool {
		for _, r := range results {
			j.results = slices.DeleteFunc(j.results, func(other *memResult) bool { return other == r.Handle })
		}
		return true
	})
}

func (h *memHead) Limit(ctx context.Context, n int) error {
	return h.with(ctx, func(j *memJob) bool {
		j.MaxInFlight = n
		return true
	})
}

func (h *memHead) Report(ctx context.Context, s queue.State) error {
	return h.with(ctx, func(j *memJob) bool {
		j.state = s
		return true
	})
}

func (h *memHead) Finish(ctx context.Context) error {
	return h.with(ctx, func(*memJob) bool {
		delete(h.q.jobs, h.name)
		return true
	})
}

func (h *memHead) Close() error {
	h.q.change(func() {
		if j := h.q.jobs[h.name]; j != nil && j.epoch == h.epoch {
			j.seen = time.Time{}
		}
	})
	return nil
}

// send adds a result.
func (j *memJob) send(id queue.ID, payload []byte) {
	sent := &memResult{Result: queue.Result{ID: id, Payload: payload}}
	sent.Handle = sent
	j.results = append(j.results, sent)
}

func (j *memJob) remove(id queue.ID) {
	delete(j.requests, id)
	j.order = slices.DeleteFunc(j.order, func(other queue.ID) bool { return other == id })
}

type memWorker struct {
	q    *memQueue
	name string
	job  string // empty: all
	next int    // number of the job whose turn it is
}

func (w *memWorker) Take(ctx context.Context, limit int) (tasks []queue.Task, err error) {
	err = w.q.until(ctx, func() bool {
		names := slices.Sorted(maps.Keys(w.q.jobs))
		for i := range names {
			name := names[(w.next+i)%len(names)]
			if w.job != "" && w.job != name {
				continue
			}
			if tasks = w.q.jobs[name].take(w, limit); len(tasks) > 0 {
				w.next = (w.next + i + 1) % len(names)
				return true
			}
		}
		return false
	})
	return tasks, err
}

// take gives requests to a worker.
func (j *memJob) take(w *memWorker, limit int) (tasks []queue.Task) {
	if j.canceled {
		return nil
	}
	taken := 0
	for id, r := range j.requests {
		switch {
		case r.owner == nil:
		case time.Now().After(r.taken):
			r.owner = nil
			j.order = append(j.order, id)
		default:
			taken++
		}
	}
	for len(j.order) > 0 && len(tasks) < limit && (j.MaxInFlight == 0 || taken < j.MaxInFlight) {
		r := j.requests[j.order[0]]
		if suspect := r.deliveries >= 2; suspect && len(tasks) > 0 {
			return tasks // it is the next one
		}
		j.order = j.order[1:]
		r.deliveries++
		r.owner, r.taken = w, time.Now().Add(j.DeadAfter)
		taken++
		tasks = append(tasks, queue.Task{Request: r.Request, Job: j.Name, DeadAfter: j.DeadAfter, MaxDeaths: j.MaxDeaths, Suspect: r.deliveries > 2, Handle: r})
		if r.deliveries > 2 {
			return tasks
		}
	}
	return tasks
}

// with calls f with the job and the request of a task, if they are still there.
func (w *memWorker) with(ctx context.Context, t queue.Task, f func(j *memJob, r *memRequest)) error {
	return w.q.until(ctx, func() bool {
		if j := w.q.jobs[t.Job]; j != nil && !j.canceled {
			f(j, j.requests[t.ID])
		}
		return true
	})
}

func (w *memWorker) Start(ctx context.Context, t queue.Task) (deaths int, err error) {
	err = w.with(ctx, t, func(j *memJob, _ *memRequest) {
		deaths = j.starts[t.ID]
		j.starts[t.ID]++
	})
	return deaths, err
}

func (w *memWorker) Renew(t queue.Task) error {
	return w.with(context.Background(), t, func(j *memJob, r *memRequest) {
		if r != nil && r == t.Handle && r.owner == w {
			r.taken = time.Now().Add(j.DeadAfter)
		}
	})
}

func (w *memWorker) Finish(ctx context.Context, t queue.Task, payload []byte) error {
	return w.with(ctx, t, func(j *memJob, r *memRequest) {
		j.send(t.ID, payload)
		delete(j.starts, t.ID)
		if r != nil && r == t.Handle && r.owner == w {
			j.remove(t.ID)
		}
	})
}

func (w *memWorker) Return(t queue.Task, delay time.Duration) error {
	return w.with(context.Background(), t, func(j *memJob, r *memRequest) {
		delete(j.starts, t.ID)
		if r != nil && r == t.Handle && r.owner == w {
			r.deliveries--
			r.taken = time.Now().Add(delay)
			r.owner = new(memWorker) // nobody, until then
		}
	})
}

func (w *memWorker) Flush(ctx context.Context) error {
	return w.q.until(ctx, func() bool { return true })
}

func (w *memWorker) Report(_ context.Context, s queue.WorkerState) error {
	w.q.change(func() { w.q.workers[w.name] = queue.WorkerStatus{Name: w.name, WorkerState: s, Seen: time.Now()} })
	return nil
}

func (w *memWorker) Close() error {
	w.q.change(func() {
		if !w.q.workers[w.name].Stopped {
			delete(w.q.workers, w.name)
		}
	})
	return nil
}

// A memBoard is the board of a memQueue.
type memBoard struct{ q *memQueue }

func (b memBoard) Put(_ context.Context, key string, value []byte) (revision uint64, err error) {
	b.q.change(func() {
		b.q.revision++
		revision = b.q.revision
		b.q.values[key] = queue.Entry{Key: key, Value: value, Revision: revision}
	})
	return revision, nil
}

func (b memBoard) Delete(ctx context.Context, key string) error {
	_, err := b.Put(ctx, key, nil)
	return err
}

func (b memBoard) Watch(ctx context.Context, prefix string) (<-chan queue.Entry, error) {
	entries := make(chan queue.Entry)
	go func() {
		defer close(entries)
		var sent uint64
		for {
			var news []queue.Entry
			err := b.q.until(ctx, func() bool {
				for _, e := range b.q.values {
					if strings.HasPrefix(e.Key, prefix) && e.Revision > sent {
						news = append(news, e)
					}
				}
				return len(news) > 0
			})
			if err != nil {
				return
			}
			slices.SortFunc(news, func(a, b queue.Entry) int { return cmp.Compare(a.Revision, b.Revision) })
			for _, e := range news {
				select {
				case entries <- e:
					sent = e.Revision
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return entries, nil
}
