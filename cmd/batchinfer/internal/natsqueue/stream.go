package natsqueue

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Names of the consumers. A work queue has one for each message.
const (
	workersConsumer = "workers"
	headConsumer    = "head"
)

// maxWaiting is the number of pulls that may wait, one for each worker.
const maxWaiting = 8192

// resultsAgainAfter is the time after which a result is delivered again that the head
// has not acknowledged. It drops those that it has written.
const resultsAgainAfter = 5 * time.Second

// duplicates is the least time for which a server remembers the ids of messages. There
// are none: it is stated because the default costs memory.
const duplicates = time.Second

// makeStream makes a stream, or changes it if it exists. Its sequence numbers begin at
// the time, in microseconds. So a stream that is made again, because its servers have
// lost their disks, has larger ones than before: an acknowledgment of a message that is
// lost is not that of another one, and the revisions of a bucket grow.
func (b *broker) makeStream(ctx context.Context, c jetstream.StreamConfig) error {
	stream, err := b.js.Stream(ctx, c.Name)
	if isGone(err) {
		c.FirstSeq = uint64(time.Now().UnixMicro())
		_, err = b.js.CreateStream(ctx, c)
		if !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return err
		}
		stream, err = b.js.Stream(ctx, c.Name) // another was faster
	}
	if err != nil {
		return err
	}
	c.FirstSeq = stream.CachedInfo().Config.FirstSeq
	_, err = b.js.UpdateStream(ctx, c)
	return err
}

// workStreamConfig returns the configuration of the stream of requests.
func workStreamConfig(token string, replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:                 workStream(token),
		Subjects:             []string{workSubject(token, "*")},
		Retention:            jetstream.WorkQueuePolicy,
		Discard:              jetstream.DiscardNew,
		DiscardNewPerSubject: true,
		MaxMsgsPerSubject:    1,
		Replicas:             replicas,
		Duplicates:           duplicates,
	}
}

// resultsStreamConfig returns the configuration of the stream of results.
func resultsStreamConfig(token string, replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:       resultsStream(token),
		Subjects:   []string{resultSubject(token, "*")},
		Retention:  jetstream.WorkQueuePolicy,
		Replicas:   replicas,
		Duplicates: duplicates,
	}
}

// workersConsumerConfig returns the configuration of the consumer that all workers
// share.
func workersConsumerConfig(r *record) jetstream.ConsumerConfig {
	most := -1
	if r.MaxInFlight > 0 {
		most = r.MaxInFlight
	}
	return jetstream.ConsumerConfig{
		Durable:       workersConsumer,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       r.DeadAfter,
		MaxDeliver:    -1, // a message with another limit would stay in the work queue for ever
		MaxAckPending: most,
		MaxWaiting:    maxWaiting,
	}
}

// headConsumerConfig returns the configuration of the consumer of the head. Results that
// were on their way when a connection broke are delivered again soon: the head would hand
// out their requests again after some more seconds.
func headConsumerConfig() jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:       headConsumer,
		AckPolicy:     jetstream.AckExplicitPolicy, // acknowledging all before one loses messages of a pull
		AckWait:       resultsAgainAfter,
		MaxDeliver:    -1,
		MaxAckPending: -1,
	}
}
