package httpretry

import (
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// RetryAfter returns how long resp asks the client to wait, and reports whether
// it asks at all. It uses the first of these headers that is well-formed:
//
//   - retry-after-ms and x-ms-retry-after-ms, in milliseconds, which OpenAI and
//     Azure send alongside a rounded-up Retry-After;
//   - Retry-After (RFC 9110, section 10.2.3), as a number of seconds, possibly
//     fractional, or a date in any of the forms of section 5.6.7;
//   - X-RateLimit-Reset and RateLimit-Reset, in the same forms, of a 403, 429 or
//     503 whose X-RateLimit-Remaining or RateLimit-Remaining, respectively, is 0.
//
// In Retry-After and the resets, a number above 10⁹ is a date in seconds since
// 1970, and one above 10¹² a date in milliseconds. A date is compared with the
// Date header of the response or, without one, with the client's clock. A date
// in the past yields 0. A number that overflows a Duration yields the largest
// Duration.
//
// If a header has several values, in one line or in several, RetryAfter returns
// the longest of them and ignores those that are malformed. It also returns the
// longer of two resets. A limit with several values of Remaining is exhausted
// only if each of them is 0.
//
// The status of resp is considered only for the resets.
func RetryAfter(resp *http.Response) (time.Duration, bool) {
	h := resp.Header
	for _, values := range [...][]string{h["Retry-After-Ms"], h["X-Ms-Retry-After-Ms"]} {
		if d, ok := longest(values, func(s string) (time.Duration, bool) { return parseDecimal(s, "ms") }); ok {
			return d, true
		}
	}
	if d, ok := longestWait(h, "Retry-After"); ok {
		return d, true
	}
	switch resp.StatusCode {
	case http.StatusForbidden, http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return limitReset(h)
	}
	// The last request that a limit allows has a reset and nothing remaining, too.
	return 0, false
}

// limitReset returns the longest time until an exhausted limit is reset, and
// reports whether there is one.
func limitReset(h http.Header) (wait time.Duration, found bool) {
	for _, limit := range [...]struct{ remaining, reset string }{
		{"X-Ratelimit-Remaining", "X-Ratelimit-Reset"},
		{"Ratelimit-Remaining", "Ratelimit-Reset"},
	} {
		if !isZero(h[limit.remaining]) {
			continue
		}
		if d, ok := longestWait(h, limit.reset); ok {
			wait, found = max(wait, d), true
		}
	}
	return wait, found
}

// isZero reports whether there are values and each of them is 0.
func isZero(values []string) bool {
	for _, value := range values {
		if !strings.Contains(value, "0") || strings.Trim(value, "0, \t") != "" {
			return false
		}
	}
	return len(values) > 0
}

// longestWait returns the longest wait that the named header asks for, and
// reports whether it asks for one.
func longestWait(h http.Header, name string) (time.Duration, bool) {
	values := h[name]
	if len(values) == 0 {
		return 0, false
	}
	now, ok := parseDate(h.Get("Date"))
	if !ok {
		now = time.Now()
	}
	return longest(values, func(s string) (time.Duration, bool) { return parseWait(s, now) })
}

// longest returns the longest of the durations that parse finds in values.
//
// RFC 9110, section 5.2: a proxy may combine the lines of a repeated header into
// one, separated by commas. Two of the date forms have a comma too.
func longest(values []string, parse func(string) (time.Duration, bool)) (d time.Duration, found bool) {
	members := 0
	for _, value := range values {
		previous := 0
		for start := 0; start <= len(value); {
			// A header can have megabytes. Servers send one or two values.
			if members++; members > 100 {
				return d, found
			}
			end := len(value)
			if i := strings.IndexByte(value[start:], ','); i >= 0 {
				end = start + i
			}
			member, ok := parse(value[start:end])
			if !ok && previous < start {
				member, ok = parse(value[previous:end])
			}
			if ok {
				d, found = max(d, member), true
			}
			previous, start = start, end+1
		}
	}
	return d, found
}

// parseWait parses a single value of Retry-After or of a reset.
func parseWait(s string, now time.Time) (time.Duration, bool) {
	// A number of ten digits is a date from 2001 to 2286, because as a wait it
	// would be more than 30 years.
	const year2001 = 1e9 * time.Second
	if ms, ok := parseDecimal(s, "ms"); ok && ms > year2001 {
		return untilEpoch(ms, now), true
	}
	switch d, ok := parseDecimal(s, "s"); {
	case ok && d > year2001:
		return untilEpoch(d, now), true
	case ok:
		return d, true
	}
	at, ok := parseDate(s)
	if !ok {
		return 0, false
	}
	return max(at.Sub(now), 0), true
}

// untilEpoch returns the time from now to a date, given as the time since 1970.
func untilEpoch(date time.Duration, now time.Time) time.Duration {
	if date == math.MaxInt64 { // or later
		return date
	}
	return max(time.Unix(0, int64(date)).Sub(now), 0)
}

// parseDate parses a date in any of the forms of RFC 9110, section 5.6.7.
func parseDate(s string) (time.Time, bool) {
	const longestForm = len("Wednesday, 09-Nov-94 08:49:37 GMT")
	s = strings.TrimSpace(s)
	if len(s) > longestForm {
		return time.Time{}, false
	}
	t, err := http.ParseTime(s)
	if err == nil {
		return t, true
	}
	// Package time rejects the leap second 60. A minute must precede it: ":60"
	// may also be an invalid minute.
	i := strings.LastIndex(s, ":60")
	if i < len(":59") || s[i-len(":59")] != ':' {
		return time.Time{}, false
	}
	t, err = http.ParseTime(s[:i] + ":59" + s[i+len(":60"):])
	if err != nil {
		return time.Time{}, false
	}
	return t.Add(time.Second), true
}

// parseDecimal parses an unsigned decimal number of units, as named by
// [time.ParseDuration]. Unlike the standard library's parsers, it rejects signs,
// exponents, hexadecimal, Inf and NaN.
func parseDecimal(s, unit string) (time.Duration, bool) {
	s = strings.TrimSpace(s)
	if s == "" || strings.Trim(s, "0123456789.") != "" {
		return 0, false
	}
	if d, err := time.ParseDuration(s + unit); err == nil {
		return d, true
	}
	// Either s is out of range, which still asks for a wait, or it is not a
	// number.
	_, err := strconv.ParseFloat(s, 64)
	return math.MaxInt64, err == nil || errors.Is(err, strconv.ErrRange)
}
