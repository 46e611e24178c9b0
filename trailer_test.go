package httpretry_test

import (
	"io"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/httpretry/httpretry"
)

// The caller may update the values of Request.Trailer while its body is read, and
// a Read may last longer than an attempt.
func TestTrailer_MayBeUpdatedByAReadThatOutlivesItsAttempt(t *testing.T) {
	req := newRequest(t, "PUT", "http://example.com/", nil)
	req.Trailer = http.Header{"X-Sum": nil}
	reading, last := make(chan struct{}), make(chan struct{})
	read := false
	req.Body = io.NopCloser(readerFunc(func(p []byte) (int, error) {
		if read {
			return 0, io.EOF
		}
		read = true
		close(reading)
		for i := 0; ; i++ {
			req.Trailer.Set("X-Sum", strconv.Itoa(i))
			select {
			case <-last:
				req.Trailer.Set("X-Sum", "42")
				return copy(p, "x"), nil
			default:
			}
		}
	}))
	attempts := 0
	var got string
	policy := policyFunc(func(httpretry.Attempt) (time.Duration, bool) { return 0, true })
	rt := &httpretry.RetryTransport{Policy: policy, Base: roundTripFunc(func(r *http.Request) (*http.Response, error) {
		if attempts++; attempts == 1 {
			go consume(r)
			<-reading
		}
		if attempts < 1000 {
			return response(r, 503, ""), nil
		}
		close(last)
		if _, err := consume(r); err != nil {
			return nil, err
		}
		got = r.Trailer.Get("X-Sum")
		return response(r, 200, ""), nil
	})}
	if _, err := rt.RoundTrip(req); err != nil {
		t.Fatal(err)
	}
	if got != "42" {
		t.Errorf("the last attempt has the trailer %q, want 42", got)
	}
}
