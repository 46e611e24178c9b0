package httpretry

import (
	"io"
	"maps"
	"net/http"
	"sync"
)

// A replay is a body that is buffered while the first attempt reads it, so that
// further attempts can send it again.
//
// While the body is buffered, copies do not call Read of the source. fill does, in
// a goroutine that lasts for one Read. A source that blocks therefore delays
// neither the end of an attempt nor the next attempt. The bytes that it then
// returns are added to the buffer, and the next attempt sends them.
type replay struct {
	req        *http.Request // the caller's
	limit      int64         // on the buffer
	idempotent bool          // attempts have a GetBody
	trailer    http.Header   // a copy of the caller's before the source, which may fill that, is read
	run        func()        // fill; a go statement with it does not allocate
	lease      *lease        // of the current attempt
	first      struct {      // attempt, in place: 3 allocations instead of 6
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
	panicked any         // the value of a panic in Read of the source; nil: none
	reading  bool        // a Read of the source is in progress
	closed   bool        // the source is closed or being closed
}

// A phase is the state of a replay.
type phase uint8

const (
	sending  phase = iota // an attempt is in progress
	deciding              // it has ended, and the decision is pending
	waiting               // another attempt follows
	final                 // none follows; Base may still read the last attempt's copy
	dead                  // Base no longer needs the source or the buffer
)

// newReplay returns the body of req, which is buffered up to limit bytes.
//
// Attempts have a GetBody only if the request is idempotent: with one, net/http
// repeats a request that was possibly processed, after an HTTP/2 PROTOCOL_ERROR.
func newReplay(req *http.Request, limit int64, idempotent bool) *replay {
	r := &replay{req: req, limit: limit, idempotent: idempotent, trailer: maps.Clone(req.Trailer)}
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
	req.Trailer = r.trailer // a Read of an earlier attempt may be filling the caller's
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

// hold implements [body]. Until stop or settle is called no copy reads the source,
// because Base may still be sending and could exceed the limit.
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

func (r *replay) stop() bool {
	r.lease.end(errAttemptOver, true)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.phase = waiting
	if r.end != nil {
		r.buf.trim()
	}
	return r.end == io.EOF
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

// freeLocked frees the buffer if it is neither needed nor being filled.
func (r *replay) freeLocked() {
	if r.phase == dead && !r.reading {
		r.buf.drop(r.buf.end)
	}
}

// closeLocked closes the source, once. It unlocks mu meanwhile. It does not wait
// for a Close during a Read, because the Close may wait for the Read, as that of a
// server's request body does.
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

// fill reads once from the source into the buffer, at most one byte more than the
// limit. That byte shows that the body exceeds the limit.
func (r *replay) fill() {
	r.mu.Lock()
	room := r.buf.room()
	room = room[:1+min(int64(len(room))-1, r.limit-r.buf.end)]
	r.mu.Unlock()
	// The error remains if Read does not return: it panics, or ends the
	// goroutine as t.FailNow does.
	n, err := 0, errSourcePanicked
	defer func() {
		// A panic of the source is repeated in the goroutine in which Base
		// reads, where it can be recovered.
		panicked := recover()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.panicked = panicked
		r.buf.added(n)
		r.end = err
		r.reading = false
		r.freeLocked()
		r.changed.Broadcast()
	}()
	n, err = checkedRead(r.req.Body, room)
}
