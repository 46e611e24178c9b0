package inference

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxErrorBytes bounds the body that is looked at for what an error means. The
// longest ones, which quote the limits that were hit, are a few KiB.
const maxErrorBytes = 256 << 10

// An apiError is what the error bodies of the various APIs have in common. What
// has another type than expected is left out.
type apiError struct {
	Code       word   `json:"code"`
	StatusCode word   `json:"status_code"`
	Type       word   `json:"type"`
	ErrorType  word   `json:"error_type"`
	Status     word   `json:"status"`
	Message    string `json:"message"`
	Details    few[struct {
		Type       string `json:"@type"`
		RetryDelay string `json:"retryDelay"`
		Violations few[struct {
			QuotaID string `json:"quotaId"`
		}] `json:"violations"`
	}] `json:"details"`

	text string // the whole error, where it is nothing but a string
}

// A word is a name or a number: the APIs disagree on which of them a code is.
type word string

// UnmarshalJSON implements [json.Unmarshaler].
func (w *word) UnmarshalJSON(value []byte) error {
	*w = ""
	switch first := value[0]; {
	case first == '"':
		return json.Unmarshal(value, (*string)(w))
	case first == '-' || '0' <= first && first <= '9':
		*w = word(value)
	}
	return nil
}

// A few is the first maxErrors elements of a list: all of a hostile one would
// take far more memory than its text. If there are several lists of the same
// name, the first one counts, for the same reason.
type few[T any] []T

const maxErrors = 8

// UnmarshalJSON implements [json.Unmarshaler].
func (f *few[T]) UnmarshalJSON(value []byte) error {
	if *f == nil {
		*f = firstOf[T](value, maxErrors)
	}
	return nil
}

// firstOf decodes the first elements of a list, none of any other value. list
// is valid JSON.
func firstOf[T any](list []byte, limit int) (first []T) {
	d := json.NewDecoder(bytes.NewReader(list))
	if start, _ := d.Token(); start != json.Delim('[') {
		return nil
	}
	for len(first) < limit && d.More() {
		var element T
		// A value of an unexpected type is an error, and all the others are there.
		_ = d.Decode(&element)
		first = append(first, element)
	}
	return first
}

// lentBody is the body that the retry layer lends to a classifier, decoded.
func lentBody(resp *http.Response) []byte {
	if resp.Body == nil {
		return nil
	}
	compressed := bufio.NewReader(io.LimitReader(resp.Body, maxErrorBytes))
	decoded := io.Reader(compressed)
	// A Content-Encoding would not tell whether somebody has undone it.
	if magic, _ := compressed.Peek(2); string(magic) == "\x1f\x8b" {
		unzip, err := gzip.NewReader(compressed)
		if err != nil {
			return nil
		}
		decoded = io.LimitReader(unzip, maxErrorBytes)
	}
	// What was cut off or broke off is not JSON, and means nothing.
	body, _ := io.ReadAll(decoded)
	return body
}

// parseAPIErrors returns the errors in {"error": {…}} or {"error": "…"}, in an
// array of such objects, or in an object that is the error itself; and those of
// a choice, and in Groq's own member.
func parseAPIErrors(body []byte) []apiError {
	type failure struct {
		Error errorValue `json:"error"`
	}
	var errs []apiError
	for _, a := range oneOrFew[struct {
		apiError
		failure
		Choices few[failure] `json:"choices"`
		Groq    failure      `json:"x_groq"`
	}](body) {
		inner := []apiError{apiError(a.Error), a.apiError}
		if a.Error.text != "" {
			slices.Reverse(inner) // what stands beside a mere text is more precise
		}
		errs = append(append(errs, inner...), apiError(a.Groq.Error))
		for _, c := range a.Choices {
			errs = append(errs, apiError(c.Error))
		}
	}
	return errs
}

// oneOrFew decodes an object, or those in an array: Gemini puts its error into
// one.
func oneOrFew[T any](data []byte) few[T] {
	var list few[T]
	if bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("[")) {
		_ = json.Unmarshal(data, &list)
		return list
	}
	var one T
	// A value of an unexpected type is an error, and all the others are there.
	_ = json.Unmarshal(data, &one)
	return few[T]{one}
}

// An errorValue is the value of "error": an object, or a string.
type errorValue apiError

// UnmarshalJSON implements [json.Unmarshaler].
func (v *errorValue) UnmarshalJSON(value []byte) error {
	if value[0] != '"' {
		_ = json.Unmarshal(value, (*apiError)(v)) // of another type it tells nothing
		return nil
	}
	err := json.Unmarshal(value, &v.text)
	v.Message = v.text
	return err
}

// isQuota reports whether a quota is used up that does not refill within a
// request's time.
func (e apiError) isQuota() bool {
	for _, word := range e.words() {
		switch word {
		case "insufficient_quota", "billing_hard_limit_reached", "billing_not_active":
			return true
		}
	}
	for _, d := range e.Details {
		for _, v := range d.Violations {
			if strings.Contains(v.QuotaID, "PerDay") {
				return true
			}
		}
	}
	return false
}

// lock finds the word lock, locked or deadlock, also where it is a part of
// lock_timeout or ResourceLocked, and neither block nor clock.
var lock = regexp.MustCompile(`(?:^|[^A-Za-z])(?i:(?:dead)?lock(?:ed|s)?)(?:[^a-z]|$)|[a-z]Lock(?:ed|s)?(?:[^a-z]|$)`)

// isLock reports whether the error is about a lock that somebody else holds.
// The message is looked at too, since there is no common code for it.
func (e apiError) isLock() bool {
	return slices.ContainsFunc(append(e.words(), e.Message), lock.MatchString)
}

// words are the names and numbers that say what kind of error it is, the most
// precise first.
func (e apiError) words() []string {
	var words []string
	for _, w := range []word{e.Code, e.StatusCode, e.Type, e.ErrorType, e.Status, word(e.text)} {
		if w != "" {
			words = append(words, string(w))
		}
	}
	return words
}

// retryDelay is the longest wait that a google.rpc.RetryInfo among errs asks
// for.
func retryDelay(errs []apiError) (longest time.Duration) {
	for _, e := range errs {
		for _, d := range e.Details {
			if !strings.HasSuffix(d.Type, "google.rpc.RetryInfo") {
				continue
			}
			if wait, ok := parseWait(d.RetryDelay); ok {
				longest = max(longest, wait)
			}
		}
	}
	return longest
}

// statusOf maps the kinds of errors, written as [kind] writes them, to the
// statuses that the APIs send them with.
var statusOf = map[string]int{
	"invalidrequest":          400,
	"invalidargument":         400,
	"badrequest":              400,
	"failedprecondition":      400,
	"contentfilter":           400,
	"contextlengthexceeded":   400,
	"authentication":          401,
	"unauthenticated":         401,
	"invalidapikey":           401,
	"billing":                 402,
	"permission":              403,
	"permissiondenied":        403,
	"notfound":                404,
	"modelnotfound":           404,
	"requesttimeout":          408,
	"conflict":                409,
	"requesttoolarge":         413,
	"unprocessableentity":     422,
	"validation":              422,
	"ratelimit":               429,
	"ratelimitexceeded":       429,
	"toomanyrequests":         429,
	"resourceexhausted":       429,
	"insufficientquota":       429,
	"billinghardlimitreached": 429,
	"billingnotactive":        429,
	"api":                     500,
	"server":                  500,
	"internal":                500,
	"internalserver":          500,
	"badgateway":              502,
	"unavailable":             503,
	"serviceunavailable":      503,
	"timeout":                 504,
	"gatewaytimeout":          504,
	"deadlineexceeded":        504,
	"overloaded":              statusOverloaded,
}

// statusCode is the status that the error would have come with, had the API
// known in time. One of an unknown kind counts as the API's own failure: 500.
func statusCode(errs []apiError) int {
	for _, e := range errs {
		for _, word := range e.words() {
			if code, ok := wordStatus(word); ok {
				return code
			}
		}
	}
	return http.StatusInternalServerError
}

// wordStatus returns the status that word is, or is the name of.
func wordStatus(word string) (code int, ok bool) {
	if code, err := strconv.Atoi(word); err == nil && code >= 400 && code <= 599 {
		return code, true
	}
	code, ok = statusOf[kind(word)]
	return code, ok
}

// kind makes ratelimit of rate_limit_error, of RateLimitError and of RATE_LIMIT.
func kind(word string) string { return strings.TrimSuffix(letters(word), "error") }

// letters returns the letters a to z of word in lower case, and drops all else.
func letters(word string) string {
	return strings.Map(func(r rune) rune {
		if r < 'a' || r > 'z' {
			return -1
		}
		return r
	}, strings.ToLower(word))
}
