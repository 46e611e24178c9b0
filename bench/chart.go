package main

import (
	"math"

	"github.com/httpretry/httpretry/bench/internal/plot"
)

// A chart shows one metric of several workloads: a dot at the median of each
// contender, with whiskers from quartile to quartile.
type chart struct {
	file, title string
	metric      metric
	workloads   []string
}

var charts = []chart{
	{"benchmarks-layer.svg", "Time of a successful call, on a transport without cost", nsPerOp, []string{"GET", "POST", "GET-parallel"}},
	{"benchmarks-stream.svg", "Time of a streamed POST of 64 KiB, on a transport in memory", nsPerOp, []string{streamWork}},
	{"benchmarks-retry.svg", "Time of a call with one 503 and a backoff of 1 ns, on a transport in memory", nsPerOp, []string{"GET-503-then-200", "POST-503-then-200"}},
	{"benchmarks-upload.svg", "Peak memory of a streamed upload of 64 MiB", peakBytes, []string{uploadWork}},
	{"benchmarks-loopback.svg", "Median latency on loopback", p50, []string{"loopback-GET", "loopback-POST"}},
	{"benchmarks-waiting.svg", "Memory of a call that waits for its retry, with its request and goroutine", bytesHeld, []string{"waiting-no-body", "waiting-GetBody", "waiting-1KiB-buffered"}},
}

const aboutDots = "Dot: median of the runs. Whiskers: quartiles. ✗: incorrect, and not measured."

// svg draws c.
func (c chart) svg(r *report) []byte {
	const rowHeight = 44
	p := plot.Plot{
		Title: c.title, About: aboutDots,
		Height: rowHeight * float64(len(contenders)), X: c.axis(r), Y: plot.Rows(rowNames(), ownName),
	}
	for i, w := range c.workloads {
		color := []plot.Color{plot.Blue, plot.Vermillion, plot.Green}[i]
		s := plot.Series{Label: w, Color: color}
		for row, name := range rowNames() {
			// The series of a row are below each other.
			y := 0.26*(float64(len(c.workloads)-1)/2-float64(i)) - float64(row)
			res := r.result(w, name)
			if res != nil && res.wrong != "" && !res.contender.once {
				at := plot.Point{X: p.X.At(0.01), Y: y}
				p.Notes = append(p.Notes, plot.Note{Point: at, Text: "✗ " + res.wrong, Color: color})
			}
			if x := summarize(res.series(c.metric)); !math.IsNaN(x.median) {
				s.Dots = append(s.Dots, plot.Dot{Point: plot.Point{X: x.median, Y: y}, Low: x.low, High: x.high})
			}
		}
		if r.results[w] != nil {
			p.Series = append(p.Series, s)
		}
	}
	return p.SVG()
}

// axis returns a logarithmic axis for the figures of c.
func (c chart) axis(r *report) plot.Axis {
	low, high := math.Inf(1), 0.0
	for _, w := range c.workloads {
		for _, res := range r.results[w] {
			if x := summarize(res.series(c.metric)); x.low > 0 {
				low, high = min(low, x.low), max(high, x.high)
			}
		}
	}
	if high == 0 {
		low, high = 1, 10 // nothing was measured
	}
	label := func(x float64) string { return amount(x, c.metric) }
	title := map[metric]string{nsPerOp: "time of a call", p50: "time of a call", peakBytes: "peak memory", bytesHeld: "memory of a call"}[c.metric]
	base, factors := 10.0, []float64{1}
	switch {
	case (c.metric == peakBytes || c.metric == bytesHeld) && high < 16*low:
		base, factors = 2, []float64{1, 1.25, 1.5, 1.75}
	case c.metric == peakBytes || c.metric == bytesHeld:
		base = 4
	case high < 100*low:
		factors = []float64{1, 2, 5}
	}
	return plot.Logarithmic(title, low, high, base, factors, label)
}

// rowNames returns the contenders from the top of a chart.
func rowNames() []string {
	names := make([]string, len(contenders))
	for i, c := range contenders {
		names[i] = c.name
	}
	return names
}
