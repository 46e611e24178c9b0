package redact

import (
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	// maxDecodings is the number of levels of escapes that are decoded: JSON
	// within JSON within JSON.
	maxDecodings = 3

	// maxEscapeBytes is the maximum length of an escape for one byte.
	maxEscapeBytes = len(`\U00000000`)

	// lookahead is the number of bytes to examine after the limit, so that a
	// secret that straddles the limit is recognized, even if it was escaped
	// maxDecodings times.
	lookahead = quoteBytes * maxEscapeBytes * maxEscapeBytes * maxEscapeBytes
)

// A reading is a text with some levels of its escapes decoded.
type reading struct {
	text string
	at   []int // the offsets in the original of each byte of text, and of its end
}

// readings returns text itself and, up to maxDecodings times, the result of
// decoding its escapes. This finds a secret however it was escaped, whereas a
// list of escaped forms would be incomplete.
func readings(text string) []reading {
	last := reading{text, make([]int, len(text)+1)}
	for i := range last.at {
		last.at[i] = i
	}
	all := []reading{last}
	for len(all) <= maxDecodings && strings.Contains(last.text, `\`) {
		last = last.decoded()
		all = append(all, last)
	}
	return all
}

// decoded returns r with one level of escapes decoded.
func (r reading) decoded() reading {
	var b strings.Builder
	at := make([]int, 0, len(r.at))
	for i := 0; i < len(r.text); {
		plain, size := unescape(r.text[i:])
		b.WriteString(plain)
		for range len(plain) {
			at = append(at, r.at[i])
		}
		i += size
	}
	return reading{b.String(), append(at, r.at[len(r.text)])}
}

// hide marks the original bytes that correspond to r.text[i:i+n].
func (r reading) hide(hidden []bool, i, n int) {
	for k := r.at[i]; k < r.at[i+n]; k++ {
		hidden[k] = true
	}
}

// unescape decodes the escape at the start of text, of JSON (RFC 8259, section
// 7) or of Go, with which net/http quotes. If there is none, it returns the
// first byte. size is the number of bytes of text that were decoded, at most
// maxEscapeBytes for each byte of plain.
func unescape(text string) (plain string, size int) {
	switch {
	case text[0] != '\\':
		return text[:1], 1
	case strings.HasPrefix(text, `\/`), strings.HasPrefix(text, `\'`):
		return text[1:2], 2
	case strings.HasPrefix(text, `\u`):
		return unescapeUTF16(text)
	}
	char, multibyte, tail, err := strconv.UnquoteChar(text, '"')
	switch {
	case err != nil:
		return text[:1], 1
	case multibyte:
		plain = string(char)
	default:
		plain = string([]byte{byte(char)})
	}
	return plain, len(text) - len(tail)
}

// unescapeUTF16 decodes \uXXXX, or two of them that are a surrogate pair.
func unescapeUTF16(text string) (plain string, size int) {
	const length = len(`\u0000`)
	first, ok := codeUnit(text)
	if !ok {
		return text[:1], 1
	}
	if second, ok := codeUnit(text[length:]); ok {
		if char := utf16.DecodeRune(first, second); char != utf8.RuneError {
			return string(char), 2 * length
		}
	}
	return string(first), length // U+FFFD for half a pair, as in encoding/json
}

func codeUnit(text string) (rune, bool) {
	if len(text) < 6 || text[:2] != `\u` {
		return 0, false
	}
	n, err := strconv.ParseUint(text[2:6], 16, 16)
	return rune(n), err == nil
}
