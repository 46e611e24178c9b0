package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// An outcome is how a test ended.
type outcome string

const (
	passed     outcome = "pass"
	failed     outcome = "fail"
	skipped    outcome = "skip"
	leftOut    outcome = "left out" // in part, because it would not end
	unfinished outcome = ""         // the binary ended first, after a panic or a timeout
)

// events are the report of one run of the test binary. A subtest belongs to
// its test.
type events struct {
	outcomes map[string]outcome
	output   map[string]string // by test; "" holds that of the binary itself
}

// parse reads the events that test2json wrote.
func parse(out []byte) (events, error) {
	e := events{make(map[string]outcome), make(map[string]string)}
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var event struct{ Action, Test, Output string }
		if err := d.Decode(&event); err != nil {
			return e, fmt.Errorf("reading the events of test2json: %w", err)
		}
		test, _, sub := strings.Cut(event.Test, "/")
		switch o := outcome(event.Action); {
		case event.Action == "output":
			e.output[test] += event.Output
		case sub || test == "":
		case o == passed || o == failed || o == skipped:
			e.add(test, o)
		}
	}
	return e, nil
}

// add adds one outcome of a test. A test that ran several times has passed if
// it passed each time.
func (e events) add(test string, o outcome) {
	if e.outcomes[test] != failed {
		e.outcomes[test] = o
	}
}

// A result is the outcome of all tests in one mode.
type result struct {
	events
	mode     string
	tests    []string // all of them
	base     *result  // of the first mode; nil if this is it
	unsteady []string // those that failed among the others and passed on their own
	calls    int64
	took     time.Duration
}

// outcome returns how a test ended.
func (r *result) outcome(test string) outcome {
	o := r.outcomes[test]
	if d := known(r.mode, test); d != nil && d.skip != "" && o != failed {
		return leftOut
	}
	return o
}

// failed returns the tests that neither passed nor were skipped. A test that was
// skipped only in this mode has failed: it was not run.
func (r *result) failed() []string {
	return slices.DeleteFunc(slices.Clone(r.tests), func(test string) bool {
		o := r.outcome(test)
		return o == passed || o == skipped && (r.base == nil || r.base.outcome(test) == skipped)
	})
}

// unstarted reports whether the binary ended before it ran a test: the test
// has no output beyond that of a parallel test that waits for its turn.
func (r *result) unstarted(test string) bool {
	lines := strings.Count(r.output[test], "\n")
	return r.outcome(test) == unfinished && (lines == 0 || lines == 2 && strings.Contains(r.output[test], "=== PAUSE"))
}

// count returns the number of tests with an outcome.
func (r *result) count(o outcome) int {
	n := 0
	for _, test := range r.tests {
		if r.outcome(test) == o {
			n++
		}
	}
	return n
}

const header = "mode        passed  failed  skipped  unfinished   calls    time"

// String returns the result's line in the table.
func (r *result) String() string {
	return fmt.Sprintf("%-10s  %6d  %6d  %7d  %10d  %6d  %6s", r.mode, r.count(passed), r.count(failed)+r.count(leftOut),
		r.count(skipped), r.count(unfinished), r.calls, r.took.Round(time.Second))
}

// report explains every failure to w and returns an error if one of them is
// new.
func report(w io.Writer, results []*result, verbose bool) error {
	unexpected := 0
	for _, r := range results {
		unstarted := 0
		for _, test := range r.failed() {
			why, isNew := r.explain(test)
			if isNew {
				unexpected++
			}
			if isNew && r.unstarted(test) {
				unstarted++
				continue
			}
			fmt.Fprintf(w, "\n%s, %s: %s\n", r.mode, test, why)
			if isNew || verbose {
				fmt.Fprint(w, indent(r.output[test]))
			}
		}
		if unstarted > 0 {
			fmt.Fprintf(w, "\n%s: %d more tests did not run\n%s", r.mode, unstarted, indent(r.output[""]))
		}
	}
	if unexpected > 0 {
		return fmt.Errorf("%d new failures", unexpected)
	}
	return nil
}

// explain says why a test failed, and whether that is new.
func (r *result) explain(test string) (why string, isNew bool) {
	switch d := known(r.mode, test); {
	case d.explains(r.outcome(test)):
		return "known\n" + d.reason, false
	case slices.Contains(r.unsteady, test):
		return "unsteady: it passes on its own", false
	}
	return "NEW", true
}

// outputLines is how many lines of a test's output are printed. The first hold
// its own messages; a panic adds a trace of every goroutine.
const outputLines = 40

// indent returns the first lines of a test's output, indented.
func indent(output string) string {
	var b strings.Builder
	n := 0
	for line := range strings.Lines(output) {
		if n++; n > outputLines {
			b.WriteString("\t…\n")
			break
		}
		b.WriteString("\t" + strings.TrimSuffix(line, "\n") + "\n")
	}
	return b.String()
}
