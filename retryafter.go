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
//     fractional, or a date in any of the forms of section 5.6.7.
//
// A Retry-After above 10⁹ is a date too, in seconds since 1970, or above 10¹² in
// milliseconds. A date is measured against the Date header of the response, so
// that the client's clock does not matter, or against that clock if there is
// none. A date in the past yields 0. A number that overflows a Duration yields
// the largest Duration.
//
// If a header has several values, in one line or in several, RetryAfter returns
// the longest of them and ignores those that are malformed.
//
// The status of resp is not considered. [DefaultClassifier] calls RetryAfter for
// 429 and 503, and for 408, 500, 502 and 504 too.
func RetryAfter(resp *http.Response) (time.Duration, bool) {
	h := resp.Header
	for _, values := range [...][]string{h["Retry-After-Ms"], h["X-Ms-Retry-After-Ms"]} {
		if d, ok := longest(values, func(s string) (time.Duration, bool) { return parseDecimal(s, "ms") }); ok {
			return d, true
		}
	}
	values := h["Retry-After"]
	if len(values) == 0 {
		return 0, false
	}
	now, ok := parseDate(h.Get("Date"))
	if !ok {
		now = time.Now()
	}
	return longest(values, func(s string) (time.Duration, bool) { return parseRetryAfter(s, now) })
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

// parseRetryAfter parses a single value of Retry-After.
func parseRetryAfter(s string, now time.Time) (time.Duration, bool) {
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
