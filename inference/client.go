// Package inference is a thin client for inference gateways that speak the
// OpenAI API: vLLM, llm-d, LiteLLM, the OpenAI service itself.
//
// [HTTPInferenceClient] is an [http.Client] on top of an
// [httpretry.RetryTransport]. It builds a request, and sorts what comes back
// into a few categories; sending again, waiting and giving up are the retry
// layer's. [HTTPInferenceClient.Generate] returns an answer whole,
// [HTTPInferenceClient.Stream] as it comes.
//
// [Classifier] is what the retry layer goes by. It serves under any other
// client of such an API as well.
//
// What this package logs and the texts of its errors hold neither the API key
// nor the prompt. But package net/http has log lines of its own, which no
// transport can turn off or redirect: an "Unsolicited response received on idle
// HTTP channel" goes to the standard logger of package log, and quotes what the
// gateway sent. A program that must not have that in a log filters it, or
// discards it, with [log.SetOutput].
package inference

import (
	"context"
	"net/http"
	"net/url"
	"time"

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
// open between requests and is meant to live as long as the program. The zero
// value answers every request with [ErrCategoryInvalidReq].
type HTTPInferenceClient struct {
	invalid   error // what is wrong with the configuration
	base      *url.URL
	apiKey    string
	transport http.RoundTripper         // makes each attempt
	retry     *httpretry.RetryTransport // on a corrector of that
	client    *http.Client              // with retry
	idle      time.Duration
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
	transport := config.transport()
	retry := config.retryTransport(transport)
	return &HTTPInferenceClient{
		invalid:   err,
		base:      base,
		apiKey:    config.APIKey,
		transport: transport,
		retry:     retry,
		client:    &http.Client{Transport: retry, CheckRedirect: keepMethod},
		idle:      config.streamIdleTimeout(),
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
// A success whose body is an error, such as {"error": {…}} without choices, is
// a failed attempt with the status that the API has for such an error. One of
// more than 256 KiB is not recognised.
//
// req is not modified, and not used after Generate has returned.
//
// A redirect is followed if it asks for the same request elsewhere (307, 308),
// up to ten times; the API key goes along only to the same domain and its
// subdomains. Any other would turn the request into a GET, and is an error, as
// is a redirect from https to http.
//
// [httpretry.WithPolicy] on ctx overrides the configured retries.
func (c *HTTPInferenceClient) Generate(ctx context.Context, req *InferenceRequest) (*InferenceResponse, *InferenceError) {
	httpReq, s, failure := c.prepare(ctx, req, false)
	if failure != nil {
		return nil, failure
	}
	resp, err := c.client.Do(httpReq)
	if err != nil {
		return nil, executeError(ctx, err, s)
	}
	defer resp.Body.Close()
	return receive(ctx, req.RequestID, resp, s)
}

// String returns where the gateway is, without userinfo and query. It is a
// method of the value, so that no verb of package fmt shows the API key of a
// client or of a pointer to it.
func (c HTTPInferenceClient) String() string {
	if c.base == nil {
		return "inference client without a gateway"
	}
	public := url.URL{Scheme: c.base.Scheme, Host: c.base.Host, Path: c.base.Path}
	return "inference client for " + public.String()
}

// GoString returns the same as String.
func (c HTTPInferenceClient) GoString() string { return c.String() }

// CloseIdleConnections closes the connections that no request is using. The
// client remains usable. Call it when the client is no longer needed; with a
// [HTTPInferenceClientConfig.Transport] that other code shares, it closes
// theirs too.
func (c *HTTPInferenceClient) CloseIdleConnections() {
	if c.client != nil {
		c.client.CloseIdleConnections()
	}
}

// prepare makes the HTTP request, and returns what must not be told of it.
func (c *HTTPInferenceClient) prepare(ctx context.Context, req *InferenceRequest, stream bool) (*http.Request, secrets, *InferenceError) {
	switch {
	case c.invalid != nil:
		return nil, secrets{}, invalidRequest("invalid client configuration: "+c.invalid.Error(), c.invalid)
	case c.client == nil:
		return nil, secrets{}, invalidRequest("invalid client: make it with NewHTTPInferenceClient", nil)
	case req == nil:
		return nil, secrets{}, invalidRequest("request cannot be nil", nil)
	}
	body, err := req.body(stream)
	if err != nil {
		return nil, secrets{}, invalidRequest(err.Error(), err)
	}
	httpReq, err := c.newRequest(ctx, req, body)
	if err != nil {
		return nil, secrets{}, invalidRequest(err.Error(), err)
	}
	if stream {
		httpReq.Header.Set("Accept", "text/event-stream")
	}
	return httpReq, secrets{apiKey: c.apiKey, base: c.base, request: body}, nil
}

// keepMethod is a CheckRedirect that stops at the redirect in place of turning
// a POST into a GET, as [http.Client] does for 301, 302 and 303, or of sending
// in the clear what was sent encrypted.
func keepMethod(req *http.Request, via []*http.Request) error {
	exposed := via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https"
	if req.Method != via[0].Method || exposed || len(via) > 10 {
		return http.ErrUseLastResponse
	}
	// It would tell the query of the BaseURL to whoever is redirected to.
	req.Header.Del("Referer")
	return nil
}

// retryTransport is the retry layer that the configuration asks for, on base.
func (c HTTPInferenceClientConfig) retryTransport(base http.RoundTripper) *httpretry.RetryTransport {
	return &httpretry.RetryTransport{
		Base:       corrector{base},
		Policy:     c.policy(),
		Classifier: Classifier{},
		// Generating has no side effect, so a POST may be processed twice.
		Idempotent:       func(*http.Request) bool { return true },
		MaxResponseBytes: maxResponseBytes,
		AttemptTimeout:   c.timeout(),
		OnAttempt:        c.onAttempt(),
	}
}
