package httpretry_test

import (
	"errors"
	"io"
	"net/http"
	"os"
	"testing"

	"github.com/httpretry/httpretry"
)

type panickingCloser struct{ io.Reader }

func (panickingCloser) Close() error { panic("boom") }

// The request body must be closed even if closing the response is what panics.
func TestRoundTrip_PanicInCloseOfTheResponseClosesTheRequestBody(t *testing.T) {
	file, err := os.Open("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	rt := &httpretry.RetryTransport{
		Base: roundTripFunc(func(r *http.Request) (*http.Response, error) {
			consume(r)
			resp := response(r, 200, "x")
			resp.Body = panickingCloser{resp.Body}
			return resp, nil
		}),
		MaxResponseBytes: 100,
	}
	func() {
		defer func() {
			if got := recover(); got != "boom" {
				t.Errorf("recovered %v, want the panic of Close", got)
			}
		}()
		rt.RoundTrip(newRequest(t, "PUT", "http://example.com/", file))
	}()
	if _, err := file.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Stat of the file returned %v, want %v", err, os.ErrClosed)
	}
}
