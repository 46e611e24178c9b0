package inference

import (
	"encoding/json"
	"errors"
	"iter"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const (
	// maxMessageBytes bounds what a message passes on of a foreign text.
	maxMessageBytes = 1024

	// quoteBytes is how long a part of a secret must be to be recognised by
	// itself. Shorter parts occur by chance.
	quoteBytes = 16

	// minPromptBytes is how long a string in a prompt must be to be looked
	// for. Shorter ones are no secret, and stand in every other word.
	minPromptBytes = 4

	redacted = "[redacted]"
)

// secrets are what a foreign text must not bring into a message.
type secrets struct {
	credentials []string
	request     []byte // the JSON body, whose prompt is found when it is needed
}

func newSecrets(apiKey string, base *url.URL, request []byte) secrets {
	return secrets{appendCredentials(nil, base, apiKey), request}
}

// appendCredentials appends those of more, and of what u holds, that are not
// empty.
func appendCredentials(to []string, u *url.URL, more ...string) []string {
	more = append(more, u.RawQuery)
	if u.User != nil {
		password, _ := u.User.Password()
		more = append(more, u.User.String(), password)
	}
	for _, c := range more {
		if c != "" {
			to = append(to, c)
		}
	}
	return to
}

// redact returns the beginning of text with the secrets replaced.
func (s secrets) redact(text string) string {
	// A secret that begins before the cut is recognised by what is behind it.
	window := text[:min(len(text), maxMessageBytes+quoteBytes)]
	hidden := make([]bool, len(window))
	runs := make(map[string]bool) // the runs of quoteBytes in window; true: part of a secret
	for i := range len(window) - quoteBytes + 1 {
		runs[window[i:i+quoteBytes]] = false
	}
	for secret := range s.all() {
		if len(secret) < quoteBytes {
			hideAll(hidden, window, secret)
			continue
		}
		for i := range len(secret) - quoteBytes + 1 {
			if _, ok := runs[secret[i:i+quoteBytes]]; ok {
				runs[secret[i:i+quoteBytes]] = true
			}
		}
	}
	for i := range len(window) - quoteBytes + 1 {
		if runs[window[i:i+quoteBytes]] {
			hide(hidden[i : i+quoteBytes])
		}
	}
	return visible(window, hidden)
}

// visible is text up to maxMessageBytes, with one mark for each hidden part.
func visible(text string, hidden []bool) string {
	var b strings.Builder
	for i := range min(len(text), maxMessageBytes) {
		switch {
		case !hidden[i]:
			b.WriteByte(text[i])
		case i == 0 || !hidden[i-1]:
			b.WriteString(redacted)
		}
	}
	if len(text) > maxMessageBytes {
		b.WriteString("…")
	}
	// The cut, or the edge of a hidden part, may have split a character.
	// Dropping its bytes could join the halves of a secret.
	return strings.ToValidUTF8(b.String(), "\uFFFD")
}

func hideAll(hidden []bool, text, secret string) {
	for at := 0; ; at++ {
		i := strings.Index(text[at:], secret)
		if i < 0 {
			return
		}
		at += i
		hide(hidden[at : at+len(secret)])
	}
}

func hide(part []bool) {
	for i := range part {
		part[i] = true
	}
}

// all yields the secrets as they are, and as they stand in JSON.
func (s secrets) all() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, secret := range append(s.prompt(), s.credentials...) {
			quoted, ascii := strconv.Quote(secret), strconv.QuoteToASCII(secret)
			for i, form := range []string{secret, quoted[1 : len(quoted)-1], ascii[1 : len(ascii)-1]} {
				if (i == 0 || form != secret) && !yield(form) {
					return
				}
			}
		}
	}
}

// prompt returns the strings of the request that the model was to read.
func (s secrets) prompt() []string {
	var params struct {
		Messages any `json:"messages"`
		Prompt   any `json:"prompt"`
		Suffix   any `json:"suffix"`
	}
	// The body was made by json.Marshal; what can't be decoded holds no prompt.
	_ = json.Unmarshal(s.request, &params)
	return appendStrings(nil, []any{params.Messages, params.Prompt, params.Suffix})
}

func appendStrings(to []string, v any) []string {
	switch v := v.(type) {
	case string:
		if v = strings.TrimSpace(v); len(v) >= minPromptBytes {
			to = append(to, v)
		}
	case []any:
		for _, e := range v {
			to = appendStrings(to, e)
		}
	case map[string]any:
		for name, e := range v {
			if name != "role" && name != "type" { // the API's words, not the user's
				to = appendStrings(to, e)
			}
		}
	}
	return to
}

// redactError is err with the secrets replaced in its text, and those of
// another request that a middleware below made and that failed.
func (s secrets) redactError(err error) error {
	var other *url.Error
	if errors.As(err, &other) {
		if u, parseErr := url.Parse(other.URL); parseErr == nil {
			s.credentials = appendCredentials(slices.Clip(s.credentials), u)
		}
	}
	if text := s.redact(err.Error()); text != err.Error() {
		return &redactedError{text, err}
	}
	return err
}

// A redactedError has a text of its own and all else of the error behind it.
type redactedError struct {
	text string
	err  error
}

func (e *redactedError) Error() string { return e.text }

func (e *redactedError) Unwrap() error { return e.err }
