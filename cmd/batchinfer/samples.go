package main

import "time"

// A sample describes the run at one time.
type sample struct {
	Seconds          float64 `json:"seconds"` // since the start
	Done             int     `json:"done"`    // requests of this run
	AnswersPerSecond float64 `json:"answers_per_second"`
	TokensPerSecond  float64 `json:"tokens_per_second"`
	Limit            int     `json:"limit"`     // most requests in flight
	InFlight         int     `json:"in_flight"` // attempts under way
	Waiting          int     `json:"waiting"`   // attempts that wait
	Retries          int     `json:"retries"`   // so far
}

// samples describe a run from its start to now, in at most maxSamples. When there
// are as many, every second one is removed, and later ones are taken half as often.
type samples struct {
	all      []sample
	interval time.Duration
	next     time.Time
	last     sample // for the rates
	tokens   int    // at last
	answered int    // at last
}

const maxSamples = 600

func (s *samples) take(now time.Time, of *summary) {
	if s.interval == 0 {
		s.interval, s.next = time.Second, of.start.Add(time.Second)
	}
	if now.Before(s.next) {
		return
	}
	s.next = now.Add(s.interval)
	t := of.traffic()
	retries, _ := of.live.now()
	at := now.Sub(of.start).Seconds()
	span := at - s.last.Seconds
	s.last = sample{
		Seconds: at, Done: of.done(),
		AnswersPerSecond: float64(of.answered-s.answered) / span, TokensPerSecond: float64(of.tokens-s.tokens) / span,
		Limit: t.limit, InFlight: t.flying, Waiting: t.waiting, Retries: retries,
	}
	s.tokens, s.answered = of.tokens, of.answered
	s.all = append(s.all, s.last)
	if len(s.all) == maxSamples {
		for i := range maxSamples / 2 {
			s.all[i] = s.all[2*i+1]
		}
		s.all = s.all[:maxSamples/2]
		s.interval *= 2
	}
}
