package natsqueue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

const (
	// mostUnconfirmed is the largest number of unconfirmed requests.
	mostUnconfirmed = 2048

	// mostUnconfirmedBytes bounds them in bytes, unless there is a single one.
	mostUnconfirmedBytes = 32 << 20

	// sendAgainAfter is the wait before a request that failed is sent again.
	sendAgainAfter = 250 * time.Millisecond

	// settleTimeout bounds the wait until no request is unconfirmed. While more are handed
	// out, that may never be the case.
	settleTimeout = 2 * time.Second

	// silenceIsFull is how long a server confirms no request, although it responds
	// otherwise, before its disk is taken for full. It has stopped the stream then.
	silenceIsFull = 20 * time.Second
)

// A sender sends requests without waiting for their confirmations. It sends a request
// again if the confirmation does not arrive.
type sender struct {
	js       jetstream.JetStream
	job      context.Context // ends with the job, whose error is its cause
	failed   func()          // called after a failure that may come from missing streams
	responds func() bool     // whether the queue responds, apart from the stream
	full     time.Duration

	mu    sync.Mutex
	count int // unconfirmed
	bytes int
	again []*nats.Msg // failed, and still unconfirmed
	since time.Time   // of the first failure after the last confirmation; zero: none
	err   error       // of a request that is not sent again
	freed chan struct{}
	retry chan struct{}
}

func newSender(h *head) (*sender, error) {
	s := &sender{
		job: h.ctx, failed: h.doubt, responds: h.responds, full: silenceIsFull,
		freed: make(chan struct{}, 1), retry: make(chan struct{}, 1),
	}
	js, err := jetstream.New(h.b.nc,
		jetstream.WithPublishAsyncMaxPending(2*mostUnconfirmed), // never reached
		jetstream.WithPublishAsyncTimeout(confirmTimeout),       // without it, a confirmation that is lost is waited for without end
		jetstream.WithPublishAsyncAckHandler(func(_ jetstream.JetStream, m *nats.Msg, _ *jetstream.PubAck) { s.confirmed(m, nil) }),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, m *nats.Msg, err error) { s.unconfirmed(m, err) }),
	)
	s.js = js
	if err == nil {
		h.running.Go(s.sendAgain)
	}
	return s, err
}

// send sends a message as soon as there is room. It returns the error of an earlier one,
// once.
func (s *sender) send(ctx context.Context, subject string, data []byte) error {
	for {
		if err := cmp.Or(context.Cause(ctx), context.Cause(s.job)); err != nil {
			return err
		}
		s.mu.Lock()
		err := s.err
		s.err = nil
		room := s.count < mostUnconfirmed && (s.count == 0 || s.bytes+len(data) <= mostUnconfirmedBytes)
		if err == nil && room {
			s.count++
			s.bytes += len(data)
		}
		s.mu.Unlock()
		if err != nil {
			return err
		}
		if room {
			notify(s.freed) // for another that waits
			s.publish(&nats.Msg{Subject: subject, Data: data})
			return nil
		}
		select {
		case <-ctx.Done():
		case <-s.job.Done():
		case <-s.freed:
		}
	}
}

func (s *sender) publish(m *nats.Msg) {
	if _, err := s.js.PublishMsgAsync(m); err != nil {
		s.unconfirmed(m, err)
	}
}

// settle waits until no publish is outstanding, or until settleTimeout has passed. Those
// that have timed out, or that are to be sent again, are not outstanding.
func (s *sender) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	select {
	case <-s.js.PublishAsyncComplete():
	case <-ctx.Done():
	}
}

// confirmed makes room. The error is kept for the next call of send.
func (s *sender) confirmed(m *nats.Msg, err error) {
	s.mu.Lock()
	s.count--
	s.bytes -= len(m.Data)
	if err == nil {
		s.since = time.Time{}
	} else {
		s.err = err
	}
	s.mu.Unlock()
	notify(s.freed)
}

// unconfirmed handles a failure. The client library may hold its locks.
func (s *sender) unconfirmed(m *nats.Msg, err error) {
	switch {
	case isHeldAlready(err):
		s.confirmed(m, nil)
	case !passing(err) && !isGone(err):
		s.confirmed(m, explain(err))
	case errors.Is(err, jetstream.ErrAsyncPublishTimeout) && s.silent():
		s.confirmed(m, fmt.Errorf("%w, or broken: the servers confirm no request; see their logs", queue.ErrFull))
	default:
		s.mu.Lock()
		s.again = append(s.again, m)
		s.mu.Unlock()
		notify(s.retry)
	}
}

// silent reports whether the stream has been silent for too long. Without its leader, or
// most of its servers, the queue would not respond either, or say so.
func (s *sender) silent() bool {
	responds := s.responds()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since.IsZero() || !responds {
		s.since = time.Now()
	}
	return time.Since(s.since) >= s.full
}

// sendAgain sends the messages that have failed, until the job has ended.
func (s *sender) sendAgain() {
	for {
		select {
		case <-s.job.Done():
			return
		case <-s.retry:
		}
		s.failed()
		if sleep(s.job, sendAgainAfter) != nil {
			return
		}
		s.mu.Lock()
		again := s.again
		s.again = nil
		s.mu.Unlock()
		for _, m := range again {
			s.publish(&nats.Msg{Subject: m.Subject, Data: m.Data})
		}
	}
}

func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
