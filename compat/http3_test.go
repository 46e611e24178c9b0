package compat_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/flaky"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

func newHTTP3(retry *httpretry.RetryTransport, config *tls.Config) *http3.Transport {
	transport := &http3.Transport{TLSClientConfig: config}
	retry.Base = transport
	retry.Classifier = func(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
		h3, isH3 := errors.AsType[*http3.Error](err)
		_, handshake := errors.AsType[*quic.HandshakeTimeoutError](err)
		switch {
		case err == nil || req.Context().Err() != nil:
		case handshake, isH3 && h3.Remote && h3.ErrorCode == http3.ErrCodeRequestRejected: // RFC 9114, section 4.1.1
			return httpretry.Verdict{Outcome: httpretry.Unprocessed}
		case isH3 && h3.Remote && h3.ErrorCode == http3.ErrCodeVersionFallback: // the server wants HTTP/1.1
			return httpretry.Verdict{Outcome: httpretry.Final}
		}
		return httpretry.DefaultClassifier(req, resp, err)
	}
	return transport
}

func TestHTTP3_Retries(t *testing.T) {
	t.Parallel()
	certified := httptest.NewTLSServer(nil) // for its certificate
	defer certified.Close()
	script := flaky.New(flaky.Status(http.StatusServiceUnavailable), flaky.Pass())
	server := &http3.Server{
		TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: certified.TLS.Certificates}),
		Handler:   script.Handler(respond("text/plain", "hello")),
	}
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(conn) }()
	defer func() {
		server.Close()
		<-served
		conn.Close()
	}()
	retry := (&service{}).retry()
	config := certified.Client().Transport.(*http.Transport).TLSClientConfig
	transport := newHTTP3(retry, &tls.Config{RootCAs: config.RootCAs, ServerName: "example.com"})
	defer transport.Close()
	if body, err := get(t.Context(), retry, "https://"+conn.LocalAddr().String()); err != nil || body != "hello" {
		t.Errorf("got %q, %v, want hello", body, err)
	}
	if got := len(script.Requests()); got != 2 {
		t.Errorf("got %d requests, want 2: the 503 and its retry", got)
	}
}

func TestHTTP3_Errors(t *testing.T) {
	retry := &httpretry.RetryTransport{}
	newHTTP3(retry, nil)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	rejected := &http3.Error{Remote: true, ErrorCode: http3.ErrCodeRequestRejected}
	tests := []struct {
		name string
		ctx  context.Context
		err  error
		want httpretry.Outcome
	}{
		{"rejected", t.Context(), rejected, httpretry.Unprocessed},
		{"rejected, and canceled", canceled, rejected, httpretry.Final},
		{"rejected by the client", t.Context(), &http3.Error{ErrorCode: http3.ErrCodeRequestRejected}, httpretry.Uncertain},
		{"another version", t.Context(), &http3.Error{Remote: true, ErrorCode: http3.ErrCodeVersionFallback}, httpretry.Final},
		{"internal error", t.Context(), &http3.Error{Remote: true, ErrorCode: http3.ErrCodeInternalError}, httpretry.Uncertain},
		{"handshake timeout", t.Context(), &quic.HandshakeTimeoutError{}, httpretry.Unprocessed},
		{"idle timeout", t.Context(), &quic.IdleTimeoutError{}, httpretry.Uncertain},
		{"stateless reset", t.Context(), &quic.StatelessResetError{}, httpretry.Uncertain},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(tt.ctx, http.MethodGet, "https://example.com", nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := retry.Classifier(req, nil, tt.err).Outcome; got != tt.want {
				t.Errorf("got %v for %v, want %v", got, tt.err, tt.want)
			}
		})
	}
}
