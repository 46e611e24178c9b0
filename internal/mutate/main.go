// Mutate breaks the promises of the library, one at a time, and reports which
// test notices.
//
//	go run ./internal/mutate
//	go run ./internal/mutate -only 'replay|discard' -all
//
// Each mutation changes a temporary copy of a file. The -overlay flag of the go
// command puts the copy in place of the file, so the tree stays unchanged. A
// mutation that no test notices is a survivor. Mutate fails if there is one.
package main

import (
	"context"
	"encoding/json"
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
const patience = 5 * time.Second

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
	chosen := choose(wanted, every, all)
	if err := baseline(ctx, root, chosen); err != nil {
		return err
	}
	return report(os.Stdout, try(ctx, root, temp, chosen))
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

// baseline runs the tests of the mutations without a mutation: a test that fails
// anyway notices nothing.
func baseline(ctx context.Context, root string, ms []mutation) error {
	tests := map[string][]string{} // by package
	for _, m := range ms {
		tests[m.dir] = append(tests[m.dir], m.test)
	}
	for dir, names := range tests {
		cmd := exec.CommandContext(ctx, "go", "test", "-vet=off", "-run", strings.Join(names, "|"), "./"+dir)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("tests of %s fail without a mutation: %w\n%s", dir, err, out)
		}
	}
	return nil
}

// An outcome is the result of one mutation.
type outcome struct {
	noticed string // the tests that noticed it; "" if none did
	err     error  // why it could not be made
}

// try makes the mutations, one per core at a time, and yields their outcomes.
func try(ctx context.Context, root, temp string, ms []mutation) iter.Seq2[mutation, outcome] {
	return func(yield func(mutation, outcome) bool) {
		outcomes := make([]chan outcome, len(ms))
		for i := range outcomes {
			outcomes[i] = make(chan outcome, 1)
		}
		var wg sync.WaitGroup
		defer wg.Wait()
		var next atomic.Int64
		for range runtime.GOMAXPROCS(0) {
			wg.Go(func() {
				for i := next.Add(1) - 1; i < int64(len(ms)); i = next.Add(1) - 1 {
					outcomes[i] <- ms[i].try(ctx, root, filepath.Join(temp, fmt.Sprint(i)))
				}
			})
		}
		for i, m := range ms {
			if !yield(m, <-outcomes[i]) {
				return
			}
		}
	}
}

// try runs the tests on the mutation, with its files at the path prefix temp.
func (m mutation) try(ctx context.Context, root, temp string) outcome {
	overlay, err := m.overlay(root, temp)
	if err != nil {
		return outcome{err: err}
	}
	patience := patience
	if m.test == allTests {
		patience *= 12
	}
	ctx, cancel := context.WithTimeout(ctx, patience+2*time.Minute) // for building
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-vet=off", "-count=1", "-failfast", "-timeout", patience.String(),
		"-overlay", overlay, "-run", m.test, "./"+m.dir)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	switch {
	case ctx.Err() != nil:
		return outcome{err: ctx.Err()}
	case err == nil && strings.Contains(string(out), "no tests to run"):
		return outcome{err: fmt.Errorf("no test is named %s", m.test)}
	case err == nil:
		return outcome{}
	}
	return noticed(string(out))
}

// overlay writes the mutated file, and the overlay that makes the go command
// use it. It returns the path of the overlay.
func (m mutation) overlay(root, temp string) (string, error) {
	original, mutated, err := m.mutate(root)
	if err != nil {
		return "", err
	}
	mutant := temp + ".go"
	if err := os.WriteFile(mutant, mutated, 0o644); err != nil {
		return "", err
	}
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {original: mutant}})
	if err != nil {
		return "", err
	}
	overlay := temp + ".json"
	return overlay, os.WriteFile(overlay, replace, 0o644)
}

var (
	failedTest  = regexp.MustCompile(`(?m)^--- FAIL: (\w+)`)
	crashedTest = regexp.MustCompile(`(?m)^\S+\.((?:Test|Fuzz|Example)\w+)[.(]`)
	hangingTest = regexp.MustCompile(`(?m)^panic: test timed out after .*\n\s*running tests:\n\s*(\w+)`)
)

// noticed returns the outcome of a go test command that failed with this output.
func noticed(out string) outcome {
	if strings.Contains(out, "[build failed]") || strings.Contains(out, "[setup failed]") {
		return outcome{err: fmt.Errorf("does not compile:\n%s", out)}
	}
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
		return outcome{noticed: "a test that crashes"}
	}
	return outcome{noticed: strings.Join(names, " ")}
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
