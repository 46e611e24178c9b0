package inference_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/httpretry/httpretry/failover"
	"github.com/httpretry/httpretry/inference"
)

// gateways is a Transport with a function for each host. It records the requests.
type gateways struct {
	got   []string
	hosts map[string]func() (int, string)
}

func (g *gateways) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	req.Body.Close()
	if err != nil || string(body) != questionBody {
		return nil, fmt.Errorf("got body %s, %v", body, err)
	}
	g.got = append(g.got, fmt.Sprint(req.URL, " ", req.Header.Get("Authorization"), " ", req.Header.Get("X-Tenant"), " ", req.Host))
	status, text := 200, answer
	if f := g.hosts[req.URL.Host]; f != nil {
		status, text = f()
	}
	return &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(text)), ContentLength: int64(len(text)), Request: req,
	}, nil
}

// A retry goes to another gateway without a backoff, also after a 200 without an
// answer.
func TestEndpoints_RetryGoesElsewhere(t *testing.T) {
	for name, failure := range map[string]func() (int, string){
		"500":               func() (int, string) { return 500, "" },
		"refusal":           func() (int, string) { return 429, `{"error":{"message":"Please try again in 20s."}}` },
		"no answer":         func() (int, string) { return 200, `{"choices":[]}` },
		"an error in a 200": func() (int, string) { return 200, `{"error":{"code":503,"message":"overloaded"}}` },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := &gateways{hosts: map[string]func() (int, string){"a": failure}}
				c := newClient(t, inference.HTTPInferenceClientConfig{
					Endpoints: []failover.Endpoint{{URL: "http://a/base?v=1"}, {URL: "https://b"}},
					APIKey:    "shared-key", MaxRetries: 1, Transport: g,
				})
				begun := time.Now()
				resp, err := c.Generate(t.Context(), question())
				if err != nil || string(resp.Response) != answer || time.Since(begun) > 0 {
					t.Errorf("got %v, %v after %v, want the answer after 0s", resp, err, time.Since(begun))
				}
				want := []string{
					"http://a/base/v1/chat/completions?v=1 Bearer shared-key",
					"https://b/v1/chat/completions Bearer shared-key",
				}
				for i := range g.got {
					g.got[i] = strings.TrimSpace(g.got[i])
				}
				if diff := cmp.Diff(want, g.got); diff != "" {
					t.Errorf("requests (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// The refusal of a gateway that names a time in its body closes it for that time.
func TestEndpoints_RefusingGatewayIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gateways{hosts: map[string]func() (int, string){
			"a": func() (int, string) {
				return 429, `{"error":{"details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"20s"}]}}`
			},
		}}
		c := newClient(t, inference.HTTPInferenceClientConfig{
			Endpoints: []failover.Endpoint{{URL: "http://a"}, {URL: "http://b"}}, MaxRetries: 1, Transport: g,
		})
		begun := time.Now()
		for time.Since(begun) < 19*time.Second {
			if _, err := c.Generate(t.Context(), question()); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second)
		}
		if got := strings.Count(strings.Join(g.got, "\n"), "//a/"); got != 1 {
			t.Errorf("got %d requests to a, want 1", got)
		}
	})
}

// A gateway that will not serve, whatever the time, is left alone for a minute, and its
// requests go to another one. Only if all say so is the failure final.
func TestEndpoints_GatewayThatWillNotServe(t *testing.T) {
	for name, denial := range map[string]func() (int, string){
		"key":          func() (int, string) { return 401, `{"error":{"message":"bad key"}}` },
		"account":      func() (int, string) { return 402, `{"error":{"message":"no money"}}` },
		"permission":   func() (int, string) { return 403, "" },
		"model":        func() (int, string) { return 404, `{"error":{"message":"The model m does not exist"}}` },
		"quota":        func() (int, string) { return 429, `{"error":{"code":"insufficient_quota"}}` },
		"error in 200": func() (int, string) { return 200, `{"error":{"code":401,"message":"bad key"}}` },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := &gateways{hosts: map[string]func() (int, string){"a": denial}}
				c := newClient(t, inference.HTTPInferenceClientConfig{
					Endpoints: []failover.Endpoint{{URL: "http://a"}, {URL: "http://b"}}, MaxRetries: 1, Transport: g,
				})
				begun := time.Now()
				for time.Since(begun) < 59*time.Second {
					if _, err := c.Generate(t.Context(), question()); err != nil {
						t.Fatalf("got %v, want the answer of b", err)
					}
					time.Sleep(time.Second)
				}
				// A response that is an error in spite of its status closes the gateway
				// for seconds.
				most := map[bool]int{true: 30, false: 1}[name == "error in 200"]
				if got := strings.Count(strings.Join(g.got, "\n"), "//a/"); got < 1 || got > most {
					t.Errorf("got %d requests to a, want 1 to %d", got, most)
				}
				g.got, g.hosts["b"] = nil, denial
				for i := range 20 {
					if _, err := c.Generate(t.Context(), question()); err == nil {
						t.Fatal("got an answer, want a failure")
					}
					if n := len(g.got); n > i+2 {
						t.Fatalf("%d requests after %d failures, want one each, and one retry", n, i+1)
					}
				}
			})
		})
	}
}

// A gateway that serves other models is not left alone because of one that it lacks.
func TestEndpoints_GatewayWithoutOneModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		status := map[string]int{"a": 200, "b": 200}
		g := &gateways{hosts: map[string]func() (int, string){
			"a": func() (int, string) { return status["a"], answer }, "b": func() (int, string) { return status["b"], answer },
		}}
		c := newClient(t, inference.HTTPInferenceClientConfig{
			Endpoints: []failover.Endpoint{{URL: "http://a"}, {URL: "http://b"}}, MaxRetries: 1, Transport: g,
		})
		ask := func(want bool) {
			t.Helper()
			if _, err := c.Generate(t.Context(), question()); want != (err == nil) {
				t.Errorf("got %v, want an answer: %t", err, want)
			}
		}
		ask(true)
		ask(true)
		status["a"] = 404
		ask(true)
		ask(true)
		g.got = nil
		status["a"], status["b"] = 200, 404
		for range 4 {
			ask(true) // a is still asked, and first of all it is not closed
		}
		if got := strings.Count(strings.Join(g.got, "\n"), "//a/"); got != 4 {
			t.Errorf("got %d requests to a, want 4", got)
		}
		status["a"] = 404
		ask(false)
	})
}

// A server that responds to HTTP with a TLS alert has an error of its own, for which
// there is no retry. The test notices when net/http changes the text by which it is
// recognized.
func TestGenerate_TLSAlert(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var attempts atomic.Int32
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			attempts.Add(1)
			http.ReadRequest(bufio.NewReader(conn))
			conn.Write([]byte("\x15\x03\x01\x00\x02\x02\x46"))
			conn.Close()
		}
	}()
	c := newClient(t, inference.HTTPInferenceClientConfig{BaseURL: "http://" + l.Addr().String(), MaxRetries: 3})
	_, failed := c.Generate(t.Context(), question())
	if failed == nil || !errors.Is(failed, http.ErrSchemeMismatch) || attempts.Load() != 1 {
		t.Errorf("got %v after %d attempts, want http.ErrSchemeMismatch after 1", failed, attempts.Load())
	}
	if !strings.Contains(failed.Error(), "server gave TLS response to HTTP client") {
		t.Errorf("got %v", failed)
	}
}

// Each gateway has its own credentials, and none of them appears in an error or in
// the text of a config.
func TestEndpoints_Credentials(t *testing.T) {
	config := inference.HTTPInferenceClientConfig{
		Endpoints: []failover.Endpoint{
			{URL: "http://user:secret-password@a"},
			{URL: "http://b?key=secret-of-the-query", Header: http.Header{"authorization": {"Bearer secret-key-of-b"}, "Host": {"virtual"}}},
		},
		Header: http.Header{"X-Tenant": {"secret-tenant"}, "Host": {"everywhere"}},
	}
	const echo = "secret-password secret-of-the-query secret-key-of-b secret-tenant"
	g := &gateways{hosts: map[string]func() (int, string){
		"a": func() (int, string) { return 400, echo }, "b": func() (int, string) { return 400, echo },
	}}
	config.Transport = g
	c := newClient(t, config)
	for range 2 {
		_, err := c.Generate(t.Context(), question())
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("got error %v, want one without secrets", err)
		}
	}
	want := []string{
		"http://a/v1/chat/completions Basic dXNlcjpzZWNyZXQtcGFzc3dvcmQ= secret-tenant everywhere",
		"http://b/v1/chat/completions?key=secret-of-the-query Bearer secret-key-of-b secret-tenant virtual",
	}
	if diff := cmp.Diff(want, g.got); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	config.Transport = nil
	for _, text := range []string{fmt.Sprint(config), fmt.Sprintf("%#v", config), fmt.Sprint(c)} {
		if strings.Contains(text, "secret") {
			t.Errorf("got text %s", text)
		}
	}
	if got := fmt.Sprint(c); got != "inference client for several gateways" {
		t.Errorf("got %q", got)
	}
}

// Beside an APIKey, userinfo is not sent, as with BaseURL.
func TestEndpoints_APIKeyHasPrecedence(t *testing.T) {
	g := new(gateways)
	c := newClient(t, inference.HTTPInferenceClientConfig{
		Endpoints: []failover.Endpoint{{URL: "http://user:password@a"}}, APIKey: "key", Transport: g,
	})
	if _, err := c.Generate(t.Context(), question()); err != nil {
		t.Fatal(err)
	}
	if want := "http://a/v1/chat/completions Bearer key  "; g.got[0] != want {
		t.Errorf("got %q, want %q", g.got[0], want)
	}
}

func TestEndpoints_Invalid(t *testing.T) {
	tests := []struct {
		config inference.HTTPInferenceClientConfig
		want   string
	}{
		{inference.HTTPInferenceClientConfig{BaseURL: "http://u:secret@a?secret", Endpoints: []failover.Endpoint{{URL: "http://b"}}},
			`inference: invalid BaseURL "…@a…": must be empty if there are Endpoints`},
		{inference.HTTPInferenceClientConfig{Endpoints: []failover.Endpoint{{URL: "http://a"}, {URL: "secret"}}},
			"failover: invalid Endpoints[1].URL: must be an http or https URL with a host"},
		{inference.HTTPInferenceClientConfig{Endpoints: []failover.Endpoint{{URL: "http://a", Header: http.Header{"Key": {"secret\n"}}}}},
			"inference: invalid Endpoints[0].Header: Key contains a control character"},
		{inference.HTTPInferenceClientConfig{Endpoints: []failover.Endpoint{{URL: "http://a"}, {URL: "http://b", Header: http.Header{"accept-encoding": {"gzip"}}}}},
			"inference: invalid Endpoints[1].Header: Accept-Encoding is set by the client"},
		{inference.HTTPInferenceClientConfig{Endpoints: []failover.Endpoint{{URL: "http://u:secret@a#secret"}}},
			`failover: invalid Endpoints[0].URL "http://a": must not have a fragment`},
	}
	for _, tt := range tests {
		tt.config.Transport = new(gateways)
		if err := tt.config.Validate(); err == nil || err.Error() != tt.want {
			t.Errorf("got %v, want %s", err, tt.want)
		}
		if _, err := newClient(t, tt.config).Generate(t.Context(), question()); err == nil || err.Category != inference.ErrCategoryInvalidReq {
			t.Errorf("Generate: got %v, want %s", err, inference.ErrCategoryInvalidReq)
		}
	}
}

// The events of a stream are read from the gateway that the retry chose.
func TestEndpoints_Stream(t *testing.T) {
	rt := roundTripFunc(func(req *http.Request) (*http.Response, error) {
		req.Body.Close()
		resp := &http.Response{StatusCode: 503, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: http.NoBody, Request: req}
		if req.URL.Host == "b" {
			resp.StatusCode = 200
			resp.Body = io.NopCloser(strings.NewReader("data: {\"choices\":[{\"delta\":{\"content\":\"four\"}}]}\n\ndata: [DONE]\n\n"))
		}
		return resp, nil
	})
	c := newClient(t, inference.HTTPInferenceClientConfig{
		Endpoints: []failover.Endpoint{{URL: "http://a"}, {URL: "http://b"}}, MaxRetries: 1, Transport: rt,
	})
	var text string
	for chunk, err := range c.Stream(t.Context(), question()) {
		if err != nil {
			t.Fatal(err)
		}
		text += chunk.Text
	}
	if text != "four" {
		t.Errorf("got %q, want four", text)
	}
}
