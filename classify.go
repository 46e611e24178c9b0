package httpretry

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"reflect"
	"strings"
	"time"
)

// An Outcome states whether, and for which requests, an attempt may be retried.
type Outcome uint8

const (
	Final       Outcome = iota // success, or a failure that a retry would repeat
	Unprocessed                // not processed by the server: any request may be retried
	Uncertain                  // possibly processed: only an idempotent request may be retried
)

// A Verdict is the result of classifying an attempt. Its zero value is [Final].
type Verdict struct {
	Outcome Outcome

	// RetryAfter is the minimum wait requested by the server, or 0 if none.
	RetryAfter time.Duration
}

// DefaultClassifier is the Classifier of a [RetryTransport] that does not set
// one.
//
// Statuses 429 and 503 are [Unprocessed]. Statuses 408, 500, 502 and 504 are
// [Uncertain]. All others are [Final]. A 503 means that the server could not
// handle the request (RFC 9110, section 15.6.4), but some proxies also return it
// when an upstream fails midway. If a POST must not be processed twice behind
// such a proxy, wrap DefaultClassifier in a Classifier that treats 503 as
// Uncertain. [RetryAfter] applies to each of these six statuses, although RFC 9110
// and RFC 6585 describe Retry-After only for 503 and 429.
//
// These errors are Unprocessed:
//
//   - a failed dial, to the server or to a proxy;
//   - a failed name lookup, unless the host does not exist;
//   - a TLS handshake timeout;
//   - a SOCKS proxy that could not reach the server;
//   - a 500, 502, 503 or 504 response of a proxy to CONNECT;
//   - an HTTP/2 stream that the server did not process (RFC 9113, section 8.7).
//
// These errors are Final:
//
//   - any error, if the request's context is done or its Cancel channel is closed;
//   - an error marked with [Permanent];
//   - a host that does not exist;
//   - an error of package crypto/x509 or crypto/tls that rejects the server's
//     certificate, or a TLS alert that rejects the client's;
//   - a malformed request or response;
//   - any other rejection of CONNECT by a proxy, or a SOCKS proxy that rejects
//     the credentials, the authentication method, the command or the address.
//
// All other errors are Uncertain: a timeout, a body that stalled, a connection that
// was reset or closed, even in the middle of the response header, and any error of
// unknown type. An idempotent request is therefore retried after an error that
// middleware returned for a reason of its own. Use Permanent to prevent that.
//
// The error of a VerifyConnection or VerifyPeerCertificate callback in a
// [tls.Config] is returned unchanged by crypto/tls. It is Final if it is, or
// wraps, an error type of crypto/x509 or a [*tls.CertificateVerificationError],
// or if the callback marks it with Permanent. An error of another type, as a
// check for a pinned certificate may return, is Uncertain.
//
// If a proxy rejects CONNECT, the error of [http.Transport] has only the reason
// phrase of the response. Phrases that are registered or common are recognized. A
// missing phrase is Final. An unknown phrase is Final if [RetryTransport.Base]
// is an http.Transport whose Proxy function returns a proxy. With another Base,
// the error could have any cause, and is Uncertain. If a proxy sends unknown
// phrases with 5xx statuses, an OnProxyConnectResponse hook can make them
// Unprocessed by returning a [net.OpError] with Op "proxyconnect".
//
// Wrapped errors are considered too. Joined errors are Final if any of them is,
// and otherwise Uncertain if any of them is.
func DefaultClassifier(req *http.Request, resp *http.Response, err error) Verdict {
	if err != nil {
		return Verdict{Outcome: classifyError(req, err)}
	}
	outcome := statusOutcome(resp.StatusCode)
	if outcome == Final {
		return Verdict{}
	}
	wait, _ := RetryAfter(resp)
	return Verdict{Outcome: outcome, RetryAfter: wait}
}

func statusOutcome(status int) Outcome {
	switch status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return Unprocessed
	case http.StatusRequestTimeout, http.StatusInternalServerError, http.StatusBadGateway, http.StatusGatewayTimeout:
		// RFC 9110, section 15.5.9: a 408 means that the request was
		// incomplete, but some servers process what has arrived.
		return Uncertain
	}
	return Final
}

// Permanent returns an error that wraps err and that [DefaultClassifier]
// considers [Final], even when it is wrapped or joined with other errors. Use it
// in a [RetryTransport.Base], a dialer or a TLS callback for a failure that a
// retry would repeat, such as missing credentials or an unexpected certificate.
// The text and the Timeout method of err are kept. Permanent(nil) returns nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

// A permanentError implements net.Error, as url.Error does, so that a timeout
// is still one for callers that assert the interface instead of unwrapping.
type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

func (e *permanentError) Timeout() bool   { return isTimeout(e.err) }
func (e *permanentError) Temporary() bool { return isTemporary(e.err) }

func classifyError(req *http.Request, err error) Outcome {
	if req.Context().Err() != nil {
		return Final
	}
	select {
	//lint:ignore SA1019 http.Transport still supports Cancel.
	case <-req.Cancel:
		// During a dial and over HTTP/2 the error can be that of the
		// connection, so that it does not show the cancellation.
		return Final
	default:
	}
	// net/http sends CONNECT only for an https URL.
	tunnel := req.URL != nil && req.URL.Scheme == "https"
	if o, known := outcomeOf(err, tunnel, 0); known {
		return o
	}
	return Uncertain
}

// outcomeOf classifies err and the errors it wraps. known is false if none is
// recognized. A recognized error takes precedence over those it wraps, unless
// one of them is Final. Among joined errors, Final takes precedence over
// Uncertain, and Uncertain over Unprocessed: if any server may have processed
// the request, it may have been processed.
//
// tunnel reports whether err can be the response of a proxy to CONNECT.
func outcomeOf(err error, tunnel bool, depth int) (outcome Outcome, known bool) {
	if err == nil || isNilPointer(err) || depth == maxErrorDepth {
		return Final, false
	}
	outcome, own := ownOutcome(err)
	if !own && tunnel && isUntyped(err) {
		outcome, own = phraseOutcome(err.Error())
	}
	if own && outcome == Final {
		return Final, true
	}
	known = own
	causes := unwrap(err)
	for _, cause := range causes {
		switch o, ok := outcomeOf(cause, tunnel, depth+1); {
		case !ok:
		case o == Final:
			return Final, true
		case !own && (!known || o == Uncertain):
			outcome, known = o, true
		}
	}
	if len(causes) == 0 && !known && isBreak(err) {
		return Uncertain, true
	}
	return outcome, known
}

func isNilPointer(err error) bool {
	v := reflect.ValueOf(err)
	return v.Kind() == reflect.Pointer && v.IsNil()
}

// maxErrorDepth keeps an error that wraps itself from exhausting the stack.
const maxErrorDepth = 100

// unwrap returns the errors that err wraps. err is neither nil nor a nil pointer,
// whose Unwrap would panic.
func unwrap(err error) []error {
	switch w := err.(type) {
	case interface{ Unwrap() error }:
		return []error{w.Unwrap()}
	case interface{ Unwrap() []error }:
		return w.Unwrap()
	}
	return nil
}

// ownOutcome classifies err itself, ignoring the errors it wraps.
func ownOutcome(err error) (outcome Outcome, known bool) {
	switch e := err.(type) {
	case *permanentError:
		return Final, true
	case *connectError:
		if o, ok := phraseOutcome(e.Error()); ok {
			return o, true
		}
		// A proxy with phrases of its own nearly always sends them to reject a
		// request, because of a rule or its credentials.
		return Final, true
	case *tls.CertificateVerificationError, *tls.ECHRejectionError, tls.RecordHeaderError:
		return Final, true
	case x509.UnknownAuthorityError, x509.HostnameError, x509.CertificateInvalidError, x509.SystemRootsError,
		x509.UnhandledCriticalExtension, x509.InsecureAlgorithmError, x509.ConstraintViolationError:
		// crypto/tls wraps these in a CertificateVerificationError. A
		// VerifyConnection callback returns them unchanged.
		return Final, true
	case textproto.ProtocolError:
		if isCutOff(string(e)) {
			return Uncertain, true
		}
		return Final, true
	case *net.AddrError, *net.ParseError, net.InvalidAddrError, net.UnknownNetworkError:
		return Final, true
	case *url.Error:
		// Every other Op is the method of a request that an http.Client made.
		return Final, e.Op == "parse"
	case *net.DNSError:
		if e.IsNotFound {
			return Final, true
		}
		// Not every transient DNS failure is marked IsTemporary.
		return Unprocessed, true
	case *net.OpError:
		return opOutcome(e), true
	}
	if o, ok := errnoOutcome(err); ok {
		return o, true
	}
	if err == http.ErrSchemeMismatch { // http.Client substitutes this for RecordHeaderError
		return Final, true
	}
	if code, cause, ok := streamError(err); ok {
		return streamOutcome(code, cause), true
	}
	return textOutcome(err.Error())
}

func opOutcome(op *net.OpError) Outcome {
	switch op.Op {
	case "socks connect":
		if isSOCKSRefusal(op.Err) {
			return Final
		}
		return Unprocessed
	case "dial", "proxyconnect":
		// golang/go#16997: proxyconnect is a failed connection to the proxy.
		// A proxy's response to CONNECT has no type.
		return Unprocessed
	case "remote error":
		if isTLSRefusal(op.Err) {
			return Final
		}
	}
	return Uncertain
}

// isTLSRefusal reports whether err is an alert with which a TLS server rejects
// the client's certificate, version, cipher suites or protocols (RFC 8446,
// section 6.2). The type is unexported by crypto/tls. Its underlying type is
// uint8.
func isTLSRefusal(err error) bool {
	const handshakeFailure, badCertificate, accessDenied = 40, 42, 49
	const protocolVersion, insufficientSecurity = 70, 71
	const unrecognizedName, certificateRequired, noApplicationProtocol = 112, 116, 120
	alert := reflect.ValueOf(err)
	if alert.Kind() != reflect.Uint8 {
		return false
	}
	switch code := alert.Uint(); code {
	case handshakeFailure, protocolVersion, insufficientSecurity,
		unrecognizedName, certificateRequired, noApplicationProtocol:
		return true
	default:
		return badCertificate <= code && code <= accessDenied
	}
}

// isSOCKSRefusal reports whether err, from a net.OpError "socks connect", is a
// refusal that a retry would repeat. The other replies of RFC 1928, section 6,
// are failures between the proxy and the server, before any byte of the request.
func isSOCKSRefusal(err error) bool {
	if err == nil || isNilPointer(err) {
		return false
	}
	return hasAnyPrefix(strings.TrimPrefix(err.Error(), socksReply), socksRefusals)
}

// streamError returns the code and the cause of an HTTP/2 stream error.
// net/http bundles golang.org/x/net/http2 and does not export the type, and
// importing x/net's type would add a dependency. Both types have these three
// fields, and must keep them, because net/http converts its type to x/net's by
// the names of the fields.
func streamError(err error) (code uint64, cause error, ok bool) {
	v := reflect.Indirect(reflect.ValueOf(err))
	t := v.Type()
	if t.Kind() != reflect.Struct || t.NumField() != 3 ||
		t.Field(0).Name != "StreamID" || t.Field(1).Name != "Code" || t.Field(2).Name != "Cause" ||
		t.Field(0).Type.Kind() != reflect.Uint32 || t.Field(1).Type.Kind() != reflect.Uint32 {
		return 0, nil, false
	}
	cause, _ = v.Field(2).Interface().(error)
	return v.Field(1).Uint(), cause, true
}

func streamOutcome(code uint64, cause error) Outcome {
	// Error codes of RFC 9113, section 7.
	const refusedStream, inadequateSecurity, http11Required = 0x7, 0xc, 0xd
	switch {
	case code == refusedStream:
		// RFC 9113, section 8.7: the stream was closed before any processing.
		return Unprocessed
	case cause == nil || cause.Error() != resetByPeer:
		// The client reset the stream because the response violated the
		// protocol. Only this text identifies a reset sent by the server.
		return Final
	case code == inadequateSecurity, code == http11Required:
		// net/http would negotiate the same protocol and ciphers again.
		return Final
	}
	return Uncertain
}

// IsIdempotent reports whether req may be processed twice: its method is GET,
// HEAD, OPTIONS, TRACE, PUT or DELETE (RFC 9110, section 9.2.2), or it has an
// Idempotency-Key or X-Idempotency-Key header. As in [http.Transport], a header
// with an empty value slice counts but is not sent.
func IsIdempotent(req *http.Request) bool {
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	_, key := req.Header["Idempotency-Key"]
	_, xKey := req.Header["X-Idempotency-Key"]
	return key || xKey
}
