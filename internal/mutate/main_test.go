package main

import (
	"io"
	"iter"
	"regexp"
	"strings"
	"testing"
)

func TestMutations_FitTheSource(t *testing.T) {
	root, err := moduleRoot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, m := range mutations {
		if _, _, _, err := m.mutate(root); err != nil {
			t.Errorf("%s: %v", m.promise, err)
		}
		if m.old == m.new || m.test == "" || seen[m.promise] {
			t.Errorf("%s: must change something, name its tests and be listed once", m.promise)
		}
		seen[m.promise] = true
	}
}

func TestChoose_OnlyAndEvery(t *testing.T) {
	all := choose(regexp.MustCompile(""), 1, false)
	third := choose(regexp.MustCompile(""), 3, true)
	if len(all) != len(mutations) || len(third) != (len(all)+2)/3 || third[1].promise != all[3].promise || third[1].test != allTests {
		t.Errorf("got %d mutations, and %d as every third, with all tests; want all %d, and the 1st, 4th, …", len(all), len(third), len(mutations))
	}
	if got := choose(regexp.MustCompile("^inference$"), 1, false); len(got) == 0 || got[0].dir != "inference" {
		t.Errorf("got %v, want those of the package inference", got)
	}
	if got := choose(regexp.MustCompile("^redacted$|^RetryAfter$"), 1, false); len(got) == 0 || got[0].decl != "RetryAfter" {
		t.Errorf("got %v, want those of the function RetryAfter", got)
	}
}

func TestNoticed_NamesTheTests(t *testing.T) {
	tests := []struct{ name, out, want, reason string }{
		{"tests fail", "--- FAIL: TestA (0.00s)\n    --- FAIL: TestA/b (0.00s)\n--- FAIL: FuzzB (0.1s)\nFAIL\n", "TestA FuzzB", "subtests belong to their test"},
		{"a test hangs", "panic: test timed out after 5s\n\trunning tests:\n\t\tTestA/b (5s)\n", "TestA (hangs)", "the list of running tests names it"},
		{"a test crashes", "panic: nil map\n\nexample.com/p_test.TestA.func1(0x1)\n\t/a_test.go:1 +0x1\n", "TestA (crashes)", "the stack names it"},
		{"a goroutine crashes", "fatal error: stack overflow\n", "a test that crashes", "the stack does not name a test"},
	}
	for _, tt := range tests {
		if got := noticed(tt.out); got != tt.want {
			t.Errorf("%s: got %q, want %q: %s", tt.name, got, tt.want, tt.reason)
		}
	}
}

func TestReport_FailsOnSurvivors(t *testing.T) {
	outcomes := func(os ...outcome) iter.Seq2[mutation, outcome] {
		return func(yield func(mutation, outcome) bool) {
			for _, o := range os {
				yield(mutation{promise: "a"}, o)
			}
		}
	}
	if err := report(io.Discard, outcomes(outcome{noticed: "TestA"}, outcome{noticed: "TestB"})); err != nil {
		t.Errorf("all were noticed: got %v, want no error", err)
	}
	if err := report(io.Discard, outcomes(outcome{noticed: "TestA"}, outcome{})); err == nil || !strings.Contains(err.Error(), "1 survived") {
		t.Errorf("one was not: got %v, want an error that counts it", err)
	}
}
