package main

import "testing"

func TestTokensIn(t *testing.T) {
	for _, tt := range []struct {
		name, body string
		want       int
	}{
		{"answer", `{"choices":[],"usage":{"prompt_tokens":3,"total_tokens": 7},"a":1}`, 7},
		{"text that looks like it", `{"usage":{"total_tokens":7},"text":"\"usage\":{\"total_tokens\":9}"}`, 7},
		{"without a total", `{"usage":{"prompt_tokens":500,"completion_tokens":20,"cached_tokens":9}}`, 520},
		{"of a response", `{"usage":{"input_tokens":500,"output_tokens":20}}`, 520},
		{"total of null", `{"usage":{"total_tokens":null,"input_tokens":500,"output_tokens":20}}`, 520},
		{"parts beside a total", `{"usage":{"total_tokens":7,"prompt_tokens":500,"completion_tokens":20}}`, 7},
		{"both names", `{"usage":{"prompt_tokens":5,"completion_tokens":2,"input_tokens":5,"output_tokens":2}}`, 7},
		{"a sum that is too large", `{"usage":{"prompt_tokens":9223372036854775807,"completion_tokens":9223372036854775807}}`, 9223372036854775807},
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
