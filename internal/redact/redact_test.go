package redact_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/httpretry/httpretry/internal/redact"
)

const key = "sk-proj-0123456789abcdef"

func TestText_Key(t *testing.T) {
	const odd = `Se<"\/>cret`
	quoted := func(s string) string {
		b, _ := json.Marshal(s)
		return string(b)
	}
	for _, tc := range []struct{ name, key, text, want string }{
		{"verbatim", key, "key " + key + ".", "key [redacted]."},
		{"with spaces around it", " " + key + "\n", "key " + key + ".", "key [redacted]."},
		{"part of 16 bytes", key, "key " + key[3:19] + ".", "key [redacted]."},
		{"part of 15 bytes", key, "key " + key[3:18] + ".", "key " + key[3:18] + "."},
		{"short key", odd, "key " + odd, "key [redacted]"},
		{"part of a short key", odd, "Se<", "Se<"},
		{"JSON", odd, `{"key":` + quoted(odd) + `}`, `{"key":"[redacted]"}`},
		{"escaped slash", odd, `{"key":"Se<\"\\\/>cret"}`, `{"key":"[redacted]"}`},
		{"JSON in JSON", odd, quoted(quoted(odd)), `"\"[redacted]\""`},
		{"Go", odd, fmt.Sprintf("%+q", odd), `"[redacted]"`},
		{"the cut leaves all but a byte", key, "key " + key[:23], "key [redacted]"},
		{"the cut leaves 4 bytes", key, "key " + key[:4], "key [redacted]"},
		{"the cut leaves 3 bytes", key, "key " + key[:3], "key " + key[:3]},
		{"the cut leaves half a short key", "hunter22", `{"key":"hunte`, `{"key":"[redacted]`},
		{"the beginning of a key elsewhere", key, key[:4] + " is no key", key[:4] + " is no key"},
		{"no text", key, "", ""},
		{"no key", "", "key", "key"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := redact.New(redact.Secrets{Keys: []string{tc.key}}).Text(t.Context(), tc.text, 1<<10, nil)
			if got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func TestText_URL(t *testing.T) {
	u, err := url.Parse("http://me:pass%20word@gateway.test/?token=hidden-1&api-version=2024-02-01")
	if err != nil {
		t.Fatal(err)
	}
	got := redact.New(redact.Secrets{URLs: []*url.URL{nil, u}}).Text(t.Context(), "me pass word hidden-1 2024-02-01", 1<<10, nil)
	if want := "me [redacted] [redacted] 2024-02-01"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestText_Header(t *testing.T) {
	r := redact.New(redact.Secrets{Header: http.Header{
		"Authorization": {"Bearer token-0123456789"}, "Cookie": {"a=short-01; b=short-02"}, "X-Tier": {"gold", "hunter22"},
	}})
	for _, tc := range []struct{ name, text, want string }{
		{"value", "Bearer token-0123456789", "[redacted]"},
		{"without the scheme", `{"token":"token-0123456789"}`, `{"token":"[redacted]"}`},
		{"value of a cookie", `{"cookie":"short-02"}`, `{"cookie":"[redacted]"}`},
		{"words of less than 8 bytes", "Bearer of gold", "Bearer of gold"},
		{"second value", "no hunter22", "no [redacted]"},
		{"cut off", "no token-012", "no [redacted]"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := r.Text(t.Context(), tc.text, 1<<10, nil); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

// TestText_Cut cuts a text after each of its bytes, as a bounded buffer does.
func TestText_Cut(t *testing.T) {
	text := "the key " + key + " is invalid"
	for n := range len(text) {
		got := redact.New(redact.Secrets{Keys: []string{key}}).Text(t.Context(), text[:n], 1<<10, nil)
		for m := 4; m <= len(key); m++ {
			if strings.Contains(got, key[:m]) {
				t.Fatalf("cut after %d bytes: %q holds %d bytes of the key", n, got, m)
			}
		}
	}
}

func TestText_Request(t *testing.T) {
	for _, tc := range []struct{ name, request, text, want string }{
		{"prompt", `{"prompt":"first"}`, "at first", "at [redacted]"},
		{"embeddings", `{"input":["zeroth","first"]}`, "at first", "at [redacted]"},
		{"responses", `{"instructions":"first","input":[{"role":"user","content":"second"}]}`, "first user second", "[redacted] user [redacted]"},
		{"rerank", `{"query":"first","documents":[{"text":"second"}]}`, "first second", "[redacted] [redacted]"},
		{"score", `{"text_1":"first","text_2":["second"]}`, "first second", "[redacted] [redacted]"},
		{"other member", `{"model":"first"}`, "at first", "at first"},
		{"name that is folded", `{"PROMPT":"first"}`, "at first", "at [redacted]"},
		{"escaped name", `{"\u0070rompt":"first"}`, "at first", "at [redacted]"},
		{"nested name", `{"a":{"prompt":"first"}}`, "at first", "at first"},
		{"member after a nested one", `{"prompt":{"a":{"b":"zero"}},"c":"first"}`, "zero first", "[redacted] first"},
		{"role", `{"messages":[{"role":"user","content":"first"}]}`, "user first", "user [redacted]"},
		{"string after an object with a role", `{"messages":[{"role":"user"},"first"]}`, "user first", "user [redacted]"},
		{"name of a member", `{"messages":[{"first":"second"}]}`, "first second", "first [redacted]"},
		{"escapes", `{"prompt":"a\"\u003c\\\ud83d\ude00"}`, "a\"<\\😀.", "[redacted]."},
		{"escaped backslash before the quote", `{"prompt":"first\\","x":"second"}`, `first\ second`, "[redacted] second"},
		{"space between the tokens", "{ \"prompt\" : [ \"first\" , \"second\" ] }", "first second", "[redacted] [redacted]"},
		{"the same name twice", `{"prompt":"first","prompt":"second"}`, "first second", "[redacted] [redacted]"},
		{"not JSON", `{"prompt":"first`, "at first", "at [redacted]"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := new(redact.Redactor).Text(t.Context(), tc.text, 1<<10, []byte(tc.request))
			if got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

// TestText_PartOfALongPrompt quotes 16 bytes from each place of a prompt that is
// decoded in several pieces.
func TestText_PartOfALongPrompt(t *testing.T) {
	var prompt strings.Builder
	for i := range 40_000 {
		fmt.Fprintf(&prompt, "%d\n", i) // a line end is an escape in JSON
	}
	request, err := json.Marshal(map[string]string{"prompt": prompt.String()})
	if err != nil {
		t.Fatal(err)
	}
	for at := 65_000; at < 66_500; at += 7 {
		part := prompt.String()[at : at+16]
		if got := new(redact.Redactor).Text(t.Context(), "<"+part+">", 1<<10, request); got != "<[redacted]>" {
			t.Fatalf("part at %d: got %q, want it redacted", at, got)
		}
	}
}

// largeRequests are requests of size bytes that are slow to compare with a text.
func largeRequests(size int) map[string][]byte {
	list := func(element string) []byte {
		return []byte(`{"prompt":[` + strings.Repeat(element+",", size/(len(element)+1)) + `""]}`)
	}
	return map[string][]byte{
		"one string":            []byte(`{"prompt":"` + strings.Repeat("to be or not to be, ", size/20) + `"}`),
		"one string of escapes": []byte(`{"prompt":"` + strings.Repeat(`\n`, size/2) + `"}`),
		"short strings":         list(`"to be or not"`),
		"numbers":               list("1"),
		"backslashes":           []byte(`{"prompt":"` + strings.Repeat(`\\`, size/2) + `"}`),
		"quotes":                []byte(`{"prompt":"` + strings.Repeat(`\"`, size/2) + `"}`),
		"depth":                 []byte(strings.Repeat("[", size/2) + strings.Repeat("]", size/2)),
		"names":                 []byte("{" + strings.Repeat(`"prompt":0,`, size/11) + `"a":0}`),
	}
}

// TestText_IsLinear compares the time of a request with that of one ten times as
// large.
func TestText_IsLinear(t *testing.T) {
	text := strings.Repeat("to be or not to ask that ", 1<<10)
	small, large := largeRequests(128<<10), largeRequests(1280<<10)
	for name := range small {
		elapsed := func(request []byte) time.Duration {
			best := time.Hour
			for range 2 {
				start := time.Now()
				new(redact.Redactor).Text(t.Context(), text, 1<<10, request)
				best = min(best, time.Since(start))
			}
			return best
		}
		// Another process may disturb a measurement, but not five of them.
		var one, ten time.Duration
		linear := false
		for i := 0; i < 5 && !linear; i++ {
			one, ten = elapsed(small[name]), elapsed(large[name])
			linear = ten <= 40*one+50*time.Millisecond
		}
		if !linear {
			t.Errorf("%s: 128 KiB took %v, and ten times as much %v: not linear", name, one, ten)
		}
	}
}

// TestText_EndsWithItsContext has requests of 16 MiB and a context that is done.
func TestText_EndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, request := range largeRequests(16 << 20) {
		start := time.Now()
		got := new(redact.Redactor).Text(ctx, "to be", 1<<10, request)
		if elapsed := time.Since(start); elapsed > time.Second {
			t.Errorf("%s: took %v after the context was done", name, elapsed)
		}
		if got != redact.Mark {
			t.Errorf("%s: got %q, want %q alone: the rest was not compared", name, got, redact.Mark)
		}
	}
	small := []byte(`{"prompt":"first"}`)
	if got := new(redact.Redactor).Text(ctx, "at first", 1<<10, small); got != "at [redacted]" {
		t.Errorf("small request: got %q, want all of it compared", got)
	}
}

func BenchmarkText_Body(b *testing.B) {
	body := strings.Repeat(`{\"a\": \"b\\u003c\"}, `, 64<<10/22)
	for b.Loop() {
		redact.New(redact.Secrets{Keys: []string{key}}).Text(b.Context(), body, len(body), nil)
	}
}

func BenchmarkText(b *testing.B) {
	text := strings.Repeat("to be or not to ask that ", 1<<10)
	for name, request := range largeRequests(100 << 20) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(request)))
			for b.Loop() {
				new(redact.Redactor).Text(b.Context(), text, 1<<10, request)
			}
		})
	}
}
