package inference

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/failover"
	"github.com/httpretry/httpretry/internal/headerfield"
	"github.com/httpretry/httpretry/internal/redact"
)

// HTTPInferenceClientConfig configures an [HTTPInferenceClient]. Only BaseURL is
// required, or Endpoints in its place. Retries are disabled unless MaxRetries is
// set; the backoff fields are those of [httpretry.RetryConfig].
//
// A config holds secrets: the APIKey, and the values of Header and of each
// Endpoint's Header. Package fmt prints them only with %p and %w, for which it does
// not call Format, and for a config in an unexported field.
type HTTPInferenceClientConfig struct {
	// BaseURL is the http or https URL of the gateway. The path of the request,
	// such as /v1/chat/completions, is appended to its path; a query is preserved.
	// It must not have a fragment. Userinfo is sent as Basic authentication if
	// APIKey is empty.
	BaseURL string

	// Endpoints are equivalent gateways that share the requests, in place of the
	// one at BaseURL, which must be empty; see [failover.Transport]. Each gets the
	// APIKey and Header unless its own Header replaces them. Its Header may have an
	// Authorization, but no other field that is invalid in Header. A retry is sent
	// to another endpoint if possible.
	//
	// An endpoint that responds with 401, 402, 403, a 404 for the model or a 429 for
	// an exhausted quota gets no requests for a minute while another is open. One that
	// lacks a model, but has answered another request in the last minute, stays open.
	// The failure is final only if all endpoints respond in this way.
	Endpoints []failover.Endpoint

	// Timeout limits the duration of one attempt, from connecting to the end of
	// the response body. An attempt that exceeds it is retried. To limit all
	// attempts together, pass Generate a context with a deadline. For Stream, it
	// limits the time until the first content. If zero, it is 5 minutes.
	Timeout time.Duration

	// StreamIdleTimeout limits the wait for content of a Stream after its first
	// content. A stream that exceeds it fails. Comments, pings and events that add
	// nothing to the answer do not count as content. Such events are empty, or repeat
	// a status, a usage or the name of a tool. The time that the caller spends on an
	// event does not count. If zero, Timeout is used.
	StreamIdleTimeout time.Duration

	// MaxIdleConns is the maximum number of idle connections to keep. If zero, it
	// is 100. It is ignored if Transport is set.
	MaxIdleConns int

	// IdleConnTimeout limits how long an idle connection is kept. If zero, it is
	// 90 seconds. It is ignored if Transport is set.
	IdleConnTimeout time.Duration

	// APIKey is sent as "Authorization: Bearer <APIKey>". If empty, no such
	// header is sent.
	APIKey string

	// Header is added to each request, for gateways that route or bill by header.
	// Its values are as secret as the APIKey: they are redacted in errors, if they
	// have 8 bytes or more, and redirects to another host are sent without them.
	// Host sets the host of the request. The fields Accept, Accept-Encoding,
	// Content-Type, Content-Length, Transfer-Encoding, Trailer and X-Request-ID are
	// invalid, and so is Authorization beside an APIKey.
	Header http.Header

	// MaxRetries is the maximum number of retries. If zero, there are none.
	MaxRetries int

	// InitialBackoff is the wait before the first retry. If zero, it is 1 second.
	InitialBackoff time.Duration

	// MaxBackoff limits the wait before jitter, and the longest Retry-After to
	// honor; if the gateway asks for more, its response is returned without a
	// retry. If zero, it is 60 seconds.
	MaxBackoff time.Duration

	// BackoffFactor multiplies the wait from each retry to the next. It must be
	// at least 1. If zero, it is 2.
	BackoffFactor float64

	// JitterFraction is the fraction, at most 1, by which a wait is randomly
	// lengthened or shortened. If zero, it is 0.1. If negative, there is no
	// jitter.
	JitterFraction float64

	// Pacer limits how fast attempts are sent. With Endpoints, it is given
	// requests with their URLs, so that an [httpretry.AdaptivePacer] finds a
	// limit for each. If nil, attempts are not delayed.
	Pacer httpretry.Pacer

	// OmitRawData leaves [InferenceResponse.RawData] nil. Decoding a response
	// takes many times the memory of its text. If false, responses are decoded.
	OmitRawData bool

	// Transport makes each attempt. If nil, a copy of [http.DefaultTransport]
	// with MaxIdleConns (in total and per host) and IdleConnTimeout is used, or
	// http.DefaultTransport itself if it is not an *http.Transport. The copy
	// sends a ping over an HTTP/2 connection on which nothing arrives for 30
	// seconds, and closes it if there is no response within 15 seconds.
	Transport http.RoundTripper

	// Logger, if not nil, receives a record of each retry, and of each success
	// after retries, at slog.Level(-3), which corresponds to klog's V(3). The
	// attributes are request_id, delay (before the retry), attempt (the number of
	// the retry, or the number of retries before the success), max (MaxRetries),
	// category (of the failure) and status (of its response, if there was one).
	// Records never contain the API key, the prompt, or text from the gateway.
	// Failures that are not retried are returned, not logged. OnAttempt is called
	// before the record is made. If nil, nothing is logged.
	Logger *slog.Logger

	// OnAttempt, if not nil, is called after each attempt, including the last,
	// with the decision about a retry. The Request's context is derived from the
	// context passed to Generate or Stream, so context values can associate an
	// attempt with its request. The error of an attempt with a 2xx response
	// without an answer wraps a [*StatusError]. The response body has been read.
	//
	// OnAttempt is called synchronously, and concurrently for concurrent
	// requests. It may retain its arguments, but must not log the headers of the
	// Request, which contain the API key.
	OnAttempt func(httpretry.Attempt, httpretry.Decision)
}

const (
	defaultTimeout         = 5 * time.Minute
	defaultMaxIdleConns    = 100
	defaultIdleConnTimeout = 90 * time.Second

	sendPingTimeout = 30 * time.Second
	pingTimeout     = 15 * time.Second
)

// Validate returns an error that describes the first invalid field, or nil. The
// error omits the APIKey and the userinfo and query of BaseURL.
func (c HTTPInferenceClientConfig) Validate() error {
	if _, err := c.baseURL(); err != nil {
		return err
	}
	switch {
	case c.Timeout < 0:
		return negative("Timeout", c.Timeout)
	case c.StreamIdleTimeout < 0:
		return negative("StreamIdleTimeout", c.StreamIdleTimeout)
	case c.MaxIdleConns < 0:
		return negative("MaxIdleConns", c.MaxIdleConns)
	case c.IdleConnTimeout < 0:
		return negative("IdleConnTimeout", c.IdleConnTimeout)
	case c.MaxRetries < 0:
		return negative("MaxRetries", c.MaxRetries)
	case !headerfield.IsValue(c.APIKey):
		return errors.New("inference: APIKey contains a control character")
	}
	if err := validateHeader(c.Header); err != nil {
		return fmt.Errorf("inference: invalid Header: %w", err)
	}
	if len(c.header().Values("Authorization")) > 0 && c.APIKey != "" {
		return errors.New("inference: invalid Header: Authorization is set by the client, from the APIKey")
	}
	return c.retryConfig().Validate()
}

// validateHeader returns an error that holds no value of h.
func validateHeader(h http.Header) error {
	for _, name := range slices.Sorted(maps.Keys(h)) {
		if err := headerfield.Check(name, h[name]); err != nil {
			return err
		}
		switch canonical := http.CanonicalHeaderKey(name); canonical {
		case "Accept", "Accept-Encoding", "Content-Type", "X-Request-Id":
			return headerfield.SetByClient(canonical)
		}
	}
	return nil
}

// header returns a copy of the Header in canonical form.
func (c HTTPInferenceClientConfig) header() http.Header {
	h := make(http.Header, len(c.Header))
	for name, values := range c.Header {
		for _, value := range values {
			h.Add(name, value)
		}
	}
	return h
}

func negative(name string, value any) error {
	return fmt.Errorf("inference: invalid %s %v: must not be negative", name, value)
}

// String returns the settings without the APIKey and the values of Header, and
// BaseURL without userinfo and query.
func (c HTTPInferenceClientConfig) String() string {
	type plain HTTPInferenceClientConfig // has no methods
	p := plain(c)
	p.BaseURL = withoutCredentials(c.BaseURL)
	if p.APIKey != "" {
		p.APIKey = redact.Mark
	}
	p.Header = withoutValues(c.Header)
	p.Endpoints = c.publicEndpoints()
	return fmt.Sprintf("%+v", p)
}

// Format implements [fmt.Formatter]. For every verb it writes the result of
// String, in quotes for %q.
func (c HTTPInferenceClientConfig) Format(s fmt.State, verb rune) { format(s, verb, c.String()) }

// baseURL returns the parsed BaseURL, or the one that stands for the Endpoints.
func (c HTTPInferenceClientConfig) baseURL() (*url.URL, error) {
	if len(c.Endpoints) > 0 {
		return c.logicalURL(), c.validateEndpoints()
	}
	u, err := url.Parse(c.BaseURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		// The error of url.Parse may quote a part of a password.
		return nil, fmt.Errorf("inference: invalid BaseURL %q: must be an http or https URL with a host, such as %q",
			withoutCredentials(c.BaseURL), "http://localhost:8000")
	}
	if !validPort(u) {
		return nil, fmt.Errorf("inference: invalid BaseURL %q: port must be from 1 to 65535", withoutCredentials(c.BaseURL))
	}
	if strings.Contains(c.BaseURL, "#") {
		return nil, fmt.Errorf("inference: invalid BaseURL %q: must not have a fragment", withoutCredentials(c.BaseURL))
	}
	return u, nil
}

// validPort reports whether u's port is valid or absent.
func validPort(u *url.URL) bool {
	if u.Port() == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	return err == nil && port > 0
}

// withoutCredentials removes from a URL, which may be invalid, anything that could
// be userinfo or a query.
func withoutCredentials(rawURL string) string {
	at, end := strings.LastIndexByte(rawURL, '@'), strings.IndexAny(rawURL, "?#")
	if at >= 0 && end >= 0 && end < at {
		return "…" // it is ambiguous where the userinfo ends
	}
	if end >= 0 {
		rawURL = rawURL[:end] + "…"
	}
	if at >= 0 {
		rawURL = "…" + rawURL[at:]
	}
	return rawURL
}

func (c HTTPInferenceClientConfig) timeout() time.Duration {
	if c.Timeout > 0 {
		return c.Timeout
	}
	return defaultTimeout
}

func (c HTTPInferenceClientConfig) streamIdleTimeout() time.Duration {
	if c.StreamIdleTimeout > 0 {
		return c.StreamIdleTimeout
	}
	return c.timeout()
}

func (c HTTPInferenceClientConfig) maxIdleConns() int {
	if c.MaxIdleConns > 0 {
		return c.MaxIdleConns
	}
	return defaultMaxIdleConns
}

func (c HTTPInferenceClientConfig) idleConnTimeout() time.Duration {
	if c.IdleConnTimeout > 0 {
		return c.IdleConnTimeout
	}
	return defaultIdleConnTimeout
}

func (c HTTPInferenceClientConfig) transport() http.RoundTripper {
	// The receiver between the RetryTransport and an http.Transport keeps it from
	// wrapping that one itself.
	if t, ok := c.Transport.(*http.Transport); ok {
		return httpretry.FreshConnections(t)
	}
	if c.Transport != nil {
		return c.Transport
	}
	shared, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return http.DefaultTransport
	}
	own := shared.Clone()
	own.MaxIdleConns = c.maxIdleConns()
	own.MaxIdleConnsPerHost = c.maxIdleConns()
	own.IdleConnTimeout = c.idleConnTimeout()
	if own.HTTP2 == nil {
		own.HTTP2 = new(http.HTTP2Config)
	}
	if own.HTTP2.SendPingTimeout == 0 {
		// Without pings, requests to a peer that has disappeared wait until
		// Timeout, and later ones use the same connection (golang.org/issue/36026).
		own.HTTP2.SendPingTimeout, own.HTTP2.PingTimeout = sendPingTimeout, pingTimeout
	}
	return httpretry.FreshConnections(own)
}

func (c HTTPInferenceClientConfig) policy() httpretry.Policy {
	if c.MaxRetries == 0 {
		return httpretry.Never
	}
	return c.retryConfig()
}

func (c HTTPInferenceClientConfig) retryConfig() httpretry.RetryConfig {
	return httpretry.RetryConfig{
		MaxRetries:     c.MaxRetries,
		InitialBackoff: c.InitialBackoff,
		MaxBackoff:     c.MaxBackoff,
		BackoffFactor:  c.BackoffFactor,
		JitterFraction: c.JitterFraction,
	}
}
