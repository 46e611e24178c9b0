package main

import "time"

// A windowRound counts the answers of a period, at one limit of a window.
type windowRound struct {
	start     time.Time
	answers   int
	tokens    int
	squares   float64 // sum of their squares
	disturbed int     // answers whose duration does not show the limit
	paced     int     // answers that waited for one of several gateways
	lost      float64 // seconds of the whole limit, for lack of requests
}

func (r *windowRound) add(tokens int, e evidence) {
	r.answers++
	r.tokens += tokens
	r.squares += float64(tokens) * float64(tokens)
	switch e {
	case paced:
		r.paced++
	case disturbed:
		r.disturbed++
	}
}

func (r *windowRound) seconds(now time.Time) float64 { return max(now.Sub(r.start).Seconds(), 1e-9) }

// throughput returns the tokens per second, or the answers if these have no number of
// tokens.
func (r *windowRound) throughput(now time.Time) float64 {
	if r.tokens == 0 {
		return float64(r.answers) / r.seconds(now)
	}
	return float64(r.tokens) / r.seconds(now)
}

// variation returns the variance of the tokens of an answer, relative to the square of
// their mean, or 0 if the answers have no number of tokens.
func (r *windowRound) variation() float64 {
	if r.tokens == 0 {
		return 0
	}
	mean := float64(r.tokens) / float64(r.answers)
	return r.squares/float64(r.answers)/(mean*mean) - 1
}

// few reports whether n answers are at most maxDisturbed of the round.
func (r *windowRound) few(n int) bool { return float64(n) <= maxDisturbed*float64(r.answers) }
