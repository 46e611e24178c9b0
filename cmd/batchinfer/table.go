package main

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A table has rows of cells. The first row is the heading.
type table [][]string

// text returns the rows with aligned columns: numbers columns after the first to the
// right, and the others to the left.
func (t table) text(numbers int) string {
	widths := make([]int, len(t[0]))
	for _, row := range t {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var all strings.Builder
	for _, row := range t {
		var line strings.Builder
		for i, cell := range row {
			width := widths[i]
			if i == 0 || i > numbers {
				width = -width
			}
			fmt.Fprintf(&line, "%*s  ", width, cell)
		}
		all.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return all.String()
}

// cellOf returns a name as a cell. It is complete, so that it can be given to a flag, and
// quoted if it would look like two cells or a terminal would show something else.
func cellOf(name string) string {
	if quoted := strconv.Quote(name); name == "" || strings.Contains(name, " ") || quoted != `"`+name+`"` {
		return quoted
	}
	return name
}

// onOneLine returns a text of another machine with a mark in place of each character
// that a terminal would not show.
func onOneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
}
