package stall_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/httpretry/httpretry/internal/stall"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const second = time.Second

// A transfer records the stall of a Watch.
type transfer struct {
	*stall.Watch
	start time.Time

	mu sync.Mutex
	stalled
}

type stalled struct {
	calls int
	err   error
	after time.Duration
}

// outcome returns the stall up to now.
func (t *transfer) outcome() stalled {
	synctest.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stalled
}

func newTransfer(idle time.Duration, rate int64) *transfer {
	t := &transfer{start: time.Now()}
	t.Watch = stall.NewWatch(stall.Limits{Idle: idle, Rate: rate}, func(n int64, slow bool) error {
		return fmt.Errorf("%d bytes, slow: %t", n, slow)
	}, func(err error) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.calls++
		t.err, t.after = err, time.Since(t.start)
	})
	return t
}

// want fails the test unless the transfer has stalled once, with the error and
// after that time, or not at all if err is "".
func (tr *transfer) want(t *testing.T, err string, after time.Duration) {
	t.Helper()
	switch got := tr.outcome(); {
	case err == "" && got.calls > 0:
		t.Errorf("stalled after %v: %v", got.after, got.err)
	case err != "" && (got.calls != 1 || got.err.Error() != err || got.after != after):
		t.Errorf("stalled %d times, with %v after %v, want %s after %v", got.calls, got.err, got.after, err, after)
	}
}

func inBubble(t *testing.T, name string, f func(*testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

func TestWatch_ClockRunsFromStartToStop(t *testing.T) {
	inBubble(t, "no byte", func(t *testing.T) {
		tr := newTransfer(10*second, 0)
		tr.Start(0)
		time.Sleep(11 * second)
		tr.want(t, "0 bytes, slow: false", 10*second)
		if err := tr.Stop(5); err == nil || err != tr.outcome().err {
			t.Errorf("Stop returns %v, want the error of the stall", err)
		}
		tr.Start(0)
		time.Sleep(time.Hour)
		tr.want(t, "0 bytes, slow: false", 10*second)
	})
	inBubble(t, "bytes in time", func(t *testing.T) {
		tr := newTransfer(10*second, 0)
		for range 10 {
			tr.Start(0)
			time.Sleep(9 * second)
			if err := tr.Stop(1); err != nil {
				t.Error(err)
			}
		}
		tr.want(t, "", 0)
		tr.Start(0)
		time.Sleep(time.Minute)
		tr.want(t, "10 bytes, slow: false", 100*second)
	})
	inBubble(t, "stopped", func(t *testing.T) {
		tr := newTransfer(10*second, 0)
		tr.Start(0)
		time.Sleep(9 * second)
		tr.Stop(0)
		time.Sleep(time.Hour)
		tr.Start(0)
		time.Sleep(second - 1)
		tr.want(t, "", 0)
		time.Sleep(time.Nanosecond)
		tr.want(t, "0 bytes, slow: false", time.Hour+10*second)
	})
	inBubble(t, "bytes at the start", func(t *testing.T) {
		tr := newTransfer(10*second, 0)
		for range 3 {
			tr.Start(7)
			time.Sleep(9 * second)
			tr.Stop(0)
		}
		tr.Start(7)
		time.Sleep(time.Minute)
		tr.want(t, "28 bytes, slow: false", 37*second)
	})
	inBubble(t, "started twice", func(t *testing.T) {
		tr := newTransfer(10*second, 0)
		tr.Start(0)
		time.Sleep(9 * second)
		tr.Start(0)
		time.Sleep(9 * second)
		tr.want(t, "0 bytes, slow: false", 10*second)
	})
}

// alternate lets the clock run for wait, during which n bytes arrive, and stand
// for sleep, until the transfer stalls or has gone through count rounds.
func (tr *transfer) alternate(n int, wait, sleep time.Duration, count int) {
	for range count {
		tr.Start(0)
		time.Sleep(wait)
		if tr.Stop(n) != nil {
			return
		}
		time.Sleep(sleep)
	}
}

func TestWatch_Rate(t *testing.T) {
	const ms = time.Millisecond
	inBubble(t, "enough", func(t *testing.T) {
		tr := newTransfer(10*second, 100)
		tr.alternate(120, second, 0, 1000)
		tr.want(t, "", 0)
	})
	inBubble(t, "enough, in bursts", func(t *testing.T) {
		tr := newTransfer(10*second, 100)
		tr.alternate(1001, 9*second, 0, 100)
		tr.want(t, "", 0)
	})
	inBubble(t, "too little", func(t *testing.T) {
		tr := newTransfer(10*second, 100)
		tr.alternate(100, 900*ms, 0, 1000)
		tr.want(t, "", 0)
		tr.alternate(80, 900*ms, 0, 1000)
		if got := tr.outcome(); got.calls != 1 {
			t.Errorf("stalled %d times at 89 bytes/s, want once", got.calls)
		}
	})
	inBubble(t, "found while the clock runs", func(t *testing.T) {
		tr := newTransfer(10*second, 100)
		tr.alternate(1, 3*second, 0, 1000)
		tr.want(t, "3 bytes, slow: true", 10*second)
	})
	inBubble(t, "found between long sleeps", func(t *testing.T) {
		tr := newTransfer(10*second, 100)
		tr.alternate(1, 300*ms, 5*second, 1000)
		tr.want(t, "33 bytes, slow: true", 33*5*second+10*second)
	})
	inBubble(t, "nothing", func(t *testing.T) {
		tr := newTransfer(10*second, 100)
		tr.Start(0)
		time.Sleep(time.Minute)
		tr.want(t, "0 bytes, slow: false", 10*second)
	})
	inBubble(t, "sleeping", func(t *testing.T) {
		tr := newTransfer(10*second, 100)
		tr.alternate(1, 0, time.Minute, 1000)
		tr.want(t, "", 0)
	})
	inBubble(t, "a tiny limit", func(t *testing.T) {
		tr := newTransfer(5, 1<<40)
		tr.Start(0)
		time.Sleep(second)
		tr.want(t, "0 bytes, slow: false", 5)
	})
}

// However long a transfer was fast, it is found when it has been slow for the limit
// and a tenth of it.
func TestWatch_SlidingAverage(t *testing.T) {
	// Parts of the limit end with some of the pieces, at the same time as a timer. Which of
	// them is first is random, so that each transfer is tried six times.
	for _, piece := range []time.Duration{250 * time.Millisecond, second} {
		each := int(1200 * piece / second) // bytes: enough even without the last piece
		for i := range 600 {
			fast := i % 100
			synctest.Test(t, func(t *testing.T) {
				tr := newTransfer(10*second, 1000)
				tr.alternate(each, piece, 0, fast)
				tr.want(t, "", 0)
				before := time.Since(tr.start)
				tr.alternate(1, piece, 0, 1000)
				got := tr.outcome()
				if slow := got.after - before; got.calls != 1 || slow > 11*second {
					t.Errorf("%v after %v: found after %v, want at most 11s", piece, before, slow)
				}
			})
		}
	}
}

func TestWatch_Polling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ms = time.Millisecond
		tr := newTransfer(10*second, 0)
		tr.Start(3)
		tr.Stop(0)
		start := time.Now()
		tr.StartPolling(func() int64 { // 1 byte in 7 seconds, up to 5
			return min(int64(time.Since(start)/(7*second)), 5)
		})
		time.Sleep(time.Minute)
		got := tr.outcome()
		if got.calls != 1 || got.err.Error() != "8 bytes, slow: false" || got.after < 45*second || got.after > 45*second+100*ms {
			t.Errorf("stalled %d times with %v after %v, want 8 bytes and 45s", got.calls, got.err, got.after)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		tr := newTransfer(10*second, 0)
		tr.Start(0)
		time.Sleep(8 * second)
		var sent atomic.Int64
		tr.StartPolling(sent.Load)
		time.Sleep(second)
		sent.Store(100)
		tr.Stop(0)
		tr.Start(0)
		time.Sleep(time.Minute)
		tr.want(t, "100 bytes, slow: false", 19*second)
	})
}

func TestWatch_EndIsFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newTransfer(10*second, 1)
		tr.Start(0)
		time.Sleep(9 * second)
		if err := tr.End(); err != nil {
			t.Error(err)
		}
		tr.Start(0)
		time.Sleep(time.Hour)
		tr.Stop(0)
		tr.want(t, "", 0)
	})
	synctest.Test(t, func(t *testing.T) {
		tr := newTransfer(10*second, 0)
		tr.Start(0)
		time.Sleep(time.Hour)
		if err := tr.End(); err == nil || err != tr.outcome().err {
			t.Errorf("End returns %v, want the error of the stall", err)
		}
	})
	var none *stall.Watch
	if err := none.End(); err != nil {
		t.Errorf("End of no Watch: %v", err)
	}
}

func TestWatch_AllocatesNothing(t *testing.T) {
	tr := newTransfer(10*second, 1)
	tr.Start(0)
	tr.Stop(1)
	if n := testing.AllocsPerRun(100, func() {
		tr.Start(0)
		tr.Stop(1)
	}); n != 0 {
		t.Errorf("Start and Stop allocate %v times", n)
	}
	tr.End()
}

func BenchmarkWatch(b *testing.B) {
	tr := newTransfer(time.Hour, 1)
	defer tr.End()
	b.ReportAllocs()
	for b.Loop() {
		tr.Start(0)
		tr.Stop(1000)
	}
}
