package plot

import "math"

// Linear returns an axis from 0 with labels at multiples of step, up to the
// first that is at least to.
func Linear(title string, to, step float64, label func(float64) string) Axis {
	a := Axis{Title: title}
	for n := 0.0; ; n++ {
		a.To = n * step
		a.Ticks = append(a.Ticks, Tick{At: a.To, Label: label(a.To)})
		if a.To >= to {
			return a
		}
	}
}

// Logarithmic returns an axis with labels at the products of a power of base and
// one of the factors, from the last that is at most from, to the first that is at
// least to. The factors are in ascending order, begin with 1, and are less than
// base.
func Logarithmic(title string, from, to, base float64, factors []float64, label func(float64) string) Axis {
	a := Axis{Title: title + ", logarithmic scale", Log: true}
	power := math.Pow(base, math.Floor(math.Log(from)/math.Log(base)))
	for a.To < to {
		for _, f := range factors {
			switch at := power * f; {
			case at <= from || len(a.Ticks) == 0:
				a.From, a.To, a.Ticks = at, at, []Tick{{At: at, Label: label(at)}}
			case a.To < to:
				a.To = at
				a.Ticks = append(a.Ticks, Tick{At: at, Label: label(at)})
			}
		}
		power *= base
	}
	return a
}

// Rows returns a vertical axis with a row for each name, from the top. The
// coordinate of row i is -i.
func Rows(names []string, strong string) Axis {
	a := Axis{From: 0.5 - float64(len(names)), To: 0.5, Rows: true}
	for i, name := range names {
		a.Ticks = append(a.Ticks, Tick{At: -float64(i), Label: name, Strong: name == strong})
	}
	return a
}
