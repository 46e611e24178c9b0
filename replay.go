package httpretry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"reflect"
	"sync"
	"syscall"
)

var (
	errAttemptOver   = errors.New("httpretry: the attempt that this request body belonged to is over")
	errBodyClosed    = errors.New("httpretry: read of a closed request body")
	errNotReplayable = errors.New("httpretry: the request body can't be sent again")
)

// replaysItself reports whether req can be sent again without any help.
func replaysItself(req *http.Request) bool { return !hasBody(req) || req.GetBody != nil }

func hasBody(req *http.Request) bool { return req.Body != nil && req.Body != http.NoBody }

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}

// A replay gives every attempt its own copy of one request body that has no
// GetBody. What it can seek in, it reads again; of anything else it keeps a
// bounded recording, made while the first attempt reads.
//
// net/http may go on reading a body, and close it, after RoundTrip has
// returned. A copy therefore has an offset of its own, and is fenced as soon as
// its attempt is over. And no copy calls Read on a source that is recorded:
// fill does, in a goroutine of its own that lasts for that one Read, so that a
// source which blocks holds up neither the end of an attempt nor the next one,
// and what it then returns belongs to the recording.
type replay struct {
	ctx    context.Context // the caller's
	at     io.ReaderAt     // the source, if it can seek; nothing is recorded then
	start  int64           // where it stood
	length int64           // from there to its end; negative: not known
	limit  int64           // on the recording; negative: the source is only watched
	repeat bool            // net/http may replay too

	mu      sync.Mutex
	changed sync.Cond // a Read of the source ended, or copies were fenced
	source  io.ReadCloser
	busy    int         // Reads of the source that are under way
	unwatch func() bool // ends the wait for ctx
	closed  bool        // the source is, or is about to be
	settled bool        // the outcome is final: no further attempt
	held    bool        // no copy may read beyond what is recorded
	filling bool        // a Read into the recording is under way

	sending bool      // the copy that is sent may still read
	latest  *bodyCopy // the last one by GetBody, if that may still read
	taker   *bodyCopy // has had what is kept for no other copy; nil: none has
	attempt int       // copies of earlier attempts are fenced
	fence   error     // not nil: so are those of this one, with this error

	head, tail *chunk
	gone       bool  // they were given back
	size       int64 // bytes recorded
	room       int64 // bytes for which there have been chunks
	end        error // what followed them: io.EOF or the source's failure; nil: not known yet
}

// newReplay takes over req.Body and returns the first attempt's request. A body
// that can't be replayed within limit bytes is only watched, so that the call
// ends when its context does; unless nobody could end it: then newReplay
// returns nil, and req.
//
// Only if repeat do attempts have a GetBody: net/http repeats with it what may
// have been processed, after an HTTP/2 PROTOCOL_ERROR, whatever the method.
func newReplay(req *http.Request, limit int64, repeat, timeout bool) (*replay, *http.Request) {
	if req.ContentLength > limit {
		limit = -1
	}
	r := &replay{ctx: req.Context(), limit: limit, repeat: repeat, source: req.Body, attempt: 1, sending: true}
	r.seek()
	if r.at == nil && limit < 0 && !timeout && r.ctx.Done() == nil {
		return nil, req
	}
	r.changed.L = &r.mu
	// In one place to save an allocation, and not in r, which lives longer.
	first := &struct {
		sent http.Request
		body bodyCopy
	}{*req, bodyCopy{r: r, attempt: 1, sent: true}}
	first.sent.Body = &first.body
	if f, ok := r.source.(*os.File); ok && r.at != nil {
		// Reading the file where it stands, and showing it to net, allows for
		// sendfile. The copies of later attempts have offsets of their own.
		first.body.direct = true
		first.sent.Body = fileCopy{&first.body, f}
	}
	if r.repeat && r.replayableLocked() {
		first.sent.GetBody = r.getBody(1)
	}
	if r.ctx.Done() != nil {
		r.mu.Lock() // abort may run before unwatch is set
		defer r.mu.Unlock()
		r.unwatch = context.AfterFunc(r.ctx, r.abort)
	}
	return r, &first.sent
}

// seek finds out whether the source can be read again, and where it stands.
func (r *replay) seek() {
	at, ok := r.source.(interface {
		io.ReaderAt
		io.Seeker
	})
	if !ok || embedsFile(r.source) {
		return
	}
	if f, ok := r.source.(*os.File); ok {
		// A pipe or a device is an *os.File too.
		if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
			return
		}
	}
	start, err := at.Seek(0, io.SeekCurrent)
	if err != nil {
		return
	}
	end, err := at.Seek(0, io.SeekEnd)
	if _, backErr := at.Seek(start, io.SeekStart); err != nil || backErr != nil {
		end = start - 1
	}
	r.at, r.start, r.length = at, start, end-start
}

// embedsFile reports whether body is a struct around an *os.File: what embeds
// one to change what Read gives has the file's own ReadAt all the same.
func embedsFile(body io.Reader) bool {
	t := reflect.TypeOf(body)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t == reflect.TypeFor[os.File]() {
		return false
	}
	for i := range t.NumField() {
		if f := t.Field(i); f.Anonymous && f.Type == reflect.TypeFor[*os.File]() {
			return true
		}
	}
	return false
}

// endAttempt ends an attempt that another follows: its copies are fenced, and no
// more is kept than the next one needs.
func (r *replay) endAttempt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fenceLocked(errAttemptOver)
	r.held = false
	r.compactLocked()
}

// next starts the attempt that sends req, which gets its body here.
func (r *replay) next(req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attempt++
	r.fence = context.Cause(r.ctx) // nil unless it is done
	r.sending = true
	req.Body = &bodyCopy{r: r, attempt: r.attempt, sent: true}
	if r.repeat {
		req.GetBody = r.getBody(r.attempt)
	}
}

// getBody lets net/http itself replay within an attempt, as it does after
// HTTP/2 GOAWAY or on a stale idle connection.
func (r *replay) getBody(attempt int) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if err := r.staleLocked(attempt); err != nil {
			return nil, err
		}
		if !r.replayableLocked() {
			return nil, errNotReplayable
		}
		r.latest = &bodyCopy{r: r, attempt: attempt}
		return r.latest, nil
	}
}

// hold reports whether another attempt could get the whole body, and keeps it
// so until endAttempt or settle: what the transport still reads for the
// attempt before could otherwise exceed the limit meanwhile. A source that
// failed would fail another attempt at the same offset.
func (r *replay) hold() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held = r.replayableLocked() && !r.failedLocked()
	return r.held
}

func (r *replay) replayableLocked() bool {
	return !r.settled && !r.closedEarlyLocked() && (r.at != nil || r.size <= r.limit)
}

// closedEarlyLocked reports whether the source is gone before all of it was had.
func (r *replay) closedEarlyLocked() bool { return r.closed && (r.at != nil || r.end == nil) }

// failed reports whether a Read of the source has failed.
func (r *replay) failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failedLocked()
}

func (r *replay) failedLocked() bool { return r.end != nil && r.end != io.EOF }

// interrupt ends an attempt, if it is still under way: its Reads fail with err
// from now on.
func (r *replay) interrupt(attempt int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.staleLocked(attempt) != nil {
		return
	}
	r.fenceLocked(err)
	if !r.replayableLocked() {
		// A Read may be blocked in the source itself, which only closing it ends.
		r.closeLocked()
	}
}

// settle makes the outcome final. After a response the transport may still be
// sending the body, and closes it when it is done; after an error nobody does.
func (r *replay) settle(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settled, r.held = true, false
	r.changed.Broadcast()
	if err != nil {
		r.fenceLocked(errAttemptOver)
	}
	if !r.inUseLocked() {
		r.closeLocked()
	}
	r.tidyLocked()
}

// abort gives up the source when the caller's context is done, even while it
// is being read: that ends the Read of a pipe or a connection.
func (r *replay) abort() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fenceLocked(context.Cause(r.ctx))
	r.closeLocked()
	r.tidyLocked()
}

func (r *replay) fenceLocked(err error) {
	r.fence = err
	r.sending, r.latest = false, nil
	r.changed.Broadcast()
}

// inUseLocked reports whether the transport may still read. It has given up
// what came by GetBody before the latest, and need not have closed it:
// net/http leaves a copy open if it finds no HTTP/2 connection for it.
func (r *replay) inUseLocked() bool { return r.sending || r.latest != nil }

// staleLocked returns why the copies of an attempt are fenced, nil if they are
// not.
func (r *replay) staleLocked(attempt int) error {
	if attempt != r.attempt {
		return errAttemptOver
	}
	return r.fence
}

// tidyLocked gives back the recording when nobody can need it again.
func (r *replay) tidyLocked() {
	if r.busy == 0 && r.settled && !r.inUseLocked() {
		r.gone = true // copies before the latest may not know
		r.dropUntilLocked(nil)
	}
}

// closeLocked closes the source, once, and not under the lock. A Close may wait
// for a Read that is under way, as that of a server's request body does, and
// nobody here waits for that.
func (r *replay) closeLocked() error {
	if r.closed {
		return nil
	}
	r.closed = true
	if r.unwatch != nil {
		r.unwatch()
		r.unwatch = nil // which keeps memory
	}
	if r.busy > 0 {
		go r.source.Close()
		return nil
	}
	r.mu.Unlock()
	defer r.mu.Lock()
	return r.source.Close()
}

// A bodyCopy is the request body of one attempt. Its exported methods take the
// lock of r, and its others need it.
type bodyCopy struct {
	r       *replay
	attempt int
	sent    bool  // not by GetBody
	direct  bool  // reads the source where it stands
	end     error // what Read returns from now on
	closed  bool

	off   int64
	chunk *chunk // the one that was read last; nil: none
}

// Read implements [io.Reader].
func (c *bodyCopy) Read(p []byte) (int, error) {
	r := c.r
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if err := r.staleLocked(c.attempt); err != nil {
			return 0, err
		}
		switch {
		case c.end != nil:
			return 0, c.end
		case len(p) == 0:
			return 0, nil
		case c.direct || r.at != nil:
			return c.readSource(p)
		case r.gone, !c.sent && r.sending && !r.replayableLocked(), r.taker != nil && r.taker != c:
			// What is not kept any more belongs to the copy that is sent, and
			// once a copy has had some of it, to that one.
			return 0, c.finish(errNotReplayable)
		case c.off < r.size:
			return c.readRecording(p), nil
		case r.end != nil:
			return 0, c.finish(r.end)
		case r.filling, r.held:
			r.changed.Wait()
		case r.replayableLocked():
			r.startFillLocked()
		default:
			c.direct, r.taker = true, c
		}
	}
}

// readSource reads where nothing is recorded, or no more.
func (c *bodyCopy) readSource(p []byte) (int, error) {
	r := c.r
	n, err := c.readUnlocked(p)
	if stale := r.staleLocked(c.attempt); stale != nil {
		r.tidyLocked()
		return 0, c.finish(stale) // and not what came of closing the source
	}
	c.off += int64(n)
	if err == io.EOF && !c.direct && c.off < r.length {
		err = io.ErrUnexpectedEOF // the first attempt had more
	}
	if err != nil {
		c.finish(err)
		if r.at == nil || err != io.EOF {
			r.end = err
		}
	}
	r.tidyLocked()
	return n, err
}

// readUnlocked reads the source, not under the lock. The source may panic.
func (c *bodyCopy) readUnlocked(p []byte) (int, error) {
	r := c.r
	r.busy++
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.busy--
	}()
	if c.direct {
		return r.source.Read(p)
	}
	return r.at.ReadAt(p, r.start+c.off)
}

// readRecording copies what is recorded at c's offset, at least a byte.
func (c *bodyCopy) readRecording(p []byte) int {
	r := c.r
	if c.chunk == nil {
		c.chunk = r.head
	}
	if c.off > 0 && c.off%chunkSize == 0 {
		c.chunk = c.chunk.next
	}
	at := c.off % chunkSize
	n := copy(p, c.chunk.data[at:min(chunkSize, at+r.size-c.off)])
	c.off += int64(n)
	if (c.sent || c == r.latest) && !r.held && !r.replayableLocked() {
		r.taker = c
		r.dropUntilLocked(c.chunk)
	}
	return n
}

// finish ends c with err: it needs nothing any more.
func (c *bodyCopy) finish(err error) error {
	r := c.r
	if c.end == nil && r.staleLocked(c.attempt) == nil {
		r.sending = r.sending && !c.sent
		if r.latest == c {
			r.latest = nil
		}
	}
	c.end = err
	return err
}

// Close implements [io.Closer]. It closes the source only when nobody can need
// it again.
func (c *bodyCopy) Close() error {
	r := c.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	c.finish(errBodyClosed)
	r.changed.Broadcast()
	if r.staleLocked(c.attempt) != nil {
		return nil
	}
	recorded := r.at == nil && r.end != nil
	var err error
	if recorded || !r.inUseLocked() && !r.replayableLocked() {
		err = r.closeLocked()
	}
	r.tidyLocked()
	return err
}

// A fileCopy is a bodyCopy whose source is a file that net may see, which lets
// it use sendfile: it asks for a [syscall.Conn].
type fileCopy struct {
	*bodyCopy
	file *os.File
}

// SyscallConn implements [syscall.Conn].
func (c fileCopy) SyscallConn() (syscall.RawConn, error) { return c.file.SyscallConn() }

const chunkSize = 32 << 10

// A chunk is a piece of a recording. All but the last of a recording are full.
type chunk struct {
	next *chunk
	data []byte // chunkSize bytes, unless it was compacted
}

// chunks keeps chunks for the next recording. What is left in them from the
// last one is never read: a recording is read up to its size.
var chunks = sync.Pool{New: func() any {
	c := new(struct {
		chunk
		data [chunkSize]byte
	})
	c.chunk.data = c.data[:]
	return &c.chunk
}}

// compactLocked gives a small recording that is complete no more memory than
// it needs: many may wait for a long time.
func (r *replay) compactLocked() {
	if r.end == nil || r.head == nil || r.head != r.tail || r.size > chunkSize/2 {
		return
	}
	small := &chunk{data: bytes.Clone(r.head.data[:r.size])}
	r.dropUntilLocked(nil)
	r.head, r.tail = small, small
}

// startFillLocked begins to read more of the source, into the recording.
func (r *replay) startFillLocked() {
	if r.size == r.room {
		c := chunks.Get().(*chunk)
		c.next = nil
		r.room += chunkSize
		if r.head == nil {
			r.head = c
		} else {
			r.tail.next = c
		}
		r.tail = c
	}
	r.filling = true
	r.busy++
	f, _ := fillers.Get().(*filler)
	if f == nil {
		f = new(filler)
		f.run = f.fill
	}
	f.replay = r
	go f.run()
}

// A filler fills replays, one Read at a time. Kept for the next Read, it starts
// a goroutine without an allocation.
type filler struct {
	replay *replay
	run    func()
}

var fillers sync.Pool

func (f *filler) fill() {
	r := f.replay
	f.replay = nil
	fillers.Put(f)
	r.fill()
}

// fill reads once from the source, at most a byte more than the limit: that
// byte tells a body that fits from one that does not.
func (r *replay) fill() {
	room := r.tail.data[r.size%chunkSize:]
	if left := r.limit - r.size; left < int64(len(room)) {
		room = room[:left+1]
	}
	n, err := r.source.Read(room)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.size += int64(n)
	r.end = err
	r.filling = false
	r.busy--
	r.tidyLocked()
	r.changed.Broadcast()
}

// dropUntilLocked gives back the chunks before c; all of them if c is nil.
func (r *replay) dropUntilLocked(c *chunk) {
	for r.head != nil && r.head != c {
		next := r.head.next
		if len(r.head.data) == chunkSize {
			chunks.Put(r.head)
		}
		r.head = next
	}
	if r.head == nil {
		r.tail = nil
	}
}
