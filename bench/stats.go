package main

import (
	"math"
	"slices"
)

// quantile returns the q-quantile of xs, with linear interpolation, or NaN if xs
// is empty. It does not modify xs.
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

// spread returns the distance between the quartiles.
func (s summary) spread() float64 { return s.high - s.low }

// paired summarizes the differences between runs of the same round, so that
// interference that affects both cancels out. Runs without a partner do not
// count.
func paired(xs, ys []float64) summary {
	n := min(len(xs), len(ys))
	d := make([]float64, n)
	for i := range d {
		d[i] = xs[i] - ys[i]
	}
	return summarize(d)
}
