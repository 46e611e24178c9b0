package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
	"github.com/httpretry/httpretry/cmd/batchinfer/internal/share"
	"github.com/httpretry/httpretry/inference"
)

const workUsage = `usage: batchinfer work -queue URL -url URL [-job NAME] [-config FILE]
                       [-header FIELD] [-concurrency N] [-rps N] [-tpm N] [-v N]

Work takes requests from a queue, sends them to a gateway, and returns the answers
to the queue, for the heads of the jobs to write. Any number of workers may do so,
usually one beside each gateway. Without -job, a worker serves all jobs of the
queue, each in its turn. It works until a signal stops it.

After SIGINT or SIGTERM it hands back all requests that wait, gives the gateway
10 seconds for those that it works on, and hands back the rest. A second signal
hands back everything immediately. While the gateway is unreachable, it hands back
all requests but one. A worker whose key or URL is wrong hands back its requests,
too, and ends with an error.

The environment variables INFERENCE_API_KEY and BATCHINFER_QUEUE_CREDENTIALS
override inference_api_key and queue_credentials.

`

const workStatuses = `
Exit status:
  0  a signal stopped the worker
  1  no request can succeed here, or the queue did not take requests back
  2  nothing was sent, because of a mistake in usage or config, or because the
     queue is unreachable

The keys of the config file are listed by batchinfer -h.
`

// work runs a worker and returns the exit status.
func work(ctx context.Context, p process) int {
	opts, err := parseWorkOptions(p)
	if errors.Is(err, flag.ErrHelp) {
		return exitOK
	}
	if err != nil {
		return exitUsage // parseWorkOptions has printed the reason
	}
	cfg, err := opts.config(ctx, p.getenv)
	if err == nil {
		err = cfg.checkRemoteQueue()
	}
	if err == nil {
		client := cfg.client()
		err = client.Validate()
	}
	var q queue.Queue
	log := notices{w: p.stderr}
	if err == nil {
		q, err = dialQueue(ctx, &cfg, log.print)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		p.say("interrupted before anything was sent")
		return exitOK
	case err != nil:
		p.explain(err)
		return exitUsage
	}
	defer stopLogging()
	status := workFor(ctx, p, opts, &cfg, q, log.print)
	if err := q.Close(); err != nil && status == exitOK {
		p.say("queue: %v", err)
		return exitFailed
	}
	return status
}

// parseWorkOptions reads the command line of a worker. If it returns an error, it has
// printed it.
func parseWorkOptions(p process) (options, error) {
	o := options{args: p.args, worker: true}
	flags := flag.NewFlagSet("batchinfer work", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // its messages may quote a password
	flags.StringVar(&o.queue, "queue", "", "take requests from the queue at `URL`, such as nats://localhost:4222, or at several separated by commas; overrides queue_url")
	flags.StringVar(&o.job, "job", "", "work for the job `NAME` only; overrides queue_job")
	o.gatewayFlags(flags)
	err := flags.Parse(p.args)
	if err == nil {
		given := make(map[string]bool)
		flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
		if err = o.check(given, flags.Args()); err == nil {
			return o, nil
		}
		p.say("%s", o.public(err.Error()))
		return o, err
	}
	if !errors.Is(err, flag.ErrHelp) {
		p.say("%s", o.public(err.Error()))
	}
	fmt.Fprint(p.stderr, workUsage)
	flags.SetOutput(p.stderr)
	flags.PrintDefaults()
	fmt.Fprint(p.stderr, workStatuses)
	return o, err
}

// workFor runs a worker of a queue and returns the exit status.
func workFor(ctx context.Context, p process, opts options, cfg *config, q queue.Queue, log func(string)) int {
	name := workerName()
	clientConfig := cfg.client()
	clientConfig.Logger = newLogger(p.stderr, opts.verbosity)
	pacer := cfg.pacer()
	shared, err := share.Join(q.Board(), name, cfg.gatewayTexts(), cfg.shared, cmp.Or(cfg.endpointPacer(), pacer))
	if err != nil {
		p.explain(fmt.Errorf("gateway: %w", err))
		return exitUsage
	}
	defer shared.Close()
	if clientConfig.Pacer == nil {
		pacer = shared
	} else {
		clientConfig.Pacer = noted(shared) // of the gateway that each attempt goes to
	}
	client := inference.NewHTTPInferenceClient(clientConfig)
	defer client.CloseIdleConnections()
	tasks, err := q.Join(ctx, name, cfg.queueJob)
	if err != nil {
		p.explain(fmt.Errorf("queue: %w", err))
		return exitUsage
	}
	w, err := newWorker(tasks, client, cfg, pacer, func(format string, args ...any) { log(fmt.Sprintf(format, args...)) })
	if err != nil {
		p.explain(err)
		return exitUsage
	}
	w.shares = shared
	p.say("worker %s takes requests from %s", name, cfg.jobs())
	signals := make(chan os.Signal, 1)
	defer signal.Stop(signals)
	ballast := newBallast()
	defer runtime.KeepAlive(ballast)
	err = w.run(ctx, func() <-chan os.Signal {
		signal.Notify(signals, os.Interrupt, syscall.SIGTERM) // from the second one on
		return signals
	})
	return w.conclude(p, err, tasks.Close())
}

// conclude tells how the worker has ended and returns the exit status.
func (w *worker) conclude(p process, err, closeErr error) int {
	status := exitOK
	if err != nil {
		p.say("%v", err)
		status = exitFailed
	}
	p.say("stopped: %s; %d handed back", w.progress(time.Now()), w.returned-w.lost)
	if w.lost > 0 {
		p.say("%d requests could not be handed back: other workers get them after the job's queue_dead_after", w.lost)
		status = exitFailed
	}
	if closeErr != nil {
		p.say("queue: %v", closeErr)
		status = exitFailed
	}
	return status
}

// workerName returns a name that no other worker has, and that tells where this one
// is. It is fit for the key of a board.
func workerName() string {
	host, _ := os.Hostname() // "" is good enough
	fit := func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}
	host = strings.Map(fit, host)
	const most = 40
	return fmt.Sprintf("%.*s-%d-%s", most, host, os.Getpid(), strings.ToLower(rand.Text()[:6]))
}
