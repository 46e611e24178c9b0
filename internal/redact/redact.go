// Package redact replaces secrets in text that was written by someone else, such
// as the error message of a gateway that quotes the request.
package redact

import (
	"context"
	"net/http"
	"net/url"
	"slices"
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

	// minWordBytes is the minimum length of a user name, query value or word of a
	// header to redact on its own. Shorter ones are usually settings, such as true.
	minWordBytes = 8

	// minCutBytes is the minimum length of a key's beginning to redact at the
	// end of a text, where the text may have been cut.
	minCutBytes = 4
)

// Secrets are the strings to redact. The zero value has none.
type Secrets struct {
	// Keys are redacted as they are, without surrounding space.
	Keys []string

	// Header has fields whose values are secrets, as well as the words in them.
	// Values and words of less than 8 bytes are ignored.
	Header http.Header

	// URLs have secrets in their userinfo and query. Nil URLs are ignored.
	URLs []*url.URL
}

// A Redactor redacts secrets. It is safe for concurrent use. The zero value redacts
// only those of a request.
type Redactor struct {
	credentials []string
	keys        []string // those of the credentials that are also redacted if they are cut off
}

// New returns a Redactor for s.
func New(s Secrets) *Redactor {
	r := &Redactor{keys: headerSecrets(s.Header)}
	for _, key := range s.Keys {
		r.keys = append(r.keys, strings.TrimSpace(key)) // as net/http sends it
	}
	r.credentials = r.keys
	return r.With(s.URLs...)
}

// With returns a Redactor for the secrets of r and those of urls.
func (r *Redactor) With(urls ...*url.URL) *Redactor {
	all := slices.Clone(r.credentials)
	for _, u := range urls {
		if u != nil {
			all = append(all, userinfoSecrets(u.User)...)
			all = append(all, querySecrets(u.RawQuery)...)
		}
	}
	return &Redactor{slices.DeleteFunc(all, func(c string) bool { return c == "" }), r.keys}
}

// Text returns the first limit bytes of text, followed by "…" if there are more,
// with [Mark] in place of each secret and of each part of a secret that has at
// least 16 bytes. If text ends with the beginning of a key, of at least 4 bytes,
// that is replaced too, because text may have been cut there. Escapes of JSON and
// Go are decoded, nested up to three levels.
//
// If request, the JSON body of a request, is not nil, the strings in it that are
// addressed to the model are secrets too: those in its members messages, prompt,
// suffix, input, instructions, query, documents, text_1 and text_2, other than the
// names of roles and types. It must be valid JSON.
//
// The time it takes is linear in limit and in the length of request. If ctx is
// done after 256 KiB of request have been compared, Text returns only Mark.
func (r *Redactor) Text(ctx context.Context, text string, limit int, request []byte) string {
	window := text[:min(len(text), limit+lookahead)]
	if window == "" {
		return ""
	}
	m := newMatcher(window)
	for _, c := range r.credentials {
		m.find([]byte(c))
	}
	for _, key := range r.keys {
		m.findBeginning(key)
	}
	if !m.findPrompts(ctx, request) {
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
