package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// sheet returns a report of one workload in which the contenders have these times.
func sheet(work string, times map[string][]float64) *report {
	r := &report{runs: 2, results: map[string][]*result{}, workloads: []workload{{name: work, about: "work", metrics: perOp}}}
	for _, c := range contenders {
		res := &result{contender: c}
		for _, x := range times[c.name] {
			res.samples = append(res.samples, sample{nsPerOp: x, bytesPerOp: x, allocsPerOp: 0})
		}
		r.results[work] = append(r.results[work], res)
	}
	return r
}

func TestReport_BestPeer(t *testing.T) {
	r := sheet("GET", map[string][]float64{
		bareName: {1}, "http.Client": {2}, ownName: {3},
		"rehttp": {4}, "heimdall": {5}, "go-retryablehttp": {6}, "failsafehttp": {7, 9},
	})
	r.result("GET", "rehttp").wrong = "replays a wrong body"
	r.result("GET", "heimdall").lazy = true
	if name, x := r.bestPeer("GET", nsPerOp); name != "go-retryablehttp" || x != 6 {
		t.Errorf("best peer: got %s with %v, want go-retryablehttp with 6: the faster ones make one attempt, are httpretry, incorrect or lazy", name, x)
	}
}

func TestReport_Targets(t *testing.T) {
	tests := []struct {
		name   string
		reason string
		report *report
		find   string
		met    bool
		known  bool
	}{
		{"met", "39 ns more", sheet("GET", map[string][]float64{bareName: {10, 20}, ownName: {49, 59}}), "GET: no allocation", true, true},
		{"not-met", "41 ns more", sheet("GET", map[string][]float64{bareName: {10, 20}, ownName: {51, 61}}), "GET: no allocation", false, true},
		{"unknown", "not measured", sheet("GET", nil), "GET: no allocation", false, false},
		{"ratio-met", "a third of the best", sheet(streamWork, map[string][]float64{ownName: {10}, "rehttp": {30}, "resty-v2": {90}}), "a third", true, true},
		{"ratio-not-met", "more than a third of the best", sheet(streamWork, map[string][]float64{ownName: {11}, "rehttp": {30}, "resty-v2": {90}}), "a third", false, true},
		{"no-peer", "no peer to compare with", sheet(streamWork, map[string][]float64{ownName: {11}}), "a third", false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, x := range tt.report.targets() {
				if !strings.Contains(x.promise, tt.find) || x.known != tt.known && !tt.known {
					continue
				}
				if x.met != tt.met || x.known != tt.known {
					t.Errorf("%s: got met %v, known %v (%s), want %v, %v: %s", x.promise, x.met, x.known, x.measured, tt.met, tt.known, tt.reason)
				}
				return
			}
			t.Fatalf("no target about %q", tt.find)
		})
	}
}

func TestAmount_Units(t *testing.T) {
	tests := []struct {
		x    float64
		m    metric
		want string
	}{
		{12.34, nsPerOp, "12.3 ns"},
		{1234, nsPerOp, "1.23 µs"},
		{5e6, p50, "5 ms"},
		{2048, bytesPerOp, "2 KiB"},
		{3 << 20, peakBytes, "3 MiB"},
		{0.001, allocsPerOp, "0"},
		{100, allocsPerOp, "100"},
		{-40, nsPerOp, "-40 ns"},
		{quantile(nil, 0), nsPerOp, "–"},
	}
	for _, tt := range tests {
		if got := amount(tt.x, tt.m); got != tt.want {
			t.Errorf("amount(%v, %q): got %q, want %q", tt.x, tt.m, got, tt.want)
		}
	}
}

// The page has a row for each contender, the charts are SVG, and the raw figures
// have the format of Go benchmarks.
func TestReport_Write(t *testing.T) {
	r := measureAll(workloads, contenders, regexp.MustCompile("^GET/(httpretry|rehttp)$"), 2, io.Discard)
	r.machine = thisMachine("model name\t: Imaginary 3000\n")
	folder := filepath.Join(t.TempDir(), "new")
	if err := r.write(folder); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	page := read("benchmarks.md")
	for _, want := range []string{"| bare | ", "| httpretry | ", "| rehttp | ", "Imaginary 3000", "not measured", "(benchmarks-layer.svg)"} {
		if !strings.Contains(page, want) {
			t.Errorf("benchmarks.md: got no %q in it", want)
		}
	}
	if svg := read("benchmarks-layer.svg"); !strings.Contains(svg, "<svg") || !strings.Contains(svg, "rehttp") {
		t.Errorf("benchmarks-layer.svg: got %.80q, want a chart with the contenders' names", svg)
	}
	line := regexp.MustCompile(`(?m)^BenchmarkRetry/work=GET/contender=httpretry-\d+ 1 [\d.e+]+ ns/op [\d.e+-]+ B/op [\d.e+-]+ allocs/op$`)
	if raw := read("benchmarks.txt"); len(line.FindAllString(raw, -1)) != 2 {
		t.Errorf("benchmarks.txt: got\n%s\nwant a line for each of two runs of httpretry", raw)
	}
}

func TestRun_RejectsInvalidFlags(t *testing.T) {
	for _, tt := range []struct {
		runs int
		only string
		want string
	}{
		{0, "", "-runs"},
		{1, "(", "-only"},
	} {
		if err := run(tt.runs, tt.only, ""); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("run(%d, %q): got %v, want an error that names %s", tt.runs, tt.only, err, tt.want)
		}
	}
}
