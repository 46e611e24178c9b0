package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(gcPercent)
	goleak.VerifyTestMain(m)
}

// The page and its charts are up to date. The program runs in a process of its
// own, because it would take minutes with the race detector.
func TestPage_IsUpToDate(t *testing.T) {
	written := t.TempDir()
	run := exec.CommandContext(t.Context(), "go", "run", ".", "-out", written)
	run.Env = append(os.Environ(), "GOFLAGS=") // without -race
	if out, err := run.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	pages, err := filepath.Glob(filepath.Join(written, "*"))
	if err != nil || len(pages) != 1+len(charts) {
		t.Fatalf("got %d files, %v, want the page and %d charts", len(pages), err, len(charts))
	}
	for _, page := range pages {
		if filepath.Ext(page) == ".svg" && runtime.GOARCH != "amd64" {
			continue // other processors may round coordinates differently
		}
		committed := filepath.Join("..", "..", "docs", filepath.Base(page))
		if !bytes.Equal(read(t, page), read(t, committed)) {
			t.Errorf("%s is not up to date: run go -C bench run ./storm", committed)
		}
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
