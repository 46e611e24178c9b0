package httpretry

import (
	"context"
	"io"
	"maps"
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
	source     io.ReadCloser // its body
	limit      int64         // on the buffer
	idempotent bool          // attempts have a GetBody
	run        func()        // fill; a go statement with it does not allocate

	mu      sync.Mutex
	changed sync.Cond // a Read of the source has ended, or phase or attempt has changed
	phase   phase
	attempt *replayAttempt
	first   struct { // the first attempt, in place: it saves 2 of 5 allocations
		replayAttempt
		copy bodyCopy
	}

	buf      recording // from base to the offset of the source
	end      error     // follows the last byte: io.EOF or the error of the source; nil: not known yet
	panicked any       // the value with which Read of the source has panicked
	reading  bool      // a Read of the source is under way
	closed   bool      // the source is, or is about to be
}

// A phase is the state of a replay.
type phase uint8

const (
	sending  phase = iota // an attempt is under way
	deciding              // it has ended; whether another one follows is open, and the source is not read
	waiting               // another one follows; all copies are fenced
	final                 // none follows; the copy that Base still reads is the last user of the buffer
	dead                  // nobody can need the source or the buffer any more
)

// A replayAttempt is the share of one attempt in a replay. Its fields are
// guarded by the replay's mutex.
type replayAttempt struct {
	over    error       // why Reads of its copies fail; nil while it lasts
	sent    *bodyCopy   // the Body of its request, while Base may read it
	latest  *bodyCopy   // the copy that GetBody returned last, while Base may read it
	trailer http.Header // of its request
	unwatch func() bool // ends the watch of its context; nil: there is none
}

// newReplay returns the body of req, which is buffered up to limit bytes.
//
// Attempts have a GetBody only if the request is idempotent: with one, net/http
// repeats a request that was possibly processed, after an HTTP/2 PROTOCOL_ERROR.
func newReplay(req *http.Request, limit int64, idempotent bool) *replay {
	r := &replay{req: req, source: req.Body, limit: limit, idempotent: idempotent}
	r.changed.L = &r.mu
	r.run = r.fill
	return r
}

func (r *replay) untouched() bool { return false }

// start implements body.
func (r *replay) start(req *http.Request, first bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, c := &r.first.replayAttempt, &r.first.copy
	if !first {
		a, c = new(replayAttempt), new(bodyCopy)
	}
	*c = bodyCopy{r: r, attempt: a}
	a.sent, a.trailer = c, ownTrailer(req)
	r.phase, r.attempt = sending, a
	req.Body = c
	if r.idempotent {
		req.GetBody = func() (io.ReadCloser, error) { return r.another(a) }
	}
	if ctx := req.Context(); ctx.Done() != nil {
		a.unwatch = context.AfterFunc(ctx, func() { r.expire(a, context.Cause(ctx)) })
	}
	return nil
}

// another returns a copy for GetBody.
func (r *replay) another(a *replayAttempt) (io.ReadCloser, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case a.over != nil:
		return nil, a.over
	case !r.replayableLocked():
		return nil, errNotReplayable
	}
	a.latest = &bodyCopy{r: r, attempt: a}
	return a.latest, nil
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
	if r.phase == sending {
		r.phase = deciding
	}
	return true
}

// replayableLocked reports whether the buffer has all bytes from the first on,
// and the source can provide the rest.
func (r *replay) replayableLocked() bool {
	return r.phase < final && r.buf.base == 0 && r.buf.end <= r.limit && (!r.closed || r.end != nil)
}

// stop implements body.
func (r *replay) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endLocked(r.attempt, errAttemptOver)
	r.phase = waiting
	if r.end != nil {
		r.buf.trim()
	}
}

// settle implements body. After a response the transport may still be sending
// the body, and closes it when it has finished; after an error it does not.
func (r *replay) settle(failed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.attempt != nil && failed {
		r.endLocked(r.attempt, errAttemptOver)
	}
	r.phase = max(r.phase, final)
	r.changed.Broadcast()
	r.tidyLocked()
}

func (r *replay) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.end == io.EOF {
		return nil
	}
	return r.end
}

// expire ends an attempt whose context is done.
func (r *replay) expire(a *replayAttempt, cause error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.over != nil {
		return
	}
	r.endLocked(a, cause)
	switch {
	case r.req.Context().Err() != nil:
		// Closing the source ends a Read that blocks in it, such as that of a
		// pipe or a connection.
		r.phase = max(r.phase, final)
		r.tidyLocked()
	case !r.replayableLocked():
		r.closeLocked()
	}
}

// endLocked fences the copies of a: their Reads fail with err from now on.
func (r *replay) endLocked(a *replayAttempt, err error) {
	if a.over == nil {
		a.over = err
	}
	a.sent, a.latest = nil, nil
	if a.unwatch != nil {
		a.unwatch()
		a.unwatch = nil
	}
	r.changed.Broadcast()
}

// tidyLocked closes the source and frees the buffer when nobody can need them.
func (r *replay) tidyLocked() {
	if r.phase < final || r.attempt != nil && (r.attempt.sent != nil || r.attempt.latest != nil) {
		return
	}
	r.phase = dead
	r.closeLocked()
	if !r.reading {
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
		go r.source.Close()
		return nil
	}
	r.mu.Unlock()
	defer r.mu.Lock()
	return r.source.Close()
}

// startFillLocked begins to read more of the source into the buffer.
func (r *replay) startFillLocked() {
	r.reading = true
	go r.run()
}

// fill reads once from the source, at most a byte more than the limit: that
// byte tells a body that fits from one that does not.
func (r *replay) fill() {
	r.mu.Lock()
	room := r.buf.room()
	room = room[:min(int64(len(room)), r.limit-r.buf.end+1)]
	r.mu.Unlock()
	var n int
	var err error
	defer func() {
		// Whoever recovers from a panic of the source does so in the goroutine
		// in which Base reads.
		panicked := recover()
		r.mu.Lock()
		defer r.mu.Unlock()
		if panicked != nil {
			r.panicked, err = panicked, errSourcePanicked
		}
		r.buf.added(n)
		r.end = err
		r.reading = false
		r.tidyLocked()
		r.changed.Broadcast()
	}()
	n, err = checkedRead(r.source, room)
}

// A bodyCopy is the body of one attempt's request. Its exported methods take
// the lock of r; the others require it.
type bodyCopy struct {
	r       *replay
	attempt *replayAttempt
	offset  int64
	chunk   *chunk // that was read last; nil: none
	end     error  // what Read returns from now on; nil: not ended
}

// Read implements [io.Reader].
//
// A copy below the base of the buffer has missed bytes; between base and end it
// reads the buffer; at the end it reads the source.
func (c *bodyCopy) Read(p []byte) (int, error) {
	r, a := c.r, c.attempt
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		switch {
		case a.over != nil:
			return 0, a.over
		case c.end != nil:
			return 0, c.end
		case len(p) == 0:
			return 0, nil
		case c.offset < r.buf.base:
			return 0, c.finish(errNotReplayable)
		case c.offset < r.buf.end:
			return c.readBuffer(p), nil
		case r.panicked != nil:
			panic(r.panicked)
		case r.end != nil:
			return 0, c.finish(r.end)
		case r.reading, r.phase == deciding && r.replayableLocked():
			r.changed.Wait()
		case r.replayableLocked():
			r.startFillLocked()
		case !c.last():
			return 0, c.finish(errNotReplayable)
		default:
			return c.readSource(p)
		}
	}
}

// last reports whether c may take bytes that are not kept for another copy:
// it is the request's Body or, when Base does not read that any more, the latest
// of GetBody.
func (c *bodyCopy) last() bool {
	a := c.attempt
	return a.sent == c || a.sent == nil && a.latest == c
}

// readBuffer copies bytes from the buffer, at least one.
func (c *bodyCopy) readBuffer(p []byte) int {
	r := c.r
	n, chunk := r.buf.read(p, c.offset, c.chunk)
	c.offset, c.chunk = c.offset+int64(n), chunk
	if !r.replayableLocked() && c.last() {
		r.buf.drop(c.offset)
		c.chunk = nil
	}
	return n
}

// readSource reads the source itself, when nothing is buffered any more.
func (c *bodyCopy) readSource(p []byte) (int, error) {
	r := c.r
	n, err := c.readUnlocked(p)
	r.buf.skip(n)
	if err != nil {
		r.end = err
	}
	r.tidyLocked()
	if over := c.attempt.over; over != nil {
		return 0, over // and not the error of a source that was closed
	}
	c.offset = r.buf.end
	if err != nil {
		c.finish(err)
	}
	return n, err
}

// readUnlocked reads the source, not under the lock. The source may panic.
func (c *bodyCopy) readUnlocked(p []byte) (int, error) {
	r := c.r
	r.reading = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.reading = false
		r.changed.Broadcast()
	}()
	return checkedRead(r.source, p)
}

// finish ends c with err: Base does not need it any more.
func (c *bodyCopy) finish(err error) error {
	if c.end == nil && err == io.EOF {
		maps.Copy(c.attempt.trailer, c.r.req.Trailer)
	}
	c.end, c.chunk = err, nil
	if c.attempt.sent == c {
		c.attempt.sent = nil
	}
	if c.attempt.latest == c {
		c.attempt.latest = nil
	}
	return err
}

// Close implements [io.Closer]. It closes the source when nobody can need it
// again.
func (c *bodyCopy) Close() error {
	r, a := c.r, c.attempt
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.end == errBodyClosed {
		return nil
	}
	c.finish(errBodyClosed)
	r.changed.Broadcast()
	if a.over != nil {
		return nil
	}
	var err error
	if r.end != nil || a.sent == nil && a.latest == nil && !r.replayableLocked() {
		err = r.closeLocked()
	}
	r.tidyLocked()
	return err
}
