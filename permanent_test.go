package httpretry_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/httpretry/httpretry"
)

func TestPermanent_IsFinalHoweverWrapped(t *testing.T) {
	req := get(t, "http://host.invalid")
	for _, err := range []error{
		errors.New("token store: no credentials"),
		io.ErrUnexpectedEOF,
		syscall.ECONNREFUSED,
		&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED},
		context.DeadlineExceeded,
		&net.DNSError{IsTemporary: true},
		http.ErrHandlerTimeout,
		httpretry.Permanent(io.EOF),
	} {
		p := httpretry.Permanent(err)
		wantOutcome(t, req, p, httpretry.Final, "the error is marked as permanent")
		wantOutcome(t, req, &net.OpError{Op: "dial", Err: p}, httpretry.Final, "a dialer marked it")
		wantOutcome(t, req, errors.Join(io.EOF, p), httpretry.Final, "one of several is marked")
		wantOutcome(t, req, errors.Join(fmt.Errorf("signer: %w", p), syscall.ECONNRESET), httpretry.Final, "one of several is marked")
	}
}

func TestPermanent_KeepsTheError(t *testing.T) {
	if err := httpretry.Permanent(nil); err != nil {
		t.Errorf("Permanent(nil): got %v, want nil", err)
	}
	cause := &url.Error{Op: "Get", URL: "http://host.invalid", Err: io.EOF}
	err := httpretry.Permanent(cause)
	if err.Error() != cause.Error() {
		t.Errorf("got the text %q, want %q", err, cause)
	}
	if errors.Unwrap(err) != error(cause) || !errors.Is(err, io.EOF) {
		t.Error("the error does not unwrap to its cause")
	}
	var u *url.Error
	if !errors.As(err, &u) || u != cause {
		t.Error("errors.As does not find the cause")
	}
}

func TestPermanent_KeepsTimeout(t *testing.T) {
	for _, tt := range []struct {
		err                error
		timeout, temporary bool
	}{
		{errors.New("no"), false, false},
		{io.EOF, false, false},
		{os.ErrDeadlineExceeded, true, true},
		{context.DeadlineExceeded, true, true},
		{fmt.Errorf("signer: %w", context.DeadlineExceeded), true, true},
		{&net.DNSError{IsTimeout: true}, true, true},
		{&net.DNSError{IsTemporary: true}, false, true},
		{&httpretry.Error{Err: context.DeadlineExceeded}, true, true},
		{httpretry.Permanent(context.DeadlineExceeded), true, true},
	} {
		err := httpretry.Permanent(tt.err)
		var netErr net.Error
		//lint:ignore SA1019 Temporary is a part of net.Error.
		if !errors.As(err, &netErr) || netErr.Timeout() != tt.timeout || netErr.Temporary() != tt.temporary {
			t.Errorf("%T: got %#v, want a net.Error with Timeout %t and Temporary %t", tt.err, netErr, tt.timeout, tt.temporary)
		}
		// As an http.Client returns it, which does not unwrap.
		if got := (&url.Error{Err: err}).Timeout(); got != tt.timeout {
			t.Errorf("%T in a url.Error: got Timeout %t, want %t", tt.err, got, tt.timeout)
		}
		if got := os.IsTimeout(err); got != tt.timeout {
			t.Errorf("%T: got os.IsTimeout %t, want %t", tt.err, got, tt.timeout)
		}
	}
}

func TestPermanent_EndsRetriesOfMiddleware(t *testing.T) {
	attempts := 0
	rt := &httpretry.RetryTransport{
		Policy: httpretry.RetryConfig{MaxRetries: 3, InitialBackoff: 1},
		Base: roundTripFunc(func(*http.Request) (*http.Response, error) {
			attempts++
			return nil, fmt.Errorf("signer: %w", httpretry.Permanent(errMiddleware))
		}),
	}
	err := errorOf(t, rt, get(t, "http://host.invalid"))
	if attempts != 1 || !errors.Is(err, errMiddleware) {
		t.Errorf("got %d attempts and %v, want 1 and the error of the middleware", attempts, err)
	}
}

// A certificate other than the pinned one will not change by a retry.
func ExamplePermanent() {
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()

	pinned := sha256.Sum256([]byte("the public key of another server"))
	transport := server.Client().Transport.(*http.Transport)
	transport.TLSClientConfig.VerifyConnection = func(state tls.ConnectionState) error {
		if sha256.Sum256(state.PeerCertificates[0].RawSubjectPublicKeyInfo) != pinned {
			return httpretry.Permanent(errors.New("server does not have the pinned key"))
		}
		return nil
	}
	client := &http.Client{Transport: &httpretry.RetryTransport{
		Base: transport,
		OnAttempt: func(a httpretry.Attempt, d httpretry.Decision) {
			fmt.Printf("attempt %d: %v, retry: %t\n", a.Number, a.Err, d.Retry)
		},
	}}
	_, err := client.Get(server.URL)
	fmt.Println(errors.Unwrap(err))
	// Output:
	// attempt 1: server does not have the pinned key, retry: false
	// server does not have the pinned key
}

// The check of a pinned certificate, over TLS 1.2 and 1.3, HTTP/1.1 and HTTP/2.
func TestPermanent_EndsRetriesOfPinnedCertificate(t *testing.T) {
	errPin := errors.New("pin mismatch")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for name, pin := range map[string]*tls.Config{
			"VerifyConnection":      {VerifyConnection: func(tls.ConnectionState) error { return httpretry.Permanent(errPin) }},
			"VerifyPeerCertificate": {VerifyPeerCertificate: pinned(httpretry.Permanent(errPin))},
		} {
			for _, http2 := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/HTTP2=%t", tls.VersionName(version), name, http2), func(t *testing.T) {
					cert, pool := newCertificate(t, "127.0.0.1", time.Now().Add(time.Hour))
					url := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: version, NextProtos: []string{"h2", "http/1.1"}})
					pin := pin.Clone()
					pin.RootCAs = pool
					tr := &http.Transport{TLSClientConfig: pin, ForceAttemptHTTP2: http2}
					defer tr.CloseIdleConnections()
					attempts := 0
					rt := &httpretry.RetryTransport{
						Base: tr, Policy: httpretry.RetryConfig{MaxRetries: 3, InitialBackoff: 1},
						OnAttempt: func(httpretry.Attempt, httpretry.Decision) { attempts++ },
					}
					err := errorOf(t, rt, get(t, url))
					if attempts != 1 || !errors.Is(err, errPin) {
						t.Errorf("got %d attempts and %v, want 1 and %v", attempts, err, errPin)
					}
				})
			}
		}
	}
}

func pinned(err error) func([][]byte, [][]*x509.Certificate) error {
	return func([][]byte, [][]*x509.Certificate) error { return err }
}
