package httpretry

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// RetryAfter returns how long resp asks its client to wait, and whether it
// asks at all. It reads, the first that is well-formed:
//
//   - retry-after-ms and x-ms-retry-after-ms, in milliseconds, as OpenAI and
//     Azure send them beside a Retry-After that they rounded up;
//   - Retry-After (RFC 9110, section 10.2.3), in seconds, also with a decimal
//     fraction, or as a date in any of the three forms of section 5.6.7.
//
// A date is measured against the response's own Date, so that a client whose
// clock is wrong waits no longer or shorter for it; without a Date, against the
// client's clock. A date that has passed is a wait of 0. A number too large for
// a Duration is the largest Duration.
func RetryAfter(resp *http.Response) (time.Duration, bool) {
	for _, name := range [...]string{"Retry-After-Ms", "X-Ms-Retry-After-Ms"} {
		if d, ok := parseDecimal(resp.Header.Get(name), time.Millisecond); ok {
			return d, true
		}
	}
	value := strings.TrimSpace(resp.Header.Get("Retry-After"))
	if d, ok := parseDecimal(value, time.Second); ok {
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

// parseDecimal reads digits with an optional fraction. strconv alone would
// also take signs, exponents, hexadecimal, Inf and NaN.
func parseDecimal(s string, unit time.Duration) (time.Duration, bool) {
	s = strings.TrimSpace(s)
	if s == "" || strings.Trim(s, "0123456789.") != "" {
		return 0, false
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil && !math.IsInf(n, 1) { // out of range is +Inf, and a wish all the same
		return 0, false
	}
	return saturate(n * float64(unit)), true
}
