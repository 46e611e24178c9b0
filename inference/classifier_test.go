package inference_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/flaky"
	"github.com/httpretry/httpretry/inference"
)

var (
	final     = httpretry.Verdict{Outcome: httpretry.Final}
	uncertain = httpretry.Verdict{Outcome: httpretry.Uncertain}
)

// unprocessed is a verdict with the wait that the server asked for.
func unprocessed(wait time.Duration) httpretry.Verdict {
	return httpretry.Verdict{Outcome: httpretry.Unprocessed, RetryAfter: wait}
}

// newResponse makes a response from "Name: value" lines and a body.
func newResponse(status int, header, body string) *http.Response {
	resp := &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
	for line := range strings.Lines(header) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		resp.Header.Add(name, value)
	}
	return resp
}

func newPost(t testing.TB) *http.Request {
	req, err := http.NewRequestWithContext(t.Context(), "POST", fakeURL, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func checkVerdict(t *testing.T, resp *http.Response, want httpretry.Verdict) {
	t.Helper()
	got := inference.Classifier(newPost(t), resp, nil)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("verdict (-want +got):\n%s", diff)
	}
}

// Bodies as the APIs send them, shortened.
const (
	openAIQuota = `{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}`
	openAIRate  = `{"error":{"message":"Rate limit reached","type":"tokens","param":null,"code":"rate_limit_exceeded"}}`
	geminiRate  = `{"error":{"code":429,"message":"Quota exceeded","status":"RESOURCE_EXHAUSTED","details":[` +
		`{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerMinutePerProject"}]},` +
		`{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34.07s"}]}}`
	geminiQuota = `{"error":{"code":429,"message":"Quota exceeded","status":"RESOURCE_EXHAUSTED","details":[` +
		`{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerMinute"},` +
		`{"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]},` +
		`{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34.07s"}]}}`
	anthropicOverloaded = `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`
)

// openRouterLimit is the error for a limit that resets at 08:00:42.
func openRouterLimit(name string) string {
	return `{"error":{"message":"Rate limit exceeded: ` + name + `. Add 10 credits to unlock more","code":429,"metadata":{"headers":` +
		`{"X-RateLimit-Limit":"50","X-RateLimit-Remaining":"0","X-RateLimit-Reset":"1793952042000"},"provider_name":null}},"user_id":"u"}`
}

// TestClassifier_ErrorInASuccess has the bodies of 2xx responses, as another
// client's RetryTransport passes them.
func TestClassifier_ErrorInASuccess(t *testing.T) {
	for _, tc := range []struct {
		name, header, body string
		want               httpretry.Verdict
	}{
		{"answer", "", answer, final},
		{"overloaded", "", anthropicOverloaded, unprocessed(0)},
		{"overloaded, with Retry-After", "Retry-After: 3", anthropicOverloaded, unprocessed(3 * time.Second)},
		{"overloaded, where the server wants no retry", "x-should-retry: false", anthropicOverloaded, final},
		{"rate", "", geminiRate, unprocessed(34070 * time.Millisecond)},
		{"rate in an array", "", "[" + geminiRate + "]", unprocessed(34070 * time.Millisecond)},
		{"quota", "", openAIQuota, final},
		{"quota of a day", "", geminiQuota, final},
		{"OpenRouter", "", `{"error":{"message":"Provider returned error","code":502}}`, uncertain},
		{"unknown error", "", `{"error":"no"}`, uncertain},
		{"bad request", "", `{"error":{"code":400}}`, final},
		{"MiniMax", "", `{"base_resp":{"status_code":1002,"status_msg":"rate limit"}}`, unprocessed(0)},
		{"success of MiniMax", "", `{"reply":"four","base_resp":{"status_code":0,"status_msg":""}}`, final},
		{"Cloudflare", "", `{"success":false,"errors":[{"code":7009,"message":"no"}],"result":null}`, uncertain},
		{"compressed", "", gzipped(t, anthropicOverloaded), unprocessed(0)},
		{"after a byte order mark", "", "\uFEFF" + anthropicOverloaded, unprocessed(0)},
		{"choice that failed", "", `{"choices":[{"message":{"content":""},"finish_reason":"error","error":{"code":503}}]}`, unprocessed(0)},
		{"error beside an answer", "", `{"error":{"code":503},"choices":[{"message":{"content":"four"}}]}`, final},
		{"error in the text", "", `{"choices":[{"message":{"content":"{\"error\":{\"code\":503}}"}}]}`, final},
		{"cut off", "", anthropicOverloaded[:len(anthropicOverloaded)-1], final},
		{"too large", "", `{"error":{"code":503,"message":"` + strings.Repeat("x", 256<<10) + `"}}`, final},
		{"no body", "", "", final},
		{"page", "", "<html>", final},
		{"empty object", "", "{}", final},
		{"list", "", `{"object":"list","data":[]}`, final},
		{"message of another API", "", `{"id":"1","type":"message","content":[{"type":"text","text":"four"}]}`, final},
		{"embedding", "", `{"object":"list","data":[{"embedding":[1]}],"usage":{"total_tokens":1}}`, final},
		{"response of another API", "", `{"object":"response","error":null,"status":"completed","output":[]}`, final},
	} {
		t.Run(tc.name, func(t *testing.T) {
			checkVerdict(t, newResponse(200, tc.header, tc.body), tc.want)
			checkVerdict(t, newResponse(202, tc.header, tc.body), tc.want)
			checkVerdict(t, newResponse(302, tc.header, tc.body), final)
		})
	}
}

func TestClassifierStatus(t *testing.T) {
	for _, tc := range []struct {
		name   string
		status int
		header string
		body   string
		want   httpretry.Verdict
	}{
		{"success", 200, "", answer, final},
		{"success is not undone by a header", 200, "x-should-retry: true", answer, final},
		{"redirect", 307, "x-should-retry: true", "", final},
		{"rate", 429, "", openAIRate, unprocessed(0)},
		{"rate without a body", 429, "", "", unprocessed(0)},
		{"quota", 429, "", openAIQuota, final},
		{"quota as code alone", 429, "", `{"error":{"type":"requests","code":"insufficient_quota"}}`, final},
		{"quota as type alone", 429, "", `{"error":{"type":"insufficient_quota","code":null}}`, final},
		{"billing limit", 429, "", `{"error":{"code":"billing_hard_limit_reached"}}`, final},
		{"billing that is not active", 429, "", `{"error":{"type":"billing_not_active","code":null}}`, final},
		{"quota without the envelope", 429, "", `{"object":"error","code":"insufficient_quota"}`, final},
		{"quota despite a Retry-After", 429, "Retry-After: 5", openAIQuota, final},
		{"quota of Moonshot", 429, "", `{"error":{"message":"Your account is suspended","type":"exceeded_current_quota_error"}}`, final},
		{"rate of Moonshot", 429, "", `{"error":{"message":"max RPM: 3","type":"rate_limit_reached_error"}}`, unprocessed(0)},
		{"credit balance as code", 429, "", `{"error":{"type":"requests","code":"credit_balance_exhausted"}}`, final},
		{"credit balance as type", 429, "", `{"error":{"type":"credit_balance_exhausted","code":null}}`, final},
		{"free models of OpenRouter per day", 429, "", openRouterLimit("free-models-per-day"), final},
		{"free models of OpenRouter per day, for others", 429, "", openRouterLimit("free-models-per-day-high-balance"), final},
		{"free models of OpenRouter per day, without metadata", 429, "", `{"error":{"message":"Rate limit exceeded: free-models-per-day","code":429}}`, final},
		{"free models of OpenRouter per minute", 429, "Date: Fri, 06 Nov 2026 08:00:00 GMT", openRouterLimit("free-models-per-min"), unprocessed(42 * time.Second)},
		{"quota in an event", 429, "Content-Type: text/event-stream", sse(openAIQuota), final},
		{"quota after a byte order mark", 429, "", "\uFEFF" + openAIQuota, final},
		{"quota in the message means nothing", 429, "", `{"error":{"message":"insufficient_quota"}}`, unprocessed(0)},
		{"quota of a day", 429, "", geminiQuota, final},
		{"quota of a day in an array", 429, "", "\n[" + geminiQuota + "]", final},
		{"quota of a minute", 429, "", geminiRate, unprocessed(34070 * time.Millisecond)},
		{"quota with another status", 503, "", openAIQuota, unprocessed(0)},
		{"overloaded", 529, "", anthropicOverloaded, unprocessed(0)},
		{"overloaded without a body", 529, "Retry-After: 3", "", unprocessed(3 * time.Second)},
		{"unavailable", 503, "", "", unprocessed(0)},
		{"server error", 500, "", "", uncertain},
		{"bad gateway", 502, "", "", uncertain},
		{"gateway timeout", 504, "", "", uncertain},
		{"request timeout", 408, "", "", uncertain},
		{"Cloudflare's unknown error", 520, "", "<!doctype html>", uncertain},
		{"Cloudflare's refused connection", 521, "", "", uncertain},
		{"Cloudflare's connection timeout", 522, "", "", uncertain},
		{"Cloudflare's unreachable origin", 523, "", "", uncertain},
		{"Cloudflare's timeout", 524, "", "", uncertain},
		{"Cloudflare's timeout, later", 524, "Retry-After: 120", "", httpretry.Verdict{Outcome: httpretry.Uncertain, RetryAfter: 2 * time.Minute}},
		{"Cloudflare's timeout, where the server wants no retry", 524, "x-should-retry: false", "", final},
		{"Cloudflare's invalid certificate", 526, "", "", final},
		{"unknown status before those", 519, "", "", final},
		{"lock by code", 409, "", `{"error":{"code":"lock_timeout"}}`, unprocessed(0)},
		{"lock by type", 409, "", `{"error":{"type":"ResourceLocked"}}`, unprocessed(0)},
		{"lock by type in capitals", 409, "", `{"error":{"type":"LOCKED"}}`, unprocessed(0)},
		{"lock by status", 409, "", `{"error":{"status":"DEADLOCK_DETECTED"}}`, unprocessed(0)},
		{"lock by message", 409, "", `{"error":{"message":"The thread is locked by another run."}}`, unprocessed(0)},
		{"lock in a string", 409, "", `{"error":"The thread is locked by another run."}`, unprocessed(0)},
		{"lock in a string beside a code", 409, "", `{"error":"Locked","code":409}`, unprocessed(0)},
		{"conflict", 409, "", `{"error":{"message":"A file of that name exists."}}`, final},
		{"conflict without a body", 409, "", "", final},
		{"block is no lock", 409, "", `{"error":{"code":"content_blocked","message":"Blocked at 12 o'clock"}}`, final},
		{"payment required", 402, "", "", final},
		{"payment required, later", 402, "Retry-After: 7", "", unprocessed(7 * time.Second)},
		{"payment required, malformed Retry-After", 402, "Retry-After: soon", "", final},
		{"content filter", 400, "", `{"error":{"code":"content_filter"}}`, final},
		{"unauthorized", 401, "", "", final},
		{"too large", 413, "", "", final},
		{"server wants a retry", 400, "x-should-retry: true", "", unprocessed(0)},
		{"server wants a retry of what may be done", 500, "x-should-retry: True", "", unprocessed(0)},
		{"server wants a retry, later", 400, "x-should-retry: true\nRetry-After: 2", "", unprocessed(2 * time.Second)},
		{"server wants no retry", 503, "x-should-retry: false\nRetry-After: 2", "", final},
		{"server wants no retry of a rate", 429, "x-should-retry:  FALSE ", "", final},
		{"server's wish can't be read", 503, "x-should-retry: maybe", "", unprocessed(0)},
	} {
		t.Run(tc.name, func(t *testing.T) { checkVerdict(t, newResponse(tc.status, tc.header, tc.body), tc.want) })
	}
}

func TestClassifierError(t *testing.T) {
	for _, err := range []error{io.EOF, syscall.ECONNREFUSED, errors.New("other"), http.ErrSchemeMismatch} {
		req := newPost(t)
		got := inference.Classifier(req, nil, err)
		if want := httpretry.DefaultClassifier(req, nil, err); got != want {
			t.Errorf("%v: got %v, want %v as by default", err, got, want)
		}
	}
}

type askedWait struct {
	name   string
	header string
	body   string
	want   time.Duration
}

// askedWaits are the ways to ask for a wait.
func askedWaits() []askedWait {
	const (
		ms, s, m = time.Millisecond, time.Second, time.Minute
		date     = "Date: Fri, 06 Nov 2026 08:00:00 GMT\n"
	)
	retryInfo := func(delay string) string {
		return `{"error":{"details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":` + delay + `}]}}`
	}
	return []askedWait{
		{"Retry-After", "Retry-After: 5", "", 5 * s},
		{"decimal Retry-After", "Retry-After: 1.5", "", 1500 * ms},
		{"milliseconds before seconds", "retry-after-ms: 1200\nRetry-After: 2", "", 1200 * ms},
		{"Azure's milliseconds", "x-ms-retry-after-ms: 250", "", 250 * ms},

		{"RetryInfo", "", geminiRate, 34070 * ms},
		{"RetryInfo in an array", "", "[" + geminiRate + "]", 34070 * ms},
		{"RetryInfo in milliseconds", "", retryInfo(`"900ms"`), 900 * ms},
		{"RetryInfo with a sign", "", retryInfo(`"-3s"`), 0},
		{"RetryInfo without a unit", "", retryInfo(`"3"`), 3 * s},
		{"RetryInfo of another type", "", retryInfo(`{"seconds":3}`), 0},
		{"RetryInfo too large", "", retryInfo(`"99999999999999999999s"`), math.MaxInt64},
		{"longest RetryInfo", "", `[` + retryInfo(`"3s"`) + `,` + retryInfo(`"5s"`) + `,` + retryInfo(`"4s"`) + `]`, 5 * s},
		{"retryDelay of something else", "", `{"error":{"details":[{"@type":"type.googleapis.com/google.rpc.Help","retryDelay":"3s"}]}}`, 0},
		{"Retry-After before RetryInfo", "Retry-After: 5", geminiRate, 5 * s},
		{"Retry-After of 0 before RetryInfo", "Retry-After: 0", geminiRate, 0},
		{"RetryInfo before a limit's reset", "x-ratelimit-remaining-requests: 0\nx-ratelimit-reset-requests: 1s", retryInfo(`"3s"`), 3 * s},

		{"requests", "x-ratelimit-remaining-requests: 0\nx-ratelimit-reset-requests: 6m0s", "", 6 * m},
		{"tokens", "x-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: 12ms", "", 12 * ms},
		{"decimal", "x-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: 2m59.56s", "", 179560 * ms},
		{"Azure's seconds", "x-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: 44", "", 44 * s},
		{"something remains of the only limit", "x-ratelimit-remaining-tokens: 1\nx-ratelimit-reset-tokens: 44", "", 44 * s},
		{"what remains of the only limit is not told", "x-ratelimit-reset-tokens: 44", "", 44 * s},
		{"what remains is malformed", "x-ratelimit-remaining-tokens: none\nx-ratelimit-reset-tokens: 44", "", 0},
		{"the other limit remains", "x-ratelimit-remaining-requests: 0\nx-ratelimit-reset-tokens: 44", "", 0},
		{
			"longest of those used up",
			"x-ratelimit-remaining-requests: 0\nx-ratelimit-reset-requests: 2s\n" +
				"x-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: 3s\n" +
				"x-ratelimit-remaining-images: 9\nx-ratelimit-reset-images: 4s", "", 3 * s,
		},
		{"malformed reset", "x-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: soon", "", 0},
		{"negative reset", "x-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: -6m", "", 0},
		{"reset with an exponent", "x-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: 1e3", "", 0},
		{"reset too large", "x-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: 99999999999h", "", math.MaxInt64},
		{"Retry-After before a limit's reset", "Retry-After: 1\nx-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: 44", "", s},
		{"malformed Retry-After counts as absent", "Retry-After: soon\nx-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: 44", "", 44 * s},

		{
			"Anthropic", date + "anthropic-ratelimit-input-tokens-remaining: 0\n" +
				"anthropic-ratelimit-input-tokens-reset: 2026-11-06T08:00:42Z", "", 42 * s,
		},
		{
			"Anthropic in another zone", date + "anthropic-ratelimit-requests-remaining: 0\n" +
				"anthropic-ratelimit-requests-reset: 2026-11-06T09:01:00+01:00", "", m,
		},
		{
			"Anthropic in the past", date + "anthropic-ratelimit-requests-remaining: 0\n" +
				"anthropic-ratelimit-requests-reset: 2026-11-06T07:00:00Z", "", 0,
		},
		{
			"Anthropic with some left", date + "anthropic-ratelimit-requests-remaining: 5\n" +
				"anthropic-ratelimit-requests-reset: 2026-11-06T08:00:42Z", "", 0,
		},
		{
			"Anthropic malformed", date + "anthropic-ratelimit-requests-remaining: 0\n" +
				"anthropic-ratelimit-requests-reset: 1794000000", "", 0,
		},

		{"reset in seconds", "X-RateLimit-Remaining: 0\nX-RateLimit-Reset: 44", "", 44 * s},
		{"reset as a time", date + "X-RateLimit-Remaining: 0\nX-RateLimit-Reset: 1793952042", "", 42 * s},
		{"reset as a time in milliseconds", date + "X-RateLimit-Remaining: 0\nX-RateLimit-Reset: 1793952042500", "", 42500 * ms},
		{"reset of the standard", date + "RateLimit-Remaining: 0\nRateLimit-Reset: 1793952042", "", 42 * s},
		{"reset in the past", date + "X-RateLimit-Remaining: 0\nX-RateLimit-Reset: 1700000000", "", 0},
		{"reset with some left", "X-RateLimit-Remaining: 1\nX-RateLimit-Reset: 44", "", 0},
		{"reset that is malformed", "X-RateLimit-Remaining: 0\nX-RateLimit-Reset: -44", "", 0},
		{"reset in OpenRouter's metadata", date, openRouterLimit("free-models-per-min"), 42 * s},
		{"reset in the metadata with some left", date, strings.Replace(openRouterLimit("x"), `Remaining":"0"`, `Remaining":"1"`, 1), 0},

		{"draft", `RateLimit: "p";r=0;t=10`, "", 10 * s},
		{"draft with any token", "RateLimit: *a!#$%&'*+-.^_`|~:/9;r=0;t=10;a=*b", "", 10 * s},
		{"draft with spaces", "RateLimit: \"p\" ,\t \"q\";  r=0; t=10 ", "", 10 * s},
		{"draft with numbers", `RateLimit: "p";r=0;t=10;a=-1.250;b=999999999999.9;c=-999999999999999`, "", 10 * s},
		{"draft with an integer that is too long", `RateLimit: "p";r=0;t=10;a=1000000000000000`, "", 0},
		{"draft with a decimal that is too long", `RateLimit: "p";r=0;t=10;a=1.2345`, "", 0},
		{"draft with a decimal that ends early", `RateLimit: "p";r=0;t=10;a=1.`, "", 0},
		{"draft with a sign alone", `RateLimit: "p";r=0;t=10;a=-`, "", 0},
		{"draft with a name in capitals", `RateLimit: "p";r=0;t=10;A=1`, "", 0},
		{"draft with a space before a parameter", `RateLimit: "p" ;r=0;t=10`, "", 0},
		{"draft without a value", `RateLimit: "p";r=0;t=10;a=`, "", 0},
		{"draft with an escape that is none", `RateLimit: "p\n";r=0;t=10`, "", 0},
		{"draft with bytes that do not end", `RateLimit: "p";r=0;t=10;a=:c2s=`, "", 0},
		{"draft with a boolean that is none", `RateLimit: "p";r=0;t=10;a=?2`, "", 0},
		{"draft without an item", `RateLimit: ;r=0;t=10`, "", 0},
		{"draft with two commas", `RateLimit: "p";r=0;t=10,,"q"`, "", 0},
		{"draft that is too long", `RateLimit: "` + strings.Repeat("p", 4<<10) + `";r=0;t=10`, "", 0},
		{"draft as a token", `RateLimit: default;r=0;t=10`, "", 10 * s},
		{"draft with some left", `RateLimit: "p";r=1;t=10`, "", 0},
		{"draft, longest", `RateLimit: "burst";r=0;t=3, "hour";r=0;t=90 , "day";r=7;t=4000`, "", 90 * s},
		{"draft on two lines", "RateLimit: \"a\";r=0;t=3\nRateLimit: \"b\";t=4;r=0", "", 4 * s},
		{"draft with a partition", `RateLimit: "a; r=0, t=9\"";pk=:c2s=:; r=0;t=4;x;y=?1;z="t=5;r=0"`, "", 4 * s},
		{"draft, last of the same parameter", `RateLimit: "a";r=0;t=9;t=4`, "", 4 * s},
		{"draft without t", `RateLimit: "a";r=0`, "", 0},
		{"draft with a negative t", `RateLimit: "a";r=0;t=-9`, "", 0},
		{"draft with a decimal t", `RateLimit: "a";r=0;t=9.5`, "", 0},
		{"draft at its largest", `RateLimit: "a";r=0;t=999999999999999`, "", math.MaxInt64},
		{"draft that is malformed at its end", `RateLimit: "a";r=0;t=9, "b;r=0`, "", 0},
		{"draft with a comma too much", `RateLimit: "a";r=0;t=9, `, "", 0},
		{"draft of an older version", `RateLimit: limit=100, remaining=0, reset=9`, "", 0},
		{"Retry-After before the draft", "Retry-After: 1\nRateLimit: \"a\";r=0;t=9", "", s},
		{"the draft and a vendor", "RateLimit: \"a\";r=0;t=9\nx-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: 8s", "", 9 * s},
	}
}

func TestClassifierWait(t *testing.T) {
	for _, tc := range askedWaits() {
		t.Run(tc.name, func(t *testing.T) { checkVerdict(t, newResponse(429, tc.header, tc.body), unprocessed(tc.want)) })
	}
}

// A 429 although something remains of every limit is about the unit that the error
// names, or else about the limit that is nearly exhausted.
func TestClassifierWait_SomethingRemains(t *testing.T) {
	const (
		s      = time.Second
		limits = "x-ratelimit-limit-requests: 100\nx-ratelimit-remaining-requests: 60\nx-ratelimit-reset-requests: 7s\n" +
			"x-ratelimit-limit-tokens: 9000\nx-ratelimit-remaining-tokens: 800\nx-ratelimit-reset-tokens: 4s\n"
	)
	named := func(typ, message string) string {
		return fmt.Sprintf(`{"error":{"type":%q,"message":%q,"code":"rate_limit_exceeded"}}`, typ, message)
	}
	for _, tc := range []askedWait{
		{"smallest share", limits, "", 4 * s},
		{"type names requests", limits, named("requests", "Slow down"), 7 * s},
		{"message names requests", limits, named("", "Rate limit reached on requests per min (RPM): Limit 100, Used 60, Requested 1"), 7 * s},
		{"message names tokens", limits, named("", "Limit on tokens per min (TPM): Limit 9000, Requested 2000"), 4 * s},
		{"name that no limit has", limits, named("images", "Slow down"), 4 * s},
		{"longest of the named", limits + "x-ratelimit-reset-requests-day: 9s\n", named("requests", ""), 9 * s},
		{"an exhausted limit first", limits + "x-ratelimit-remaining-images: 0\nx-ratelimit-reset-images: 1s", "", s},
		{"limit not told", "x-ratelimit-remaining-tokens: 5\nx-ratelimit-reset-tokens: 4s", "", 4 * s},
		{"limits not told", "x-ratelimit-remaining-tokens: 5\nx-ratelimit-reset-tokens: 4s\nx-ratelimit-remaining-requests: 5\nx-ratelimit-reset-requests: 1s", "", 0},
		{"neither limits nor what remains told", "x-ratelimit-reset-tokens: 4s\nx-ratelimit-reset-requests: 1s", "", 0},
		{"limit of 0", "x-ratelimit-limit-tokens: 0\nx-ratelimit-remaining-tokens: 5\nx-ratelimit-reset-tokens: 4s", "", 0},
		{"all remains", "x-ratelimit-limit-tokens: 5\nx-ratelimit-remaining-tokens: 5\nx-ratelimit-reset-tokens: 4s", "", 0},
		{"Retry-After", limits + "Retry-After: 2", "", 2 * s},
	} {
		t.Run(tc.name, func(t *testing.T) { checkVerdict(t, newResponse(429, tc.header, tc.body), unprocessed(tc.want)) })
	}
	checkVerdict(t, newResponse(503, limits, ""), unprocessed(0))
}

// TestClassifier_LargeHeader has headers of 10 MiB, the limit of http.Transport.
func TestClassifier_LargeHeader(t *testing.T) {
	const size = 10 << 20
	many := func(text string) []string { return []string{strings.Repeat(text, size/len(text))} }
	lines := func(text string) (all []string) {
		for range size / len(text) {
			all = append(all, text)
		}
		return all
	}
	names := make(http.Header)
	for i := range size / 64 {
		names[fmt.Sprintf("X-Ratelimit-Reset-%d", i)] = []string{"1s"}
	}
	exhausted := func(name string, values []string) http.Header {
		return http.Header{
			name: values, "X-Ratelimit-Remaining-Tokens": {"0"}, "X-Ratelimit-Remaining": {"0"}, "Anthropic-Ratelimit-Tokens-Remaining": {"0"},
		}
	}
	for name, header := range map[string]http.Header{
		"items":           {"Ratelimit": many(`"a";r=0;t=9,`)},
		"tokens":          {"Ratelimit": many(`a,`)},
		"one string":      {"Ratelimit": many(`"a`)},
		"escapes":         {"Ratelimit": many(`\"`)},
		"parameters":      {"Ratelimit": []string{"a" + many(";a=1")[0]}},
		"spaces":          {"Ratelimit": many(" ")},
		"digits":          {"Ratelimit": []string{"a;t=" + many("1")[0]}},
		"lines":           {"Ratelimit": lines(`"a";r=0;t=9`)},
		"names":           names,
		"duration":        exhausted("X-Ratelimit-Reset-Tokens", many("1s")),
		"digits of reset": exhausted("X-Ratelimit-Reset", many("1")),
		"time":            exhausted("Anthropic-Ratelimit-Tokens-Reset", many("1")),
		"remaining":       {"X-Ratelimit-Remaining-A": many("0"), "X-Ratelimit-Reset-A": {"1s"}},
		"x-should-retry":  {"X-Should-Retry": many("A")},
	} {
		t.Run(name, func(t *testing.T) {
			resp := newResponse(429, "", "")
			resp.Header = header
			start := time.Now()
			got := inference.Classifier(newPost(t), resp, nil)
			// It takes 0.1 s, on a busy machine 2 s; if each byte were read for each
			// other one, hours.
			if elapsed := time.Since(start); elapsed > 20*time.Second {
				t.Errorf("took %v, want at most 20s", elapsed)
			}
			if got.Outcome != httpretry.Unprocessed {
				t.Errorf("got %v, want unprocessed", got)
			}
		})
	}
}

func TestClassifierWaitByTheClientsClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		header := "anthropic-ratelimit-requests-remaining: 0\nanthropic-ratelimit-requests-reset: " +
			time.Now().Add(time.Minute).Format(time.RFC3339)
		checkVerdict(t, newResponse(429, header, ""), unprocessed(time.Minute))
	})
}

func gzipped(t testing.TB, text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, text)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestClassifierBody has bodies that are not simply an API's error.
func TestClassifierBody(t *testing.T) {
	quotaAfter := func(n int) string { return strings.Repeat(" ", n) + openAIQuota }
	for _, tc := range []struct {
		name string
		body string
		want httpretry.Verdict
	}{
		{"gzip", gzipped(t, openAIQuota), final},
		{"broken gzip", gzipped(t, openAIQuota)[:40], unprocessed(0)},
		{"gzip of another kind", "\x1f\x8b\x00", unprocessed(0)},
		{"gzip bomb", gzipped(t, quotaAfter(4<<20)), unprocessed(0)},
		{"largest", quotaAfter(256<<10 - len(openAIQuota)), final},
		{"too large", quotaAfter(256<<10 - len(openAIQuota) + 1), unprocessed(0)},
		{"HTML", "<!doctype html><h1>Too many requests</h1>", unprocessed(0)},
		{"text", "insufficient_quota", unprocessed(0)},
		{"cut off", openAIQuota[:len(openAIQuota)-1], unprocessed(0)},
		{"an array of other things", `[1, null, "x", [], ` + openAIQuota + `]`, final},
		{"null", "null", unprocessed(0)},
		{"error is a string", `{"error":"insufficient_quota"}`, final},
		{"error is a string that says it in words", `{"error":"You exceeded your current quota"}`, unprocessed(0)},
		{"error is a string beside a code", `{"error":"model overloaded","code":"insufficient_quota"}`, final},
		{"error is a string beside a type", `{"type":"insufficient_quota","error":"no"}`, final},
		{"error is a string in an array", `[{"error":"no"},{"error":"billing_hard_limit_reached"}]`, final},
		{"error is a number", `{"error":429,"code":"insufficient_quota"}`, final},
		{"error is null", `{"error":null,"code":"insufficient_quota"}`, final},
		{"error is an array", `{"error":[` + openAIQuota + `]}`, unprocessed(0)},
		{"other types around", `{"error":{"message":7,"type":{},"details":[3,{"violations":"x"}],"code":"insufficient_quota"}}`, final},
		{"other types among details", `{"error":{"details":{"a":1}}}`, unprocessed(0)},
		{"deep", strings.Repeat("[", 200_000), unprocessed(0)},
		{"deep and whole", `{"error":` + strings.Repeat("[", 9_000) + strings.Repeat("]", 9_000) + `}`, unprocessed(0)},
		{"many", "[" + openAIQuota + strings.Repeat(",{}", 80_000) + "]", final},
		{"beyond many", "[" + strings.Repeat("{},", 80_000) + openAIQuota + "]", unprocessed(0)}, // only a few are looked at
		{"number out of range", `{"error":{"type":1e999,"code":"insufficient_quota"}}`, final},
	} {
		t.Run(tc.name, func(t *testing.T) { checkVerdict(t, newResponse(429, "", tc.body), tc.want) })
	}
	t.Run("none", func(t *testing.T) { checkVerdict(t, &http.Response{StatusCode: 429}, unprocessed(0)) })
}

// TestClassifierUnderARetryTransport uses it with another client.
func TestClassifierUnderARetryTransport(t *testing.T) {
	long := `{"error":{"code":"insufficient_quota","message":"` + strings.Repeat("x", 100<<10) + `"}}`
	for _, tc := range []struct {
		name     string
		max      int64
		status   int
		media    string
		body     string
		attempts int
	}{
		{"quota", 1 << 20, 429, "application/json", openAIQuota, 1},
		{"quota that nobody reads ahead", 0, 429, "application/json", openAIQuota, 4},
		{"quota of which a part is read ahead", 64 << 10, 429, "application/json", long, 4},
		{"quota in an event stream", 1 << 20, 429, "text/event-stream", openAIQuota, 4},
		{"rate", 1 << 20, 429, "application/json", openAIRate, 4},
		{"overloaded", 1 << 20, 529, "application/json", anthropicOverloaded, 4},
		{"server error to a POST", 1 << 20, 500, "application/json", "{}", 1},
		{"overloaded in a 200", 1 << 20, 200, "application/json", anthropicOverloaded, 4},
		{"quota in a 200", 1 << 20, 200, "application/json", openAIQuota, 1},
		{"server error to a POST in a 200", 1 << 20, 200, "application/json", `{"error":{"code":500}}`, 1},
		{"overloaded in a 200 that nobody buffers", 0, 200, "application/json", anthropicOverloaded, 1},
		{"answer", 1 << 20, 200, "application/json", answer, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				script := repeat(flaky.Status(tc.status).WithHeader("Content-Type", tc.media).WithBody(tc.body))
				client := &http.Client{Transport: &httpretry.RetryTransport{
					Base: script.Transport(nil), Classifier: inference.Classifier, MaxResponseBytes: tc.max,
				}}
				resp, err := client.Post(fakeURL, "application/json", strings.NewReader("{}"))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				got, err := io.ReadAll(resp.Body)
				if err != nil || string(got) != tc.body {
					t.Errorf("got a body of %d bytes and %v, want all %d: the classifier takes nothing", len(got), err, len(tc.body))
				}
				if n := len(script.Requests()); n != tc.attempts {
					t.Errorf("got %d attempts, want %d", n, tc.attempts)
				}
			})
		})
	}
}

func TestGenerateGoesByTheClassifier(t *testing.T) {
	for _, tc := range []struct {
		name  string
		step  flaky.Step
		waits []time.Duration // starts of the attempts; MaxRetries is 1
	}{
		{"408", flaky.Status(408), []time.Duration{0, time.Second}},
		{"409 for a lock", flaky.Status(409).WithBody(`{"error":{"code":"lock_timeout"}}`), []time.Duration{0, time.Second}},
		{"529", flaky.Status(529).WithBody(anthropicOverloaded), []time.Duration{0, time.Second}},
		{"402 with a Retry-After", flaky.Status(402).WithHeader("Retry-After", "9"), []time.Duration{0, 9 * time.Second}},
		{"524", flaky.Status(524).WithBody("<!doctype html>"), []time.Duration{0, time.Second}},
		{"RetryInfo", flaky.Status(429).WithBody(geminiRate), []time.Duration{0, 34070 * time.Millisecond}},
		{"quota", flaky.Status(429).WithBody(openAIQuota), []time.Duration{0}},
		{"x-should-retry: false", flaky.Status(503).WithHeader("x-should-retry", "false"), []time.Duration{0}},
		{"x-should-retry: true", flaky.Status(400).WithHeader("x-should-retry", "true"), []time.Duration{0, time.Second}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				script := repeat(tc.step)
				client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
					BaseURL: fakeURL, MaxRetries: 1, JitterFraction: noJitter, Transport: script.Transport(nil),
				})
				if _, err := client.Generate(t.Context(), question()); err == nil {
					t.Error("got no error, want that of the last attempt")
				}
				if diff := cmp.Diff(tc.waits, starts(script)); diff != "" {
					t.Errorf("starts of the attempts (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func FuzzClassifier(f *testing.F) {
	f.Add(429, "Retry-After: 5", openAIQuota)
	f.Add(429, "x-ratelimit-remaining-requests: 0\nx-ratelimit-reset-requests: 6m0s", geminiRate)
	f.Add(503, `RateLimit: "a";r=0;t=9, "b";pk=:c2s=:;r=0;t=4`, "["+geminiQuota+"]")
	f.Add(529, "anthropic-ratelimit-requests-remaining: 0\nanthropic-ratelimit-requests-reset: 2026-11-06T08:00:42Z", anthropicOverloaded)
	f.Add(409, "x-should-retry: true", `{"error":{"code":"lock_timeout","details":[{"retryDelay":3}]}}`)
	f.Add(200, "x-should-retry: true", gzipped(f, openAIQuota))
	f.Fuzz(func(t *testing.T, status int, header, body string) {
		synctest.Test(t, func(t *testing.T) { // the clock stands still
			classify := func(body string) httpretry.Verdict {
				return inference.Classifier(newPost(t), newResponse(status, header, body), nil)
			}
			got := classify(body)
			if got.RetryAfter < 0 || got.Outcome == httpretry.Final && got.RetryAfter != 0 {
				t.Errorf("got %v: no wait is negative, and none follows what is final", got)
			}
			if status < 400 && status/100 != 2 && got != final {
				t.Errorf("status %d: got %v, want final", status, got)
			}
			if len(body) < 64<<10 && !strings.HasPrefix(body, "\x1f\x8b") {
				if zipped := classify(gzipped(t, body)); zipped != got {
					t.Errorf("got %v, and %v for the same body as gzip", got, zipped)
				}
			}
			if again := classify(body); again != got {
				t.Errorf("got %v, and then %v for the same response", got, again)
			}
		})
	})
}

// TestClassifierIsBoundedInMemory has bodies that would take a hundred times their
// size if all elements were decoded.
func TestClassifierIsBoundedInMemory(t *testing.T) {
	// fill repeats middle up to the largest body that is examined.
	fill := func(before, middle, after string) string {
		return before + strings.Repeat(middle, (256<<10-len(before)-len(after))/len(middle)) + after
	}
	for _, tc := range []struct{ name, body string }{
		{"errors", fill("[", "{},", "{}]")},
		{"details", fill(`{"error":{"details":[`, "{},", "{}]}}")},
		{"violations", fill(`[{"error":{"details":[{"violations":[`, "{},", "{}]}]}}]")},
		{"details of many errors", fill("[", `{"error":{"details":[{"violations":[{}]}]}},`, "{}]")},
		{"choices", fill(`{"choices":[`, `{"error":{}},`, "{}]}")},
		{"members of an error", fill(`{"error":{`, `"a":{},`, `"b":1}}`)},
		{"members of a code", fill(`{"error":{"code":{`, `"a":{},`, `"b":1}}}`)},
		{"elements of a code", fill(`{"error":{"code":[`, `[],`, `1]}}`)},
		{"the same again", fill(`{`, `"error":{"details":[{}]},`, `"a":1}`)},
		{"deep", strings.Repeat(`{"error":`, 9_000) + "1" + strings.Repeat("}", 9_000)},
		{"digits", fill(`{"error":{"code":`, "1", `}}`)},
		{"escapes", fill(`{"error":"`, `\u0000`, `"}`)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			resp := newResponse(429, "", tc.body)
			req := newPost(t)
			allocated := allocatedBy(func() { inference.Classifier(req, resp, nil) })
			if limit := uint64(4 << 20); allocated > limit {
				t.Errorf("a body of %d KiB took %d KiB, want at most %d", len(tc.body)>>10, allocated>>10, limit>>10)
			}
		})
	}
}

// allocatedBy returns the number of bytes that were allocated during f.
func allocatedBy(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}
