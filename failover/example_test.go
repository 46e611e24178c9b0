package failover_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/failover"
)

// A gateway that is down costs no request: the retry goes to the other one, without
// a backoff.
func Example() {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, r.URL.Path, "with", r.Header.Get("Authorization"))
	}))
	defer up.Close()
	down := httptest.NewServer(nil)
	down.Close()

	client := &http.Client{Transport: &httpretry.RetryTransport{
		Base: &failover.Transport{Endpoints: []failover.Endpoint{
			{URL: down.URL, Header: http.Header{"Authorization": {"Bearer key-1"}}},
			{URL: up.URL + "/api", Header: http.Header{"Authorization": {"Bearer key-2"}}, Weight: 2},
		}},
		// Generating text twice does no harm.
		Idempotent: func(*http.Request) bool { return true },
	}}
	for range 3 {
		// The host of the URL is replaced.
		resp, err := client.Post("http://gateway/v1/completions", "application/json", strings.NewReader("{}"))
		if err != nil {
			fmt.Println(err)
			continue
		}
		io.Copy(os.Stdout, resp.Body)
		resp.Body.Close()
	}
	// Output:
	// /api/v1/completions with Bearer key-2
	// /api/v1/completions with Bearer key-2
	// /api/v1/completions with Bearer key-2
}
