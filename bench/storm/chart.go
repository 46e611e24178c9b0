package main

import (
	"fmt"
	"math"
	"time"

	"github.com/httpretry/httpretry/bench/internal/plot"
)

// A chart shows a quantity of several scenarios over time.
type chart struct {
	file, title string
	quantity    quantity
	from, to    time.Duration
	zero        time.Duration // the origin of the x axis
	x           string
	strong      string // the line that matters
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
		name: "% of calls", limit: 100, step: 20,
		of: func(s second) float64 { return 100 * share(s.served, s.calls) },
	}
	answers = quantity{
		name: "responses per second", limit: 600, step: 100, capacity: true,
		of: func(s second) float64 { return float64(s.worked - s.wasted) },
	}
)

// A line is a scenario with a short name for the legend. A scenario has the same
// color in every chart.
type line struct {
	label, scenario string
	color           plot.Color
}

var charts = []chart{
	stormChart("load", "Load, by how clients retry", load, "… and a budget of 0.1",
		line{"immediate", immediately, plot.Orange}, line{"exponential, no jitter", noJitter, plot.Vermillion},
		line{"exponential, ±10 %", withDefault, plot.Blue}, line{"… and a budget of 0.1", fleetName(fleetBucket, 1000), plot.Green},
		line{"no retries", noRetries, plot.Ink}),
	stormChart("served", "Calls that are eventually served, by start time", served, "… and a budget of 0.1",
		line{"no retries", noRetries, plot.Ink}, line{"exponential, ±10 %", withDefault, plot.Blue},
		line{"… and TokenBudget{}", fleetName(zeroBucket, 1), plot.Purple},
		line{"… and a budget of 0.1", fleetName(fleetBucket, 1000), plot.Green}),
	stormChart("server", "Load, by settings of the server", load, "early 503",
		line{"503 when full", withDefault, plot.Blue}, line{"… Retry-After: 5", asked5, plot.Sky}, line{"… Retry-After: 20", asked20, plot.Purple},
		line{"early 503", early, plot.Vermillion}, line{"… Retry-After: 5", earlyAsked, plot.Orange}),
	stormChart("fleet", "Load, by the budget of each process", load, "ratio only, 1000 processes",
		line{"zero value, 1000 processes", fleetName(zeroBucket, 1000), plot.Vermillion},
		line{"zero value, 10 processes", fleetName(zeroBucket, 10), plot.Orange},
		line{"zero value, 1 process", fleetName(zeroBucket, 1), plot.Purple},
		line{"ratio only, 1000 processes", fleetName(ratioBucket, 1000), plot.Green},
		line{"ratio only, 10 processes", fleetName(ratioBucket, 10), plot.Sky},
		line{"ratio only, 1 process", fleetName(ratioBucket, 1), plot.Ink}),
	herdChart(),
}

func stormChart(name, title string, q quantity, strong string, lines ...line) chart {
	return chart{
		file: "retry-storms-" + name + ".svg", title: title, quantity: q,
		to: before + outage + after, zero: before, x: "seconds since the loss of capacity",
		strong: strong, lines: lines,
	}
}

func herdChart() chart {
	c := chart{
		file: "retry-storms-herd.svg", title: "Responses to 10 000 simultaneous calls", quantity: answers,
		from: time.Second, to: 40 * time.Second, zero: time.Second, x: "seconds since the first retries", strong: "Equal",
	}
	for i, k := range kinds {
		c.lines = append(c.lines, line{k.name, herdName(k.name), []plot.Color{plot.Vermillion, plot.Blue, plot.Orange, plot.Green, plot.Ink}[i]})
	}
	return c
}

// svg draws c.
func (c chart) svg(r *report) []byte {
	p := plot.Plot{
		Title: c.title, About: c.quantity.about(), Height: 260,
		X: plot.Axis{Title: c.x, From: (c.from - c.zero).Seconds(), To: (c.to - c.zero).Seconds()},
		Y: plot.Linear(c.quantity.name, c.quantity.limit, c.quantity.step, func(y float64) string { return fmt.Sprint(y) }),
	}
	p.X.Ticks = c.ticks()
	if c.quantity.capacity {
		p.Series = append(p.Series, c.capacity(r.results[c.lines[0].scenario]))
	}
	for _, l := range c.lines {
		p.Series = append(p.Series, c.series(l, r.results[l.scenario]))
	}
	return p.SVG()
}

func (q quantity) about() string {
	if q.capacity {
		return "Each second of virtual time. Dashed: as many responses as the server can make."
	}
	return "Each second of virtual time."
}

func (c chart) ticks() (ticks []plot.Tick) {
	step := 10 * time.Second
	if c.to-c.from > time.Minute {
		step = 30 * time.Second
	}
	for at := (c.from - c.zero).Truncate(step); at <= c.to-c.zero; at += step {
		if at >= c.from-c.zero {
			ticks = append(ticks, plot.Tick{At: at.Seconds(), Label: fmt.Sprint(at.Seconds())})
		}
	}
	return ticks
}

func (c chart) series(l line, r result) plot.Series {
	s := plot.Series{Label: l.label, Color: l.color, Strong: l.label == c.strong}
	for at := c.from; at < c.to; at += time.Second {
		y := c.quantity.of(r.sum(at, at+time.Second))
		s.Line = append(s.Line, plot.Point{X: (at - c.zero).Seconds(), Y: y})
	}
	return s
}

// capacity returns the capacity of the server of r.
func (c chart) capacity(r result) plot.Series {
	s := plot.Series{Label: "capacity", Color: plot.Gray, Steps: true, Dashed: true}
	for at := c.from; at <= c.to; at += time.Second {
		done := r.server.done(at+time.Second) - r.server.done(at)
		s.Line = append(s.Line, plot.Point{X: (at - c.zero).Seconds(), Y: math.Round(r.server.perSecond() * done.Seconds())})
	}
	return s
}
