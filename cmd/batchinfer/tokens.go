package main

import (
	"strconv"

	"github.com/httpretry/httpretry/internal/rawjson"
)

// tokensIn returns the total_tokens in the usage of an answer, or 0 if it has none.
func tokensIn(body []byte) int {
	for name, usage := range rawjson.Members(body) {
		if string(name) != "usage" {
			continue
		}
		for name, value := range rawjson.Members(usage) {
			if n, err := strconv.Atoi(string(value)); err == nil && string(name) == "total_tokens" {
				return max(n, 0)
			}
		}
	}
	return 0
}
