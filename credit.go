package httpretry

import "time"

// A credit is the number of attempts that may be sent faster than the rate, because
// the server's quota has grown while nothing was sent. A token bucket that holds only a
// few attempts is full soon, and gives less.
type credit struct {
	most    float64 // that the server gives; infinite: not known
	given   float64 // after the last opening
	left    float64 // of it
	usedAt  time.Time
	refused bool // nearly all of it
}

// faster is the factor of the rate while there is credit, and creditPart the part of
// an attempt that this uses.
const (
	creditPart = 0.2
	faster     = 1 / (1 - creditPart)
)

// give begins a period with a credit of n attempts, or as many as the server gives.
func (c *credit) give(n float64) {
	if n = min(n, c.most); n < 1 {
		n = 0
	}
	c.given, c.left, c.refused = n, n, false
}

// use reports whether the attempt after the one sent at now may be sent faster.
func (c *credit) use(now time.Time) bool {
	if c.left <= 0 {
		return false
	}
	c.left -= creditPart
	c.usedAt = now
	return true
}

// refuse notes that an attempt was refused which was sent at sent, when attempts were
// spaced by gap. If most of a larger credit was used before, it was the rate that was
// too high.
func (c *credit) refuse(sent time.Time, gap time.Duration) {
	c.refused = c.given-c.left < c.given/4 && sent.Sub(c.usedAt) <= gap
}

// learn ends a period.
func (c *credit) learn() {
	switch {
	case c.refused:
		c.most = (c.given - c.left) / 2
	case c.given > 0 && c.left <= 0:
		c.most = max(c.most, 1.2*c.given)
	}
}
