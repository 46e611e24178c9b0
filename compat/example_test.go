package compat_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/flaky"
)

// A RetryTransport wraps http.DefaultTransport. The server first resets a
// connection. On a kept-alive connection, net/http itself would repeat the GET
// after that.
func Example_client() {
	srv := httptest.NewServer(flaky.New(flaky.Reset(), flaky.Status(503)).Handler(nil))
	defer srv.Close()

	client := &http.Client{Transport: &httpretry.RetryTransport{}}
	resp, err := client.Get(srv.URL)
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status, "after", httpretry.AttemptNumber(resp.Request.Context()), "attempts")
	// Output: 200 OK after 3 attempts
}

type signer struct{ http.RoundTripper }

func (s signer) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "a signature that expires soon")
	fmt.Println("signing attempt", httpretry.AttemptNumber(req.Context()))
	return s.RoundTripper.RoundTrip(req)
}

// Middleware below a RetryTransport sees every attempt.
func Example_middleware() {
	srv := httptest.NewServer(flaky.New(flaky.Status(503)).Handler(nil))
	defer srv.Close()

	client := &http.Client{Transport: &httpretry.RetryTransport{Base: signer{http.DefaultTransport}}}
	resp, err := client.Get(srv.URL)
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	// Output:
	// signing attempt 1
	// signing attempt 2
	// 200 OK
}
