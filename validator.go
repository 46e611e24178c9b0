package httpretry

import (
	"net/http"
	"strings"
	"time"
)

// A validator tells representations of one resource apart.
type validator struct{ name, value string }

// strongValidator returns a validator that differs whenever a byte does.
func strongValidator(h http.Header) (validator, bool) {
	if tags := h["Etag"]; len(tags) > 0 {
		// If-Range takes no weak tag and, beside one, no date (RFC 9110,
		// section 13.1.5).
		return validator{"Etag", tags[0]}, len(tags) == 1 && isStrongTag(tags[0])
	}
	const name = "Last-Modified"
	if len(h[name]) != 1 || len(h["Date"]) != 1 {
		return validator{}, false
	}
	// A date counts in full seconds. It is strong if the representation had
	// not been changed for a while when it was sent (RFC 9110, section
	// 8.8.2.2): for a minute, in case the two clocks are not the same.
	modified, err := http.ParseTime(h[name][0])
	if err != nil {
		return validator{}, false
	}
	date, err := http.ParseTime(h["Date"][0])
	return validator{name, h[name][0]}, err == nil && date.Sub(modified) >= time.Minute
}

// isStrongTag reports whether s is one entity tag, and not a weak one (RFC
// 9110, section 8.8.3).
func isStrongTag(s string) bool {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return false
	}
	return !strings.ContainsFunc(s[1:len(s)-1], func(c rune) bool { return c <= ' ' || c == '"' || c == 0x7f })
}

// matches reports whether a 206 with header h is of the same representation.
// It must repeat an ETag; it may leave out the date that was in If-Range (RFC
// 9110, section 15.3.7).
func (v validator) matches(h http.Header) bool {
	values := h[v.name]
	if len(values) == 0 {
		return v.name != "Etag" && len(h["Etag"]) == 0
	}
	return len(values) == 1 && values[0] == v.value
}
