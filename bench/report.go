package main

import (
	"math"
	"runtime"
	"runtime/debug"
	"strings"
)

// A report has all results.
type report struct {
	runs      int
	machine   machine
	workloads []workload
	results   map[string][]*result // by the workload's name
}

// A machine describes the machine of a report.
type machine struct {
	goVersion, os, arch, cpu string
	cores                    int
	versions                 map[string]string // of the contenders' modules
}

// thisMachine describes this machine. cpuinfo is the text of /proc/cpuinfo on
// Linux, and "" elsewhere.
func thisMachine(cpuinfo string) machine {
	m := machine{
		goVersion: runtime.Version(), os: runtime.GOOS, arch: runtime.GOARCH,
		cpu: "unknown", cores: runtime.GOMAXPROCS(0), versions: map[string]string{},
	}
	for line := range strings.Lines(cpuinfo) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			m.cpu = strings.TrimSpace(value)
			break
		}
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			m.versions[dep.Path] = dep.Version
		}
	}
	return m
}

// result returns the result of a contender at a workload, or nil if it was not
// measured.
func (r *report) result(workload, contender string) *result {
	for _, res := range r.results[workload] {
		if res.contender.name == contender {
			return res
		}
	}
	return nil
}

// median returns a median, or NaN if it was not measured.
func (r *report) median(workload, contender string, m metric) float64 {
	return summarize(r.result(workload, contender).series(m)).median
}

// overBare summarizes the difference between httpretry and bare, run by run.
func (r *report) overBare(workload string, m metric) summary {
	return paired(r.result(workload, ownName).series(m), r.result(workload, bareName).series(m))
}

// bestPeer returns the peer with the smallest figure, and that figure. Peers that
// are incorrect or omit a part of the work do not count. It returns "" and NaN if
// no peer is left.
func (r *report) bestPeer(workload string, m metric) (name string, least float64) {
	least = math.NaN()
	for _, res := range r.results[workload] {
		if res.contender.once || res.contender.name == ownName || res.wrong != "" || res.lazy {
			continue
		}
		if x := summarize(res.series(m)).median; x < least || math.IsNaN(least) && !math.IsNaN(x) {
			name, least = res.contender.name, x
		}
	}
	return name, least
}
