package natsqueue

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

func TestOpen_RefusesSecondHead(t *testing.T) {
	t.Parallel()
	s, b := start(t)
	open(t, b, job("batch"))
	other := connect(t, s.URL())
	start := time.Now()
	if _, err := other.Open(t.Context(), job("batch")); !errors.Is(err, queue.ErrRunning) {
		t.Fatalf("Open = %v: want ErrRunning", err)
	}
	if d := time.Since(start); d > job("").DeadAfter {
		t.Errorf("the refusal took %v: want at most the time between two renewals", d)
	}
	open(t, other, job("another"))
}

func TestOpen_FollowsClosedHead(t *testing.T) {
	t.Parallel()
	b, h, w := startJob(t, 3)
	finish(t, w, take(t, w, 1)...)
	if _, err := h.Results(within(t, time.Minute), 1); err != nil { // and not acknowledged
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	h = open(t, b, job("batch"))
	if d := time.Since(start); d > time.Second {
		t.Errorf("Open took %v: want no wait for a head that has left", d)
	}
	eventually(t, "two requests are held", func() bool { return len(held(t, h)) == 2 })
	results(t, h, 1)
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("the result that was not acknowledged came back after %v", d)
	}
}

// killedHead returns a connection and a job whose head was killed after it had handed out
// three requests.
func killedHead(t *testing.T) (*broker, queue.Job) {
	t.Helper()
	_, b := start(t)
	j := job("batch")
	j.DeadAfter = time.Second
	h := open(t, b, j)
	handOut(t, h, numbered(3)...)
	eventually(t, "three requests are held", func() bool { return len(held(t, h)) == 3 })
	h.end()
	return b, j
}

func TestOpen_ReplacesDeadHead(t *testing.T) {
	t.Parallel()
	b, j := killedHead(t)
	start := time.Now()
	h := open(t, b, j)
	if d := time.Since(start); d < j.DeadAfter {
		t.Errorf("Open took %v: want at least %v, in which the head might have renewed its record", d, j.DeadAfter)
	}
	if ids := held(t, h); len(ids) != 3 {
		t.Errorf("Held = %v: want three requests", ids)
	}
}

func TestOpen_AfterCancelOfDeadHead(t *testing.T) {
	t.Parallel()
	b, j := killedHead(t)
	if err := b.Cancel(t.Context(), "batch"); err != nil {
		t.Fatal(err)
	}
	if jobs, err := b.Jobs(t.Context()); len(jobs) > 0 || err != nil {
		t.Errorf("Jobs = %v, %v: want none", jobs, err)
	}
	h := open(t, b, j)
	if ids := held(t, h); len(ids) > 0 {
		t.Errorf("Held = %v: want none after Cancel", ids)
	}
	handOut(t, h, numbered(1)...)
	take(t, join(t, b, "w1", "batch"), 1)
}

// A canceled job without a head delays the next one of its name by seconds. If its head
// was out of reach, it learns that it was canceled.
func TestOpen_SoonAfterCancelOfDeadHead(t *testing.T) {
	t.Parallel()
	_, b := start(t)
	j := job("batch")
	j.DeadAfter = time.Minute
	h := open(t, b, j)
	h.cancel(errClosed) // as if it was frozen
	h.running.Wait()
	if err := b.Cancel(t.Context(), "batch"); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	open(t, b, j)
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("Open took %v: want some seconds", d)
	}
	h.ctx, h.cancel = context.WithCancelCause(context.Background())
	if err := h.renew(t.Context()); !errors.Is(err, queue.ErrCanceled) {
		t.Errorf("the renewal of the old head: got %v, want ErrCanceled", err)
	}
}

func TestHead_LosesJobToAnother(t *testing.T) {
	t.Parallel()
	b, h, w := startJob(t, 1)
	finish(t, w, take(t, w, 1)...)
	// As if the head was frozen for longer than DeadAfter, and another took over.
	r := h.snapshot()
	r.Owner = "another"
	if _, err := b.put(t.Context(), registryBucket, jobKey(h.token), r.encode()); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	h.renewed = time.Now().Add(-r.DeadAfter)
	h.mu.Unlock()
	if got, err := h.Results(within(t, time.Minute), 1); !errors.Is(err, queue.ErrLost) {
		t.Errorf("Results = %v, %v: want ErrLost, not a result that the other head writes", got, err)
	}
	ctx := t.Context()
	_, errHeld := h.Held(ctx)
	for name, err := range map[string]error{
		"HandOut": h.HandOut(ctx, numbered(1)[0]),
		"Held":    errHeld,
		"Remove":  h.Remove(ctx, "r0"),
		"Ack":     h.Ack(nil),
		"Limit":   h.Limit(ctx, 1),
		"Report":  h.Report(ctx, queue.State{}),
		"Finish":  h.Finish(ctx),
	} {
		if !errors.Is(err, queue.ErrLost) {
			t.Errorf("%s = %v: want ErrLost", name, err)
		}
	}
	if err := h.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
	if found, _, err := b.record(ctx, h.token); err != nil || found.Owner != "another" {
		t.Errorf("the record = %v, %v: want that of the other head", found, err)
	}
}

func TestHead_WaitsForContext(t *testing.T) {
	t.Parallel()
	_, b := start(t)
	h := open(t, b, job("batch"))
	if _, err := h.Results(within(t, 50*time.Millisecond), 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Results = %v: want the error of the context", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.HandOut(ctx, numbered(1)[0]); !errors.Is(err, context.Canceled) {
		t.Errorf("HandOut = %v: want the error of the context", err)
	}
}
