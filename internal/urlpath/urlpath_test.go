package urlpath_test

import (
	"net/url"
	pathpkg "path"
	"strings"
	"testing"

	"github.com/httpretry/httpretry/internal/urlpath"
)

func TestParse_RejectsPathsElsewhere(t *testing.T) {
	for _, tc := range []struct{ name, path, want string }{
		{"nothing", "", "must be a path that begins with a slash"},
		{"no slash", "v1/embeddings", "must be a path that begins with a slash"},
		{"another host", "https://other.test/v1", "must be a path that begins with a slash"},
		{"fragment", "/v1#a", "must not have a fragment"},
		{"blank in the path", "/v1/a b", "must have %20 in place of a blank"},
		{"blank in the query", "/v1?q=a b", "must have %20 in place of a blank"},
		{"broken escape", "/v1/%zz", "must be a path, with or without a query"},
		{"line break", "/v1\r\nX: a", "must be a path, with or without a query"},
		{"above", "/v1/../..", `must not have the segments "." and ".."`},
		{"here", "/v1/./a", `must not have the segments "." and ".."`},
		{"above, escaped", "/%2e%2E/a", `must not have the segments "." and ".."`},
		{"above, with a backslash", `/v1\..\a`, `must not have the segments "." and ".."`},
		{"above, with an escaped slash", "/v1%2F..%2fa", `must not have the segments "." and ".."`},
		{"above, with a parameter", "/v1/..;a=b/a", `must not have the segments "." and ".."`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got, err := urlpath.Parse(tc.path); err == nil || err.Error() != tc.want {
				t.Errorf("got %v, %v, want the error %s", got, err, tc.want)
			}
		})
	}
}

func TestJoin(t *testing.T) {
	for _, tc := range []struct{ base, path, want string }{
		{"https://me:pw@a/base/", "/x?q=1", "https://me:pw@a/base/x?q=1"},
		{"https://a/b%2Fse?v=1", "/x%2Fy?w=2", "https://a/b%2Fse/x%2Fy?v=1&w=2"},
		{"https://a/base?v=1", "http://gateway", "https://a/base?v=1"},
		{"https://a", "http://me@gateway/x#top", "https://a/x#top"},
		{"https://a/base", "//gateway//x", "https://a/base//x"},
		{"https://a", "x", "https://a/x"},
	} {
		if got := urlpath.Join(parse(t, tc.base), parse(t, tc.path)).String(); got != tc.want {
			t.Errorf("Join(%s, %s): got %s, want %s", tc.base, tc.path, got, tc.want)
		}
	}
}

func TestJoin_ModifiesNothing(t *testing.T) {
	const base, path = "https://me:pw@a/base?v=1", "http://gateway/x?w=2"
	b, p := parse(t, base), parse(t, path)
	urlpath.Join(b, p)
	if b.String() != base || p.String() != path {
		t.Errorf("the base became %s and the path %s", b, p)
	}
}

// OPTIONS * has no path.
func TestJoin_ServerItself(t *testing.T) {
	if got := urlpath.Join(parse(t, "http://a/base"), &url.URL{Path: "*"}); got.Path != "*" || got.Host != "a" {
		t.Errorf("got %v, want the path * at a", got)
	}
}

func parse(t testing.TB, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestBelow(t *testing.T) {
	const none = "not below"
	for _, tc := range []struct{ base, path, want string }{
		{"", "", ""},
		{"", "/x", "/x"},
		{"/", "/x/", "/x/"},
		{"/base", "/base", ""},
		{"/base/", "/base/x", "/x"},
		{"/base", "/base/", "/"},
		{"/base", "/base//x", "//x"},
		{"/base", "/b%61se/x%2Fy", "/x%2Fy"},
		{"/b%61se", "/base/%61", "/%61"},
		{"/b%2Fse", "/b%2fse/x", "/x"},
		{"/base", "/base/...", "/..."},
		{"/base", "/base/%252e%252e/x", "/%252e%252e/x"},

		{"/base", "", none},
		{"/base", "/", none},
		{"/base", "/basement", none},
		{"/base", "/BASE/x", none},
		{"/base", "//base/x", none},
		{"/b%2Fse", "/b/se/x", none},
		{"/b/se", "/b%2Fse/x", none},
		{"/base", "/base%2Fx", none},
		{"/base", "/base/../secret", none},
		{"/base", "/base/%2e%2E/secret", none},
		{"/base", "/base/.%2e/base/x", none},
		{"/base", "/base/./x", none},
		{"/base", "/base/x%2f..%2F..%2fsecret", none},
		{"/base", `/base/..%5Csecret`, none},
		{"/base", "/base/..;/secret", none},
		{"", "/../x", none},
	} {
		got, ok := urlpath.Below(parse(t, "http://a"+tc.base), parse(t, "http://a"+tc.path))
		if !ok {
			got = none
		}
		if got != tc.want {
			t.Errorf("%q below %q: got %q, want %q", tc.path, tc.base, got, tc.want)
		}
	}
}

// FuzzBelow checks that the path that Below returns leads from the base to the URL,
// and that a server which resolves dots finds nothing above the base.
func FuzzBelow(f *testing.F) {
	for _, path := range []string{"/base/x", "/base/%2e%2e/secret", "/basement", "/base%2f..", "/base//..", "/b%61se", `/base/..\x`, "/base/..;/x"} {
		f.Add("/base/", path)
	}
	f.Fuzz(func(t *testing.T, rawBase, rawPath string) {
		base, err := url.Parse("http://a/" + rawBase)
		u, err2 := url.Parse("http://a/" + rawPath)
		if err != nil || err2 != nil {
			return
		}
		path, ok := urlpath.Below(base, u)
		if !ok {
			return
		}
		joined := urlpath.Join(base, &url.URL{Path: unescape(t, path), RawPath: path})
		if joined.Path != unescape(t, strings.TrimRight(base.EscapedPath(), "/"))+unescape(t, path) || joined.Path != u.Path {
			t.Errorf("%q is below %q by %q, which leads to %q", u, base, path, joined)
		}
		resolved := pathpkg.Clean("/base" + strings.ReplaceAll(unescape(t, path), `\`, "/"))
		if resolved != "/base" && !strings.HasPrefix(resolved, "/base/") {
			t.Errorf("%q is below %q by %q, which leads to %q", u, base, path, resolved)
		}
	})
}

func unescape(t *testing.T, path string) string {
	t.Helper()
	plain, err := url.PathUnescape(path)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

// FuzzJoin checks that the result has the scheme, userinfo and host of the base, and
// that the path follows the base's.
func FuzzJoin(f *testing.F) {
	for _, path := range []string{"/v1/embeddings", "//other.test/v1", "/@other.test", "/a%2Fb?c=d", "/:80/é b", `/\other.test`, "/?a#b", "/%00"} {
		f.Add("https://me:pw@gateway.test/base%2Fpath/?key=1", path)
	}
	f.Fuzz(func(t *testing.T, rawBase, rawPath string) {
		base, err := url.Parse(rawBase)
		if err != nil || base.Host == "" || base.Scheme != "https" || base.Opaque != "" {
			return
		}
		path, err := urlpath.Parse(rawPath)
		if err != nil {
			return
		}
		joined := urlpath.Join(base, path).String()
		got, err := url.Parse(joined)
		if err != nil {
			t.Fatalf("%q and %q: got %q: %v", rawBase, rawPath, joined, err)
		}
		if got.Scheme != base.Scheme || got.Host != base.Host || got.User.String() != base.User.String() {
			t.Errorf("%q and %q: got %q, want the host of the base", rawBase, rawPath, joined)
		}
		if want := path.EscapedPath(); len(got.EscapedPath()) < len(want) || got.EscapedPath()[len(got.EscapedPath())-len(want):] != want {
			t.Errorf("%q and %q: got %q, want a path that ends in %q", rawBase, rawPath, joined, want)
		}
	})
}
