package httpretry_test

import (
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/httpretry/httpretry"
)

// A limited policy waits as another one does, but retries a gateway timeout only
// once.
type limited struct{ httpretry.Policy }

func (p limited) Backoff(a httpretry.Attempt) (time.Duration, bool) {
	if a.Response != nil && a.Response.StatusCode == http.StatusGatewayTimeout && a.Number > 1 {
		return 0, false
	}
	return p.Policy.Backoff(a)
}

// A Policy usually changes what another one decides.
func ExamplePolicy() {
	server := newUnsteadyServer(9, http.StatusGatewayTimeout)
	defer server.Close()

	client := &http.Client{Transport: &httpretry.RetryTransport{
		Policy: limited{httpretry.RetryConfig{InitialBackoff: time.Millisecond}},
		OnAttempt: func(a httpretry.Attempt, d httpretry.Decision) {
			fmt.Printf("%d: %d, retry %t\n", a.Number, a.Response.StatusCode, d.Retry)
		},
	}}
	resp, err := client.Get(server.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	// Output:
	// 1: 504, retry true
	// 2: 504, retry false
}
