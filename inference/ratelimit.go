package inference

import (
	"math"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// limitReset is how long it takes until the last of those limits is reset of
// which, as the headers tell, nothing remains.
func limitReset(resp *http.Response) (longest time.Duration) {
	h := resp.Header
	for name := range h {
		if unit, ok := strings.CutPrefix(name, "X-Ratelimit-Reset-"); ok {
			if wait, ok := parseWait(h.Get(name)); ok && isZero(h.Get("X-Ratelimit-Remaining-"+unit)) {
				longest = max(longest, wait)
			}
		}
		limit, ok := strings.CutSuffix(name, "-Reset")
		if ok && strings.HasPrefix(limit, "Anthropic-Ratelimit-") && isZero(h.Get(limit+"-Remaining")) {
			longest = max(longest, untilReset(resp, h.Get(name)))
		}
	}
	return max(longest, draftReset(strings.Join(h.Values("Ratelimit"), ", ")))
}

func isZero(remaining string) bool {
	n, err := strconv.Atoi(strings.TrimSpace(remaining))
	return err == nil && n == 0
}

// untilReset is how far a time in the form of RFC 3339 is ahead, by the
// server's clock if the response shows it.
func untilReset(resp *http.Response, value string) time.Duration {
	at, err := time.Parse(time.RFC3339, strings.TrimSpace(value))
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return at.Sub(now) // which stays within a Duration
}

var (
	waitForm   = regexp.MustCompile(`^(?:[0-9]+(?:\.[0-9]*)?(?:ns|us|µs|ms|s|m|h))+$`)
	numberForm = regexp.MustCompile(`^[0-9]+(?:\.[0-9]*)?$`)
)

// parseWait reads a duration as [time.Duration] is written, without a sign, or
// a number of seconds. What is too long for a Duration is the longest one.
func parseWait(s string) (time.Duration, bool) {
	s = strings.TrimSpace(s)
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

// The forms of a RateLimit field: a list of items with parameters (RFC 9651,
// sections 3.1, 3.1.2 and 3.3), of which the items are strings or tokens.
const (
	quotedForm = `"(?:[ !#-\[\]-~]|\\["\\])*"`
	tokenForm  = `[A-Za-z*][-!#$%&'*+.^_` + "`" + `|~:/0-9A-Za-z]*`
	valueForm  = `-?[0-9]{1,15}(?:\.[0-9]{1,3})?|:[A-Za-z0-9+/=]*:|\?[01]|` + quotedForm + `|` + tokenForm
	paramForm  = `; *([a-z*][-a-z0-9_.*]*)(?:=(` + valueForm + `))?`
	itemForm   = `(?:` + quotedForm + `|` + tokenForm + `)((?:` + paramForm + `)*)`
)

var (
	draftParam = regexp.MustCompile(paramForm)
	draftItem  = regexp.MustCompile(`^[ \t]*` + itemForm + `[ \t]*(?:,|$)`)
)

// draftReset is the longest t of the items with r=0 in a RateLimit field. A
// field that is malformed anywhere is ignored, as RFC 9651, section 4.2, asks.
func draftReset(field string) (longest time.Duration) {
	for field != "" {
		item := draftItem.FindStringSubmatch(field)
		if item == nil {
			return 0
		}
		rest, more := field[len(item[0]):], strings.HasSuffix(item[0], ",")
		if more && strings.Trim(rest, " \t") == "" {
			return 0 // a trailing comma
		}
		params := make(map[string]string)
		for _, p := range draftParam.FindAllStringSubmatch(item[1], -1) {
			params[p[1]] = p[2]
		}
		if isZero(params["r"]) {
			longest = max(longest, seconds(params["t"]))
		}
		field = rest
	}
	return longest
}

// seconds reads a number of whole seconds, 0 if it is none. What is too long
// for a Duration is the longest one.
func seconds(s string) time.Duration {
	n, _ := strconv.ParseInt(s, 10, 64)
	if n > math.MaxInt64/int64(time.Second) {
		return math.MaxInt64
	}
	return time.Duration(max(n, 0)) * time.Second
}
