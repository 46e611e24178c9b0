// Storm simulates the effect of retries on a server that loses half of its
// capacity for a while, and that of pacing on servers with limits. It writes
// docs/retry-storms.md and docs/pacing.md with their charts.
//
//	go -C bench run ./storm
//	go -C bench run ./storm -only pacing
//	go -C bench run ./storm -seed 2 -out "$(mktemp -d)"
//
// The clients are those of package httpretry. Time is virtual, as in a test, and
// random numbers come from a seed, so that the same seed gives the same page.
package main

import (
	"flag"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"
)

var (
	seed = flag.Uint64("seed", 1, "the seed of the random numbers")
	out  = flag.String("out", "../docs", "write pages and charts to this directory")
	only = flag.String("only", "", "write only the page storms or pacing")
)

// gcPercent shortens a simulation by a third compared with the default of 100,
// because each collection scans thousands of goroutines.
const gcPercent = 400

// Virtual time comes from testing/synctest, which needs a *testing.T.
// [testing.Main] is the only function that provides one to a program. It also
// parses the flags and prints PASS at the end.
func main() {
	debug.SetGCPercent(gcPercent)
	all := func(string, string) (bool, error) { return true, nil }
	testing.Main(all, []testing.InternalTest{{Name: "storm", F: write}}, nil, nil)
}

// write runs all simulations and writes the pages and the charts.
func write(t *testing.T) {
	if *only != "pacing" {
		r := simulate(t, *seed)
		writeFiles(t, r.files)
	}
	if *only != "storms" {
		r := simulatePacing(t, *seed)
		writeFiles(t, r.files)
	}
}

func writeFiles(t *testing.T, of func() (map[string][]byte, error)) {
	if t.Failed() {
		return
	}
	files, err := of()
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(*out, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// files returns the page and the charts, by file name.
func (r *report) files() (map[string][]byte, error) {
	page, err := r.page()
	files := map[string][]byte{"retry-storms.md": page}
	if err != nil {
		return nil, err
	}
	for _, c := range charts {
		files[c.file] = c.svg(r)
	}
	return files, nil
}
