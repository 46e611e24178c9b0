package inference_test

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"slices"
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

// TestInferenceRequest_Path has paths below that of the BaseURL.
func TestInferenceRequest_Path(t *testing.T) {
	for _, tc := range []struct{ name, base, path, want string }{
		{"embeddings", "http://h", "/v1/embeddings", "http://h/v1/embeddings"},
		{"not below v1", "http://h", "/rerank", "http://h/rerank"},
		{"base with a path", "http://h/gateway", "/v1/embeddings", "http://h/gateway/v1/embeddings"},
		{"base with a slash at its end", "http://h/gateway/", "/v1/embeddings", "http://h/gateway/v1/embeddings"},
		{"slash at its end", "http://h", "/v1/embeddings/", "http://h/v1/embeddings/"},
		{"empty segment", "http://h/a", "/v1//embeddings", "http://h/a/v1//embeddings"},
		{"nothing but a slash", "http://h/a", "/", "http://h/a/"},
		{"query", "http://h", "/v1/chat/completions?api-version=1&a=b", "http://h/v1/chat/completions?api-version=1&a=b"},
		{"query after that of the base", "http://h/?key=1", "/v1/score?a=b", "http://h/v1/score?key=1&a=b"},
		{"query of the base alone", "http://h/?key=1", "/v1/score", "http://h/v1/score?key=1"},
		{"escapes", "http://h/a%2Fb", "/v1/models/org%2Fname:v1", "http://h/a%2Fb/v1/models/org%2Fname:v1"},
		{"dots in a name", "http://h", "/v1/models/gpt-4..1", "http://h/v1/models/gpt-4..1"},
		{"another host is a path", "http://h", "//other.test/v1/embeddings", "http://h//other.test/v1/embeddings"},
		{"userinfo of another host is a path", "http://h", "/@other.test/v1", "http://h/@other.test/v1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			script := flaky.New(ok())
			client := newClient(t, inference.HTTPInferenceClientConfig{BaseURL: tc.base, APIKey: secretKey, Transport: script.Transport(nil)})
			if _, err := client.Generate(t.Context(), &inference.InferenceRequest{Path: tc.path}); err != nil {
				t.Fatal(err)
			}
			got := script.Requests()[0]
			if got.URL.String() != tc.want || got.Method != "POST" {
				t.Errorf("got %s %s, want POST %s", got.Method, got.URL, tc.want)
			}
		})
	}
}

// TestInferenceRequest_MethodAndBody has requests that are sent as they are.
func TestInferenceRequest_MethodAndBody(t *testing.T) {
	const body = `{ "model": "m", "n": 1.0e2, "input": "<\u0061>", "stream": false }`
	for _, tc := range []struct {
		name      string
		req       inference.InferenceRequest
		want      string
		mediaType string
	}{
		{"body", inference.InferenceRequest{Path: "/v1/embeddings", Body: json.RawMessage(body), Model: "other"}, "POST /v1/embeddings " + body, "application/json"},
		{"another method", inference.InferenceRequest{Method: "PUT", Path: "/v1/a", Body: json.RawMessage("[1]")}, "PUT /v1/a [1]", "application/json"},
		{"no body", inference.InferenceRequest{Method: "GET", Path: "/v1/models/m", Body: json.RawMessage{}}, "GET /v1/models/m ", ""},
		{"body of a chat", inference.InferenceRequest{Body: json.RawMessage(`{"messages":[]}`)}, `POST /v1/chat/completions {"messages":[]}`, "application/json"},
		{"body of a completion", inference.InferenceRequest{Body: json.RawMessage(`{"prompt":""}`)}, `POST /v1/completions {"prompt":""}`, "application/json"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			// The second attempt sends the same.
			script := flaky.New(flaky.Status(503), ok())
			client := newClient(t, inference.HTTPInferenceClientConfig{
				BaseURL: fakeURL, MaxRetries: 1, InitialBackoff: 1, Transport: script.Transport(nil),
			})
			if _, err := client.Generate(t.Context(), &tc.req); err != nil {
				t.Fatal(err)
			}
			for _, r := range script.Requests() {
				if got := r.Method + " " + r.URL.Path + " " + string(r.Body); got != tc.want || r.Header.Get("Content-Type") != tc.mediaType {
					t.Errorf("got %s as %q, want %s as %q", got, r.Header.Get("Content-Type"), tc.want, tc.mediaType)
				}
			}
		})
	}
}

func TestInferenceRequest_BodyOfAStream(t *testing.T) {
	const body = `{"stream" : true, "messages":[]}`
	script := flaky.New(flaky.Status(200).WithBody(sse(answer) + sse("[DONE]")))
	client := newClient(t, inference.HTTPInferenceClientConfig{BaseURL: fakeURL, Transport: script.Transport(nil)})
	if _, _, err := collect(t, client.Stream(t.Context(), &inference.InferenceRequest{Body: json.RawMessage(body)})); err != nil {
		t.Fatal(err)
	}
	if got := string(script.Requests()[0].Body); got != body {
		t.Errorf("got %s, want %s", got, body)
	}
	_, _, err := collect(t, client.Stream(t.Context(), &inference.InferenceRequest{Body: json.RawMessage("{}")}))
	checkError(t, err, inference.ErrCategoryInvalidReq, `invalid body: "stream" must be true for Stream`)
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

func TestConfig_Header(t *testing.T) {
	tenants := []string{"a", "b"}
	header := http.Header{"x-tenant": tenants, "Authorization": {"Key 1"}, "Host": {"models.test"}}
	script := flaky.New(flaky.Status(503), ok())
	client := newClient(t, inference.HTTPInferenceClientConfig{
		BaseURL: fakeURL, Header: header, MaxRetries: 1, InitialBackoff: 1, Transport: script.Transport(nil),
	})
	tenants[0] = "changed after the client was made"
	if _, err := client.Generate(t.Context(), question()); err != nil {
		t.Fatal(err)
	}
	for _, r := range script.Requests() {
		if got := r.Header.Values("X-Tenant"); !slices.Equal(got, []string{"a", "b"}) || r.Header.Get("Authorization") != "Key 1" {
			t.Errorf("got %v, want the configured header", r.Header)
		}
		if r.Host != "models.test" || r.URL.Host != "gateway.test" {
			t.Errorf("got host %s at %s, want models.test at gateway.test", r.Host, r.URL.Host)
		}
	}
}

func TestInvalidRequest(t *testing.T) {
	params := func(name string, value any) *inference.InferenceRequest {
		return &inference.InferenceRequest{Params: map[string]any{"messages": []any{}, name: value}}
	}
	path := func(path string) *inference.InferenceRequest { return &inference.InferenceRequest{Path: path} }
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
		{"path of another host", path("https://other.test/v1/embeddings"), "invalid request: invalid Path: must be a path that begins with a slash"},
		{"path without a slash", path("v1/embeddings"), "invalid request: invalid Path: must be a path that begins with a slash"},
		{"path above the base", path("/v1/../../admin"), `invalid request: invalid Path: must not have the segments "." and ".."`},
		{"escaped path above the base", path("/v1/%2e%2E/%2e./admin"), `invalid request: invalid Path: must not have the segments "." and ".."`},
		{"path above the base with backslashes", path(`/v1\..\admin`), `invalid request: invalid Path: must not have the segments "." and ".."`},
		{"escaped slashes above the base", path(`/v1%2f..%2Fadmin`), `invalid request: invalid Path: must not have the segments "." and ".."`},
		{"fragment", path("/v1/embeddings#a"), "invalid request: invalid Path: must not have a fragment"},
		{"broken escape", path("/v1/%zz?key=secret"), "invalid request: invalid Path: must be a path, with or without a query"},
		{"line break in the path", path("/v1/\r\nX: 1"), "invalid request: invalid Path: must be a path, with or without a query"},
		{"method that is not a token", &inference.InferenceRequest{Method: "PO ST"}, `invalid request: net/http: invalid method "PO ST"`},
		{"body that is not JSON", &inference.InferenceRequest{Body: json.RawMessage(`{"a"`)}, "invalid body: not valid JSON"},
		{"body of a stream", &inference.InferenceRequest{Body: json.RawMessage(`{"\u0073tream": true}`)}, `invalid body: "stream" is true: use Stream instead of Generate`},
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
