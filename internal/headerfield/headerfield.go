// Package headerfield checks header fields before a request is sent with them.
package headerfield

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// tokenBytes are those of a field name (RFC 9110, section 5.6.2).
const tokenBytes = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// Check returns an error if net/http would reject or ignore a field of a request. The
// error completes a sentence, and holds no value and no invalid name, since a field
// without its colon would have the value in its name.
func Check(name string, values []string) error {
	if name == "" || strings.Trim(name, tokenBytes) != "" {
		return errors.New("a name is not a token")
	}
	if slices.ContainsFunc(values, func(v string) bool { return !IsValue(v) }) {
		return fmt.Errorf("%s contains a control character", name)
	}
	switch canonical := http.CanonicalHeaderKey(name); canonical {
	case "Content-Length", "Transfer-Encoding", "Trailer":
		return SetByClient(canonical)
	}
	return nil
}

// SetByClient returns the error for a field that can't be chosen.
func SetByClient(name string) error { return fmt.Errorf("%s is set by the client", name) }

// IsValue reports whether s is valid as the value of a field (RFC 9110, section 5.5).
func IsValue(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}
