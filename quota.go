package httpretry

import (
	"math"
	"net/http"
	"strconv"
	"time"
)

// A quota is the number of attempts that the server will accept in the rest of the
// current window, as its responses state it. Some servers have no window. Their reset
// is the time when a bucket will be full again, or when the last request leaves a
// sliding window. Such a reset moves with each request, and is not used.
type quota struct {
	isWindow bool      // several responses had the same end
	end      time.Time // of the window
	seen     time.Time // the first response with this end
	left     float64   // attempts that the server will accept
	since    time.Time // when it said so
}

const (
	coarse     = 1500 * time.Millisecond // a reset is in whole seconds, rounded up or down
	leastSeen  = 2 * time.Second         // between responses with the same end
	leastReset = 4 * time.Second         // shorter windows are not used
)

// read reads the header of a response. The attempts in flight count as used.
func (q *quota) read(h http.Header, inFlight int, now time.Time) {
	left, reset, ok := quotaOf(h)
	if !ok {
		return
	}
	if end := now.Add(reset); end.Sub(q.end).Abs() > coarse {
		// The next window, unless the last one has not ended or this is short.
		q.isWindow = q.isWindow && now.Add(coarse).After(q.end) && reset > leastReset
		q.end, q.seen = end, now
	}
	if now.Sub(q.seen) > leastSeen && q.end.Sub(q.seen) > leastReset {
		q.isWindow = true
	}
	q.left, q.since = left-float64(inFlight), now
	if left == 0 {
		q.left = 0
	}
}

// exhaustedUntil returns the end of the window if nothing is left of the quota, and
// the zero Time otherwise.
func (q *quota) exhaustedUntil() time.Time {
	if q.isWindow && q.left == 0 {
		return q.end
	}
	return time.Time{}
}

// perSecond returns the rate that spreads the rest of the quota over the rest of the
// window, or +Inf if that is not known.
func (q *quota) perSecond(now time.Time) float64 {
	if !q.isWindow || !now.Before(q.end) {
		return math.Inf(1)
	}
	return max(q.left, 0.5) / max(q.end.Sub(q.since).Seconds(), 0.1)
}

// quotaOf returns the rest of a quota and the time until its reset, as stated in h.
func quotaOf(h http.Header) (left float64, reset time.Duration, ok bool) {
	for _, prefix := range [...]string{"X-Ratelimit-", "Ratelimit-"} {
		remaining := h[prefix+"Remaining"]
		if len(remaining) != 1 {
			continue // RFC 9110, section 5.3: several limits would have several values
		}
		left, err := strconv.ParseUint(remaining[0], 10, 32)
		reset, ok := longestWait(h, prefix+"Reset")
		if err == nil && ok {
			return float64(left), reset, true
		}
	}
	return 0, 0, false
}
