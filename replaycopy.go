package httpretry

// A replayCopy is a copy of the body from its first byte on. Its exported
// methods take the lock of r; the others require it.
type replayCopy struct {
	r      *replay
	offset int64
	at     cursor // of offset
	closed bool
}

// Read implements [io.Reader].
//
// A copy whose offset is before the base of the buffer has missed bytes. Between
// base and end it reads the buffer, and at the end the source.
func (c *replayCopy) Read(p []byte) (int, error) {
	r := c.r
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, errBodyClosed
		case c.offset < r.buf.base:
			return 0, errNotReplayable
		case c.offset < r.buf.end:
			return c.readBuffer(p), nil
		case r.panicked != nil:
			panic(r.panicked)
		case r.end != nil:
			return 0, r.end
		case r.reading, r.phase != sending && r.replayableLocked():
			r.changed.Wait()
		case r.replayableLocked():
			r.reading = true
			go r.run()
		case r.sent != nil && r.sent != c:
			return 0, errNotReplayable // only the Body reads bytes that are not buffered
		default:
			return c.readSource(p)
		}
	}
}

// readBuffer copies bytes from the buffer, at least one.
func (c *replayCopy) readBuffer(p []byte) int {
	r := c.r
	n := r.buf.read(p, c.offset, &c.at)
	c.offset += int64(n)
	// Not while fill writes to the last chunk, which drop may free.
	if !r.replayableLocked() && !r.reading && (r.sent == nil || r.sent == c) {
		r.buf.drop(c.offset)
	}
	return n
}

// readSource reads the source directly, when bytes are no longer buffered.
func (c *replayCopy) readSource(p []byte) (int, error) {
	r := c.r
	n, err := c.readUnlocked(p)
	r.buf.skip(n)
	c.offset = r.buf.end
	if err != nil {
		r.end = err
	}
	return n, err
}

// readUnlocked reads the source without holding r.mu. The source may panic.
func (c *replayCopy) readUnlocked(p []byte) (int, error) {
	r := c.r
	r.reading = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.reading = false
		r.changed.Broadcast()
	}()
	return checkedRead(r.req.Body, p)
}

// Close implements [io.Closer]. It closes the source if no other copy can need it.
func (c *replayCopy) Close() error {
	r := c.r
	r.mu.Lock()
	defer r.mu.Unlock()
	c.closed, c.at = true, cursor{}
	if r.sent == c {
		r.sent = nil
	}
	r.changed.Broadcast()
	if r.end != nil || r.sent == nil && !r.replayableLocked() {
		return r.closeLocked()
	}
	return nil
}
