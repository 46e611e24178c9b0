package natsqueue

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// ackAgainAfter is the time after which an acknowledgment without confirmation is
	// sent again.
	ackAgainAfter = time.Second

	// ackTries bounds that: the message is gone, with its job, or was delivered again.
	ackTries = 30
)

// An acker acknowledges messages, again if the consumer has not confirmed it. While a
// consumer has no leader, which takes seconds, all acknowledgments get lost, and each
// would be a request that is asked twice. Nobody waits for the confirmations.
type acker struct {
	nc      *nats.Conn
	inbox   string
	sub     *nats.Subscription
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	last    uint64
	pending map[uint64]*pendingAck
	empty   chan struct{} // gets a value when nothing is pending
}

// A pendingAck is an acknowledgment that was not confirmed.
type pendingAck struct {
	subject string
	sent    time.Time
	tries   int
}

func newAcker(nc *nats.Conn) (*acker, error) {
	a := &acker{nc: nc, inbox: nc.NewInbox() + ".", pending: map[uint64]*pendingAck{}, empty: make(chan struct{}, 1)}
	sub, err := nc.Subscribe(a.inbox+"*", a.confirmed)
	if err != nil {
		return nil, err
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil { // the requests that were taken bound the number
		return nil, err
	}
	a.sub = sub
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel = cancel
	a.running.Go(func() {
		for sleep(ctx, ackAgainAfter/2) == nil {
			a.again()
		}
	})
	return a, nil
}

// ack acknowledges the message with this subject for replies.
func (a *acker) ack(subject string) {
	a.mu.Lock()
	a.last++
	number := a.last
	a.pending[number] = &pendingAck{subject: subject, sent: time.Now(), tries: 1}
	a.mu.Unlock()
	a.send(number, subject)
}

// send sends an acknowledgment. It is sent again if that fails.
func (a *acker) send(number uint64, subject string) {
	a.nc.PublishRequest(subject, a.inbox+strconv.FormatUint(number, 10), acknowledge)
}

// confirmed handles a confirmation, or the status that there is no consumer.
func (a *acker) confirmed(m *nats.Msg) {
	if len(m.Data) == 0 && m.Header.Get("Status") != "" {
		return
	}
	number, err := strconv.ParseUint(strings.TrimPrefix(m.Subject, a.inbox), 10, 64)
	if err != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.pending, number)
	if len(a.pending) == 0 {
		notify(a.empty)
	}
}

// again sends the acknowledgments again that were not confirmed for a while.
func (a *acker) again() {
	late := map[uint64]string{}
	a.mu.Lock()
	for number, p := range a.pending {
		switch {
		case time.Since(p.sent) < ackAgainAfter || !a.nc.IsConnected():
		case p.tries == ackTries:
			delete(a.pending, number)
		default:
			p.sent = time.Now()
			p.tries++
			late[number] = p.subject
		}
	}
	a.mu.Unlock()
	for number, subject := range late {
		a.send(number, subject)
	}
}

// close waits until everything is confirmed, or ctx is done.
func (a *acker) close(ctx context.Context) {
	for ctx.Err() == nil {
		a.mu.Lock()
		n := len(a.pending)
		a.mu.Unlock()
		if n == 0 {
			break
		}
		select {
		case <-a.empty:
		case <-ctx.Done():
		}
	}
	a.cancel()
	a.running.Wait()
	a.sub.Unsubscribe() // fails if the connection is closed
}
