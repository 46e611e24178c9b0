package main

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
)

// A beginning is the result of reading a text as the beginning of a line of
// output: the members of an answer, in their order and without white space, as
// encoding/json writes them.
type beginning struct {
	rest     []byte // of the text, not read yet
	customID string // empty if the text ends before its end
	short    bool   // the text ends before the line does
	wrong    bool   // the text is not the beginning of a line of output
}

// readBeginning reads the beginning of a line, or a whole line without its end.
func readBeginning(text []byte) beginning {
	b := beginning{rest: text}
	const first = `{"id":"` + idPrefix
	if n := min(len(text), len(first)); string(text[:n]) != first[:n] || hasBlanks(text) {
		b.wrong = true
	}
	b.line()
	return b
}

// isWritten reports whether a line of JSON has the members of an answer, in
// their order, and no others.
func isWritten(line []byte) bool {
	var compact bytes.Buffer
	if json.Compact(&compact, line) != nil {
		return false
	}
	b := beginning{rest: compact.Bytes()}
	b.line()
	return !b.wrong && !b.short
}

// line reads a whole line.
func (b *beginning) line() {
	b.literal(`{"id":`)
	b.value(`"`)
	b.literal(`,"custom_id":`)
	b.customID, _ = stringOf(b.value(`"`))
	b.literal(`,"response":`)
	if !b.null() {
		b.literal(`{"status_code":`)
		b.value("123456789")
		b.literal(`,"request_id":`)
		b.value(`"`)
		b.literal(`,"body":`)
		b.value(`{["-0123456789tfn`)
		b.literal(`}`)
	}
	b.literal(`,"error":`)
	if !b.null() {
		b.literal(`{"code":`)
		b.value(`"`)
		b.literal(`,"message":`)
		b.value(`"`)
		b.literal(`}`)
	}
	b.literal(`}`)
	b.wrong = b.wrong || len(b.rest) > 0 && !b.short
}

// literal reads want.
func (b *beginning) literal(want string) {
	n := min(len(b.rest), len(want))
	switch {
	case b.wrong || b.short:
	case string(b.rest[:n]) != want[:n]:
		b.wrong = true
	default:
		b.rest, b.short = b.rest[n:], n < len(want)
	}
}

// null reads null, if that is next, and reports whether it was.
func (b *beginning) null() bool {
	if len(b.rest) == 0 || b.rest[0] != 'n' {
		return false
	}
	b.literal("null")
	return true
}

// value reads a JSON value that begins with one of the characters in first.
func (b *beginning) value(first string) (value json.RawMessage) {
	switch {
	case b.wrong || b.short:
		return nil
	case len(b.rest) == 0:
		b.short = true
		return nil
	case strings.IndexByte(first, b.rest[0]) < 0:
		b.wrong = true
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(b.rest))
	switch err := dec.Decode(&value); err {
	case nil:
		b.rest = b.rest[dec.InputOffset():]
	case io.ErrUnexpectedEOF:
		b.short = true
	default:
		b.wrong = true
	}
	return value
}

// hasBlanks reports whether JSON has white space outside of its strings.
func hasBlanks(text []byte) bool {
	quoted, escaped := false, false
	for _, c := range text {
		switch {
		case escaped:
			escaped = false
		case c == '"':
			quoted = !quoted
		case quoted:
			escaped = c == '\\'
		case c <= ' ':
			return true
		}
	}
	return false
}
