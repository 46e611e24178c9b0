package httpretry

import (
	"net/http"
	"strconv"
	"strings"
)

// A byteRange is a Content-Range in bytes. A negative total is unknown.
type byteRange struct{ first, last, total int64 }

// partOf returns the part of its representation that resp holds. It reports false
// for several parts, for a Content-Range that is missing or malformed, and for
// one whose length is not that of resp.
func partOf(resp *http.Response) (byteRange, bool) {
	values := resp.Header["Content-Range"]
	if len(values) != 1 || isMultipart(resp.Header) {
		return byteRange{}, false
	}
	r, ok := parseContentRange(values[0])
	return r, ok && (resp.ContentLength < 0 || resp.ContentLength == r.last+1-r.first)
}

func isMultipart(h http.Header) bool { return hasMediaType(h, "multipart/byteranges") }

// parseContentRange reads "bytes first-last/total", where total may be "*"
// (RFC 9110, section 14.4).
func parseContentRange(s string) (byteRange, bool) {
	unit, s, _ := strings.Cut(s, " ")
	span, total, ok := strings.Cut(s, "/")
	if !ok || !strings.EqualFold(unit, "bytes") {
		return byteRange{}, false
	}
	first, last, _ := strings.Cut(span, "-")
	r := byteRange{total: -1}
	var okFirst, okLast bool
	r.first, okFirst = parsePosition(first)
	r.last, okLast = parsePosition(last)
	if total != "*" {
		r.total, ok = parsePosition(total)
	}
	if !ok || !okFirst || !okLast || r.last < r.first || r.total >= 0 && r.total <= r.last {
		return byteRange{}, false
	}
	return r, true
}

// parsePosition parses digits. Unlike strconv, it rejects a sign. It also rejects
// the largest int64, so that callers can add 1.
func parsePosition(s string) (int64, bool) {
	if strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n+1 > 0
}
