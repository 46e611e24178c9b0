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

// An InferenceRequest asks a model for one answer.
type InferenceRequest struct {
	// RequestID, if not empty, is sent as X-Request-ID, stands in log lines
	// and comes back in the response. It must not hold control characters.
	RequestID string

	// Model, if not empty, becomes the parameter "model" where Params has
	// none. Where it has one, that is sent, whatever Model says: Params is
	// the body as the caller wants it.
	Model string

	// Params is the JSON body. With a "prompt" and without "messages" it is
	// sent to /v1/completions, otherwise to /v1/chat/completions. Its "stream"
	// must not be true for Generate, which returns an answer whole, and does
	// not matter for Stream. Nil counts as empty.
	Params map[string]any
}

// body encodes the parameters, for an answer as a stream or whole.
func (r *InferenceRequest) body(stream bool) ([]byte, error) {
	if wish, _ := r.Params["stream"].(bool); wish && !stream {
		return nil, errors.New(`invalid params: "stream" is true: Generate returns answers whole, call Stream`)
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

// namedParam puts the name of the parameter that can't be encoded before err.
func namedParam(params map[string]any, err error) error {
	for _, name := range slices.Sorted(maps.Keys(params)) {
		if _, err := json.Marshal(params[name]); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
	}
	return err
}

// endpoint is the path, below the BaseURL's, that answers the request.
func (r *InferenceRequest) endpoint() string {
	_, prompt := r.Params["prompt"]
	_, messages := r.Params["messages"]
	if prompt && !messages {
		return "v1/completions"
	}
	return "v1/chat/completions"
}

const requestIDHeader = "X-Request-ID"

// newRequest makes the HTTP request that sends body. Its body is in memory, so
// it has a GetBody and is replayed without being recorded.
func (c *HTTPInferenceClient) newRequest(ctx context.Context, r *InferenceRequest, body []byte) (*http.Request, error) {
	if !validHeaderValue(r.RequestID) {
		return nil, fmt.Errorf("invalid request: RequestID is %q: it must not hold control characters", r.RequestID)
	}
	target := c.base.JoinPath(r.endpoint())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("invalid request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	if c.apiKey != "" {
		req.Header.Set("Authorization", "Bearer "+c.apiKey)
	}
	if r.RequestID != "" {
		req.Header.Set(requestIDHeader, r.RequestID)
	}
	return req, nil
}
