package httpretry_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
)

// The body of the retry fails, so the call returns the response that it discarded.
// A Read of that may still be filling its Trailer, as that of net/http does.
func TestDiscard_TrailerIsNotSharedWithARead(t *testing.T) {
	for _, tt := range []struct {
		name      string
		announced bool
		inTime    bool
		want      string
	}{
		{"announced, and the body ends during the wait", true, true, "42"},
		{"not announced, and the body ends during the wait", false, true, "42"},
		{"announced, and the body ends later", true, false, ""},
		{"not announced, and the body ends later", false, false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				closed := make(chan struct{})
				var resp *http.Response
				read := func([]byte) (int, error) {
					if !tt.inTime {
						<-closed
						time.Sleep(time.Second)
					}
					if resp.Trailer == nil {
						resp.Trailer = make(http.Header)
					}
					resp.Trailer["X-Sum"] = []string{"42"}
					return 0, io.EOF
				}
				// In all modes the same, because Read adds to this response, not to a copy.
				rt := &httpretry.RetryTransport{Policy: every(time.Second), Base: countedFunc(func(r *http.Request) (*http.Response, error) {
					consume(r)
					resp = response(r, 503, "")
					if tt.announced {
						resp.Trailer = http.Header{"X-Sum": nil}
					}
					resp.ContentLength = -1
					resp.Body = slowBody{readerFunc(read), closed}
					return resp, nil
				})}
				req := newRequest(t, "PUT", "http://example.com/", strings.NewReader("x"))
				req.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("gone") }
				got, err := rt.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				if sum := got.Trailer.Get("X-Sum"); sum != tt.want {
					t.Errorf("got the trailer %q, want %q", sum, tt.want)
				}
			})
		})
	}
}

type slowBody struct {
	io.Reader
	closed chan struct{}
}

func (b slowBody) Close() error {
	close(b.closed)
	return nil
}
