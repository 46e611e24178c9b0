package inference

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/internal/redact"
)

// An InferenceClient generates text. Code that depends on this interface can be
// tested without a gateway.
type InferenceClient interface {
	// Generate sends req and returns the response or an error; exactly one is
	// nil. The error has a concrete pointer type; see
	// [HTTPInferenceClient.Generate].
	Generate(ctx context.Context, req *InferenceRequest) (*InferenceResponse, *InferenceError)
}

// An HTTPInferenceClient sends requests to one or several gateways over HTTP.
// Create it with [NewHTTPInferenceClient]. It is safe for concurrent use, and
// should be reused, because it keeps idle connections open. The zero value fails
// every request with [ErrCategoryInvalidReq].
type HTTPInferenceClient struct {
	// state is nil in the zero value. It is a func because for some verbs, and in
	// unexported fields, package fmt prints all that it can reach without calling
	// a method, which would include the API key.
	state func() gateway
}

// A gateway is the state of a client.
type gateway struct {
	invalid     error // the fault of the configuration
	base        *url.URL
	apiKey      string
	header      http.Header // of each request, in canonical form
	redactor    *redact.Redactor
	client      *http.Client
	idle        time.Duration
	omitRawData bool
}

var _ InferenceClient = (*HTTPInferenceClient)(nil)

// NewHTTPInferenceClient returns a client for the gateways of config. It always
// returns a client. If config is invalid, every request fails with
// [ErrCategoryInvalidReq] and nothing is sent; call
// [HTTPInferenceClientConfig.Validate] to check it beforehand.
func NewHTTPInferenceClient(config HTTPInferenceClientConfig) *HTTPInferenceClient {
	g := newGateway(config)
	return &HTTPInferenceClient{func() gateway { return g }}
}

func newGateway(config HTTPInferenceClientConfig) gateway {
	if err := config.Validate(); err != nil {
		return gateway{invalid: err}
	}
	base, err := config.baseURL()
	header := config.header()
	return gateway{
		invalid:     err,
		base:        base,
		apiKey:      config.APIKey,
		header:      header,
		redactor:    redact.New(config.secrets(base)),
		client:      &http.Client{Transport: config.retryTransport(), CheckRedirect: keepMethod(header)},
		idle:        config.streamIdleTimeout(),
		omitRawData: config.OmitRawData,
	}
}

func (c HTTPInferenceClient) gateway() gateway {
	if c.state == nil {
		return gateway{}
	}
	return c.state()
}

// Generate sends req to the gateway and returns the complete response. It retries
// as configured, until it succeeds, no retry is allowed, or ctx is done.
//
// Exactly one of the two results is nil. The second is a concrete pointer type:
// assigned to a variable of type error, a nil *InferenceError becomes an error
// that is not nil. Compare it with nil before returning it as an error.
//
// A 2xx response without an answer counts as a failed attempt. If its body is an
// error, such as {"error": {…}} without choices, or a choice ended in an error, it
// is retried like the status that the API documents for that error. The error may
// also arrive as the first server-sent event, within 256 KiB and 5 seconds. A body
// that is not JSON or is cut off is retried too. If an answer must have choices, as
// [InferenceRequest.Path] describes, so is a body that is neither an object nor an
// array, or whose members are all empty, or whose choices have neither content nor a
// finish reason. Only the syntax of a body larger than 256 KiB is checked. Empty lines
// before an answer are ignored.
//
// req is not modified and, except for its Body, not used after Generate has
// returned.
//
// Redirects that preserve the method, as 307 and 308 do, are followed, up to ten
// times; the API key is sent only to the original domain and its subdomains, and
// [HTTPInferenceClientConfig.Header] only to the original host. Other redirects, and
// redirects from https to http, are errors.
//
// With [httpretry.Override], ctx can change the retries of a request. The change
// may wrap the Base of the RetryTransport, but must not replace it.
func (c *HTTPInferenceClient) Generate(ctx context.Context, req *InferenceRequest) (*InferenceResponse, *InferenceError) {
	g := c.gateway()
	httpReq, x, failed := g.prepare(ctx, req, false)
	if failed != nil {
		return nil, failed
	}
	resp, failed := g.do(httpReq, x)
	if failed != nil {
		return nil, failed
	}
	resp.Body.Close()
	answer := &InferenceResponse{RequestID: req.RequestID, Response: x.body}
	if !g.omitRawData {
		answer.RawData = decode(x.body)
	}
	return answer, nil
}

// do sends the request, with retries, and returns a 2xx response with an answer,
// which is in x.
func (g gateway) do(req *http.Request, x *exchange) (*http.Response, *InferenceError) {
	resp, err := g.client.Do(req)
	if err != nil {
		return nil, x.executeError(err)
	}
	switch {
	case !x.received:
		resp.Body.Close()
		return nil, invalidRequest("invalid context: Base of the RetryTransport was replaced", nil)
	case resp.StatusCode/100 != 2:
		resp.Body.Close()
		return nil, x.statusFailure(resp)
	}
	return resp, nil
}

// String returns the location of the gateway, without userinfo and query.
func (c HTTPInferenceClient) String() string {
	base := c.gateway().base
	if base == nil {
		return "inference client without a gateway"
	}
	if base.Host == logicalHost {
		return "inference client for several gateways"
	}
	public := url.URL{Scheme: base.Scheme, Host: base.Host, Path: base.Path}
	return "inference client for " + public.String()
}

// Format implements [fmt.Formatter]. For every verb it writes the result of
// String, in quotes for %q. No verb prints the API key, even if the client is in
// an unexported field of another value.
func (c HTTPInferenceClient) Format(s fmt.State, verb rune) { format(s, verb, c.String()) }

func format(s fmt.State, verb rune, text string) {
	if verb == 'q' {
		fmt.Fprintf(s, "%q", text)
		return
	}
	fmt.Fprint(s, text)
}

// CloseIdleConnections closes the connections that no request is using. The client
// remains usable. If [HTTPInferenceClientConfig.Transport] is shared, its other
// users' idle connections are closed too.
func (c *HTTPInferenceClient) CloseIdleConnections() {
	if client := c.gateway().client; client != nil {
		client.CloseIdleConnections()
	}
}

// prepare builds the HTTP request, and the exchange in its context.
func (g gateway) prepare(ctx context.Context, req *InferenceRequest, stream bool) (*http.Request, *exchange, *InferenceError) {
	switch {
	case g.invalid != nil:
		return nil, nil, invalidRequest("invalid client configuration: "+g.invalid.Error(), g.invalid)
	case g.client == nil:
		return nil, nil, invalidRequest("invalid client: it was not created with NewHTTPInferenceClient", nil)
	case req == nil:
		return nil, nil, invalidRequest("request cannot be nil", nil)
	case ctx == nil:
		return nil, nil, invalidRequest("invalid request: net/http: nil Context", nil)
	}
	body, err := req.body(stream)
	if err != nil {
		return nil, nil, invalidRequest(err.Error(), err)
	}
	x := &exchange{ctx: ctx, redactor: g.redactor, request: body, stream: stream, completion: req.isCompletion()}
	httpReq, err := g.newRequest(context.WithValue(ctx, exchangeKey{}, x), req, body)
	if err != nil {
		return nil, nil, invalidRequest(err.Error(), err)
	}
	if stream {
		httpReq.Header.Set("Accept", "text/event-stream")
	}
	return httpReq, x, nil
}

// keepMethod returns a CheckRedirect that returns the redirect response rather than
// turn a POST into a GET, as [http.Client] does for 301, 302 and 303, or downgrade
// from https to http. Another host does not get header.
func keepMethod(header http.Header) func(req *http.Request, via []*http.Request) error {
	return func(req *http.Request, via []*http.Request) error {
		exposed := via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https"
		if req.Method != via[0].Method || exposed || len(via) > 10 {
			return http.ErrUseLastResponse
		}
		req.Header.Del("Referer") // it would disclose the BaseURL's query
		if req.URL.Host != via[0].URL.Host {
			for name := range header {
				req.Header.Del(name)
			}
		}
		return nil
	}
}

// retryTransport returns the RetryTransport that c configures.
func (c HTTPInferenceClientConfig) retryTransport() *httpretry.RetryTransport {
	t := &httpretry.RetryTransport{
		Policy:     c.policy(),
		Classifier: classifyExchange,
		// Generating has no side effect, so a POST may be processed twice.
		Idempotent:     func(*http.Request) bool { return true },
		AttemptTimeout: c.timeout(),
		OnAttempt:      c.onAttempt(),
	}
	if len(c.Endpoints) > 0 {
		d := newDenials(len(c.Endpoints))
		t.Base, t.Classifier = c.spread(d), d.classify
	} else {
		t.Base, t.Pacer = receiver{base: c.transport()}, c.Pacer
	}
	return t
}
