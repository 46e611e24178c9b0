package inference

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
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

	// minWordBytes is how long a user name or a value in a query must be to be
	// looked for by itself. Shorter ones are words of a configuration, such as
	// true, more often than secrets.
	minWordBytes = 8

	// maxDecodings is how often escapes are decoded: those of JSON within JSON
	// within JSON.
	maxDecodings = 3

	// maxEscapeBytes is the most that an escape takes for one byte.
	maxEscapeBytes = len(`\U00000000`)

	// windowBytes is what is looked at of a text. A secret that begins before
	// the cut is recognised by what is behind it, with a factor for each decoding.
	windowBytes = maxMessageBytes + quoteBytes*maxEscapeBytes*maxEscapeBytes*maxEscapeBytes

	redacted = "[redacted]"
)

// secrets are what a foreign text must not bring into a message. They are found
// in these when they are needed.
type secrets struct {
	apiKey  string
	base    *url.URL
	other   *url.URL // of a request that a middleware made; may be nil
	request []byte   // the JSON body
}

// credentials returns the parts of the API key and of the URLs that are secret.
func (s secrets) credentials() []string {
	all := []string{strings.TrimSpace(s.apiKey)} // as net/http sends it
	for _, u := range []*url.URL{s.base, s.other} {
		if u != nil {
			all = append(all, userinfoSecrets(u.User)...)
			all = append(all, querySecrets(u.RawQuery)...)
		}
	}
	return slices.DeleteFunc(all, func(c string) bool { return c == "" })
}

// userinfoSecrets returns what user is, as a whole, in parts and as it is sent.
func userinfoSecrets(user *url.Userinfo) []string {
	if user == nil {
		return nil
	}
	name := user.Username()
	password, _ := user.Password()
	basic := base64.StdEncoding.EncodeToString([]byte(name + ":" + password)) // as net/http sends them
	if len(name) < minWordBytes {
		name = ""
	}
	return []string{user.String(), basic, password, name}
}

// querySecrets returns the parts of a query, and their values as they are meant.
// Azure's api-version is no secret, and stands in its errors.
func querySecrets(query string) []string {
	var all []string
	for part := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(part, "=")
		if name == "api-version" {
			continue
		}
		all = append(all, part)
		if meant, err := url.QueryUnescape(value); err == nil && len(meant) >= minWordBytes {
			all = append(all, meant)
		}
	}
	return all
}

// redact returns the beginning of text with the secrets replaced.
func (s secrets) redact(text string) string {
	window := text[:min(len(text), windowBytes)]
	readings := readings(window)
	runs := make(map[string]bool) // the runs of quoteBytes in the readings; true: part of a secret
	for _, r := range readings {
		for i := range len(r.text) - quoteBytes + 1 {
			runs[r.text[i:i+quoteBytes]] = false
		}
	}
	hidden := make([]bool, len(window))
	for _, secret := range append(s.prompt(), s.credentials()...) {
		if len(secret) < quoteBytes {
			for _, r := range readings {
				r.hideAll(hidden, secret)
			}
			continue
		}
		for i := range len(secret) - quoteBytes + 1 {
			if _, ok := runs[secret[i:i+quoteBytes]]; ok {
				runs[secret[i:i+quoteBytes]] = true
			}
		}
	}
	for _, r := range readings {
		for i := range len(r.text) - quoteBytes + 1 {
			if runs[r.text[i:i+quoteBytes]] {
				r.hide(hidden, i, quoteBytes)
			}
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

// A reading is what a text says once escapes in it are decoded.
type reading struct {
	text string
	at   []int // where in the original each byte of text begins, and where its end is
}

// readings returns text as it stands, and what it says once its escapes are
// decoded, up to maxDecodings times. So a secret is found in whatever way it is
// escaped, which no list of ways can promise.
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

// decoded is what r says once its escapes are decoded, those within escapes
// excepted.
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

func (r reading) hideAll(hidden []bool, secret string) {
	for at := 0; ; at++ {
		i := strings.Index(r.text[at:], secret)
		if i < 0 {
			return
		}
		at += i
		r.hide(hidden, at, len(secret))
	}
}

// hide marks what stands in the original for n bytes of r from i on.
func (r reading) hide(hidden []bool, i, n int) {
	for k := r.at[i]; k < r.at[i+n]; k++ {
		hidden[k] = true
	}
}

// unescape decodes the escape that text begins with, one of JSON (RFC 8259,
// section 7) or of Go, in which net/http quotes; or it returns the first byte.
// size is how much of text that was, at most maxEscapeBytes for each byte of
// plain.
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

// prompt returns the strings of the request that the model was to read.
func (s secrets) prompt() []string {
	var all []string
	w := jsonWalk{d: json.NewDecoder(bytes.NewReader(s.request))}
	w.d.UseNumber() // none is too large for that
	_ = w.token()   // of an object, which json.Marshal made
	for w.more() {
		name, _ := w.token().(string)
		texts := w.appendStrings(nil, "")
		switch strings.ToLower(name) { // a gateway in Go takes any case
		case "messages", "prompt", "suffix":
			all = append(all, texts...)
		}
	}
	return all
}

// A jsonWalk reads JSON token by token, so that of two members of the same name
// neither is left out, and no depth is too much. An error ends it.
type jsonWalk struct {
	d   *json.Decoder
	err error
}

// more reports whether there is another element or member.
func (w *jsonWalk) more() bool { return w.err == nil && w.d.More() }

// token returns the next token, nil after an error.
func (w *jsonWalk) token() (t json.Token) {
	if w.err == nil {
		t, w.err = w.d.Token()
	}
	return t
}

// appendStrings reads the next value, the member of that name or "", and appends
// the strings in it that may be a secret.
func (w *jsonWalk) appendStrings(to []string, name string) []string {
	switch token := w.token().(type) {
	case string:
		text := strings.TrimSpace(token)
		named := (name == "role" || name == "type") && isName(text) // the API's words, not the user's
		if len(text) >= minPromptBytes && !named {
			to = append(to, text)
		}
	case json.Delim:
		for w.more() {
			if token == '{' {
				name, _ = w.token().(string)
			}
			to = w.appendStrings(to, name)
		}
		_ = w.token() // its end
	}
	return to
}

// isName reports whether text is of the kind of user, image_url and
// computer_20241022.
func isName(text string) bool {
	return strings.Trim(text, "abcdefghijklmnopqrstuvwxyz0123456789_-") == ""
}

// redactError is err with the secrets replaced in its text, and those of
// another request that a middleware below made and that failed.
func (s secrets) redactError(err error) error {
	var other *url.Error
	if errors.As(err, &other) {
		if u, parseErr := url.Parse(other.URL); parseErr == nil {
			s.other = u
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
