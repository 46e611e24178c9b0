package main

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// Without arguments the program answers every request of its sample within
// seconds, prints the causes of the retries, and leaves nothing in the working
// directory.
func TestDemo(t *testing.T) {
	t.Parallel() // it mostly waits
	temp, dir := t.TempDir(), t.TempDir()
	cmd := command(t)
	cmd.Dir = dir
	cmd.Env = append(cmd.Env, "TMPDIR="+temp, apiKeyVariable+"=not used")
	began := time.Now()
	o := outcomeOf(cmd)
	o.want(t, exitOK, "no -input: sending 300 sample requests")
	if took := time.Since(began); took > time.Minute {
		t.Errorf("took %v, want under 1m", took)
	}
	for _, line := range []string{
		`(?m)^succeeded +300$`, `(?m)^failed +0$`, `(?m)^saved +[1-9][0-9]+ +requests`,
		`HTTP 429: [1-9]`, `HTTP 503: [1-9]`, `connection reset: [1-9]`, `body truncated: [1-9]`,
	} {
		if !regexp.MustCompile(line).MatchString(o.stdout) {
			t.Errorf("the summary does not match %q:\n%s", line, o.stdout)
		}
	}
	name := strings.TrimSpace(o.stdout[strings.LastIndex(o.stdout, "output ")+len("output "):])
	answers := answersIn(t, name)
	for id, a := range answers {
		if !a.succeeded() || !strings.Contains(string(a.Response.Body), "You said: ") {
			t.Errorf("answer to %s: got %+v, want a success", id, a)
		}
	}
	if len(answers) != 300 {
		t.Errorf("answers: got %d, want 300", len(answers))
	}
	left, _ := os.ReadDir(dir)
	files, _ := os.ReadDir(temp)
	if len(left) > 0 || len(files) != 1 {
		t.Errorf("files: got %v and %v, want only the output, in the temporary directory", left, files)
	}
}

// No request has more failures than the demo's config has retries.
func TestDemoScripts(t *testing.T) {
	kinds := make(map[int]int)
	in := sampleInput()
	if err := in.check(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := in.unanswered(t.Context(), func(req request) error {
		kinds[len(script(req.customID))]++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Max(slices.Collect(maps.Keys(kinds))); got != maxDemoFaults {
		t.Errorf("failures of one request: got %d at most, want %d", got, maxDemoFaults)
	}
	if demoConfig().maxRetries < maxDemoFaults+maxDemoLimits {
		t.Errorf("retries: got %d, want enough for every request", demoConfig().maxRetries)
	}
}
