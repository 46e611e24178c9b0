// Mutate breaks the library on purpose, one promise after the other, and shows
// which test notices.
//
//	go run ./internal/mutate
//	go run ./internal/mutate -only 'replay|drain' -all
//
// Each mutation is made in a temporary copy of a file, which stands in for the
// file by an overlay of the go command: the tree is not touched. A mutation
// that no test notices is a survivor, and makes the program fail.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"
)

// A mutation is one way of breaking a promise.
type mutation struct {
	promise string // what does not hold any more
	file    string // relative to the root of the module
	old     string // stands in file exactly once
	new     string
	test    string // a regular expression for the tests that notice it
}

// patience is how long the tests of one mutation may take. Without the promise
// some hang; that is noticed too.
const patience = 5 * time.Second

func main() {
	only := flag.String("only", "", "make only the mutations whose promise or file this regular expression finds")
	every := flag.Int("every", 1, "make only every nth of them")
	all := flag.Bool("all", false, "run all tests of the package, and not only those that are known to notice")
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
		return fmt.Errorf("-every is %d: it must be at least 1", every)
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
	return report(os.Stdout, chosen, try(ctx, root, temp, chosen))
}

// choose returns every nth of the mutations that are wanted.
func choose(wanted *regexp.Regexp, every int, all bool) []mutation {
	var chosen []mutation
	n := 0
	for _, m := range mutations {
		if !wanted.MatchString(m.promise) && !wanted.MatchString(m.file) {
			continue
		}
		if all {
			m.test = "."
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

// An outcome is what came of a mutation.
type outcome struct {
	noticed string // by which tests; "" if by none
	err     error  // it could not be made
}

// try makes the mutations, as many at a time as there are cores.
func try(ctx context.Context, root, temp string, ms []mutation) []outcome {
	outcomes := make([]outcome, len(ms))
	var wg sync.WaitGroup
	next := make(chan int)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := range next {
				outcomes[i] = ms[i].try(ctx, root, filepath.Join(temp, fmt.Sprint(i)))
			}
		})
	}
	for i := range ms {
		next <- i
	}
	close(next)
	wg.Wait()
	return outcomes
}

// try makes the mutation in a copy at the path temp, and runs the tests on it.
func (m mutation) try(ctx context.Context, root, temp string) outcome {
	overlay, err := m.overlay(root, temp)
	if err != nil {
		return outcome{err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, patience+2*time.Minute) // for building
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-vet=off", "-count=1", "-timeout", patience.String(),
		"-overlay", overlay, "-run", m.test, "./"+filepath.Dir(m.file))
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

// overlay writes the file with the mutation, and what tells the go command to
// take it.
func (m mutation) overlay(root, temp string) (string, error) {
	original := filepath.Join(root, m.file)
	source, err := os.ReadFile(original)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(source), m.old); n != 1 {
		return "", fmt.Errorf("what is to be replaced stands in %s %d times, and not once: %q", m.file, n, m.old)
	}
	mutant := temp + ".go"
	if err := os.WriteFile(mutant, []byte(strings.Replace(string(source), m.old, m.new, 1)), 0o644); err != nil {
		return "", err
	}
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {original: mutant}})
	if err != nil {
		return "", err
	}
	overlay := temp + ".json"
	return overlay, os.WriteFile(overlay, replace, 0o644)
}

var failedTest = regexp.MustCompile(`(?m)^--- FAIL: (\w+)`)

// noticed says which tests failed, by the output of go test.
func noticed(out string) outcome {
	if strings.Contains(out, "[build failed]") || strings.Contains(out, "[setup failed]") {
		return outcome{err: fmt.Errorf("does not compile:\n%s", out)}
	}
	var names []string
	for _, match := range failedTest.FindAllStringSubmatch(out, -1) {
		names = append(names, match[1])
	}
	switch {
	case len(names) > 0:
		return outcome{noticed: strings.Join(names, " ")}
	case strings.Contains(out, "panic: test timed out"):
		return outcome{noticed: "a test that hangs"}
	}
	return outcome{noticed: "a test that crashes"}
}

// report writes what came of the mutations to w, and returns an error if they
// were not all noticed.
func report(w io.Writer, ms []mutation, outcomes []outcome) error {
	survivors, failures := 0, 0
	for i, m := range ms {
		verdict := outcomes[i].noticed
		switch {
		case outcomes[i].err != nil:
			verdict = "ERROR: " + outcomes[i].err.Error()
			failures++
		case verdict == "":
			verdict = "SURVIVED"
			survivors++
		}
		fmt.Fprintf(w, "%-25s %-70s %s\n", m.file, m.promise, verdict)
	}
	fmt.Fprintf(w, "%d mutations, %d noticed\n", len(ms), len(ms)-survivors-failures)
	if survivors+failures > 0 {
		return fmt.Errorf("%d survived, %d could not be made", survivors, failures)
	}
	return nil
}
