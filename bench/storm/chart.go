package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"strings"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// A chart shows a quantity of several scenarios over time.
type chart struct {
	file, title string
	quantity    quantity
	from, to    time.Duration
	zero        time.Duration // the origin of the x axis
	x           string
	lines       []line
}

// A quantity is shown on the y axis.
type quantity struct {
	name        string
	of          func(second) float64
	limit, step float64 // the top of the axis and the distance of its ticks
	capacity    bool    // the server's capacity is drawn as well
}

var (
	load = quantity{
		name: "attempts per second", limit: 2500, step: 500, capacity: true,
		of: func(s second) float64 { return float64(s.load) },
	}
	served = quantity{
		name: "% of calls", limit: 105, step: 20,
		of: func(s second) float64 { return 100 * share(s.served, s.calls) },
	}
	answers = quantity{
		name: "responses per second", limit: 600, step: 100, capacity: true,
		of: func(s second) float64 { return float64(s.worked - s.wasted) },
	}
)

// A line is a scenario with a short name for the legend.
type line struct {
	label, scenario string
	color           color.Color
}

// The colors of Okabe and Ito can be told apart by the color-blind. A scenario has
// the same color in every chart.
var (
	black      = color.RGBA{A: 255}
	vermillion = color.RGBA{R: 213, G: 94, B: 0, A: 255}
	orange     = color.RGBA{R: 230, G: 159, B: 0, A: 255}
	blue       = color.RGBA{R: 0, G: 114, B: 178, A: 255}
	sky        = color.RGBA{R: 86, G: 180, B: 233, A: 255}
	green      = color.RGBA{R: 0, G: 158, B: 115, A: 255}
	purple     = color.RGBA{R: 204, G: 121, B: 167, A: 255}
)

var charts = []chart{
	stormChart("load", "Load, by how clients retry", load,
		line{"immediate", immediately, orange}, line{"exponential, no jitter", noJitter, vermillion},
		line{"exponential, ±10 %", withDefault, blue}, line{"… and a budget of 0.1", fleetName(fleetBucket, 1000), green},
		line{"no retries", noRetries, black}),
	stormChart("served", "Calls that are eventually served, by start time", served,
		line{"no retries", noRetries, black}, line{"exponential, ±10 %", withDefault, blue},
		line{"… and TokenBudget{}", fleetName(zeroBucket, 1), purple},
		line{"… and a budget of 0.1", fleetName(fleetBucket, 1000), green}),
	stormChart("server", "Load, by settings of the server", load,
		line{"503 when full", withDefault, blue}, line{"… Retry-After: 5", asked5, sky}, line{"… Retry-After: 20", asked20, purple},
		line{"early 503", early, vermillion}, line{"… Retry-After: 5", earlyAsked, orange}),
	stormChart("fleet", "Load, by the budget of each process", load,
		line{"zero value, 1000 processes", fleetName(zeroBucket, 1000), vermillion},
		line{"zero value, 10 processes", fleetName(zeroBucket, 10), orange},
		line{"zero value, 1 process", fleetName(zeroBucket, 1), purple},
		line{"ratio only, 1000 processes", fleetName(ratioBucket, 1000), green},
		line{"ratio only, 10 processes", fleetName(ratioBucket, 10), sky},
		line{"ratio only, 1 process", fleetName(ratioBucket, 1), black}),
	herdChart(),
}

func stormChart(name, title string, q quantity, lines ...line) chart {
	return chart{
		file: "retry-storms-" + name + ".svg", title: title, quantity: q,
		to: before + outage + after, zero: before, x: "seconds since the loss of capacity", lines: lines,
	}
}

func herdChart() chart {
	c := chart{
		file: "retry-storms-herd.svg", title: "Responses to 10 000 simultaneous calls", quantity: answers,
		from: time.Second, to: 40 * time.Second, zero: time.Second, x: "seconds",
	}
	for i, k := range kinds {
		c.lines = append(c.lines, line{k.name, herdName(k.name), []color.Color{vermillion, blue, orange, green, black}[i]})
	}
	return c
}

// svg draws c.
func (c chart) svg(r *report) ([]byte, error) {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	p := plot.New()
	p.Title.Text = c.title
	p.Title.TextStyle.Font.Size = vg.Points(13)
	p.Title.Padding = vg.Points(8)
	p.X.Label.Text, p.Y.Label.Text = c.x, c.quantity.name
	p.Y.Tick.Marker = plot.TickerFunc(c.quantity.ticks)
	p.BackgroundColor = nil
	p.Add(plotter.NewGrid())
	// Lines may be anywhere in the plot, so the legend is next to it.
	legend := plot.NewLegend()
	legend.Top, legend.Left = true, true
	legend.TextStyle.Font.Size = vg.Points(9)
	legend.Padding = vg.Points(4)
	for _, l := range c.lines {
		if err := c.addLine(p, &legend, l, r.results[l.scenario]); err != nil {
			return nil, err
		}
	}
	if c.quantity.capacity {
		if err := c.addCapacity(p, &legend, r.results[c.lines[0].scenario]); err != nil {
			return nil, err
		}
	}
	p.X.Min, p.X.Max = (c.from - c.zero).Seconds(), (c.to - c.zero).Seconds()
	p.Y.Min, p.Y.Max = 0, c.quantity.limit
	canvas := vgsvg.New(8*vg.Inch, 3.6*vg.Inch)
	area := draw.New(canvas)
	area.SetColor(color.White)
	area.Fill(area.Rectangle.Path())
	const beside = 158
	p.Draw(draw.Crop(area, 6, -beside, 6, -6))
	legend.Draw(draw.Crop(area, area.Rectangle.Size().X-beside+8, 0, 0, -34))
	var b bytes.Buffer
	_, err := canvas.WriteTo(&b)
	// Readers may not have the font of the plotter.
	return []byte(strings.ReplaceAll(b.String(), "font-family:Liberation Sans", "font-family:Liberation Sans,Arial,sans-serif")), err
}

func (q quantity) ticks(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	for y := low; y <= high; y += q.step {
		ticks = append(ticks, plot.Tick{Value: y, Label: fmt.Sprint(y)})
	}
	return ticks
}

func (c chart) addLine(p *plot.Plot, legend *plot.Legend, l line, r result) error {
	var points plotter.XYs
	for at := c.from; at < c.to; at += time.Second {
		y := c.quantity.of(r.sum(at, at+time.Second))
		points = append(points, plotter.XY{X: (at - c.zero).Seconds(), Y: min(y, c.quantity.limit)})
	}
	drawn, err := plotter.NewLine(points)
	if err != nil {
		return fmt.Errorf("%s: %w", l.scenario, err)
	}
	drawn.Color = l.color
	drawn.Width = vg.Points(1.3)
	p.Add(drawn)
	legend.Add(l.label, drawn)
	return nil
}

// addCapacity draws the capacity of the server of r.
func (c chart) addCapacity(p *plot.Plot, legend *plot.Legend, r result) error {
	var points plotter.XYs
	for at := c.from; at <= c.to; at += time.Second {
		done := r.server.done(at+time.Second) - r.server.done(at)
		points = append(points, plotter.XY{X: (at - c.zero).Seconds(), Y: math.Round(r.server.perSecond() * done.Seconds())})
	}
	l, err := plotter.NewLine(points)
	if err != nil {
		return err
	}
	l.StepStyle = plotter.PostStep
	l.Color = color.Gray{Y: 90}
	l.Dashes = []vg.Length{vg.Points(4), vg.Points(3)}
	p.Add(l)
	legend.Add("capacity", l)
	return nil
}
