package httpretry

import (
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// RetryAfter returns how long resp asks its client to wait, and whether it
// asks at all. It takes the first of these that is well-formed:
//
//   - retry-after-ms and x-ms-retry-after-ms, in milliseconds, as OpenAI and
//     Azure send them beside a Retry-After that they rounded up;
//   - Retry-After (RFC 9110, section 10.2.3), in seconds, also with a decimal
//     fraction, or as a date in any of the three forms of section 5.6.7.
//
// A date is measured against the response's own Date, so that a client whose
// clock is wrong waits just as long; without a Date, against the client's
// clock. A date that has passed is a wait of 0. A number too large for a Duration
// is the largest Duration.
func RetryAfter(resp *http.Response) (time.Duration, bool) {
	h := resp.Header
	for _, ms := range [...][]string{h["Retry-After-Ms"], h["X-Ms-Retry-After-Ms"]} {
		if len(ms) > 0 {
			if d, ok := parseDecimal(ms[0], "ms"); ok {
				return d, true
			}
		}
	}
	value := strings.TrimSpace(h.Get("Retry-After"))
	if value == "" {
		return 0, false
	}
	if d, ok := parseDecimal(value, "s"); ok {
		return d, true
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	now, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return max(at.Sub(now), 0), true
}

// parseDecimal reads digits with an optional fraction, of a unit that
// [time.ParseDuration] knows. The parsers of the standard library would also
// take signs, exponents, hexadecimal, Inf and NaN.
func parseDecimal(s, unit string) (time.Duration, bool) {
	s = strings.TrimSpace(s)
	if s == "" || strings.Trim(s, "0123456789.") != "" {
		return 0, false
	}
	if d, err := time.ParseDuration(s + unit); err == nil {
		return d, true
	}
	// It is out of range, and a wish all the same, unless it is no number.
	_, err := strconv.ParseFloat(s, 64)
	return math.MaxInt64, err == nil || errors.Is(err, strconv.ErrRange)
}
