package natsqueue

import (
	"context"
	"errors"
	"time"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

// renewEvery is the longest time between two renewals of the record of a job. It is also
// the time in which a head learns that its job was canceled.
const renewEvery = 2 * time.Second

// keep renews the record of the job, and restores its streams, until the job has ended.
func (h *head) keep() {
	every := min(renewEvery, h.snapshot().DeadAfter/4)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	checked := time.Now()
	for {
		doubtful := false
		select {
		case <-h.ctx.Done():
			return
		case <-ticker.C:
		case <-h.suspect:
			doubtful = true
		}
		// The record comes first: a canceled job has no streams.
		if err := h.renew(h.ctx); err != nil {
			continue // repeated with the next tick
		}
		if doubtful || time.Since(checked) >= checkStreams {
			ctx, cancel := context.WithTimeout(h.ctx, tryTimeout)
			if h.restoreStreams(ctx) == nil {
				checked = time.Now()
			}
			cancel()
		}
	}
}

// renew renews the record of the job once. It ends the head if that has lost the job.
func (h *head) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	start := time.Now()
	h.mu.Lock()
	r, revision := h.record, h.revision
	h.mu.Unlock()
	kv, err := h.b.bucket(ctx, registryBucket, r.Replicas)
	if err != nil {
		return err
	}
	next, err := kv.Update(ctx, jobKey(h.token), r.encode(), revision)
	if isFull(err) && h.takeBack(ctx, h.token) == nil { // they are lost, as HandOut permits
		next, err = kv.Update(ctx, jobKey(h.token), r.encode(), revision)
	}
	if isOvertaken(err) || isGone(err) {
		next, err = h.rewrite(ctx, &r)
	}
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.revision, h.renewed = next, start
	close(h.renewal)
	h.renewal = make(chan struct{})
	return nil
}

// rewrite handles a record with another revision than the head has seen. It was written
// by an earlier renewal whose response was lost, by Cancel, or by another head, or it is
// missing because the servers have lost their disks.
func (h *head) rewrite(ctx context.Context, r *record) (uint64, error) {
	found, revision, err := h.b.record(ctx, h.token)
	kv, errBucket := h.b.bucket(ctx, registryBucket, r.Replicas)
	switch {
	case errBucket != nil:
		return 0, errBucket
	case isGone(err):
		return kv.Create(ctx, jobKey(h.token), r.encode())
	case err != nil:
		return 0, err
	case found.Owner != r.Owner && found.Replaces == r.Owner:
		h.cancel(queue.ErrCanceled)
		return 0, queue.ErrCanceled
	case found.Owner != r.Owner:
		h.cancel(queue.ErrLost)
		return 0, queue.ErrLost
	case found.Canceled:
		h.cancel(queue.ErrCanceled)
		return 0, queue.ErrCanceled
	}
	return kv.Update(ctx, jobKey(h.token), r.encode(), revision)
}

// hold waits until the head has renewed its record recently. A head that was suspended, or
// did not reach the queue, may have been replaced.
func (h *head) hold(ctx context.Context) error {
	for {
		h.mu.Lock()
		fresh := time.Since(h.renewed) < h.record.DeadAfter/2
		renewal := h.renewal
		h.mu.Unlock()
		if err := context.Cause(ctx); err != nil || fresh {
			return err
		}
		select {
		case <-ctx.Done():
		case <-renewal:
		}
	}
}

// responds reports whether the last renewal was not long ago.
func (h *head) responds() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Since(h.renewed) < 2*renewEvery
}

// ended returns why the job has ended for the head, or nil.
func (h *head) ended() error {
	if err := context.Cause(h.ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
