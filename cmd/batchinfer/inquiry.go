package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

// An inquiry is the command line of a command that asks a queue about its jobs.
type inquiry struct {
	options  options // the queue, the job and the config file
	flags    *flag.FlagSet
	usage    string
	statuses string
}

// newInquiry declares the flags that such commands share. job describes -job.
func newInquiry(verb, job, usage, statuses string) *inquiry {
	// No such command has files of a run, which the check of a worker's options knows.
	i := &inquiry{options: options{worker: true}, usage: usage, statuses: statuses}
	i.flags = flag.NewFlagSet("batchinfer "+verb, flag.ContinueOnError)
	i.flags.SetOutput(io.Discard) // its messages may quote a password
	i.flags.StringVar(&i.options.queue, "queue", "", "ask the queue at `URL`, such as nats://localhost:4222, or at one of several separated by commas; overrides queue_url")
	i.flags.StringVar(&i.options.job, "job", "", job)
	i.flags.StringVar(&i.options.configFile, "config", "", "read settings from the YAML `FILE`")
	return i
}

// parse reads the command line. If it returns an error, it has printed it.
func (i *inquiry) parse(p process) error {
	o := &i.options
	o.args = p.args
	err := i.flags.Parse(p.args)
	if err == nil {
		given := make(map[string]bool)
		i.flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
		if err = o.check(given, i.flags.Args()); err != nil {
			p.say("%s", o.public(err.Error()))
		}
		return err
	}
	if !errors.Is(err, flag.ErrHelp) {
		p.say("%s", o.public(err.Error()))
	}
	fmt.Fprint(p.stderr, i.usage)
	i.flags.SetOutput(p.stderr)
	i.flags.PrintDefaults()
	fmt.Fprint(p.stderr, i.statuses)
	return err
}

// dial connects to the queue. The config has the name of the job.
func (i *inquiry) dial(ctx context.Context, p process) (queue.Queue, config, error) {
	c := defaultConfig()
	if i.options.configFile != "" {
		if err := c.readFile(ctx, i.options.configFile); err != nil {
			return nil, c, err
		}
	}
	if err := c.readQueue(&i.options, p.getenv); err != nil {
		return nil, c, err
	}
	if err := c.checkRemoteQueue(); err != nil {
		return nil, c, err
	}
	q, err := dialQueue(ctx, &c, nil)
	return q, c, err
}

// run connects to the queue, calls ask, and returns the exit status. Only the absence of a
// job is exitFailed, so that a script which waits for its end is not misled by a queue that
// does not respond.
func (i *inquiry) run(ctx context.Context, p process, ask func(q queue.Queue, job string) error) int {
	q, c, err := i.dial(ctx, p)
	if err == nil {
		defer q.Close()
		err = ask(q, c.queueJob)
	}
	switch {
	case err == nil:
		return exitOK
	case ctx.Err() != nil:
		p.say("interrupted")
		return exitInterrupted
	}
	p.explain(err)
	if errors.Is(err, queue.ErrNoJob) {
		return exitFailed
	}
	return exitUsage
}
