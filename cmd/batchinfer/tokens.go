package main

import (
	"math"
	"strconv"

	"github.com/httpretry/httpretry/internal/rawjson"
)

// tokensIn returns the total_tokens in the usage of an answer, or the sum of its parts
// if it has no total, or 0 if it has neither.
func tokensIn(body []byte) int {
	for name, usage := range rawjson.Members(body) {
		if string(name) != "usage" {
			continue
		}
		var in, out int
		for name, value := range rawjson.Members(usage) {
			n, err := strconv.Atoi(string(value))
			switch n = max(n, 0); {
			case err != nil:
			case string(name) == "total_tokens":
				return n
			case string(name) == "prompt_tokens", string(name) == "input_tokens":
				in = n
			case string(name) == "completion_tokens", string(name) == "output_tokens":
				out = n
			}
		}
		return in + min(out, math.MaxInt-in)
	}
	return 0
}
