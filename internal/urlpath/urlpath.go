// Package urlpath joins the path of a request, which is not trusted, to the URL of a
// server, and finds it again.
package urlpath

import (
	"errors"
	"net/url"
	"strings"
)

// Parse parses a path with an optional query, such as /v1/score?user=1. The path
// stays below that to which it is joined: it has no segments "." and "..". An error
// completes a sentence about the path, without quoting it.
func Parse(path string) (*url.URL, error) {
	switch {
	case !strings.HasPrefix(path, "/"):
		return nil, errors.New("must be a path that begins with a slash")
	case strings.Contains(path, "#"):
		return nil, errors.New("must not have a fragment")
	}
	u, err := url.ParseRequestURI(path)
	if err != nil {
		return nil, errors.New("must be a path, with or without a query")
	}
	if strings.Contains(path, " ") { // net/http would send one in a query as it stands
		return nil, errors.New("must have %20 in place of a blank")
	}
	if HasDots(u) {
		return nil, errors.New(`must not have the segments "." and ".."`)
	}
	return u, nil
}

// HasDots reports whether the path of u has a segment "." or "..", by which a server
// may leave the path that it follows. Some servers take a backslash, or an escaped
// slash, for a slash, and ignore the parameters of a segment, as in "..;a=b".
func HasDots(u *url.URL) bool {
	for segment := range strings.FieldsFuncSeq(u.Path, func(r rune) bool { return r == '/' || r == '\\' }) {
		if name, _, _ := strings.Cut(segment, ";"); name == "." || name == ".." {
			return true
		}
	}
	return false
}

// Below returns the path of u relative to that of base, with its escapes. It reports
// false if u is not below base. Segments are compared after they are decoded, and
// nothing with the segments "." and ".." is below, wherever it leads.
func Below(base, u *url.URL) (path string, ok bool) {
	path = u.EscapedPath()
	more := false
	for want := range strings.SplitSeq(strings.TrimRight(base.EscapedPath(), "/"), "/") {
		var segment string
		segment, path, more = strings.Cut(path, "/")
		if !sameSegment(segment, want) {
			return "", false
		}
	}
	if more {
		path = "/" + path
	}
	return path, !HasDots(u)
}

func sameSegment(a, b string) bool {
	a, _ = url.PathUnescape(a) // EscapedPath is always valid
	b, _ = url.PathUnescape(b)
	return a == b
}

// Join returns path with the scheme, userinfo and host of base, whose path and query
// precede its own. Escapes are preserved. The path *, of OPTIONS, is unchanged.
func Join(base, path *url.URL) *url.URL {
	u := *path
	u.Scheme, u.User, u.Host = base.Scheme, base.User, base.Host
	if path.Path != "*" {
		own := path.EscapedPath()
		if own != "" && own[0] != '/' {
			own = "/" + own
		}
		u.RawPath = strings.TrimRight(base.EscapedPath(), "/") + own
		u.Path, _ = url.PathUnescape(u.RawPath) // EscapedPath is always valid
	}
	u.RawQuery = base.RawQuery
	if base.RawQuery != "" && path.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += path.RawQuery
	return &u
}
