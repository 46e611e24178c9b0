package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"

	"github.com/httpretry/httpretry/inference"
)

// Categories of failures, beside those of package inference, which they divide.
const (
	categoryModel       = "MODEL_NOT_FOUND"
	categoryNotFound    = "NOT_FOUND"
	categoryQuota       = "QUOTA_EXHAUSTED"
	categoryHost        = "UNKNOWN_HOST"
	categoryCertificate = "CERTIFICATE"
	categoryScheme      = "WRONG_SCHEME"
	categoryFiles       = "TOO_MANY_OPEN_FILES"
	categoryForeign     = "FOREIGN_RESULT"
)

// advice has a remedy for each category whose failures have one cause for all
// requests.
var advice = map[string]string{
	string(inference.ErrCategoryAuth): "check the API key, in INFERENCE_API_KEY or inference_api_key",
	categoryModel:                     "check the model of the requests",
	categoryNotFound:                  "check the gateway's URL",
	categoryQuota:                     "check the account at the gateway",
	categoryHost:                      "check the gateway's URL",
	categoryCertificate:               "check the gateway's certificate, and the authorities that this machine trusts",
	categoryScheme:                    "check whether the gateway's URL begins with http or with https",
	categoryForeign:                   "run the same version of batchinfer at the head and at all workers",
}

// categoryOf returns the category of a failure. final reports whether the client
// has found that a retry would not help.
func categoryOf(failed *inference.InferenceError, final bool) string {
	if status, ok := errors.AsType[*inference.StatusError](failed.RawError); ok {
		return statusCategory(failed, status, final)
	}
	dns, notResolved := errors.AsType[*net.DNSError](failed.RawError)
	switch {
	case isOutOfFiles(failed.RawError):
		return categoryFiles
	case notResolved && dns.IsNotFound:
		return categoryHost
	case isCertificateError(failed.RawError):
		return categoryCertificate
	case errors.Is(failed.RawError, http.ErrSchemeMismatch):
		return categoryScheme
	}
	return string(failed.Category)
}

func statusCategory(failed *inference.InferenceError, status *inference.StatusError, final bool) string {
	body := bytes.ToLower(status.Body)
	switch {
	case status.StatusCode == http.StatusNotFound && bytes.Contains(body, []byte("model")):
		return categoryModel // each gateway has another code for it
	case status.StatusCode == http.StatusNotFound:
		return categoryNotFound
	case status.StatusCode == http.StatusPaymentRequired, status.StatusCode == http.StatusTooManyRequests && final:
		return categoryQuota
	case status.StatusCode == http.StatusBadRequest && bytes.Contains(body, []byte("http request to an https server")):
		return categoryScheme // the text of net/http; nginx says nearly the same
	case status.StatusCode == http.StatusBadRequest && bytes.Contains(body, []byte("plain http request was sent to https port")):
		return categoryScheme
	}
	return string(failed.Category)
}

func isCertificateError(err error) bool {
	_, verification := errors.AsType[*tls.CertificateVerificationError](err)
	_, authority := errors.AsType[x509.UnknownAuthorityError](err)
	_, host := errors.AsType[x509.HostnameError](err)
	return verification || authority || host
}

// maxHopeless is the number of failures of one kind after which a run stops.
// Thousands of requests with a wrong key lock accounts.
const maxHopeless = 20

// A streak counts the final failures in a row that have the same cause.
type streak struct {
	kind     string
	length   int
	first    failure
	answered bool // some request was answered in this run
}

// add counts the end of a request, and returns an error once there is no hope for
// the other requests.
func (s *streak) add(r result) error {
	if r.answer.Error == nil {
		*s = streak{answered: true}
		return nil
	}
	kind, common := r.kind()
	if kind == "" || s.answered && !common {
		return nil
	}
	if kind != s.kind {
		*s = streak{kind: kind, first: *r.answer.Error, answered: s.answered}
	}
	if s.length++; s.length < maxHopeless {
		return nil
	}
	text := fmt.Sprintf("%d requests in a row failed in the same way: %s: %s", s.length, s.first.Code, s.first.Message)
	if todo := advice[s.first.Code]; todo != "" {
		text += "\nbatchinfer: " + todo
	}
	return &hopelessError{text}
}

// A hopelessError is the reason why the requests that are left are not sent.
type hopelessError struct{ text string }

func (e *hopelessError) Error() string { return e.text }

// unwilling is the kind of the failures for which a gateway would serve no request. They
// are of one kind because several gateways may each have another reason.
const unwilling = "unwilling"

// kind returns the cause of a final failure, or "" if the failure may pass. common
// reports whether the cause is that of all requests, whatever they ask.
func (r result) kind() (kind string, common bool) {
	code := r.answer.Error.Code
	switch {
	case r.tally.tooLong > 0:
		return "wait", true
	case !r.tally.final:
		return "", false
	case code == categoryModel, code == categoryNotFound:
		return unwilling, false
	case code == string(inference.ErrCategoryAuth), code == categoryQuota:
		return unwilling, true
	case advice[code] != "":
		return code, true
	}
	text := r.answer.Error.Message
	if r.answer.Response != nil {
		text += string(r.answer.Response.Body)
	}
	if ofPrompt.MatchString(text) {
		return "", false
	}
	// Such as an invalid parameter, which may be in a part of the requests.
	return code + varying.ReplaceAllLiteralString(r.answer.Error.Message, "…"), false
}

var (
	// varying matches the parts of a message that differ between requests although the
	// cause is the same: quoted text, remarks in parentheses, words with a digit, and
	// words that are too long for a language.
	varying = regexp.MustCompile(`"(?:[^"\\]|\\.)*(?:"|$)|\B'[^']*(?:'|$)|\([^()]*\)|[\w-]*[0-9][\w-]*|[\w-]{20,}`)

	// ofPrompt matches the failures for the length or the content of a prompt. A file
	// may begin with many such prompts, and each fails for itself.
	ofPrompt = regexp.MustCompile(`(?i)context.?length|too.?long|content.?(?:filter|policy)`)
)
