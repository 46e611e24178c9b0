package natsqueue

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// takeBackTimeout bounds takeBack. The newest requests come first, so that there is
	// room even if it is not enough for all of them.
	takeBackTimeout = 10 * time.Second

	// takeBackAtOnce is the number of requests that are removed at the same time.
	takeBackAtOnce = 32
)

// takeBack removes the requests that no worker has taken. On a full disk, no worker can
// send a result, and no record can be written. The head hands out the requests again.
// Those that workers have taken stay: another worker would ask them a second time.
func (b *broker) takeBack(ctx context.Context, token string) error {
	ctx, cancel := context.WithTimeout(ctx, takeBackTimeout)
	defer cancel()
	return b.repeat(ctx, func(try context.Context) error {
		stream, err := b.js.Stream(try, workStream(token))
		if isGone(err) {
			return nil
		} else if err != nil {
			return err
		}
		info, err := b.workersInfo(try, token)
		if isGone(err) {
			return nil
		} else if err != nil {
			return err
		}
		_, err = b.js.ObjectStore(try, objectBucket(token))
		if info.NumAckPending == 0 && isGone(err) {
			return stream.Purge(try) // unlike single removals, it shrinks a file that is in use
		}
		state := stream.CachedInfo().State
		b.removeMessages(ctx, token, stream, err == nil, state.LastSeq, max(state.FirstSeq, info.Delivered.Stream+1))
		return nil
	})
}

// workersInfo returns the state of the consumer that all workers share.
func (b *broker) workersInfo(ctx context.Context, token string) (*jetstream.ConsumerInfo, error) {
	consumer, err := b.js.Consumer(ctx, workStream(token), workersConsumer)
	if err != nil {
		return nil, err
	}
	info := consumer.CachedInfo()
	if info.Cluster != nil && info.Cluster.Name != "" && info.Cluster.Leader == "" {
		return nil, errNoLeader // it would have nothing pending, and nothing delivered
	}
	return info, nil
}

// removeMessages removes the messages from last down to first. Those that can't be removed
// stay.
func (b *broker) removeMessages(ctx context.Context, token string, stream jetstream.Stream, objects bool, last, first uint64) {
	sequences := make(chan uint64)
	var removing sync.WaitGroup
	for range takeBackAtOnce {
		removing.Go(func() {
			for n := range sequences {
				b.removeMessage(ctx, token, stream, objects, n)
			}
		})
	}
	for n := last; n >= first && ctx.Err() == nil; n-- {
		sequences <- n
	}
	close(sequences)
	removing.Wait()
}

// removeMessage removes a message and, if the job has objects, that of the message.
func (b *broker) removeMessage(ctx context.Context, token string, stream jetstream.Stream, objects bool, n uint64) error {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	var c content
	if objects {
		m, err := stream.GetMsg(ctx, n)
		if err != nil {
			return err
		}
		c, _ = decode(m.Data)
	}
	err := stream.DeleteMsg(ctx, n)
	if err == nil && c.object != "" {
		err = b.drop(ctx, token, c.object)
	}
	return err
}
