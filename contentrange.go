package httpretry

import (
	"net/http"
	"strconv"
	"strings"
)

// A byteRange is a Content-Range in bytes. A negative total is unknown.
type byteRange struct{ first, last, total int64 }

// partOf returns which part of its representation resp holds. It is false for
// several parts, for a Content-Range that is missing or malformed, and for one
// of another length than resp.
func partOf(resp *http.Response) (byteRange, bool) {
	values := resp.Header["Content-Range"]
	if len(values) != 1 || isMultipart(resp.Header) {
		return byteRange{}, false
	}
	r, ok := parseContentRange(values[0])
	return r, ok && (resp.ContentLength < 0 || resp.ContentLength == r.last+1-r.first)
}

func isMultipart(h http.Header) bool {
	mediaType, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(mediaType), "multipart/byteranges")
}

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

// parsePosition reads digits, and nothing else that strconv would take. The
// largest number is left out, so that the one after it can be computed.
func parsePosition(s string) (int64, bool) {
	if strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n+1 > 0
}
