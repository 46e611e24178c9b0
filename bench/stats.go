package main

import (
	"math"
	"slices"
)

// quantile returns the value below which the fraction q of xs lies, with linear
// interpolation between neighbours; NaN if there are none. It leaves xs as it is.
func quantile(xs []float64, q float64) float64 {
	if len(xs) == 0 {
		return math.NaN()
	}
	xs = slices.Sorted(slices.Values(xs))
	at := q * float64(len(xs)-1)
	i := int(at)
	if i+1 >= len(xs) {
		return xs[len(xs)-1]
	}
	return xs[i] + (at-float64(i))*(xs[i+1]-xs[i])
}

// A summary is a median and the quartiles around it.
type summary struct{ low, median, high float64 }

func summarize(xs []float64) summary {
	return summary{quantile(xs, 0.25), quantile(xs, 0.5), quantile(xs, 0.75)}
}

// spread is the distance between the quartiles: the noise of the runs.
func (s summary) spread() float64 { return s.high - s.low }

// paired summarizes the differences between runs that were made next to each
// other. What slows both down for a while, another process or a hotter
// processor, drops out. It looks at as many as both have.
func paired(xs, ys []float64) summary {
	n := min(len(xs), len(ys))
	d := make([]float64, n)
	for i := range d {
		d[i] = xs[i] - ys[i]
	}
	return summarize(d)
}
