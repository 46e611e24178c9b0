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
)

// HTTPInferenceClientConfig is what an [HTTPInferenceClient] is made from.
// Only BaseURL is required. Retries are off unless MaxRetries is set; the
// backoff fields then mean what they mean in [httpretry.RetryConfig].
type HTTPInferenceClientConfig struct {
	// BaseURL is where the gateway is: an http or https URL, to whose path
	// /v1/chat/completions or /v1/completions is appended. It may end in a
	// slash, have a path of its own and a query, which is kept. Userinfo is
	// sent as Basic authentication if there is no APIKey.
	BaseURL string

	// Timeout bounds one attempt, from connecting to the end of the response
	// body. An attempt that runs into it is retried; to bound a request with
	// all its attempts, give Generate a context with a deadline. In a Stream
	// it bounds an attempt up to the first content.
	// If zero, 5 minutes.
	Timeout time.Duration

	// StreamIdleTimeout bounds each wait for the next event of a Stream whose
	// first content has come. A stream that runs into it ends with an error,
	// also when comments or pings show that the gateway is still there. The
	// time that the caller takes for an event does not count. If zero, as
	// long as Timeout.
	StreamIdleTimeout time.Duration

	// MaxIdleConns is how many connections are kept open for later requests.
	// If zero, 100. It does not matter if Transport is set.
	MaxIdleConns int

	// IdleConnTimeout is how long one is kept. If zero, 90 s. It does not
	// matter if Transport is set.
	IdleConnTimeout time.Duration

	// APIKey is sent as "Authorization: Bearer <APIKey>". If empty, no such
	// header is sent.
	APIKey string

	// MaxRetries is the number of retries after the first attempt.
	// If zero, none.
	MaxRetries int

	// InitialBackoff is the wait before the first retry. If zero, 1 s.
	InitialBackoff time.Duration

	// MaxBackoff bounds the wait before jitter, and is the longest wait that
	// the gateway may ask for with Retry-After; if it asks for more, its
	// answer is returned at once. If zero, 60 s.
	MaxBackoff time.Duration

	// BackoffFactor multiplies the wait from each retry to the next. It is
	// at least 1. If zero, 2.
	BackoffFactor float64

	// JitterFraction is how much longer or shorter than computed a wait may
	// be, from 0 to 1. If zero, 0.1.
	JitterFraction float64

	// Transport makes each attempt, below the retry layer. If nil, a copy of
	// [http.DefaultTransport] with MaxIdleConns, to one host or to all, and
	// IdleConnTimeout. (If a program has put a type of its own into
	// http.DefaultTransport, that is used as it stands.)
	Transport http.RoundTripper

	// Logger hears of each retry, and of a success after retries, at
	// slog.Level(-3), which becomes V(3) when bridged to klog. The attributes
	// are request_id, delay (of the wait that follows), attempt (the number of
	// the one that failed or succeeded), max (attempts there may be by MaxRetries) and
	// category (of the failure). A line never holds the API key, the prompt,
	// or text from the gateway. A failure that is not retried is not logged:
	// the caller gets it. If nil, nothing is logged.
	Logger *slog.Logger

	// OnAttempt, if not nil, is called after each attempt, the last one too,
	// with the decision about what follows: it serves those who count
	// attempts, causes and waits. Attempt.Request.Context() is derived from
	// the context given to Generate or Stream, so that a value in that tells
	// which request an attempt belongs to. The call comes from the goroutine
	// that waits for the answer and holds it up; concurrent requests make
	// concurrent calls. What is passed is only lent, and its headers hold the
	// API key.
	OnAttempt func(httpretry.Attempt, httpretry.Decision)
}

const (
	defaultTimeout         = 5 * time.Minute
	defaultMaxIdleConns    = 100
	defaultIdleConnTimeout = 90 * time.Second
)

// Validate returns an error that names the first field with an impossible
// value, the value, and what it must be. Of BaseURL it leaves out userinfo and
// query, of APIKey all.
func (c HTTPInferenceClientConfig) Validate() error {
	if _, err := c.baseURL(); err != nil {
		return err
	}
	switch {
	case c.Timeout < 0:
		return invalidField("Timeout", c.Timeout)
	case c.StreamIdleTimeout < 0:
		return invalidField("StreamIdleTimeout", c.StreamIdleTimeout)
	case c.MaxIdleConns < 0:
		return invalidField("MaxIdleConns", c.MaxIdleConns)
	case c.IdleConnTimeout < 0:
		return invalidField("IdleConnTimeout", c.IdleConnTimeout)
	case !validHeaderValue(c.APIKey):
		return errors.New("inference: APIKey holds a control character, such as a line break: it must not")
	}
	return c.retryConfig().Validate()
}

func invalidField(name string, value any) error {
	return fmt.Errorf("inference: %s is %v: it must be at least 0", name, value)
}

// String returns the settings without the APIKey, and of BaseURL without
// userinfo and query. Package fmt calls it for %v and %+v, unless the config is
// an unexported field of another value.
func (c HTTPInferenceClientConfig) String() string {
	type plain HTTPInferenceClientConfig // has no String
	p := plain(c)
	p.BaseURL = withoutCredentials(c.BaseURL)
	if p.APIKey != "" {
		p.APIKey = redacted
	}
	return fmt.Sprintf("%+v", p)
}

// GoString returns the same as String, so that %#v does not show the APIKey.
func (c HTTPInferenceClientConfig) GoString() string { return c.String() }

// baseURL is the parsed BaseURL.
func (c HTTPInferenceClientConfig) baseURL() (*url.URL, error) {
	u, err := url.Parse(c.BaseURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		// Not what url.Parse says: it may quote a part of a password.
		return nil, fmt.Errorf("inference: BaseURL is %q: it must be an http or https URL with a host, such as %q",
			withoutCredentials(c.BaseURL), "http://localhost:8000")
	}
	if !validPort(u) {
		return nil, fmt.Errorf("inference: BaseURL is %q: its port must be from 1 to 65535", withoutCredentials(c.BaseURL))
	}
	return u, nil
}

// validPort reports whether u has a port that there can be, or none and no
// colon either.
func validPort(u *url.URL) bool {
	if u.Port() == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	return err == nil && port > 0
}

// withoutCredentials is a URL, which need not be a valid one, without all that
// may be userinfo or a query.
func withoutCredentials(rawURL string) string {
	at, end := strings.LastIndexByte(rawURL, '@'), strings.IndexAny(rawURL, "?#")
	if at >= 0 && end >= 0 && end < at {
		return "…" // either may belong to the other
	}
	if end >= 0 {
		rawURL = rawURL[:end] + "…"
	}
	if at >= 0 {
		rawURL = "…" + rawURL[at:]
	}
	return rawURL
}

// validHeaderValue reports whether s can be sent in a header field (RFC 9110,
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
