package main

import "testing"

func TestTokensIn(t *testing.T) {
	for _, tt := range []struct {
		name, body string
		want       int
	}{
		{"answer", `{"choices":[],"usage":{"prompt_tokens":3,"total_tokens": 7},"a":1}`, 7},
		{"text that looks like it", `{"usage":{"total_tokens":7},"text":"\"usage\":{\"total_tokens\":9}"}`, 7},
		{"of something inside", `{"a":{"usage":{"total_tokens":9}}}`, 0},
		{"none", `{"choices":[]}`, 0},
		{"null", `{"usage":null}`, 0},
		{"a fraction", `{"usage":{"total_tokens":1.5}}`, 0},
		{"negative", `{"usage":{"total_tokens":-1}}`, 0},
		{"too large", `{"usage":{"total_tokens":1e99}}`, 0},
		{"not an object", `[{"usage":{"total_tokens":9}}]`, 0},
		{"not JSON", `"usage"`, 0},
	} {
		if got := tokensIn([]byte(tt.body)); got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.name, got, tt.want)
		}
	}
}
