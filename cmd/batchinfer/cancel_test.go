package main

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

func TestCancel_EndsItsJobAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemQueue()
		one, other := newJob(t, q, "one", 1), newJob(t, q, "other", 1)
		if err := cancelJob(t.Context(), q, "one"); err != nil {
			t.Fatal(err)
		}
		if _, err := one.head.Held(t.Context()); !errors.Is(err, queue.ErrCanceled) {
			t.Errorf("the head: got %v, want %v", err, queue.ErrCanceled)
		}
		if _, err := other.head.Held(t.Context()); err != nil {
			t.Errorf("the head of the other job: got %v, want nil", err)
		}
		if err := cancelJob(t.Context(), q, "on"); !errors.Is(err, queue.ErrNoJob) {
			t.Errorf("an unknown job: got %v, want %v", err, queue.ErrNoJob)
		}
	})
}
