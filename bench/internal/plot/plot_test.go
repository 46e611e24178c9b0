package plot

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
)

func sample() Plot {
	return Plot{
		Title: "Load & more", About: "Each second.", Height: 100,
		X: Linear("seconds", 10, 5, label), Y: Linear("calls per second", 100, 50, label),
		Series: []Series{
			{Label: "bold", Color: Green, Strong: true, Line: []Point{{0, 10}, {5, 50}}},
			{Label: "<thin>", Color: Blue, Line: []Point{{0, 10}, {5, 420}, {10, 0}}},
		},
		Notes: []Note{{Point{1, 1}, "✗ a & b", Vermillion}},
	}
}

func label(x float64) string { return fmt.Sprint(x) }

func TestPlot_IsWellFormed(t *testing.T) {
	d := xml.NewDecoder(strings.NewReader(string(sample().SVG())))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// Nothing is cut off in silence, and nothing depends on seeing the chart, on its
// page being light, or on a font.
func TestPlot_Says(t *testing.T) {
	svg := string(sample().SVG())
	for _, want := range []string{
		"<title id=\"title\">Load &amp; more</title>", "<desc id=\"desc\">Each second. Horizontal axis: seconds.",
		"Shown: bold; &lt;thin&gt;.", "▲ up to 420", "✗ a &amp; b", "prefers-color-scheme: dark", "sans-serif",
	} {
		if !strings.Contains(svg, want) {
			t.Errorf("got no %q in\n%s", want, svg)
		}
	}
}

func TestPlot_DrawsTheStrongLineLast(t *testing.T) {
	svg := string(sample().SVG())
	strong, thin := `class="c5" stroke-width="3.0"`, `class="c3" stroke-width="1.4"`
	if s, w := strings.Index(svg, strong), strings.Index(svg, thin); s < w || w < 0 {
		t.Errorf("got the strong line at byte %d and the other at %d, want it after the other", s, w)
	}
}

func TestAxis_Ticks(t *testing.T) {
	tests := []struct {
		name string
		axis Axis
		want string
	}{
		{"linear", Linear("", 9, 5, label), "0 5 10"},
		{"linear, at a tick", Linear("", 10, 5, label), "0 5 10"},
		{"decades", Logarithmic("", 8, 130, 10, []float64{1}, label), "1 10 100 1000"},
		{"decades, at ticks", Logarithmic("", 10, 100, 10, []float64{1}, label), "10 100"},
		{"within a decade", Logarithmic("", 16, 36, 10, []float64{1, 2, 5}, label), "10 20 50"},
		{"across decades", Logarithmic("", 3, 15, 10, []float64{1, 2, 5}, label), "2 5 10 20"},
		{"powers of 4", Logarithmic("", 5, 70, 4, []float64{1}, label), "4 16 64 256"},
		{"below 1", Logarithmic("", 0.02, 0.3, 10, []float64{1}, label), "0.01 0.1 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, tick := range tt.axis.Ticks {
				got = append(got, fmt.Sprintf("%.4g", tick.At))
			}
			if want := strings.Fields(tt.want); !slices.Equal(got, want) {
				t.Errorf("got ticks %q, want %q", got, want)
			}
			if first, last := tt.axis.Ticks[0].At, tt.axis.Ticks[len(got)-1].At; tt.axis.From != first || tt.axis.To != last {
				t.Errorf("got an axis from %v to %v, want it to begin and end at ticks", tt.axis.From, tt.axis.To)
			}
		})
	}
}

func TestAxis_Rows(t *testing.T) {
	rows := Rows([]string{"a", "b"}, "b")
	if got := rows.share(rows.Ticks[0].At); got != 0.75 {
		t.Errorf("got the first of two rows at %v of the height, want 0.75", got)
	}
	if rows.Ticks[0].Strong || !rows.Ticks[1].Strong {
		t.Errorf("got %+v, want b to be the one that matters", rows.Ticks)
	}
}

func TestAxis_AtIsTheInverseOfShare(t *testing.T) {
	for _, a := range []Axis{Linear("", 8, 2, label), Logarithmic("", 1, 1000, 10, []float64{1}, label)} {
		for _, want := range []float64{0, 0.25, 1} {
			if got := a.share(a.At(want)); math.Abs(got-want) > 1e-9 {
				t.Errorf("got position %v of the value at %v, with Log %t", got, want, a.Log)
			}
		}
	}
}
