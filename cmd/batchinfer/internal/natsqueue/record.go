package natsqueue

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

// A record is the value of a job in the registry.
type record struct {
	Name        string        `json:"name"`
	Owner       string        `json:"owner"` // a random name of the head; empty: it has left the job
	Canceled    bool          `json:"canceled,omitempty"`
	Replaces    string        `json:"replaces,omitempty"` // the owner of a canceled job of the same name
	MaxInFlight int           `json:"max_in_flight"`
	Window      int           `json:"window"`
	DeadAfter   time.Duration `json:"dead_after"`
	MaxDeaths   int           `json:"max_deaths"`
	Replicas    int           `json:"replicas"`
}

func newRecord(job queue.Job, owner string) *record {
	return &record{
		Name: job.Name, Owner: owner, MaxInFlight: job.MaxInFlight, Window: job.Window,
		DeadAfter: job.DeadAfter, MaxDeaths: job.MaxDeaths, Replicas: max(1, job.Replicas),
	}
}

func jobKey(token string) string { return "job." + token }

// encode returns the value of a record.
func (r *record) encode() []byte {
	value, err := json.Marshal(r)
	if err != nil {
		panic(err) // it consists of plain values
	}
	return value
}

// record returns the record of a job and its revision. The error isGone if there is no
// such job.
func (b *broker) record(ctx context.Context, token string) (*record, uint64, error) {
	entry, err := b.get(ctx, registryBucket, jobKey(token))
	if err != nil {
		return nil, 0, err
	}
	r := &record{}
	if err := json.Unmarshal(entry.Value(), r); err != nil {
		return nil, 0, err
	}
	return r, entry.Revision(), nil
}

// acquire makes the owner of a new record that of the job, and returns the revision. If
// the job has another owner, it waits until that renews the record, or has not done so
// for the time after which it is dead. If the job was canceled, it waits only until the
// owner had the time to see that and to remove the record.
func (b *broker) acquire(ctx context.Context, token string, next *record) (revision uint64, err error) {
	var seen *record
	var seenRevision uint64
	var since time.Time
	for {
		current, revision, err := b.find(ctx, token)
		if err != nil {
			return 0, err
		}
		free := current == nil || current.Owner == ""
		switch {
		case free:
		case current.Owner == next.Owner: // the response to write was lost
			return revision, nil
		case seen == nil:
			seen, seenRevision, since = current, revision, time.Now()
		case revision != seenRevision && current.Canceled == seen.Canceled:
			return 0, queue.ErrRunning
		}
		if free || time.Since(since) >= current.mayLive() {
			if !free && current.Canceled {
				next.Replaces = current.Owner
			}
			revision, err = b.write(ctx, token, next, revision, b.takeBack)
			if !isOvertaken(err) {
				return revision, err
			}
			continue // the record shows by whom
		}
		if err := sleep(ctx, min(seen.DeadAfter/10, time.Second)); err != nil {
			return 0, err
		}
	}
}

// mayLive returns how long a head may be silent before another can take its job.
func (r *record) mayLive() time.Duration {
	if r.Canceled {
		return min(r.DeadAfter, 2*renewEvery)
	}
	return r.DeadAfter
}

// find returns the record of a job and its revision, or nil if there is no such job.
func (b *broker) find(ctx context.Context, token string) (r *record, revision uint64, err error) {
	err = b.repeat(ctx, func(ctx context.Context) error {
		r, revision, err = b.record(ctx, token)
		if isGone(err) {
			r, revision, err = nil, 0, nil
		}
		return err
	})
	return r, revision, err
}

// write writes the record of a job, if it has the given revision; 0: it must not exist.
// If the disk is full, it tries once more after it has made room.
func (b *broker) write(ctx context.Context, token string, r *record, revision uint64, makeRoom func(context.Context, string) error) (uint64, error) {
	put := func(ctx context.Context) error {
		kv, err := b.bucket(ctx, registryBucket, r.Replicas)
		if err != nil {
			return err
		}
		if revision == 0 {
			revision, err = kv.Create(ctx, jobKey(token), r.encode())
			return err
		}
		next, err := kv.Update(ctx, jobKey(token), r.encode(), revision)
		if err == nil {
			revision = next
		}
		return err
	}
	err := b.repeat(ctx, put)
	if errors.Is(err, queue.ErrFull) {
		if makeRoom(ctx, token) == nil {
			err = b.repeat(ctx, put)
		}
	}
	return revision, err
}

// sleep waits, or returns the cause why ctx is done.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// put writes a value of a bucket, which it makes if need be.
func (b *broker) put(ctx context.Context, bucket, key string, value []byte) (revision uint64, err error) {
	err = b.repeat(ctx, func(ctx context.Context) error {
		kv, err := b.bucket(ctx, bucket, 1)
		if err != nil {
			return err
		}
		revision, err = kv.Put(ctx, key, value)
		return err
	})
	return revision, err
}
