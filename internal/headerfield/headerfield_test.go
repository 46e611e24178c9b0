package headerfield_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/httpretry/httpretry/internal/headerfield"
)

func TestCheck(t *testing.T) {
	for _, tc := range []struct {
		name   string
		values []string
		want   string // "": valid
	}{
		{"X!#$%&'*+-.^_`|~09Az", []string{"\t é\xff", ""}, ""},
		{"Host", []string{"a"}, ""},
		{"X-Key", nil, ""},
		{"", []string{"secret"}, "a name is not a token"},
		{"X-Key secret", []string{"a"}, "a name is not a token"},
		{"X-Key: secret", []string{"a"}, "a name is not a token"},
		{"X-Ké", []string{"a"}, "a name is not a token"},
		{"X-Key", []string{"a", "secret\r\nA: b"}, "X-Key contains a control character"},
		{"X-Key", []string{"secret\x7f"}, "X-Key contains a control character"},
		{"content-length", []string{"1"}, "Content-Length is set by the client"},
		{"Transfer-encoding", []string{"chunked"}, "Transfer-Encoding is set by the client"},
		{"TRAILER", nil, "Trailer is set by the client"},
	} {
		got := ""
		if err := headerfield.Check(tc.name, tc.values); err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("Check(%q, %q): got %q, want %q", tc.name, tc.values, got, tc.want)
		}
	}
}

// FuzzCheck compares Check with net/http, which checks the fields before it dials.
func FuzzCheck(f *testing.F) {
	for _, field := range []string{"X-Key: a", "X Key: a", ": a", "X: a\tb", "X: a\nb", "X: \x7f", "É: a", "X: \x00", "[: a"} {
		name, value, _ := strings.Cut(field, ": ")
		f.Add(name, value)
	}
	errDialed := errors.New("dialed")
	rt := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, errDialed }}
	f.Fuzz(func(t *testing.T, name, value string) {
		switch http.CanonicalHeaderKey(name) {
		case "Content-Length", "Transfer-Encoding", "Trailer":
			return // net/http ignores them
		}
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://a.test", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header[name] = []string{value}
		_, err = rt.RoundTrip(req)
		if got, accepted := headerfield.Check(name, []string{value}), errors.Is(err, errDialed); accepted != (got == nil) {
			t.Errorf("Check(%q, %q): got %v, net/http: %v", name, value, got, err)
		}
	})
}
