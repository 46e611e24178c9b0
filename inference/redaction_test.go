package inference_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/flaky"
	"github.com/httpretry/httpretry/inference"
)

const (
	secretKey    = "sk-proj-0123456789abcdef"
	secretPrompt = "My \"diagnosis\" is\nconfidential: naïve Übung 😀 and more"
)

func TestSecretsInGatewayErrors(t *testing.T) {
	quoted, _ := json.Marshal(secretPrompt)
	ascii := `My \"diagnosis\" is\nconfidential: na\u00efve \u00dcbung`
	filler := strings.Repeat("x", 1015)
	for _, tc := range []struct {
		name   string
		prompt string
		body   string
		want   string
	}{
		{"key", secretPrompt, `{"error":{"message":"Incorrect API key: ` + secretKey + `."}}`, "Incorrect API key: [redacted]."},
		{"key in plain text", secretPrompt, "bad key " + secretKey, "bad key [redacted]"},
		{"part of the key", secretPrompt, "bad key " + secretKey[:18] + "…", "bad key [redacted]…"},
		{"key across the cut", secretPrompt, filler + secretKey, filler + "[redacted]…"},
		{"userinfo", secretPrompt, "no such user: me:pass%20word or pass word", "no such user: [redacted] or [redacted]"},
		{"query", secretPrompt, "cannot POST /v1/chat/completions?token=hidden", "cannot POST /v1/chat/completions?[redacted]"},
		{"prompt", secretPrompt, `{"error":{"message":` + string(quoted) + `}}`, "[redacted]"},
		{"prompt in JSON", secretPrompt, `{"detail":` + string(quoted) + `}`, `{"detail":"[redacted]"}`},
		{"prompt in ASCII JSON", secretPrompt, `{"detail":"` + ascii + `"}`, `{"detail":"[redacted]"}`},
		{"<, > and & as encoding/json writes them", "a<b>&c", `{"detail":"a\u003cb\u003e\u0026c"}`, `{"detail":"[redacted]"}`},
		{"line separators", "a\u2028b\u2029c", `{"detail":"a\u2028b\u2029c"}`, `{"detail":"[redacted]"}`},
		{"control characters", "a\x01\b\f\x7fb", `{"detail":"a\u0001\b\f\u007Fb"}`, `{"detail":"[redacted]"}`},
		{"surrogate pairs", "a 😀 b", `{"detail":"a \ud83d\uDE00 b"}`, `{"detail":"[redacted]"}`},
		{"half a surrogate pair", secretPrompt, `{"detail":"\ud83d \ud83dx \ude00"}`, `{"detail":"\ud83d \ud83dx \ude00"}`},
		{"escaped slash", "http://me", `{"detail":"http:\/\/me"}`, `{"detail":"[redacted]"}`},
		{"every character escaped", "a key", `{"detail":"\u0061\u0020\u006b\u0065\u0079"}`, `{"detail":"[redacted]"}`},
		{"JSON in JSON", "a\"<\n>", `{"detail":"{\"input\":\"a\\\"\\u003c\\n\\u003e\"}"}`, `{"detail":"{\"input\":\"[redacted]\"}"}`},
		{"quoted as by Python", "it's \"me\"", `input: 'it\'s "me"'`, "input: '[redacted]'"},
		{"quoted as by Go", "\x02\a 😀 \xff", `input: "\x02\a 😀 \ufffd"`, `input: "[redacted]"`},
		{"escapes in escapes across the cut", "sixteen letters and more", filler + escapeAll(escapeAll(escapeAll("sixteen letters and more"))), filler + "[redacted]…"},
		{"escape across the cut", "<<<< and more of it", filler + `1234\u003c\u003c\u003c\u003c and more of it`, filler + "1234[redacted]…"},
		{"no escape", secretPrompt, `C:\users\new \q \u12 \`, `C:\users\new \q \u12 \`},
		{"JSON in JSON in JSON", `a "b"`, `{"detail":"{\"error\":\"{\\\"error\\\":\\\"a \\\\\\\"b\\\\\\\"\\\"}\"}"}`, `{"detail":"{\"error\":\"{\\\"error\\\":\\\"[redacted]\\\"}\"}"}`},
		{"half the prompt", secretPrompt, `input: confidential: naïve...`, "input: [redacted]..."},
		{"short prompt", " cancer\n", "invalid content: 'cancer'", "invalid content: '[redacted]'"},
		{"too short to be a secret", "a", "a message", "a message"},
		{"role and model", secretPrompt, "model small has no role user", "model small has no role user"},
		{"no prompt", "", "model small has no role user", "model small has no role user"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client := newClient(t, inference.HTTPInferenceClientConfig{
				BaseURL: "http://me:pass%20word@gateway.test/?token=hidden", APIKey: secretKey,
				Transport: flaky.New(flaky.Status(400).WithBody(tc.body)).Transport(nil),
			})
			_, err := client.Generate(t.Context(), &inference.InferenceRequest{Params: map[string]any{
				"model":    "small",
				"messages": []any{map[string]any{"role": "user", "content": []any{map[string]any{"type": "text", "text": tc.prompt}}}},
			}})
			checkError(t, err, inference.ErrCategoryInvalidReq, "HTTP 400: "+tc.want)
			var status *inference.StatusError
			if !errors.As(err, &status) || string(status.Body) != tc.body {
				t.Errorf("got %#v, want a *StatusError with the body as it came", err.RawError)
			}
		})
	}
}

// Secrets are redacted in each form in which a gateway receives them.
func TestSecretsInEveryForm(t *testing.T) {
	message := func(content any) any { return []any{map[string]any{"role": "tool", "content": content}} }
	for _, tc := range []struct {
		name, baseURL, key string
		messages           any
		body, want         string
	}{
		{"key with a space at its end", fakeURL, "sk-short ", message("hi"), "bad key sk-short", "bad key [redacted]"},
		{"user name", "http://token-01:@gateway.test", "", message("hi"), "no user token-01", "no user [redacted]"},
		{"escaped user name", "http://token%2F01@gateway.test", "", message("hi"), "no user token/01", "no user [redacted]"},
		{"userinfo as it is sent", "http://joe:pass@gateway.test", "", message("hi"), "bad header: Basic am9lOnBhc3M=", "bad header: Basic [redacted]"},
		{"query", "http://gateway.test/?key=abc%2Fdefghi%2Bjklmno%3D%3D", "", message("hi"), "bad key abc/defghi+jklmno==", "bad key [redacted]"},
		{"value of the query", "http://gateway.test/?key=short-01&api-version=2024-02-01-preview", "", message("hi"), "key short-01 has no 2024-02-01-preview", "key [redacted] has no 2024-02-01-preview"},
		{"name of a value", "http://gateway.test/?conversion-token=hunter22", "", message("hi"), "bad token hunter22", "bad token [redacted]"},
		{"words of a configuration", "http://user:password@gateway.test/?stream=true&region=east", "", message("hi"), "stream of a user must be true, not least", "stream of a user must be true, not least"},
		{"query as a whole", "http://gateway.test/?stream=true&region=east", "", message("hi"), "no /?stream=true&region=east", "no /?[redacted]&[redacted]"},
		{"type with a date", fakeURL, "", message(map[string]any{"type": "computer_20241022"}), "unknown type computer_20241022", "unknown type computer_20241022"},
		{"type that is no name", fakeURL, "", message(map[string]any{"type": "HIV positive"}), "unknown type HIV positive", "unknown type [redacted]"},
		{"type and role that are names", fakeURL, "", message(map[string]any{"type": "input_text"}), "a tool takes no input_text", "a tool takes no input_text"},
		{"member that is there twice", fakeURL, "", json.RawMessage(`[{"content":"first","content":"second"}]`), "neither zeroth nor first nor second", "neither [redacted] nor [redacted] nor [redacted]"},
		{"names of members", fakeURL, "", message(map[string]any{"first": "second"}), "first: second", "first: [redacted]"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client := newClient(t, inference.HTTPInferenceClientConfig{
				BaseURL: tc.baseURL, APIKey: tc.key,
				Transport: flaky.New(flaky.Status(400).WithBody(tc.body)).Transport(nil),
			})
			// To encoding/json, the name of the last member equals "messages".
			_, err := client.Generate(t.Context(), &inference.InferenceRequest{Params: map[string]any{
				"model": "small", "messages": tc.messages, "Prompt": "zeroth", "me\u017Fsages": 1,
			}})
			checkError(t, err, inference.ErrCategoryInvalidReq, "HTTP 400: "+tc.want)
		})
	}
}

// TestSecretsOfOtherPaths has secrets in a configured header and in a Body.
func TestSecretsOfOtherPaths(t *testing.T) {
	client := newClient(t, inference.HTTPInferenceClientConfig{
		BaseURL: fakeURL, Header: http.Header{"api-key": {secretKey}},
		Transport: flaky.New(flaky.Status(400).WithBody("bad key " + secretKey + " for: a diagnosis")).Transport(nil),
	})
	_, err := client.Generate(t.Context(), &inference.InferenceRequest{
		Path: "/v1/embeddings", Body: json.RawMessage(`{"model":"small","input":["a diagnosis"]}`),
	})
	checkError(t, err, inference.ErrCategoryInvalidReq, "HTTP 400: bad key [redacted] for: [redacted]")
}

// encoding/json writes JSON that it cannot decode.
func TestSecretsBesideDeepParams(t *testing.T) {
	var deep any = json.RawMessage("1e999")
	for range 20_000 {
		deep = []any{deep}
	}
	client := newClient(t, inference.HTTPInferenceClientConfig{
		BaseURL: fakeURL, Transport: flaky.New(flaky.Status(400).WithBody("neither first nor second")).Transport(nil),
	})
	_, err := client.Generate(t.Context(), &inference.InferenceRequest{Params: map[string]any{
		"deep": deep, "messages": []any{deep, "first"}, "prompt": "second",
	}})
	checkError(t, err, inference.ErrCategoryInvalidReq, "HTTP 400: neither [redacted] nor [redacted]")
}

func TestSecretsInTransportErrors(t *testing.T) {
	cause := errors.New(`malformed HTTP response "` + secretKey + " " + secretPrompt + `"`)
	client := newClient(t, inference.HTTPInferenceClientConfig{
		BaseURL: fakeURL, APIKey: secretKey, Transport: flaky.New(flaky.Error(cause)).Transport(nil),
	})
	_, err := client.Generate(t.Context(), &inference.InferenceRequest{Params: map[string]any{"prompt": secretPrompt}})
	const want = `malformed HTTP response "[redacted] [redacted]"`
	checkError(t, err, inference.ErrCategoryServer, "failed to execute request: "+want)
	if got := err.RawError.Error(); got != want {
		t.Errorf("RawError: got %s, want %s", got, want)
	}
	if !errors.Is(err, cause) {
		t.Error("the error behind the redacted text is lost")
	}
}

// A quotingError is an error of a type of its own.
type quotingError struct{ text string }

func (e quotingError) Error() string { return e.text }

// TestSecretsInWrappedErrors checks every error that can be reached from the one that
// Generate or Stream returns.
func TestSecretsInWrappedErrors(t *testing.T) {
	secret := secretKey + " " + secretPrompt
	for _, tc := range []struct {
		name    string
		err     error
		retries int
	}{
		{"one attempt", errors.New("malformed HTTP response " + secret), 0},
		{"three attempts", fmt.Errorf("broken: %w: %s", io.ErrUnexpectedEOF, secret), 2},
		{"three attempts, in quotes that their error omits", fmt.Errorf("broken by %q", secret), 2},
		{"type of its own", fmt.Errorf("signer: %w", quotingError{secret}), 2},
		{"operation", &net.OpError{Op: "read", Net: "tcp", Err: quotingError{secret}}, 2},
		{"joined", errors.Join(io.ErrUnexpectedEOF, quotingError{secret}), 2},
		{"URL", &url.Error{Op: "Post", URL: "https://login.test/token?refresh=hidden-token", Err: quotingError{secret}}, 2},
	} {
		for method := range methods {
			t.Run(tc.name+"/"+method, func(t *testing.T) {
				client := newClient(t, inference.HTTPInferenceClientConfig{
					BaseURL: fakeURL, APIKey: secretKey, MaxRetries: tc.retries, InitialBackoff: 1, MaxBackoff: 1,
					Transport: repeat(flaky.Error(tc.err)).Transport(nil),
				})
				req := &inference.InferenceRequest{Params: map[string]any{"prompt": secretPrompt}}
				var failure *inference.InferenceError
				if method == "Generate" {
					_, failure = client.Generate(t.Context(), req)
				} else {
					_, _, failure = collect(t, client.Stream(t.Context(), req))
				}
				checkNoSecret(t, failure)
				many, ok := errors.AsType[*httpretry.Error](failure)
				if ok != (tc.retries > 0) || ok && (many.Attempts != 3 || many.Reason != "policy") {
					t.Errorf("got %v, want the number of attempts and the reason", many)
				}
				for _, target := range []error{io.ErrUnexpectedEOF, tc.err} {
					if errors.Is(failure, target) != errors.Is(tc.err, target) {
						t.Errorf("errors.Is %v: got %t", target, errors.Is(failure, target))
					}
				}
			})
		}
	}
}

// checkNoSecret checks the text of err and of each error that it wraps or that
// errors.As finds in it.
func checkNoSecret(t *testing.T, err error) {
	t.Helper()
	var all []error
	var visit func(error)
	visit = func(err error) {
		if err == nil || len(all) > 100 {
			return
		}
		all = append(all, err)
		switch w := err.(type) {
		case interface{ Unwrap() error }:
			visit(w.Unwrap())
		case interface{ Unwrap() []error }:
			for _, err := range w.Unwrap() {
				visit(err)
			}
		}
	}
	visit(err)
	if e, ok := errors.AsType[*httpretry.Error](err); ok {
		visit(e)
		visit(e.Err)
		visit(e.Last)
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		visit(e)
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		visit(e)
	}
	if e, ok := errors.AsType[quotingError](err); ok {
		visit(e)
	}
	if e, ok := errors.AsType[net.Error](err); ok {
		visit(e)
	}
	for _, err := range all {
		for _, secret := range []string{secretKey, "diagnosis", "confidential", "hidden-token"} {
			for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err)} {
				if strings.Contains(text, secret) {
					t.Errorf("%T holds %q: %s", err, secret, text)
				}
			}
		}
	}
}

func TestSecretsInErrorsOfMiddleware(t *testing.T) {
	refresh := &url.Error{Op: "Post", URL: "https://login.test/token?refresh=hidden", Err: io.EOF}
	client := newClient(t, inference.HTTPInferenceClientConfig{
		BaseURL: fakeURL, Transport: flaky.New(flaky.Error(fmt.Errorf("signer: %w", refresh))).Transport(nil),
	})
	_, err := client.Generate(t.Context(), question())
	checkError(t, err, inference.ErrCategoryServer,
		`failed to execute request: signer: Post "https://login.test/token?[redacted]": EOF`)
}

func TestSecretsInLogs(t *testing.T) {
	var log bytes.Buffer
	body := secretKey + secretPrompt
	client := newClient(t, inference.HTTPInferenceClientConfig{
		BaseURL: "http://me:password@gateway.test/?token=hidden", APIKey: secretKey, MaxRetries: 3, InitialBackoff: 1,
		Transport: flaky.New(flaky.Status(503).WithBody(body), flaky.Error(errors.New(body)), ok()).Transport(nil),
		Logger:    newLogger(&log, slog.LevelDebug),
	})
	client.Generate(t.Context(), &inference.InferenceRequest{Params: map[string]any{"prompt": secretPrompt}})
	if log.Len() == 0 {
		t.Error("got no log line, want some to look at")
	}
	for _, secret := range []string{secretKey, "diagnosis", "password", "hidden", "me:"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log holds %q:\n%s", secret, log.String())
		}
	}
}

// quotings are ways in which a gateway may quote a request.
var quotings = []struct {
	before string
	escape func(string) string
	after  string
}{
	{"", func(text string) string { return text }, ""},
	{`{"error":{"code":400,"message":"`, escapeJSON, `"}}`},
	{`{"detail":"`, escapeJSON, `"}`},
	{`{"detail":"`, func(text string) string { return escapeJSON(escapeJSON(text)) }, `"}`},
	{`{"detail":"`, escapeAll, `"}`},
	{`malformed: "`, func(text string) string { return unquoted(strconv.Quote(text)) }, `"`},
	{`malformed: "`, func(text string) string { return unquoted(strconv.QuoteToASCII(text)) }, `"`},
}

func escapeJSON(text string) string {
	quoted, _ := json.Marshal(text)
	return unquoted(string(quoted))
}

func unquoted(text string) string { return text[1 : len(text)-1] }

// escapeAll writes each character of a JSON string as \uXXXX.
func escapeAll(text string) string {
	var b strings.Builder
	for _, unit := range utf16.Encode([]rune(text)) {
		fmt.Fprintf(&b, `\u%04x`, unit)
	}
	return b.String()
}

// FuzzMessages has a gateway that quotes the key and the prompt between arbitrary
// texts.
func FuzzMessages(f *testing.F) {
	f.Add("sk-0123456789", "tell me a story about a fox", "your key ", " and your prompt ", uint(0))
	f.Add("0123456789abcdefg", "0123456789abcdefgh", "0123456", "abcdefg", uint(1))
	f.Add("ééééééééé", "\"quoted\" and \\ and \n end", strings.Repeat("é", 508), "\xff", uint(1))
	for quoting := range quotings {
		f.Add("sk-<0123>&456789", "\"<quoted>\" \u2028 and \\ \x01 😀 / end", strings.Repeat("é", 160), "\\", uint(quoting))
	}
	f.Fuzz(func(t *testing.T, key, prompt, before, between string, quoting uint) {
		key, prompt = strings.TrimSpace(key), strings.TrimSpace(prompt) // the space around them is no secret
		// Characters of the replacements may themselves be part of such a secret.
		if len(key) < 8 || len(prompt) < 16 || strings.ContainsAny(key+prompt, "[]…\uFFFD") ||
			strings.Contains("[redacted]", key) || !utf8.ValidString(key) || !utf8.ValidString(prompt) {
			return
		}
		config := inference.HTTPInferenceClientConfig{BaseURL: fakeURL, APIKey: key}
		if config.Validate() != nil {
			return
		}
		q := quotings[quoting%uint(len(quotings))]
		body := q.before + q.escape(before+key+between+prompt) + q.after
		config.Transport = flaky.New(flaky.Status(400).WithBody(body)).Transport(nil)
		client := newClient(t, config)
		_, err := client.Generate(t.Context(), &inference.InferenceRequest{Params: map[string]any{"prompt": prompt}})
		message, found := strings.CutPrefix(err.Message, "HTTP 400: ")
		if !found || !utf8.ValidString(message) {
			t.Errorf("got %q, want HTTP 400: and text", err.Message)
		}
		for name, secret := range map[string]string{"key": key, "prompt": prompt} {
			for _, q := range quotings {
				if strings.Contains(message, q.escape(secret)) {
					t.Errorf("%q holds the %s %q", message, name, secret)
				}
			}
		}
		if limit := 1024 * len("[redacted]"); len(message) > limit {
			t.Errorf("got a message of %d bytes, want at most %d", len(message), limit)
		}
	})
}
