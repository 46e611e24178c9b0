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
// ended. From then on their Reads fail, and they are closed when no Read is
// under way.
type lease struct {
	caller    *http.Request   // has the body
	trailer   http.Header     // of the attempt's request
	ctx       context.Context // of the attempt
	abortable bool            // when ctx is done, copies are closed even while a Read is under way
	release   func()          // called once, when Base needs no copy of any attempt; may be nil

	mu      sync.Mutex
	unwatch func() bool   // ends the watch of ctx; nil: there is none
	over    error         // why Reads fail; nil until the attempt has ended
	settled bool          // the call has ended
	calls   int           // Reads and Closes that are under way
	open    []*leasedBody // copies that are not closed
	inUse   []*leasedBody // those of them that Base may still read: its Body, and GetBody's latest
	idle    chan struct{} // closed when the attempt has ended and all copies are closed
	err     error         // the first error of a copy other than io.EOF
}

// newLease returns a lease for the attempt that sends req, a copy of caller.
func newLease(caller, req *http.Request, abortable bool, release func()) *lease {
	l := &lease{
		caller: caller, trailer: ownTrailer(req), ctx: req.Context(), abortable: abortable,
		release: release, idle: make(chan struct{}),
	}
	if l.ctx.Done() != nil {
		l.mu.Lock() // expire may run before unwatch is set
		defer l.mu.Unlock()
		l.unwatch = context.AfterFunc(l.ctx, l.expire)
	}
	return l
}

// ownTrailer gives req a Trailer of its own and returns it: the source of the
// body may fill the caller's while Base reads that of a later attempt.
func ownTrailer(req *http.Request) http.Header {
	req.Trailer = maps.Clone(req.Trailer)
	return req.Trailer
}

// lend returns a copy of the body that reads and closes source. The first one
// is the Body of the attempt's request, the others are GetBody's.
func (l *lease) lend(source io.ReadCloser) *leasedBody {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := &leasedBody{l: l, source: source}
	l.open = append(l.open, b)
	// net/http leaves a copy open if it finds no HTTP/2 connection for it, so
	// GetBody's latest copy replaces the one before it.
	if len(l.inUse) == 2 {
		l.inUse[1] = b
	} else {
		l.inUse = append(l.inUse, b)
	}
	return b
}

// expire ends the attempt because its context is done.
func (l *lease) expire() {
	abandoned := l.caller.Context().Err() != nil
	l.end(context.Cause(l.ctx), abandoned || l.abortable)
	if abandoned {
		l.settle(true)
	}
}

// end ends the attempt: Reads fail with err from now on. If abort is set, the
// copies are closed even if a Read is under way.
func (l *lease) end(err error, abort bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over == nil {
		l.over = err
	}
	l.inUse = nil
	l.stopWatchingLocked()
	if abort && l.calls > 0 {
		// A Close may wait for the Read, as that of a server's request body
		// does. Nobody waits for either here.
		for _, b := range l.open {
			go b.source.Close()
		}
		l.open = nil
	}
	l.closeLocked()
}

// closeLocked closes the copies of an attempt that has ended, unless a Read is
// under way, and not under the lock.
func (l *lease) closeLocked() {
	if l.over == nil || l.calls > 0 {
		return
	}
	open := l.open
	l.open = nil
	l.mu.Unlock()
	for _, b := range open {
		b.source.Close()
	}
	l.mu.Lock()
	if l.idle != nil {
		close(l.idle)
		l.idle = nil
	}
}

// settle ends the call. Unless its last attempt failed, Base may continue to
// read.
func (l *lease) settle(failed bool) {
	if failed {
		l.end(errAttemptOver, true)
	}
	l.mu.Lock()
	l.settled = true
	release := l.releaseLocked()
	l.mu.Unlock()
	release()
}

// releaseLocked returns the function to call, not under the lock, when Base
// needs no copy any more.
func (l *lease) releaseLocked() func() {
	if len(l.inUse) > 0 {
		return func() {}
	}
	l.stopWatchingLocked()
	release := l.release
	if !l.settled || release == nil {
		return func() {}
	}
	l.release = nil
	return release
}

func (l *lease) stopWatchingLocked() {
	if l.unwatch != nil {
		l.unwatch()
		l.unwatch = nil
	}
}

// wait waits until the attempt has ended and its copies are closed.
func (l *lease) wait(ctx context.Context) error {
	l.mu.Lock()
	idle := l.idle
	l.mu.Unlock()
	if idle == nil {
		return nil
	}
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
	end    error // what Read returns from now on; guarded by l.mu
}

// Read implements [io.Reader].
func (b *leasedBody) Read(p []byte) (n int, err error) {
	l := b.l
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.over != nil:
		return 0, l.over
	case b.end != nil:
		return 0, b.end
	}
	n, err = b.readUnlocked(p)
	if l.over != nil {
		return 0, l.over // and not the error of a source that was closed
	}
	if err != nil {
		b.endLocked(err)
	}
	return n, err
}

// readUnlocked reads the source, not under the lock. The source may panic.
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

// endLocked ends the copy with err: Base does not need it any more.
func (b *leasedBody) endLocked(err error) {
	l := b.l
	b.end = err
	l.inUse = slices.DeleteFunc(l.inUse, func(other *leasedBody) bool { return other == b })
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
	release := l.releaseLocked()
	l.closeLocked()
	l.mu.Unlock()
	release()
	return err
}

// checkedRead reads from r and checks the count, which a caller would use to
// send bytes of its buffer that r has not written.
func checkedRead(r io.Reader, p []byte) (int, error) {
	n, err := r.Read(p)
	if n < 0 || n > len(p) {
		return 0, errInvalidCount
	}
	return n, err
}
