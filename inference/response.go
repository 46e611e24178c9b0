package inference

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/httpretry/httpretry/internal/rawjson"
)

// An InferenceResponse is the gateway's response to an [InferenceRequest]: a 2xx
// whose body is JSON with an answer. It belongs to the caller.
type InferenceResponse struct {
	// RequestID is that of the request.
	RequestID string

	// Response is the response body, without a byte order mark.
	Response []byte

	// RawData is Response decoded into the types of [encoding/json], with
	// numbers as float64. If a number exceeds the range of float64, it is a
	// [json.Number]. RawData is nil if
	// [HTTPInferenceClientConfig.OmitRawData] is set.
	RawData any
}

const (
	// maxResponseBytes limits a response body. The longest answers of today's
	// models, with log probabilities, have a few MiB.
	maxResponseBytes = 16 << 20

	// maxFailureBytes limits the part of a failed response's body that is kept.
	// Errors have a few KiB, and may be retained for a long time.
	maxFailureBytes = 64 << 10
)

var errResponseTooLarge = fmt.Errorf("response body is larger than %d MiB", maxResponseBytes>>20)

// A failure is the error of an attempt whose 2xx response has no answer.
type failure struct {
	status   int // the status for the error in the body, or that of the response
	category ErrorCategory
	text     string      // a description, with secrets
	errs     []apiError  // the errors in the body, nil if it describes none
	header   http.Header // of the response
	final    bool        // the next response would be the same
	cause    *StatusError
}

// Error returns a description without text from the gateway.
func (f *failure) Error() string {
	if f.errs == nil {
		return f.cause.Error() + " without an answer"
	}
	return f.cause.Error()
}

// Unwrap returns the *StatusError.
func (f *failure) Unwrap() error { return f.cause }

// describedError returns the failure for errs, which body describes.
func describedError(resp *http.Response, body []byte, errs []apiError) *failure {
	status := statusCode(errs)
	return &failure{
		status: status, category: statusCategory(status), text: failureText(status, body, errs),
		errs: errs, header: resp.Header, cause: newStatusError(status, body),
	}
}

// errorEvent returns the failure for an event with an error.
func errorEvent(resp *http.Response, data []byte) *failure {
	errs := parseAPIErrors(data)
	if errs == nil {
		errs = []apiError{{}}
	}
	return describedError(resp, data, errs)
}

// noAnswer returns the failure for a 2xx response with a fault.
func noAnswer(resp *http.Response, body []byte, fault string) *failure {
	return &failure{
		status: resp.StatusCode, category: ErrCategoryServer, text: fmt.Sprintf("%s (%s)", fault, contentType(resp)),
		header: resp.Header, cause: newStatusError(resp.StatusCode, body),
	}
}

// notJSON returns the failure for an event that is not JSON.
func notJSON(resp *http.Response, data []byte) *failure {
	return &failure{
		status: resp.StatusCode, category: ErrCategoryServer, text: "event is not JSON",
		header: resp.Header, cause: newStatusError(resp.StatusCode, data),
	}
}

// tooLarge returns the failure for a 2xx response that is too large.
func tooLarge(resp *http.Response) *failure {
	return &failure{
		status: resp.StatusCode, category: statusCategory(resp.StatusCode), text: errResponseTooLarge.Error(),
		header: resp.Header, final: true, cause: newStatusError(resp.StatusCode, nil),
	}
}

// checkAnswer returns the failure if x.body, of a 2xx response, has no answer. If it
// is not JSON, it is described as fault.
func (x *exchange) checkAnswer(resp *http.Response, fault string) error {
	if len(x.body) > maxErrorBytes {
		if !rawjson.Valid(x.body) {
			return noAnswer(resp, x.body, fault)
		}
		return nil
	}
	cs, valid := parse(x.body)
	errs := cs.errors(x.body)
	switch {
	case !valid:
		return noAnswer(resp, x.body, fault)
	case errs != nil:
		return describedError(resp, x.body, errs)
	case x.completion && !cs.isAnswer() && isVoid(x.body):
		return noAnswer(resp, x.body, "response has no answer")
	}
	return nil
}

// decode decodes valid JSON.
func decode(body []byte) (data any) {
	if json.Unmarshal(body, &data) == nil {
		return data
	}
	// A number may exceed the range of float64, which RFC 8259, section 6, allows.
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if d.Decode(&data) != nil {
		return nil
	}
	return withFloats(data)
}

// withFloats replaces each json.Number in data that fits by a float64.
func withFloats(data any) any {
	switch v := data.(type) {
	case json.Number:
		if f, err := v.Float64(); err == nil {
			return f
		}
	case []any:
		for i := range v {
			v[i] = withFloats(v[i])
		}
	case map[string]any:
		for name := range v {
			v[name] = withFloats(v[name])
		}
	}
	return data
}

// readBody reads a response body, whose length may be unknown: negative or 0.
func readBody(body io.Reader, length int64) ([]byte, error) {
	if length > maxResponseBytes {
		return nil, errResponseTooLarge
	}
	// ReadFrom needs MinRead bytes to see the end. (Grow would allocate twice.)
	buf := bytes.NewBuffer(make([]byte, 0, max(length, 0)+bytes.MinRead))
	// The byte beyond the limit shows that the body is too large.
	_, err := buf.ReadFrom(io.LimitReader(body, maxResponseBytes+1))
	if buf.Len() > maxResponseBytes {
		return nil, errResponseTooLarge
	}
	return buf.Bytes(), err
}

const noContentType = "no Content-Type"

func contentType(resp *http.Response) string {
	mediaType, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	if mediaType = strings.TrimSpace(mediaType); mediaType != "" {
		return mediaType
	}
	return noContentType
}

// failureText returns the gateway's description of a failure: an API's error
// message, the body, or the status text, in that order.
func failureText(status int, body []byte, errs []apiError) string {
	var texts []string
	for _, e := range errs {
		texts = append(texts, e.Message)
	}
	for _, text := range append(texts, string(body[:min(len(body), maxFailureBytes)]), http.StatusText(status)) {
		if text = strings.TrimSpace(text); text != "" {
			return text
		}
	}
	return "empty response body"
}
