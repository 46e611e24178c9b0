// Package rawjson reads the structure of JSON without decoding its values.
//
// A batch command reads the 3 or 4 KB of each request and answer several times, and
// needs a few small members. With package encoding/json, that took half of its CPU
// time.
package rawjson

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"iter"
	"unicode/utf8"
)

// maxDepth is the depth that encoding/json accepts.
const maxDepth = 10_000

// Valid reports whether text is JSON, as [json.Valid] does.
func Valid(text []byte) bool {
	end := skipValue(text, skipSpace(text, 0), 0)
	return end >= 0 && skipSpace(text, end) == len(text)
}

// Members yields the members of a JSON object, in their order, including repeated
// ones. A name is decoded; a value is a part of object, without surrounding space.
// If object is not valid JSON, Members yields those before the fault. If it is
// another value, it yields nothing.
func Members(object []byte) iter.Seq2[[]byte, json.RawMessage] {
	return func(yield func([]byte, json.RawMessage) bool) {
		i := skipSpace(object, 0)
		if !at(object, i, '{') {
			return
		}
		for i = skipSpace(object, i+1); at(object, i, '"'); i = skipSpace(object, i+1) {
			nameEnd := skipString(object, i)
			start, end := memberValue(object, nameEnd, 1)
			if end < 0 || !yield(name(object[i:nameEnd]), object[start:end:end]) {
				return
			}
			if i = skipSpace(object, end); !at(object, i, ',') {
				return
			}
		}
	}
}

// Elements yields the elements of a JSON array, as Members does the values of an
// object.
func Elements(array []byte) iter.Seq[json.RawMessage] {
	return func(yield func(json.RawMessage) bool) {
		i := skipSpace(array, 0)
		if !at(array, i, '[') {
			return
		}
		for {
			i = skipSpace(array, i+1)
			end := skipValue(array, i, 1)
			if end < 0 || !yield(json.RawMessage(array[i:end:end])) {
				return
			}
			if i = skipSpace(array, end); !at(array, i, ',') {
				return
			}
		}
	}
}

// String decodes a JSON string, as [json.Unmarshal] does. It reports false for any
// other value.
func String(value json.RawMessage) (s string, ok bool) {
	if len(value) == 0 || value[0] != '"' {
		return "", false
	}
	if text, plain := verbatim(value); plain {
		return string(text), true
	}
	err := json.Unmarshal(value, &s)
	return s, err == nil
}

// name decodes the name of a member.
func name(quoted []byte) []byte {
	if text, plain := verbatim(quoted); plain {
		return text
	}
	decoded, _ := String(quoted)
	return []byte(decoded)
}

// verbatim returns the text of a JSON string, unless it has an escape, or invalid
// UTF-8, which encoding/json replaces.
func verbatim(quoted []byte) (text []byte, plain bool) {
	end := skipString(quoted, 0)
	if end != len(quoted) || bytes.IndexByte(quoted, '\\') >= 0 || !utf8.Valid(quoted) {
		return nil, false
	}
	return quoted[1 : end-1], true
}

func at(text []byte, i int, c byte) bool { return i < len(text) && text[i] == c }

func skipSpace(text []byte, i int) int {
	for i < len(text) && (text[i] == ' ' || text[i] == '\n' || text[i] == '\r' || text[i] == '\t') {
		i++
	}
	return i
}

// skipValue returns the end of the value that begins at i, or -1 if there is no
// valid one. depth is the number of objects and arrays around it.
func skipValue(text []byte, i, depth int) int {
	if i >= len(text) {
		return -1
	}
	switch text[i] {
	case '"':
		return skipString(text, i)
	case '{':
		return skipObject(text, i, depth+1)
	case '[':
		return skipArray(text, i, depth+1)
	case 't':
		return skipLiteral(text, i, "true")
	case 'f':
		return skipLiteral(text, i, "false")
	case 'n':
		return skipLiteral(text, i, "null")
	}
	return skipNumber(text, i)
}

func skipObject(text []byte, i, depth int) int {
	if depth > maxDepth {
		return -1
	}
	if i = skipSpace(text, i+1); at(text, i, '}') {
		return i + 1
	}
	for at(text, i, '"') {
		_, end := memberValue(text, skipString(text, i), depth)
		if end < 0 {
			return -1
		}
		switch i = skipSpace(text, end); {
		case at(text, i, '}'):
			return i + 1
		case !at(text, i, ','):
			return -1
		}
		i = skipSpace(text, i+1)
	}
	return -1
}

// memberValue returns the value of the member whose name ends at i, or an end of
// -1.
func memberValue(text []byte, i, depth int) (start, end int) {
	if i < 0 {
		return 0, -1
	}
	if i = skipSpace(text, i); !at(text, i, ':') {
		return 0, -1
	}
	start = skipSpace(text, i+1)
	return start, skipValue(text, start, depth)
}

func skipArray(text []byte, i, depth int) int {
	if depth > maxDepth {
		return -1
	}
	if i = skipSpace(text, i+1); at(text, i, ']') {
		return i + 1
	}
	for {
		end := skipValue(text, i, depth)
		if end < 0 {
			return -1
		}
		switch i = skipSpace(text, end); {
		case at(text, i, ']'):
			return i + 1
		case !at(text, i, ','):
			return -1
		}
		i = skipSpace(text, i+1)
	}
}

// isPlain reports whether a string may hold c by itself.
func isPlain(c byte) bool { return c >= ' ' && c != '"' && c != '\\' }

// arePlain reports whether isPlain is true for each of eight bytes. Strings whose
// only escapes are line breaks take three times as long one byte at a time.
func arePlain(eight uint64) bool {
	const each, high = 0x0101010101010101, 0x8080808080808080
	quote, backslash := eight^each*'"', eight^each*'\\'
	// The subtraction sets the high bit of a byte that is 0, or less than a space.
	odd := (quote-each)&^quote | (backslash-each)&^backslash | (eight-each*' ')&^eight
	return odd&high == 0
}

// skipString returns the end of the string whose opening quote is at i, or -1.
func skipString(text []byte, i int) int {
	for i++; ; i++ {
		for i+8 <= len(text) && arePlain(binary.LittleEndian.Uint64(text[i:])) {
			i += 8
		}
		for i < len(text) && isPlain(text[i]) {
			i++
		}
		switch {
		case at(text, i, '"'):
			return i + 1
		case !at(text, i, '\\') || i+1 == len(text):
			return -1
		}
		switch i++; text[i] {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		case 'u':
			if i += 4; i >= len(text) || !isHex(text[i-3:i+1]) {
				return -1
			}
		default:
			return -1
		}
	}
}

func isHex(digits []byte) bool {
	for _, c := range digits {
		if !('0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f') {
			return false
		}
	}
	return true
}

func skipLiteral(text []byte, i int, literal string) int {
	end := i + len(literal)
	if end > len(text) || string(text[i:end]) != literal {
		return -1
	}
	return end
}

// skipNumber returns the end of the number at i, or -1 (RFC 8259, section 6).
func skipNumber(text []byte, i int) int {
	if at(text, i, '-') {
		i++
	}
	if at(text, i, '0') {
		i++
	} else if i = skipDigits(text, i); i < 0 {
		return -1
	}
	if at(text, i, '.') {
		if i = skipDigits(text, i+1); i < 0 {
			return -1
		}
	}
	if at(text, i, 'e') || at(text, i, 'E') {
		i++
		if at(text, i, '+') || at(text, i, '-') {
			i++
		}
		return skipDigits(text, i)
	}
	return i
}

// skipDigits returns the end of the digits at i, or -1 if there is none.
func skipDigits(text []byte, i int) int {
	start := i
	for i < len(text) && '0' <= text[i] && text[i] <= '9' {
		i++
	}
	if i == start {
		return -1
	}
	return i
}
