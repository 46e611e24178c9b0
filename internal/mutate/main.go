// Mutate breaks the promises of the library, one at a time, and reports which
// test notices.
//
//	go run ./internal/mutate
//	go run ./internal/mutate -only 'replay|discard' -all
//
// Mutations change temporary copies of files. The -overlay flag of the go command
// puts the copies in place of the files, so the tree stays unchanged. A mutation
// that no test notices is a survivor. Mutate fails if there is one.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"iter"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A mutation breaks one promise. It names the declaration that it changes, so
// that edits elsewhere in the package leave it alone.
type mutation struct {
	promise string // the promise that no longer holds
	dir     string // of the package, relative to the root of the module
	decl    string // f, T.m for a method of T or *T, or the name of a const, var or type
	old     string // occurs exactly once in the declaration
	new     string
	test    string // a regular expression for the tests that notice the mutation
}

// patience limits the tests of one mutation. A test that hangs without the
// promise notices the mutation.
const (
	patience    = 5 * time.Second
	allPatience = time.Minute // for all tests of a package
)

const allTests = "." // as a regular expression

func main() {
	only := flag.String("only", "", "make only the mutations whose promise, directory or declaration matches this regular expression")
	every := flag.Int("every", 1, "make only every nth of these mutations")
	all := flag.Bool("all", false, "run all tests of the package instead of those that are known to notice")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *only, *every, *all); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only string, every int, all bool) error {
	wanted, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	if every < 1 {
		return fmt.Errorf("invalid -every %d: must be at least 1", every)
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	temp, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	tests, err := buildTests(ctx, root, temp, choose(wanted, every, all))
	if err != nil {
		return err
	}
	if err := baseline(ctx, tests); err != nil {
		return err
	}
	return report(os.Stdout, try(ctx, tests))
}

// choose returns every nth of the wanted mutations.
func choose(wanted *regexp.Regexp, every int, all bool) []mutation {
	var chosen []mutation
	n := 0
	for _, m := range mutations {
		if !slices.ContainsFunc([]string{m.promise, m.dir, m.decl}, wanted.MatchString) {
			continue
		}
		if all {
			m.test = allTests
		}
		if n%every == 0 {
			chosen = append(chosen, m)
		}
		n++
	}
	return chosen
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/httpretry/httpretry").Output()
	if err != nil {
		return "", fmt.Errorf("finding the module: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// baseline runs the tests without a mutation: a test that fails anyway notices
// nothing.
func baseline(ctx context.Context, tests []test) error {
	all := map[string]test{} // by package
	for _, t := range tests {
		if before, ok := all[t.dir]; ok {
			t.test = before.test + "|" + t.test
		}
		if t.number > 0 { // otherwise the binary has the mutation
			t.number = 0
			all[t.dir] = t
		}
	}
	for _, t := range all {
		if out, err := t.run(ctx, allPatience); err != nil {
			return fmt.Errorf("tests of %s fail without a mutation: %w\n%s", t.dir, err, out)
		}
	}
	return nil
}

// An outcome is the result of one mutation.
type outcome struct {
	noticed string // the tests that noticed it; "" if none did
	err     error  // why it could not be made
}

// try runs the tests of the mutations, one per core at a time, and yields their
// outcomes.
func try(ctx context.Context, tests []test) iter.Seq2[mutation, outcome] {
	return func(yield func(mutation, outcome) bool) {
		outcomes := make([]chan outcome, len(tests))
		for i := range outcomes {
			outcomes[i] = make(chan outcome, 1)
		}
		var wg sync.WaitGroup
		defer wg.Wait()
		var next atomic.Int64
		for range 2 * runtime.GOMAXPROCS(0) { // some tests hang
			wg.Go(func() {
				for i := next.Add(1) - 1; i < int64(len(tests)); i = next.Add(1) - 1 {
					outcomes[i] <- tests[i].try(ctx)
				}
			})
		}
		for i, t := range tests {
			if !yield(t.mutation, <-outcomes[i]) {
				return
			}
		}
	}
}

// try runs the tests with the mutation.
func (t test) try(ctx context.Context) outcome {
	limit := patience
	if t.test == allTests {
		limit = allPatience
	}
	out, err := t.run(ctx, limit)
	if t.number > 0 && hangingTest.Match(out) {
		out, err = t.tryLonger(ctx, limit, out, err)
	}
	switch {
	case ctx.Err() != nil:
		return outcome{err: ctx.Err()}
	case err == nil && strings.Contains(string(out), "no tests to run"):
		return outcome{err: fmt.Errorf("no test is named %s", t.test)}
	case err == nil:
		return outcome{}
	}
	return outcome{noticed: noticed(string(out))}
}

// tryLonger runs the tests without the mutation. If they take about as long as limit, they
// hang for another reason, such as a busy machine. Then it runs them with the mutation for
// longer. Otherwise it returns out and err, which the tests that hang have given.
func (t test) tryLonger(ctx context.Context, limit time.Duration, out []byte, err error) ([]byte, error) {
	start := time.Now()
	healthy := t
	healthy.number = 0
	healthy.run(ctx, allPatience) // baseline has seen it pass
	if took := time.Since(start); 2*took > limit {
		return t.run(ctx, 3*took)
	}
	return out, err
}

// run runs the tests for at most limit and returns their output.
func (t test) run(ctx context.Context, limit time.Duration) ([]byte, error) {
	cmd := exec.CommandContext(ctx, t.binary, "-test.run", t.test, "-test.timeout", limit.String(), "-test.failfast")
	cmd.Dir = t.dir
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", mutantEnv, t.number))
	return cmd.CombinedOutput()
}

var (
	failedTest  = regexp.MustCompile(`(?m)^--- FAIL: (\w+)`)
	crashedTest = regexp.MustCompile(`(?m)^\S+\.((?:Test|Fuzz|Example)\w+)[.(]`)
	hangingTest = regexp.MustCompile(`(?m)^panic: test timed out after .*\n\s*running tests:\n\s*(\w+)`)
)

// noticed returns the tests that failed with this output.
func noticed(out string) string {
	var names []string
	for _, match := range failedTest.FindAllStringSubmatch(out, -1) {
		names = append(names, match[1])
	}
	if match := hangingTest.FindStringSubmatch(out); match != nil {
		names = append(names, match[1]+" (hangs)")
	}
	if match := crashedTest.FindStringSubmatch(out); match != nil && len(names) == 0 {
		names = append(names, match[1]+" (crashes)")
	}
	if len(names) == 0 {
		return "a test that crashes"
	}
	return strings.Join(names, " ")
}

// report writes the outcomes to w. It returns an error unless all mutations were
// noticed.
func report(w io.Writer, outcomes iter.Seq2[mutation, outcome]) error {
	mutations, survivors, failures := 0, 0, 0
	for m, o := range outcomes {
		mutations++
		verdict := o.noticed
		switch {
		case o.err != nil:
			verdict = "ERROR: " + o.err.Error()
			failures++
		case verdict == "":
			verdict = "SURVIVED"
			survivors++
		}
		fmt.Fprintf(w, "%-35s %-70s %s\n", filepath.Join(m.dir, m.decl), m.promise, verdict)
	}
	fmt.Fprintf(w, "%d mutations, %d noticed\n", mutations, mutations-survivors-failures)
	if survivors+failures > 0 {
		return fmt.Errorf("%d survived, %d could not be made", survivors, failures)
	}
	return nil
}
