package redact

import (
	"encoding/base64"
	"net/url"
	"slices"
	"strings"
)

// credentials returns the keys and the secret parts of the URLs.
func (s Secrets) credentials() []string {
	var all []string
	for _, key := range s.Keys {
		all = append(all, strings.TrimSpace(key)) // as net/http sends it
	}
	for _, u := range s.URLs {
		if u != nil {
			all = append(all, userinfoSecrets(u.User)...)
			all = append(all, querySecrets(u.RawQuery)...)
		}
	}
	return slices.DeleteFunc(all, func(c string) bool { return c == "" })
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
