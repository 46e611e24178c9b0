package compat

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	// What the programs import.
	_ "github.com/httpretry/httpretry"
	_ "github.com/httpretry/httpretry/flaky"
	_ "github.com/openai/openai-go/v3"
)

// The README's programs compile and run as they stand.
func TestReadmePrograms(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"200 OK", "a-model", "signing attempt 1\nsigning attempt 2"}
	programs := regexp.MustCompile("(?s)```go\n(package main\n.*?)```").FindAllStringSubmatch(string(readme), -1)
	if len(programs) != len(want) {
		t.Fatalf("the README has %d programs, want %d: one for each way in", len(programs), len(want))
	}
	for i, program := range programs {
		file := filepath.Join(t.TempDir(), "main.go")
		if err := os.WriteFile(file, []byte(program[1]), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "go", "run", file)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("program %d: %v\n%s", i+1, err, stderr.String())
			continue
		}
		if got := strings.TrimSpace(string(out)); got != want[i] {
			t.Errorf("program %d printed %q, want %q", i+1, got, want[i])
		}
	}
}
