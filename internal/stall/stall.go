// Package stall detects transfers that do not make enough progress.
package stall

import (
	"sync"
	"time"
)

// parts is the number of parts that the average of a rate is taken over. A
// transfer that becomes too slow is found after the limit and one part of it.
const parts = 10

// pollInterval is the longest time between two calls of a function given to
// [Watch.StartPolling].
const pollInterval = 100 * time.Millisecond

// Limits are the limits of a transfer.
type Limits struct {
	Idle time.Duration // the longest time without a byte; positive
	Rate int64         // the least number of bytes per second, averaged over Idle; 0: any
}

// A Watch has the clock of one transfer. The clock runs from Start to Stop, while
// the other side should make progress. When it has run too long for the progress
// made, the transfer has stalled.
//
// A Watch has no goroutine, and its timer expires at most once after Stop. Its
// methods are safe for concurrent use.
type Watch struct {
	limits  Limits
	newErr  func(n int64, slow bool) error
	stalled func(error)

	part  time.Duration // of limits.Idle
	least float64       // bytes in limits.Idle

	mu      sync.Mutex
	epoch   time.Time   // of since
	timer   *time.Timer // nil before the first Start
	armed   bool        // timer will expire
	running bool
	ended   bool
	err     error        // of the stall; nil: there was none
	poll    func() int64 // returns the bytes transferred; nil: Start and Stop get them
	polled  int64        // its last result

	since time.Duration // the clock has been counted until then
	idle  time.Duration // of the clock without a byte
	n     int64         // bytes transferred

	// The last bytes, only if there is a rate.
	recent  [parts]int64  // by part of the clock; a ring
	sum     int64         // of recent
	current int           // index of the current part
	spent   time.Duration // of the current part
	filled  int           // number of parts that have passed, up to parts
}

// NewWatch returns a Watch whose clock is stopped. When the transfer stalls, stalled is
// called once with the error that newErr returns. n is the number of bytes that
// were transferred, and slow reports whether there were some within Idle. newErr
// must not call methods of the Watch. stalled is called in a goroutine of its own
// or by Stop.
func NewWatch(limits Limits, newErr func(n int64, slow bool) error, stalled func(error)) *Watch {
	return &Watch{
		limits: limits, newErr: newErr, stalled: stalled,
		part:  max(limits.Idle/parts, 1),
		least: float64(limits.Rate) * limits.Idle.Seconds(),
		epoch: time.Now(),
	}
}

// Start starts the clock. n bytes have been transferred since the last call.
func (w *Watch) Start(n int) { w.start(n, nil) }

// StartPolling starts the clock of a transfer during which poll returns the number
// of bytes transferred since this call.
func (w *Watch) StartPolling(poll func() int64) {
	w.Stop(0)
	w.start(0, poll)
}

func (w *Watch) start(n int, poll func() int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running || w.ended {
		return
	}
	w.add(int64(n))
	w.running, w.poll, w.polled = true, poll, 0
	w.since = time.Since(w.epoch)
	if !w.armed || poll != nil {
		w.arm()
	}
}

// Stop stops the clock. n bytes have been transferred since the last call. It
// returns the error of the stall if there was one.
func (w *Watch) Stop(n int) error {
	w.mu.Lock()
	slow := false
	if w.running {
		// Reading the clock takes as long as the rest.
		if n == 0 || w.least > 0 {
			slow = w.count()
		}
		w.running = false
	}
	w.add(int64(n))
	failed := slow && w.failLocked(true)
	err := w.err
	w.mu.Unlock()
	if failed {
		w.stalled(err)
	}
	return err
}

// End stops the clock permanently. It returns the error of the stall if there was
// one. If there was none, stalled is not called later.
func (w *Watch) End() error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended, w.running, w.poll = true, false, nil
	if w.armed {
		w.armed = !w.timer.Stop()
	}
	return w.err
}

// expire is called by the timer. Stop leaves the timer running, because it would take
// longer to stop it and to set it again than to find here that nothing has stalled.
func (w *Watch) expire() {
	w.mu.Lock()
	w.armed = false
	if !w.running {
		w.mu.Unlock()
		return
	}
	slow := w.count()
	failed := false
	if slow || w.idle >= w.limits.Idle {
		failed = w.failLocked(w.idle < w.limits.Idle)
	} else {
		w.arm()
	}
	err := w.err
	w.mu.Unlock()
	if failed {
		w.stalled(err)
	}
}

// failLocked makes the error of the stall. It reports false if there is one already,
// or the Watch has ended.
func (w *Watch) failLocked(slow bool) bool {
	if w.err != nil || w.ended {
		return false
	}
	w.err = w.newErr(w.n, slow)
	w.running = false
	return true
}

// arm sets the timer to the next moment at which the transfer can have stalled.
func (w *Watch) arm() {
	d := w.limits.Idle - w.idle
	if w.least > 0 {
		d = min(d, w.part-w.spent)
	}
	if w.poll != nil {
		d = min(d, pollInterval, w.part)
	}
	w.armed = true
	if w.timer == nil {
		w.timer = time.AfterFunc(d, w.expire)
	} else {
		w.timer.Reset(d)
	}
}

// add counts n bytes.
func (w *Watch) add(n int64) {
	if n > 0 {
		w.idle = 0
		w.n += n
		w.recent[w.current] += n
		w.sum += n
	}
}

// count counts the time since the last call and, if the transfer is polled, its
// bytes. It reports whether the transfer is slower than the rate.
func (w *Watch) count() (slow bool) {
	now := time.Since(w.epoch)
	elapsed := now - w.since
	w.since = now
	w.idle += elapsed
	if w.least > 0 {
		slow = w.turn(elapsed)
	}
	if w.poll != nil {
		n := w.poll()
		w.add(n - w.polled)
		w.polled = max(n, w.polled)
	}
	return slow
}

// turn moves the current part by elapsed. It reports whether the parts before it
// had too few bytes.
func (w *Watch) turn(elapsed time.Duration) (slow bool) {
	w.spent += elapsed
	for w.spent >= w.part {
		w.spent -= w.part
		if w.filled = min(w.filled+1, parts); w.filled == parts && float64(w.sum) < w.least {
			return true
		}
		w.current = (w.current + 1) % parts
		w.sum -= w.recent[w.current]
		w.recent[w.current] = 0
	}
	return false
}
