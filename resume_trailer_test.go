package httpretry_test

import (
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
)

// A Read may be filling the Trailer while another goroutine closes the download,
// which calls OnDone with a copy of the response.
func TestOnDone_ClosedDownloadDoesNotShareTheTrailerWithARead(t *testing.T) {
	for _, announced := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var resp *http.Response
			closed := make(chan struct{})
			summaries := 0
			rt := &httpretry.RetryTransport{
				ResumeDownloads: true,
				Base: roundTripFunc(func(r *http.Request) (*http.Response, error) {
					resp = response(r, 200, "")
					resp.ContentLength = -1
					resp.Header.Set("ETag", `"v1"`)
					if announced {
						resp.Trailer = http.Header{"X-Sum": nil}
					}
					resp.Body = slowBody{readerFunc(func([]byte) (int, error) {
						if resp.Trailer == nil {
							resp.Trailer = make(http.Header)
						}
						resp.Trailer["X-Sum"] = []string{"42"}
						<-closed
						return 0, io.EOF
					}), closed}
					return resp, nil
				}),
				OnDone: func(s httpretry.Summary) {
					summaries++
					if got := s.Response.Trailer.Get("X-Sum"); got != "" {
						t.Errorf("got the trailer %q of a body that was closed", got)
					}
				},
			}
			got, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
			if err != nil {
				t.Fatal(err)
			}
			body := got.Body
			go io.Copy(io.Discard, body)
			time.Sleep(time.Second) // to the race detector, this comes neither before nor after the Read
			body.Close()
			synctest.Wait()
			if summaries != 1 {
				t.Errorf("OnDone was called %d times, want once", summaries)
			}
		})
	}
}
