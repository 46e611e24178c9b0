package main

import (
	"fmt"
	"math"
	"strings"
)

// amount formats x with three significant digits and the unit of m.
func amount(x float64, m metric) string {
	switch m {
	case ratio:
		return number(x)
	case nsPerOp, p50, p90, p99, firstByteNs:
		return scaled(x, 1000, "ns", "µs", "ms", "s")
	case bytesPerOp, peakBytes, bytesHeld, heapHeld, stackHeld:
		return scaled(x, 1024, "B", "KiB", "MiB", "GiB")
	}
	return number(x)
}

// ratio is the metric of quotients.
const ratio metric = ""

func scaled(x, step float64, units ...string) string {
	if math.IsNaN(x) {
		return "–"
	}
	i := 0
	for math.Abs(x) >= step && i < len(units)-1 {
		x /= step
		i++
	}
	return number(x) + " " + units[i]
}

func number(x float64) string {
	switch a := math.Abs(x); {
	case math.IsNaN(x):
		return "–"
	case a < 0.005:
		return "0"
	case a < 10:
		return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", x), "0"), ".")
	case a < 100:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", x), ".0")
	}
	return fmt.Sprintf("%.0f", x)
}

// heading returns the column title of a metric.
func (m metric) heading() string {
	return map[metric]string{
		nsPerOp: "time", bytesPerOp: "memory", allocsPerOp: "allocations",
		p50: "median", p90: "90 %", p99: "99 %",
		peakBytes: "peak", firstByteNs: "first byte",
		connsOpened: "connections", connsLeaked: "leaked", bytesHeld: "held", heapHeld: "heap", stackHeld: "stack",
	}[m]
}

// A table has a head and rows of the same length.
type table struct {
	head []string
	rows [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// markdown writes t as Markdown.
func (t *table) markdown(b *strings.Builder) {
	line := func(cells []string) {
		b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
	}
	line(t.head)
	b.WriteString("|" + strings.Repeat("---|", len(t.head)) + "\n")
	for _, row := range t.rows {
		line(row)
	}
}

// text writes t with aligned columns.
func (t *table) text(b *strings.Builder) {
	width := make([]int, len(t.head))
	for _, row := range append([][]string{t.head}, t.rows...) {
		for i, cell := range row {
			width[i] = max(width[i], len([]rune(cell)))
		}
	}
	for _, row := range append([][]string{t.head}, t.rows...) {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell + strings.Repeat(" ", width[i]-len([]rune(cell))+2))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}
