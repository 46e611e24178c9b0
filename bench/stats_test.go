package main

import (
	"math"
	"slices"
	"testing"
)

func TestQuantile_Interpolates(t *testing.T) {
	tests := []struct {
		name   string
		reason string
		xs     []float64
		q      float64
		want   float64
	}{
		{"single", "one run is its own median", []float64{3}, 0.5, 3},
		{"odd", "the middle one, in any order", []float64{9, 1, 5}, 0.5, 5},
		{"even", "half-way between the middle two", []float64{4, 1, 3, 2}, 0.5, 2.5},
		{"quartile", "interpolated between neighbours", []float64{0, 10, 20, 30}, 0.25, 7.5},
		{"lowest", "the least", []float64{2, 1}, 0, 1},
		{"highest", "the largest", []float64{2, 1}, 1, 2},
		{"outlier", "one disturbed run does not move the median", []float64{1, 1, 1, 1e9}, 0.5, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			given := slices.Clone(tt.xs)
			if got := quantile(tt.xs, tt.q); got != tt.want {
				t.Errorf("quantile(%v, %v): got %v, want %v: %s", given, tt.q, got, tt.want, tt.reason)
			}
			if !slices.Equal(tt.xs, given) {
				t.Errorf("quantile changed its argument: got %v, want %v", tt.xs, given)
			}
		})
	}
	if got := quantile(nil, 0.5); !math.IsNaN(got) {
		t.Errorf("quantile of nothing: got %v, want NaN", got)
	}
}

func TestPaired_ComparesWithinARound(t *testing.T) {
	tests := []struct {
		name   string
		reason string
		xs, ys []float64
		want   summary
	}{
		{"drift", "interference that affects both cancels out", []float64{11, 111, 1011}, []float64{1, 101, 1001}, summary{10, 10, 10}},
		{"ragged", "runs without a partner don't count", []float64{5, 6, 900}, []float64{4, 5}, summary{1, 1, 1}},
		{"sign", "less is negative", []float64{1}, []float64{3}, summary{-2, -2, -2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := paired(tt.xs, tt.ys); got != tt.want {
				t.Errorf("paired(%v, %v): got %v, want %v: %s", tt.xs, tt.ys, got, tt.want, tt.reason)
			}
		})
	}
}
