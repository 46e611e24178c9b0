package plot

import (
	"fmt"
	"html"
	"strings"
)

// The sizes of a chart, in pixels.
const (
	width  = 970.0
	left   = 130.0 // of the area between the axes
	right  = 700.0 // the legend begins after it
	head   = 64.0  // title and explanation
	foot   = 56.0  // labels and title of the x axis
	legend = 22.0  // a line of the legend
)

// The names of classes that are not series.
const page, ink, dim, grid, band = "page", "ink", "dim", "grid", "band"

// palette has the colors of each class, on light and dark pages. The class of a
// series is "c" with its Color.
var palette = []struct{ class, light, dark string }{
	{page, "#ffffff", "#0d1117"},
	{ink, "#1f2328", "#e6edf3"},
	{dim, "#59636e", "#9da7b1"},
	{grid, "#d1d9e0", "#30363d"},
	{band, "#e8f1fa", "#182433"},
	{Ink.class(), "#1f2328", "#e6edf3"},
	{Vermillion.class(), "#d55e00", "#f0772b"},
	{Orange.class(), "#cf8f00", "#e6a52a"},
	{Blue.class(), "#0072b2", "#4c9fe0"},
	{Sky.class(), "#3ba3e0", "#8ccbf5"},
	{Green.class(), "#00906a", "#2bbf93"},
	{Purple.class(), "#c05f97", "#dd8fbb"},
	{Gray.class(), "#6e7781", "#8b949e"},
}

func (c Color) class() string { return fmt.Sprintf("c%d", c) }

// style returns the style sheet. A path has the color as its stroke, and all else
// as its fill. It uses no custom properties, because not every renderer has them.
func style() string {
	var light, dark strings.Builder
	for _, p := range palette {
		fmt.Fprintf(&light, ".%s { fill: %s; } path.%[1]s { fill: none; stroke: %[2]s; }\n", p.class, p.light)
		fmt.Fprintf(&dark, ".%s { fill: %s; } path.%[1]s { fill: none; stroke: %[2]s; }\n", p.class, p.dark)
	}
	return "<style>\ntext { font: 13px system-ui, sans-serif; }\n.title { font-size: 17px; font-weight: 600; }\n" +
		".note { font-size: 11px; }\n.strong { font-weight: 600; }\n" + light.String() +
		"@media (prefers-color-scheme: dark) {\n" + dark.String() + "}\n</style>\n"
}

// SVG draws p.
func (p Plot) SVG() []byte {
	d := drawing{Plot: p}
	all := head + p.Height + foot
	d.put(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" role="img" aria-labelledby="title desc">`, width, all)
	d.put(`<title id="title">%s</title>`, html.EscapeString(p.Title))
	d.put(`<desc id="desc">%s</desc>`, html.EscapeString(p.describe()))
	d.WriteString(style())
	d.put(`<clipPath id="area"><rect x="%.1f" y="%.1f" width="%.1f" height="%.1f"/></clipPath>`, left, head-2, right-left, p.Height+4)
	d.put(`<rect width="100%%" height="100%%" class="%s"/>`, page)
	d.text(16, 28, "title "+ink, "start", p.Title)
	d.text(16, 48, dim, "start", p.About)
	d.axes()
	for _, strong := range []bool{false, true} {
		for _, s := range p.Series {
			if s.Strong == strong {
				d.line(s)
				d.dots(s)
			}
		}
	}
	for _, n := range p.Notes {
		d.text(d.x(n.X), d.y(n.Y)+4, "note "+n.Color.class(), "start", n.Text)
	}
	for i, s := range p.Series {
		d.entry(head+8+legend*float64(i), s)
	}
	d.put(`</svg>`)
	return []byte(d.String())
}

// describe says what the chart shows, for those who can't see it.
func (p Plot) describe() string {
	var labels []string
	for _, s := range p.Series {
		labels = append(labels, s.Label)
	}
	y := p.Y.Title
	if p.Y.Rows {
		y = "one row each"
	}
	return fmt.Sprintf("%s Horizontal axis: %s. Vertical axis: %s. Shown: %s.", p.About, p.X.Title, y, strings.Join(labels, "; "))
}

// A drawing is the text of an SVG that is being written.
type drawing struct {
	Plot
	strings.Builder
}

func (d *drawing) put(format string, args ...any) { fmt.Fprintf(d, format+"\n", args...) }

func (d *drawing) x(v float64) float64 { return left + (right-left)*d.X.share(v) }
func (d *drawing) y(v float64) float64 { return head + d.Height*(1-d.Y.share(v)) }

func (d *drawing) text(x, y float64, class, anchor, s string) {
	d.put(`<text x="%.1f" y="%.1f" class="%s" text-anchor="%s">%s</text>`, x, y, class, anchor, html.EscapeString(s))
}

func (d *drawing) rule(x1, y1, x2, y2 float64, class string) {
	d.put(`<path d="M%.1f %.1fL%.1f %.1f" class="%s"/>`, x1, y1, x2, y2, class)
}

// axes draws the axes, their ticks and the grid.
func (d *drawing) axes() {
	bottom := head + d.Height
	for _, t := range d.Y.Ticks {
		y := d.y(t.At)
		class := ink
		if t.Strong {
			class += " strong"
			row := d.Height / (d.Y.To - d.Y.From)
			d.put(`<rect x="8" y="%.1f" width="%.1f" height="%.1f" class="%s"/>`, y-row/2, right-8, row, band)
		}
		if !d.Y.Rows {
			d.rule(left, y, right, y, grid)
		}
		d.text(left-10, y+4.5, class, "end", t.Label)
	}
	for _, t := range d.X.Ticks {
		x := d.x(t.At)
		d.rule(x, head, x, bottom+6, grid)
		d.text(x, bottom+20, ink, "middle", t.Label)
	}
	d.rule(left, bottom, right, bottom, dim)
	d.text((left+right)/2, bottom+44, dim, "middle", d.X.Title)
	if d.Y.Title != "" {
		y := head + d.Height/2
		d.put(`<text class="%s" text-anchor="middle" transform="translate(24 %.1f) rotate(-90)">%s</text>`, dim, y, html.EscapeString(d.Y.Title))
	}
}

// line draws the line of s. Its peaks beyond the axis are marked and named.
func (d *drawing) line(s Series) {
	if len(s.Line) == 0 {
		return
	}
	var path strings.Builder
	peak := Point{Y: d.Y.To}
	for i, p := range s.Line {
		switch {
		case i == 0:
			fmt.Fprintf(&path, "M%.1f %.1f", d.x(p.X), d.y(p.Y))
		case s.Steps:
			fmt.Fprintf(&path, "H%.1fV%.1f", d.x(p.X), d.y(p.Y))
		default:
			fmt.Fprintf(&path, "L%.1f %.1f", d.x(p.X), d.y(p.Y))
		}
		if p.Y > peak.Y {
			peak = p
		}
	}
	d.put(`<path clip-path="url(#area)" d="%s" stroke-linejoin="round" %s/>`, path.String(), s.stroke())
	if peak.Y > d.Y.To {
		d.text(d.x(peak.X)+6, head+11, "note "+s.Color.class(), "start", fmt.Sprintf("▲ up to %.0f", peak.Y))
	}
}

// stroke returns the attributes of the line of s.
func (s Series) stroke() string {
	w, dashes := 1.4, ""
	if s.Strong {
		w = 3
	}
	if s.Dashed {
		dashes = ` stroke-dasharray="5 4"`
	}
	return fmt.Sprintf(`class="%s" stroke-width="%.1f"%s`, s.Color.class(), w, dashes)
}

// dots draws the dots of s with their whiskers.
func (d *drawing) dots(s Series) {
	for _, p := range s.Dots {
		y := d.y(p.Y)
		d.put(`<path d="M%.1f %.1fv6m0 -3H%.1fm0 -3v6" %s/>`, d.x(p.Low), y-3, d.x(p.High), s.stroke())
		d.put(`<circle cx="%.1f" cy="%.1f" r="4" class="%s"/>`, d.x(p.X), y, s.Color.class())
	}
}

// entry draws the line of the legend for s.
func (d *drawing) entry(y float64, s Series) {
	const begin, end = right + 16, right + 40
	if len(s.Line) > 0 {
		d.put(`<path d="M%.1f %.1fH%.1f" %s/>`, begin, y, end, s.stroke())
	}
	if len(s.Dots) > 0 {
		d.put(`<circle cx="%.1f" cy="%.1f" r="4" class="%s"/>`, (begin+end)/2, y, s.Color.class())
	}
	class := ink
	if s.Strong {
		class += " strong"
	}
	d.text(end+8, y+4.5, class, "start", s.Label)
}
