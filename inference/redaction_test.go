package inference_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

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

// FuzzMessages lets a gateway quote the key and the prompt between arbitrary
// texts.
func FuzzMessages(f *testing.F) {
	f.Add("sk-0123456789", "tell me a story about a fox", "your key ", " and your prompt ", false)
	f.Add("0123456789abcdefg", "0123456789abcdefgh", "0123456", "abcdefg", true)
	f.Add("ééééééééé", "\"quoted\" and \\ and \n end", strings.Repeat("é", 508), "\xff", true)
	f.Fuzz(func(t *testing.T, key, prompt, before, between string, inJSON bool) {
		prompt = strings.TrimSpace(prompt)
		// The mark, and what stands for a cut or for what is not UTF-8, may
		// themselves make up a part of such a secret.
		if len(key) < 8 || len(prompt) < 16 || strings.ContainsAny(key+prompt, "[]…\uFFFD") ||
			strings.Contains("[redacted]", key) || !utf8.ValidString(key+prompt) {
			return
		}
		config := inference.HTTPInferenceClientConfig{BaseURL: fakeURL, APIKey: key}
		if config.Validate() != nil {
			return
		}
		text := before + key + between + prompt
		if inJSON {
			body, _ := json.Marshal(map[string]any{"error": map[string]any{"message": text, "code": 400}})
			text = string(body)
		}
		config.Transport = flaky.New(flaky.Status(400).WithBody(text)).Transport(nil)
		client := newClient(t, config)
		_, err := client.Generate(t.Context(), &inference.InferenceRequest{Params: map[string]any{"prompt": prompt}})
		message, found := strings.CutPrefix(err.Message, "HTTP 400: ")
		if !found || !utf8.ValidString(message) {
			t.Errorf("got %q, want HTTP 400: and text", err.Message)
		}
		for name, secret := range map[string]string{"key": key, "prompt": prompt} {
			if strings.Contains(message, secret) {
				t.Errorf("%q holds the %s %q", message, name, secret)
			}
		}
		if limit := 1024 * len("[redacted]"); len(message) > limit {
			t.Errorf("got a message of %d bytes, want at most %d", len(message), limit)
		}
	})
}
