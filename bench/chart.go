package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
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

// The colors of Okabe and Ito can be told apart by the color-blind.
var chartColors = []color.Color{
	color.RGBA{R: 0, G: 114, B: 178, A: 255},
	color.RGBA{R: 213, G: 94, B: 0, A: 255},
	color.RGBA{R: 0, G: 158, B: 115, A: 255},
}

// svg draws c.
func (c chart) svg(r *report) ([]byte, error) {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	p := plot.New()
	p.Title.Text = c.title
	p.Title.TextStyle.Font.Size = vg.Points(13)
	p.Title.Padding = vg.Points(8)
	p.X.Scale = plot.LogScale{}
	p.X.Tick.Marker = decades{c.metric}
	p.NominalY(rowNames()...)
	p.Y.Min, p.Y.Max = -0.5, float64(len(contenders))-0.5
	p.Add(plotter.NewGrid())
	p.Legend.Top = true
	p.Legend.Left = false
	for i, w := range c.workloads {
		if err := c.addSeries(p, r, i, w); err != nil {
			return nil, err
		}
	}
	// Whole decades, so that every chart has a labeled tick.
	p.X.Min = math.Pow(10, math.Floor(math.Log10(p.X.Min)))
	p.X.Max = math.Pow(10, math.Ceil(math.Log10(p.X.Max)))
	p.Legend.TextStyle.Font.Size = vg.Points(9)
	p.BackgroundColor = nil
	canvas := vgsvg.New(8*vg.Inch, vg.Length(1.2+0.34*float64(len(contenders)))*vg.Inch)
	area := draw.New(canvas)
	area.SetColor(color.White)
	area.Fill(area.Rectangle.Path())
	const margin = 18 // the plotter draws labels beyond its area
	p.Draw(draw.Crop(area, margin, -margin, margin/3, -margin/3))
	var b bytes.Buffer
	_, err := canvas.WriteTo(&b)
	// Readers may not have the font of the plotter.
	return bytes.ReplaceAll(b.Bytes(), []byte("font-family:Liberation Sans"), []byte("font-family:Liberation Sans,Arial,sans-serif")), err
}

// rowNames returns the contenders from the bottom of the axis to the top.
func rowNames() []string {
	names := make([]string, len(contenders))
	for i, c := range contenders {
		names[len(names)-1-i] = c.name
	}
	return names
}

// dots is a series for the plotter.
type dots struct {
	plotter.XYs
	plotter.XErrors
}

func (c chart) addSeries(p *plot.Plot, r *report, i int, w string) error {
	const least = 0.1 // a logarithmic axis has no zero
	var d dots
	for row, name := range rowNames() {
		s := summarize(r.result(w, name).series(c.metric))
		if math.IsNaN(s.median) {
			continue
		}
		y := float64(row) + 0.2*(float64(len(c.workloads)-1)/2-float64(i))
		median := max(s.median, least)
		d.XYs = append(d.XYs, plotter.XY{X: median, Y: y})
		d.XErrors = append(d.XErrors, struct{ Low, High float64 }{max(s.low, least) - median, max(s.high, least) - median})
	}
	if len(d.XYs) == 0 {
		return nil
	}
	points, err := plotter.NewScatter(d.XYs)
	if err != nil {
		return err
	}
	points.GlyphStyle = draw.GlyphStyle{Color: chartColors[i], Radius: vg.Points(3.5), Shape: draw.CircleGlyph{}}
	whiskers, err := plotter.NewXErrorBars(d)
	if err != nil {
		return err
	}
	whiskers.Color = chartColors[i]
	p.Add(points, whiskers)
	p.Legend.Add(w, points)
	return nil
}

// decades places the ticks of a logarithmic axis at powers of ten.
type decades struct{ metric }

// Ticks implements [plot.Ticker].
func (d decades) Ticks(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	for x := math.Pow(10, math.Floor(math.Log10(low))); x <= high*1.001; x *= 10 {
		ticks = append(ticks, plot.Tick{Value: x, Label: d.label(x)})
		for k := 2.0; k < 10; k++ {
			ticks = append(ticks, plot.Tick{Value: k * x})
		}
	}
	return ticks
}

// label is like amount, but uses decimal units for bytes, as the axis does.
func (d decades) label(x float64) string {
	if d.metric != peakBytes && d.metric != bytesHeld {
		return amount(x, d.metric)
	}
	for _, unit := range []string{"B", "kB", "MB"} {
		if x < 1000 {
			return fmt.Sprintf("%g %s", x, unit)
		}
		x /= 1000
	}
	return fmt.Sprintf("%g GB", x)
}
