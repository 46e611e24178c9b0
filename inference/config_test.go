package inference_test

import (
	"math"
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
	} {
		t.Run(tc.name, func(t *testing.T) {
			checkConfig(t, inference.HTTPInferenceClientConfig{BaseURL: tc.url}, "inference: BaseURL is "+tc.shown+
				`: it must be an http or https URL with a host, such as "http://localhost:8000"`)
		})
	}
}

func TestValidate(t *testing.T) {
	type config = inference.HTTPInferenceClientConfig
	with := func(change func(*config)) config {
		c := config{BaseURL: "http://localhost:8000"}
		change(&c)
		return c
	}
	for _, tc := range []struct {
		name   string
		config config
		want   string // "": valid
	}{
		{"only a URL", with(func(*config) {}), ""},
		{"all set", config{
			BaseURL: "https://me:pw@gateway.example/path/?q=1", Timeout: time.Minute, MaxIdleConns: 1, IdleConnTimeout: 1, APIKey: "sk-1",
			MaxRetries: 1, InitialBackoff: 1, MaxBackoff: 1, BackoffFactor: 1, JitterFraction: 1,
		}, ""},
		{"Timeout", with(func(c *config) { c.Timeout = -time.Second }), `inference: Timeout is -1s: it must be at least 0`},
		{"MaxIdleConns", with(func(c *config) { c.MaxIdleConns = -1 }), `inference: MaxIdleConns is -1: it must be at least 0`},
		{"IdleConnTimeout", with(func(c *config) { c.IdleConnTimeout = -1 }), `inference: IdleConnTimeout is -1ns: it must be at least 0`},
		{"MaxRetries", with(func(c *config) { c.MaxRetries = -1 }), `httpretry: MaxRetries is -1: it must be at least 0`},
		{"InitialBackoff", with(func(c *config) { c.InitialBackoff = -1 }), `httpretry: InitialBackoff is -1ns: it must be at least 0`},
		{"MaxBackoff", with(func(c *config) { c.MaxBackoff = -1 }), `httpretry: MaxBackoff is -1ns: it must be at least 0`},
		{
			"BackoffFactor below 1", with(func(c *config) { c.BackoffFactor = 0.5 }),
			`httpretry: BackoffFactor is 0.5: it must be a number that is at least 1, or 0 for the default`,
		},
		{
			"BackoffFactor NaN", with(func(c *config) { c.BackoffFactor = math.NaN() }),
			`httpretry: BackoffFactor is NaN: it must be a number that is at least 1, or 0 for the default`,
		},
		{"JitterFraction negative", with(func(c *config) { c.JitterFraction = -0.1 }), `httpretry: JitterFraction is -0.1: it must be from 0 to 1`},
		{"JitterFraction above 1", with(func(c *config) { c.JitterFraction = 1.5 }), `httpretry: JitterFraction is 1.5: it must be from 0 to 1`},
		{"JitterFraction NaN", with(func(c *config) { c.JitterFraction = math.NaN() }), `httpretry: JitterFraction is NaN: it must be from 0 to 1`},
		{
			"APIKey from a file with its line break", with(func(c *config) { c.APIKey = "sk-secret\n" }),
			`inference: APIKey holds a control character, such as a line break: it must not`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) { checkConfig(t, tc.config, tc.want) })
	}
}

// checkConfig checks what Validate says, "" for nothing, and that Generate
// goes by it.
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
