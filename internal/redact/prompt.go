package redact

import (
	"bytes"
	"context"
	"strings"
)

const (
	// pieceBytes is the amount of a long string that is decoded at a time.
	pieceBytes = 64 << 10

	// patientBytes is the amount of a request that is compared even if the
	// context is done. It takes a few milliseconds.
	patientBytes = 256 << 10
)

// findPrompts finds the strings of a request that are addressed to the model. It
// reports false if ctx was done first.
func (m *matcher) findPrompts(ctx context.Context, request []byte) bool {
	w := walk{ctx: ctx, json: request}
	buf := make([]byte, 0, min(len(request), pieceBytes)+quoteBytes)
	for w.next() {
		if !w.inPrompt() {
			continue
		}
		quoted := w.quoted
		for first := true; first || len(quoted) > 0; first = false {
			buf, quoted = appendPlain(buf, quoted)
			piece := buf
			if first && len(quoted) == 0 {
				piece = bytes.TrimSpace(buf)
				if len(piece) < minPromptBytes || w.isPublic(piece) {
					break
				}
			}
			m.find(piece)
			if w.done(w.pos - len(quoted)) {
				return false
			}
			// The next piece continues with the end of this one, so that no run
			// is missed.
			buf = buf[:copy(buf, buf[max(0, len(buf)-quoteBytes+1):])]
		}
		buf = buf[:0]
	}
	return !w.done(w.pos)
}

// appendPlain decodes the content of a JSON string and appends it to buf, up to
// about pieceBytes. It returns the part that was not decoded.
func appendPlain(buf, quoted []byte) (plain, rest []byte) {
	for len(quoted) > 0 && len(buf) < pieceBytes {
		verbatim, _, _ := bytes.Cut(quoted[:min(len(quoted), pieceBytes)], []byte(`\`))
		if n := len(verbatim); n > 0 {
			buf, quoted = append(buf, verbatim...), quoted[n:]
			continue
		}
		if i := strings.IndexByte(`"\/bfnrt`, quoted[min(1, len(quoted)-1)]); i >= 0 { // most escapes in practice
			buf, quoted = append(buf, "\"\\/\b\f\n\r\t"[i]), quoted[min(2, len(quoted)):]
			continue
		}
		const longest = len(`\ud83d\ude00`)
		decoded, size := unescape(string(quoted[:min(len(quoted), longest)]))
		buf, quoted = append(buf, decoded...), quoted[size:]
	}
	return buf, quoted
}

// A walk visits the strings of valid JSON. Unlike a decoder, it visits all members
// of the same name, copies nothing, and has no limit on the depth.
type walk struct {
	ctx    context.Context
	json   []byte
	pos    int    // the offset of the next token
	depth  int    // the number of objects and arrays around it
	top    string // the name of the last member of the outermost object
	name   string // the name of the last member, "" after the end of an object
	quoted []byte // the content of the string that next has found
	isName bool   // that string is the name of a member
}

// done reports whether the context is done and its time has been used up.
func (w *walk) done(pos int) bool { return pos > patientBytes && w.ctx.Err() != nil }

// next goes to the next string, and reports whether there is one. It stops early
// if the context is done.
func (w *walk) next() bool {
	for w.pos < len(w.json) {
		if w.pos%1024 == 0 && w.done(w.pos) {
			return false
		}
		c := w.json[w.pos]
		w.pos++
		switch c {
		case '{', '[':
			w.depth++
		case '}':
			w.depth--
			w.name = "" // an element that follows in an array around it has no name
		case ']':
			w.depth--
		case '"':
			w.quoted = content(w.json[w.pos:])
			if w.pos = min(w.pos+len(w.quoted)+1, len(w.json)); w.done(w.pos) {
				return false
			}
			if w.isName = w.atColon(); w.isName {
				w.rename()
			}
			return true
		}
	}
	return false
}

// atColon reports whether the string before was the name of a member.
func (w *walk) atColon() bool {
	rest := bytes.TrimLeft(w.json[w.pos:min(w.pos+16, len(w.json))], " \t\r\n")
	return len(rest) > 0 && rest[0] == ':'
}

func (w *walk) rename() {
	name, _ := appendPlain(nil, w.quoted[:min(len(w.quoted), 64)])
	w.name = string(name)
	if w.depth == 1 {
		w.top = strings.ToLower(w.name) // servers written in Go ignore case
	}
}

// inPrompt reports whether the string is a value that is addressed to the model.
func (w *walk) inPrompt() bool {
	if w.isName {
		return false
	}
	switch w.top {
	case "messages", "prompt", "suffix", // chat and completions
		"input", "instructions", // embeddings, moderations and responses
		"query", "documents", "text_1", "text_2": // rerank and score
		return true
	}
	return false
}

// isPublic reports whether text, as a role or type, is a word of the API, such
// as user, image_url or computer_20241022.
func (w *walk) isPublic(text []byte) bool {
	return (w.name == "role" || w.name == "type") &&
		len(bytes.Trim(text, "abcdefghijklmnopqrstuvwxyz0123456789_-")) == 0
}

// content returns the content of the JSON string whose opening quote precedes
// text.
func content(text []byte) []byte {
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++ // the next byte does not end the string
		case '"':
			return text[:i]
		}
	}
	return text
}
