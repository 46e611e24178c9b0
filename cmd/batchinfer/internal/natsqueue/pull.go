package natsqueue

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// pullExpires is how long a server keeps a pull. It is short because a pull is lost
	// without notice when the leader of its consumer changes.
	pullExpires = 3 * time.Second

	// pullGather is how long messages of an unfinished pull are collected before the
	// first ones are used.
	pullGather = 2 * time.Millisecond

	// pullBackoff is the wait after a pull that was refused.
	pullBackoff = 250 * time.Millisecond

	// drainTimeout is how long close waits for messages on their way.
	drainTimeout = time.Second

	// pullBytes bounds the payloads that a pull brings.
	pullBytes = 32 << 20
)

// A puller pulls messages from a consumer into a queue in memory. Unlike the Fetch of
// the client library it keeps a message that arrives after its caller has stopped
// waiting, which would otherwise be lost until its redelivery.
type puller struct {
	nc       *nats.Conn
	subject  string // to which pulls are sent
	inbox    string // a pull has this name and its number for its replies
	maxBytes int
	ready    chan<- struct{} // gets a value, if it has room, when messages have arrived or a pull has ended
	refused  func()          // called if the consumer may not exist

	mu         sync.Mutex
	sub        *nats.Subscription // nil: not before the next pull
	queue      []arrival
	number     int       // of the last pull
	left       int       // messages that it may still bring; 0: it has ended
	wait       bool      // its messages become ready together
	some       bool      // it has brought a message
	fruitful   bool      // the last pull that has ended brought a message
	until      time.Time // after this, it counts as lost
	notBefore  time.Time // the next pull is not sent earlier
	reconnects uint64    // of the connection when it was sent; a reconnect loses it
}

// An arrival is a message and the time at which it arrived.
type arrival struct {
	*nats.Msg
	at time.Time
}

func newPuller(nc *nats.Conn, stream, consumer string, ready chan<- struct{}, refused func()) *puller {
	return &puller{
		nc:       nc,
		subject:  "$JS.API.CONSUMER.MSG.NEXT." + stream + "." + consumer,
		inbox:    nc.NewInbox(),
		maxBytes: max(pullBytes, 2*int(nc.MaxPayload())),
		ready:    ready,
		refused:  refused,
	}
}

// subscribe makes messages arrive. The lock is held.
func (p *puller) subscribe() error {
	if p.sub != nil {
		return nil
	}
	sub, err := p.nc.Subscribe(p.inbox+".*", p.arrive)
	if err != nil {
		return err
	}
	p.sub = sub
	return sub.SetPendingLimits(-1, -1) // the pulls bound the number of pending messages
}

// pull asks for messages, unless an earlier pull is under way, or its messages have not
// been taken. With wait, it ends as soon as there is no further message, and its messages
// become ready together.
func (p *puller) pull(batch int, wait bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.left > 0 {
		if now.Before(p.until) && p.reconnects == p.nc.Stats().Reconnects {
			return
		}
		p.left = 0
		p.fruitful = p.some
	}
	if len(p.queue) > 0 || now.Before(p.notBefore) || !p.nc.IsConnected() {
		return
	}
	p.number++
	p.left = batch
	p.wait = wait
	p.some = false
	p.until = now.Add(pullExpires + time.Second)
	p.reconnects = p.nc.Stats().Reconnects
	if p.subscribe() != nil {
		p.left = 0
		return
	}
	request, err := json.Marshal(struct {
		Expires  time.Duration `json:"expires"`
		Batch    int           `json:"batch"`
		MaxBytes int           `json:"max_bytes"`
		NoWait   bool          `json:"no_wait,omitempty"` // with expires: it ends with the first messages
	}{pullExpires, batch, p.maxBytes, wait})
	if err == nil {
		err = p.nc.PublishRequest(p.subject, p.inbox+"."+strconv.Itoa(p.number), request)
	}
	if err != nil {
		p.left = 0
		p.notBefore = now.Add(pullBackoff)
	}
}

// arrive handles a message or the status of a pull.
func (p *puller) arrive(m *nats.Msg) {
	status := ""
	if len(m.Data) == 0 {
		status = m.Header.Get("Status")
	}
	p.mu.Lock()
	if status != "" {
		refused := p.end(m, status)
		p.mu.Unlock()
		if refused {
			p.refused()
		}
		return
	}
	p.queue = append(p.queue, arrival{m, time.Now()})
	p.some = true
	p.left = max(0, p.left-1)
	p.fruitful = p.fruitful || p.left == 0
	gather := p.wait && p.left > 0
	first := len(p.queue) == 1
	p.mu.Unlock()
	switch {
	case !gather:
		p.signal()
	case first:
		time.AfterFunc(pullGather, p.signal)
	}
}

// end handles the status that ends a pull, and reports whether the consumer may not
// exist.
func (p *puller) end(m *nats.Msg, status string) (refused bool) {
	if status == "100" || !strings.HasSuffix(m.Subject, "."+strconv.Itoa(p.number)) {
		return false // a heartbeat, or the end of a pull that counted as lost
	}
	p.left = 0
	p.fruitful = p.some
	switch description := strings.ToLower(m.Header.Get("Description")); {
	case status == "404", status == "408": // there are no further messages
	case strings.Contains(description, "batch completed"),
		strings.Contains(description, "maxbytes"),
		strings.Contains(description, "leadership"): // the next pull may follow immediately
	default:
		refused = true
		p.notBefore = time.Now().Add(pullBackoff)
	}
	p.signal()
	return refused
}

func (p *puller) signal() {
	select {
	case p.ready <- struct{}{}:
	default:
	}
}

// take returns the messages that have arrived, at most limit.
func (p *puller) take(limit int) []arrival {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := min(limit, len(p.queue))
	taken := slices.Clone(p.queue[:n])
	p.queue = slices.Delete(p.queue, 0, n)
	return taken
}

// putBack returns messages that take returned, in front of the others.
func (p *puller) putBack(taken []arrival) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue = append(slices.Clone(taken), p.queue...)
}

// brought reports whether the last pull that has ended has brought a message.
func (p *puller) brought() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fruitful
}

// close ends the pull, until the next one, and returns the messages that have arrived.
// The server delivers none of them to this puller any more.
func (p *puller) close() []arrival {
	p.mu.Lock()
	sub := p.sub
	p.sub = nil
	p.mu.Unlock()
	if sub != nil {
		// Messages on their way would otherwise not be delivered again before AckWait.
		closed := sub.StatusChanged(nats.SubscriptionClosed)
		if !p.nc.IsConnected() {
			sub.Unsubscribe() // nothing is on its way
		} else if sub.Drain() == nil {
			timer := time.NewTimer(drainTimeout)
			defer timer.Stop()
			select {
			case <-closed:
			case <-timer.C: // the server is gone
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	left := p.queue
	p.queue, p.left = nil, 0
	return left
}
