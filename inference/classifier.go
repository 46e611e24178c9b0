package inference

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/httpretry/httpretry"
)

// Classifier is an [httpretry.RetryTransport.Classifier] for the language model
// APIs of OpenAI, Azure, Anthropic, Gemini, OpenRouter and compatible services. It
// can also be used with other clients:
//
//	&httpretry.RetryTransport{Classifier: inference.Classifier, MaxResponseBytes: 1 << 20}
//
// Errors, and statuses not listed here, are classified as by
// [httpretry.DefaultClassifier].
//
//   - A 2xx is classified as an error if its body has an error and no answer, or a choice
//     that ended in an error. The status is the one that the API documents for that
//     error, or 500 if it is unknown. Some gateways must send a status before they know
//     the outcome.
//   - An x-should-retry header takes precedence for statuses of 400 and above:
//     true is [httpretry.Unprocessed], false is [httpretry.Final].
//   - 429 is Final if the body reports an exhausted quota that waiting does not
//     refill. Such a body has a code, type or plain-string error of
//     insufficient_quota, exceeded_current_quota_error, credit_balance_exhausted,
//     billing_hard_limit_reached or billing_not_active, a quotaId with PerDay, or a
//     message with free-models-per-day. Any other 429 is a rate limit, and
//     Unprocessed.
//   - 529 (overloaded_error) is Unprocessed, like 503: the API refused the request
//     for lack of capacity.
//   - 409 is Unprocessed if the error mentions a lock, since nothing was done and the
//     lock will be released. Any other 409 is Final.
//   - 402 is Unprocessed if it has a Retry-After, and Final otherwise.
//   - 520 to 524, which Cloudflare returns if it got no valid response from the
//     origin, are [httpretry.Uncertain]. They are not Unprocessed, because only 521
//     and 523 mean that there was no connection, and none is standardized.
//
// Most requests to these APIs are POSTs, which are not retried after an Uncertain
// attempt. To retry them anyway, at the risk of paying twice, set
// [httpretry.RetryTransport.Idempotent].
//
// Verdict.RetryAfter is taken from the first available of: [httpretry.RetryAfter];
// the retryDelay of a google.rpc.RetryInfo in the body, or the reset in the
// metadata of OpenRouter; and the longest time until an exhausted limit resets.
// Limits are read from x-ratelimit-reset-* with x-ratelimit-remaining-*
// (durations such as 6m0s, or seconds), from x-ratelimit-reset and
// ratelimit-reset with -remaining (seconds, or a Unix time in seconds or
// milliseconds), from anthropic-ratelimit-*-reset with -remaining (RFC 3339), and
// from RateLimit (draft-ietf-httpapi-ratelimit-headers). Times are compared with
// the response's Date. Malformed values are ignored, as is a RateLimit field of
// more than 4 KiB.
//
// A 429 may also mean that the request needs more than remains. If no limit is
// exhausted, the x-ratelimit-reset-* of one limit is used: that of the unit which
// the error names, such as tokens; otherwise that with the smallest share
// remaining; otherwise the only one, which may lack x-ratelimit-remaining-*.
//
// The body is available only if [httpretry.RetryTransport.MaxResponseBytes] is
// set and the response is not an event stream; otherwise every 429 is taken for a
// rate limit, and every 2xx for a success. A gzipped body is decompressed. A body
// of more than 256 KiB is ignored.
func Classifier(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
	if err != nil {
		return httpretry.DefaultClassifier(req, nil, err)
	}
	return classify(req, resp, previewBody(resp))
}

// classifyExchange is the Classifier of this package's client. The body of a
// response is in the exchange, and 2xx responses without an answer are errors.
func classifyExchange(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
	switch {
	case err == nil && resp.StatusCode/100 == 2:
		return httpretry.Verdict{} // the receiver has checked it
	case err == nil:
		return classify(req, resp, exchangeOf(req.Context()).body)
	}
	f, ok := errors.AsType[*failure](err)
	switch {
	case !ok:
		return httpretry.DefaultClassifier(req, nil, err)
	case f.final:
		return httpretry.Verdict{}
	case f.errs == nil: // without an answer, which may have cost something
		return verdict(req, http.StatusInternalServerError, f.header, nil)
	}
	return verdict(req, f.status, f.header, f.errs)
}

// classify returns the verdict on a response with that body, of which at most
// maxErrorBytes are examined.
func classify(req *http.Request, resp *http.Response, body []byte) httpretry.Verdict {
	body = unzipped(body)
	if len(body) > maxErrorBytes {
		body = nil
	}
	switch {
	case resp.StatusCode/100 == 2:
		body = trimMark(body)
		cs, _ := parse(body)
		if errs := cs.errors(body); errs != nil {
			return verdict(req, statusCode(errs), resp.Header, errs)
		}
		return httpretry.Verdict{}
	case resp.StatusCode < http.StatusBadRequest:
		return httpretry.DefaultClassifier(req, resp, nil)
	}
	return verdict(req, resp.StatusCode, resp.Header, parseAPIErrors(unframed(body)))
}

// verdict returns the verdict on a status of 400 or more.
func verdict(req *http.Request, status int, h http.Header, errs []apiError) httpretry.Verdict {
	o := outcome(status, h, errs)
	if o == unknownOutcome {
		// The default goes by the status alone, and that of an error in a 2xx is
		// not the response's.
		o = httpretry.DefaultClassifier(req, &http.Response{StatusCode: status, Header: h}, nil).Outcome
	}
	if o == httpretry.Final {
		return httpretry.Verdict{}
	}
	return httpretry.Verdict{Outcome: o, RetryAfter: retryAfter(status, h, errs)}
}

const (
	statusOverloaded = 529 // not standardized

	// unknownOutcome stands for the outcome by the DefaultClassifier.
	unknownOutcome httpretry.Outcome = 255
)

func outcome(status int, h http.Header, errs []apiError) httpretry.Outcome {
	switch want := strings.TrimSpace(h.Get("X-Should-Retry")); {
	case strings.EqualFold(want, "true"):
		return httpretry.Unprocessed
	case strings.EqualFold(want, "false"):
		return httpretry.Final
	}
	switch status {
	case http.StatusTooManyRequests:
		if slices.ContainsFunc(errs, apiError.isQuota) {
			return httpretry.Final
		}
	case http.StatusConflict:
		if slices.ContainsFunc(errs, apiError.isLock) {
			return httpretry.Unprocessed
		}
	case http.StatusPaymentRequired:
		if _, asked := httpretry.RetryAfter(&http.Response{Header: h}); asked {
			return httpretry.Unprocessed
		}
	case 520, 521, 522, 523, 524: // Cloudflare
		return httpretry.Uncertain
	case statusOverloaded:
		return httpretry.Unprocessed
	}
	return unknownOutcome
}

// retryAfter returns the minimum wait that the server asked for.
func retryAfter(status int, h http.Header, errs []apiError) time.Duration {
	if d, asked := httpretry.RetryAfter(&http.Response{Header: h}); asked {
		return d
	}
	if d := askedWait(errs, h); d > 0 {
		return d
	}
	if d := limitReset(h); d > 0 || status != http.StatusTooManyRequests {
		return d
	}
	return scarceReset(h, errs)
}
