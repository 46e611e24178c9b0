package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/PuerkitoBio/rehttp"
	"github.com/cenkalti/backoff/v5"
	"github.com/failsafe-go/failsafe-go/failsafehttp"
	resty2 "github.com/go-resty/resty/v2"
	"github.com/gojek/heimdall/v7"
	"github.com/gojek/heimdall/v7/httpclient"
	"github.com/hashicorp/go-retryablehttp"
	"github.com/httpretry/httpretry"
	resty3 "resty.dev/v3"
)

// A contender is a way to make HTTP requests, in most cases with retries.
type contender struct {
	name   string
	module string // of which the page gives the version; "" for the standard library
	open   opener

	// once is set if the contender makes a single attempt. It is listed for
	// comparison and is not a peer.
	once bool
}

// An opener returns a contender on top of base that waits for backoff before each
// retry.
type opener func(base http.RoundTripper, backoff time.Duration) send

// A send makes one call, from the job's request to the end of the response
// body, and returns the status and the length of the body.
type send func(*job) (status int, size int64, err error)

const (
	bareName = "bare"
	ownName  = "httpretry"

	maxRetries = 3
)

// contenders are listed in this order. To add one, add a line.
var contenders = []contender{
	{name: bareName, open: roundTripper(bare), once: true},
	{name: "http.Client", open: doer(plainClient), once: true},
	{name: ownName, module: "github.com/httpretry/httpretry", open: roundTripper(ownTransport)},
	{name: "go-retryablehttp", module: "github.com/hashicorp/go-retryablehttp", open: roundTripper(retryablehttpTransport)},
	{name: "rehttp", module: "github.com/PuerkitoBio/rehttp", open: roundTripper(rehttpTransport)},
	{name: "failsafehttp", module: "github.com/failsafe-go/failsafe-go", open: roundTripper(failsafeTransport)},
	{name: "heimdall", module: "github.com/gojek/heimdall/v7", open: doer(heimdallClient)},
	{name: "resty-v2", module: "github.com/go-resty/resty/v2", open: restyV2},
	{name: "resty-v3", module: "resty.dev/v3", open: restyV3},
	{name: "backoff-loop", module: "github.com/cenkalti/backoff/v5", open: doer(backoffLoop)},
}

// roundTripper opens a contender that is an [http.RoundTripper].
func roundTripper(wrap func(http.RoundTripper, time.Duration) http.RoundTripper) opener {
	return func(base http.RoundTripper, d time.Duration) send {
		rt := wrap(base, d)
		return func(j *job) (int, int64, error) { return consume(rt.RoundTrip(j.next())) }
	}
}

// A do is a function like the Do of an [http.Client].
type do func(*http.Request) (*http.Response, error)

// doer opens a contender that takes an [http.Request] and is not a RoundTripper.
func doer(wrap func(http.RoundTripper, time.Duration) do) opener {
	return func(base http.RoundTripper, d time.Duration) send {
		call := wrap(base, d)
		return func(j *job) (int, int64, error) { return consume(call(j.next())) }
	}
}

// consume reads resp to its end and closes it, as every caller should.
func consume(resp *http.Response, err error) (int, int64, error) {
	if err != nil {
		return 0, 0, err
	}
	if resp.Body == http.NoBody {
		return resp.StatusCode, 0, nil
	}
	n, err := io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp.StatusCode, n, err
}

func bare(base http.RoundTripper, _ time.Duration) http.RoundTripper { return base }

// plainClient is the baseline for contenders that are clients.
func plainClient(base http.RoundTripper, _ time.Duration) do {
	return (&http.Client{Transport: base}).Do
}

func ownTransport(base http.RoundTripper, d time.Duration) http.RoundTripper {
	return &httpretry.RetryTransport{
		Base:   base,
		Policy: httpretry.RetryConfig{MaxRetries: maxRetries, InitialBackoff: d},
	}
}

// retryablehttpTransport returns the transport of the client that StandardClient
// returns, without the cost of that client.
func retryablehttpTransport(base http.RoundTripper, d time.Duration) http.RoundTripper {
	c := retryablehttp.NewClient()
	c.HTTPClient = &http.Client{Transport: base}
	c.Logger = nil
	c.RetryMax = maxRetries
	c.RetryWaitMin, c.RetryWaitMax = d, d
	return c.StandardClient().Transport
}

func rehttpTransport(base http.RoundTripper, d time.Duration) http.RoundTripper {
	return rehttp.NewTransport(base,
		rehttp.RetryAll(
			rehttp.RetryMaxRetries(maxRetries),
			rehttp.RetryAny(rehttp.RetryTemporaryErr(), rehttp.RetryStatuses(http.StatusServiceUnavailable)),
		),
		rehttp.ConstDelay(d),
	)
}

func failsafeTransport(base http.RoundTripper, d time.Duration) http.RoundTripper {
	policy := failsafehttp.NewRetryPolicyBuilder().WithMaxRetries(maxRetries).WithDelay(d).Build()
	return failsafehttp.NewRoundTripper(base, policy)
}

// heimdallClient has a retrier function, since heimdall's own backoffs count in
// whole milliseconds.
func heimdallClient(base http.RoundTripper, d time.Duration) do {
	return httpclient.NewClient(
		httpclient.WithHTTPClient(&http.Client{Transport: base}),
		httpclient.WithRetrier(heimdall.NewRetrierFunc(func(int) time.Duration { return d })),
		httpclient.WithRetryCount(maxRetries),
	).Do
}

func restyV2(base http.RoundTripper, d time.Duration) send {
	c := resty2.New().
		SetTransport(base).
		SetLogger(silence{}).
		SetRetryCount(maxRetries).
		SetRetryWaitTime(d).
		SetRetryMaxWaitTime(d).
		AddRetryCondition(func(r *resty2.Response, err error) bool {
			return err != nil || r.StatusCode() == http.StatusServiceUnavailable
		})
	return func(j *job) (int, int64, error) {
		r := c.R().SetContext(j.req.Context())
		if body := j.payload(); body != nil {
			r.SetBody(body)
		}
		resp, err := r.Execute(j.req.Method, j.url)
		if err != nil {
			return 0, 0, err
		}
		return resp.StatusCode(), resp.Size(), nil
	}
}

func restyV3(base http.RoundTripper, d time.Duration) send {
	c := resty3.New().
		SetTransport(base).
		SetLogger(silence{}).
		SetRetryCount(maxRetries).
		SetRetryWaitTime(d).
		SetRetryMaxWaitTime(d).
		SetRetryAllowNonIdempotent(true).
		AddRetryConditions(resty3.RetryConditionStatus5XX)
	return func(j *job) (int, int64, error) {
		r := c.R().SetContext(j.req.Context())
		if body := j.payload(); body != nil {
			r.SetBody(body)
		}
		resp, err := r.Execute(j.req.Method, j.url)
		if err != nil {
			return 0, 0, err
		}
		return resp.StatusCode(), int64(len(resp.Bytes())), nil
	}
}

// A silence is a logger for resty, both versions.
type silence struct{}

func (silence) Errorf(string, ...any) {}
func (silence) Warnf(string, ...any)  {}
func (silence) Debugf(string, ...any) {}

// backoffLoop is a careful hand-written loop around cenkalti/backoff. It makes
// the body replayable, and discards and closes responses.
func backoffLoop(base http.RoundTripper, d time.Duration) do {
	const maxDiscard = 64 << 10
	return func(req *http.Request) (*http.Response, error) {
		getBody, err := replayable(req)
		if err != nil {
			return nil, err
		}
		var unwanted *http.Response
		attempt := func() (*http.Response, error) {
			if unwanted != nil {
				io.CopyN(io.Discard, unwanted.Body, maxDiscard)
				unwanted.Body.Close()
				unwanted = nil
			}
			again := req.WithContext(req.Context())
			if getBody != nil {
				if again.Body, err = getBody(); err != nil {
					return nil, backoff.Permanent(err)
				}
			}
			resp, err := base.RoundTrip(again)
			if err != nil {
				return nil, err
			}
			if resp.StatusCode == http.StatusServiceUnavailable {
				unwanted = resp
				return resp, fmt.Errorf("status %d", resp.StatusCode)
			}
			return resp, nil
		}
		b := backoff.NewExponentialBackOff()
		b.InitialInterval, b.MaxInterval = d, d
		resp, err := backoff.Retry(req.Context(), attempt,
			backoff.WithBackOff(b), backoff.WithMaxTries(maxRetries+1), backoff.WithMaxElapsedTime(0))
		if resp != nil {
			return resp, nil
		}
		return nil, err
	}
}

// replayable returns a function that returns the body of req any number of times,
// or nil if there is no body. It closes the body.
func replayable(req *http.Request) (func() (io.ReadCloser, error), error) {
	if req.Body == nil || req.Body == http.NoBody {
		return nil, nil
	}
	defer req.Body.Close()
	if req.GetBody != nil {
		return req.GetBody, nil
	}
	data, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }, nil
}

// twice makes a second call immediately if the first returns a 503. That is the
// least that a failure can cost. It is for contenders that do not retry.
func twice(s send) send {
	return func(j *job) (int, int64, error) {
		status, size, err := s(j)
		if err == nil && status == http.StatusServiceUnavailable {
			return s(j)
		}
		return status, size, err
	}
}
