package natsqueue

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Names of the buckets of keys and values. Keys of the registry are
//
//	job.TOKEN        the record of a job
//	state.TOKEN      the last report of its head
//	start.TOKEN.ID   how often a suspect was started by workers that did not end it
//	excuse.TOKEN.ID  how often a request had been delivered when it was returned last
//
// The other buckets have the reports of workers, which expire, and the [queue.Board].
const (
	registryBucket = "batchinfer"
	workersBucket  = "batchinfer-workers"
	boardBucket    = "batchinfer-board"
)

// forgetWorkers is the time after which a worker that reports nothing is forgotten.
const forgetWorkers = time.Minute

func bucketStream(bucket string) string       { return "KV_" + bucket }
func bucketSubject(bucket, key string) string { return "$KV." + bucket + "." + key }

// bucket returns a bucket, which it makes on as many servers as possible if it does not
// exist, or on more servers than it has, if replicas are more.
func (b *broker) bucket(ctx context.Context, name string, replicas int) (jetstream.KeyValue, error) {
	kv, err := b.js.KeyValue(ctx, name)
	switch {
	case err == nil && replicas <= 1:
		return kv, nil
	case err == nil:
		stream, err := b.js.Stream(ctx, bucketStream(name))
		if err == nil && stream.CachedInfo().Config.Replicas < replicas {
			err = b.makeStream(ctx, bucketConfig(name, replicas))
		}
		return kv, err
	case !isGone(err):
		return nil, err
	}
	if err = b.makeStream(ctx, bucketConfig(name, max(replicas, 3))); err != nil && replicas < 3 {
		err = b.makeStream(ctx, bucketConfig(name, max(replicas, 1)))
	}
	if err != nil {
		return nil, err
	}
	return b.js.KeyValue(ctx, name)
}

// bucketConfig returns the configuration of the stream of a bucket. The client library
// would make the same, except for the first revision.
func bucketConfig(name string, replicas int) jetstream.StreamConfig {
	c := jetstream.StreamConfig{
		Name:              bucketStream(name),
		Subjects:          []string{bucketSubject(name, ">")},
		MaxMsgsPerSubject: 1,
		Replicas:          replicas,
		AllowRollup:       true,
		DenyDelete:        true,
		AllowDirect:       true,
		Discard:           jetstream.DiscardNew,
	}
	if name == workersBucket {
		c.MaxAge = forgetWorkers
		c.Duplicates = forgetWorkers
	}
	return c
}

// keys returns the keys of a bucket that match a pattern, none if there is no bucket, and
// the time by the clock of the server.
func (b *broker) keys(ctx context.Context, bucket, pattern string) (keys []string, now time.Time, err error) {
	stream, err := b.js.Stream(ctx, bucketStream(bucket))
	if err != nil {
		if isGone(err) {
			return nil, now, nil
		}
		return nil, now, err
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(bucketSubject(bucket, pattern)))
	if err != nil {
		return nil, now, err
	}
	prefix := len(bucketSubject(bucket, ""))
	for subject := range info.State.Subjects {
		keys = append(keys, subject[prefix:])
	}
	return keys, info.TimeStamp, nil
}

// get returns a value of a bucket, an error that isGone if it or the bucket does not
// exist.
func (b *broker) get(ctx context.Context, bucket, key string) (jetstream.KeyValueEntry, error) {
	kv, err := b.js.KeyValue(ctx, bucket)
	if err != nil {
		return nil, err
	}
	return kv.Get(ctx, key)
}

// purge removes the keys of a bucket that match a pattern, without the markers that a
// deletion would leave.
func (b *broker) purge(ctx context.Context, bucket, pattern string) error {
	stream, err := b.js.Stream(ctx, bucketStream(bucket))
	if err == nil {
		err = stream.Purge(ctx, jetstream.WithPurgeSubject(bucketSubject(bucket, pattern)))
	}
	if isGone(err) {
		return nil
	}
	return err
}
