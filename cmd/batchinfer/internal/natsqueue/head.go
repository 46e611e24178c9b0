package natsqueue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

// checkStreams is the time between two looks at whether the streams of a job exist.
const checkStreams = 10 * time.Second

var errClosed = errors.New("the head was closed")

// A head implements [queue.Head].
type head struct {
	b       *broker
	token   string
	ctx     context.Context // its cause is the error of all methods once the job has ended
	cancel  context.CancelCauseFunc
	running sync.WaitGroup
	sender  *sender
	results *puller
	ready   chan struct{} // results have arrived
	suspect chan struct{} // the streams may be gone
	full    atomic.Bool   // HandOut has failed because the disk is full

	mu       sync.Mutex
	record   record
	revision uint64        // of the record
	renewed  time.Time     // when the last successful renewal began
	renewal  chan struct{} // closed by the next renewal
}

// Open makes the caller the head of a job.
func (b *broker) Open(ctx context.Context, job queue.Job) (queue.Head, error) {
	if job.Name == "" || job.DeadAfter <= 0 {
		return nil, fmt.Errorf("a job needs a name and a time after which its workers are dead")
	}
	if job.Replicas == 0 {
		job.Replicas = b.defaultReplicas()
	}
	h := &head{
		b: b, token: token(job.Name), record: *newRecord(job, nuid.Next()),
		ready: make(chan struct{}, 1), suspect: make(chan struct{}, 1), renewal: make(chan struct{}),
	}
	h.ctx, h.cancel = context.WithCancelCause(context.Background())
	start := time.Now()
	// In addition to patience, acquire may wait for another head to become dead.
	acquiring, cancel := context.WithTimeout(ctx, patience+2*job.DeadAfter)
	defer cancel()
	revision, err := b.acquire(acquiring, h.token, &h.record)
	if err != nil {
		return nil, err
	}
	h.revision, h.renewed = revision, start
	if err := h.begin(ctx); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// begin makes the streams, and starts the goroutines that run until Close.
func (h *head) begin(ctx context.Context) error {
	var err error
	if h.sender, err = newSender(h); err != nil {
		return err
	}
	h.running.Go(h.keep) // it uses the sender when the disk is full, as Close does
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := h.b.repeat(ctx, h.makeStreams); err != nil {
		return err
	}
	err = h.b.repeat(ctx, func(ctx context.Context) error {
		// The results that it delivered to an earlier head would be delivered again only
		// after resultsAgainAfter.
		err := h.b.js.DeleteConsumer(ctx, resultsStream(h.token), headConsumer)
		if err != nil && !isGone(err) {
			return err
		}
		_, err = h.b.js.CreateOrUpdateConsumer(ctx, resultsStream(h.token), headConsumerConfig())
		return err
	})
	if err != nil {
		return err
	}
	h.results = newPuller(h.b.nc, resultsStream(h.token), headConsumer, h.ready, h.doubt)
	return nil
}

// makeStreams makes the streams and consumers of the job, or changes those that exist.
func (h *head) makeStreams(ctx context.Context) error {
	r := h.snapshot()
	for _, c := range []jetstream.StreamConfig{workStreamConfig(h.token, r.Replicas), resultsStreamConfig(h.token, r.Replicas)} {
		if err := h.b.makeStream(ctx, c); err != nil {
			return err
		}
	}
	_, err := h.b.js.CreateOrUpdateConsumer(ctx, workStream(h.token), workersConsumerConfig(&r))
	return err
}

// restoreStreams makes the streams and consumers that are missing, because the servers
// have lost their disks.
func (h *head) restoreStreams(ctx context.Context) error {
	_, errWork := h.b.js.Consumer(ctx, workStream(h.token), workersConsumer)
	_, errResults := h.b.js.Consumer(ctx, resultsStream(h.token), headConsumer)
	if errWork == nil && errResults == nil {
		return nil
	}
	if err := errors.Join(errWork, errResults); !isGone(err) {
		return err
	}
	if err := h.makeStreams(ctx); err != nil {
		return err
	}
	_, err := h.b.js.CreateOrUpdateConsumer(ctx, resultsStream(h.token), headConsumerConfig())
	return err
}

// doubt makes keep check the streams.
func (h *head) doubt() {
	select {
	case h.suspect <- struct{}{}:
	default:
	}
}

func (h *head) snapshot() record {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.record
}

// during returns a context that ends with ctx or with the job, and has the cause of that.
func (h *head) during(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(h.ctx, func() { cancel(context.Cause(h.ctx)) })
	if h.ctx.Err() != nil { // AfterFunc is late
		cancel(context.Cause(h.ctx))
	}
	return ctx, func() { stop(); cancel(nil) }
}

// HandOut adds a request to the queue.
func (h *head) HandOut(ctx context.Context, r queue.Request) error {
	record := h.snapshot()
	message, err := h.b.encode(ctx, &record, r.Attempts, r.Line)
	if err == nil {
		err = h.sender.send(ctx, workSubject(h.token, r.ID), message)
	}
	if errors.Is(err, queue.ErrFull) {
		h.full.Store(true)
	}
	return err
}

// Held returns the requests that the queue holds.
func (h *head) Held(ctx context.Context) (map[queue.ID]struct{}, error) {
	ctx, end := h.during(ctx)
	defer end()
	held := map[queue.ID]struct{}{}
	err := h.b.repeat(ctx, func(ctx context.Context) error {
		stream, err := h.b.js.Stream(ctx, workStream(h.token))
		if isGone(err) {
			h.doubt()
			return nil
		}
		if err != nil {
			return err
		}
		info, err := stream.Info(ctx, jetstream.WithSubjectFilter(">"))
		if err != nil {
			return err
		}
		for subject := range info.State.Subjects {
			held[idOf(subject)] = struct{}{}
		}
		return nil
	})
	return held, err
}

// Remove removes a request that the queue holds.
func (h *head) Remove(ctx context.Context, id queue.ID) error {
	ctx, end := h.during(ctx)
	defer end()
	return h.b.repeat(ctx, func(ctx context.Context) error {
		stream, err := h.b.js.Stream(ctx, workStream(h.token))
		if err == nil {
			err = stream.Purge(ctx, jetstream.WithPurgeSubject(workSubject(h.token, id)))
		}
		if isGone(err) {
			return nil
		}
		return err
	})
}

// Limit changes the MaxInFlight of the job.
func (h *head) Limit(ctx context.Context, maxInFlight int) error {
	ctx, end := h.during(ctx)
	defer end()
	h.mu.Lock()
	h.record.MaxInFlight = maxInFlight // keep writes and restores it from now on
	r := h.record
	h.mu.Unlock()
	return h.b.repeat(ctx, func(ctx context.Context) error {
		_, err := h.b.js.UpdateConsumer(ctx, workStream(h.token), workersConsumerConfig(&r))
		if isGone(err) {
			h.doubt()
			return nil
		}
		return err
	})
}

// Report sets the state that Jobs returns.
func (h *head) Report(ctx context.Context, s queue.State) error {
	ctx, end := h.during(ctx)
	defer end()
	value, err := json.Marshal(s)
	if err != nil {
		return err
	}
	_, err = h.b.put(ctx, registryBucket, stateKey(h.token), value)
	return err
}

// Finish removes the job.
func (h *head) Finish(ctx context.Context) error {
	if err := context.Cause(h.ctx); err != nil {
		return err
	}
	if err := h.b.repeat(ctx, h.renew); err != nil { // another head may have the job
		return err
	}
	h.end()
	return h.b.repeat(ctx, func(ctx context.Context) error { return h.b.remove(ctx, h.token) })
}

// Close leaves the job for another head, or removes it if it was canceled. If requests have
// filled the disk, it takes back those that no worker has: without room, workers can't
// finish the others.
func (h *head) Close() error {
	canceled := errors.Is(context.Cause(h.ctx), queue.ErrCanceled)
	ended := h.ctx.Err() != nil
	h.end()
	if h.full.Load() && !ended {
		h.takeBack(context.Background(), h.token) // the record is written if there is room
	}
	ctx, cancel := context.WithTimeout(context.Background(), tryTimeout)
	defer cancel()
	switch {
	case canceled:
		if r, _, err := h.b.record(ctx, h.token); err != nil || r.Owner != h.record.Owner {
			return nil // another head has begun the job again
		}
		return h.b.remove(ctx, h.token)
	case ended:
		return nil
	}
	h.record.Owner = ""
	_, err := h.b.write(ctx, h.token, &h.record, h.revision, h.takeBack)
	return err
}

// takeBack makes room on a full disk. Requests that the servers have not read yet would fill
// it again, so it waits for those first.
func (h *head) takeBack(ctx context.Context, token string) error {
	h.sender.settle(ctx)
	return h.b.takeBack(ctx, token)
}

// end ends the goroutines that begin has started.
func (h *head) end() {
	h.cancel(errClosed)
	h.running.Wait()
	if h.results != nil {
		h.results.close()
	}
}

// remove removes a job: first its requests and results, and its record last.
func (b *broker) remove(ctx context.Context, token string) error {
	if err := b.removeStreams(ctx, token); err != nil {
		return err
	}
	for _, key := range []string{startKey(token, "*"), excuseKey(token, "*"), stateKey(token), jobKey(token)} {
		if err := b.purge(ctx, registryBucket, key); err != nil {
			return err
		}
	}
	return nil
}

// removeStreams removes the requests and results of a job.
func (b *broker) removeStreams(ctx context.Context, token string) error {
	for _, name := range []string{workStream(token), resultsStream(token), objectStream(objectBucket(token))} {
		if err := b.js.DeleteStream(ctx, name); err != nil && !isGone(err) {
			return err
		}
	}
	return nil
}
