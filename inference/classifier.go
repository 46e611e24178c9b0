package inference

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/httpretry/httpretry"
)

// A Classifier knows what the APIs of language models mean by their answers:
// OpenAI, Azure, Anthropic, Gemini, OpenRouter, and what speaks like them. The
// zero value is ready to use, also under another client than the one of this
// package:
//
//	&httpretry.RetryTransport{Classifier: inference.Classifier{}, MaxResponseBytes: 1 << 20}
//
// Errors and all statuses that are not named here mean what they mean to
// [httpretry.DefaultClassifier].
//
//   - A header x-should-retry settles the matter for a status of 400 or more:
//     true is [httpretry.Rejected], false is [httpretry.Final].
//   - 429 is Final when the body says that a quota is used up, which waiting
//     does not refill: the code, the type, or an error that is a mere string is
//     insufficient_quota, billing_hard_limit_reached or billing_not_active, or a
//     quotaId contains PerDay. Any other 429 is for a rate, and Rejected.
//   - 529 (overloaded_error) is Rejected, as 503 is: the API turned the request
//     away for want of capacity.
//   - 409 is Rejected when the error speaks of a lock: whoever holds it will
//     release it, and without it nothing was done. Any other conflict is Final.
//   - 402 is Rejected when it comes with a Retry-After, and Final otherwise.
//   - 408 is [httpretry.Uncertain]. By RFC 9110, section 15.5.9, it means that
//     the request did not arrive in time; but gateways also say it when the
//     model behind them did not answer in time, and may have been at work.
//   - 520 to 524, by which Cloudflare says that it got no proper answer from the
//     server behind it, are Uncertain. 521 (refused) and 523 (unreachable) mean
//     that there was no connection; but 522 is also for one that was there, and
//     no RFC says what these mean when somebody else sends them.
//
// Most requests to these APIs are POSTs, which are not repeated after an
// Uncertain attempt. A caller who would rather pay for an answer twice
// than miss it sets [httpretry.RetryTransport.Idempotent].
//
// The wait that the server asks for is the first of these that there is: what
// [httpretry.RetryAfter] reads; the retryDelay of a google.rpc.RetryInfo in the
// body; the longest time to the reset of a limit of which nothing remains. Limits
// are read from x-ratelimit-reset-* with x-ratelimit-remaining-* (durations such
// as 6m0s, or seconds), anthropic-ratelimit-*-reset with -remaining (RFC 3339,
// measured against the response's Date), and RateLimit (the IETF draft
// draft-ietf-httpapi-ratelimit-headers). What is malformed is ignored.
//
// The body is the copy that the retry layer lends: without
// [httpretry.RetryTransport.MaxResponseBytes], and for an event stream, there is
// none, and every 429 counts as for a rate. It may be gzip that nobody decoded,
// and anything but an API's error; beyond 256 KiB it is ignored.
type Classifier struct{}

var _ httpretry.Classifier = Classifier{}

// usual is asked first. It is not looked up for each request: a program may make
// a Classifier its httpretry.DefaultClassifier, which must not ask itself.
var usual = httpretry.DefaultClassifier

// Classify implements [httpretry.Classifier].
func (Classifier) Classify(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
	v := usual.Classify(req, resp, err)
	if err != nil || resp.StatusCode < 400 {
		return v
	}
	errs := parseAPIErrors(lentBody(resp))
	o := outcome(resp, errs, v.Outcome)
	if o == httpretry.Final {
		return httpretry.Verdict{}
	}
	return httpretry.Verdict{Outcome: o, RetryAfter: askedWait(resp, errs)}
}

const statusOverloaded = 529 // no RFC has it

func outcome(resp *http.Response, errs []apiError, usual httpretry.Outcome) httpretry.Outcome {
	switch strings.ToLower(strings.TrimSpace(resp.Header.Get("X-Should-Retry"))) {
	case "true":
		return httpretry.Rejected
	case "false":
		return httpretry.Final
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests:
		if slices.ContainsFunc(errs, apiError.isQuota) {
			return httpretry.Final
		}
	case http.StatusConflict:
		if slices.ContainsFunc(errs, apiError.isLock) {
			return httpretry.Rejected
		}
	case http.StatusPaymentRequired:
		if _, asked := httpretry.RetryAfter(resp); asked {
			return httpretry.Rejected
		}
	case http.StatusRequestTimeout, 520, 521, 522, 523, 524:
		return httpretry.Uncertain
	case statusOverloaded:
		return httpretry.Rejected
	}
	return usual
}

// askedWait is the least wait that the server asked for.
func askedWait(resp *http.Response, errs []apiError) time.Duration {
	if d, asked := httpretry.RetryAfter(resp); asked {
		return d
	}
	if d := retryDelay(errs); d > 0 {
		return d
	}
	return limitReset(resp)
}
