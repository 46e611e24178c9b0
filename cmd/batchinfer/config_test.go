package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/share"
)

func TestConfigParse(t *testing.T) {
	var c config
	err := c.parse("c.yaml", []byte(`
inference_gateway_url: https://gw.example/base?api-version=1
inference_api_key: "sk-12"
inference_request_timeout: 90s
inference_max_retries: 0
inference_headers:
  X-Tenant: a
  x-tier: "gold: 1"
inference_initial_backoff: 250ms
inference_max_backoff: 1m30s
inference_backoff_factor: 1.5
inference_jitter_fraction: 0
inference_max_retry_after: 2h
inference_max_outage: 10m
num_workers: 3
max_job_concurrency: 7
`))
	want := config{
		gatewayURL: "https://gw.example/base?api-version=1", apiKey: "sk-12", requestTimeout: 90 * time.Second,
		header:         http.Header{"X-Tenant": {"a"}, "X-Tier": {"gold: 1"}},
		initialBackoff: 250 * time.Millisecond, maxBackoff: 90 * time.Second, backoffFactor: 1.5,
		maxRetryAfter: 2 * time.Hour, maxOutage: 10 * time.Minute, numWorkers: 3, perWorker: 7,
	}
	if err != nil || !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, %v, want %+v", c, err, want)
	}
	if got := c.client(); got.JitterFraction == 0 || got.JitterFraction > 1e-300 {
		t.Errorf("the client's JitterFraction: got %v, want next to nothing: 0 is its default", got.JitterFraction)
	}
}

// A file without settings leaves every default.
func TestConfigParseNothing(t *testing.T) {
	for _, text := range []string{"", "# comment\n", "---\n", "null\n", "{}\n", "\uFEFF{}"} {
		c := defaultConfig()
		if err := c.parse("c.yaml", []byte(text)); err != nil || !reflect.DeepEqual(c, defaultConfig()) {
			t.Errorf("%q: got %+v, %v, want the defaults", text, c, err)
		}
	}
}

// The documentation has each key with its default.
func TestConfigDocumented(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for line := range strings.Lines(string(doc)) {
		if key, _, ok := strings.Cut(strings.TrimPrefix(line, "\t"), ":"); ok && keys[key] != nil {
			text.WriteString(strings.TrimPrefix(line, "\t"))
		}
	}
	wantDefaults(t, "doc.go", text.String(), len(keys))
}

// README.md has each key with its default.
func TestConfig_DocumentedInReadme(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	documented := 0
	row := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (none|`.*?`)(?:, or [^|]*)? \\|")
	for _, m := range row.FindAllStringSubmatch(string(readme), -1) {
		documented++
		if m[2] != "none" {
			fmt.Fprintf(&text, "%s: %s\n", m[1], strings.Trim(m[2], "`"))
		} else if keys[m[1]] == nil {
			t.Errorf("%s is not a key", m[1])
		}
	}
	if documented != len(keys) {
		t.Errorf("documented keys: got %d, want %d", documented, len(keys))
	}
	wantDefaults(t, "README.md", text.String(), len(keys)-9)
	for _, status := range []int{exitOK, exitFailed, exitUsage, exitInterrupted} {
		if !strings.Contains(string(readme), fmt.Sprintf("\n| %d | ", status)) {
			t.Errorf("exit status %d is not documented", status)
		}
	}
}

// wantDefaults checks that a YAML text has so many lines, and no other values than
// the defaults.
func wantDefaults(t *testing.T, name, text string, lines int) {
	t.Helper()
	c := config{}
	if err := c.parse(name, []byte(text)); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(text, "\n"); got != lines {
		t.Errorf("documented keys: got %d, want %d", got, lines)
	}
	c.gatewayURL, c.apiKey, c.header = "", "", nil
	c.queueURL, c.queueJob, c.queueCredentials, c.queueMaxInFlight, c.queueReplicas, c.shared = "", "", "", 0, 0, share.Limits{}
	if !reflect.DeepEqual(c, defaultConfig()) {
		t.Errorf("documented: got %+v, want %+v", c, defaultConfig())
	}
}

func TestConfigParseErrors(t *testing.T) {
	for _, tt := range []struct {
		name, text, want string
	}{
		{"unknown key", "num_workers: 1\nnum_worker: 2\n", "c.yaml:2: num_worker: unknown key"},
		{"merge key", "<<: {num_workers: 1}\n", "c.yaml:1: <<: unknown key"},
		{"key not a word", "[a]: 1\n", "c.yaml:1: a list or mapping as key: unknown key"},
		{"key a mapping", "? {a: 1}\n: 2\n", "c.yaml:1: a list or mapping as key: unknown key"},
		{"nearly a key", "Inference_max_retry: 2\n", "c.yaml:1: Inference_max_retry: unknown key"},
		{"nearly a key that a terminal would obey", "\"num_workers\\e\": 1\n", `c.yaml:1: "num_workers\x1b": unknown key`},
		{"empty key", "\"\": 1\n", `c.yaml:1: "": unknown key`},
		{"key that a terminal would obey", "\"\\e[31mred\": 1\n", "c.yaml:1: (not shown, may be secret): unknown key"},
		{"alias without anchor", "num_workers: *many\n", "c.yaml: not valid YAML: unknown anchor"},
		{"not UTF-8", "# c\nnum_workers: \xff\n", "c.yaml:2: not valid YAML: "},
		{"zero byte", "# c\n\nnum_workers: 1\x00\n", "c.yaml:3: not valid YAML: control characters are not allowed"},
		{"duplicate key", "num_workers: 1\n\nnum_workers: 1\n", "c.yaml:3: num_workers: is already set in line 1"},
		{"word for number", "num_workers: many", `c.yaml:1: num_workers: must be a whole number from 1 to 10000`},
		{"quoted number", "# c\nnum_workers: \"3\"", `c.yaml:2: num_workers: is "3": it must be a whole number`},
		{"fraction", "inference_max_retries: 1.5", "c.yaml:1: inference_max_retries: is 1.5: it must be a whole number from 0 to 1000"},
		{"negative", "inference_max_retries: -1", "c.yaml:1: inference_max_retries: is -1: it must be"},
		{"overflow", "inference_max_retries: 99999999999999999999", "c.yaml:1: inference_max_retries: is 99999999999999999999: it must be"},
		{"zero", "max_job_concurrency: 0", "c.yaml:1: max_job_concurrency: is 0: it must be"},
		{"bool", "num_workers: true", "c.yaml:1: num_workers: must be"},
		{"queue of another kind", "queue_url: http://q", "c.yaml:1: queue_url: must begin with nats:// or tls:// and a host"},
		{"no rate", "gateway_requests_per_second: 0", "c.yaml:1: gateway_requests_per_second: is 0: it must be"},
		{"no attempts", "gateway_max_in_flight: 0", "c.yaml:1: gateway_max_in_flight: is 0: it must be"},
		{"product", "num_workers: 200\nmax_job_concurrency: 200", "c.yaml:2: num_workers × max_job_concurrency: is 40000: it must be at most 10000"},
		{"list", "num_workers: [1]", "c.yaml:1: num_workers: is not a single value: it must be"},
		{"nothing", "num_workers:", "c.yaml:1: num_workers: is empty: it must be"},
		{"duration without unit", "inference_request_timeout: 30", "c.yaml:1: inference_request_timeout: is 30: it must be a duration above 0, such as 500ms"},
		{"duration zero", "inference_max_backoff: 0s", `c.yaml:1: inference_max_backoff: must be a duration above 0`},
		{"duration negative", "inference_initial_backoff: -1s", `c.yaml:1: inference_initial_backoff: must be`},
		{"duration too long", "inference_initial_backoff: 9999999h", `c.yaml:1: inference_initial_backoff: must be`},
		{"factor below 1", "inference_backoff_factor: 0.5", "c.yaml:1: inference_backoff_factor: is 0.5: it must be a number from 1 to 1000"},
		{"factor NaN", "inference_backoff_factor: .nan", "c.yaml:1: inference_backoff_factor: must be"},
		{"factor infinite", "inference_backoff_factor: .inf", "c.yaml:1: inference_backoff_factor: must be"},
		{"no blank", "inference_max_retries:5", "c.yaml:1: inference_max_retries: needs a blank after the colon"},
		{"no blank in a later line", "num_workers: 1\ninference_api_key:sk-1\n", "c.yaml:2: inference_api_key: needs a blank after the colon"},
		{"no blank in the first of two", "inference_gateway_url:http://h\nnum_workers: 1\n", "c.yaml:1: inference_gateway_url: needs a blank after the colon"},
		{"jitter above 1", "inference_jitter_fraction: 1.1", "c.yaml:1: inference_jitter_fraction: is 1.1: it must be a number from 0 to 1"},
		{"url not text", "inference_gateway_url: 8000", "c.yaml:1: inference_gateway_url: is 8000: it must be the URL of a gateway"},
		{"url without scheme", "inference_gateway_url: gw.example", "c.yaml:1: inference_gateway_url: must begin with http:// or https:// and a host"},
		{"url without host", "inference_gateway_url: http://:80", "c.yaml:1: inference_gateway_url: must begin with"},
		{"port too great", "inference_gateway_url: http://h:99999", "c.yaml:1: inference_gateway_url: must have a port from 1 to 65535"},
		{"port missing", "inference_gateway_url: 'http://h:'", "c.yaml:1: inference_gateway_url: must have a port"},
		{"fragment", "inference_gateway_url: 'http://h/#pw'", "c.yaml:1: inference_gateway_url: must not have a fragment"},
		{"url with v1", "inference_gateway_url: http://h/v1", "c.yaml:1: inference_gateway_url: must not end in /v1"},
		{"headers not a mapping", "inference_headers: 'X-Tenant: a'", "c.yaml:1: inference_headers: must be a mapping of names to values"},
		{"header with a number", "inference_headers: {X-Tier: 1}", "c.yaml:1: inference_headers: a value is not a string: put it in quotes"},
		{"header with a blank in its name", "inference_headers: {X Tier: a}", "c.yaml:1: inference_headers: a name is not a token"},
		{"header that is there twice", "inference_headers: {X-Tier: a, x-tier: b}", "c.yaml:1: inference_headers: a name is there more than once"},
		{"header of the client", "inference_headers: {content-type: a}", "c.yaml:1: inference_headers: Content-Type is set by the client"},
		{"several", "a: 1\nnum_workers: 0\n", "c.yaml:1: a: unknown key\nc.yaml:2: num_workers: is 0"},
		{"second document", "num_workers: 1\n---\nnum_workers: 2\n", "c.yaml:2: a second document"},
		{"not a mapping", "- num_workers\n", "c.yaml:1: not a mapping of keys to values"},
		{"not YAML", "num_workers: 1\n\tmax: 2\n", "c.yaml:2: not valid YAML: found"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := defaultConfig()
			err := c.parse("c.yaml", []byte(tt.text))
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestConfigTooManyProblems(t *testing.T) {
	var text strings.Builder
	for i := range 50 {
		fmt.Fprintf(&text, "key%d: 1\n", i)
	}
	err := new(config).parse("c.yaml", []byte(text.String()))
	if got, want := strings.Count(err.Error(), "\n"), maxProblems; got != want || !strings.HasSuffix(err.Error(), "and more; these are the first 20") {
		t.Errorf("got %d line breaks in\n%v\nwant %d", got, err, want)
	}
}

// No error about the key, or about the text around it, holds the key.
func TestConfigErrorsHideKey(t *testing.T) {
	const key = "Secret-0123456789"
	for _, text := range []string{
		"inference_api_key: [" + key + "]",
		"inference_api_key: {" + key + ": 1}",
		"inference_api_key: *" + key,
		"inference_api_key: &" + key,
		"inference_api_key: !" + key + " x",
		"inference_api_key: !!int " + key,
		"inference_api_key: '" + key,
		"inference_api_key: \"" + key + "\\n\"",
		"inference_api_key: \"\\q" + key + "\"",
		"inference_api_key: %" + key,
		"inference_api_key: @" + key,
		"inference_api_key: |\n  " + key + "\n  more",
		"inference_api_key: " + key + ": 1",
		"inference_api_key:" + key,
		"inference_api_key:" + key + ": 1",
		"INFERENCE_API_KEY=" + key + ": 1",
		"inference_api_key" + key + ": 1\nnum_workers: 1",
		"inference_api_key: x\ninference_api_key: " + key,
		key + ": x",
		key + ":",
		"? " + key,
		"'" + key + "' : inference_api_key",
		"{" + key + ": 1}",
		"x: 1\n" + key + ": 1\n" + key + ": 2",
		"&" + key + " num_worker: 1",
		"&a " + key + ": 1",
		"inference_" + key + ": 1",
		"inference:\n  api_key: " + key,
		"- " + key,
		"--- " + key,
		key,
		"a: 1\n---\n" + key + ": 1",
		"inference_max_retries: " + key,
		"num_workers: !!int " + key,
		"inference_backoff_factor: " + key,
		"inference_request_timeout: " + key,
		"inference_gateway_url: " + key,
		"inference_gateway_url: !!bool " + key,
		"inference_gateway_url: http://user:" + key + "@h:99999",
		"inference_gateway_url: http://user:" + key + "@",
		"inference_gateway_url: ftp://h?k=" + key,
		"inference_headers: " + key,
		"inference_headers: [" + key + "]",
		"inference_headers: {" + key + "}",
		"inference_headers: {X-Key " + key + ": a}",
		"inference_headers: {X-Key: [" + key + "]}",
		"inference_headers: {[" + key + "]: a}",
		"inference_headers: {X-Key: !!int " + key + "}",
		"inference_headers: {Content-Type: " + key + "}",
		"inference_headers: {X-Key: \"" + key + "\\n\"}",
		"inference_headers: {X-Key: a, X-Key: " + key + "}",
		"inference_headers:" + key,
		"inference_gateway_url: \"http://h\\x01?k=" + key + "\"",
	} {
		err := new(config).parse("c.yaml", []byte(text))
		if err == nil || strings.Contains(err.Error(), key) {
			t.Errorf("%q: got %v, want an error without the key", text, err)
		}
	}
}

// The environment overrides the file, flags override both.
func TestOptionsConfig(t *testing.T) {
	file := writeFile(t, "inference_gateway_url: http://file\ninference_api_key: fromfile\nnum_workers: 3\nmax_job_concurrency: 5\n")
	for _, tt := range []struct {
		name     string
		opts     options
		key      string // in the environment
		url      string
		apiKey   string
		inFlight int
		err      string
	}{
		{name: "file", opts: options{configFile: file}, url: "http://file", apiKey: "fromfile", inFlight: 15},
		{name: "flags", opts: options{configFile: file, urls: []string{"http://flag"}, concurrency: 7}, url: "http://flag", apiKey: "fromfile", inFlight: 7},
		{name: "environment", opts: options{configFile: file}, key: "fromenv\n", url: "http://file", apiKey: "fromenv", inFlight: 15},
		{name: "no file", opts: options{urls: []string{"http://flag"}}, key: "fromenv", url: "http://flag", apiKey: "fromenv", inFlight: 256},
		{name: "bad key", opts: options{urls: []string{"http://flag"}}, key: "a\nb", err: "INFERENCE_API_KEY: must consist of printable ASCII characters without blanks"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.opts.input = "in"
			c, err := tt.opts.config(t.Context(), func(string) string { return tt.key })
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Fatalf("got error %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.gatewayURL != tt.url || c.apiKey != tt.apiKey || c.inFlight() != tt.inFlight {
				t.Errorf("got %q, %q, %d, want %q, %q, %d", c.gatewayURL, c.apiKey, c.inFlight(), tt.url, tt.apiKey, tt.inFlight)
			}
		})
	}
}

// The key is neither printed nor written if a gateway repeats it.
func TestKeyIsNeverPrinted(t *testing.T) {
	const key = `Secret"<0123456789`
	g := newGateway(t, func(w http.ResponseWriter, r *http.Request, asked int) bool {
		got := r.Header.Get("Authorization") + r.Header.Get("X-Billing")
		switch r.Header.Get("X-Request-ID") {
		case "r0":
			return fail(w, 401, fmt.Sprintf(`{"error":{"message":%q}}`, "bad key: "+got))
		case "r1":
			return fail(w, 403, "<p>"+got)
		case "r2":
			return fail(w, 503, got)
		case "r3":
			http.Redirect(w, r, "http://127.0.0.1:1/?key="+got, http.StatusTemporaryRedirect)
			return true
		}
		return fail(w, 200, got)
	})
	out := filepath.Join(t.TempDir(), "out")
	o := start(t.Context(), map[string]string{apiKeyVariable: key}, nil,
		"-input", writeFile(t, inputOf(5)), "-output", out, "-url", g.URL, "-v=9", "-header", "X-Billing: account-0123456789",
		"-config", writeFile(t, fastRetries+"inference_headers: {X-Billing: overridden, X-Tenant: a}"))
	o.want(t, exitFailed, "-header FIELD")
	for where, text := range map[string]string{"stdout": o.stdout, "stderr": o.stderr, "output": readFile(t, out)} {
		if strings.Contains(text, "0123456789") {
			t.Errorf("%s holds the key:\n%s", where, text)
		}
	}
	if got := len(answersIn(t, out)); got != 5 {
		t.Errorf("answers: got %d, want 5", got)
	}
}
