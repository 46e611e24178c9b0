package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
	"github.com/httpretry/httpretry/inference"
)

// codeWorkerLost is the code of a request whose workers died while they asked it.
const codeWorkerLost = "worker_lost"

// A task is a request that a worker holds.
type task struct {
	queue.Task
	renewed time.Time

	// These are under the lock of the worker.
	cancel context.CancelCauseFunc // ends the request; nil: it is not being asked
	asked  time.Time               // when that began, or ended
	left   bool                    // it was finished or returned, or its job has ended
}

// request returns the request of the task's line. The error has the mistakes in it.
func (t *task) request(ctx context.Context) (request, error) {
	req, faults := readRequest(ctx, &lines{text: t.Line})
	req.again, req.attempts = t.Attempts > 0, t.Attempts
	if len(faults) > 0 {
		return req, errors.New(strings.Join(faults, "; "))
	}
	return req, nil
}

// failed returns the failure of a task without asking it.
func (t *task) failed(ctx context.Context, code, message string) result {
	req, _ := t.request(ctx)
	r := result{request: req, answer: answer{ID: newID(req.content), CustomID: req.customID, Error: &failure{code, message}}}
	r.tally.live, r.tally.attempts = new(live), t.Attempts
	return r
}

// unreadable returns the result of a task whose line is not a request, for example because
// the head has another version.
func (t *task) unreadable(ctx context.Context, fault error) result {
	return t.failed(ctx, string(inference.ErrCategoryInvalidReq), fmt.Sprintf("the worker can't read the request: %v", fault))
}

// lost returns the result of a task whose workers died while they asked it.
func (t *task) lost(ctx context.Context, deaths int) result {
	return t.failed(ctx, codeWorkerLost, fmt.Sprintf("%d workers disappeared while they asked it", deaths))
}

// hold makes the worker hold tasks that it has taken.
func (w *worker) hold(taken []queue.Task) (tasks []*task) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range taken {
		t := &task{Task: t, renewed: now}
		w.held[t] = struct{}{}
		tasks = append(tasks, t)
	}
	return tasks
}

// let makes the worker no longer hold a task. It reports whether it did.
func (w *worker) let(t *task) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.left {
		return false
	}
	t.left = true
	delete(w.held, t)
	notify(w.changed)
	return true
}

// handBack returns tasks to the queue.
func (w *worker) handBack(delay time.Duration, tasks ...*task) {
	for _, t := range tasks {
		if !w.let(t) {
			continue
		}
		err := w.queue.Return(t.Task, delay)
		w.mu.Lock()
		w.returned++
		switch {
		case err == nil && w.stopping:
			w.leaving++
		case err != nil && !isOver(err):
			w.lost++
		}
		w.mu.Unlock()
	}
}

// all returns the tasks that the worker holds.
func (w *worker) all() (tasks []*task) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for t := range w.held {
		tasks = append(tasks, t)
	}
	return tasks
}

// renew renews the tasks that are due, and drops those whose job has ended.
func (w *worker) renew() {
	now := time.Now()
	var due []*task
	w.mu.Lock()
	for t := range w.held {
		if now.Sub(t.renewed) >= t.DeadAfter/3 {
			due = append(due, t)
		}
	}
	w.mu.Unlock()
	for _, t := range due {
		switch err := w.queue.Renew(t.Task); {
		case err == nil:
			t.renewed = now
		case isOver(err):
			w.drop(t)
		}
	}
}

// drop ends a task whose job has ended.
func (w *worker) drop(t *task) {
	if !w.let(t) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.cancel != nil {
		t.cancel(queue.ErrNoJob)
	}
}

// isOver reports whether an error means that the job of a task has ended.
func isOver(err error) bool {
	return errors.Is(err, queue.ErrCanceled) || errors.Is(err, queue.ErrNoJob) || errors.Is(err, queue.ErrLost)
}

// notify sends a value, unless one is waiting.
func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
