package natsqueue

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

// checkBoard is the time between two checks that the watched bucket still exists.
const checkBoard = 5 * time.Second

// watchAgainAfter is the wait before a board is watched again after a failure.
const watchAgainAfter = 500 * time.Millisecond

// A board implements [queue.Board].
type board struct{ b *broker }

// Board returns the values that all workers see.
func (b *broker) Board() queue.Board { return board{b} }

// Put sets a value.
func (b board) Put(ctx context.Context, key string, value []byte) (uint64, error) {
	return b.b.put(ctx, boardBucket, key, value)
}

// Delete removes a key. It leaves a marker, which watchers receive.
func (b board) Delete(ctx context.Context, key string) error {
	return b.b.repeat(ctx, func(ctx context.Context) error {
		kv, err := b.b.js.KeyValue(ctx, boardBucket)
		if err == nil {
			err = kv.Delete(ctx, key)
		}
		if isGone(err) {
			return nil
		}
		return err
	})
}

// Watch sends all values whose key begins with prefix, and then each change.
func (b board) Watch(ctx context.Context, prefix string) (<-chan queue.Entry, error) {
	w := &watch{b: b.b, pattern: prefix + ">", entries: make(chan queue.Entry), seen: map[string]uint64{}}
	go func() {
		defer close(w.entries)
		for {
			w.run(ctx)
			if sleep(ctx, watchAgainAfter) != nil {
				return
			}
		}
	}()
	return w.entries, nil
}

// A watch follows the keys of a board that match a pattern.
type watch struct {
	b       *broker
	pattern string
	entries chan queue.Entry
	seen    map[string]uint64 // the revisions of all keys that exist
}

// run follows a bucket until it is interrupted.
func (w *watch) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	kv, made, err := w.bucket(ctx)
	if err != nil {
		return
	}
	watcher, err := kv.Watch(ctx, w.pattern)
	if err != nil {
		return
	}
	defer watcher.Stop()
	ticker := time.NewTicker(checkBoard)
	defer ticker.Stop()
	before := w.seen // keys that no longer exist, unless they are among the first values
	w.seen = map[string]uint64{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if _, now, err := w.bucket(ctx); err == nil && !now.Equal(made) {
				return // the servers have lost their disks, and it was made again
			}
		case entry, ok := <-watcher.Updates():
			switch {
			case !ok:
				return
			case entry != nil:
				w.change(ctx, entry, before)
			default: // the first values are complete
				w.gone(ctx, before)
				before = nil
			}
		}
	}
}

// bucket returns the bucket of the board, and when it was made.
func (w *watch) bucket(ctx context.Context) (jetstream.KeyValue, time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	kv, err := w.b.bucket(ctx, boardBucket, 1)
	if err != nil {
		return nil, time.Time{}, err
	}
	stream, err := w.b.js.Stream(ctx, bucketStream(boardBucket))
	if err != nil {
		return nil, time.Time{}, err
	}
	return kv, stream.CachedInfo().Created, nil
}

// change sends a value or a removal, unless it was sent before the interruption.
func (w *watch) change(ctx context.Context, entry jetstream.KeyValueEntry, before map[string]uint64) {
	e := queue.Entry{Key: entry.Key(), Revision: entry.Revision()}
	old, existed := before[e.Key]
	delete(before, e.Key)
	if entry.Operation() == jetstream.KeyValuePut {
		e.Value = entry.Value()
		if e.Value == nil {
			e.Value = []byte{}
		}
		w.seen[e.Key] = e.Revision
		if existed && old == e.Revision {
			return
		}
	} else {
		delete(w.seen, e.Key)
	}
	w.send(ctx, e)
}

// gone sends the removal of keys that were removed during an interruption.
func (w *watch) gone(ctx context.Context, keys map[string]uint64) {
	for key, revision := range keys {
		w.send(ctx, queue.Entry{Key: key, Revision: revision})
	}
}

func (w *watch) send(ctx context.Context, e queue.Entry) {
	select {
	case w.entries <- e:
	case <-ctx.Done():
	}
}
