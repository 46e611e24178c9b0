package inference

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/httpretry/httpretry/internal/headerfield"
	"github.com/httpretry/httpretry/internal/rawjson"
	"github.com/httpretry/httpretry/internal/urlpath"
)

// An InferenceRequest is a request for one answer of a model.
type InferenceRequest struct {
	// RequestID, if not empty, is sent as X-Request-ID, included in log records
	// and copied to the response. It must not contain control characters.
	RequestID string

	// Model, if not empty, is sent as the parameter "model", unless Params has
	// one. It is ignored if Body is set.
	Model string

	// Params is the JSON body. If Path is empty, Params with "prompt" but no
	// "messages" are sent to /v1/completions, and others to /v1/chat/completions.
	// For Generate, "stream" must not be true; Stream always sets it. Nil is an
	// empty object. It is encoded with [encoding/json], and not modified.
	Params map[string]any

	// Method is the HTTP method. If empty, it is POST. A request may be sent
	// several times whatever its method.
	Method string

	// Path is the path below that of BaseURL to which the request is sent, such as
	// "/v1/embeddings". It must begin with a slash and must not contain "." or
	// ".." as a segment. Escapes are preserved. It may have a query, which follows
	// that of BaseURL. If empty, it depends on the members of Params or Body.
	//
	// The answer must have choices if Path is empty or ends in "/completions";
	// otherwise, it must be JSON. Stream supports only paths whose answer has choices.
	Path string

	// Body, if not nil, is the JSON text that is sent, unchanged, in place of
	// Params. Generate does not accept the member "stream" with the value true,
	// and Stream requires it. If empty but not nil, the request has no body. It must
	// not be modified, since the transport may read it after Generate has returned.
	Body json.RawMessage
}

// body returns the JSON body, and encodes the parameters if it is made of those,
// with "stream" set if stream is true.
func (r *InferenceRequest) body(stream bool) ([]byte, error) {
	if r.Body != nil {
		return r.Body, r.checkBody(stream)
	}
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

func (r *InferenceRequest) checkBody(stream bool) error {
	if len(r.Body) > 0 && !rawjson.Valid(r.Body) {
		return errors.New("invalid body: not valid JSON")
	}
	wish := string(member(r.Body, "stream")) == "true"
	switch {
	case wish && !stream:
		return errors.New(`invalid body: "stream" is true: use Stream instead of Generate`)
	case stream && !wish:
		return errors.New(`invalid body: "stream" must be true for Stream`)
	}
	return nil
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

// target returns the URL to which the request is sent.
func (r *InferenceRequest) target(base *url.URL) (*url.URL, error) {
	if r.Path == "" {
		return urlpath.Join(base, &url.URL{Path: r.endpoint()}), nil
	}
	path, err := urlpath.Parse(r.Path)
	if err != nil {
		return nil, fmt.Errorf("invalid request: invalid Path: %w", err)
	}
	return urlpath.Join(base, path), nil
}

// endpoint returns the path for a request without one.
func (r *InferenceRequest) endpoint() string {
	_, prompt := r.Params["prompt"]
	_, messages := r.Params["messages"]
	if r.Body != nil {
		prompt, messages = member(r.Body, "prompt") != nil, member(r.Body, "messages") != nil
	}
	if prompt && !messages {
		return "/v1/completions"
	}
	return "/v1/chat/completions"
}

// isCompletion reports whether the answer must have choices.
func (r *InferenceRequest) isCompletion() bool {
	path, _, _ := strings.Cut(r.Path, "?")
	return path == "" || strings.HasSuffix(path, "/completions")
}

const requestIDHeader = "X-Request-ID"

// newRequest returns the HTTP request with body. Since that is in memory, the
// request has a GetBody, and is replayed without another buffer.
func (g gateway) newRequest(ctx context.Context, r *InferenceRequest, body []byte) (*http.Request, error) {
	if !headerfield.IsValue(r.RequestID) {
		return nil, fmt.Errorf("invalid request: invalid RequestID %q: must not contain control characters", r.RequestID)
	}
	target, err := r.target(g.base)
	if err != nil {
		return nil, err
	}
	method := cmp.Or(r.Method, http.MethodPost)
	req, err := http.NewRequestWithContext(ctx, method, target.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("invalid request: %w", err)
	}
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	if g.apiKey != "" {
		req.Header.Set("Authorization", "Bearer "+g.apiKey)
	}
	for name, values := range g.header {
		if name == "Host" {
			req.Host = values[0]
			continue
		}
		req.Header[name] = slices.Clone(values)
	}
	if r.RequestID != "" {
		req.Header.Set(requestIDHeader, r.RequestID)
	}
	return req, nil
}
