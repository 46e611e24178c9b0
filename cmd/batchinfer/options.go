package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// options are the command line.
type options struct {
	input, output, configFile, url string

	concurrency int // 0: what the config says
	verbosity   int
	args        []string // as they came
}

// maxVerbosity is far beyond the 10 levels that anybody uses.
const maxVerbosity = 1000

const usage = `usage: batchinfer -input FILE -output FILE [-config FILE] [-url URL] [-concurrency N] [-v N]
       batchinfer

Sends the requests of an OpenAI batch file to an inference gateway, and writes
an OpenAI batch output file. Without files it sends a sample to an endpoint of
its own that fails on purpose. INFERENCE_API_KEY, if set, is the gateway's key.

`

// parseOptions reads the command line. What is wrong with it has been printed
// when it returns.
func parseOptions(p process) (options, error) {
	o := options{args: p.args}
	flags := flag.NewFlagSet("batchinfer", flag.ContinueOnError)
	flags.SetOutput(p.stderr)
	flags.Usage = func() {
		fmt.Fprint(p.stderr, usage)
		flags.PrintDefaults()
	}
	flags.StringVar(&o.input, "input", "", "requests, a JSON object a line; `FILE` may be - for the standard input")
	flags.StringVar(&o.output, "output", "", "`FILE` for the answers; one that is there already is gone on with")
	flags.StringVar(&o.configFile, "config", "", "YAML `FILE` with settings")
	flags.StringVar(&o.url, "url", "", "`URL` of the gateway, without /v1; overrides inference_gateway_url")
	flags.Func("concurrency", "`N` requests in flight in all; overrides num_workers and max_job_concurrency", decimal(&o.concurrency))
	flags.Func("v", "log level `N`; 3 shows each retry (default 0)", decimal(&o.verbosity))
	if err := flags.Parse(p.args); err != nil {
		return o, err
	}
	given := make(map[string]bool)
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if err := o.check(given, flags.Args()); err != nil {
		p.say("%v", err)
		return o, err
	}
	return o, nil
}

// decimal sets n to a number as a config file has it: 010 is ten.
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

// config puts together what the config file, the environment and the flags
// say; the later overrides the earlier.
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

// howToGoOn tells what to enter after a run that has not answered everything.
func (o *options) howToGoOn() string {
	switch {
	case o.demo():
		return "the sample run starts over each time; to go on needs -input and -output"
	case o.input == "-":
		return "to go on, give the same input to:\n" + o.command()
	}
	return "to go on:\n" + o.command()
}

// command is the command line, as a shell takes it.
func (o *options) command() string {
	parts := []string{"  batchinfer"}
	for _, arg := range o.args {
		if o.url != "" && strings.HasSuffix(arg, o.url) && confidential(o.url) {
			arg = strings.TrimSuffix(arg, o.url) + "URL"
		}
		parts = append(parts, shellQuote(arg))
	}
	return strings.Join(parts, " ")
}

// confidential reports whether a URL may hold a password or a key.
func confidential(text string) bool {
	u, err := url.Parse(text)
	return err != nil || u.User != nil || u.RawQuery != ""
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
