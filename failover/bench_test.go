package failover_test

import (
	"net/http"
	"testing"

	"github.com/httpretry/httpretry/failover"
)

// BenchmarkTransport measures the cost of a request that succeeds, without and with
// a Header of the endpoint.
func BenchmarkTransport(b *testing.B) {
	base := roundTripFunc(func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: http.NoBody, Request: req}, nil
	})
	for name, header := range map[string]http.Header{"plain": nil, "header": {"Authorization": {"Bearer key"}}} {
		b.Run(name, func(b *testing.B) {
			rt := newTransport(base, "a", "b", "c")
			for i := range rt.Endpoints {
				rt.Endpoints[i].Header = header
			}
			req := newRequest(b, "GET", "")
			b.ReportAllocs()
			for b.Loop() {
				if _, err := rt.RoundTrip(req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

var _ http.RoundTripper = (*failover.Transport)(nil)
