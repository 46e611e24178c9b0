package httpretry

import (
	"context"
	"net/http"
	"net/url"
	"slices"

	"github.com/httpretry/httpretry/internal/route"
)

const (
	// maxRedirects is the limit of http.Client: the tenth redirect is not followed.
	maxRedirects = 10

	// maxChain limits the redirects that led to a request: a CheckRedirect may
	// allow more than maxRedirects. A Base that returns one Response for several
	// requests can make their chain endless.
	maxChain = 100
)

// A renewal sends the requests for the rest of a download. Signed URLs, to which
// model hubs and registries redirect, expire within minutes. If the server
// rejects a request, the URL that redirected to it is asked for a new one, as
// part of the same attempt. That is done once after each failure of the body; the
// attempts that follow begin at the first URL.
type renewal struct{ hop }

// RoundTrip implements [http.RoundTripper].
func (r renewal) RoundTrip(req *http.Request) (*http.Response, error) {
	if r.d.expired {
		return r.follow(req)
	}
	resp, err := r.hop.RoundTrip(req)
	if err != nil || resp == nil || !mayHaveExpired(resp.StatusCode) || r.d.root == nil {
		return resp, err
	}
	r.d.expired = true
	ctx := req.Context()
	if err := newDiscard(resp, false).during(ctx, 0, ctx.Err); err != nil {
		return nil, context.Cause(ctx)
	}
	return r.follow(req)
}

// follow sends the first request of the download again, with the range that req
// asks for, and follows redirects.
func (r renewal) follow(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if choice := route.ChoiceOf(r.d.root.Context()); choice != nil && route.PreviousOf(ctx).Choice == nil {
		// The response is from another host, to which this server has redirected.
		ctx = route.WithPrevious(ctx, route.Previous{Choice: choice, Resuming: true})
	}
	first := r.d.root.WithContext(ctx)
	first.Header = first.Header.Clone()
	r.d.ask(first)
	client := &http.Client{Transport: r.hop, CheckRedirect: r.checkRedirect}
	resp, err := client.Do(first)
	if e, ok := err.(*url.Error); ok {
		err = e.Err // of Base, as in any other attempt
	}
	return resp, err
}

// A hop sends one request of an attempt and records it in its download.
type hop struct {
	base http.RoundTripper
	d    *download
}

// RoundTrip implements [http.RoundTripper].
func (h hop) RoundTrip(req *http.Request) (*http.Response, error) {
	h.d.sent = req
	return h.base.RoundTrip(req)
}

func mayHaveExpired(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusGone:
		return true
	}
	return false
}

// checkRedirect is the CheckRedirect of a renewal. A response that it does not
// follow does not continue the download, which ends with its own error.
func (r renewal) checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects || via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return http.ErrUseLastResponse
	}
	r.dropFields(req)
	// http.Client would read the body without a time limit.
	ctx := req.Context()
	err := newDiscard(req.Response, false).during(ctx, 0, ctx.Err)
	req.Response.Body = http.NoBody
	if err != nil {
		return context.Cause(ctx)
	}
	return nil
}

// dropFields removes the fields from the header of req, the request after a
// redirect, that the request to the same host did not have when the download began.
// The http.Client above sends the password of a URL and the cookies of its Jar only
// to some hosts, and its CheckRedirect may remove a credential that is unknown to
// net/http.
func (r renewal) dropFields(req *http.Request) {
	before := r.d.requestTo(req.URL.Host)
	cookies := req.Cookies()
	for name, values := range req.Header {
		switch name {
		case "Range", "If-Range", "Referer": // of this request alone
		default:
			if !slices.Equal(values, before.Header[name]) {
				req.Header.Del(name)
			}
		}
	}
	if req.Header["Cookie"] != nil {
		return
	}
	for _, cookie := range cookies {
		same := func(c *http.Cookie) bool { return c.Value == cookie.Value }
		if slices.ContainsFunc(before.CookiesNamed(cookie.Name), same) {
			req.AddCookie(cookie)
		}
	}
}

// requestTo returns the request to host among those that led to the first response
// or, if there was none, the last of them.
func (d *download) requestTo(host string) *http.Request {
	req := d.call.req
	for req.URL.Host != host {
		if req.Response == nil {
			return d.call.req
		}
		req = req.Response.Request // d.root is at the end of the chain
	}
	return req
}

// beforeRedirects returns the request that the redirects to req began with. It
// returns nil if there were none, or if that request must not be sent again.
func beforeRedirects(req *http.Request) *http.Request {
	first := req
	for range maxChain {
		if first.Response == nil || first.Response.Request == nil {
			break
		}
		first = first.Response.Request
	}
	if first == req || first.Response != nil || first.Method != http.MethodGet && first.Method != "" || hasBody(first) {
		return nil
	}
	return first
}
