package inference

import (
	"math"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	// maxFieldBytes limits the length of a RateLimit field that is parsed. Real
	// ones have less than 200 bytes.
	maxFieldBytes = 4 << 10

	// maxFields limits the number of fields of a header that is searched for
	// limits. Real ones have less than 100.
	maxFields = 1000
)

// limitReset returns the longest time until an exhausted rate limit resets,
// according to the response header.
func limitReset(h http.Header) (longest time.Duration) {
	if len(h) > maxFields {
		return 0
	}
	for name := range h {
		if unit, ok := strings.CutPrefix(name, "X-Ratelimit-Reset-"); ok {
			if wait, ok := parseWait(h.Get(name)); ok && isZero(h.Get("X-Ratelimit-Remaining-"+unit)) {
				longest = max(longest, wait)
			}
		}
		limit, ok := strings.CutSuffix(name, "-Reset")
		if ok && strings.HasPrefix(limit, "Anthropic-Ratelimit-") && isZero(h.Get(limit+"-Remaining")) {
			longest = max(longest, untilTime(h, h.Get(name)))
		}
	}
	for _, limit := range []string{"X-Ratelimit", "Ratelimit"} {
		if isZero(h.Get(limit + "-Remaining")) {
			longest = max(longest, untilReset(h, h.Get(limit+"-Reset")))
		}
	}
	return max(longest, draftReset(h.Values("Ratelimit")))
}

// scarceReset returns the time until the reset of the limit that a 429 is about,
// although something remains of it: that of the unit which errs name, otherwise
// the one with the smallest share remaining. If there is only one limit, and its size is
// not told, it is that one, even if what remains is not told either.
func scarceReset(h http.Header, errs []apiError) (wait time.Duration) {
	if len(h) > maxFields {
		return 0
	}
	least, named := 1.0, false // of the limit in wait
	units, only := 0, time.Duration(0)
	for name := range h {
		if unit, ok := strings.CutPrefix(name, "X-Ratelimit-Remaining-"); ok && h.Get("X-Ratelimit-Reset-"+unit) == "" {
			units++
		}
		unit, ok := strings.CutPrefix(name, "X-Ratelimit-Reset-")
		if !ok {
			continue
		}
		reset, ok := parseWait(h.Get(name))
		units++
		remaining := strings.TrimSpace(h.Get("X-Ratelimit-Remaining-" + unit))
		n, err := strconv.Atoi(remaining)
		if ok && (remaining == "" || err == nil && n > 0) && h.Get("X-Ratelimit-Limit-"+unit) == "" {
			only = reset
		}
		share := shareOf(h.Get("X-Ratelimit-Remaining-"+unit), h.Get("X-Ratelimit-Limit-"+unit))
		isNamed := namesUnit(errs, unit)
		switch {
		case !ok || named && !isNamed:
		case isNamed && !named, !named && share < least:
			wait, least, named = reset, share, isNamed
		case isNamed, share == least && share < 1:
			wait = max(wait, reset) // since the order of a map is random
		}
	}
	if units == 1 && wait == 0 {
		return only
	}
	return wait
}

// shareOf returns the quotient of two numbers, or 1 if that is not a share.
func shareOf(remaining, limit string) float64 {
	r, err := strconv.ParseFloat(strings.TrimSpace(remaining), 64)
	l, err2 := strconv.ParseFloat(strings.TrimSpace(limit), 64)
	if share := r / l; err == nil && err2 == nil && share >= 0 && share < 1 {
		return share
	}
	return 1
}

// namesUnit reports whether an error is about a limit of that unit, such as
// "Tokens" or "Tokens-Minute".
func namesUnit(errs []apiError, unit string) bool {
	word, _, _ := strings.Cut(strings.ToLower(unit), "-")
	for _, e := range errs {
		if string(e.Type) == word || strings.Contains(strings.ToLower(e.Message), word+" per ") {
			return true
		}
	}
	return false
}

func isZero(remaining string) bool {
	n, err := strconv.Atoi(strings.TrimSpace(remaining))
	return err == nil && n == 0
}

// untilTime returns the time until an RFC 3339 timestamp, by the Date in h if
// there is one.
func untilTime(h http.Header, value string) time.Duration {
	at, err := time.Parse(time.RFC3339, strings.TrimSpace(value))
	if err != nil {
		return 0
	}
	return at.Sub(now(h)) // saturates
}

// untilReset returns the time until value: a number of seconds, or if that is
// above 1e9 a Unix time in seconds, or above 1e12 in milliseconds.
func untilReset(h http.Header, value string) time.Duration {
	const epoch, epochMilli = 1e9, 1e12
	n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
	switch {
	case err != nil || n < 0:
		return 0
	case n > epochMilli:
		return max(time.UnixMilli(n).Sub(now(h)), 0)
	case n > epoch:
		return max(time.Unix(n, 0).Sub(now(h)), 0)
	}
	return time.Duration(n) * time.Second
}

// now returns the time by the server's clock if h has a Date, so that the
// client's clock may be wrong.
func now(h http.Header) time.Time {
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		return date
	}
	return time.Now()
}

var (
	waitForm   = regexp.MustCompile(`^(?:[0-9]+(?:\.[0-9]*)?(?:ns|us|µs|ms|s|m|h))+$`)
	numberForm = regexp.MustCompile(`^[0-9]+(?:\.[0-9]*)?$`)
)

// parseWait parses an unsigned duration in the format of [time.ParseDuration],
// or a number of seconds. Values that overflow yield the largest Duration.
func parseWait(s string) (time.Duration, bool) {
	const maxBytes = 64 // the longest Duration has 25
	s = strings.TrimSpace(s[:min(len(s), maxBytes+1)])
	if len(s) > maxBytes {
		return 0, false
	}
	if numberForm.MatchString(s) {
		s += "s"
	}
	if !waitForm.MatchString(s) {
		return 0, false
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return math.MaxInt64, true
	}
	return d, true
}

// draftReset returns the largest t among the items with r=0 in the lines of a
// RateLimit field (draft-ietf-httpapi-ratelimit-headers). A field that is
// malformed or too long is ignored, as RFC 9651, section 4.2, requires.
func draftReset(lines []string) (longest time.Duration) {
	size := 0
	for _, line := range lines {
		if size += len(line); size > maxFieldBytes {
			return 0
		}
	}
	p := fieldParser{rest: strings.Trim(strings.Join(lines, ","), " ")}
	for p.rest != "" {
		params, ok := p.item()
		if !ok {
			return 0
		}
		if isZero(params["r"]) {
			longest = max(longest, seconds(params["t"]))
		}
		p.skip(" \t")
		if p.rest == "" {
			return longest
		}
		if !p.cut(",") {
			return 0
		}
		if p.skip(" \t"); p.rest == "" {
			return 0 // RFC 9651, section 4.2.1: a trailing comma
		}
	}
	return longest
}

// seconds parses a number of seconds, returning 0 if it is invalid. Values that
// overflow yield the largest Duration.
func seconds(s string) time.Duration {
	n, _ := strconv.ParseInt(s, 10, 64)
	if n > math.MaxInt64/int64(time.Second) {
		return math.MaxInt64
	}
	return time.Duration(max(n, 0)) * time.Second
}

// A fieldParser parses a list of items with parameters (RFC 9651, sections 3.1
// and 3.3), whose items are strings or tokens, in one pass.
type fieldParser struct{ rest string }

const (
	lower     = "abcdefghijklmnopqrstuvwxyz"
	alpha     = lower + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	decimal   = "0123456789"
	keyChar   = lower + decimal + "_-.*"
	tokenChar = alpha + decimal + "!#$%&'*+-.^_`|~:/"
	base64    = alpha + decimal + "+/="
)

// item parses a string or token and its parameters, of which the last counts if
// a name is repeated.
func (p *fieldParser) item() (params map[string]string, ok bool) {
	if p.first() == `"` {
		ok = p.cutString()
	} else {
		ok = p.token() != ""
	}
	if !ok {
		return nil, false
	}
	params = make(map[string]string)
	for p.cut(";") {
		p.skip(" ")
		if !strings.ContainsAny(p.first(), lower+"*") {
			return nil, false
		}
		name, value := p.skip(keyChar), ""
		if p.cut("=") {
			if value, ok = p.value(); !ok {
				return nil, false
			}
		}
		params[name] = value
	}
	return params, true
}

// value parses a bare item, and returns it as it was written.
func (p *fieldParser) value() (value string, ok bool) {
	before := p.rest
	switch p.first() {
	case `"`:
		ok = p.cutString()
	case ":":
		p.cut(":")
		p.skip(base64)
		ok = p.cut(":")
	case "?":
		ok = p.cut("?0") || p.cut("?1")
	case "-", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9":
		ok = p.cutNumber()
	default:
		ok = p.token() != ""
	}
	return before[:len(before)-len(p.rest)], ok
}

// cutNumber removes an integer or decimal (RFC 9651, sections 3.3.1 and 3.3.2).
func (p *fieldParser) cutNumber() bool {
	p.cut("-")
	whole := len(p.skip(decimal))
	if !p.cut(".") {
		return whole >= 1 && whole <= 15
	}
	fraction := len(p.skip(decimal))
	return whole >= 1 && whole <= 12 && fraction >= 1 && fraction <= 3
}

// cutString removes a string (RFC 9651, section 3.3.3).
func (p *fieldParser) cutString() bool {
	if !p.cut(`"`) {
		return false
	}
	for i := 0; i < len(p.rest); i++ {
		switch c := p.rest[i]; {
		case c == '"':
			p.rest = p.rest[i+1:]
			return true
		case c == '\\':
			if i++; i == len(p.rest) || p.rest[i] != '"' && p.rest[i] != '\\' {
				return false
			}
		case c < ' ' || c > '~':
			return false
		}
	}
	return false
}

// token removes a token (RFC 9651, section 3.3.4), and returns "" if there is
// none.
func (p *fieldParser) token() string {
	if !strings.ContainsAny(p.first(), alpha+"*") {
		return ""
	}
	return p.skip(tokenChar)
}

func (p *fieldParser) first() string { return p.rest[:min(1, len(p.rest))] }

// cut removes prefix, and reports whether it was there.
func (p *fieldParser) cut(prefix string) (found bool) {
	p.rest, found = strings.CutPrefix(p.rest, prefix)
	return found
}

// skip removes and returns the characters at the start that are in chars.
func (p *fieldParser) skip(chars string) (skipped string) {
	rest := strings.TrimLeft(p.rest, chars)
	skipped, p.rest = p.rest[:len(p.rest)-len(rest)], rest
	return skipped
}
