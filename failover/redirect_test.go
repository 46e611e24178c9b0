package failover_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/failover"
)

// redirect responds to a path with a redirect, and to all others with a 200.
func redirect(path, location string) roundTripFunc {
	return func(req *http.Request) (*http.Response, error) {
		if req.URL.Path != path {
			return response(req, 200, ""), nil
		}
		resp := response(req, 307, "")
		resp.Header.Set("Location", location)
		return resp, nil
	}
}

func TestTransport_Redirects(t *testing.T) {
	tests := []struct {
		name, location string
		want           []string // URLs and keys that are sent
		final          string   // URL that the client sees
	}{
		{"relative", "y", []string{"http://a/base/v1/x A caller", "http://b/v1/y B caller"}, "http://gateway/v1/y"},
		{"path", "/base/v1/y?q", []string{"http://a/base/v1/x A caller", "http://b/v1/y?q B caller"}, "http://gateway/v1/y?q"},
		{"absolute", "http://a/base/v1/%2F", []string{"http://a/base/v1/x A caller", "http://b/v1/%2F B caller"}, "http://gateway/v1/%2F"},
		{"default port", "http://A:80/base/v1/y", []string{"http://a/base/v1/x A caller", "http://b/v1/y B caller"}, "http://gateway/v1/y"},
		{"another port", "http://a:81/base/v1/y", []string{"http://a/base/v1/x A caller", "http://a:81/base/v1/y - -"}, "http://a:81/base/v1/y"},
		{"caller's host", "http://gateway/v1/y", []string{"http://a/base/v1/x A caller", "http://b/v1/y B caller"}, "http://gateway/v1/y"},
		{"above the base path", "/basement", []string{"http://a/base/v1/x A caller", "http://a/basement - -"}, "http://a/basement"},
		{"above the base path, escaped", "/base/%2e%2e/secret", []string{"http://a/base/v1/x A caller", "http://a/base/%2e%2e/secret - -"}, "http://a/base/%2e%2e/secret"},
		{"above the base path, with escaped slashes", "/base/v1%2f..%2F..%2Fsecret", []string{"http://a/base/v1/x A caller", "http://a/base/v1%2f..%2F..%2Fsecret - -"}, "http://a/base/v1%2f..%2F..%2Fsecret"},
		{"base path after a second slash", "http://a//base/v1/y", []string{"http://a/base/v1/x A caller", "http://a//base/v1/y - -"}, "http://a//base/v1/y"},
		{"base path with escapes", "/b%61se/v1/y", []string{"http://a/base/v1/x A caller", "http://b/v1/y B caller"}, "http://gateway/v1/y"},
		{"another scheme", "https://a/base/v1/y", []string{"http://a/base/v1/x A caller", "https://a/base/v1/y - -"}, "https://a/base/v1/y"},
		{"another host", "http://cdn/y", []string{"http://a/base/v1/x A caller", "http://cdn/y - -"}, "http://cdn/y"},
		{"another endpoint", "http://c/y", []string{"http://a/base/v1/x A caller", "http://c/y C -"}, "http://c/y"},
	}
	for _, tt := range tests {
		for _, retries := range []bool{false, true} {
			t.Run(tt.name, func(t *testing.T) {
				var got []string
				answer := redirect("/base/v1/x", tt.location)
				rt := &failover.Transport{
					Endpoints: []failover.Endpoint{
						{URL: "http://a/base", Header: http.Header{"Key": {"A"}}},
						{URL: "http://b", Header: http.Header{"Key": {"B"}}},
						{URL: "http://c", Header: http.Header{"Key": {"C"}}},
					},
					Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
						or := func(name string) string { return strings.Join(append(req.Header[name], "-")[:1], "") }
						got = append(got, req.URL.String()+" "+or("Key")+" "+or("Authorization"))
						return answer(req)
					}),
				}
				client := &http.Client{Transport: rt}
				if retries {
					client.Transport = &httpretry.RetryTransport{Base: rt}
				}
				req := newRequest(t, "POST", "body")
				req.Header.Set("Authorization", "caller")
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("requests (-want +got):\n%s", diff)
				}
				if url := resp.Request.URL.String(); url != tt.final {
					t.Errorf("the client sees %s, want %s", url, tt.final)
				}
			})
		}
	}
}

// The query of an endpoint, which may be a credential, is not sent to another one.
func TestTransport_RedirectWithTheQueryOfTheEndpoint(t *testing.T) {
	tests := []struct{ location, want, final string }{
		{"/base/y/?key=A%2B&v", "http://b/y/?key=B", "http://gateway/y/"},
		{"y?q=1&v&key=A%2b", "http://b/v1/y?key=B&q=1", "http://gateway/v1/y?q=1"},
		{"y?key=C&w=A%2B", "http://b/v1/y?key=B&key=C&w=A%2B", "http://gateway/v1/y?key=C&w=A%2B"},
		{"#top", "http://b/v1/x?key=B#top", "http://gateway/v1/x#top"},
	}
	for _, tt := range tests {
		t.Run(tt.location, func(t *testing.T) {
			var got []string
			answer := redirect("/base/v1/x", tt.location)
			rt := &failover.Transport{
				Endpoints: []failover.Endpoint{{URL: "http://a/base?key=A%2B&v"}, {URL: "http://b?key=B"}},
				Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
					got = append(got, req.URL.String())
					return answer(req)
				}),
			}
			resp, err := (&http.Client{Transport: rt}).Do(newRequest(t, "GET", ""))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if diff := cmp.Diff([]string{"http://a/base/v1/x?key=A%2B&v", tt.want}, got); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
			if url := resp.Request.URL.String(); url != tt.final {
				t.Errorf("the client sees %s, want %s", url, tt.final)
			}
		})
	}
}

// A server that makes a Location absolute takes the host from the Host header.
func TestTransport_RedirectToTheHostHeader(t *testing.T) {
	for location, want := range map[string]string{
		"http://virtual:80/base/v1/y": "http://b/v1/y", "http://virtual/y": "http://virtual/y", "http://virtual:81/base/y": "http://virtual:81/base/y",
	} {
		var got []string
		answer := redirect("/base/v1/x", location)
		rt := &failover.Transport{
			Endpoints: []failover.Endpoint{{URL: "http://a:8080/base", Header: http.Header{"Host": {"virtual"}}}, {URL: "http://b"}},
			Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				got = append(got, req.URL.String())
				return answer(req)
			}),
		}
		resp, err := (&http.Client{Transport: rt}).Do(newRequest(t, "GET", ""))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if diff := cmp.Diff([]string{"http://a:8080/base/v1/x", want}, got); diff != "" {
			t.Errorf("%s: requests (-want +got):\n%s", location, diff)
		}
	}
}

// A redirect from another host is relative to that host.
func TestTransport_RedirectsOfAnotherHost(t *testing.T) {
	base := &hosts{funcs: map[string]roundTripFunc{"a": redirect("/v1/x", "http://cdn/1"), "cdn": redirect("/1", "/2")}}
	client := &http.Client{Transport: newTransport(base, "a", "b")}
	resp, err := client.Do(newRequest(t, "GET", ""))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := base.sent(); got != "a cdn cdn" || resp.Request.URL.String() != "http://cdn/2" {
		t.Errorf("got %s, ending at %s", got, resp.Request.URL)
	}
}

// A request that was redirected to another endpoint is retried there.
func TestTransport_RetryOfARedirectToAnotherEndpoint(t *testing.T) {
	failures := 1
	base := &hosts{funcs: map[string]roundTripFunc{"a": redirect("/v1/x", "http://b/session"), "b": func(req *http.Request) (*http.Response, error) {
		if failures--; failures >= 0 {
			return nil, errReset
		}
		return response(req, 200, ""), nil
	}}}
	client := &http.Client{Transport: &httpretry.RetryTransport{
		Base:   newTransport(base, "a", "b"),
		Policy: immediately{},
	}}
	resp, err := client.Do(newRequest(t, "GET", ""))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := base.sent(); got != "a b b" {
		t.Errorf("got %s, want a b b", got)
	}
}

// http.Client reports a Location that is not a URL.
func TestTransport_InvalidLocation(t *testing.T) {
	base := &hosts{funcs: map[string]roundTripFunc{"a": redirect("/v1/x", "http://[")}}
	client := &http.Client{Transport: newTransport(base, "a")}
	if _, err := client.Do(newRequest(t, "GET", "")); err == nil || !strings.Contains(err.Error(), "Location") {
		t.Errorf("got %v", err)
	}
}

// The chain of requests that led to a redirect may be of the caller's making.
func TestTransport_EndlessRedirectChain(t *testing.T) {
	req := newRequest(t, "GET", "")
	req.Response = &http.Response{Request: req}
	if code, err := send(t, newTransport(&hosts{}, "a"), req); code != 200 || err != nil {
		t.Errorf("got %d, %v", code, err)
	}
	req.Response.Request = &http.Request{}
	if code, err := send(t, newTransport(&hosts{}, "a"), req); code != 200 || err != nil {
		t.Errorf("got %d, %v", code, err)
	}
}
