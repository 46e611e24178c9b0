package httpretry

import "time"

// A credit is a number of attempts that may be sent faster than the rate, because the
// server's quota grew while nothing was sent. A token bucket that holds few tokens is
// soon full and grants less.
type credit struct {
	most    float64 // that the server gives; infinite: not known
	given   float64 // after the last opening
	left    float64 // of given
	usedAt  time.Time
	refused bool // an attempt that used it was refused
}

// While there is credit, attempts are sent faster times as fast, and each uses
// creditPart of an attempt.
const (
	creditPart = 0.2
	faster     = 1 / (1 - creditPart)
)

// give begins a period with a credit of n attempts, at most c.most. A credit of less
// than one attempt is none.
func (c *credit) give(n float64) {
	if n = min(n, c.most); !(n >= 1) { // NaN, if no rate is known
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

// refuse notes a refusal of the attempt sent at sent. spacing is the time between
// attempts at the rate. A refusal while the credit is used, or of the attempt after it,
// is due to the credit.
func (c *credit) refuse(sent time.Time, spacing time.Duration) {
	c.refused = c.given > 0 && sent.Sub(c.usedAt) <= spacing
}

// learn adjusts most at the end of a period.
func (c *credit) learn() {
	switch {
	case c.refused:
		c.most = (c.given - c.left) / 2
	case c.given == 0:
		c.most *= 1.2
	case c.left <= 0:
		c.most = max(c.most, 1.2*c.given)
	}
}
