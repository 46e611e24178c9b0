package inference_test

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/httpretry/httpretry/flaky"
	"github.com/httpretry/httpretry/inference"
)

func TestRequestURL(t *testing.T) {
	chat := map[string]any{"messages": []any{}}
	prompt := map[string]any{"prompt": "hello"}
	for _, tc := range []struct {
		name   string
		base   string
		params map[string]any
		want   string
	}{
		{"messages", "http://h", chat, "http://h/v1/chat/completions"},
		{"prompt", "http://h", prompt, "http://h/v1/completions"},
		{"prompt and messages", "http://h", map[string]any{"prompt": "hello", "messages": []any{}}, "http://h/v1/chat/completions"},
		{"neither", "http://h", nil, "http://h/v1/chat/completions"},
		{"empty prompt", "http://h", map[string]any{"prompt": ""}, "http://h/v1/completions"},
		{"trailing slash", "http://h/", chat, "http://h/v1/chat/completions"},
		{"path", "http://h/gateway", chat, "http://h/gateway/v1/chat/completions"},
		{"path with trailing slash", "http://h/gateway/", prompt, "http://h/gateway/v1/completions"},
		{"escaped path", "http://h/a%2Fb", chat, "http://h/a%2Fb/v1/chat/completions"},
		{"query", "http://h/?version=2", chat, "http://h/v1/chat/completions?version=2"},
		{"port", "https://h:8443", chat, "https://h:8443/v1/chat/completions"},
		{"upper case scheme", "HTTP://h", chat, "http://h/v1/chat/completions"},
		{"IPv6", "http://[::1]:8000", chat, "http://[::1]:8000/v1/chat/completions"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			script := flaky.New(ok())
			client := newClient(t, inference.HTTPInferenceClientConfig{BaseURL: tc.base, Transport: script.Transport(nil)})
			if _, err := client.Generate(t.Context(), &inference.InferenceRequest{Params: tc.params}); err != nil {
				t.Fatal(err)
			}
			if got := script.Requests()[0].URL.String(); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func TestRequestBody(t *testing.T) {
	for _, tc := range []struct {
		name   string
		model  string
		params map[string]any
		want   string
	}{
		{"params", "", map[string]any{"n": 1, "stop": nil}, `{"n":1,"stop":null}`},
		{"model added", "small", map[string]any{"n": 1}, `{"model":"small","n":1}`},
		{"model of the params wins", "small", map[string]any{"model": "large"}, `{"model":"large"}`},
		{"empty model of the params wins", "small", map[string]any{"model": ""}, `{"model":""}`},
		{"nil params", "small", nil, `{"model":"small"}`},
		{"nothing", "", nil, `{}`},
		{"stream off", "", map[string]any{"stream": false}, `{"stream":false}`},
		{"numbers as written", "", map[string]any{"seed": json.Number("12345678901234567890")}, `{"seed":12345678901234567890}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			script := flaky.New(ok())
			client := newClient(t, inference.HTTPInferenceClientConfig{BaseURL: fakeURL, Transport: script.Transport(nil)})
			before, _ := json.Marshal(tc.params)
			req := &inference.InferenceRequest{Model: tc.model, Params: tc.params}
			if _, err := client.Generate(t.Context(), req); err != nil {
				t.Fatal(err)
			}
			if got := string(script.Requests()[0].Body); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
			if after, _ := json.Marshal(tc.params); string(after) != string(before) {
				t.Errorf("Generate changed the caller's Params from %s to %s", before, after)
			}
		})
	}
}

func TestHeadersOnlyWhenThereIsSomethingToSay(t *testing.T) {
	for _, tc := range []struct {
		name, key, id, base string
		want                map[string]string
	}{
		{"nothing", "", "", "http://h", map[string]string{}},
		{"key", "sk-1", "", "http://h", map[string]string{"Authorization": "Bearer sk-1"}},
		{"request id", "", "r-1", "http://h", map[string]string{"X-Request-Id": "r-1"}},
		{"userinfo", "", "", "http://me:pw@h", map[string]string{"Authorization": "Basic bWU6cHc="}},
		{"key before userinfo", "sk-1", "", "http://me:pw@h", map[string]string{"Authorization": "Bearer sk-1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			script := flaky.New(ok())
			client := newClient(t, inference.HTTPInferenceClientConfig{
				BaseURL: tc.base, APIKey: tc.key, Transport: script.Transport(nil),
			})
			if _, err := client.Generate(t.Context(), &inference.InferenceRequest{RequestID: tc.id}); err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, name := range []string{"Authorization", "X-Request-Id"} {
				if values, ok := script.Requests()[0].Header[name]; ok {
					got[name] = strings.Join(values, ", ")
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("headers (-want +got):\n%s", diff)
			}
		})
	}
}

func TestInvalidRequest(t *testing.T) {
	params := func(name string, value any) *inference.InferenceRequest {
		return &inference.InferenceRequest{Params: map[string]any{"messages": []any{}, name: value}}
	}
	for _, tc := range []struct {
		name string
		req  *inference.InferenceRequest
		want string
	}{
		{"nil", nil, "request cannot be nil"},
		{"not a JSON type", params("tools", make(chan int)), `invalid params: "tools": json: unsupported type: chan int`},
		{"not a JSON number", params("temperature", math.NaN()), `invalid params: "temperature": json: unsupported value: NaN`},
		{"stream", params("stream", true), `invalid params: "stream" is true: use Stream instead of Generate`},
		{
			"line break in the request id", &inference.InferenceRequest{RequestID: "a\nb"},
			`invalid request: invalid RequestID "a\nb": must not contain control characters`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			script := flaky.New()
			client := newClient(t, inference.HTTPInferenceClientConfig{
				BaseURL: fakeURL, MaxRetries: 3, Transport: script.Transport(nil),
			})
			_, err := client.Generate(t.Context(), tc.req)
			checkError(t, err, inference.ErrCategoryInvalidReq, tc.want)
			if n := len(script.Requests()); n != 0 {
				t.Errorf("got %d requests, want none", n)
			}
		})
	}
}

// A wordMarshaler fails to encode with an error that quotes it.
type wordMarshaler string

func (w wordMarshaler) MarshalText() ([]byte, error) {
	return nil, errors.New("unpaired surrogate in " + string(w))
}

// A wordKey is a map key that fails to encode.
type wordKey struct{ wordMarshaler }

type jsonMarshaler string

func (m jsonMarshaler) MarshalJSON() ([]byte, error) {
	return nil, errors.New("unpaired surrogate in " + string(m))
}

// TestGenerate_EncodingErrorsDoNotQuote has parameters whose encoding errors quote
// the value.
func TestGenerate_EncodingErrorsDoNotQuote(t *testing.T) {
	const secret = "a confidential question about a merger"
	const prefix = `invalid params: "messages": json: `
	for _, tc := range []struct {
		name    string
		content any
		want    string
	}{
		{"MarshalJSON", jsonMarshaler(secret), prefix + "error calling a method of type inference_test.jsonMarshaler"},
		{"MarshalText", wordMarshaler(secret), prefix + "error calling a method of type inference_test.wordMarshaler"},
		{"RawMessage", json.RawMessage(secret), prefix + "error calling a method of type json.RawMessage"},
		{"Number", json.Number(secret), prefix + "invalid number or map key"},
		{"map key", map[wordKey]int{{secret}: 1}, prefix + "invalid number or map key"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client := newClient(t, inference.HTTPInferenceClientConfig{BaseURL: fakeURL, Transport: flaky.New().Transport(nil)})
			_, err := client.Generate(t.Context(), &inference.InferenceRequest{Params: map[string]any{
				"messages": []any{map[string]any{"role": "user", "content": tc.content}},
			}})
			checkError(t, err, inference.ErrCategoryInvalidReq, tc.want)
			for e := error(err); e != nil; e = errors.Unwrap(e) {
				if strings.Contains(e.Error(), "confidential") {
					t.Errorf("%T quotes the prompt: %v", e, e)
				}
			}
		})
	}
}

func TestNilContext(t *testing.T) {
	client := newClient(t, inference.HTTPInferenceClientConfig{BaseURL: fakeURL, Transport: flaky.New().Transport(nil)})
	//lint:ignore SA1012 a mistake that must not become a panic
	_, err := client.Generate(nil, question())
	checkError(t, err, inference.ErrCategoryInvalidReq, "invalid request: net/http: nil Context")
}
