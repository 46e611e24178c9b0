package httpretry

import (
	"context"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
)

// A lease lets Base read copies of a request body until their attempt has
// ended. Their Reads then fail, and they are closed when no Read is in progress.
//
// Its fields up to mu are set by begin and not changed. The others are guarded
// by mu.
type lease struct {
	caller    *http.Request   // has the body
	trailer   http.Header     // of the attempt's request
	ctx       context.Context // of the attempt
	abortable bool            // when the attempt ends, copies are closed even during a Read
	owner     releaser        // nil: nothing is to be released

	mu      sync.Mutex
	unwatch func() bool     // ends the watch of ctx; nil: there is none
	over    error           // why Reads fail; nil until the attempt has ended
	settled bool            // the call has ended
	calls   int             // Reads and Closes in progress
	sent    *leasedBody     // the Body of the request; nil when Base no longer needs it
	latest  *leasedBody     // the copy that GetBody returned last; nil when Base no longer needs it
	open    []*leasedBody   // the copies that are not closed
	first   [1]*leasedBody  // space for open
	idle    []chan struct{} // to be closed when all copies of the ended attempt are closed
	err     error           // the first error of a copy other than io.EOF
}

// A leased body has a lease for each attempt. It implements [body] except for
// start.
type leased struct {
	lease *lease // of the attempt that was started last
}

func (b *leased) untouched() bool    { return false }
func (b *leased) hold() bool         { return b.lease.failure() == nil }
func (b *leased) stop() bool         { b.lease.end(errAttemptOver, false); return false }
func (b *leased) settle(failed bool) { b.lease.settle(failed) }
func (b *leased) failure() error     { return b.lease.failure() }

// release is called once, when Base no longer needs a copy of any attempt.
type releaser interface{ release() }

// begin begins the attempt that sends req, a copy of caller.
func (l *lease) begin(caller, req *http.Request, abortable bool, owner releaser) {
	// The source of the body may fill the caller's Trailer while Base reads
	// the Trailer of a later attempt.
	req.Trailer = maps.Clone(req.Trailer)
	l.caller, l.trailer, l.ctx = caller, req.Trailer, req.Context()
	l.abortable, l.owner = abortable, owner
	if l.ctx.Done() != nil {
		l.mu.Lock() // expire may run before unwatch is set
		defer l.mu.Unlock()
		l.unwatch = context.AfterFunc(l.ctx, l.expire)
	}
}

// lend makes b a copy that Base may read. The first one is the Body of the
// attempt's request, the others are GetBody's.
func (l *lease) lend(b *leasedBody) *leasedBody {
	l.mu.Lock()
	defer l.mu.Unlock()
	b.l = l
	if l.open == nil {
		l.open = l.first[:0]
		l.sent = b
	} else {
		// net/http leaves a copy open if it finds no HTTP/2 connection for it.
		l.latest = b
	}
	l.open = append(l.open, b)
	return b
}

// renew returns a copy of a source from getBody, for the GetBody of the attempt's
// request. After the end of the attempt getBody is not called, because it may
// rewind the reader of the next attempt.
func (l *lease) renew(getBody func() (io.ReadCloser, error)) (io.ReadCloser, error) {
	l.mu.Lock()
	if l.over != nil {
		defer l.mu.Unlock()
		return nil, l.over
	}
	l.calls++
	l.mu.Unlock()
	source, err := getBody()
	var b *leasedBody
	if err == nil {
		b = l.lend(&leasedBody{source: source})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls--
	l.closeLocked() // the attempt may have ended during getBody
	if err != nil {
		return nil, err
	}
	return b, nil
}

// expire ends the attempt because its context is done.
func (l *lease) expire() {
	abandoned := l.caller.Context().Err() != nil
	l.end(context.Cause(l.ctx), abandoned)
	if abandoned {
		l.settle(true)
	}
}

// end ends the attempt, so that Reads fail with err. If abort is set, the copies
// are closed even if they are not abortable.
func (l *lease) end(err error, abort bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over == nil {
		l.over = err
	}
	l.sent, l.latest = nil, nil
	l.stopWatchingLocked()
	if (abort || l.abortable) && l.calls > 0 {
		// A Close may wait for the Read, as that of a server's request body
		// does. The end of the attempt must not wait for either.
		for _, b := range l.open {
			go b.source.Close()
		}
		l.open = l.open[:0]
	}
	l.closeLocked()
}

// closeLocked closes the copies of an attempt that has ended, unless a Read or
// Close of theirs is in progress. It unlocks mu meanwhile.
func (l *lease) closeLocked() {
	if l.over == nil || l.calls > 0 {
		return
	}
	open := slices.Clone(l.open)
	l.open = l.open[:0]
	l.calls++ // wait must not return before the Closes do
	l.mu.Unlock()
	for _, b := range open {
		b.source.Close()
	}
	l.mu.Lock()
	if l.calls--; l.calls > 0 {
		return
	}
	for _, c := range l.idle {
		close(c)
	}
	l.idle = nil
}

// settle ends the call. If its last attempt did not fail, Base may continue to
// read.
func (l *lease) settle(failed bool) {
	if failed {
		l.end(errAttemptOver, true)
	}
	l.mu.Lock()
	l.settled = true
	owner := l.releasedLocked()
	l.mu.Unlock()
	if owner != nil {
		owner.release()
	}
}

// releasedLocked returns the owner, once, when the call has ended and Base no longer
// needs a copy.
func (l *lease) releasedLocked() releaser {
	if l.sent != nil || l.latest != nil {
		return nil
	}
	l.stopWatchingLocked()
	if !l.settled {
		return nil
	}
	owner := l.owner
	l.owner = nil
	return owner
}

func (l *lease) stopWatchingLocked() {
	if l.unwatch != nil {
		l.unwatch()
		l.unwatch = nil
	}
}

// wait waits until the copies of the ended attempt are closed.
func (l *lease) wait(ctx context.Context) error {
	l.mu.Lock()
	if len(l.open) == 0 && l.calls == 0 {
		l.mu.Unlock()
		return nil
	}
	idle := make(chan struct{})
	l.idle = append(l.idle, idle)
	l.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// failure returns the first error of a copy other than io.EOF.
func (l *lease) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// A leasedBody is a copy of the body, which Base reads and closes.
type leasedBody struct {
	l      *lease
	source io.ReadCloser
	ended  error // returned by further Reads; nil until the copy has ended; guarded by l.mu
}

// Read implements [io.Reader].
func (b *leasedBody) Read(p []byte) (n int, err error) {
	l := b.l
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.over != nil:
		return 0, l.over
	case b.ended != nil:
		return 0, b.ended
	case len(p) == 0:
		return 0, nil
	}
	n, err = b.readUnlocked(p)
	if l.over != nil {
		return 0, l.over // instead of the error of a source that was closed
	}
	if err != nil {
		b.endLocked(err)
	}
	return n, err
}

// readUnlocked reads the source without holding l.mu. The source may panic.
func (b *leasedBody) readUnlocked(p []byte) (int, error) {
	l := b.l
	l.calls++
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.calls--
		l.closeLocked()
	}()
	return checkedRead(b.source, p)
}

// endLocked ends the copy with err. Base no longer needs it.
func (b *leasedBody) endLocked(err error) {
	l := b.l
	b.ended = err
	if l.sent == b {
		l.sent = nil
	}
	if l.latest == b {
		l.latest = nil
	}
	switch {
	case err == io.EOF:
		maps.Copy(l.trailer, l.caller.Trailer)
	case err != errBodyClosed && l.err == nil:
		l.err = err
	}
}

// Close implements [io.Closer].
func (b *leasedBody) Close() error {
	l := b.l
	l.mu.Lock()
	i := slices.Index(l.open, b)
	if i < 0 || l.over != nil {
		l.mu.Unlock()
		return nil // it is closed, or will be
	}
	l.open = slices.Delete(l.open, i, i+1)
	b.endLocked(errBodyClosed)
	l.calls++
	l.mu.Unlock()
	err := b.source.Close()
	l.mu.Lock()
	l.calls--
	owner := l.releasedLocked()
	l.closeLocked()
	l.mu.Unlock()
	if owner != nil {
		owner.release()
	}
	return err
}

// checkedRead reads from r and checks the count. With a wrong count, the caller
// would send bytes of its buffer that r has not written.
func checkedRead(r io.Reader, p []byte) (int, error) {
	n, err := r.Read(p)
	if n < 0 || n > len(p) {
		return 0, errInvalidCount
	}
	return n, err
}
