package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxWithheld is how long failures wait for an answer to another request.
const maxWithheld = 30 * time.Second

// An ending is a task with its result.
type ending struct {
	task   *task
	result result
}

// A withheld buffers failures whose cause may be this worker, such as its key, until
// another request is answered. Otherwise a worker with a mistake in its settings would
// make thousands of requests fail that other workers could have answered. It is safe for
// concurrent use.
//
// A key may be revoked while the worker runs, and the gateway still answers the requests
// that it has accepted. So only the answer to an attempt that began after the failed one
// shows that a failure is the request's own.
type withheld struct {
	mu       sync.Mutex
	failures []ending
	row      int       // failures since the last answer
	since    time.Time // of the last answer or, if it is later, of the first of failures
	good     time.Time // when the last attempt that was answered began
	answered bool      // the gateway has answered a request
	stopped  bool      // the tasks of later failures are handed back
}

// judge adds a result. It returns the results to finish now and the tasks to hand back,
// or an error if the worker must stop because its requests all fail.
func (h *withheld) judge(e ending, now time.Time) (finish []ending, handBack []*task, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case e.result.answer.Error == nil:
		return append(h.clear(e, now), e), nil, nil
	case !h.concerns(e.result):
		return []ending{e}, nil, nil
	case h.stopped:
		return nil, []*task{e.task}, nil
	}
	if len(h.failures) == 0 {
		h.since = now
	}
	h.failures = append(h.failures, e)
	if h.row++; h.row < maxHopeless {
		return nil, nil, nil
	}
	return nil, nil, h.hopeless()
}

// clear notes an answer, and removes and returns the failures of which the worker is not
// the cause. The lock is held.
func (h *withheld) clear(answer ending, now time.Time) (finish []ending) {
	h.row, h.since, h.answered = 0, now, true
	if sent := answer.result.tally.sent; sent.After(h.good) {
		h.good = sent
	}
	h.failures = slices.DeleteFunc(h.failures, func(e ending) bool {
		own := !h.concerns(e.result)
		if own {
			finish = append(finish, e)
		}
		return own
	})
	return finish
}

// concerns reports whether the worker may be the cause of a failure.
func (h *withheld) concerns(r result) bool {
	if _, common := r.kind(); common {
		return h.good.Before(r.tally.sent)
	}
	return r.tally.final && r.answer.Error.Code == categoryNotFound && !h.answered // the URL may be wrong
}

// hopeless returns the error of a worker whose requests all fail. The lock is held.
func (h *withheld) hopeless() error {
	last := h.failures[len(h.failures)-1].result.answer.Error
	return &workerError{max(h.row, len(h.failures)), *last}
}

// A workerError is the reason why a worker ends by itself.
type workerError struct {
	requests int // that failed
	last     failure
}

func (e *workerError) Error() string {
	text := fmt.Sprintf("%d requests in a row failed: %s: %s", e.requests, e.last.Code, e.last.Message)
	if todo := advice[e.last.Code]; todo != "" {
		text += "\nbatchinfer: " + todo
	}
	return text
}

// maxProblem is the number of bytes of a gateway's message that a report has.
const maxProblem = 300

// problem returns the error as a text for the report of the worker.
func (e *workerError) problem() string {
	message := e.last.Message
	if len(message) > maxProblem {
		message = strings.ToValidUTF8(message[:maxProblem], "") + "…"
	}
	text := e.last.Code + ": " + message
	if todo := advice[e.last.Code]; todo != "" {
		text += ": " + todo
	}
	return text
}

// doubt returns the time when the first attempt began whose failure is withheld. ok reports
// whether there is one.
func (h *withheld) doubt() (first time.Time, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.failures) == 0 {
		return first, false
	}
	return h.failures[0].result.tally.sent, true
}

// overdue returns an error if failures have waited for maxWithheld without an answer, and
// the worker must stop: there are few requests.
func (h *withheld) overdue(now time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.failures) == 0 || now.Sub(h.since) < maxWithheld {
		return nil
	}
	return h.hopeless()
}

// release returns the tasks of all failures, to be handed back. If stop is true, those
// of later failures are too.
func (h *withheld) release(stop bool) (tasks []*task) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopped = h.stopped || stop
	for _, e := range h.failures {
		tasks = append(tasks, e.task)
	}
	h.failures = nil
	return tasks
}
