package httpretry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"reflect"
	"strings"
	"syscall"
	"time"
)

// An Outcome is what the result of an attempt means for trying again.
type Outcome uint8

const (
	Final       Outcome = iota // success, or a failure that trying again won't change
	Unprocessed                // turned away unprocessed: any request may be sent again
	Uncertain                  // may have been processed: only an idempotent request may be sent again
)

// String returns the name of the constant in lower case.
func (o Outcome) String() string {
	switch o {
	case Final:
		return "final"
	case Unprocessed:
		return "unprocessed"
	case Uncertain:
		return "uncertain"
	}
	return "invalid"
}

// A Verdict is a [Classifier]'s answer. The zero Verdict is final.
type Verdict struct {
	Outcome Outcome

	// RetryAfter is the least wait that the server asked for, 0 if it asked
	// for none.
	RetryAfter time.Duration
}

// A Classifier tells what the result of an attempt means. Exactly one of resp
// and err is not nil. With [RetryTransport.MaxResponseBytes] a response whose
// body broke off while it was read ahead is classified by its status first, and
// if that is final, once more by the error.
//
// Classify may read resp.Body, and must not keep it: it is a copy of what was
// read ahead, empty if nothing was. It must not modify anything else. It is
// called from many goroutines at once.
type Classifier interface {
	Classify(req *http.Request, resp *http.Response, err error) Verdict
}

// ClassifierFunc lets a function be a [Classifier].
type ClassifierFunc func(*http.Request, *http.Response, error) Verdict

// Classify calls f.
func (f ClassifierFunc) Classify(req *http.Request, resp *http.Response, err error) Verdict {
	return f(req, resp, err)
}

// DefaultClassifier is the classifier of a [RetryTransport] that has none. It
// must not be changed while requests are under way.
//
// Statuses: 429 and 503 are [Unprocessed]; 500, 502 and 504 are [Uncertain]; every
// other one is [Final]. A 503 says that the server could not handle the
// request (RFC 9110, section 15.6.4), but some proxies also say it after an
// upstream died half-way. Anyone who talks to such a proxy and must not have a
// POST processed twice can wrap this classifier in one that makes 503 Uncertain.
//
// Errors: those from before a connection stood, and those by which an HTTP/2
// server says that it did not process the stream (RFC 9113, section 8.7), are
// Unprocessed. An untrusted or mismatched certificate, a host that does not exist,
// a request or response that is malformed, and whatever comes when the
// request's context is done, are Final. Everything else, such as a reset, an
// end of file or a timeout, is Uncertain.
//
// An error counts as what it wraps. Of several that are joined, one that is
// Final decides, else one that is Uncertain.
var DefaultClassifier = defaultClassifier{}

type defaultClassifier struct{}

func statusOutcome(status int) Outcome {
	switch status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return Unprocessed
	case http.StatusRequestTimeout, http.StatusInternalServerError, http.StatusBadGateway, http.StatusGatewayTimeout:
		return Uncertain
	}
	return Final
}

// Classify implements [Classifier].
func (defaultClassifier) Classify(req *http.Request, resp *http.Response, err error) Verdict {
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

func classifyError(req *http.Request, err error) Outcome {
	if req.Context().Err() != nil {
		return Final
	}
	if o, told := outcomeOf(err, 0); told {
		return o
	}
	return Uncertain
}

// outcomeOf returns what err and all that it wraps mean, and false if they tell
// nothing. An error that tells something hides the details below it, unless
// they are Final. Of errors that are joined, Final weighs most, then Uncertain:
// when one of several servers may have processed the request, it may have been
// processed.
func outcomeOf(err error, depth int) (outcome Outcome, told bool) {
	if err == nil || isNilPointer(err) || depth == maxErrorDepth {
		return Final, false
	}
	outcome, own := ownOutcome(err)
	if own && outcome == Final {
		return Final, true
	}
	told = own
	causes := unwrap(err)
	for _, cause := range causes {
		switch o, ok := outcomeOf(cause, depth+1); {
		case !ok:
		case o == Final:
			return Final, true
		case !own && (!told || o == Uncertain):
			outcome, told = o, true
		}
	}
	if len(causes) == 0 && !told && isBreak(err) {
		return Uncertain, true
	}
	return outcome, told
}

func isNilPointer(err error) bool {
	v := reflect.ValueOf(err)
	return v.Kind() == reflect.Pointer && v.IsNil()
}

// maxErrorDepth keeps an error that wraps itself from exhausting the stack.
const maxErrorDepth = 100

// unwrap returns what err wraps, if it is not the kind of nil that is no nil.
func unwrap(err error) []error {
	if err == nil || isNilPointer(err) {
		return nil
	}
	switch w := err.(type) {
	case interface{ Unwrap() error }:
		return []error{w.Unwrap()}
	case interface{ Unwrap() []error }:
		return w.Unwrap()
	}
	return nil
}

// ownOutcome returns what err means, regardless of what it wraps.
func ownOutcome(err error) (outcome Outcome, told bool) {
	switch e := err.(type) {
	case *tls.CertificateVerificationError, x509.UnknownAuthorityError, x509.HostnameError,
		x509.CertificateInvalidError, x509.SystemRootsError, tls.RecordHeaderError, *tls.ECHRejectionError:
		return Final, true
	case textproto.ProtocolError:
		return Final, true
	case *net.AddrError, *net.ParseError, net.InvalidAddrError, net.UnknownNetworkError:
		return Final, true
	case *url.Error:
		return Final, e.Op == "parse"
	case *net.DNSError:
		if e.IsNotFound {
			return Final, true
		}
		// Not every failure that passes is marked as temporary.
		return Unprocessed, true
	case *net.OpError:
		return opOutcome(e), true
	case syscall.Errno:
		return errnoOutcome(e), true
	}
	if err == http.ErrSchemeMismatch { // an http.Client's word for a RecordHeaderError
		return Final, true
	}
	if code, cause, ok := streamError(err); ok {
		return streamOutcome(code, cause), true
	}
	return textOutcome(err.Error())
}

func opOutcome(op *net.OpError) Outcome {
	switch {
	case op.Op == "dial", op.Op == "proxyconnect", op.Op == "socks connect":
		return Unprocessed
	case op.Op == "remote error" && isRefusal(op.Err):
		return Final
	}
	return Uncertain
}

// isRefusal reports whether err is an alert by which a TLS server turns down
// the client's certificate, versions, ciphers or protocols (RFC 8446, section
// 6.2). crypto/tls keeps the type of an alert to itself: a uint8.
func isRefusal(err error) bool {
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

// errnoOutcome is for the dialer of the caller's own that gives the errno
// alone. The package syscall has no name for what Windows really returns, and
// no other system uses its numbers.
func errnoOutcome(errno syscall.Errno) Outcome {
	const wsaNetUnreach, wsaConnRefused, wsaHostUnreach = 10051, 10061, 10065
	switch errno {
	case syscall.ECONNREFUSED, syscall.ENETUNREACH, syscall.EHOSTUNREACH,
		wsaNetUnreach, wsaConnRefused, wsaHostUnreach:
		return Unprocessed
	}
	return Uncertain
}

// streamError returns the code and the cause of an HTTP/2 stream error.
// net/http bundles golang.org/x/net/http2 and does not export the type; that of
// x/net would be a dependency. Both are built from the same source, a struct of
// these three fields. They can be relied on: net/http's own conversion of the
// one into the other, which is there for errors.As, goes by their names.
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
		return Unprocessed
	case cause == nil || cause.Error() != "received from peer":
		// Not the server but the client ended the stream, since the response
		// breaks the protocol. Nothing but this text marks the server's.
		return Final
	case code == inadequateSecurity, code == http11Required:
		return Final
	}
	return Uncertain
}

// malformed are the beginnings of errors without a type of their own, by which
// net/http, and below it crypto/tls, turn down a request, a response or a
// configuration for its form. Nothing but their text tells them from a
// connection that broke.
var malformed = []string{
	"unsupported protocol scheme",
	"http: nil Request.",
	"http: no Host in request URL",
	"http: invalid ",
	"http: Request.RequestURI can't be set",
	"http: Request.ContentLength=",
	"http: ContentLength=",
	"http: message cannot contain",
	"net/http: can't write control character",
	"net/http: invalid ",
	"net/http: server response headers exceeded",
	"http2: unsupported scheme",
	"http2: unencrypted HTTP/2 not enabled",
	"http2: unexpected ALPN protocol",
	"http2: request body larger than specified content length",
	"http2: invalid ",
	"http2: failed reading the frame payload", // the server speaks HTTP/1.1
	"http2: Transport received GOAWAY from server ErrCode:INADEQUATE_SECURITY",
	"http2: Transport received GOAWAY from server ErrCode:HTTP_1_1_REQUIRED",
	"request header list larger than peer's advertised limit",
	"malformed HTTP ",
	"bad Content-Length",
	"invalid empty Content-Length",
	"unsupported transfer encoding",
	"too many transfer encodings",
	"bad trailer key",
	"invalid Trailer key",
	"invalid proxy address",
	"Proxy Authentication Required", // all that is left of a 407 to CONNECT
	"tls: server selected unsupported protocol version",
	"tls: no supported versions satisfy MinVersion and MaxVersion",
}

// unprocessed are the beginnings of errors without a type of their own, by
// which net/http says that the server did not process the request: a GOAWAY
// that does not cover its stream, a connection that takes no stream, a TLS
// handshake that did not end. The HTTP/2 among them are the same in
// golang.org/x/net/http2, which is the source of what net/http bundles.
var unprocessed = []string{
	"http2: Transport received Server's graceful shutdown GOAWAY",
	"http2: Transport received GOAWAY from server ErrCode:",
	"http2: client conn not usable",
	"http2: client conn could not be established",
	"net/http: TLS handshake timeout",
}

// textOutcome returns what the text of an error means that has no type.
func textOutcome(text string) (outcome Outcome, told bool) {
	// The refusal of a stream whose body can't be had again is formatted into
	// another error. So is a PROTOCOL_ERROR, which says nothing of the kind.
	if refusal, ok := strings.CutPrefix(text, "http2: Transport: cannot retry err ["); ok {
		if hasAnyPrefix(refusal, unprocessed) ||
			strings.HasPrefix(refusal, "stream error: ") && strings.Contains(refusal, "; REFUSED_STREAM") {
			return Unprocessed, true
		}
		return Uncertain, true
	}
	switch {
	case hasAnyPrefix(text, malformed):
		return Final, true
	case text == "net/http: request canceled": // by the deprecated Request.Cancel
		return Final, true
	case hasAnyPrefix(text, unprocessed):
		return Unprocessed, true
	}
	return Uncertain, false
}

// isBreak reports whether err, which wraps nothing, is one of the ways in which
// net/http says that a connection broke or took too long. It matters where a
// middleware has joined several errors.
func isBreak(err error) bool {
	switch err {
	case io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed, context.Canceled:
		return true
	}
	t, ok := err.(interface{ Timeout() bool })
	return ok && t.Timeout() || hasAnyPrefix(err.Error(), []string{"http: ", "net/http: ", "http2: "})
}

func hasAnyPrefix(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

// IsIdempotent reports whether req may be processed twice: its method is GET,
// HEAD, OPTIONS, TRACE, PUT or DELETE (RFC 9110, section 9.2.2), or it has a
// header Idempotency-Key or X-Idempotency-Key. As for [net/http.Transport], a
// field with an empty list of values counts, and is not sent.
func IsIdempotent(req *http.Request) bool {
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	_, key := req.Header["Idempotency-Key"]
	_, xKey := req.Header["X-Idempotency-Key"]
	return key || xKey
}
