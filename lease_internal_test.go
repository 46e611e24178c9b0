package httpretry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var errEnded = errors.New("the attempt has ended")

// A leaseSource is the source of a copy, and counts its calls. Read and Close
// wait for gate.
type leaseSource struct {
	gate chan struct{} // nil: they do not wait

	mu      sync.Mutex
	reads   int
	reading int
	closes  int
	overlap bool // Close was called while a Read was under way
}

func (s *leaseSource) Read(p []byte) (int, error) {
	s.mu.Lock()
	s.reads++
	s.reading++
	s.mu.Unlock()
	if s.gate != nil {
		<-s.gate
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reading--
	return copy(p, "x"), nil
}

func (s *leaseSource) Close() error {
	s.mu.Lock()
	s.closes++
	s.overlap = s.overlap || s.reading > 0
	s.mu.Unlock()
	if s.gate != nil {
		<-s.gate
	}
	return nil
}

func (s *leaseSource) wantClosed(t *testing.T, closes int, overlap bool) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closes != closes || s.overlap != overlap {
		t.Errorf("source was closed %d times, during a Read: %v, want %d, %v", s.closes, s.overlap, closes, overlap)
	}
}

// A countingReleaser counts how often it was released.
type countingReleaser struct{ released int }

func (r *countingReleaser) release() { r.released++ }

// beginLease begins the lease of an attempt whose request and call have the same
// context.
func beginLease(t *testing.T, ctx context.Context, abortable bool, owner releaser) *lease {
	t.Helper()
	caller, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	l := new(lease)
	l.begin(caller, caller.WithContext(ctx), abortable, owner)
	return l
}

func wantRead(t *testing.T, b io.Reader, n int, want error) {
	t.Helper()
	if got, err := b.Read(make([]byte, 1)); got != n || err != want {
		t.Errorf("Read returned %d, %v, want %d, %v", got, err, n, want)
	}
}

func TestLease_ReadsFailAfterEnd(t *testing.T) {
	l := beginLease(t, context.Background(), false, nil)
	sources := []*leaseSource{new(leaseSource), new(leaseSource)}
	sent, copied := l.lend(&leasedBody{source: sources[0]}), l.lend(&leasedBody{source: sources[1]})
	wantRead(t, sent, 1, nil)
	wantRead(t, copied, 1, nil)
	l.end(errEnded, false)
	l.end(errors.New("a second end has no effect"), false)
	for _, b := range []*leasedBody{sent, copied} {
		wantRead(t, b, 0, errEnded)
		if err := b.Close(); err != nil {
			t.Errorf("Close after the end: %v", err)
		}
		wantRead(t, b, 0, errEnded)
	}
	for _, s := range sources {
		s.wantClosed(t, 1, false)
		if s.reads != 1 {
			t.Errorf("source was read %d times, want not after the end", s.reads)
		}
	}
	if err := l.wait(t.Context()); err != nil {
		t.Errorf("wait: %v", err)
	}
	if err := l.failure(); err != nil {
		t.Errorf("the end of an attempt is not a failure of the body: got %v", err)
	}
}

// The end of an attempt closes copies when the last Read has returned, which
// then fails too. Until then, wait waits.
func TestLease_WaitsForRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, other := &leaseSource{gate: make(chan struct{})}, new(leaseSource)
		l := beginLease(t, context.Background(), false, nil)
		b := l.lend(&leasedBody{source: source})
		l.lend(&leasedBody{source: other})
		go wantRead(t, b, 0, errEnded)
		synctest.Wait()
		l.end(errEnded, false)
		b.Close()
		var waited atomic.Int32
		for range 2 {
			go func() {
				if err := l.wait(context.Background()); err != nil {
					t.Errorf("wait: %v", err)
				}
				waited.Add(1)
			}()
			synctest.Wait()
		}
		if waited.Load() > 0 {
			t.Errorf("%d calls of wait returned during a Read", waited.Load())
		}
		source.wantClosed(t, 0, false)
		other.wantClosed(t, 0, false)
		close(source.gate)
		synctest.Wait()
		if waited.Load() != 2 {
			t.Errorf("%d of 2 calls of wait returned after the Read", waited.Load())
		}
		source.wantClosed(t, 1, false)
		other.wantClosed(t, 1, false)
	})
}

func TestLease_WaitEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &leaseSource{gate: make(chan struct{})}
		l := beginLease(t, context.Background(), false, nil)
		go l.lend(&leasedBody{source: source}).Read(make([]byte, 1))
		synctest.Wait()
		l.end(errEnded, false)
		cause := errors.New("cause")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Hour, func() { cancel(cause) })
		if err := l.wait(ctx); err != cause {
			t.Errorf("wait: got %v, want %v", err, cause)
		}
		close(source.gate)
		synctest.Wait()
		source.wantClosed(t, 1, false)
	})
}

// A Close that is under way when the attempt ends is waited for, and the copy is
// not closed again.
func TestLease_WaitsForClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &leaseSource{gate: make(chan struct{})}
		l := beginLease(t, context.Background(), false, nil)
		go l.lend(&leasedBody{source: source}).Close()
		synctest.Wait()
		l.end(errEnded, false)
		waited := false
		go func() {
			l.wait(context.Background())
			waited = true
		}()
		synctest.Wait()
		if waited {
			t.Error("wait returned during a Close")
		}
		close(source.gate)
		synctest.Wait()
		if !waited {
			t.Error("wait did not return after the Close")
		}
		source.wantClosed(t, 1, false)
	})
}

// GetBody of an attempt that has ended does not call the caller's GetBody, which
// may rewind the body of the next attempt.
func TestLease_RenewAfterEnd(t *testing.T) {
	l := beginLease(t, context.Background(), false, nil)
	l.lend(&leasedBody{source: new(leaseSource)})
	l.end(errEnded, false)
	b, err := l.renew(func() (io.ReadCloser, error) {
		t.Error("GetBody was called after the end")
		return new(leaseSource), nil
	})
	if b != nil || err != errEnded {
		t.Errorf("renew returned %v, %v, want the error of the end alone", b, err)
	}
}

// A copy that GetBody returns after the end is closed, and wait waits for it.
func TestLease_EndDuringRenew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := beginLease(t, context.Background(), false, nil)
		l.lend(&leasedBody{source: new(leaseSource)})
		gate, source := make(chan struct{}), new(leaseSource)
		go func() {
			b, err := l.renew(func() (io.ReadCloser, error) {
				<-gate
				return source, nil
			})
			if err != nil {
				t.Error(err)
				return
			}
			wantRead(t, b, 0, errEnded)
		}()
		synctest.Wait()
		l.end(errEnded, false)
		waited := false
		go func() {
			l.wait(context.Background())
			waited = true
		}()
		synctest.Wait()
		if waited {
			t.Error("wait returned during GetBody")
		}
		close(gate)
		synctest.Wait()
		if !waited {
			t.Error("wait did not return after GetBody")
		}
		source.wantClosed(t, 1, false)
	})
}

func TestLease_RenewReturnsErrorOfGetBody(t *testing.T) {
	boom := errors.New("boom")
	l := beginLease(t, context.Background(), false, nil)
	sent := new(leaseSource)
	l.lend(&leasedBody{source: sent})
	if b, err := l.renew(func() (io.ReadCloser, error) { return nil, boom }); b != nil || err != boom {
		t.Errorf("renew returned %v, %v, want %v alone", b, err, boom)
	}
	l.end(errEnded, false)
	sent.wantClosed(t, 1, false)
}

// Nobody waits for a source whose call is abandoned: it is closed immediately,
// even during a Read.
func TestLease_AbandonedContextClosesImmediately(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("cause")
		ctx, cancel := context.WithCancelCause(t.Context())
		source, owner := &leaseSource{gate: make(chan struct{})}, new(countingReleaser)
		l := beginLease(t, ctx, false, owner)
		b := l.lend(&leasedBody{source: source})
		go wantRead(t, b, 0, cause)
		synctest.Wait()
		cancel(cause)
		synctest.Wait()
		source.wantClosed(t, 1, true)
		if owner.released != 1 {
			t.Errorf("released %d times, want once", owner.released)
		}
		close(source.gate)
		synctest.Wait()
		l.settle(true)
		source.wantClosed(t, 1, true)
		if owner.released != 1 {
			t.Errorf("released %d times, want once", owner.released)
		}
	})
}

// An attempt whose own context is done leaves the source open until its Read has
// returned, unless the copies are abortable.
func TestLease_AttemptContext(t *testing.T) {
	for _, abortable := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			caller, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://example.com/", nil)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			source, l := &leaseSource{gate: make(chan struct{})}, new(lease)
			l.begin(caller, caller.WithContext(ctx), abortable, nil)
			b := l.lend(&leasedBody{source: source})
			go wantRead(t, b, 0, errEnded)
			synctest.Wait()
			cancel(errEnded)
			synctest.Wait()
			closes := 0
			if abortable {
				closes = 1
			}
			source.wantClosed(t, closes, abortable)
			close(source.gate)
			synctest.Wait()
			source.wantClosed(t, 1, abortable)
		})
	}
}

// The owner is released once, when the call has ended and Base has read or
// closed the latest copy and the Body.
func TestLease_ReleasesOwnerOnce(t *testing.T) {
	owner := new(countingReleaser)
	l := beginLease(t, context.Background(), false, owner)
	sent := l.lend(&leasedBody{source: io.NopCloser(strings.NewReader("x"))})
	copied := l.lend(&leasedBody{source: new(leaseSource)})
	l.settle(false)
	io.Copy(io.Discard, sent)
	sent.Close()
	if owner.released > 0 {
		t.Error("released while a copy is open")
	}
	copied.Close()
	copied.Close()
	if owner.released != 1 {
		t.Errorf("released %d times after the last Close, want once", owner.released)
	}
	l.settle(false)
	if owner.released != 1 {
		t.Errorf("released %d times, want once", owner.released)
	}
}

func TestLease_FailureIsFirstErrorOfSource(t *testing.T) {
	first, second := errors.New("first"), errors.New("second")
	l := beginLease(t, context.Background(), false, nil)
	for _, err := range []error{io.EOF, first, second} {
		b := l.lend(&leasedBody{source: io.NopCloser(errorSource{err})})
		wantRead(t, b, 0, err)
		wantRead(t, b, 0, err)
		b.Close()
		wantRead(t, b, 0, errBodyClosed)
	}
	if got := l.failure(); got != first {
		t.Errorf("failure: got %v, want %v", got, first)
	}
	l.end(errEnded, false)
}

type errorSource struct{ err error }

func (s errorSource) Read([]byte) (int, error) { return 0, s.err }

// A slowCloser waits for gate in Close.
type slowCloser struct {
	leaseSource
	close  chan struct{}
	closed bool
}

func (s *slowCloser) Close() error {
	<-s.close
	s.closed = true
	return nil
}

// The last Read of an ended attempt closes the copies. A wait that begins during
// that Close must wait for it, because GetBody may rewind the same source.
func TestLease_WaitsForCloseAfterRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &slowCloser{leaseSource: leaseSource{gate: make(chan struct{})}, close: make(chan struct{})}
		l := beginLease(t, context.Background(), false, nil)
		go l.lend(&leasedBody{source: source}).Read(make([]byte, 1))
		synctest.Wait()
		l.end(errEnded, false)
		close(source.gate) // the Read returns, and closes the copies
		synctest.Wait()
		waited := make(chan bool)
		go func() {
			l.wait(context.Background())
			waited <- source.closed
		}()
		synctest.Wait()
		select {
		case <-waited:
			t.Error("wait returned during a Close")
			close(source.close)
		default:
			close(source.close)
			if !<-waited {
				t.Error("wait returned before the end of Close")
			}
		}
	})
}
