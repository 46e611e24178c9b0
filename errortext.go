package httpretry

import (
	"context"
	"io"
	"net"
	"net/http"
	"reflect"
	"strconv"
	"strings"
)

// Most errors of net/http have no type, and only their text tells them apart.
// TestErrorText_OccursInGo fails if a text of this file no longer occurs in the
// Go release in use.

// malformed lists prefixes of untyped errors with which net/http and crypto/tls
// reject a malformed request, response or configuration.
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
	"http2: failed reading the frame payload", // the server uses HTTP/1.1
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
	"tls: server selected unsupported protocol version",
	"tls: no supported versions satisfy MinVersion and MaxVersion",
}

// unprocessed lists prefixes of untyped errors that imply that the server did
// not process the request: a GOAWAY that excludes its stream, a connection that
// accepts no new streams, a TLS handshake timeout. The HTTP/2 texts are the same
// in golang.org/x/net/http2, which net/http bundles.
var unprocessed = []string{
	"http2: Transport received Server's graceful shutdown GOAWAY",
	"http2: Transport received GOAWAY from server ErrCode:",
	"http2: client conn not usable",
	"http2: client conn could not be established",
	"net/http: TLS handshake timeout",
}

// canceled lists the errors for Request.Cancel and Transport.CancelRequest. The
// whole text must match, because an http.Client appends "(Client.Timeout exceeded
// …)" to it for a timeout of its own.
var canceled = []string{
	"net/http: request canceled",
	"net/http: request canceled while waiting for connection",
}

// socksRefusals lists prefixes of SOCKS errors that concern the proxy's
// configuration. Those of a reply (RFC 1928, section 6) follow socksReply.
var socksRefusals = []string{
	"no acceptable authentication methods",
	"invalid username/password",
	"username/password authentication failed",
	"unsupported authentication method ",
	"connection not allowed by ruleset",
	"command not supported",
	"address type not supported",
	"unexpected protocol version ",
	"unknown address type",
	"non-zero reserved field",
	"FQDN too long",
	"port number out of range ",
}

// Other texts on which a verdict depends.
const (
	socksReply        = "unknown error "
	noPhrase          = "unknown status code"
	resetByPeer       = "received from peer"
	cannotRetry       = "http2: Transport: cannot retry err ["
	anyStreamError    = "stream error: "
	refusedStreamName = "REFUSED_STREAM"
	malformedResponse = "malformed HTTP response"
	malformedStatus   = "malformed HTTP status code"
	malformedField    = "malformed MIME header line:"
	missingColon      = "malformed MIME header: missing colon:"
)

// tchar has the characters of a token (RFC 9110, section 5.6.2).
const tchar = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// textOutcome classifies an untyped error by its text.
func textOutcome(text string) (outcome Outcome, known bool) {
	// If the body of a refused stream can't be rewound, net/http returns a new
	// error with the text of the first. It does the same for PROTOCOL_ERROR,
	// after which the request was possibly processed.
	if refusal, ok := strings.CutPrefix(text, cannotRetry); ok {
		if hasAnyPrefix(refusal, unprocessed) ||
			strings.HasPrefix(refusal, anyStreamError) && strings.Contains(refusal, "; "+refusedStreamName) {
			return Unprocessed, true
		}
		return Uncertain, true
	}
	for _, c := range canceled {
		if text == c {
			return Final, true
		}
	}
	switch {
	case isCutOff(text):
		return Uncertain, true
	case hasAnyPrefix(text, malformed):
		return Final, true
	case hasAnyPrefix(text, unprocessed):
		return Unprocessed, true
	}
	return Uncertain, false
}

// isCutOff reports whether text is the error for a response header that ended
// too early. textproto.Reader returns the bytes before an EOF or a reset as a
// whole line, so net/http reports a malformed response. A server that really
// sends such a line causes the same error. A broken connection is assumed, because
// resending is safe for an idempotent request.
func isCutOff(text string) bool {
	before, quoted, _ := strings.Cut(text, ` "`)
	line, err := strconv.Unquote(`"` + quoted)
	if err != nil {
		return false
	}
	// The reader has removed each CR that precedes a LF.
	halfCRLF := strings.HasSuffix(line, "\r")
	switch before {
	case malformedResponse:
		// RFC 9112, section 4: the version ends with a space.
		return halfCRLF || line != "" && (strings.HasPrefix("HTTP/1.1", line) || strings.HasPrefix("HTTP/1.0", line))
	case malformedStatus:
		// RFC 9112, section 4: the status code has three digits.
		return halfCRLF || len(line) < 3 && strings.Trim(line, "0123456789") == ""
	case missingColon:
		// RFC 9110, section 5.1: a field name is a token. More bytes could
		// not make any other line valid.
		return halfCRLF || strings.Trim(line, tchar) == ""
	case malformedField:
		return halfCRLF
	}
	return false
}

// phraseOutcome classifies the reason phrase of a proxy's response to CONNECT.
// RFC 9110, section 9.3.6: the proxy has not sent anything to the server.
func phraseOutcome(phrase string) (outcome Outcome, known bool) {
	switch {
	case phrase == "" || phrase == noPhrase:
		return Final, true
	case strings.EqualFold(phrase, "Gateway Time-out"), // nginx, Apache
		strings.EqualFold(phrase, "Service Temporarily Unavailable"), // nginx
		strings.EqualFold(phrase, "Proxy Error"):                     // Apache
		return Unprocessed, true
	}
	for status := http.StatusMultipleChoices; status < 600; status++ {
		if !strings.EqualFold(phrase, http.StatusText(status)) {
			continue
		}
		// A proxy's 429 or 408 is Final like its other 4xx. After a 501 or
		// 505 a retry would fail again.
		if status >= 500 && statusOutcome(status) != Final {
			return Unprocessed, true
		}
		return Final, true
	}
	return Uncertain, false
}

// A connectError is an untyped error that can only be a proxy's response to
// CONNECT.
type connectError struct{ error }

func (e *connectError) Unwrap() error { return e.error }

// asConnectError returns a *connectError that wraps err, which base returned for
// req, if err can only be a proxy's response to CONNECT. Otherwise it returns err.
// It calls base.Proxy only for an untyped error of unknown text.
func asConnectError(base http.RoundTripper, req *http.Request, err error) error {
	t, ok := base.(*http.Transport)
	if !ok || t.Proxy == nil || err == nil || !isUntyped(err) || req.URL == nil || req.URL.Scheme != "https" {
		return err
	}
	// Errors of crypto/tls and io can also follow a successful CONNECT.
	if _, known := textOutcome(err.Error()); known || isBreak(err) || hasAnyPrefix(err.Error(), []string{"tls: ", "io: "}) {
		return err
	}
	proxy, proxyErr := t.Proxy(req)
	if proxyErr != nil || proxy == nil || proxy.Scheme != "http" && proxy.Scheme != "https" {
		return err
	}
	return &connectError{err}
}

var untyped = reflect.TypeOf(io.EOF)

// isUntyped reports whether err was made by errors.New.
func isUntyped(err error) bool { return reflect.TypeOf(err) == untyped }

// isBreak reports whether err, which wraps nothing, is one that net/http returns
// for a broken connection or a timeout. It matters only for joined errors.
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
