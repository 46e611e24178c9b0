package inference

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// An InferenceResponse is the gateway's answer to an [InferenceRequest]: a
// response with a status of 2xx whose body is JSON, and not an error.
type InferenceResponse struct {
	RequestID string // that of the request
	Response  []byte // the body as it came
	RawData   any    // the body decoded, numbers as float64
}

const (
	// maxResponseBytes bounds a response body. The longest answers of today's
	// models, with log probabilities, are a few MiB.
	maxResponseBytes = 16 << 20

	// maxFailureBytes is what is kept of the body of a response that is no
	// answer. Errors are a few KiB, and may be kept for long.
	maxFailureBytes = 64 << 10
)

var errResponseTooLarge = fmt.Errorf("response body is larger than %d MiB", maxResponseBytes>>20)

// receive turns a response into Generate's results.
func receive(ctx context.Context, requestID string, resp *http.Response, s secrets) (*InferenceResponse, *InferenceError) {
	body, err := readBody(resp)
	success := resp.StatusCode/100 == 2
	switch {
	case err == errResponseTooLarge:
		return nil, statusError(statusCategory(resp.StatusCode), resp, nil, err.Error())
	case err != nil && (success || ctx.Err() != nil):
		return nil, executeError(ctx, err, s)
	case !success:
		return nil, statusError(statusCategory(resp.StatusCode), resp, body, s.redact(failureText(resp, body)))
	}
	var data any
	if json.Unmarshal(body, &data) != nil {
		text := fmt.Sprintf("response is not JSON (%s)", contentType(resp))
		return nil, statusError(ErrCategoryServer, resp, body, s.redact(text))
	}
	return &InferenceResponse{RequestID: requestID, Response: body, RawData: data}, nil
}

// readBody reads the response body. What is not read ahead by the retry layer
// can take for ever; it is of no use here and left alone.
func readBody(resp *http.Response) ([]byte, error) {
	switch {
	case resp.ContentLength > maxResponseBytes:
		return nil, errResponseTooLarge
	case resp.StatusCode == http.StatusSwitchingProtocols, isEventStream(resp):
		return nil, nil
	}
	body, err := readUpTo(resp, maxResponseBytes)
	if len(body) > maxResponseBytes {
		return nil, errResponseTooLarge
	}
	return body, err
}

// readUpTo reads limit bytes of the response body, and one more if there is
// one: that tells a body that fits from one that does not. The Content-Length
// must not be larger than limit.
func readUpTo(resp *http.Response, limit int64) ([]byte, error) {
	var buf bytes.Buffer
	buf.Grow(int(max(resp.ContentLength, 0)) + bytes.MinRead) // so that it need not be copied as it grows
	_, err := buf.ReadFrom(io.LimitReader(resp.Body, limit+1))
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

// failureText is what the gateway says about a failure: the API's message,
// else the body, else the name of the status.
func failureText(resp *http.Response, body []byte) string {
	var texts []string
	for _, e := range parseAPIErrors(body) {
		texts = append(texts, e.Message)
	}
	for _, text := range append(texts, string(body[:min(len(body), maxFailureBytes)]), http.StatusText(resp.StatusCode)) {
		if text = strings.TrimSpace(text); text != "" {
			return text
		}
	}
	return "empty response body"
}
