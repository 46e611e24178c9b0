package httpretry

import (
	"io"
	"net/http"
	"sync"
)

// A replay is a body that is buffered while the first attempt reads it, so that
// further attempts can send it again.
//
// No copy calls Read on the source while it is buffered: fill does, in a
// goroutine of its own that lasts for that one Read. So a source that blocks
// delays neither the end of an attempt nor the next one, and the bytes that it
// then returns are in the buffer, where the next attempt finds them.
type replay struct {
	req        *http.Request // the caller's
	limit      int64         // on the buffer
	idempotent bool          // attempts have a GetBody
	run        func()        // fill; a go statement with it does not allocate
	lease      *lease        // of the current attempt
	first      struct {      // attempt, in place: 3 allocations in place of 6
		lease
		leasedBody
		replayCopy
	}

	mu       sync.Mutex
	changed  sync.Cond // a Read of the source has ended, or phase has changed
	phase    phase
	sent     *replayCopy // the Body of the current attempt; nil once it is closed
	buf      recording   // from base to the offset of the source
	end      error       // follows the last byte: io.EOF or the error of the source; nil: not known yet
	panicked any         // the value with which Read of the source has panicked
	reading  bool        // a Read of the source is under way
	closed   bool        // the source is, or is about to be
}

// A phase is the state of a replay.
type phase uint8

const (
	sending  phase = iota // an attempt is under way
	deciding              // it has ended, and whether another one follows is open
	waiting               // another one follows
	final                 // none follows; Base may still read the last one's copy
	dead                  // nobody needs the source or the buffer any more
)

// newReplay returns the body of req, which is buffered up to limit bytes.
//
// Attempts have a GetBody only if the request is idempotent: with one, net/http
// repeats a request that was possibly processed, after an HTTP/2 PROTOCOL_ERROR.
func newReplay(req *http.Request, limit int64, idempotent bool) *replay {
	r := &replay{req: req, limit: limit, idempotent: idempotent}
	r.changed.L = &r.mu
	r.run = r.fill
	return r
}

func (r *replay) untouched() bool { return false }

func (r *replay) start(req *http.Request, first bool) error {
	l, b, c := &r.first.lease, &r.first.leasedBody, &r.first.replayCopy
	if !first {
		l, b, c = new(lease), new(leasedBody), new(replayCopy)
	}
	c.r, b.source = r, c
	r.mu.Lock()
	r.phase, r.sent = sending, c
	r.mu.Unlock()
	r.lease = l
	l.begin(r.req, req, true, r)
	req.Body = l.lend(b)
	if r.idempotent {
		req.GetBody = func() (io.ReadCloser, error) { return l.renew(r.copy) }
	}
	return nil
}

// copy returns a further copy for the current attempt.
func (r *replay) copy() (io.ReadCloser, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.replayableLocked() {
		return nil, errNotReplayable
	}
	return &replayCopy{r: r}, nil
}

// hold implements body. Meanwhile no copy reads the source: the transport may
// still be sending, and could exceed the limit.
func (r *replay) hold() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	// A source that failed would fail the next attempt at the same offset.
	if !r.replayableLocked() || r.end != nil && r.end != io.EOF {
		return false
	}
	r.phase = deciding
	return true
}

// replayableLocked reports whether the buffer has all bytes from the first on,
// and the source can provide the rest.
func (r *replay) replayableLocked() bool {
	return r.phase < final && r.buf.base == 0 && r.buf.end <= r.limit && (!r.closed || r.end != nil)
}

func (r *replay) stop() {
	r.lease.end(errAttemptOver, true)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.phase = waiting
	if r.end != nil {
		r.buf.trim()
	}
}

func (r *replay) settle(failed bool) {
	r.mu.Lock()
	r.phase = max(r.phase, final)
	r.changed.Broadcast()
	r.mu.Unlock()
	r.lease.settle(failed)
}

func (r *replay) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.end == io.EOF {
		return nil
	}
	return r.end
}

// release implements releaser.
func (r *replay) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.phase = dead
	r.closeLocked()
	r.freeLocked()
}

// freeLocked frees the buffer when nobody reads or fills it.
func (r *replay) freeLocked() {
	if r.phase == dead && !r.reading {
		r.buf.drop(r.buf.end)
	}
}

// closeLocked closes the source, once, and not under the lock. A Close may wait
// for a Read that is under way, as that of a server's request body does, and
// nobody waits for that here.
func (r *replay) closeLocked() error {
	if r.closed {
		return nil
	}
	r.closed = true
	if r.reading {
		go r.req.Body.Close()
		return nil
	}
	r.mu.Unlock()
	defer r.mu.Lock()
	return r.req.Body.Close()
}

// fill reads once from the source into the buffer, at most a byte more than the
// limit: that byte tells a body that fits from one that does not.
func (r *replay) fill() {
	r.mu.Lock()
	room := r.buf.room()
	room = room[:min(int64(len(room)), r.limit-r.buf.end+1)]
	r.mu.Unlock()
	var n int
	var err error
	defer func() {
		// A panic of the source is for the goroutine in which Base reads,
		// where it can be recovered.
		panicked := recover()
		r.mu.Lock()
		defer r.mu.Unlock()
		if panicked != nil {
			r.panicked, err = panicked, errSourcePanicked
		}
		r.buf.added(n)
		r.end = err
		r.reading = false
		r.freeLocked()
		r.changed.Broadcast()
	}()
	n, err = checkedRead(r.req.Body, room)
}
