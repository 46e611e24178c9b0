package inference_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/flaky"
	"github.com/httpretry/httpretry/inference"
)

func TestNetworkFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
			BaseURL: "http://me:password@gateway.test/?token=hidden", APIKey: "sk-1234", MaxRetries: 2,
			Transport: repeat(flaky.Reset()).Transport(nil),
		})
		_, err := client.Generate(t.Context(), question())
		if err == nil || err.Category != inference.ErrCategoryServer || !strings.HasPrefix(err.Message, "failed to execute request: ") {
			t.Fatalf("got %v, want SERVER_ERROR: failed to execute request: …", err)
		}
		if !err.IsRetryable() {
			t.Error("a network failure is retryable")
		}
		var many *httpretry.Error
		if !errors.Is(err, syscall.ECONNRESET) || !errors.As(err, &many) || many.Attempts != 3 {
			t.Errorf("got %#v, want an *httpretry.Error of 3 attempts around ECONNRESET", err.RawError)
		}
		for _, text := range []string{err.Error(), err.RawError.Error()} {
			for _, secret := range []string{"me:", "password", "token", "hidden", "sk-1234", "two plus two"} {
				if strings.Contains(text, secret) {
					t.Errorf("%q holds %q", text, secret)
				}
			}
		}
	})
}

func TestConnectionRefused(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	client := newClient(t, inference.HTTPInferenceClientConfig{BaseURL: "http://" + address})
	_, got := client.Generate(t.Context(), question())
	checkError(t, got, inference.ErrCategoryServer,
		"failed to execute request: dial tcp "+address+": connect: connection refused")
}

func TestUntrustedCertificate(t *testing.T) {
	attempts := 0
	client := newClient(t, inference.HTTPInferenceClientConfig{
		BaseURL: "https://gateway.test", MaxRetries: 5,
		Transport: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			req.Body.Close()
			attempts++
			return nil, &tls.CertificateVerificationError{Err: errors.New("unknown authority")}
		}),
	})
	_, err := client.Generate(t.Context(), question())
	checkError(t, err, inference.ErrCategoryServer,
		"failed to execute request: tls: failed to verify certificate: unknown authority")
	if attempts != 1 {
		t.Errorf("got %d attempts, want 1: trying again does not change a certificate", attempts)
	}
}

// dialTimeout is like the timeout error of a [net.Dialer].
type dialTimeout struct{}

func (dialTimeout) Error() string        { return "i/o timeout" }
func (dialTimeout) Timeout() bool        { return true }
func (dialTimeout) Temporary() bool      { return true }
func (dialTimeout) Is(target error) bool { return target == context.DeadlineExceeded }

func TestTimeoutOfAnOperationNamesIt(t *testing.T) {
	client := newClient(t, inference.HTTPInferenceClientConfig{
		BaseURL:   fakeURL,
		Transport: flaky.New(flaky.Error(&net.OpError{Op: "dial", Net: "tcp", Err: dialTimeout{}})).Transport(nil),
	})
	_, err := client.Generate(t.Context(), question())
	checkError(t, err, inference.ErrCategoryServer, "failed to execute request: dial tcp: i/o timeout")
}

func TestErrorsAsOfANilRawError(t *testing.T) {
	err := &inference.InferenceError{Category: inference.ErrCategoryInvalidReq, Message: "request cannot be nil"}
	if got := errors.Unwrap(err); got != nil {
		t.Errorf("Unwrap: got %v, want nil", got)
	}
	var status *inference.StatusError
	if errors.As(err, &status) {
		t.Errorf("errors.As found %v in an error without a RawError", status)
	}
}

// A nil *InferenceError in an error that is not nil is a common mistake. Its methods
// must not panic.
func TestNilInferenceError(t *testing.T) {
	var err *inference.InferenceError
	if got := err.Error(); got != "<nil>" {
		t.Errorf("Error: got %q, want <nil>", got)
	}
	if err.IsRetryable() || errors.Is(err, context.Canceled) || err.Unwrap() != nil {
		t.Error("a nil error is retryable, or holds another")
	}
}

func TestAttemptsAfterTimeoutAreSpaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		script := flaky.New(flaky.Hang(), ok().After(time.Second))
		client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
			BaseURL: fakeURL, Timeout: 2 * time.Second, MaxRetries: 1, JitterFraction: noJitter,
			Transport: script.Transport(nil),
		})
		start := time.Now()
		if _, err := client.Generate(t.Context(), question()); err != nil {
			t.Fatal(err)
		}
		if got, want := time.Since(start), 4*time.Second; got != want {
			t.Errorf("took %v, want %v: timeout, backoff, answer", got, want)
		}
	})
}
