package main

import "time"

// A meter measures a rate over the last minute. Its zero value is ready to use.
type meter struct {
	start   time.Time // of the measurement
	seconds [meterSeconds]second
}

// meterSeconds is the number of seconds that a meter remembers.
const meterSeconds = 60

// A second has the sums of one second.
type second struct {
	number                    int // since the start
	requests, answers, tokens int
}

// add counts a request that ended. answers is 1 if it was answered, else 0.
func (m *meter) add(now time.Time, answers, tokens int) {
	if m.start.IsZero() {
		m.start = now
	}
	n := m.number(now)
	s := &m.seconds[n%meterSeconds]
	if s.number != n {
		*s = second{number: n}
	}
	s.requests++
	s.answers += answers
	s.tokens += tokens
}

func (m *meter) number(now time.Time) int { return int(now.Sub(m.start) / time.Second) }

// A rate has numbers per second.
type rate struct{ requests, answers, tokens float64 }

// rate returns the rate over the last minute, or the shorter time since the start.
func (m *meter) rate(now time.Time) (r rate) {
	if m.start.IsZero() {
		return r
	}
	n := m.number(now)
	for _, s := range m.seconds {
		if s.number > n-meterSeconds {
			r.requests += float64(s.requests)
			r.answers += float64(s.answers)
			r.tokens += float64(s.tokens)
		}
	}
	// The current second is not over.
	span := min(now.Sub(m.start), now.Sub(m.start)-time.Duration(n-meterSeconds+1)*time.Second)
	span = max(span, time.Second)
	r.requests /= span.Seconds()
	r.answers /= span.Seconds()
	r.tokens /= span.Seconds()
	return r
}
