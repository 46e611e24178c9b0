package inference

import (
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

	"github.com/httpretry/httpretry/internal/rawjson"
)

// maxErrorBytes limits the length of a body that is searched for an error. Real
// errors have at most a few KiB.
const maxErrorBytes = 256 << 10

// An apiError holds the members common to the error bodies of the various APIs.
// Members of unexpected types are ignored.
type apiError struct {
	Code       word   `json:"code"`
	StatusCode word   `json:"status_code"`
	Type       word   `json:"type"`
	ErrorType  word   `json:"error_type"`
	Status     word   `json:"status"`
	Message    string `json:"message"`
	StatusText string `json:"status_msg"` // MiniMax
	Details    few[struct {
		Type       string `json:"@type"`
		RetryDelay string `json:"retryDelay"`
		Violations few[struct {
			QuotaID string `json:"quotaId"`
		}] `json:"violations"`
	}] `json:"details"`
	Metadata struct {
		Headers struct {
			Remaining word `json:"X-RateLimit-Remaining"`
			Reset     word `json:"X-RateLimit-Reset"`
		} `json:"headers"`
	} `json:"metadata"` // OpenRouter

	text string // the error, if it is a plain string
}

// A word is a JSON string or number. APIs use either for codes.
type word string

// UnmarshalJSON implements [json.Unmarshaler].
func (w *word) UnmarshalJSON(value []byte) error {
	*w = ""
	switch first := value[0]; {
	case first == '"':
		text, _ := rawjson.String(value)
		*w = word(text)
	case first == '-' || '0' <= first && first <= '9':
		*w = word(value)
	}
	return nil
}

// A few holds the first maxErrors elements of a list, since a hostile list could
// take far more memory than its text. If the member is repeated, only the first
// is used, for the same reason.
type few[T any] []T

const maxErrors = 8

// UnmarshalJSON implements [json.Unmarshaler].
func (f *few[T]) UnmarshalJSON(value []byte) error {
	if *f == nil {
		*f = firstOf[T](value, maxErrors)
	}
	return nil
}

// firstOf decodes the first elements of a list. For any other value it returns
// none. list must be valid JSON.
func firstOf[T any](list []byte, limit int) (first []T) {
	d := json.NewDecoder(bytes.NewReader(list))
	if start, _ := d.Token(); start != json.Delim('[') {
		return nil
	}
	for len(first) < limit && d.More() {
		var element T
		// On a type mismatch, Decode fails but still decodes the other members.
		_ = d.Decode(&element)
		first = append(first, element)
	}
	return first
}

// previewBody returns the preview of the body that a classifier gets.
func previewBody(resp *http.Response) []byte {
	if resp.Body == nil || resp.ContentLength > maxErrorBytes {
		return nil
	}
	// A body that is cut off is not valid JSON, and is ignored later.
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBytes+1))
	return body
}

// unzipped returns body, decompressed if it is gzip, up to maxErrorBytes. It
// looks at the data, since Content-Encoding may remain after decompression.
func unzipped(body []byte) []byte {
	if !bytes.HasPrefix(body, []byte("\x1f\x8b")) {
		return body
	}
	r, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil
	}
	plain, _ := io.ReadAll(io.LimitReader(r, maxErrorBytes))
	return plain
}

// unframed returns the data of the first event of body that is not a keep-alive, if
// it is an event stream, else body without a byte order mark.
func unframed(body []byte) []byte {
	if events := newEventReader(bytes.NewReader(body)); events.beginsLikeEvents() {
		ev, err := events.next()
		for err == nil && ev.isKeepAlive() {
			ev, err = events.next()
		}
		if err == nil {
			return ev.data
		}
	}
	return trimMark(body)
}

func trimMark(body []byte) []byte { return bytes.TrimPrefix(body, []byte(byteOrderMark)) }

// parseAPIErrors returns the errors in {"error": {…}} or {"error": "…"}, in an
// array of such objects, or in an object that is itself an error, as well as the
// errors of choices, of Groq, of MiniMax and of Cloudflare.
func parseAPIErrors(body []byte) []apiError {
	type failed struct {
		Error errorValue `json:"error"`
	}
	var errs []apiError
	list := oneOrFew[struct {
		apiError
		failed
		Choices few[failed]   `json:"choices"`
		Groq    failed        `json:"x_groq"`
		MiniMax apiError      `json:"base_resp"`
		Errors  few[apiError] `json:"errors"`
	}](body)
	for _, a := range list {
		inner := []apiError{apiError(a.Error), a.apiError}
		if a.Error.text != "" {
			slices.Reverse(inner) // members beside a plain string are more precise
		}
		errs = append(append(errs, inner...), apiError(a.Groq.Error), a.MiniMax.ofMiniMax())
		for _, c := range a.Choices {
			errs = append(errs, apiError(c.Error))
		}
		errs = append(errs, a.Errors...)
	}
	return errs
}

// oneOrFew decodes an object, or the first objects of an array: Gemini wraps its
// error in one. On a type mismatch, it still decodes the other members.
func oneOrFew[T any](data []byte) (list few[T]) {
	if isList(data) {
		_ = json.Unmarshal(data, &list)
	} else {
		list = make(few[T], 1)
		_ = json.Unmarshal(data, &list[0])
	}
	return list
}

// isList reports whether JSON is an array.
func isList(data []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("["))
}

// An errorValue is the value of "error": an object, or a string.
type errorValue apiError

// UnmarshalJSON implements [json.Unmarshaler].
func (v *errorValue) UnmarshalJSON(value []byte) error {
	if value[0] != '"' {
		_ = json.Unmarshal(value, (*apiError)(v)) // ignore other types
		return nil
	}
	err := json.Unmarshal(value, &v.text)
	v.Message = v.text
	return err
}

// miniMaxStatus maps the status codes of MiniMax to HTTP statuses.
var miniMaxStatus = map[word]word{
	"1002": "429", // rate limit
	"1039": "429", // token limit
	"1041": "429", // connection limit
	"1001": "504", // timeout
	"1004": "401", // not authorized
	"2049": "401", // invalid API key
	"1008": "402", // insufficient balance
	"1026": "400", // sensitive input
	"1042": "400", // invisible characters
	"2013": "400", // invalid parameters
}

// ofMiniMax returns e, the value of MiniMax's base_resp, in the form of the
// other APIs.
func (e apiError) ofMiniMax() apiError {
	if e.StatusCode == "" || e.StatusCode == "0" {
		return apiError{}
	}
	return apiError{Code: miniMaxStatus[e.StatusCode], Message: e.StatusText}
}

// isQuota reports whether a quota is exhausted that waiting does not refill
// within the time of a request.
func (e apiError) isQuota() bool {
	for _, word := range e.words() {
		switch kind(word) {
		case "insufficientquota", "exceededcurrentquota", "creditbalanceexhausted",
			"billinghardlimitreached", "billingnotactive":
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
	// OpenRouter has no code for it: "Rate limit exceeded: free-models-per-day".
	return strings.Contains(e.Message, "free-models-per-day")
}

// lock matches the word lock, locked or deadlock, also within lock_timeout or
// ResourceLocked, but neither block nor clock.
var lock = regexp.MustCompile(`(?:^|[^A-Za-z])(?i:(?:dead)?lock(?:ed|s)?)(?:[^a-z]|$)|[a-z]Lock(?:ed|s)?(?:[^a-z]|$)`)

// isLock reports whether the error is about a lock that another request holds.
// It also searches the message, since there is no common code.
func (e apiError) isLock() bool {
	return slices.ContainsFunc(append(e.words(), e.Message), lock.MatchString)
}

// words returns the codes and names that identify the error, most specific
// first.
func (e apiError) words() []string {
	var words []string
	for _, w := range []word{e.Code, e.StatusCode, e.Type, e.ErrorType, e.Status, word(e.text)} {
		if w != "" {
			words = append(words, string(w))
		}
	}
	return words
}

// askedWait returns the longest wait that errs ask for, in a
// google.rpc.RetryInfo or as the reset of an exhausted limit. The reset may be a
// time, which is compared with header's Date.
func askedWait(errs []apiError, header http.Header) (longest time.Duration) {
	for _, e := range errs {
		for _, d := range e.Details {
			if !strings.HasSuffix(d.Type, "google.rpc.RetryInfo") {
				continue
			}
			if wait, ok := parseWait(d.RetryDelay); ok {
				longest = max(longest, wait)
			}
		}
		if limit := e.Metadata.Headers; isZero(string(limit.Remaining)) {
			longest = max(longest, untilReset(header, string(limit.Reset)))
		}
	}
	return longest
}

// statusOf maps the kinds of errors, in the form of [kind], to the statuses that
// the APIs return with them.
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
	"exceededcurrentquota":    429,
	"creditbalanceexhausted":  429,
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

// statusCode returns the status with which the API would have returned errs, or
// 500 if it is unknown.
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

// kind normalizes an error name: rate_limit_error, RateLimitError and RATE_LIMIT
// become ratelimit.
func kind(word string) string { return strings.TrimSuffix(letters(word), "error") }

// letters returns the letters a to z of word in lower case, without all other
// characters.
func letters(word string) string {
	return strings.Map(func(r rune) rune {
		if r < 'a' || r > 'z' {
			return -1
		}
		return r
	}, strings.ToLower(word))
}
