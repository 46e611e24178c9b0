package inference

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
)

// An InferenceRequest is a request for one answer of a model.
type InferenceRequest struct {
	// RequestID, if not empty, is sent as X-Request-ID, included in log records
	// and copied to the response. It must not contain control characters.
	RequestID string

	// Model, if not empty, is sent as the parameter "model", unless Params has
	// one.
	Model string

	// Params is the JSON body. If it has "prompt" but no "messages", it is sent
	// to /v1/completions; otherwise, to /v1/chat/completions. For Generate,
	// "stream" must not be true; Stream always sets it. Nil is an empty body. It
	// is encoded with [encoding/json], and not modified.
	Params map[string]any
}

// body encodes the parameters, with "stream" set if stream is true.
func (r *InferenceRequest) body(stream bool) ([]byte, error) {
	if wish, _ := r.Params["stream"].(bool); wish && !stream {
		return nil, errors.New(`invalid params: "stream" is true: use Stream instead of Generate`)
	}
	params := make(map[string]any, len(r.Params)+1)
	if r.Model != "" {
		params["model"] = r.Model
	}
	maps.Copy(params, r.Params)
	if stream {
		params["stream"] = true
	}
	body, err := json.Marshal(params)
	if err != nil {
		return nil, fmt.Errorf("invalid params: %w", namedParam(params, err))
	}
	return body, nil
}

// namedParam prefixes the public part of err with the name of the parameter that
// failed to encode.
func namedParam(params map[string]any, err error) error {
	for _, name := range slices.Sorted(maps.Keys(params)) {
		if _, err := json.Marshal(params[name]); err != nil {
			return fmt.Errorf("%q: %w", name, publicError(err))
		}
	}
	return publicError(err)
}

// publicError replaces an error of [json.Marshal] that may quote the value, and
// with it the prompt.
func publicError(err error) error {
	switch err := err.(type) {
	case *json.UnsupportedTypeError, *json.UnsupportedValueError:
		return err // names only a type, NaN or an infinity
	case *json.MarshalerError:
		return fmt.Errorf("json: error calling a method of type %v", err.Type)
	}
	return errors.New("json: invalid number or map key")
}

// endpoint returns the path, relative to BaseURL, to which the request is sent.
func (r *InferenceRequest) endpoint() string {
	_, prompt := r.Params["prompt"]
	_, messages := r.Params["messages"]
	if prompt && !messages {
		return "v1/completions"
	}
	return "v1/chat/completions"
}

const requestIDHeader = "X-Request-ID"

// newRequest returns the HTTP request with body. Since that is in memory, the
// request has a GetBody, and is replayed without another buffer.
func (g gateway) newRequest(ctx context.Context, r *InferenceRequest, body []byte) (*http.Request, error) {
	if !validHeaderValue(r.RequestID) {
		return nil, fmt.Errorf("invalid request: invalid RequestID %q: must not contain control characters", r.RequestID)
	}
	target := g.base.JoinPath(r.endpoint())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("invalid request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	if g.apiKey != "" {
		req.Header.Set("Authorization", "Bearer "+g.apiKey)
	}
	if r.RequestID != "" {
		req.Header.Set(requestIDHeader, r.RequestID)
	}
	return req, nil
}
