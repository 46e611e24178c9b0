// Bench compares httpretry with other ways to retry HTTP requests. It prints a
// table for each workload and writes docs/benchmarks.md, its charts, and the raw
// figures for benchstat.
//
//	go -C bench run .
//	go -C bench run . -only 'POST.*/(bare|httpretry|rehttp)$' -runs 20
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
)

const defaultOut = "../docs"

func main() {
	runs := flag.Int("runs", 12, "runs of each contender at each workload; publish no fewer than 10")
	only := flag.String("only", "", "measure only the workload/contender pairs that match this regular expression, and bare")
	out := flag.String("out", "", "write page, charts and raw figures to this directory (default "+defaultOut+", or none with -only)")
	flag.Parse()
	if err := run(*runs, *only, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(runs int, only, out string) error {
	if runs < 1 {
		return fmt.Errorf("invalid -runs %d: must be at least 1", runs)
	}
	wanted, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	if out == "" && only == "" {
		out = defaultOut
	}
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	r := measureAll(workloads, contenders, wanted, runs, progress(os.Stderr))
	r.machine = thisMachine(string(cpuinfo))
	fmt.Print(r.summary())
	if out == "" {
		return nil
	}
	return r.write(out)
}

// progress returns f if it is a terminal.
func progress(f *os.File) io.Writer {
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return io.Discard
	}
	return f
}

// measureAll measures the workload/contender pairs that wanted matches.
func measureAll(ws []workload, cs []contender, wanted *regexp.Regexp, runs int, progress io.Writer) *report {
	r := &report{runs: runs, results: map[string][]*result{}}
	var ms []*measurement
	for _, w := range ws {
		var chosen []contender
		found := false
		for _, c := range cs {
			if w.noPeers && c.name != bareName && c.name != ownName {
				continue
			}
			match := wanted.MatchString(w.name + "/" + c.name)
			found = found || match
			if match || c.name == bareName {
				chosen = append(chosen, c)
			}
		}
		if found {
			r.workloads = append(r.workloads, w)
			ms = append(ms, begin(w, chosen, runs))
		}
	}
	measure(ms, progress)
	for _, m := range ms {
		r.results[m.name] = m.results
	}
	return r
}

// write writes the page, the charts and the raw figures to a directory.
func (r *report) write(folder string) error {
	files := map[string][]byte{
		"benchmarks.md":  []byte(r.page()),
		"benchmarks.txt": []byte(r.raw()),
	}
	for _, c := range charts {
		files[c.file] = c.svg(r)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(folder, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
