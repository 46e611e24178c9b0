package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

const statusUsage = `usage: batchinfer status -queue URL [-job NAME] [-json] [-config FILE]

Status prints the jobs of a queue and the workers that serve them. The counts of
requests, answers and failures are those that the head of a job last reported; the
queue itself counts the rest. TAKEN includes requests that a worker has handed back
for some seconds, which the queue does not count separately. WORKERS does not include
those that have reported nothing for 8 seconds, or have stopped because of a problem.
They are listed for a minute.

The environment variable BATCHINFER_QUEUE_CREDENTIALS overrides queue_credentials.

`

const statusStatuses = `
Exit status:
  0    the state was printed
  1    there is no such job
  2    nothing is known, because of a mistake in usage or config, or because the
       queue did not respond
  130  a signal stopped the command
`

// status runs the command of that name.
func status(ctx context.Context, p process) int {
	i := newInquiry("status", "print the job `NAME` only; overrides queue_job", statusUsage, statusStatuses)
	asJSON := i.flags.Bool("json", false, "print a JSON array with an object for each job")
	switch err := i.parse(p); {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		return exitUsage
	}
	return i.run(ctx, p, func(q queue.Queue, job string) error {
		return printStatus(ctx, p.stdout, q, job, *asJSON)
	})
}

// printStatus prints the state of the job of that name or, if it is empty, of all jobs.
func printStatus(ctx context.Context, w io.Writer, q queue.Queue, job string, asJSON bool) error {
	jobs, err := q.Jobs(ctx)
	if err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	if job != "" {
		jobs = slices.DeleteFunc(jobs, func(s queue.Status) bool { return s.Job != job })
		if len(jobs) == 0 {
			return fmt.Errorf("job %q: %w", job, queue.ErrNoJob)
		}
	}
	if asJSON {
		return writeStatus(w, jobs)
	}
	if len(jobs) == 0 {
		_, err := fmt.Fprintln(w, "no jobs")
		return err
	}
	text := jobTable(jobs)
	if workers := workersOf(jobs); len(workers) > 0 {
		text += "\n" + workerTable(workers) + workerProblems(workers)
	}
	_, err = io.WriteString(w, text)
	return err
}

// writeStatus writes the state of jobs as JSON. Empty lists are not null, so that
// scripts need not tell the two apart.
func writeStatus(w io.Writer, jobs []queue.Status) error {
	for i, job := range jobs {
		jobs[i].Workers = append([]queue.WorkerStatus{}, job.Workers...)
		for k, worker := range jobs[i].Workers {
			jobs[i].Workers[k].Gateways = append([]string{}, worker.Gateways...)
		}
	}
	return json.NewEncoder(w).Encode(append([]queue.Status{}, jobs...))
}

// workersOf returns the workers of all jobs. One that serves several is there once.
func workersOf(jobs []queue.Status) (workers []queue.WorkerStatus) {
	for _, job := range jobs {
		workers = append(workers, job.Workers...)
	}
	byName := func(a, b queue.WorkerStatus) int { return strings.Compare(a.Name, b.Name) }
	slices.SortStableFunc(workers, byName)
	return slices.CompactFunc(workers, func(a, b queue.WorkerStatus) bool { return a.Name == b.Name })
}

func jobTable(jobs []queue.Status) string {
	t := table{{"JOB", "REQUESTS", "ANSWERED", "FAILED", "HANDED OUT", "WAITING", "TAKEN", "RESULTS", "WORKERS", "HEAD SEEN"}}
	for _, s := range jobs {
		row := []string{cellOf(s.Job)}
		workers := 0
		for _, w := range s.Workers {
			if w.Counts() {
				workers++
			}
		}
		for _, n := range []int{s.Requests, s.Answered, s.Failed, s.HandedOut, s.Waiting, s.Taken, s.Results, workers} {
			row = append(row, strconv.Itoa(n))
		}
		t = append(t, append(row, seen(s.HeadSeen)))
	}
	return t.text(len(t[0]) - 1)
}

func workerTable(workers []queue.WorkerStatus) string {
	t := table{{"WORKER", "IN FLIGHT", "LIMIT", "FINISHED", "SEEN", "GATEWAYS"}}
	for _, w := range workers {
		row := []string{cellOf(w.Name)}
		for _, n := range []int{w.InFlight, w.Limit, w.Finished} {
			row = append(row, strconv.Itoa(n))
		}
		var gateways []string
		for _, g := range w.Gateways {
			gateways = append(gateways, cellOf(g))
		}
		t = append(t, append(row, seen(w.Seen), strings.Join(gateways, " ")))
	}
	return t.text(len(t[0]) - 2)
}

// workerProblems returns a line for each worker that can't ask requests.
func workerProblems(workers []queue.WorkerStatus) string {
	var text strings.Builder
	for _, w := range workers {
		name := cellOf(w.Name)
		switch {
		case w.Stopped:
			fmt.Fprintf(&text, "\nworker %s stopped: %s", name, onOneLine(w.Problem))
		case w.Problem != "":
			fmt.Fprintf(&text, "\nworker %s: %s", name, onOneLine(w.Problem))
		}
	}
	if text.Len() > 0 {
		text.WriteByte('\n')
	}
	return text.String()
}

// seen tells how long ago the last report was. The clock of the server that noted it
// may be ahead.
func seen(at time.Time) string {
	if at.IsZero() {
		return "never"
	}
	return fmt.Sprintf("%v ago", max(0, time.Since(at).Truncate(time.Second)))
}
