// Package plot draws the charts of the pages in docs.
package plot

import "math"

// A Plot is a chart with two axes and a legend beside it. Colors follow the
// color scheme of the reader, and fonts are the reader's.
type Plot struct {
	Title  string
	About  string  // how to read the marks: a sentence under the title
	Height float64 // of the area between the axes, in pixels
	X, Y   Axis
	Series []Series // in the order of the legend
	Notes  []Note
}

// An Axis is the range of one dimension. Its ticks are in ascending order.
type Axis struct {
	Title    string // with the unit, unless the ticks have it
	From, To float64
	Log      bool
	Ticks    []Tick
	Rows     bool // the ticks are names of rows, not numbers
}

// A Tick is a labeled position on an axis. It has a grid line, unless it is a row.
type Tick struct {
	At     float64
	Label  string
	Strong bool // it names the row that matters
}

// A Series is shown as a line, as dots with whiskers, or as both.
type Series struct {
	Label  string
	Color  Color
	Line   []Point
	Steps  bool // the line consists of steps
	Dashed bool
	Strong bool // it is the line that matters, and is drawn over the others
	Dots   []Dot
}

// A Point has the coordinates of the axes.
type Point struct{ X, Y float64 }

// A Dot is a point with a whisker from Low to High, both of which are in the
// direction of X.
type Dot struct {
	Point
	Low, High float64
}

// A Note is a text that begins at a point.
type Note struct {
	Point
	Text  string
	Color Color
}

// A Color is the index of a color of Okabe and Ito, which can be told apart by
// the color-blind. Some are darker on a light page, or lighter on a dark one, for
// contrast.
type Color int

const (
	Ink Color = iota // of the text
	Vermillion
	Orange
	Blue
	Sky
	Green
	Purple
	Gray
)

// share returns the position of v on the axis, from 0 to 1.
func (a Axis) share(v float64) float64 {
	if a.Log {
		return math.Log(v/a.From) / math.Log(a.To/a.From)
	}
	return (v - a.From) / (a.To - a.From)
}

// At returns the value at a position on the axis, from 0 to 1.
func (a Axis) At(share float64) float64 {
	if a.Log {
		return a.From * math.Pow(a.To/a.From, share)
	}
	return a.From + share*(a.To-a.From)
}
