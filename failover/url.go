package failover

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/internal/headerfield"
	"github.com/httpretry/httpretry/internal/urlpath"
)

// Validate returns an error that describes the first invalid field, or nil. The
// error omits userinfo and query of the URLs.
func (t *Transport) Validate() error {
	_, err := t.newServers()
	return err
}

func (t *Transport) init() {
	t.direct = fresh(t.base())
	t.servers, t.invalid = t.newServers()
	for _, s := range t.servers {
		if s.base == nil {
			s.base = t.direct
		}
	}
}

// fresh returns a RoundTripper that sends requests with base. If it is an
// [http.Transport], an attempt after one that timed out does not use the same
// connection again, as if it were the Base of a RetryTransport.
func fresh(base http.RoundTripper) http.RoundTripper {
	if t, ok := base.(*http.Transport); ok {
		return httpretry.FreshConnections(t)
	}
	return base
}

func (t *Transport) newServers() ([]*server, error) {
	if len(t.Endpoints) == 0 {
		return nil, errors.New("failover: invalid Endpoints: there must be at least one")
	}
	var servers []*server
	for i, e := range t.Endpoints {
		s, err := newServer(e)
		if err != nil {
			return nil, fmt.Errorf("failover: invalid Endpoints[%d]%w", i, err)
		}
		servers = append(servers, s)
	}
	return servers, nil
}

func newServer(e Endpoint) (*server, error) {
	u, err := url.Parse(e.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		// The error of url.Parse may quote a part of a password.
		return nil, errors.New(".URL: must be an http or https URL with a host")
	}
	s := &server{
		url:    u,
		name:   (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String(),
		header: make(http.Header),
		base:   fresh(e.Base),
		weight: e.Weight,
		limit:  math.Inf(1),
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf(".URL %q: port must be from 1 to 65535", s.name)
		}
	}
	if strings.Contains(e.URL, "#") {
		return nil, fmt.Errorf(".URL %q: must not have a fragment", s.name)
	}
	if e.Weight < 0 || e.Weight > maxWeight {
		return nil, fmt.Errorf(".Weight %d of %s: must be from 0 to %d", e.Weight, s.name, maxWeight)
	}
	s.weight = max(e.Weight, 1)
	if u.User != nil {
		password, _ := u.User.Password()
		basic := http.Request{Header: s.header}
		basic.SetBasicAuth(u.User.Username(), password)
	}
	for _, name := range slices.Sorted(maps.Keys(e.Header)) {
		values := e.Header[name]
		if err := headerfield.Check(name, values); err != nil {
			return nil, fmt.Errorf(".Header of %s: %w", s.name, err)
		}
		s.header[http.CanonicalHeaderKey(name)] = slices.Clone(values)
	}
	s.host = s.header.Get("Host")
	delete(s.header, "Host") // which net/http ignores
	return s, nil
}

const maxWeight = 1_000_000

// request returns a copy of req for the server. unchanged reports whether it has the
// server's URL already.
func (s *server) request(req *http.Request, unchanged bool) *http.Request {
	out := req.WithContext(req.Context())
	if !unchanged {
		out.URL = s.join(req.URL)
	}
	out.Host = s.host
	if len(s.header) > 0 {
		out.Header = req.Header.Clone()
		if out.Header == nil {
			out.Header = make(http.Header)
		}
		for name, values := range s.header {
			out.Header[name] = slices.Clone(values)
		}
	}
	return out
}

// join returns the URL at the server for a request with the URL u.
func (s *server) join(u *url.URL) *url.URL {
	joined := urlpath.Join(s.url, u)
	joined.User = nil // it is in the header
	return joined
}

// below returns the path of u relative to the server's URL, in the form of
// EscapedPath. It reports false if u is not below that URL.
func (s *server) below(u *url.URL) (path string, ok bool) {
	if u.Scheme != s.url.Scheme || !sameHost(u, s.url) {
		return "", false
	}
	return urlpath.Below(s.url, u)
}

// mayLeave reports whether a request to the path of u could leave that of an endpoint.
// The path may have been chosen by somebody who must not reach more than the endpoint.
func (t *Transport) mayLeave(u *url.URL) bool {
	hasPath := func(s *server) bool { return strings.Trim(s.url.Path, "/") != "" }
	return urlpath.HasDots(u) && slices.ContainsFunc(t.servers, hasPath)
}

// sameHost reports whether two URLs with the same scheme have the same host and port.
func sameHost(a, b *url.URL) bool {
	return strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	switch p := u.Port(); {
	case p != "":
		return p
	case u.Scheme == "https":
		return "443"
	}
	return "80"
}

// withoutQuery returns a query without the parameters of the server's URL, which the
// server may have repeated in a Location. They may be credentials.
func (s *server) withoutQuery(query string) string {
	decoded := func(parameter string) string {
		if d, err := url.QueryUnescape(parameter); err == nil {
			return d
		}
		return parameter
	}
	parameters := strings.Split(query, "&")
	for own := range strings.SplitSeq(s.url.RawQuery, "&") {
		own = decoded(own)
		parameters = slices.DeleteFunc(parameters, func(p string) bool { return decoded(p) == own })
	}
	return strings.Join(parameters, "&")
}

// location returns the Location header for the response to a request with the URL u
// that the server has redirected.
func (a *attempt) location(u *url.URL, location string) string {
	base := u
	if !a.fixed {
		base = a.server.join(u)
	}
	to, err := base.Parse(location)
	if err != nil {
		return location // http.Client reports it
	}
	own := *to
	if host := a.server.host; host != "" && sameHost(to, &url.URL{Scheme: to.Scheme, Host: host}) {
		// RFC 9110, section 7.1: the server knows itself by the Host field.
		own.Host = a.server.url.Host
	}
	path, ok := a.server.below(&own)
	if !ok || a.fixed {
		return to.String()
	}
	to.Scheme, to.Host, to.User, to.RawPath = u.Scheme, u.Host, u.User, path
	to.RawQuery = a.server.withoutQuery(to.RawQuery)
	to.Path, _ = url.PathUnescape(path)
	return to.String()
}

// target returns the server to which a redirect leads, or nil if the request is to
// be spread. It reports false if the request is a redirect to another host.
func (t *Transport) target(req *http.Request) (s *server, local bool) {
	const longestChain = 100 // far more than http.Client follows
	first := req
	for range longestChain {
		if first.Response == nil || first.Response.Request == nil {
			break
		}
		first = first.Response.Request
	}
	if first.URL == nil || strings.EqualFold(req.URL.Host, first.URL.Host) {
		return nil, true
	}
	for _, s := range t.servers {
		if _, ok := s.below(req.URL); ok {
			return s, true
		}
	}
	return nil, false
}
