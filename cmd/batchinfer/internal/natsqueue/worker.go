package natsqueue

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

const (
	// lookForJobs is the time between two looks at the jobs of the queue.
	lookForJobs = time.Second

	// closeTimeout is how long Close waits for the servers. Preemptible machines have
	// little time.
	closeTimeout = 3 * time.Second

	// suspectAfter is the number of deliveries from which on a request is a suspect: it
	// may be the reason why its workers died. Deliveries before its last return do not
	// count.
	suspectAfter = 3
)

// A worker implements [queue.Worker].
type worker struct {
	b       *broker
	name    string
	only    string // the token of its job; empty: all jobs
	cancel  context.CancelFunc
	running sync.WaitGroup
	ready   chan struct{} // requests have arrived, or jobs have changed
	taking  chan struct{} // held by Take
	acker   *acker
	stopped atomic.Bool // the last report says so

	mu     sync.Mutex
	jobs   []*work // sorted by token
	served string  // the token of the job of the last requests that Take returned
}

// A work is a job from which a worker takes requests.
type work struct {
	token    string
	record   record
	revision uint64 // of the record
	puller   *puller
}

// A taken is the handle of a task.
type taken struct {
	token      string
	reply      string // for the acknowledgment
	deliveries uint64 // of the request
	object     string // of the line
	record     *record
	revision   uint64 // of the record, as the worker has seen it
	started    *int   // deaths that Start returned; nil: it was not called
}

// Join makes the caller a worker.
func (b *broker) Join(ctx context.Context, name, job string) (queue.Worker, error) {
	w := &worker{b: b, name: name, ready: make(chan struct{}, 1), taking: make(chan struct{}, 1)}
	if job != "" {
		w.only = token(job)
	}
	if err := w.look(ctx); err != nil {
		return nil, err
	}
	var err error
	if w.acker, err = newAcker(b.nc); err != nil {
		return nil, err
	}
	ctx, w.cancel = context.WithCancel(context.Background())
	w.running.Go(func() {
		for sleep(ctx, lookForJobs) == nil {
			w.look(ctx) // after a failure the jobs stay as they are
		}
	})
	return w, nil
}

// look finds new jobs and forgets those that have ended.
func (w *worker) look(ctx context.Context) error {
	var records map[string]sighting
	err := w.b.repeat(ctx, func(ctx context.Context) (err error) {
		records, err = w.b.records(ctx, w.only)
		return err
	})
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.jobs = slices.DeleteFunc(w.jobs, func(j *work) bool {
		if r, ok := records[j.token]; ok && !r.Canceled {
			j.record, j.revision = *r.record, r.revision
			return false
		}
		j.puller.close()
		return true
	})
	for token, r := range records {
		if r.Canceled || slices.ContainsFunc(w.jobs, func(j *work) bool { return j.token == token }) {
			continue
		}
		p := newPuller(w.b.nc, workStream(token), workersConsumer, w.ready, func() {})
		w.jobs = append(w.jobs, &work{token: token, record: *r.record, revision: r.revision, puller: p})
		notify(w.ready)
	}
	slices.SortFunc(w.jobs, func(a, b *work) int { return cmp.Compare(a.token, b.token) })
	return nil
}

// A sighting is the record of a job with its revision.
type sighting struct {
	*record
	revision uint64
}

// records returns the records of one job or, if the token is empty, of all.
func (b *broker) records(ctx context.Context, only string) (map[string]sighting, error) {
	keys := []string{jobKey(only)}
	if only == "" {
		var err error
		if keys, _, err = b.keys(ctx, registryBucket, jobKey("*")); err != nil {
			return nil, err
		}
	}
	records := map[string]sighting{}
	for _, key := range keys {
		token := key[len(jobKey("")):]
		r, revision, err := b.record(ctx, token)
		switch {
		case err == nil:
			records[token] = sighting{r, revision}
		case !isGone(err):
			return nil, err
		}
	}
	return records, nil
}

// Take waits for requests.
func (w *worker) Take(ctx context.Context, limit int) ([]queue.Task, error) {
	select {
	case w.taking <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-w.taking }()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if err := context.Cause(ctx); err != nil {
			w.leave()
			return nil, err
		}
		for _, j := range w.inTurn() {
			if tasks := w.collect(ctx, j, limit); len(tasks) > 0 {
				w.mu.Lock()
				w.served = j.token
				w.mu.Unlock()
				return tasks, nil
			}
		}
		w.pull(limit)
		timer.Reset(lookAgain)
		select {
		case <-ctx.Done():
		case <-w.ready:
		case <-timer.C:
		}
	}
}

// leave ends all pulls, and hands back the requests that they have brought. Requests that
// are handed back later then go to other workers.
func (w *worker) leave() {
	var leaving sync.WaitGroup
	for _, j := range w.inTurn() {
		leaving.Go(func() {
			for _, a := range j.puller.close() {
				w.handBack(&j, a)
			}
		})
	}
	leaving.Wait()
}

// handBack hands back a message that Take has not returned.
func (w *worker) handBack(j *work, a arrival) {
	var deliveries uint64
	if meta, err := a.Metadata(); err == nil {
		deliveries = meta.NumDelivered
	}
	w.giveBack(j.token, idOf(a.Subject), a.Reply, deliveries, 0)
}

// giveBack hands back a request, and notes its deliveries so far for isSuspect. A single
// delivery is not noted, which saves a message for most requests.
func (w *worker) giveBack(token string, id queue.ID, reply string, deliveries uint64, delay time.Duration) error {
	if deliveries > 1 {
		value := strconv.AppendUint(nil, deliveries, 10)
		if err := w.b.nc.Publish(bucketSubject(registryBucket, excuseKey(token, id)), value); err != nil {
			return err
		}
	}
	return w.b.nc.Publish(reply, negative(delay))
}

// inTurn returns the jobs, beginning after the one that was served last.
func (w *worker) inTurn() []work {
	w.mu.Lock()
	defer w.mu.Unlock()
	first, _ := slices.BinarySearchFunc(w.jobs, w.served+"\x00", func(j *work, token string) int { return cmp.Compare(j.token, token) })
	jobs := make([]work, 0, len(w.jobs))
	for i := range w.jobs {
		jobs = append(jobs, *w.jobs[(first+i)%len(w.jobs)])
	}
	return jobs
}

// pull asks for limit requests, divided among the jobs whose last pull brought some. It
// asks for one request of each other job. So the worker gets few requests beyond limit.
func (w *worker) pull(limit int) {
	jobs := w.inTurn()
	fruitful := 0
	for _, j := range jobs {
		if j.puller.brought() {
			fruitful++
		}
	}
	for _, j := range jobs {
		batch := 1
		if j.puller.brought() {
			batch = max(1, limit/fruitful)
		}
		j.puller.pull(batch, true)
	}
}

// collect returns the requests of a job that have arrived, at most limit, as many as
// memory allows, and a suspect alone.
func (w *worker) collect(ctx context.Context, j work, limit int) []queue.Task {
	arrivals := j.puller.take(limit)
	var tasks []queue.Task
	loaded := 0
	for i, a := range arrivals {
		if loaded >= w.b.mostLoaded {
			j.puller.putBack(arrivals[i:])
			return tasks
		}
		if time.Since(a.at) > j.record.DeadAfter/3 {
			w.handBack(&j, a) // another may have it already
			continue
		}
		t, err := w.task(ctx, &j, a.Msg)
		switch {
		case err == nil:
		case isUseless(err):
			// The head hands it out again, if it should.
			w.acker.ack(a.Reply)
			continue
		case ctx.Err() != nil:
			j.puller.putBack(arrivals[i:])
			return tasks
		default:
			w.b.nc.Publish(a.Reply, negative(time.Second))
			continue
		}
		if t.Suspect && len(tasks) > 0 {
			j.puller.putBack(arrivals[i:])
			return tasks
		}
		tasks = append(tasks, t)
		if t.Handle.(*taken).object != "" {
			loaded += len(t.Line)
		}
		if t.Suspect {
			j.puller.putBack(arrivals[i+1:])
			return tasks
		}
	}
	return tasks
}

// task decodes the message of a request.
func (w *worker) task(ctx context.Context, j *work, m *nats.Msg) (queue.Task, error) {
	c, err := decode(m.Data)
	if err == nil {
		err = w.b.load(ctx, j.token, &c)
	}
	if err != nil {
		return queue.Task{}, err
	}
	meta, err := m.Metadata()
	if err != nil {
		return queue.Task{}, errForeign
	}
	id := idOf(m.Subject)
	suspect, err := w.isSuspect(ctx, j.token, id, meta.NumDelivered)
	if err != nil {
		return queue.Task{}, err
	}
	return queue.Task{
		Request:   queue.Request{ID: id, Line: c.payload, Attempts: c.number},
		Job:       j.record.Name,
		DeadAfter: j.record.DeadAfter,
		MaxDeaths: j.record.MaxDeaths,
		Suspect:   suspect,
		Handle:    &taken{token: j.token, reply: m.Reply, deliveries: meta.NumDelivered, object: c.object, record: &j.record, revision: j.revision},
	}, nil
}

// isSuspect reports whether a request has been delivered suspectAfter times since it was
// returned last.
func (w *worker) isSuspect(ctx context.Context, token string, id queue.ID, deliveries uint64) (bool, error) {
	if deliveries < suspectAfter {
		return false, nil
	}
	var excused uint64
	err := w.b.repeat(ctx, func(ctx context.Context) error {
		entry, err := w.b.get(ctx, registryBucket, excuseKey(token, id))
		if isGone(err) {
			return nil
		}
		if err == nil {
			excused, err = strconv.ParseUint(string(entry.Value()), 10, 64)
		}
		return err
	})
	return deliveries >= excused+suspectAfter, err
}

// Start notes that a suspect is about to be asked.
func (w *worker) Start(ctx context.Context, t queue.Task) (deaths int, err error) {
	h := t.Handle.(*taken)
	key := startKey(h.token, t.ID)
	err = w.b.repeat(ctx, func(ctx context.Context) error {
		kv, err := w.b.bucket(ctx, registryBucket, 1)
		if err != nil {
			return err
		}
		entry, err := kv.Get(ctx, key)
		if isGone(err) {
			deaths = 0
			_, err = kv.Create(ctx, key, []byte("1"))
		} else if err == nil {
			deaths, _ = strconv.Atoi(string(entry.Value()))
			_, err = kv.Update(ctx, key, []byte(strconv.Itoa(deaths+1)), entry.Revision())
		}
		if isOvertaken(err) {
			return nats.ErrTimeout // another worker has started it: repeat, and count that one
		}
		return err
	})
	if err == nil {
		h.started = &deaths
	}
	return deaths, err
}

// Renew keeps a request.
func (w *worker) Renew(t queue.Task) error {
	return w.b.nc.Publish(t.Handle.(*taken).reply, []byte("+WPI"))
}

// Finish sends the result of a request.
func (w *worker) Finish(ctx context.Context, t queue.Task, payload []byte) error {
	h := t.Handle.(*taken)
	message, err := w.b.encode(ctx, h.record, 0, payload)
	if err != nil {
		return err
	}
	err = w.b.repeatEach(ctx, confirmTimeout, func(try context.Context) error {
		err := w.b.publish(try, resultSubject(h.token, t.ID), message)
		if errors.Is(err, nats.ErrNoResponders) { // there is no stream, or no leader
			return w.b.jobEnded(ctx, h, err)
		}
		return err
	})
	if err != nil {
		return err
	}
	w.acker.ack(h.reply)
	if h.object != "" {
		w.b.drop(ctx, h.token, h.object)
	}
	if h.started != nil {
		return w.b.purge(ctx, registryBucket, startKey(h.token, t.ID))
	}
	return nil
}

// publish adds a message to a stream. The client library spends a quarter of a worker's
// time on decoding confirmations, of which only the failures matter.
func (b *broker) publish(ctx context.Context, subject string, data []byte) error {
	reply, err := b.nc.RequestWithContext(ctx, subject, data)
	if err != nil || bytes.HasPrefix(reply.Data, []byte(`{"stream":`)) && !bytes.Contains(reply.Data, []byte(`"error"`)) {
		return err
	}
	var confirmation struct {
		Error *jetstream.APIError `json:"error"`
	}
	if json.Unmarshal(reply.Data, &confirmation) != nil || confirmation.Error == nil {
		return jetstream.ErrInvalidJSAck
	}
	return confirmation.Error
}

// jobEnded returns ErrNoJob or ErrCanceled if the job of a request has ended. If not, its
// streams will be restored, and it returns otherwise.
func (b *broker) jobEnded(ctx context.Context, h *taken, otherwise error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*renewEvery+tryTimeout)
	defer cancel()
	r, _, err := b.record(ctx, h.token)
	if isGone(err) && !b.isRemoved(ctx, h.revision) {
		// The servers may have lost their disks. Then the head writes a new record.
		sleep(ctx, 2*renewEvery)
		r, _, err = b.record(ctx, h.token)
	}
	switch {
	case isGone(err):
		return queue.ErrNoJob
	case err == nil && r.Canceled:
		return queue.ErrCanceled
	}
	return otherwise
}

// isRemoved reports whether a record that is gone was removed, because the servers have
// not lost the registry that had it with this revision: a new one begins with a larger
// revision, and one that was restored from an old disk ends with a smaller one.
func (b *broker) isRemoved(ctx context.Context, revision uint64) bool {
	stream, err := b.js.Stream(ctx, bucketStream(registryBucket))
	if err != nil {
		return false
	}
	info := stream.CachedInfo()
	return info.Config.FirstSeq <= revision && revision <= info.State.LastSeq
}

// Return hands back a request.
func (w *worker) Return(t queue.Task, delay time.Duration) error {
	h := t.Handle.(*taken)
	err := w.giveBack(h.token, t.ID, h.reply, h.deliveries, delay)
	if err == nil && !w.b.nc.IsConnected() {
		err = nats.ErrDisconnected // the client library keeps the message for the next connection
	}
	if err != nil || h.started == nil {
		return err
	}
	// This worker has not died: restore the number from before Start.
	ctx, cancel := context.WithTimeout(context.Background(), tryTimeout)
	defer cancel()
	if *h.started == 0 {
		return w.b.purge(ctx, registryBucket, startKey(h.token, t.ID))
	}
	_, err = w.b.put(ctx, registryBucket, startKey(h.token, t.ID), []byte(strconv.Itoa(*h.started)))
	return err
}

// Flush waits until a server has received all messages so far.
func (w *worker) Flush(ctx context.Context) error {
	err := error(nats.ErrDisconnected)
	if w.b.nc.IsConnected() {
		try, cancel := context.WithTimeout(ctx, tryTimeout)
		defer cancel()
		err = w.b.nc.FlushWithContext(try)
	}
	w.b.away.Store(err != nil)
	return err
}

// negative returns the acknowledgment that hands back a message.
func negative(delay time.Duration) []byte {
	if delay <= 0 {
		return []byte("-NAK")
	}
	return fmt.Appendf(nil, `-NAK {"delay": %d}`, delay.Nanoseconds())
}

// Report sets the state that Jobs returns.
func (w *worker) Report(ctx context.Context, s queue.WorkerState) error {
	value, err := json.Marshal(workerReport{WorkerState: s, Name: w.name, Only: w.only})
	if err != nil {
		return err
	}
	w.stopped.Store(s.Stopped)
	_, err = w.b.put(ctx, workersBucket, token(w.name), value)
	return err
}

// Close leaves the queue, and hands back the requests that Take has not returned.
func (w *worker) Close() error {
	w.cancel()
	w.running.Wait()
	w.leave()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	acks, cancelAcks := context.WithTimeout(ctx, confirmTimeout)
	defer cancelAcks()
	connected := w.b.nc.IsConnected() && !w.b.away.Load()
	if !connected {
		cancelAcks() // nothing can be confirmed
	}
	w.acker.close(acks)
	if !connected || w.stopped.Load() {
		return nil // the report expires
	}
	return w.b.purge(ctx, workersBucket, token(w.name))
}
