package httpretry_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
)

// baseMode selects another Base for all tests. "wrap" selects one that wraps every
// response body, as tracing middleware does, so that no body is http.NoBody.
// "http2" selects one that uses HTTP/2 with the servers of newServer.
var baseMode = os.Getenv("HTTPRETRY_TEST_BASE")

// asBase returns the response as the selected Base would.
func asBase(resp *http.Response, err error) (*http.Response, error) {
	if baseMode != "wrap" || resp == nil || resp.Body == nil {
		return resp, err
	}
	if _, upgraded := resp.Body.(io.Writer); upgraded {
		return resp, err
	}
	wrapped := *resp // the test may return it again
	wrapped.Body = struct{ io.ReadCloser }{resp.Body}
	return &wrapped, err
}

// A modeTransport is a transport in the selected mode.
type modeTransport struct{ *http.Transport }

func (t modeTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.Transport.RoundTrip(req)
	if baseMode != "wrap" || err != nil {
		return resp, err
	}
	// In place: net/http adds trailers to this response.
	wrapped, _ := asBase(resp, nil)
	resp.Body = wrapped.Body
	return resp, nil
}

// startInMode starts srv, which speaks HTTP/2 if that is selected.
func startInMode(srv *httptest.Server) *httptest.Server {
	if baseMode == "http2" {
		speak(srv, 2)
	} else {
		srv.Start()
	}
	return srv
}

// speak starts a server that speaks HTTP/1.1 or, unencrypted, HTTP/2, and gives
// its client a transport for that.
func speak(srv *httptest.Server, proto int) {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(proto == 1)
	protocols.SetUnencryptedHTTP2(proto == 2)
	srv.Config.Protocols = protocols
	srv.Start()
	srv.Client().Transport.(*http.Transport).Protocols = protocols
}

// A countedFunc is a roundTripFunc whose allocations are counted. It is the same
// in all modes.
type countedFunc func(*http.Request) (*http.Response, error)

func (f countedFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// newHTTP1Server returns a server for tests of HTTP/1.1 itself: of connections,
// broken ones and upgraded ones.
func newHTTP1Server(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}
