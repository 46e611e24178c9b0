package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// options are the values of the command line.
type options struct {
	input, output, configFile, url string

	concurrency int // 0: the config's
	verbosity   int
	urls        []string // each value of -url, of which the last counts
	args        []string // unchanged
}

// maxVerbosity is far above the levels that programs use.
const maxVerbosity = 1000

const usage = `usage: batchinfer -input FILE -output FILE [-config FILE] [-url URL] [-concurrency N] [-v N]
       batchinfer

Batchinfer sends the requests of an OpenAI batch file to an inference gateway
and writes an OpenAI batch output file. Run again with the same files, it sends
only the requests that have no answer yet. Without flags, it sends a sample to an
endpoint of its own that simulates failures. The environment variable
INFERENCE_API_KEY, if set, is the gateway's key.

`

const exitStatuses = `
The exit status is 0 if every request is answered, 1 if some failed or the run
was stopped, 2 if nothing was sent because of a mistake, and 130 after a signal.
The keys of the config file are described by
go doc github.com/httpretry/httpretry/cmd/batchinfer.
`

// parseOptions reads the command line. If it returns an error, it has printed it.
func parseOptions(p process) (options, error) {
	o := options{args: p.args}
	flags := flag.NewFlagSet("batchinfer", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // its messages may quote a password
	flags.StringVar(&o.input, "input", "", "read requests from `FILE`, a JSON object in each line; - is the standard input")
	flags.StringVar(&o.output, "output", "", "write answers to `FILE`; if it exists, the run resumes")
	flags.StringVar(&o.configFile, "config", "", "read settings from the YAML `FILE`")
	flags.Func("url", "send requests to the gateway at `URL`, without /v1; overrides inference_gateway_url", func(text string) error {
		o.url, o.urls = text, append(o.urls, text)
		return nil
	})
	flags.Func("concurrency", "send `N` requests concurrently; overrides num_workers and max_job_concurrency (default 16)", decimal(&o.concurrency))
	flags.Func("v", "log at level `N`; 3 logs each retry (default 0)", decimal(&o.verbosity))
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
	fmt.Fprint(p.stderr, usage)
	flags.SetOutput(p.stderr)
	flags.PrintDefaults()
	fmt.Fprint(p.stderr, exitStatuses)
	return o, err
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

func (o *options) check(given map[string]bool, rest []string) error {
	var files []string
	for _, f := range []struct{ name, value string }{
		{"input", o.input}, {"output", o.output}, {"config", o.configFile}, {"url", o.url},
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
	case len(files) > 0 && o.input == "":
		return fmt.Errorf("-input is missing (there is -%s, so this is not the sample run)", files[0])
	case len(files) > 0 && o.output == "":
		return errors.New("-output is missing")
	case o.output == "-":
		return errors.New("-output: must be a file: the standard output is for the summary")
	case given["concurrency"] && (o.concurrency < 1 || o.concurrency > maxInFlight):
		return fmt.Errorf("-concurrency is %d: it must be a whole number from 1 to %d", o.concurrency, maxInFlight)
	case o.verbosity < 0 || o.verbosity > maxVerbosity:
		return fmt.Errorf("-v is %d: it must be a whole number from 0 to %d", o.verbosity, maxVerbosity)
	}
	return nil
}

// demo reports whether this is the run without files.
func (o *options) demo() bool { return o.input == "" }

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
	if o.url != "" {
		if err := parseURL(&c.gatewayURL, o.url); err != nil {
			return c, fmt.Errorf("-url: %w", err)
		}
	}
	if o.concurrency > 0 {
		c.numWorkers, c.perWorker = 1, o.concurrency
	}
	if c.gatewayURL == "" && !o.demo() {
		return c, errors.New("no gateway: give -url, or inference_gateway_url in the file of -config")
	}
	return c, nil
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
		if secret := o.secretIn(arg); secret != "" {
			arg = strings.TrimSuffix(arg, secret) + "URL"
		}
		parts = append(parts, shellQuote(arg))
	}
	return strings.Join(parts, " ")
}

// public returns a message without the secrets that the command line holds.
func (o *options) public(message string) string {
	for _, arg := range o.args {
		if secret := o.secretIn(arg); secret != "" {
			quoted := strconv.Quote(secret)
			message = strings.ReplaceAll(message, quoted[1:len(quoted)-1], "URL")
			message = strings.ReplaceAll(message, secret, "URL")
		}
	}
	return message
}

// secretIn returns the end of an argument that is a URL which may hold a
// password or a key, or "".
func (o *options) secretIn(arg string) string {
	value := arg
	if _, after, ok := strings.Cut(arg, "="); ok && strings.HasPrefix(arg, "-") {
		value = after
	}
	isURL := strings.Contains(value, "://")
	if slices.Contains(o.urls, value) && !isURL || isURL && confidential(value) {
		return value
	}
	return ""
}

// confidential reports whether a URL may hold a password or a key.
func confidential(text string) bool {
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
