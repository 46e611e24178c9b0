package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// options are the values of the command line.
type options struct {
	input, output, configFile, url string

	concurrency int     // 0: the config's
	rps         float64 // 0: no limit
	tpm         int     // 0: no limit
	summaryFile string
	shard       string
	part        shard // that -shard names
	verbosity   int
	version     bool
	urls        []string // each value of -url
	header      http.Header
	fields      []string // each value of -header
	queue       string
	job         string
	worker      bool     // has a queue in place of the files
	args        []string // unchanged
}

// maxVerbosity is far above the levels that programs use.
const maxVerbosity = 1000

const usage = `usage: batchinfer -input FILE -output FILE [-config FILE] [-url URL]
                  [-header FIELD] [-concurrency N] [-rps N] [-tpm N]
                  [-shard I/N] [-summary FILE] [-v N]
       batchinfer join -input FILE -output FILE PART...
       batchinfer -input FILE -output FILE -queue URL [-config FILE] [-summary FILE]
       batchinfer work -queue URL -url URL [-job NAME] ...
       batchinfer status -queue URL [-job NAME] [-json]
       batchinfer cancel -queue URL -job NAME
       batchinfer
       batchinfer -version

Batchinfer sends the requests of an OpenAI batch file to an inference gateway
and writes an OpenAI batch output file. Run again with the same files, it sends
only the requests that have no answer yet. Without flags, it sends a sample to an
endpoint of its own that simulates failures. The environment variable
INFERENCE_API_KEY, if set, is the gateway's key.

`

const keysAndStatuses = `
Keys of the config file, with their defaults:
  inference_gateway_url      URL of the gateway, without /v1 (no default)
  inference_api_key          API key of the gateway (no default)
  inference_headers          header fields to send, a mapping (none)
  inference_request_timeout  for one attempt, with its response body (5m)
  inference_max_retries      after the first attempt (3)
  inference_initial_backoff  before the first retry (1s)
  inference_max_backoff      longest backoff; also the pause before a request
                             that failed is sent again (60s)
  inference_backoff_factor   from each backoff to the next (2.0)
  inference_jitter_fraction  by which a backoff varies (0.1)
  inference_max_retry_after  longest wait that the gateway may ask for (1h)
  inference_max_outage       longest time in which the gateway answers nothing (1h);
                             not used with a queue
  num_workers                workers (1)
  max_job_concurrency        most concurrent requests per worker (256)

Keys of a queue:
  queue_url                    URL of the queue, or several with commas; -queue overrides
                               it (no default)
  queue_job                    name of the job; -job of work and status overrides it;
                               without it, the output's base name or, for a worker, all
                               jobs (no default)
  queue_credentials            name of a .creds file, user:password or a token (no default)
  queue_window                 most requests handed out without an answer (20000)
  queue_max_in_flight          most requests that all workers of the job have (none)
  queue_replicas               servers that store each request; without it 3, or 1 if
                               the server is alone (no default)
  queue_dead_after             time without a message after which a worker has lost its
                               requests, at least 1s (30s)
  queue_max_deaths             workers that may die while they send a request alone (3)
  gateway_max_in_flight        most attempts at one time at each gateway, of all workers
                               of the queue (none)
  gateway_requests_per_second  most attempts a second at each gateway, of all workers of
                               the queue (none)

Exit status:
  0    every request of the input has an answer
  1    some requests failed, or the run was stopped by an error
  2    nothing was sent, because of a mistake in usage, config, input or output
  130  a signal stopped the run

More: go doc github.com/httpretry/httpretry/cmd/batchinfer, and
https://github.com/httpretry/httpretry/blob/main/docs/batch.md
`

// parseOptions reads the command line. If it returns an error, it has printed it.
func parseOptions(p process) (options, error) {
	o := options{args: p.args}
	flags := flag.NewFlagSet("batchinfer", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // its messages may quote a password
	flags.StringVar(&o.input, "input", "", "read requests from `FILE`, a JSON object in each line; - is the standard input")
	flags.StringVar(&o.output, "output", "", "write answers to `FILE`; if it exists, the run resumes")
	o.gatewayFlags(flags)
	flags.StringVar(&o.queue, "queue", "", "hand the requests to the workers of the queue at `URL`, such as nats://localhost:4222; several URLs are separated by commas; an address such as :4222 starts a queue at that port; overrides queue_url")
	flags.StringVar(&o.summaryFile, "summary", "", "write the summary to `FILE` too, as JSON")
	flags.StringVar(&o.shard, "shard", "", "send only the requests of shard `I/N`, with I from 0 to N-1; auto and auto/N take I from JOB_COMPLETION_INDEX or SLURM_ARRAY_TASK_ID; {shard} in -output and -summary stands for I")
	flags.BoolVar(&o.version, "version", false, "print the version and exit")
	err := flags.Parse(p.args)
	if err == nil {
		given := make(map[string]bool)
		flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
		if err = o.check(given, flags.Args()); err == nil {
			err = o.divide(p.getenv)
		}
		if err == nil {
			return o, nil
		}
		p.say("%s", o.public(err.Error()))
		return o, err
	}
	if !errors.Is(err, flag.ErrHelp) {
		p.say("%s", o.public(err.Error()))
	}
	fmt.Fprint(p.stderr, usage)
	flags.SetOutput(p.stderr)
	flags.PrintDefaults()
	fmt.Fprint(p.stderr, keysAndStatuses)
	return o, err
}

// gatewayFlags declares the flags that tell how to ask a gateway.
func (o *options) gatewayFlags(flags *flag.FlagSet) {
	flags.StringVar(&o.configFile, "config", "", "read settings from the YAML `FILE`")
	flags.Func("url", "send requests to the gateway at `URL`, without /v1; may be repeated, and followed by a weight, as in 'URL weight=2'; overrides inference_gateway_url", func(text string) error {
		// An empty one must not hide behind another.
		if o.urls = append(o.urls, text); len(o.urls) == 1 || text == "" {
			o.url = text
		}
		return nil
	})
	flags.Func("header", "send the header `FIELD`, such as 'X-Tenant: a', with each request; may be repeated; overrides inference_headers", func(text string) error {
		o.fields = append(o.fields, text)
		return parseField(&o.header, text)
	})
	flags.Func("concurrency", "send at most `N` requests concurrently; overrides num_workers and max_job_concurrency (default 256)", decimal(&o.concurrency))
	flags.Func("rps", "send at most `N` requests a second (default no limit)", positive(&o.rps))
	flags.Func("tpm", "use at most `N` tokens a minute, as far as the answers have their usage (default no limit)", decimal(&o.tpm))
	flags.Func("v", "log at level `N`; 3 logs each retry (default 0)", decimal(&o.verbosity))
}

// decimal returns a function that sets n to a number in the same format as in a
// config file, where 010 is ten.
func decimal(n *int) func(string) error {
	return func(text string) (err error) {
		if *n, err = strconv.Atoi(text); err != nil {
			return errors.New("not a whole number")
		}
		return nil
	}
}

// positive returns a function that sets x to a number above 0.
func positive(x *float64) func(string) error {
	return func(text string) (err error) {
		if *x, err = strconv.ParseFloat(text, 64); err != nil || !(*x > 0 && *x <= math.MaxFloat64) { // also NaN
			return errors.New("not a number above 0")
		}
		return nil
	}
}

func (o *options) check(given map[string]bool, rest []string) error {
	var files []string
	for _, f := range []struct{ name, value string }{
		{"input", o.input}, {"output", o.output}, {"config", o.configFile}, {"summary", o.summaryFile}, {"url", o.url}, {"header", strings.Join(o.fields, "")}, {"shard", o.shard},
		{"queue", o.queue}, {"job", o.job},
	} {
		switch {
		case given[f.name] && f.value == "":
			return fmt.Errorf("-%s: empty", f.name)
		case given[f.name]:
			files = append(files, f.name)
		}
	}
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected argument %q", rest[0])
	case o.worker:
	case len(files) > 0 && o.input == "":
		return fmt.Errorf("-input is missing (there is -%s, so this is not the sample run)", files[0])
	case len(files) > 0 && o.output == "":
		return errors.New("-output is missing")
	case o.output == "-":
		return errors.New("-output: must be a file: the standard output is for the summary")
	}
	switch {
	case given["concurrency"] && (o.concurrency < 1 || o.concurrency > maxInFlight):
		return fmt.Errorf("-concurrency is %d: it must be a whole number from 1 to %d", o.concurrency, maxInFlight)
	case given["tpm"] && o.tpm < 1:
		return fmt.Errorf("-tpm is %d: it must be a whole number above 0", o.tpm)
	case o.verbosity < 0 || o.verbosity > maxVerbosity:
		return fmt.Errorf("-v is %d: it must be a whole number from 0 to %d", o.verbosity, maxVerbosity)
	}
	return nil
}

// demo reports whether this is the run without files.
func (o *options) demo() bool { return o.input == "" && !o.worker }

// config returns the settings of the config file, the environment and the flags,
// each of which overrides those before it.
func (o *options) config(ctx context.Context, getenv func(string) string) (config, error) {
	c := defaultConfig()
	if o.demo() {
		c = demoConfig()
	}
	if o.configFile != "" {
		if err := c.readFile(ctx, o.configFile); err != nil {
			return c, err
		}
	}
	if key := strings.TrimSpace(getenv(apiKeyVariable)); key != "" && !o.demo() {
		if err := parseSecret(&c.apiKey, key); err != nil {
			return c, fmt.Errorf("%s: %w", apiKeyVariable, err)
		}
	}
	if len(o.urls) > 0 {
		if err := c.parseGateways(o.urls); err != nil {
			return c, fmt.Errorf("-url: %w", err)
		}
	}
	c.header = c.header.Clone()
	for name, values := range o.header {
		if c.header == nil {
			c.header = make(http.Header)
		}
		c.header[name] = values
	}
	if !o.demo() {
		if err := c.readQueue(o, getenv); err != nil {
			return c, err
		}
	}
	c.maxPerSecond, c.maxTokensPerMinute = o.rps, o.tpm
	if o.concurrency > 0 {
		c.numWorkers, c.perWorker = 1, o.concurrency
	}
	if c.queueURL != "" && !o.worker {
		return c, o.checkHead()
	}
	if c.gatewayURL == "" && !o.demo() {
		return c, errors.New("no gateway: give -url, or inference_gateway_url in the file of -config")
	}
	return c, nil
}

// checkHead returns an error for a flag that has no meaning for the head of a job.
func (o *options) checkHead() error {
	for name, given := range map[string]bool{
		"-url": len(o.urls) > 0, "-header": len(o.fields) > 0, "-concurrency": o.concurrency > 0, "-rps": o.rps > 0, "-tpm": o.tpm > 0,
	} {
		if given {
			return fmt.Errorf("%s: is a flag of the workers, which ask the gateway when there is a queue: see batchinfer work -h", name)
		}
	}
	if o.shard != "" {
		return errors.New("-shard: the queue divides the requests by itself")
	}
	return nil
}

// howToGoOn returns the command to enter after a run that has not answered every
// request.
func (o *options) howToGoOn() string {
	switch {
	case o.demo():
		return "the sample run starts over each time; to go on needs -input and -output"
	case o.input == "-":
		return "to go on, give the same input to:\n" + o.command()
	}
	return "to go on:\n" + o.command()
}

// command returns the command line, quoted for a shell and without secrets.
func (o *options) command() string {
	parts := []string{"  batchinfer"}
	for _, arg := range o.args {
		if secret, name := o.secretIn(arg); secret != "" {
			arg = strings.TrimSuffix(arg, secret) + name
		}
		parts = append(parts, shellQuote(arg))
	}
	return strings.Join(parts, " ")
}

// public returns a message without the secrets that the command line holds.
func (o *options) public(message string) string {
	for _, arg := range o.args {
		if secret, name := o.secretIn(arg); secret != "" {
			quoted := strconv.Quote(secret)
			message = strings.ReplaceAll(message, quoted[1:len(quoted)-1], name)
			message = strings.ReplaceAll(message, secret, name)
		}
	}
	return message
}

// secretIn returns the end of an argument that is a header field, or a URL which may
// hold a password or a key, and the name to show in its place.
func (o *options) secretIn(arg string) (secret, name string) {
	value := arg
	if _, after, ok := strings.Cut(arg, "="); ok && strings.HasPrefix(arg, "-") {
		value = after
	}
	isURL := strings.Contains(value, "://")
	switch {
	case slices.Contains(o.fields, arg): // its name may begin with a hyphen
		return arg, "FIELD"
	case slices.Contains(o.fields, value):
		return value, "FIELD"
	case slices.Contains(o.urls, value) && !isURL || isURL && confidential(value):
		return value, "URL"
	}
	return "", ""
}

// confidential reports whether a URL may hold a password or a key.
func confidential(text string) bool {
	if address, weight, ok := strings.Cut(text, " weight="); ok && strings.Trim(weight, "0123456789") == "" {
		text = address
	}
	u, err := url.Parse(text)
	return err != nil || u.User != nil || strings.ContainsAny(text, "@?#")
}

func shellQuote(arg string) string {
	harmless := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=,+@%", r)
	}
	if arg != "" && !slices.ContainsFunc([]rune(arg), func(r rune) bool { return !harmless(r) }) {
		return arg
	}
	return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
}
