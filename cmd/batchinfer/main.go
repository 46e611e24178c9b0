package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"maps"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

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
	if len(p.args) > 0 && !strings.HasPrefix(p.args[0], "-") {
		return runVerb(ctx, p)
	}
	opts, err := parseOptions(p)
	if errors.Is(err, flag.ErrHelp) {
		return exitOK
	}
	if err != nil {
		return exitUsage // parseOptions has printed the reason
	}
	if opts.version {
		fmt.Fprintln(p.stdout, version())
		return exitOK
	}
	j, err := prepare(ctx, p, opts)
	switch {
	case err != nil && ctx.Err() != nil:
		p.say("interrupted before anything was sent")
		return exitInterrupted
	case err != nil:
		p.explain(err)
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
	status := j.report(p, opts, err, interrupted)
	if err := j.batch.summary.writeJSON(opts.summaryFile, status); err != nil {
		p.say("-summary: %v", err)
		return max(status, exitFailed)
	}
	return status
}

// verbs are the commands that the first word of a command line names. A command line
// without one is a run.
var verbs = map[string]func(context.Context, process) int{
	"cancel": cancel,
	"join":   join,
	"status": status,
	"work":   work,
}

// runVerb runs the command that the first argument names.
func runVerb(ctx context.Context, p process) int {
	verb := verbs[p.args[0]]
	if verb == nil {
		names := slices.Sorted(maps.Keys(verbs))
		fault := fmt.Sprintf("unknown command %q: must be one of %s, or flags for a run; see batchinfer -h", p.args[0], strings.Join(names, ", "))
		p.say("%s", (&options{args: p.args}).public(fault))
		return exitUsage
	}
	p.args = p.args[1:]
	return verb(ctx, p)
}

// version returns the version of the program, and of the Go release that built it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "batchinfer (unknown version)"
	}
	text := "batchinfer " + info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			text += " " + s.Value
		}
	}
	return text + " " + info.GoVersion
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

// say prints a message with the name of the program.
func (p *process) say(format string, args ...any) {
	fmt.Fprintf(p.stderr, "batchinfer: "+format+"\n", args...)
}

// explain prints an error of a command that has sent nothing. It has no prefix, because
// an error in a file begins with FILE:LINE:, which editors find.
func (p *process) explain(err error) { fmt.Fprintln(p.stderr, err) }

// notPrintedTo returns an error if the program prints to the file of that name,
// because the summary would be written between the answers.
func (p *process) notPrintedTo(name string) error {
	info, err := os.Stat(name)
	if err != nil {
		return nil // whoever opens it reports it
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
	queue  *headQueue // nil: the run asks the gateway itself
}

// prepare opens and checks everything that can be checked before the first request
// is sent.
func prepare(ctx context.Context, p process, opts options) (_ *job, err error) {
	j := &job{}
	defer func() {
		if err != nil {
			if j.queue != nil {
				j.queue.discard()
			}
			j.close()
		}
	}()
	cfg, err := opts.config(ctx, p.getenv)
	if err != nil {
		return nil, err
	}
	if cfg.queueURL != "" {
		if j.queue, err = connect(ctx, &cfg, opts.output, p.stderr); err != nil {
			return nil, err
		}
	}
	if err := j.openFiles(ctx, p, opts); err != nil {
		return nil, err
	}
	if opts.demo() {
		if j.demo, err = startDemo(); err != nil {
			return nil, err
		}
		cfg.gatewayURL = j.demo.url
		p.say("no -input: sending %d sample requests to an endpoint in this process that fails on purpose", len(j.input.index))
	}
	if err := j.checkSummary(p, opts); err != nil {
		return nil, fmt.Errorf("-summary: %w", err)
	}
	sum := newSummary(len(j.input.index), j.input.index.answered(), j.output.name)
	shown := newProgress(p.stderr, sum.todo())
	crew, err := j.newCrew(ctx, p, opts, &cfg, sum, shown)
	if err != nil {
		return nil, err
	}
	j.batch = &batch{
		crew:     crew,
		input:    j.input,
		output:   j.output,
		deferral: newDeferral(cfg.maxBackoff),
		progress: shown,
		summary:  sum,
	}
	return j, nil
}

// newCrew returns the crew of the run: the workers of a queue, or this process.
func (j *job) newCrew(ctx context.Context, p process, opts options, cfg *config, sum *summary, shown progress) (crew, error) {
	if j.queue != nil {
		j.input.raw = true
		j.queue.notices.to(shown)
		waiting := time.AfterFunc(2*time.Second, func() {
			p.say("the job has a head that may be alive: waiting for a sign of it, for up to %v", cfg.queueDeadAfter)
		})
		err := j.queue.open(ctx, cfg, j.input, sum)
		waiting.Stop()
		if err != nil {
			return nil, err
		}
		j.queue.remote.limits = &limitFile{options: opts, getenv: p.getenv, current: cfg.queueMaxInFlight, log: shown}
		j.queue.remote.log = shown
		p.say("%d requests for the workers of the job %s: %s", sum.todo(), quoteOdd(j.queue.remote.job), j.queue.workCommand(cfg))
		for _, text := range j.queue.others(ctx, cfg, j.queue.remote.job) {
			p.say("%s", text)
		}
		return j.queue.remote, nil
	}
	clientConfig := cfg.client()
	if err := clientConfig.Validate(); err != nil {
		return nil, err
	}
	clientConfig.Logger = newLogger(shown, opts.verbosity)
	j.client = inference.NewHTTPInferenceClient(clientConfig)
	a := newAsker(j.client, cfg, sum.live)
	a.warn = func(text string) { fmt.Fprintf(shown, "batchinfer: %s\n", text) }
	return &local{asker: a}, nil
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
	j.input.part = opts.part
	if err := j.input.check(ctx); err != nil {
		return err
	}
	if opts.part.count > 0 {
		p.say("%s: %d requests belong to shard %v", j.input.name, len(j.input.index), opts.part)
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

// checkSummary returns an error if the summary can't be written at the end of the run,
// or would replace another file of the run.
func (j *job) checkSummary(p process, opts options) error {
	name := opts.summaryFile
	if name == "" {
		return nil
	}
	if info, err := os.Stat(name); err == nil {
		for _, other := range []string{opts.input, opts.output, opts.configFile} {
			if there, err := os.Stat(other); err == nil && os.SameFile(info, there) {
				return fmt.Errorf("%s: is another file of the run", name)
			}
		}
		if !info.Mode().IsRegular() { // opening a pipe blocks until it has a reader
			return fmt.Errorf("%s: not a regular file", name)
		}
	}
	if err := p.notPrintedTo(name); err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	return f.Close()
}

func (j *job) run(ctx context.Context) error {
	defer j.batch.progress.close()
	ballast := newBallast()
	defer runtime.KeepAlive(ballast)
	err := j.batch.run(ctx)
	if err == nil {
		err = j.output.verify(ctx)
	}
	if j.queue != nil {
		err = cmp.Or(err, j.queue.finish(err))
	}
	return err
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
	if j.queue != nil {
		j.queue.close()
	}
	if j.output != nil {
		err = j.output.Close()
	}
	if j.input != nil {
		j.input.close()
	}
	return err
}
