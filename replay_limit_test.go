package httpretry_test

import (
	"math"
	"strings"
	"testing"

	"github.com/httpretry/httpretry"
)

// The largest number is how a caller says that there is no limit.
func TestMaxReplayBytes_MayBeTheLargestNumber(t *testing.T) {
	rt := &httpretry.RetryTransport{Base: statuses(503, 200), Policy: now, MaxReplayBytes: math.MaxInt64}
	req := newRequest(t, "PUT", "http://example.com/", nil)
	req.Body = newTestBody(strings.Repeat("x", 100<<10))
	resp, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 200 {
		t.Errorf("got status %d, want 200 after a retry", resp.StatusCode)
	}
}
