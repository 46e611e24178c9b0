package main

import (
	"context"
	"errors"
	"flag"
	"fmt"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

const cancelUsage = `usage: batchinfer cancel -queue URL -job NAME [-config FILE]

Cancel removes a job from a queue. Its workers drop its requests, and its head ends
with status 1. The answers that the head has written stay in its output, and a later
run with the same files asks the rest. A job without a head can be canceled, too.

The environment variable BATCHINFER_QUEUE_CREDENTIALS overrides queue_credentials.

`

const cancelStatuses = `
Exit status:
  0    the job is canceled
  1    there is no such job
  2    a mistake in usage or config, or the queue did not confirm that the job is
       canceled
  130  a signal stopped the command; status tells whether the job is canceled
`

// cancel runs the command of that name.
func cancel(ctx context.Context, p process) int {
	i := newInquiry("cancel", "cancel the job `NAME`", cancelUsage, cancelStatuses)
	err := i.parse(p)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		return exitUsage
	case i.options.job == "":
		// A config file that several commands share must not name the job to end.
		p.say("-job is missing")
		return exitUsage
	}
	return i.run(ctx, p, func(q queue.Queue, job string) error {
		if err := cancelJob(ctx, q, job); err != nil {
			return err
		}
		p.say("canceled job %q", job)
		return nil
	})
}

// cancelJob cancels the job of that name.
func cancelJob(ctx context.Context, q queue.Queue, job string) error {
	if err := q.Cancel(ctx, job); err != nil {
		return fmt.Errorf("job %q: %w", job, err)
	}
	return nil
}
