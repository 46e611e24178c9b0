package redact

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// headerSecrets returns the values of h, and the words in them: a token may be
// quoted without its scheme.
func headerSecrets(h http.Header) []string {
	separator := func(r rune) bool { return strings.ContainsRune(" \t,;=\"", r) }
	var all []string
	for _, values := range h {
		for _, value := range values {
			all = append(all, strings.TrimSpace(value))
			all = append(all, strings.FieldsFunc(value, separator)...)
		}
	}
	return slices.DeleteFunc(all, func(s string) bool { return len(s) < minWordBytes })
}

// userinfoSecrets returns user, its parts, and its Basic authentication
// encoding, which net/http sends.
func userinfoSecrets(user *url.Userinfo) []string {
	if user == nil {
		return nil
	}
	name := user.Username()
	password, _ := user.Password()
	basic := base64.StdEncoding.EncodeToString([]byte(name + ":" + password))
	if len(name) < minWordBytes {
		name = ""
	}
	return []string{user.String(), basic, password, name}
}

// querySecrets returns the parameters of a query, and their unescaped values.
func querySecrets(query string) []string {
	var all []string
	for part := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(part, "=")
		if name == "api-version" {
			continue // Azure's is public, and appears in its errors
		}
		all = append(all, part)
		if plain, err := url.QueryUnescape(value); err == nil && len(plain) >= minWordBytes {
			all = append(all, plain)
		}
	}
	return all
}
