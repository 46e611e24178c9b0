package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/httpretry/httpretry/inference"
)

// Exit statuses.
const (
	exitOK          = 0
	exitFailed      = 1   // some requests failed, or the run was stopped by an error
	exitUsage       = 2   // nothing was sent: a mistake in usage, config, input or output
	exitInterrupted = 130 // a signal stopped the run
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal kills the process, should the first not end it.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, process{os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr}))
}

// A process has the parts of a program's environment that run uses.
type process struct {
	args           []string // without the name of the program
	getenv         func(string) string
	stdin          io.Reader
	stdout, stderr io.Writer
}

// run runs the program and returns its exit status. It returns soon after ctx is
// done.
func run(ctx context.Context, p process) int {
	// Only net/http logs to the standard logger. It may quote an unsolicited
	// response, which may hold the key.
	log.SetOutput(io.Discard)
	opts, err := parseOptions(p)
	if errors.Is(err, flag.ErrHelp) {
		return exitOK
	}
	if err != nil {
		return exitUsage // parseOptions has printed the reason
	}
	j, err := prepare(ctx, p, opts)
	switch {
	case err != nil && ctx.Err() != nil:
		p.say("interrupted before anything was sent")
		return exitInterrupted
	case err != nil:
		fmt.Fprintln(p.stderr, err) // FILE:LINE: comes first, so that editors find it
		return exitUsage
	}
	defer stopLogging()

	err = j.run(ctx)
	interrupted := ctx.Err() != nil && errors.Is(err, context.Cause(ctx))
	if closeErr := j.close(); closeErr != nil && (err == nil || interrupted) {
		err, interrupted = closeErr, false
	}
	if err == nil && len(j.batch.summary.failed) == 0 {
		err = j.output.discardRemoved()
	}
	j.batch.summary.print(p.stdout)
	return j.report(p, opts, err, interrupted)
}

// report tells how the run has ended and returns the exit status.
func (j *job) report(p process, opts options, err error, interrupted bool) int {
	status := exitFailed
	switch {
	case interrupted:
		p.say("interrupted: %d of %d requests are answered", j.answered(), len(j.input.index))
		status = exitInterrupted
	case errors.Is(err, errOutputChanged): // the answers in it can't be counted
		p.say("%v", err)
	case err != nil:
		p.say("%v", err)
		p.say("stopped: %d of %d requests are answered", j.answered(), len(j.input.index))
	case len(j.batch.summary.failed) > 0:
		p.say("some requests failed for good; %s has the reasons", j.output.name)
	default:
		return exitOK
	}
	p.say("%s", opts.howToGoOn())
	return status
}

func (p *process) say(format string, args ...any) {
	fmt.Fprintf(p.stderr, "batchinfer: "+format+"\n", args...)
}

// notPrintedTo returns an error if the program prints to the file of that name,
// because the summary would be written between the answers.
func (p *process) notPrintedTo(name string) error {
	info, err := os.Stat(name)
	if err != nil {
		return nil // openOutput reports it
	}
	for stream, w := range map[string]io.Writer{"output": p.stdout, "error": p.stderr} {
		f, ok := w.(*os.File)
		if !ok {
			continue
		}
		if other, err := f.Stat(); err == nil && info.Mode().IsRegular() && os.SameFile(info, other) {
			return fmt.Errorf("%s: is where the standard %s goes: they must be two files", name, stream)
		}
	}
	return nil
}

// A job has the opened files and the client of a run.
type job struct {
	input  *input
	output *output
	demo   *demo // nil except in a demonstration
	client *inference.HTTPInferenceClient
	batch  *batch
}

// prepare opens and checks everything that can be checked before the first request
// is sent.
func prepare(ctx context.Context, p process, opts options) (_ *job, err error) {
	j := &job{}
	defer func() {
		if err != nil {
			j.close()
		}
	}()
	cfg, err := opts.config(ctx, p.getenv)
	if err != nil {
		return nil, err
	}
	if err := j.openFiles(ctx, p, opts); err != nil {
		return nil, err
	}
	if opts.demo() {
		if j.demo, err = startDemo(cfg.inFlight()); err != nil {
			return nil, err
		}
		cfg.gatewayURL = j.demo.url
		p.say("no -input: sending %d sample requests to an endpoint in this process that fails on purpose", len(j.input.index))
	}
	clientConfig := cfg.client()
	if err := clientConfig.Validate(); err != nil {
		return nil, err
	}
	sum := newSummary(len(j.input.index), j.input.index.answered(), j.output.name)
	shown := newProgress(p.stderr, sum.todo())
	clientConfig.Logger = newLogger(shown, opts.verbosity)
	j.client = inference.NewHTTPInferenceClient(clientConfig)
	j.batch = &batch{
		client:   j.client,
		input:    j.input,
		output:   j.output,
		inFlight: cfg.inFlight(),
		secrets:  cfg.secrets(),
		progress: shown,
		summary:  sum,
	}
	return j, nil
}

// openFiles opens the input, checks it, and only then opens the output.
func (j *job) openFiles(ctx context.Context, p process, opts options) (err error) {
	outputName := opts.output
	if opts.demo() {
		j.input = sampleInput()
		outputName, err = newDemoOutput()
	} else {
		j.input, err = openInput(ctx, opts.input, p.stdin)
	}
	if err != nil {
		return err
	}
	if err := j.input.check(ctx); err != nil {
		return err
	}
	if err := p.notPrintedTo(outputName); err != nil {
		return err
	}
	if j.output, err = openOutput(ctx, outputName, j.input); err != nil {
		return err
	}
	if n := j.output.repaired; n > 0 {
		p.say("%s: removed the last line, which was cut off after %d bytes; %s has them until a run succeeds",
			outputName, n, j.output.removedName())
	}
	if n := j.input.index.answered(); n > 0 {
		p.say("%s: %d of %d requests are answered already", outputName, n, len(j.input.index))
	}
	if n := j.output.dropped; n > 0 {
		p.say("%s: %d requests that failed are asked again", outputName, n)
	}
	return nil
}

func (j *job) run(ctx context.Context) error {
	defer j.batch.progress.close()
	if err := j.batch.run(ctx); err != nil {
		return err
	}
	return j.output.verify(ctx)
}

func (j *job) answered() int {
	return j.batch.summary.earlier + j.batch.summary.answered
}

// close closes the files and the client. It returns the error of the output, which
// is the only file that was written.
func (j *job) close() (err error) {
	if j.client != nil {
		j.client.CloseIdleConnections()
	}
	if j.demo != nil {
		j.demo.close()
	}
	if j.output != nil {
		err = j.output.Close()
	}
	if j.input != nil {
		j.input.close()
	}
	return err
}
