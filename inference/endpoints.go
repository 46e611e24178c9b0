package inference

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/httpretry/httpretry/failover"
	"github.com/httpretry/httpretry/internal/redact"
)

// logicalHost is the host of the requests that are spread over Endpoints. It does
// not exist (RFC 2606).
const logicalHost = "gateways.invalid"

// logicalURL returns the URL of the requests before an endpoint is chosen. Its
// scheme is https if that of any endpoint is, so that no redirect leads from https
// to http.
func (c HTTPInferenceClientConfig) logicalURL() *url.URL {
	u := &url.URL{Scheme: "http", Host: logicalHost}
	for _, e := range c.Endpoints {
		if strings.HasPrefix(strings.ToLower(e.URL), "https:") {
			u.Scheme = "https"
		}
	}
	return u
}

// validateEndpoints returns an error that holds neither userinfo or a query of a
// URL nor a value of a Header.
func (c HTTPInferenceClientConfig) validateEndpoints() error {
	if c.BaseURL != "" {
		return fmt.Errorf("inference: invalid BaseURL %q: must be empty if there are Endpoints", withoutCredentials(c.BaseURL))
	}
	for i, e := range c.Endpoints {
		if err := validateHeader(e.Header); err != nil {
			return fmt.Errorf("inference: invalid Endpoints[%d].Header: %w", i, err)
		}
	}
	return (&failover.Transport{Endpoints: c.Endpoints}).Validate()
}

// spread returns the RoundTripper that spreads requests over the Endpoints. The
// receivers are below it, so that it knows whether a response has an answer.
func (c HTTPInferenceClientConfig) spread(d *denials) *failover.Transport {
	base := c.transport()
	t := &failover.Transport{Base: receiver{base, outside}, Classifier: d.note, Pacer: c.Pacer}
	host := c.header().Get("Host")
	for i, e := range c.Endpoints {
		if e.Base == nil {
			e.Base = base
		}
		e.Base = receiver{e.Base, i}
		if u, err := url.Parse(e.URL); err == nil && c.APIKey != "" {
			u.User = nil // as in BaseURL, the APIKey has precedence
			e.URL = u.String()
		}
		header := make(http.Header)
		if host != "" {
			header.Set("Host", host)
		}
		for name, values := range e.Header {
			header[http.CanonicalHeaderKey(name)] = values
		}
		e.Header = header
		t.Endpoints = append(t.Endpoints, e)
	}
	return t
}

// publicEndpoints returns the endpoints without userinfo, queries and values of
// headers.
func (c HTTPInferenceClientConfig) publicEndpoints() []failover.Endpoint {
	public := slices.Clone(c.Endpoints)
	for i, e := range public {
		public[i].URL, public[i].Header = withoutCredentials(e.URL), withoutValues(e.Header)
	}
	return public
}

// withoutValues returns a copy of h with marks in place of the values.
func withoutValues(h http.Header) http.Header {
	marked := make(http.Header, len(h))
	for name := range h {
		marked[name] = []string{redact.Mark}
	}
	return marked
}

// secrets returns the secrets of all gateways.
func (c HTTPInferenceClientConfig) secrets(base *url.URL) redact.Secrets {
	s := redact.Secrets{Keys: []string{c.APIKey}, Header: c.header(), URLs: []*url.URL{base}}
	for _, e := range c.Endpoints {
		if u, err := url.Parse(e.URL); err == nil {
			s.URLs = append(s.URLs, u)
		}
		for name, values := range e.Header {
			s.Header[name] = slices.Concat(s.Header[name], values)
		}
	}
	return s
}
