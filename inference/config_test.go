package inference_test

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/httpretry/httpretry/flaky"
	"github.com/httpretry/httpretry/inference"
)

func TestValidateBaseURL(t *testing.T) {
	for _, tc := range []struct {
		name, url string
		shown     string // in the error
	}{
		{"no URL", "", `""`},
		{"no scheme", "localhost:8000", `"localhost:8000"`},
		{"only a host", "localhost", `"localhost"`},
		{"other scheme", "ftp://localhost", `"ftp://localhost"`},
		{"no host", "http:///v1", `"http:///v1"`},
		{"only a port", "http://:8000", `"http://:8000"`},
		{"no slashes", "http:localhost", `"http:localhost"`},
		{"bad port", "http://localhost:eighty", `"http://localhost:eighty"`},
		{"control character", "http://localhost\n", `"http://localhost\n"`},
		{"userinfo is not shown", "ftp://me:secret@host/path", `"…@host/path"`},
		{"nor in what can't be parsed", "http://me:sec/ret@ho st", `"…@ho st"`},
		{"nor a query", "host/path?key=secret", `"host/path…"`},
		{"nor both", "ftp://me:pass@host/path?key=secret", `"…@host/path…"`},
		{"nor what may be both", "host/path?key=sec@ret", `"…"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			checkConfig(t, inference.HTTPInferenceClientConfig{BaseURL: tc.url}, "inference: invalid BaseURL "+tc.shown+
				`: must be an http or https URL with a host, such as "http://localhost:8000"`)
		})
	}
}

// A fragment is not sent.
func TestValidateBaseURL_Fragment(t *testing.T) {
	for url, shown := range map[string]string{
		"http://localhost#secret": `"http://localhost…"`, "http://me:secret@host/path?key=secret#": `"…@host/path…"`,
	} {
		checkConfig(t, inference.HTTPInferenceClientConfig{BaseURL: url}, "inference: invalid BaseURL "+shown+": must not have a fragment")
	}
}

func TestValidatePort(t *testing.T) {
	for _, tc := range []struct {
		name, url string
		shown     string // in the error; "": valid
	}{
		{"least", "http://localhost:1", ""},
		{"greatest", "http://localhost:65535/path", ""},
		{"leading zeros", "http://localhost:008000", ""},
		{"none", "http://[::1]/", ""},
		{"IPv6", "http://[::1]:8000/", ""},
		{"zero", "http://localhost:0", `"http://localhost:0"`},
		{"too great", "http://me:pw@localhost:65536/?q=1", `"…@localhost:65536/…"`},
		{"far too great", "http://localhost:99999999999999999999", `"http://localhost:99999999999999999999"`},
		{"empty", "http://localhost:/path", `"http://localhost:/path"`},
		{"empty, IPv6", "http://[::1]:", `"http://[::1]:"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := ""
			if tc.shown != "" {
				want = "inference: invalid BaseURL " + tc.shown + ": port must be from 1 to 65535"
			}
			checkConfig(t, inference.HTTPInferenceClientConfig{BaseURL: tc.url}, want)
		})
	}
}

// Printing a config or a client must not print the key.
func TestSecretsInPrintedValues(t *testing.T) {
	config := inference.HTTPInferenceClientConfig{
		BaseURL: "http://me:password@gateway.test/path?token=hidden", APIKey: secretKey, MaxRetries: 7,
		Header: http.Header{"X-Key": {"header-secret"}},
	}
	client := inference.NewHTTPInferenceClient(config)
	for name, v := range map[string]any{
		"config": config, "pointer to a config": &config, "client": client, "dereferenced client": *client,
		"struct": struct {
			Gateway inference.HTTPInferenceClientConfig
		}{config},
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
			got := fmt.Sprintf(verb, v)
			for _, secret := range []string{secretKey, "password", "hidden", "header-secret"} {
				if strings.Contains(got, secret) {
					t.Errorf("%s as %s holds %q: %s", name, verb, secret, got)
				}
			}
			if !strings.Contains(got, "gateway.test/path") {
				t.Errorf("%s as %s: got %s, want it to name the gateway", name, verb, got)
			}
		}
	}
	if got := config.String(); !strings.Contains(got, "MaxRetries:7") || !strings.Contains(got, "APIKey:[redacted]") || !strings.Contains(got, "X-Key") {
		t.Errorf("got %s, want the other settings, and that there is a key", got)
	}
}

// TestClient_NoVerbPrintsTheKey has all verbs: package fmt calls no method for %p, nor
// for a value in an unexported field.
func TestClient_NoVerbPrintsTheKey(t *testing.T) {
	config := inference.HTTPInferenceClientConfig{
		BaseURL: "http://me:password@gateway.test/path?token=hidden", APIKey: secretKey,
		Header: http.Header{"X-Key": {"hidden-0123"}},
	}
	client := inference.NewHTTPInferenceClient(config)
	type inner struct {
		value   inference.HTTPInferenceClient
		pointer *inference.HTTPInferenceClient
		any     any
	}
	values := map[string]any{
		"client": client, "value": *client, "pointer to a pointer": &client,
		"unexported field":    struct{ c inference.HTTPInferenceClient }{*client},
		"pointer to a struct": &inner{*client, client, *client}, "nested": struct{ i inner }{inner{*client, client, client}},
		"slice": []inference.HTTPInferenceClient{*client}, "map": map[string]any{"a": *client},
		"interface": []inference.InferenceClient{client}, "array in a struct": struct {
			a [1]inference.HTTPInferenceClient
		}{},
		"error": fmt.Errorf("%v", client),
	}
	for name, v := range values {
		checkVerbs(t, name, v, "vTtbcdoOqxXUeEfFgGspw!azAZ")
	}
	for name, v := range map[string]any{
		"config": config, "pointer to a config": &config, "slice of configs": []inference.HTTPInferenceClientConfig{config},
		"exported field": struct {
			C inference.HTTPInferenceClientConfig
		}{config},
	} {
		checkVerbs(t, name, v, "vTtbcdoOqxXUeEfFgGs!azAZ")
	}
}

func checkVerbs(t *testing.T, name string, v any, verbs string) {
	for _, verb := range verbs {
		for _, flags := range []string{"", "+", "#", "-", " ", "0", "8.3", "+#"} {
			format := "%" + flags + string(verb)
			got := fmt.Sprintf(format, v)
			for _, secret := range []string{secretKey, "password", "hidden"} {
				for _, form := range []string{secret, fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret), fmt.Sprint([]byte(secret)), fmt.Sprintf("%d", []byte(secret))} {
					if strings.Contains(got, strings.Trim(form, "[]")) {
						t.Errorf("%s as %s holds %q: %s", name, format, secret, got)
					}
				}
			}
		}
	}
}

func TestValidate(t *testing.T) {
	type config = inference.HTTPInferenceClientConfig
	with := func(change func(*config)) config {
		c := config{BaseURL: "http://localhost:8000"}
		change(&c)
		return c
	}
	header := func(name, value string) config {
		return with(func(c *config) { c.Header = http.Header{name: {value}} })
	}
	for _, tc := range []struct {
		name   string
		config config
		want   string // "": valid
	}{
		{"only a URL", with(func(*config) {}), ""},
		{"all set", config{
			BaseURL: "https://me:pw@gateway.example/path/?q=1", Timeout: time.Minute, StreamIdleTimeout: 1, MaxIdleConns: 1, IdleConnTimeout: 1, APIKey: "sk-1",
			MaxRetries: 1, InitialBackoff: 1, MaxBackoff: 1, BackoffFactor: 1, JitterFraction: 1,
		}, ""},
		{"Timeout", with(func(c *config) { c.Timeout = -time.Second }), `inference: invalid Timeout -1s: must not be negative`},
		{"StreamIdleTimeout", with(func(c *config) { c.StreamIdleTimeout = -1 }), `inference: invalid StreamIdleTimeout -1ns: must not be negative`},
		{"MaxIdleConns", with(func(c *config) { c.MaxIdleConns = -1 }), `inference: invalid MaxIdleConns -1: must not be negative`},
		{"IdleConnTimeout", with(func(c *config) { c.IdleConnTimeout = -1 }), `inference: invalid IdleConnTimeout -1ns: must not be negative`},
		{"MaxRetries", with(func(c *config) { c.MaxRetries = -1 }), `inference: invalid MaxRetries -1: must not be negative`},
		{"InitialBackoff", with(func(c *config) { c.InitialBackoff = -1 }), `httpretry: invalid InitialBackoff -1ns: must not be negative`},
		{"MaxBackoff", with(func(c *config) { c.MaxBackoff = -1 }), `httpretry: invalid MaxBackoff -1ns: must not be negative`},
		{
			"BackoffFactor below 1", with(func(c *config) { c.BackoffFactor = 0.5 }),
			`httpretry: invalid BackoffFactor 0.5: must be at least 1`,
		},
		{
			"BackoffFactor NaN", with(func(c *config) { c.BackoffFactor = math.NaN() }),
			`httpretry: invalid BackoffFactor NaN: must be at least 1`,
		},
		{"JitterFraction negative: no jitter", with(func(c *config) { c.JitterFraction = -0.1 }), ""},
		{"JitterFraction above 1", with(func(c *config) { c.JitterFraction = 1.5 }), `httpretry: invalid JitterFraction 1.5: must be at most 1`},
		{"JitterFraction NaN", with(func(c *config) { c.JitterFraction = math.NaN() }), `httpretry: invalid JitterFraction NaN: must be at most 1`},
		{
			"APIKey from a file with its line break", with(func(c *config) { c.APIKey = "sk-secret\n" }),
			`inference: APIKey contains a control character`,
		},
		{"Header", header("X-Tenant", "a\tb"), ""},
		{"Header with a name that is not a token", header("X Tenant", "a"), `inference: invalid Header: a name is not a token`},
		{"Header without a name", header("", "a"), `inference: invalid Header: a name is not a token`},
		{"Header with a line break", header("X-Tenant", "secret\r\nA: b"), `inference: invalid Header: X-Tenant contains a control character`},
		{"Header of net/http", header("transfer-encoding", "a"), `inference: invalid Header: Transfer-Encoding is set by the client`},
		{"Header of the client", header("content-type", "a"), `inference: invalid Header: Content-Type is set by the client`},
		{"Authorization", header("Authorization", "Basic YQ=="), ""},
		{
			"Authorization beside an APIKey", with(func(c *config) { c.APIKey, c.Header = "sk-1", http.Header{"authorization": {"Basic YQ=="}} }),
			`inference: invalid Header: Authorization is set by the client, from the APIKey`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) { checkConfig(t, tc.config, tc.want) })
	}
}

// checkConfig checks the error of Validate, "" for none, and that Generate returns
// it too.
func checkConfig(t *testing.T, config inference.HTTPInferenceClientConfig, want string) {
	t.Helper()
	script := flaky.New(ok())
	config.Transport = script.Transport(nil)
	client := newClient(t, config)
	err := config.Validate()
	_, generateErr := client.Generate(t.Context(), question())
	if want == "" {
		if err != nil || generateErr != nil {
			t.Errorf("got %v and %v from Generate, want no error", err, generateErr)
		}
		return
	}
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	checkError(t, generateErr, inference.ErrCategoryInvalidReq, "invalid client configuration: "+want)
	if n := len(script.Requests()); n != 0 {
		t.Errorf("got %d requests, want none", n)
	}
}
