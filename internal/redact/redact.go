// Package redact replaces secrets in text that was written by someone else, such
// as the error message of a gateway that quotes the request.
package redact

import (
	"context"
	"net/url"
	"strings"
)

// Mark replaces each secret.
const Mark = "[redacted]"

const (
	// quoteBytes is the length from which a part of a secret is redacted.
	// Shorter parts may occur by chance.
	quoteBytes = 16

	// minPromptBytes is the minimum length of a string in a prompt to redact.
	// Shorter strings occur in ordinary text.
	minPromptBytes = 4

	// minWordBytes is the minimum length of a user name or query value to
	// redact on its own. Shorter ones are usually settings, such as true.
	minWordBytes = 8

	// minCutBytes is the minimum length of a key's beginning to redact at the
	// end of a text, where the text may have been cut.
	minCutBytes = 4
)

// Secrets are the strings to redact. The zero value has none.
type Secrets struct {
	// Keys are redacted as they are, without surrounding space.
	Keys []string

	// URLs have secrets in their userinfo and query. Nil URLs are ignored.
	URLs []*url.URL

	// Request is the JSON body of a request for a completion. Redacted are the
	// strings in its members messages, prompt and suffix, other than the names
	// of roles and types. It must be valid JSON.
	Request []byte
}

// Text returns the first limit bytes of text, followed by "…" if there are more,
// with [Mark] in place of each secret and of each part of a secret that has at
// least 16 bytes. If text ends with the beginning of a key, of at least 4 bytes,
// that is replaced too, because text may have been cut there. Escapes of JSON and
// Go are decoded, nested up to three levels.
//
// The time it takes is linear in limit and in the length of s.Request. If ctx is
// done after 256 KiB of s.Request have been compared, Text returns only Mark.
func (s Secrets) Text(ctx context.Context, text string, limit int) string {
	window := text[:min(len(text), limit+lookahead)]
	if window == "" {
		return ""
	}
	m := newMatcher(window)
	for _, c := range s.credentials() {
		m.find([]byte(c))
	}
	for _, key := range s.Keys {
		m.findBeginning(strings.TrimSpace(key))
	}
	if !m.findPrompts(ctx, s.Request) {
		return Mark
	}
	return visible(window, m.hidden(), limit)
}

// visible returns text up to limit, with one mark for each hidden part.
func visible(text string, hidden []bool, limit int) string {
	var b strings.Builder
	for i := range min(len(text), limit) {
		switch {
		case !hidden[i]:
			b.WriteByte(text[i])
		case i == 0 || !hidden[i-1]:
			b.WriteString(Mark)
		}
	}
	if len(text) > limit {
		b.WriteString("…")
	}
	// The limit, or the edge of a hidden part, may have split a character.
	// Removing its bytes could join the halves of a secret.
	return strings.ToValidUTF8(b.String(), "\uFFFD")
}
