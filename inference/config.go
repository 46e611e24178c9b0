package inference

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/internal/redact"
)

// HTTPInferenceClientConfig configures an [HTTPInferenceClient]. Only BaseURL is
// required. Retries are disabled unless MaxRetries is set; the backoff fields are
// those of [httpretry.RetryConfig].
//
// A config holds the API key. Package fmt does not print it, except with %p and %w
// and for a config in an unexported field of another value.
type HTTPInferenceClientConfig struct {
	// BaseURL is the http or https URL of the gateway. /v1/chat/completions or
	// /v1/completions is appended to its path; a query is preserved. Userinfo is
	// sent as Basic authentication if APIKey is empty.
	BaseURL string

	// Timeout limits the duration of one attempt, from connecting to the end of
	// the response body. An attempt that exceeds it is retried. To limit all
	// attempts together, pass Generate a context with a deadline. For Stream, it
	// limits the time until the first content. If zero, 5 minutes.
	Timeout time.Duration

	// StreamIdleTimeout limits the wait for content of a Stream after its first
	// content. A stream that exceeds it fails, even if comments, pings or empty
	// events show that the gateway is alive. The time that the caller spends on
	// an event does not count. If zero, Timeout is used.
	StreamIdleTimeout time.Duration

	// MaxIdleConns is the maximum number of idle connections to keep. If zero,
	// 100. It is ignored if Transport is set.
	MaxIdleConns int

	// IdleConnTimeout is how long an idle connection is kept. If zero, 90
	// seconds. It is ignored if Transport is set.
	IdleConnTimeout time.Duration

	// APIKey is sent as "Authorization: Bearer <APIKey>". If empty, no such
	// header is sent.
	APIKey string

	// MaxRetries is the maximum number of retries after the first attempt. If
	// zero, none.
	MaxRetries int

	// InitialBackoff is the wait before the first retry. If zero, 1 second.
	InitialBackoff time.Duration

	// MaxBackoff limits the wait before jitter, and the longest Retry-After to
	// honor; if the gateway asks for more, its response is returned without a
	// retry. If zero, 60 seconds.
	MaxBackoff time.Duration

	// BackoffFactor multiplies the wait from each retry to the next. It must be
	// at least 1. If zero, 2.
	BackoffFactor float64

	// JitterFraction is the fraction, at most 1, by which a wait is randomly
	// longer or shorter. If zero, 0.1. If negative, none.
	JitterFraction float64

	// OmitRawData leaves [InferenceResponse.RawData] nil. Decoding a response
	// takes many times the memory of its text. If false, responses are decoded.
	OmitRawData bool

	// Transport makes each attempt. If nil, a copy of [http.DefaultTransport]
	// with MaxIdleConns (in total and per host) and IdleConnTimeout is used, or
	// http.DefaultTransport itself if it is not an *http.Transport.
	Transport http.RoundTripper

	// Logger, if not nil, receives a record of each retry, and of each success
	// after retries, at slog.Level(-3), which corresponds to klog's V(3). The
	// attributes are request_id, delay (before the retry), attempt (the number of
	// the retry, or the number of retries before the success), max (MaxRetries)
	// and category (of the failure). Records never contain the API key, the
	// prompt, or text from the gateway. Failures that are not retried are
	// returned, not logged. If nil, nothing is logged.
	Logger *slog.Logger

	// OnAttempt, if not nil, is called after each attempt, including the last,
	// with the decision about a retry. The Request's context is derived from the
	// context passed to Generate or Stream, so context values can associate an
	// attempt with its request. The error of an attempt with a 2xx response
	// without an answer wraps a [*StatusError]. The response body has been read.
	//
	// OnAttempt is called synchronously, and concurrently for concurrent
	// requests. It must not retain its arguments, whose headers contain the API
	// key.
	OnAttempt func(httpretry.Attempt, httpretry.Decision)
}

const (
	defaultTimeout         = 5 * time.Minute
	defaultMaxIdleConns    = 100
	defaultIdleConnTimeout = 90 * time.Second
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
	case !validHeaderValue(c.APIKey):
		return errors.New("inference: APIKey contains a control character")
	}
	return c.retryConfig().Validate()
}

func negative(name string, value any) error {
	return fmt.Errorf("inference: invalid %s %v: must not be negative", name, value)
}

// String returns the settings without the APIKey, and BaseURL without userinfo and
// query.
func (c HTTPInferenceClientConfig) String() string {
	type plain HTTPInferenceClientConfig // has no methods
	p := plain(c)
	p.BaseURL = withoutCredentials(c.BaseURL)
	if p.APIKey != "" {
		p.APIKey = redact.Mark
	}
	return fmt.Sprintf("%+v", p)
}

// Format implements [fmt.Formatter]. For every verb it writes the result of
// String, in quotes for %q.
func (c HTTPInferenceClientConfig) Format(s fmt.State, verb rune) { format(s, verb, c.String()) }

// baseURL returns the parsed BaseURL.
func (c HTTPInferenceClientConfig) baseURL() (*url.URL, error) {
	u, err := url.Parse(c.BaseURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		// The error of url.Parse may quote a part of a password.
		return nil, fmt.Errorf("inference: invalid BaseURL %q: must be an http or https URL with a host, such as %q",
			withoutCredentials(c.BaseURL), "http://localhost:8000")
	}
	if !validPort(u) {
		return nil, fmt.Errorf("inference: invalid BaseURL %q: port must be from 1 to 65535", withoutCredentials(c.BaseURL))
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

// validHeaderValue reports whether s is a valid value of a header field (RFC 9110,
// section 5.5).
func validHeaderValue(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
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
	return own
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
