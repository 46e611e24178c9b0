package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The tests of net/http build with the overlay of the Go release in use, and
// their clients use the mode's RoundTripper.
func TestRun_BuildsTheTestsOfNetHTTP(t *testing.T) {
	var out bytes.Buffer
	o := options{modes: "wrapper,never,everything", run: "^TestGetFirstLine$|^TestClient$|^TestClientHeadContentLength$", timeout: time.Minute, repeat: 1}
	if err := run(t.Context(), &out, o); err != nil {
		t.Fatalf("got error %v\n%s", err, &out)
	}
	for _, want := range []string{" 2 tests of net/http", "\nwrapper ", "\nnever ", "\neverything "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, &out)
		}
	}
}

func TestRun_FailsWithoutATest(t *testing.T) {
	if err := run(t.Context(), t.Output(), options{run: "^TestNoSuchTest$"}); err == nil {
		t.Error("got no error, want one: a pattern without a test is a mistake")
	}
}

func TestRun_FailsInAnUnknownMode(t *testing.T) {
	var out strings.Builder
	o := options{modes: "wrapper,no-such-mode", run: "^TestClient$", timeout: time.Minute}
	if err := run(t.Context(), &out, o); err == nil {
		t.Errorf("got no error, want one: no test ran\n%s", &out)
	}
}

func TestHookClient_RejectsAnotherSource(t *testing.T) {
	for _, source := range []string{"package http\n", strings.Repeat("func (c *Client) transport() RoundTripper {\n}\n", 2)} {
		if got, err := hookClient(source); err == nil {
			t.Errorf("got %q, want an error: without the hook nothing is tested", got)
		}
	}
}

func TestMoveImports(t *testing.T) {
	const source = `import (
	"net/http"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/internal/jitter"
)`
	const want = `import (
	"net/http"

	"net/http/internal/httpretry"
	"net/http/internal/httpretry/internal/jitter"
)`
	if diff := cmp.Diff(want, moveImports(source)); diff != "" {
		t.Errorf("moveImports (-want +got):\n%s", diff)
	}
}

func TestParse_JoinsSubtests(t *testing.T) {
	const out = `{"Action":"run","Test":"TestA"}
{"Action":"output","Test":"TestA/h1","Output":"a_test.go:1: wrong\n"}
{"Action":"fail","Test":"TestA/h1"}
{"Action":"output","Test":"TestA","Output":"--- FAIL\n"}
{"Action":"fail","Test":"TestA"}
{"Action":"skip","Test":"TestB"}
{"Action":"fail","Test":"TestC"}
{"Action":"pass","Test":"TestC"}
{"Action":"run","Test":"TestD"}
{"Action":"fail"}
`
	got, err := parse([]byte(out))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]outcome{"TestA": failed, "TestB": skipped, "TestC": failed}
	if diff := cmp.Diff(want, got.outcomes); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	if want := "a_test.go:1: wrong\n--- FAIL\n"; got.output["TestA"] != want {
		t.Errorf("got output %q, want %q", got.output["TestA"], want)
	}
	if _, err := parse([]byte("no JSON")); err == nil {
		t.Error("got no error for text that is not JSON")
	}
}

func TestReport_FailsOnNewFailures(t *testing.T) {
	tests := []struct {
		name, mode, test string
		result           result
		want             string
		fail             bool
	}{
		{"passed", "never", "TestA", result{events: outcomes("TestA", passed)}, "", false},
		{"failed", "never", "TestA", result{events: outcomes("TestA", failed)}, "never, TestA: NEW", true},
		{"not run", "never", "TestA", result{}, "never: 1 more tests did not run", true},
		{"unfinished", "never", "TestA", result{events: events{output: map[string]string{"TestA": "panic: test timed out\n"}}}, "never, TestA: NEW", true},
		{"skipped", "never", "TestA", result{events: outcomes("TestA", skipped)}, "", false},
		{"skipped in this mode only", "never", "TestA", result{events: outcomes("TestA", skipped), base: &result{events: outcomes("TestA", passed)}}, "never, TestA: NEW", true},
		{"unsteady", "never", "TestA", result{events: outcomes("TestA", failed), unsteady: []string{"TestA"}}, "never, TestA: unsteady", false},
		{"known", "never", "TestClientTimeout", result{events: outcomes("TestClientTimeout", failed)}, "TestClientTimeout: known", false},
		{"known in another mode", "other", "TestClientTimeout", result{events: outcomes("TestClientTimeout", failed)}, "TestClientTimeout: NEW", true},
		{"left out", "everything", "TestTransportCancelRequest", result{events: outcomes("TestTransportCancelRequest", passed)}, "TestTransportCancelRequest: known", false},
		{"left out and the rest failed", "everything", "TestTransportCancelRequest", result{events: outcomes("TestTransportCancelRequest", failed)}, "TestTransportCancelRequest: NEW", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			tt.result.mode, tt.result.tests = tt.mode, []string{tt.test}
			err := report(&out, []*result{&tt.result}, false)
			if (err != nil) != tt.fail || !strings.Contains(out.String(), tt.want) {
				t.Errorf("got error %v and report %q, want failure %t and %q", err, &out, tt.fail, tt.want)
			}
		})
	}
}

func outcomes(test string, o outcome) events {
	return events{outcomes: map[string]outcome{test: o}}
}
