// Package queue declares the queue that divides the requests of batches among
// machines.
//
// The head of a job has its input and its output. It hands out requests and writes
// the results. Workers take requests, ask their gateways, and finish each request
// with a result. The two files at the head are the record of a job, not the queue: if
// the queue forgets a request, the head hands it out again, and if it delivers a
// result twice, the head drops the second.
//
// A worker counts as dead when it has not renewed a request for the job's DeadAfter.
//
// A method with a context tries again until the queue responds or the context is done.
// In the second case, it returns an error that matches the cause of the context. Ack,
// Renew and Return send a message without waiting for the queue to confirm it, and
// their comments say what follows if the message is lost.
//
// An implementation may retain the slices that it is given, and deliver one slice
// several times. So neither side modifies a Line, a Payload or a Value after it was
// passed. Slices of results, tasks and statuses, and maps, belong to the caller.
package queue

import (
	"context"
	"errors"
	"time"
)

// Errors that a [Queue] returns, possibly wrapped.
var (
	ErrRunning  = errors.New("the job has a head that is running")
	ErrLost     = errors.New("another head has taken over the job")
	ErrCanceled = errors.New("the job was canceled")
	ErrNoJob    = errors.New("there is no such job")
	ErrFull     = errors.New("the disk of the queue is full")
)

// A Queue is a connection to the queues of all jobs. It must be safe for concurrent use.
type Queue interface {
	// Open makes the caller the head of a job, which is created if it does not exist.
	// The settings of job replace those of an earlier head. It returns ErrRunning if the
	// job has a head that is alive. If an earlier head was not closed, Open waits for up
	// to its DeadAfter to see whether it is. It may give up, with another error, before
	// ctx is done.
	Open(ctx context.Context, job Job) (Head, error)

	// Join makes the caller a worker for the job of that name or, if the name is empty,
	// for all jobs. The job need not exist yet. The name of the worker is shown by Jobs,
	// and must be unique.
	Join(ctx context.Context, worker, job string) (Worker, error)

	// Jobs returns the state of each job, sorted by name. It may give up before ctx is
	// done.
	Jobs(ctx context.Context) ([]Status, error)

	// Cancel removes the requests and results of a job and ends its head, whose methods
	// return ErrCanceled. It returns ErrNoJob if there is no such job. It may give up
	// before ctx is done.
	Cancel(ctx context.Context, job string) error

	// Board returns the board that all workers of the queue share.
	Board() Board

	// Close closes the connection. Heads and workers must have been closed before.
	Close() error
}

// A Job describes a job to open.
type Job struct {
	// Name identifies the job. If it is empty, Open fails.
	Name string

	// MaxInFlight is the largest number of requests that all workers together have taken
	// at one time. The queue enforces it. If 0, there is no limit. [Head.Limit] changes
	// it.
	MaxInFlight int

	// Window is the largest number of requests without a result that the head hands out.
	// The head enforces it, not the queue, which may use it to plan its space. It has no
	// default.
	Window int

	// DeadAfter is how long a worker keeps a request without renewing it. After that,
	// other workers can take the request. A head that is silent for so long can be
	// replaced by another one. If it is 0 or less, Open fails.
	DeadAfter time.Duration

	// MaxDeaths is the number of workers that may die while they ask a suspect; see
	// [Worker.Start]. The queue passes it on, and workers enforce it. If 0, workers
	// fail a suspect without asking it.
	MaxDeaths int

	// Replicas is the number of servers that hold each request. If 0, the queue chooses
	// a number.
	Replicas int
}

// An ID identifies a request within a job. It consists of at most 64 letters, digits
// and hyphens.
type ID string

// A Request is a line of the input.
type Request struct {
	ID       ID
	Line     []byte
	Attempts int // that failed before the request was put off to the end of the run; 0: it was not
}

// A Head hands out the requests of a job. It must be safe for concurrent use, except for
// Finish and Close, which no other call may overlap. Its methods return ErrCanceled after
// the job was canceled, and ErrLost after another head has taken over.
type Head interface {
	// HandOut adds a request to the queue, unless the queue holds a request with its ID.
	// It returns before the queue has confirmed the request, and blocks while too many
	// are unconfirmed. The queue sends an unconfirmed request again until it is
	// confirmed. If that fails for good, a later call of HandOut returns the error. While
	// the queue is full, it may lose requests that no worker has taken.
	HandOut(ctx context.Context, r Request) error

	// Held returns the IDs of the requests that the queue holds, whether a worker has
	// taken them or not. Unconfirmed requests may be missing.
	Held(ctx context.Context) (map[ID]struct{}, error)

	// Remove removes a request from the queue, if the queue holds it.
	Remove(ctx context.Context, id ID) error

	// Results waits for a result, and returns at least one and at most limit, which must
	// be positive. A result that is not passed to Ack is delivered again after some
	// seconds, and one that is may be. Before Results returns any, it makes sure that
	// no other head has taken over.
	Results(ctx context.Context, limit int) ([]Result, error)

	// Pending returns the number of results that Ack has not removed from the queue,
	// whether Results has returned them or not.
	Pending(ctx context.Context) (int, error)

	// Ack removes results that have been written from the queue. If its message is lost,
	// the results are delivered again. It may wait for some seconds to remove a large
	// payload.
	Ack(results []Result) error

	// Limit changes the MaxInFlight of the job.
	Limit(ctx context.Context, maxInFlight int) error

	// Report sets the State that Jobs returns.
	Report(ctx context.Context, s State) error

	// Finish removes the job with its requests and results. Only Close may follow.
	Finish(ctx context.Context) error

	// Close releases the head. Without Finish, the job stays for another head, except
	// that a canceled job is removed. After HandOut has returned ErrFull, Close removes
	// the requests that no worker has taken. It may wait for some seconds.
	Close() error
}

// A Result is the end of a request.
type Result struct {
	ID      ID
	Payload []byte // as passed to Finish
	Handle  any    // owned by the Head; Ack needs it
}

// A Worker takes requests of one job or of all. It must be safe for concurrent use, except
// for Close, which no other call may overlap, and except for two calls with one Task: only
// Renew may overlap with another method.
//
// If the job of a Task has ended, Finish returns ErrNoJob or ErrCanceled, and the other
// methods may.
type Worker interface {
	// Take waits for a request, and returns at least one and at most limit, which must be
	// positive. All requests are of one job, and the jobs take turns. A suspect is
	// returned alone. When ctx is done, Take returns an error, and the queue gives the
	// requests on their way to other workers.
	Take(ctx context.Context, limit int) ([]Task, error)

	// Start notes that a suspect is about to be asked, and returns the number of workers
	// that have died after they started it. Finish and Return remove the note.
	Start(ctx context.Context, t Task) (deaths int, err error)

	// Renew keeps a request for another DeadAfter. Its message may be lost, so it must be
	// called several times within DeadAfter.
	Renew(t Task) error

	// Finish sends the result of a request and removes the request. When it returns nil,
	// the queue has stored the result; otherwise it may have. If the request can't be
	// removed, another worker asks it again, and the head gets two results.
	Finish(ctx context.Context, t Task, payload []byte) error

	// Return hands back a request, which this or another worker can take after a delay;
	// 0: immediately. If its message is lost, others can take the request after
	// DeadAfter. A request does not become a suspect by being returned. For a Task that
	// was started, Return may wait for some seconds to remove the note. It fails without a
	// connection to the queue.
	Return(t Task, delay time.Duration) error

	// Flush waits until the queue has received the messages of Return. After it has failed,
	// Close does not wait.
	Flush(ctx context.Context) error

	// Report sets the WorkerState that Jobs returns. A worker that has reported nothing
	// for about a minute is not shown.
	Report(ctx context.Context, s WorkerState) error

	// Close leaves the queue. Jobs no longer shows the worker, unless its last report says
	// that it has Stopped: Jobs shows that for about a minute. After DeadAfter, other
	// workers get the requests that were neither finished nor returned. Close may wait for
	// some seconds, so that the queue learns of those that were.
	Close() error
}

// A Task is a request that a worker has taken.
type Task struct {
	Request
	Job       string
	DeadAfter time.Duration // of the job
	MaxDeaths int           // of the job

	// Suspect reports whether the request may be the reason why workers died: several
	// have taken it, and have neither finished nor returned it. It must be asked alone,
	// after Start. So if this worker dies too, no other request is lost with it.
	Suspect bool

	Handle any // owned by the Worker; its other methods need it
}

// A State is the report of the head of a job.
type State struct {
	Requests  int `json:"requests"`   // of the input
	Answered  int `json:"answered"`   // by this head and earlier ones
	Failed    int `json:"failed"`     // by this head
	HandedOut int `json:"handed_out"` // and without a result
}

// A WorkerState is the report of a worker.
type WorkerState struct {
	Gateways []string `json:"gateways"`  // without secrets
	InFlight int      `json:"in_flight"` // requests that are being asked
	Limit    int      `json:"limit"`     // of InFlight, as the worker has adapted it
	Finished int      `json:"finished"`  // requests since the worker started

	Problem string `json:"problem,omitempty"` // why it can't ask requests, without secrets; empty: it can
	Stopped bool   `json:"stopped,omitempty"` // the worker has ended because of Problem
}

// A Status describes a job.
type Status struct {
	Job string `json:"job"`
	State
	HeadSeen time.Time      `json:"head_seen,omitzero"` // time of the last Head.Report; zero: none
	Waiting  int            `json:"waiting"`            // requests in the queue that no worker has taken
	Taken    int            `json:"taken"`              // requests that workers have taken, or have handed back with a delay that is not over
	Results  int            `json:"results"`            // that Ack has not removed
	Workers  []WorkerStatus `json:"workers"`            // that take requests of the job, sorted by name
}

// LapseAfter is the silence after which a worker no longer counts, neither for the state of
// a job nor for the limits of a gateway. Workers report every second or two.
const LapseAfter = 8 * time.Second

// A WorkerStatus describes a worker.
type WorkerStatus struct {
	Name string `json:"name"`
	WorkerState
	Seen   time.Time `json:"seen"`             // time of the last Worker.Report
	Lapsed bool      `json:"lapsed,omitempty"` // that was more than LapseAfter ago, by the clock of the queue
}

// Counts reports whether the worker takes requests, as far as the queue knows.
func (s WorkerStatus) Counts() bool { return !s.Lapsed && !s.Stopped }

// A Board holds small values, which all workers of a queue see change in the same order.
// It must be safe for concurrent use.
type Board interface {
	// Put sets a value, which must not be nil. The key consists of letters, digits,
	// hyphens and dots. It returns the revision of the value; a later change of any key
	// has a larger one. If it fails, the value may have been set.
	Put(ctx context.Context, key string, value []byte) (revision uint64, err error)

	// Delete removes a key, if it is there.
	Delete(ctx context.Context, key string) error

	// Watch sends all values whose key begins with prefix, which ends in a dot, and
	// then the changes, in the order of their revisions. After an interruption it may
	// begin again, with all values. Then the removal of a key that no longer exists has
	// the revision of its last value. Of several changes of a key, only the last may be
	// sent. The channel is closed when ctx is done or the watch fails. The caller must
	// receive until then.
	Watch(ctx context.Context, prefix string) (<-chan Entry, error)
}

// An Entry is a value of a Board or, if Value is nil, the removal of one.
type Entry struct {
	Key      string
	Value    []byte
	Revision uint64
}
