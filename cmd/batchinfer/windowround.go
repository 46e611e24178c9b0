package main

import "time"

// A windowRound measures the answers of a period, at one limit of a window.
type windowRound struct {
	start     time.Time
	answers   int
	disturbed int     // answers whose duration does not show the limit; not measured
	paced     int     // answers that waited for one of several gateways
	lost      float64 // seconds of the whole limit, for lack of requests

	// Sums over the answers that are measured, of their durations in seconds and of
	// their tokens.
	measured, tokens, seconds                         float64
	tokensSquared, tokensTimesSeconds, secondsSquared float64
}

func (r *windowRound) add(took time.Duration, tokens int, e evidence) {
	r.answers++
	switch e {
	case paced:
		r.paced++
	case disturbed:
		r.disturbed++
		return
	}
	s, n := took.Seconds(), float64(tokens)
	r.measured++
	r.tokens += n
	r.seconds += s
	r.tokensSquared += n * n
	r.tokensTimesSeconds += n * s
	r.secondsSquared += s * s
}

// elapsed returns the seconds since the start.
func (r *windowRound) elapsed(now time.Time) float64 { return max(now.Sub(r.start).Seconds(), 1e-9) }

// throughput returns the tokens per second of one request in flight, or the answers if these
// have no number of tokens. By Little's law, that of the gateway is as many times larger as
// there are requests in flight. A count over the elapsed time would be less precise: it
// includes answers that were generated mostly before the round.
func (r *windowRound) throughput() float64 {
	n := r.tokens
	if n == 0 {
		n = r.measured
	}
	return n / max(r.seconds, 1e-9)
}

// variation returns how irregular the answers are: the variance of the difference between
// the tokens of an answer and those that throughput predicts for its duration, relative to
// the square of the mean number of tokens.
func (r *windowRound) variation() float64 {
	n, squared, product := r.tokens, r.tokensSquared, r.tokensTimesSeconds
	if n == 0 {
		n, squared, product = r.measured, r.measured, r.seconds
	}
	if n == 0 {
		return 0
	}
	mean := r.throughput()
	return (squared - 2*mean*product + mean*mean*r.secondsSquared) * r.measured / (n * n)
}

// few reports whether n answers are at most maxDisturbed of the round.
func (r *windowRound) few(n int) bool { return float64(n) <= maxDisturbed*float64(r.answers) }
