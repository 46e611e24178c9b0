package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	module = "github.com/httpretry/httpretry"
	inside = "net/http/internal/httpretry" // the import path of its copy
)

//go:embed testdata/hook.go
var hook string

//go:embed testdata/modes.go
var modes string

// A suite is the test binary of net/http, built with the overlay.
type suite struct {
	version string // of Go
	dir     string // of net/http, where its tests find their files
	temp    string
	binary  string
}

// build builds the tests of net/http in the directory temp.
func build(ctx context.Context, temp string, race bool) (*suite, error) {
	env, err := command(ctx, "go", "env", "GOROOT", "GOVERSION")
	if err != nil {
		return nil, err
	}
	goroot, version, _ := strings.Cut(strings.TrimSpace(string(env)), "\n")
	s := &suite{
		version: version,
		dir:     filepath.Join(goroot, "src", "net", "http"),
		temp:    temp,
		binary:  filepath.Join(temp, "http.test"),
	}
	files, err := s.files(ctx)
	if err != nil {
		return nil, err
	}
	overlay, err := writeOverlay(temp, files)
	if err != nil {
		return nil, err
	}
	args := []string{"test", "-c", "-vet=off", "-o", s.binary, "-overlay", overlay}
	if race {
		args = append(args, "-race")
	}
	_, err = command(ctx, "go", append(args, "net/http")...)
	return s, err
}

// files returns the files of the overlay: their text by their path.
func (s *suite) files(ctx context.Context) (map[string]string, error) {
	client := filepath.Join(s.dir, "client.go")
	source, err := os.ReadFile(client)
	if err != nil {
		return nil, err
	}
	hooked, err := hookClient(string(source))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", client, err)
	}
	files := map[string]string{
		client:                               hooked,
		filepath.Join(s.dir, "httpsuite.go"): hook,
		filepath.Join(s.dir, "httpsuite_test.go"): moveImports(modes),
	}
	return files, s.addModule(ctx, files)
}

// hookClient renames the method that the hook replaces in the source of
// net/http's client.go.
func hookClient(source string) (string, error) {
	const method = "func (c *Client) transport() RoundTripper {"
	if n := strings.Count(source, method); n != 1 {
		return "", fmt.Errorf("contains %q %d times, want once", method, n)
	}
	return strings.Replace(source, method, "func (c *Client) ownTransport() RoundTripper {", 1), nil
}

// addModule adds the root package, and the packages of the module that it
// imports, to files.
func (s *suite) addModule(ctx context.Context, files map[string]string) error {
	out, err := command(ctx, "go", "list", "-deps", "-json=ImportPath,Dir,GoFiles,Standard", module)
	if err != nil {
		return err
	}
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var p struct {
			ImportPath, Dir string
			GoFiles         []string
			Standard        bool
		}
		if err := d.Decode(&p); err != nil {
			return err
		}
		if p.Standard {
			continue
		}
		dir := filepath.Join(s.dir, "internal", "httpretry", strings.TrimPrefix(p.ImportPath, module))
		for _, name := range p.GoFiles {
			source, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				return err
			}
			files[filepath.Join(dir, name)] = moveImports(string(source))
		}
	}
	return nil
}

// moveImports changes the imports of the module's packages to those of their
// copies.
func moveImports(source string) string {
	return strings.ReplaceAll(source, `"`+module, `"`+inside)
}

// writeOverlay writes the files to temp and returns the path of the overlay
// that puts them into their places.
func writeOverlay(temp string, files map[string]string) (string, error) {
	replace := make(map[string]string)
	for path, text := range files {
		copied := filepath.Join(temp, fmt.Sprintf("%d.go", len(replace)))
		if err := os.WriteFile(copied, []byte(text), 0o666); err != nil {
			return "", err
		}
		replace[path] = copied
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(temp, "overlay.json")
	return path, os.WriteFile(path, overlay, 0o666)
}

// list returns the names of the tests that match pattern.
func (s *suite) list(ctx context.Context, pattern string) ([]string, error) {
	out, err := command(ctx, s.binary, "-test.list", pattern)
	if err != nil {
		return nil, err
	}
	var tests []string
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "Test") {
			tests = append(tests, strings.TrimSpace(line))
		}
	}
	return tests, nil
}

// test runs the tests in a mode. base is the result of the first mode, or nil.
func (s *suite) test(ctx context.Context, mode string, o options, tests []string, base *result) (*result, error) {
	start := time.Now()
	r := &result{mode: mode, tests: tests, base: base}
	out, err := s.exec(ctx, mode, o.timeout, "-test.run", o.run, "-test.skip", skip(mode))
	if err != nil {
		return nil, err
	}
	if r.events, err = parse(out); err != nil {
		return nil, err
	}
	if err := s.repeat(ctx, r, o); err != nil {
		return nil, err
	}
	r.calls, err = s.calls(mode)
	r.took = time.Since(start)
	return r, err
}

// repeat runs the tests with a new failure again, each on its own, and notes
// those that pass.
func (s *suite) repeat(ctx context.Context, r *result, o options) error {
	for _, test := range r.failed() {
		if _, isNew := r.explain(test); !isNew || r.outcome(test) != failed || o.repeat <= 0 {
			continue
		}
		out, err := s.exec(ctx, r.mode, o.timeout, "-test.run", "^"+test+"$", "-test.skip", skip(r.mode), "-test.count", strconv.Itoa(o.repeat))
		if err != nil {
			return err
		}
		again, err := parse(out)
		if err != nil {
			return err
		}
		if again.outcomes[test] == passed {
			r.unsteady = append(r.unsteady, test)
		}
	}
	return nil
}

// exec runs the test binary in a mode and returns its events as JSON.
func (s *suite) exec(ctx context.Context, mode string, timeout time.Duration, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, s.binary, append(args, "-test.v=test2json", "-test.timeout", timeout.String())...)
	cmd.Dir = s.dir
	cmd.Env = append(cmd.Environ(), "HTTPSUITE_MODE="+mode, "HTTPSUITE_CALLS="+s.callsFile(mode))
	// A command that a test has started may keep the output open.
	cmd.WaitDelay = 5 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || ctx.Err() != nil) {
		return nil, err
	}
	// After an ExitError the events say which test failed.
	convert := exec.CommandContext(ctx, "go", "tool", "test2json")
	convert.Stdin = &out
	return convert.Output()
}

// calls returns how often a Client asked for its transport in a mode.
func (s *suite) calls(mode string) (int64, error) {
	info, err := os.Stat(s.callsFile(mode))
	if err != nil {
		return 0, fmt.Errorf("no client went through the mode %s: %w", mode, err)
	}
	return info.Size(), nil
}

func (s *suite) callsFile(mode string) string { return filepath.Join(s.temp, "calls."+mode) }

// command runs a command and returns its output.
func command(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", name, args[0], err, &stderr)
	}
	return out, nil
}
