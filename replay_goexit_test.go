package httpretry_test

import (
	"io"
	"net/http"
	"runtime"
	"testing"

	"github.com/httpretry/httpretry"
)

// A Read that ends its goroutine, as t.FailNow does, is not repeated forever.
func TestReplay_SourceThatEndsItsGoroutineFails(t *testing.T) {
	req := newRequest(t, "PUT", "http://example.com/", nil)
	reads := 0
	req.Body = io.NopCloser(readerFunc(func([]byte) (int, error) {
		if reads++; reads == 1 {
			runtime.Goexit()
		}
		return 0, io.EOF
	}))
	rt := &httpretry.RetryTransport{Policy: now, Base: roundTripFunc(func(r *http.Request) (*http.Response, error) {
		_, err := consume(r)
		return nil, err
	})}
	if _, err := rt.RoundTrip(req); err == nil {
		t.Error("the call succeeded, want the error of the body")
	}
	if reads != 1 {
		t.Errorf("the source was read %d times, want once", reads)
	}
}
