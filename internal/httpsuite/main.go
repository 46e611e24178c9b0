// Httpsuite runs the tests of net/http with a RetryTransport around the
// transport of every http.Client, and reports the tests that then fail.
//
//	go run ./internal/httpsuite
//	go run ./internal/httpsuite -modes never -run Redirect -v
//
// The tests are those of the Go release in use, unchanged. The go command
// builds them with an overlay, which adds a hook to http.Client and, because
// net/http can't import a module, a copy of this one as
// net/http/internal/httpretry. Neither GOROOT nor this repository is modified.
//
// The tests run once for each mode:
//
//	wrapper     a RoundTripper that only calls the transport
//	never       a RetryTransport whose Policy is Never
//	everything  a RetryTransport with a Policy that never retries, AttemptTimeout,
//	            OnAttempt and a Classifier of its own, which buffers request bodies
//	retries     a RetryTransport with the default settings and waits of 1 ms
//
// By default it leaves out the last one, in which more tests differ by nature.
//
// The program fails if a test fails that is not in the list of known
// differences. A test that then passes several times on its own counts as
// unsteady, not as failed: the tests of net/http depend on timing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"
)

// options are the program's flags.
type options struct {
	modes   string
	run     string
	timeout time.Duration
	repeat  int
	race    bool
	verbose bool
}

func main() {
	var o options
	flag.StringVar(&o.modes, "modes", "wrapper,never,everything", "run in these modes")
	flag.StringVar(&o.run, "run", "^Test", "run the tests that match this regular expression")
	flag.DurationVar(&o.timeout, "timeout", 2*time.Minute, "fail if the tests take longer in one mode")
	flag.IntVar(&o.repeat, "repeat", 3, "run a test that fails this often on its own")
	flag.BoolVar(&o.race, "race", false, "enable the race detector")
	flag.BoolVar(&o.verbose, "v", false, "print the output of every test that fails, also of known ones")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, o); err != nil {
		fmt.Fprintln(os.Stderr, "httpsuite:", err)
		os.Exit(1)
	}
}

// run runs the tests in every mode and writes the report to w.
func run(ctx context.Context, w io.Writer, o options) error {
	temp, err := os.MkdirTemp("", "httpsuite")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	s, err := build(ctx, temp, o.race)
	if err != nil {
		return err
	}
	tests, err := s.list(ctx, o.run)
	if err != nil {
		return err
	}
	if len(tests) == 0 {
		return errors.New("no test of net/http matches " + o.run)
	}
	fmt.Fprintf(w, "%s: %d tests of net/http\n\n", s.version, len(tests))
	fmt.Fprintln(w, header)
	var all []*result
	var base *result
	for mode := range strings.SplitSeq(o.modes, ",") {
		r, err := s.test(ctx, mode, o, tests, base)
		if err != nil {
			return err
		}
		fmt.Fprintln(w, r)
		all = append(all, r)
		base = all[0]
	}
	return report(w, all, o.verbose)
}
