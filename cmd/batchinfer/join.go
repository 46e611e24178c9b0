package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const joinUsage = `usage: batchinfer join -input FILE -output FILE PART...

Join writes one output, in the order of the input, from the outputs of shards, or of
other runs that divided the requests of the input among them. It writes nothing unless
each request has exactly one line in the parts. A pattern such as 'answers-*' is
expanded; files that end in .batchinfer-removed are left out. If the output exists, its
answers must be among those of the parts.

`

const joinStatuses = `
Exit status:
  0    every request of the input has an answer
  1    some requests failed, or nothing was written
  2    nothing was written, because of a mistake in usage, input, or the name of a file
  130  a signal stopped the command; nothing was written
`

// joinOptions are the values of the command line.
type joinOptions struct {
	input, output string
	parts         []string // names and patterns
}

// join runs the command of that name.
func join(ctx context.Context, p process) int {
	opts, err := parseJoinOptions(p)
	if errors.Is(err, flag.ErrHelp) {
		return exitOK
	}
	if err != nil {
		return exitUsage // parseJoinOptions has printed the reason
	}
	j := &joiner{}
	defer j.close()
	status := exitUsage
	if err = j.prepare(ctx, p, opts); err == nil {
		status = exitFailed
		err = j.run(ctx)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		p.say("interrupted: nothing was written")
		return exitInterrupted
	case err != nil:
		p.explain(err)
		p.say("nothing was written%s", j.wrong.counts())
		return status
	}
	p.say("%s: joined %d answers of %d files", opts.output, len(j.input.index), len(j.parts))
	if j.failed > 0 {
		p.say("%d failed for good; %s has the reasons, and a run that has it as -output asks them again", j.failed, opts.output)
		return exitFailed
	}
	return exitOK
}

// parseJoinOptions reads the command line. If it returns an error, it has printed it.
func parseJoinOptions(p process) (o joinOptions, err error) {
	flags := flag.NewFlagSet("batchinfer join", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.input, "input", "", "the `FILE` of requests that all parts had as -input")
	flags.StringVar(&o.output, "output", "", "write the answers to `FILE`")
	err = flags.Parse(p.args)
	if o.parts = flags.Args(); err == nil {
		if err = o.check(); err != nil {
			p.say("%v", err)
		}
		return o, err
	}
	if !errors.Is(err, flag.ErrHelp) {
		p.say("%v", err)
	}
	fmt.Fprint(p.stderr, joinUsage)
	flags.SetOutput(p.stderr)
	flags.PrintDefaults()
	fmt.Fprint(p.stderr, joinStatuses)
	return o, err
}

func (o *joinOptions) check() error {
	late := slices.IndexFunc(o.parts, func(name string) bool { return strings.HasPrefix(name, "-") })
	switch {
	case late >= 0:
		return fmt.Errorf("%s: flags must come before the parts", o.parts[late])
	case o.input == "":
		return errors.New("-input is missing")
	case o.output == "":
		return errors.New("-output is missing")
	case o.output == "-":
		return errors.New("-output: must be a file")
	case len(o.parts) == 0:
		return errors.New("the parts are missing: give the outputs of the shards, such as 'answers-*'")
	}
	return nil
}

// partNames returns the names of the parts, without those of files that keep removed
// lines, which a pattern may match. It expands patterns because not every command
// line is read by a shell.
func (o *joinOptions) partNames() (names []string, err error) {
	for _, name := range o.parts {
		matches := []string{name}
		if _, err := os.Lstat(name); err != nil && strings.ContainsAny(name, "*?[") {
			if matches, err = filepath.Glob(name); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if len(matches) == 0 {
				return nil, fmt.Errorf("%s: matches no file", name)
			}
		}
		names = append(names, matches...)
	}
	names = slices.DeleteFunc(names, func(name string) bool { return strings.HasSuffix(name, removedSuffix) })
	if len(names) == 0 {
		return nil, fmt.Errorf("all parts end in %s: those files have removed lines", removedSuffix)
	}
	return names, nil
}
