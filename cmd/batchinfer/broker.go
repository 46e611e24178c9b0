package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/natsqueue"
	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

// dialQueue connects to the queue of the settings. It tells notice, which may be nil,
// when the queue is out of reach.
func dialQueue(ctx context.Context, c *config, notice func(string)) (queue.Queue, error) {
	return natsqueue.Dial(ctx, natsqueue.Options{URL: c.queueURL, Credentials: c.queueCredentials, Notice: notice})
}

// A notices prints the notices of a queue to a writer that may be replaced.
type notices struct {
	mu sync.Mutex
	w  io.Writer
}

func (n *notices) to(w io.Writer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.w = w
}

func (n *notices) print(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	fmt.Fprintf(n.w, "batchinfer: %s\n", text)
}

// A headQueue is the queue of a run that is the head of a job.
type headQueue struct {
	queue  queue.Queue
	server *natsqueue.Server // within the process; nil: elsewhere
	remote *remote           // the open job; nil: open has not been called, or finish has

	notices notices // of the queue
}

// connect connects to the queue of the settings. If these have an address in place of a
// URL, it starts a server there first.
func connect(ctx context.Context, c *config, outputName string, log io.Writer) (*headQueue, error) {
	var name string
	if err := parseJob(&name, jobName(c, outputName)); err != nil {
		return nil, fmt.Errorf("the base name of the output as the name of the job: %w: set queue_job", err)
	}
	h := &headQueue{}
	h.notices.to(log)
	dialed := *c
	if c.embedsQueue() {
		var err error
		if h.server, err = natsqueue.Serve(c.queueURL, outputName+".queue", c.queueCredentials); err != nil {
			return nil, err
		}
		dialed.queueURL = h.server.URL()
	}
	var err error
	if h.queue, err = dialQueue(ctx, &dialed, h.notices.print); err != nil {
		h.discard()
		return nil, err
	}
	return h, nil
}

// jobName returns the name of the job of a head.
func jobName(c *config, output string) string {
	return cmp.Or(c.queueJob, filepath.Base(output))
}

// open makes the run the head of its job.
func (h *headQueue) open(ctx context.Context, c *config, in *input, sum *summary) error {
	job := queue.Job{
		Name:        jobName(c, sum.output),
		MaxInFlight: c.queueMaxInFlight,
		Window:      c.queueWindow,
		DeadAfter:   c.queueDeadAfter,
		MaxDeaths:   c.queueMaxDeaths,
		Replicas:    c.queueReplicas,
	}
	head, err := h.queue.Open(ctx, job)
	switch {
	case errors.Is(err, queue.ErrRunning):
		return fmt.Errorf("job %s: another run is its head: end that one, or give the job another name with queue_job", quoteOdd(job.Name))
	case err != nil:
		return fmt.Errorf("job %s: %w", quoteOdd(job.Name), err)
	}
	h.remote = newRemote(h.queue, head, job, in, sum)
	return nil
}

// others returns a text for each job that another head has left in the files of the
// server, because workers serve it, too. A head that is alive reports each second.
func (h *headQueue) others(ctx context.Context, c *config, job string) (texts []string) {
	if h.server == nil {
		return nil
	}
	jobs, _ := h.queue.Jobs(ctx) // open has succeeded: the texts are no reason to fail
	for _, other := range jobs {
		if other.Job == job || time.Since(other.HeadSeen) < 5*reportInterval {
			continue
		}
		reported := "has never reported"
		if !other.HeadSeen.IsZero() {
			reported = "last reported " + seen(other.HeadSeen)
		}
		texts = append(texts, fmt.Sprintf("the queue also has the job %s, whose head %s: batchinfer cancel -queue %s -job %s removes it",
			quoteOdd(other.Job), reported, shellQuote(h.address(c)), shellQuote(other.Job)))
	}
	return texts
}

// workCommand returns the command that starts a worker for the run.
func (h *headQueue) workCommand(c *config) string {
	return "batchinfer work -queue " + shellQuote(h.address(c)) + " -url GATEWAY"
}

// address returns the URL of the queue for workers, or URL if it may hold a password.
func (h *headQueue) address(c *config) string {
	switch {
	case h.server != nil:
		host, port, _ := net.SplitHostPort(c.queueURL) // it was parsed before
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			host, _ = os.Hostname()
		}
		return "nats://" + net.JoinHostPort(cmp.Or(host, "HOST"), port)
	case !confidential(c.queueURL):
		return c.queueURL
	}
	return "URL"
}

// finish removes the job or leaves it for a later run, after this run has ended with err.
// After a success it removes the files of the server.
func (h *headQueue) finish(err error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	r := h.remote
	h.remote = nil
	if closeErr := r.close(ctx, err); closeErr != nil {
		return fmt.Errorf("queue: %w", closeErr)
	}
	if server := h.server; err == nil && server != nil {
		h.close()
		return server.Remove()
	}
	return nil
}

// discard closes the queue and the server of a run that has not begun. It removes the
// files that the server has made, unless they are those of an earlier run.
func (h *headQueue) discard() {
	server := h.server
	h.close()
	if server != nil {
		server.Discard()
	}
}

// close closes the queue and the server, if they are open.
func (h *headQueue) close() {
	if h.remote != nil { // the run has not begun
		_ = h.remote.head.Close()
		h.remote = nil
	}
	if h.queue != nil {
		_ = h.queue.Close() // an acknowledgment that is lost does no harm
		h.queue = nil
	}
	if h.server != nil {
		h.server.Close()
		h.server = nil
	}
}
