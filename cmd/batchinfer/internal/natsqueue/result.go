package natsqueue

import (
	"context"
	"time"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

const (
	// resultBatch is the number of results that a pull brings.
	resultBatch = 1000

	// lookAgain is the time after which a pull that brings nothing is looked after.
	lookAgain = 100 * time.Millisecond
)

var acknowledge = []byte("+ACK")

// A delivered is the handle of a result.
type delivered struct {
	reply  string // for the acknowledgment
	object string // of the payload
}

// Results waits for results.
func (h *head) Results(ctx context.Context, limit int) ([]queue.Result, error) {
	ctx, end := h.during(ctx)
	defer end()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		arrivals := h.results.take(limit)
		if len(arrivals) == 0 {
			h.results.pull(resultBatch, false)
			timer.Reset(lookAgain)
			select {
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			case <-h.ready:
			case <-timer.C:
			}
			continue
		}
		results, n, err := h.decode(ctx, arrivals)
		if err == nil {
			err = h.hold(ctx)
		}
		if err != nil {
			h.results.putBack(arrivals)
			return nil, err
		}
		h.results.putBack(arrivals[n:])
		if len(results) > 0 {
			return results, nil
		}
	}
}

// decode returns the results that the first n messages consist of. The others would take
// too much memory.
func (h *head) decode(ctx context.Context, arrivals []arrival) (results []queue.Result, n int, err error) {
	loaded := 0
	for n < len(arrivals) && loaded < h.b.mostLoaded {
		a := arrivals[n]
		n++
		c, err := decode(a.Data)
		if err == nil {
			err = h.b.load(ctx, h.token, &c)
		}
		switch {
		case isUseless(err):
			// The head hands out the request again, since the queue does not hold it.
			h.b.nc.Publish(a.Reply, acknowledge)
			continue
		case err != nil:
			return nil, 0, err
		}
		if c.object != "" {
			loaded += len(c.payload)
		}
		results = append(results, queue.Result{ID: idOf(a.Subject), Payload: c.payload, Handle: delivered{a.Reply, c.object}})
	}
	return results, n, nil
}

// Pending returns the number of results that the queue holds.
func (h *head) Pending(ctx context.Context) (n int, err error) {
	ctx, end := h.during(ctx)
	defer end()
	err = h.b.repeat(ctx, func(ctx context.Context) error {
		stream, err := h.b.js.Stream(ctx, resultsStream(h.token))
		if isGone(err) {
			h.doubt()
			return nil
		}
		if err == nil {
			n = int(stream.CachedInfo().State.Msgs)
		}
		return err
	})
	return n, err
}

// Ack removes results from the queue. An acknowledgment that is lost makes the queue
// deliver the result again.
func (h *head) Ack(results []queue.Result) error {
	if err := h.ended(); err != nil {
		return err
	}
	for _, r := range results {
		d := r.Handle.(delivered)
		if err := h.b.nc.Publish(d.reply, acknowledge); err != nil {
			return err
		}
		if d.object != "" {
			h.b.drop(h.ctx, h.token, d.object) // otherwise it disappears with the job
		}
	}
	return nil
}
