// Package inference is a thin client for inference gateways that speak the
// OpenAI API: vLLM, llm-d, LiteLLM, the OpenAI service itself.
//
// [HTTPInferenceClient] is an [http.Client] on top of an
// [httpretry.RetryTransport]. It builds a request, and sorts what comes back
// into a few categories; sending again, waiting and giving up are the retry
// layer's.
package inference

import (
	"context"
	"net/http"
	"net/url"

	"github.com/httpretry/httpretry"
)

// An InferenceClient generates text. It is what code that uses a gateway asks
// for, so that its tests can do without one.
type InferenceClient interface {
	// Generate sends req and returns the answer or the error, one of which is
	// nil. See [HTTPInferenceClient.Generate] for the trap in its second result.
	Generate(ctx context.Context, req *InferenceRequest) (*InferenceResponse, *InferenceError)
}

// An HTTPInferenceClient sends requests to one gateway over HTTP. Make it with
// [NewHTTPInferenceClient]; it is safe for concurrent use, keeps connections
// open between requests and is meant to live as long as the program.
type HTTPInferenceClient struct {
	invalid error // what is wrong with the configuration
	base    *url.URL
	apiKey  string
	client  *http.Client
}

var _ InferenceClient = (*HTTPInferenceClient)(nil)

// NewHTTPInferenceClient returns a client for the gateway at config.BaseURL.
// It never fails: the client of an invalid configuration answers every request
// with [ErrCategoryInvalidReq] and sends nothing. Call
// [HTTPInferenceClientConfig.Validate] to know before.
func NewHTTPInferenceClient(config HTTPInferenceClientConfig) *HTTPInferenceClient {
	if err := config.Validate(); err != nil {
		return &HTTPInferenceClient{invalid: err}
	}
	base, err := config.baseURL()
	return &HTTPInferenceClient{
		invalid: err,
		base:    base,
		apiKey:  config.APIKey,
		client:  &http.Client{Transport: config.retryTransport(), CheckRedirect: keepMethod},
	}
}

// Generate sends req to the gateway and returns its answer, whole. It tries
// again as configured, and returns when there is an answer, when there is
// nothing more to try, or when ctx is done.
//
// Exactly one of the two results is nil. The second is a concrete pointer type:
// assigned to a variable of type error, a nil *InferenceError is an error that
// is not nil. Compare it with nil before passing it on as an error.
//
// req is not modified, and not used after Generate has returned.
//
// A redirect is followed if it asks for the same request elsewhere (307, 308),
// up to ten times; the API key goes along only to the same domain and its
// subdomains. Any other would turn the request into a GET, and is an error.
//
// [httpretry.WithPolicy] on ctx overrides the configured retries.
func (c *HTTPInferenceClient) Generate(ctx context.Context, req *InferenceRequest) (*InferenceResponse, *InferenceError) {
	if c.invalid != nil {
		return nil, invalidRequest("invalid client configuration: "+c.invalid.Error(), c.invalid)
	}
	if req == nil {
		return nil, invalidRequest("request cannot be nil", nil)
	}
	body, err := req.body()
	if err != nil {
		return nil, invalidRequest(err.Error(), err)
	}
	httpReq, err := c.newRequest(ctx, req, body)
	if err != nil {
		return nil, invalidRequest(err.Error(), err)
	}
	s := newSecrets(c.apiKey, c.base, body)
	resp, err := c.client.Do(httpReq)
	if err != nil {
		return nil, executeError(ctx, err, s)
	}
	defer resp.Body.Close()
	return receive(ctx, req.RequestID, resp, s)
}

// CloseIdleConnections closes the connections that no request is using. The
// client remains usable. Call it when the client is no longer needed; with a
// [HTTPInferenceClientConfig.Transport] that other code shares, it closes
// theirs too.
func (c *HTTPInferenceClient) CloseIdleConnections() {
	if c.client != nil {
		c.client.CloseIdleConnections()
	}
}

// keepMethod is a CheckRedirect that stops at the redirect in place of turning
// a POST into a GET, as [http.Client] does for 301, 302 and 303.
func keepMethod(req *http.Request, via []*http.Request) error {
	if req.Method != via[0].Method || len(via) > 10 {
		return http.ErrUseLastResponse
	}
	return nil
}

// retryTransport is the retry layer that the configuration asks for.
func (c HTTPInferenceClientConfig) retryTransport() *httpretry.RetryTransport {
	return &httpretry.RetryTransport{
		Base:   c.transport(),
		Policy: c.policy(),
		// Generating has no side effect, so a POST may be processed twice.
		Idempotent:       func(*http.Request) bool { return true },
		MaxResponseBytes: maxResponseBytes,
		AttemptTimeout:   c.timeout(),
		OnAttempt:        c.onAttempt(),
	}
}
