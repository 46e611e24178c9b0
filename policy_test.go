package httpretry_test

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/httpretry/httpretry"
)

// attempt returns attempt n, after which the server asked for a wait.
func attempt(n int, asked time.Duration) httpretry.Attempt {
	return httpretry.Attempt{Number: n, Verdict: httpretry.Verdict{Outcome: httpretry.Unprocessed, RetryAfter: asked}}
}

// sequence returns the waits of p after each of the first n attempts, if the
// server asks for none; -1 for no retry.
func sequence(p httpretry.Policy, n int) []time.Duration {
	var waits []time.Duration
	for i := range n {
		wait, retry := p.Backoff(attempt(i+1, 0))
		if !retry {
			wait = -1 - wait
		}
		waits = append(waits, wait)
	}
	return waits
}

func TestRetryConfig_GrowsExponentially(t *testing.T) {
	const sec, ms = time.Second, time.Millisecond
	tests := []struct {
		name   string
		config httpretry.RetryConfig
		want   []time.Duration
		reason string
	}{
		{"defaults", httpretry.RetryConfig{MaxRetries: 8}, []time.Duration{sec, 2 * sec, 4 * sec, 8 * sec, 16 * sec, 32 * sec, 60 * sec, 60 * sec, -1},
			"1 s, doubled each time, at most 60 s"},
		{"own values", httpretry.RetryConfig{MaxRetries: 5, InitialBackoff: 100 * ms, BackoffFactor: 3, MaxBackoff: 5 * sec},
			[]time.Duration{100 * ms, 300 * ms, 900 * ms, 2700 * ms, 5 * sec, -1}, "min(InitialBackoff × BackoffFactor^n, MaxBackoff)"},
		{"a fraction in the factor", httpretry.RetryConfig{MaxRetries: 3, BackoffFactor: 1.5}, []time.Duration{sec, 1500 * ms, 2250 * ms, -1}, "a factor need not be whole"},
		{"constant", httpretry.RetryConfig{MaxRetries: 3, BackoffFactor: 1}, []time.Duration{sec, sec, sec, -1}, "1 is the least factor"},
		{"initial above max", httpretry.RetryConfig{MaxRetries: 2, InitialBackoff: time.Hour}, []time.Duration{60 * sec, 60 * sec, -1}, "MaxBackoff bounds every wait"},
		{"one nanosecond", httpretry.RetryConfig{MaxRetries: 3, InitialBackoff: 1, MaxBackoff: 3}, []time.Duration{1, 2, 3, -1}, "small values are exact"},
		{"largest", httpretry.RetryConfig{MaxRetries: 3, InitialBackoff: 1 << 61, MaxBackoff: math.MaxInt64},
			[]time.Duration{1 << 61, 1 << 62, math.MaxInt64, -1}, "an overflow is the bound, not a negative wait"},
		{"huge factor", httpretry.RetryConfig{MaxRetries: 3, BackoffFactor: math.MaxFloat64}, []time.Duration{sec, 60 * sec, 60 * sec, -1}, "beyond float64 is the bound"},
		{"zero value", httpretry.RetryConfig{}, []time.Duration{sec, 2 * sec, 4 * sec, -1}, "MaxRetries is 3 by default"},
		{"negative", httpretry.RetryConfig{MaxRetries: -1}, []time.Duration{-1, -1}, "a negative MaxRetries means none"},
		{"most negative", httpretry.RetryConfig{MaxRetries: math.MinInt}, []time.Duration{-1, -1}, "a negative MaxRetries means none"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.config.JitterFraction = -1
			if diff := cmp.Diff(tt.want, sequence(tt.config, len(tt.want))); diff != "" {
				t.Errorf("waits (-want +got): %s\n%s", tt.reason, diff)
			}
		})
	}
}

func TestRetryConfig_LateRetriesDoNotOverflow(t *testing.T) {
	c := httpretry.RetryConfig{MaxRetries: math.MaxInt, Jitter: httpretry.NoJitter}
	for _, n := range []int{7, 64, 1025, 100_000, math.MaxInt32, math.MaxInt} {
		wait, retry := c.Backoff(attempt(n, 0))
		if wait != time.Minute || !retry {
			t.Errorf("after attempt %d: got %v, %t, want %v, true: 2^n overflows, the wait must not", n, wait, retry, time.Minute)
		}
	}
}

// invalidConfigs are configurations with one invalid field, the texts that the
// error of Validate must contain, and the same configurations with that field
// zero.
var invalidConfigs = []struct {
	name   string
	config httpretry.RetryConfig
	says   []string
	zeroed httpretry.RetryConfig
}{
	{"InitialBackoff", httpretry.RetryConfig{MaxRetries: 9, InitialBackoff: -time.Second},
		[]string{"InitialBackoff", "-1s", "must not be negative"}, httpretry.RetryConfig{MaxRetries: 9}},
	{"MaxBackoff", httpretry.RetryConfig{MaxRetries: 9, MaxBackoff: math.MinInt64},
		[]string{"MaxBackoff", time.Duration(math.MinInt64).String(), "must not be negative"}, httpretry.RetryConfig{MaxRetries: 9}},
	{"BackoffFactor below 1", httpretry.RetryConfig{MaxRetries: 9, BackoffFactor: 0.5}, []string{"BackoffFactor", "0.5", "must be at least 1"}, httpretry.RetryConfig{MaxRetries: 9}},
	{"BackoffFactor negative", httpretry.RetryConfig{MaxRetries: 9, BackoffFactor: -2}, []string{"BackoffFactor", "-2", "must be at least 1"}, httpretry.RetryConfig{MaxRetries: 9}},
	{"BackoffFactor NaN", httpretry.RetryConfig{MaxRetries: 9, BackoffFactor: math.NaN()}, []string{"BackoffFactor", "NaN", "must be at least 1"}, httpretry.RetryConfig{MaxRetries: 9}},
	{"BackoffFactor +Inf", httpretry.RetryConfig{MaxRetries: 9, BackoffFactor: math.Inf(1)}, []string{"BackoffFactor", "+Inf", "must be finite"}, httpretry.RetryConfig{MaxRetries: 9}},
	{"BackoffFactor -Inf", httpretry.RetryConfig{MaxRetries: 9, BackoffFactor: math.Inf(-1)}, []string{"BackoffFactor", "-Inf", "must be at least 1"}, httpretry.RetryConfig{MaxRetries: 9}},
	{"JitterFraction above 1", httpretry.RetryConfig{MaxRetries: 9, JitterFraction: 1.5}, []string{"JitterFraction", "1.5", "must be at most 1"}, httpretry.RetryConfig{MaxRetries: 9}},
	{"JitterFraction NaN", httpretry.RetryConfig{MaxRetries: 9, JitterFraction: math.NaN()}, []string{"JitterFraction", "NaN", "must be at most 1"}, httpretry.RetryConfig{MaxRetries: 9}},
	{"JitterFraction +Inf", httpretry.RetryConfig{MaxRetries: 9, JitterFraction: math.Inf(1)}, []string{"JitterFraction", "+Inf", "must be at most 1"}, httpretry.RetryConfig{MaxRetries: 9}},
	{"MaxElapsed", httpretry.RetryConfig{MaxRetries: 9, MaxElapsed: -1}, []string{"MaxElapsed", "-1ns", "must not be negative"}, httpretry.RetryConfig{MaxRetries: 9}},
	{"MaxRetryAfter", httpretry.RetryConfig{MaxRetries: 9, MaxRetryAfter: -time.Hour}, []string{"MaxRetryAfter", "-1h0m0s", "must not be negative"}, httpretry.RetryConfig{MaxRetries: 9}},
}

func TestRetryConfig_ValidateNamesTheField(t *testing.T) {
	for _, tt := range invalidConfigs {
		err := tt.config.Validate()
		if err == nil {
			t.Errorf("%s: got no error, want one that says %q", tt.name, tt.says)
			continue
		}
		for _, want := range append(tt.says, "httpretry: invalid ") {
			if strings.Count(err.Error(), want) != 1 {
				t.Errorf("%s: got error %q, want it to say %q once", tt.name, err, want)
			}
		}
	}
}

func TestRetryConfig_ValidateAcceptsValidFields(t *testing.T) {
	tests := map[string]httpretry.RetryConfig{
		"zero value": {},
		"negative":   {MaxRetries: math.MinInt, JitterFraction: math.Inf(-1)},
		"least":      {BackoffFactor: 1, JitterFraction: math.SmallestNonzeroFloat64, InitialBackoff: 1, MaxBackoff: 1, MaxElapsed: 1, MaxRetryAfter: 1},
		"most": {MaxRetries: math.MaxInt, InitialBackoff: math.MaxInt64, MaxBackoff: math.MaxInt64, BackoffFactor: math.MaxFloat64,
			JitterFraction: 1, MaxElapsed: math.MaxInt64, MaxRetryAfter: math.MaxInt64},
	}
	for name, c := range tests {
		if err := c.Validate(); err != nil {
			t.Errorf("%s: got %v, want no error", name, err)
		}
	}
}

// A mistake that Validate would have found never shortens a wait: the field
// counts as zero.
func TestRetryConfig_InvalidFieldCountsAsZero(t *testing.T) {
	for _, tt := range invalidConfigs {
		got, want := tt.config, tt.zeroed
		got.Jitter, want.Jitter = httpretry.NoJitter, httpretry.NoJitter
		if diff := cmp.Diff(sequence(want, 11), sequence(got, 11)); diff != "" {
			t.Errorf("%s: waits (-want +got):\n%s", tt.name, diff)
		}
		asked := attempt(1, 61*time.Second)
		if _, retry := got.Backoff(asked); retry {
			t.Errorf("%s: the server asked for 61 s, and a retry follows, want none: the default of MaxRetryAfter is 60 s", tt.name)
		}
	}
}

func TestRetryConfig_JitterFraction(t *testing.T) {
	const sec = time.Second
	tests := []struct {
		name      string
		config    httpretry.RetryConfig
		low, high time.Duration
		reason    string
	}{
		{"default", httpretry.RetryConfig{}, 9 * sec, 11 * sec, "0.1"},
		{"own", httpretry.RetryConfig{JitterFraction: 0.5}, 5 * sec, 15 * sec, "± half"},
		{"all", httpretry.RetryConfig{JitterFraction: 1}, 0, 20 * sec, "± all of it"},
		{"NaN", httpretry.RetryConfig{JitterFraction: math.NaN()}, 9 * sec, 11 * sec, "counts as zero, whose default is 0.1"},
		{"negative", httpretry.RetryConfig{JitterFraction: -0.5}, 10 * sec, 10 * sec, "no jitter"},
		{"most negative", httpretry.RetryConfig{JitterFraction: math.Inf(-1)}, 10 * sec, 10 * sec, "no jitter"},
		{"above 1", httpretry.RetryConfig{JitterFraction: 2}, 9 * sec, 11 * sec, "counts as zero, whose default is 0.1"},
		{"at the bound", httpretry.RetryConfig{MaxBackoff: 10 * sec, InitialBackoff: 20 * sec}, 9 * sec, 11 * sec, "MaxBackoff bounds the wait before jitter"},
		{"Jitter", httpretry.RetryConfig{JitterFraction: 1, Jitter: httpretry.EqualJitter}, 5 * sec, 10 * sec, "used in place of JitterFraction"},
		{"None", httpretry.RetryConfig{JitterFraction: 1, Jitter: httpretry.NoJitter}, 10 * sec, 10 * sec, "used in place of JitterFraction"},
		{"negative Jitter", httpretry.RetryConfig{Jitter: func(b, _ time.Duration) time.Duration { return -b }}, 0, 0, "a negative result counts as 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := tt.config
			c.MaxRetries = 1
			if c.InitialBackoff == 0 {
				c.InitialBackoff = 10 * sec
			}
			got := draw(func() time.Duration {
				wait, _ := c.Backoff(attempt(1, 0))
				return wait
			})
			got.wantUniform(t, tt.low, tt.high, tt.reason)
		})
	}
}

func TestRetryConfig_JitterGetsThePreviousWait(t *testing.T) {
	var got []time.Duration
	c := httpretry.RetryConfig{MaxRetries: 5, Jitter: func(backoff, previous time.Duration) time.Duration {
		got = append(got, backoff, previous)
		return backoff
	}}
	a := attempt(3, 0)
	a.Delay = 7 * time.Second
	c.Backoff(a)
	if want := []time.Duration{4 * time.Second, 7 * time.Second}; !slices.Equal(got, want) {
		t.Errorf("Jitter got %v, want the backoff and the wait before this attempt, %v", got, want)
	}
}

// Jitter only lengthens a wait that the server asked for: no client retries too
// soon, and they do not all retry at the same moment.
func TestRetryConfig_RetryAfterIsAFloor(t *testing.T) {
	const sec = time.Second
	jitters := []struct {
		name    string
		config  httpretry.RetryConfig
		spreads bool
	}{
		{"default", httpretry.RetryConfig{}, true},
		{"JitterFraction", httpretry.RetryConfig{JitterFraction: 0.5}, true},
		{"no JitterFraction", httpretry.RetryConfig{JitterFraction: -1}, false},
		{"FullJitter", httpretry.RetryConfig{Jitter: httpretry.FullJitter}, true},
		{"EqualJitter", httpretry.RetryConfig{Jitter: httpretry.EqualJitter}, true},
		{"NoJitter", httpretry.RetryConfig{Jitter: httpretry.NoJitter}, false},
		{"DecorrelatedJitter", httpretry.RetryConfig{Jitter: httpretry.DecorrelatedJitter(sec, time.Minute)}, true},
	}
	for _, asked := range []time.Duration{9 * sec, 10 * sec, 11 * sec, 40 * sec, 60 * sec} {
		for _, tt := range jitters {
			c := tt.config
			c.InitialBackoff = 10 * sec
			a := attempt(1, asked)
			a.Delay = 20 * sec
			seen := map[time.Duration]int{}
			got := draw(func() time.Duration {
				wait, retry := c.Backoff(a)
				if !retry {
					t.Fatalf("%s, asked for %v: got no retry, want one: 60 s are allowed", tt.name, asked)
				}
				seen[wait]++
				return wait
			})
			if got.low < asked {
				t.Errorf("%s, asked for %v: got a wait of %v, which is early", tt.name, asked, got.low)
			}
			if most := 2 * max(asked, time.Minute); got.high > most {
				t.Errorf("%s, asked for %v: got a wait of %v, want at most %v", tt.name, asked, got.high, most)
			}
			if !tt.spreads && (got.low != max(asked, 10*sec) || got.high != got.low) {
				t.Errorf("%s, asked for %v: got %v to %v, want the longer of wish and backoff", tt.name, asked, got.low, got.high)
			}
			if clump := seen[asked]; tt.spreads && clump > 4000/4 {
				t.Errorf("%s, asked for %v: %d of 4000 clients come at that very moment, want them spread above it", tt.name, asked, clump)
			}
		}
	}
}

func TestRetryConfig_JitterOnRetryAfterIsUpward(t *testing.T) {
	tests := []struct {
		name      string
		config    httpretry.RetryConfig
		low, high time.Duration
	}{
		{"default", httpretry.RetryConfig{}, 30 * time.Second, 33 * time.Second},
		{"JitterFraction", httpretry.RetryConfig{JitterFraction: 0.5}, 30 * time.Second, 45 * time.Second},
		{"no JitterFraction", httpretry.RetryConfig{JitterFraction: -1}, 30 * time.Second, 30 * time.Second},
		{"FullJitter", httpretry.RetryConfig{Jitter: httpretry.FullJitter}, 30 * time.Second, 60 * time.Second},
		{"EqualJitter", httpretry.RetryConfig{Jitter: httpretry.EqualJitter}, 30 * time.Second, 45 * time.Second},
		{"NoJitter", httpretry.RetryConfig{Jitter: httpretry.NoJitter}, 30 * time.Second, 30 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := draw(func() time.Duration {
				wait, _ := tt.config.Backoff(attempt(1, 30*time.Second))
				return wait
			})
			got.wantUniform(t, tt.low, tt.high, "above Retry-After by at most the width of the jitter")
		})
	}
}

func TestRetryConfig_HugeRetryAfterSaturates(t *testing.T) {
	for _, jitter := range []func(backoff, previous time.Duration) time.Duration{nil, httpretry.FullJitter, httpretry.NoJitter, httpretry.DecorrelatedJitter(1, 2)} {
		c := httpretry.RetryConfig{MaxRetries: 1, Jitter: jitter, MaxRetryAfter: math.MaxInt64}
		for range 1000 {
			if wait, retry := c.Backoff(attempt(1, math.MaxInt64)); wait != math.MaxInt64 || !retry {
				t.Fatalf("got %v, %t, want %v, true: a longer wait saturates", wait, retry, time.Duration(math.MaxInt64))
			}
		}
	}
}

func TestRetryConfig_MaxRetryAfter(t *testing.T) {
	tests := []struct {
		name   string
		config httpretry.RetryConfig
		asked  time.Duration
		retry  bool
		reason string
	}{
		{"default, just so", httpretry.RetryConfig{}, 60 * time.Second, true, "MaxBackoff is 60 s"},
		{"default, above", httpretry.RetryConfig{}, 60*time.Second + 1, false, "MaxBackoff is 60 s"},
		{"MaxBackoff, just so", httpretry.RetryConfig{MaxBackoff: 5 * time.Second}, 5 * time.Second, true, "stands in for MaxRetryAfter"},
		{"MaxBackoff, above", httpretry.RetryConfig{MaxBackoff: 5 * time.Second}, 5*time.Second + 1, false, "stands in for MaxRetryAfter"},
		{"own, just so", httpretry.RetryConfig{MaxRetryAfter: time.Hour}, time.Hour, true, "not bounded by MaxBackoff"},
		{"own, above", httpretry.RetryConfig{MaxRetryAfter: time.Hour}, time.Hour + 1, false, "the longest wait it may ask for"},
		{"below the backoff", httpretry.RetryConfig{MaxRetryAfter: 1}, 1, true, "the backoff itself has MaxBackoff"},
		{"none asked", httpretry.RetryConfig{MaxRetryAfter: 1}, 0, true, "limits only Retry-After"},
		{"saturated", httpretry.RetryConfig{}, math.MaxInt64, false, "too long is too long"},
	}
	for _, tt := range tests {
		tt.config.MaxRetries = 1
		delay, retry := tt.config.Backoff(attempt(1, tt.asked))
		if retry != tt.retry {
			t.Errorf("%s: asked for %v: got retry %t, want %t: %s", tt.name, tt.asked, retry, tt.retry, tt.reason)
		}
		if !retry && delay != tt.asked {
			t.Errorf("%s: got a delay of %v, want the %v that are too long", tt.name, delay, tt.asked)
		}
	}
}

// A wait that was decided against is returned, so that it can be reported.
func TestRetryConfig_ReturnsTheWaitThatIsTooLong(t *testing.T) {
	const sec = time.Second
	tests := []struct {
		name   string
		config httpretry.RetryConfig
		number int
		asked  time.Duration
		want   time.Duration
	}{
		{"MaxElapsed", httpretry.RetryConfig{MaxElapsed: 5 * sec}, 2, 0, 2 * sec},
		{"MaxElapsed and Retry-After", httpretry.RetryConfig{MaxElapsed: 5 * sec}, 2, 30 * sec, 30 * sec},
		{"MaxRetryAfter", httpretry.RetryConfig{MaxRetryAfter: sec}, 2, 30 * sec, 30 * sec},
		{"MaxRetryAfter, huge", httpretry.RetryConfig{}, 2, math.MaxInt64, math.MaxInt64},
		{"MaxRetries", httpretry.RetryConfig{}, 4, 0, 0},
		{"MaxRetries and Retry-After", httpretry.RetryConfig{}, 4, time.Hour, 0},
	}
	for _, tt := range tests {
		tt.config.JitterFraction = -1
		a := attempt(tt.number, tt.asked)
		a.Elapsed = 4 * sec
		if delay, retry := tt.config.Backoff(a); delay != tt.want || retry {
			t.Errorf("%s: got %v, %t, want %v, false", tt.name, delay, retry, tt.want)
		}
	}
}

// A typed nil is a common mistake of callers that take a *RetryConfig.
func TestRetryTransport_NilRetryConfigIsTheDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		rt := &httpretry.RetryTransport{Policy: (*httpretry.RetryConfig)(nil), Base: clocked(statuses(503), &at)}
		resp, err := rt.RoundTrip(newRequest(t, "PUT", "http://example.com/", newTestBody("x")))
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, resp)
		if len(at) != 4 {
			t.Errorf("got %d attempts, want 4, as with a nil Policy", len(at))
		}
	})
}

// busy answers each attempt with a status, a header and a body.
func busy(status int, h http.Header) roundTripFunc {
	return func(req *http.Request) (*http.Response, error) {
		if _, err := consume(req); err != nil {
			return nil, err
		}
		resp := response(req, status, "come back later")
		resp.Header = h.Clone()
		return resp, nil
	}
}

// clocked records the time of each call of base, from now on.
func clocked(base http.RoundTripper, at *[]time.Duration) roundTripFunc {
	start := time.Now()
	return func(req *http.Request) (*http.Response, error) {
		*at = append(*at, time.Since(start))
		return base.RoundTrip(req)
	}
}

// If the server asks for more than MaxRetryAfter, the caller immediately gets
// the response, and can read from it how long to wait.
func TestRetryConfig_MaxRetryAfterLeavesTheResponse(t *testing.T) {
	for _, wish := range []http.Header{
		headerOf("Retry-After", "61"),
		headerOf("Retry-After", strings.Repeat("9", 40)),
		headerOf("Retry-After", "Sat, 01 Jan 2000 00:01:01 GMT"),
		headerOf("Retry-After-Ms", "60001"),
	} {
		synctest.Test(t, func(t *testing.T) {
			var at []time.Duration
			start := time.Now()
			rt := &httpretry.RetryTransport{Base: clocked(busy(http.StatusTooManyRequests, wish), &at)}
			resp, err := rt.RoundTrip(newRequest(t, "POST", "http://example.com/", strings.NewReader("x")))
			if err != nil {
				t.Fatalf("%v: got error %v, want the response", wish, err)
			}
			if elapsed := time.Since(start); elapsed != 0 || len(at) != 1 {
				t.Errorf("%v: got %d attempts in %v, want one and no wait", wish, len(at), elapsed)
			}
			asked, ok := httpretry.RetryAfter(resp)
			if resp.StatusCode != http.StatusTooManyRequests || asked <= time.Minute || !ok {
				t.Errorf("%v: got status %d asking for %v, want the server's answer as it came", wish, resp.StatusCode, asked)
			}
			if got := readAll(t, resp); got != "come back later" {
				t.Errorf("%v: got body %q, want all of it", wish, got)
			}
		})
	}
}

// In virtual time, waits are exact.
func TestRetryTransport_Waits(t *testing.T) {
	const sec = time.Second
	config := func(c httpretry.RetryConfig) httpretry.RetryConfig {
		c.MaxRetries, c.Jitter = max(c.MaxRetries, 4), httpretry.NoJitter
		return c
	}
	delays := func(ds ...time.Duration) httpretry.Policy {
		return policyFunc(func(a httpretry.Attempt) (time.Duration, bool) {
			if a.Number > len(ds) {
				return 0, false
			}
			return ds[a.Number-1], true
		})
	}
	tests := []struct {
		name   string
		policy httpretry.Policy
		wish   http.Header
		want   []time.Duration // when the attempts are made
		reason string
	}{
		{"exponential", config(httpretry.RetryConfig{}), nil, []time.Duration{0, sec, 3 * sec, 7 * sec, 15 * sec}, "1 s, 2 s, 4 s, 8 s"},
		{"a pointer", &httpretry.RetryConfig{MaxRetries: 1, Jitter: httpretry.NoJitter}, nil, []time.Duration{0, sec}, "is a Policy, too"},
		{"Retry-After above and below", config(httpretry.RetryConfig{}), headerOf("Retry-After", "3"), []time.Duration{0, 3 * sec, 6 * sec, 10 * sec, 18 * sec}, "the longer of the two"},
		{"Retry-After of 0", config(httpretry.RetryConfig{}), headerOf("Retry-After", "0"), []time.Duration{0, sec, 3 * sec, 7 * sec, 15 * sec}, "a floor does not shorten a wait"},
		{"Retry-After-Ms", config(httpretry.RetryConfig{}), headerOf("Retry-After-Ms", "4500"), []time.Duration{0, 4500 * time.Millisecond, 9 * sec, 13500 * time.Millisecond, 21500 * time.Millisecond}, "the longer of the two"},
		{"a date", config(httpretry.RetryConfig{}), headerOf("Retry-After", "Sat, 01 Jan 2000 00:00:10 GMT"), []time.Duration{0, 10 * sec, 12 * sec, 16 * sec, 24 * sec}, "a date that has passed asks for nothing"},
		{"MaxElapsed, just so", config(httpretry.RetryConfig{MaxElapsed: 7 * sec}), nil, []time.Duration{0, sec, 3 * sec, 7 * sec}, "a retry may still start at that moment"},
		{"MaxElapsed, short of", config(httpretry.RetryConfig{MaxElapsed: 7*sec - 1}), nil, []time.Duration{0, sec, 3 * sec}, "a retry would start too late"},
		{"MaxElapsed, with Retry-After", config(httpretry.RetryConfig{MaxElapsed: 20 * sec}), headerOf("Retry-After", "15"), []time.Duration{0, 15 * sec}, "the whole wait counts"},
		{"MaxElapsed, huge", config(httpretry.RetryConfig{MaxElapsed: math.MaxInt64, MaxRetries: 1}), nil, []time.Duration{0, sec, 3 * sec, 7 * sec, 15 * sec}, "no overflow"},
		{"own Policy", delays(5*sec, 0, sec), nil, []time.Duration{0, 5 * sec, 5 * sec, 6 * sec}, "its waits as they are"},
		{"own Policy, negative", delays(-sec, math.MinInt64), nil, []time.Duration{0, 0, 0}, "a negative delay counts as 0"},
		{"own Policy, Retry-After above", delays(sec, 40*sec), headerOf("Retry-After", "30"), []time.Duration{0, 30 * sec, 70 * sec}, "a floor under every policy"},
		{"own Policy, Retry-After of 60 s", delays(sec), headerOf("Retry-After", "60"), []time.Duration{0, 60 * sec}, "a floor under every policy"},
		{"own Policy, Retry-After of 61 s", delays(sec), headerOf("Retry-After", "61"), []time.Duration{0}, "a policy that is not aware of it must not wait for long"},
		{"own Policy, longer itself", delays(120 * sec), headerOf("Retry-After", "90"), []time.Duration{0, 120 * sec}, "the policy's own wait is not limited"},
		{"Never", httpretry.Never, nil, []time.Duration{0}, "one attempt"},
		{"negative MaxRetries", httpretry.RetryConfig{MaxRetries: -1}, nil, []time.Duration{0}, "one attempt"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var at []time.Duration
				rt := &httpretry.RetryTransport{Policy: tt.policy, Base: clocked(busy(http.StatusServiceUnavailable, tt.wish), &at)}
				resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
				if err != nil {
					t.Fatal(err)
				}
				readAll(t, resp)
				if diff := cmp.Diff(tt.want, at); diff != "" {
					t.Errorf("attempts at (-want +got): %s\n%s", tt.reason, diff)
				}
			})
		})
	}
}

// The duration of attempts counts for MaxElapsed, and does not shorten the wait.
func TestRetryConfig_MaxElapsedCountsAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const sec = time.Second
		var at []time.Duration
		rt := &httpretry.RetryTransport{
			Policy: httpretry.RetryConfig{MaxRetries: 9, Jitter: httpretry.NoJitter, MaxElapsed: 15 * sec},
			Base: clocked(roundTripFunc(func(req *http.Request) (*http.Response, error) {
				time.Sleep(4 * sec) // virtual: the attempt takes this long
				return nil, io.ErrUnexpectedEOF
			}), &at),
		}
		rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
		if want := []time.Duration{0, 5 * sec, 11 * sec}; !slices.Equal(at, want) {
			t.Errorf("attempts at %v, want %v: after 15 s of attempts and waits no retry may start", at, want)
		}
	})
}

// A negative delay counts as 0 for hooks too.
func TestPolicy_NegativeDelayIsReportedAsZero(t *testing.T) {
	var got []time.Duration
	rt := &httpretry.RetryTransport{
		Policy: policyFunc(func(a httpretry.Attempt) (time.Duration, bool) { return -time.Hour, a.Number == 1 }),
		Base:   statuses(503, 200),
		OnAttempt: func(a httpretry.Attempt, d httpretry.Decision) {
			got = append(got, a.Delay, d.Delay)
		},
	}
	resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, resp)
	if want := make([]time.Duration, 4); !slices.Equal(got, want) {
		t.Errorf("got the delays %v, want %v", got, want)
	}
}

func TestRetryTransport_NilPolicyIsTheZeroRetryConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		rt := &httpretry.RetryTransport{Base: clocked(statuses(503), &at)}
		resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, resp)
		if len(at) != 4 {
			t.Fatalf("got %d attempts, want 4: three retries", len(at))
		}
		for i, wait := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
			if got := at[i+1] - at[i]; got < wait*9/10 || got > wait*11/10 {
				t.Errorf("got a wait of %v before retry %d, want %v ± a tenth", got, i+1, wait)
			}
		}
	})
}

func TestPolicy_GetsTheAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		req := newRequest(t, "GET", "http://example.com/", nil)
		type seen struct {
			Number         int
			Elapsed, Delay time.Duration
			Status         int
			Err            error
			Verdict        httpretry.Verdict
		}
		var got []seen
		policy := policyFunc(func(a httpretry.Attempt) (time.Duration, bool) {
			s := seen{a.Number, a.Elapsed, a.Delay, 0, a.Err, a.Verdict}
			if a.Response != nil {
				s.Status = a.Response.StatusCode
			}
			if a.Request == req || a.Request.URL.String() != req.URL.String() {
				t.Error("Attempt.Request is not a copy of the caller's request")
			}
			got = append(got, s)
			return time.Duration(a.Number) * time.Second, a.Number < 3
		})
		n := 0
		rt := &httpretry.RetryTransport{Policy: policy, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			time.Sleep(time.Millisecond) // virtual: the attempt takes this long
			if n++; n == 2 {
				return nil, io.ErrUnexpectedEOF
			}
			resp := response(req, http.StatusTooManyRequests, "")
			resp.Header.Set("Retry-After", "9")
			return resp, nil
		})}
		rt.RoundTrip(req)
		unprocessed := httpretry.Verdict{Outcome: httpretry.Unprocessed, RetryAfter: 9 * time.Second}
		want := []seen{
			{1, time.Millisecond, 0, 429, nil, unprocessed},
			{2, 9*time.Second + 2*time.Millisecond, 9 * time.Second, 0, io.ErrUnexpectedEOF, httpretry.Verdict{Outcome: httpretry.Uncertain}},
			{3, 11*time.Second + 3*time.Millisecond, 2 * time.Second, 429, nil, unprocessed},
		}
		if !slices.Equal(got, want) {
			t.Errorf("Backoff was called after\n%+v, want\n%+v", got, want)
		}
	})
}

func TestNever_DoesNotRetry(t *testing.T) {
	if wait, retry := httpretry.Never.Backoff(attempt(1, 0)); wait != 0 || retry {
		t.Errorf("got %v, %t, want 0, false", wait, retry)
	}
}

func TestOverride_Policy(t *testing.T) {
	retries := func(n int) httpretry.Policy {
		return policyFunc(func(a httpretry.Attempt) (time.Duration, bool) { return 0, a.Number <= n })
	}
	ctx := context.Background()
	tests := []struct {
		name   string
		ctx    context.Context
		own    httpretry.Policy
		want   int
		reason string
	}{
		{"none", ctx, retries(2), 3, "the transport's own"},
		{"override", withPolicy(ctx, retries(4)), retries(2), 5, "in place of the transport's"},
		{"override of the default", withPolicy(ctx, retries(4)), nil, 5, "in place of RetryConfig{}"},
		{"Never", withPolicy(ctx, httpretry.Never), retries(2), 1, "turns retries off"},
		{"override of Never", withPolicy(ctx, retries(1)), httpretry.Never, 2, "turns retries on"},
		{"nil", httpretry.Override(ctx, nil), retries(2), 3, "leaves the context unchanged"},
		{"nested", withPolicy(withPolicy(ctx, retries(4)), retries(1)), retries(2), 2, "the innermost counts"},
		{"nil within", httpretry.Override(withPolicy(ctx, retries(4)), nil), retries(2), 5, "leaves the context unchanged"},
		{"negative MaxRetries", withPolicy(ctx, httpretry.RetryConfig{MaxRetries: -1}), retries(2), 1, "a policy that never retries"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := 0
			rt := &httpretry.RetryTransport{Policy: tt.own, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				n++
				return busy(http.StatusServiceUnavailable, nil)(req)
			})}
			resp, err := rt.RoundTrip(newRequest(t, "PUT", "http://example.com/", nil).WithContext(tt.ctx))
			if err != nil {
				t.Fatal(err)
			}
			readAll(t, resp)
			if n != tt.want {
				t.Errorf("got %d attempts, want %d: %s", n, tt.want, tt.reason)
			}
		})
	}
	if got := httpretry.Override(ctx, nil); got != ctx {
		t.Errorf("got %v, want the context itself: there is no override", got)
	}
}

// An override of one request does not affect others of the same transport, and
// the body of a request that is never retried is not buffered.
func TestOverride_IsForOneRequest(t *testing.T) {
	attempts := map[string]int{}
	var bodies []io.Reader
	rt := &httpretry.RetryTransport{Policy: now, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
		attempts[req.URL.Path]++
		bodies = append(bodies, req.Body)
		return busy(http.StatusServiceUnavailable, nil)(req)
	})}
	body := newTestBody("x")
	once := newRequest(t, "PUT", "http://example.com/once", body)
	once = once.WithContext(withPolicy(context.Background(), httpretry.Never))
	for _, req := range []*http.Request{once, newRequest(t, "GET", "http://example.com/often", nil)} {
		resp, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, resp)
	}
	if diff := cmp.Diff(map[string]int{"/once": 1, "/often": 10}, attempts); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
	if bodies[0] != io.Reader(body) {
		t.Errorf("the attempt got a body of type %T, want the caller's own: nothing needs a copy", bodies[0])
	}
	body.wantClosedOnce(t)
}

// A wait that would end at the deadline or after it is not begun: the outcome of
// the attempt before it is returned immediately.
func TestRoundTrip_DoesNotWaitPastTheDeadline(t *testing.T) {
	const sec = time.Second
	boom := errors.New("boom")
	tests := []struct {
		name     string
		deadline time.Duration
		policy   httpretry.Policy
		base     roundTripFunc
		want     []time.Duration
		delay    time.Duration // which was too long
		reason   string
	}{
		{"just before", sec - 1, nil, statuses(503), []time.Duration{0}, sec, "the wait would end after it"},
		{"equal", sec, nil, statuses(503), []time.Duration{0}, sec, "the attempt would find the context done"},
		{"just after", sec + 1, nil, statuses(503), []time.Duration{0, sec}, 2 * sec, "there is a nanosecond left for the attempt"},
		{"at the second wait", 2 * sec, nil, statuses(503), []time.Duration{0, sec}, 2 * sec, "the second wait is longer"},
		{"Retry-After", 10 * sec, nil, busy(503, headerOf("Retry-After", "11")), []time.Duration{0}, 11 * sec, "the server asks for more time than there is"},
		{"endless", time.Hour, policyFunc(func(httpretry.Attempt) (time.Duration, bool) { return math.MaxInt64, true }),
			statuses(503), []time.Duration{0}, math.MaxInt64, "no overflow"},
		{"an error", sec, nil, func(*http.Request) (*http.Response, error) { return nil, boom }, []time.Duration{0}, sec, "an error is returned as well"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), tt.deadline)
				defer cancel()
				if tt.policy == nil {
					tt.policy = httpretry.RetryConfig{MaxRetries: 5, Jitter: httpretry.NoJitter}
				}
				var at []time.Duration
				var last httpretry.Decision
				start := time.Now()
				rt := &httpretry.RetryTransport{Policy: tt.policy, Base: clocked(tt.base, &at),
					OnAttempt: func(_ httpretry.Attempt, d httpretry.Decision) { last = d }}
				resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil).WithContext(ctx))
				if err != nil && err != boom {
					t.Errorf("got error %v, want the outcome of the last attempt", err)
				}
				if resp != nil {
					readAll(t, resp)
				}
				if !slices.Equal(at, tt.want) {
					t.Errorf("attempts at %v, want %v: %s", at, tt.want, tt.reason)
				}
				if got, want := time.Since(start), tt.want[len(tt.want)-1]; got != want {
					t.Errorf("came back after %v, want %v: a wait in vain is not begun", got, want)
				}
				if want := (httpretry.Decision{Delay: tt.delay, Reason: "deadline"}); last != want {
					t.Errorf("got decision %+v, want %+v", last, want)
				}
			})
		})
	}
}

// The Timeout of an http.Client is a deadline of the request.
func TestRoundTrip_ClientTimeoutIsADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		client := &http.Client{
			Transport: &httpretry.RetryTransport{Base: busy(http.StatusServiceUnavailable, headerOf("Retry-After", "30"))},
			Timeout:   20 * time.Second,
		}
		resp, err := client.Do(newRequest(t, "GET", "http://example.com/", nil))
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, resp)
		if elapsed := time.Since(start); resp.StatusCode != http.StatusServiceUnavailable || elapsed != 0 {
			t.Errorf("got status %d after %v, want the 503 immediately", resp.StatusCode, elapsed)
		}
	})
}

// orderedReasons are all reasons, in the order in which they are checked after a
// response.
var orderedReasons = []string{
	"final", "canceled", "not_idempotent",
	"not_replayable", "policy", "deadline",
}

// decisionWhen returns the decision after an attempt for which the given
// reasons hold.
func decisionWhen(t *testing.T, holds map[string]bool) httpretry.Decision {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if holds["deadline"] {
		ctx, cancel = context.WithTimeout(ctx, time.Minute)
		defer cancel()
	}
	status, method := http.StatusInternalServerError, "PUT"
	if holds["final"] {
		status = http.StatusNotFound
	}
	if holds["not_idempotent"] {
		method = "POST"
	}
	var decisions []httpretry.Decision
	rt := &httpretry.RetryTransport{
		Policy: policyFunc(func(a httpretry.Attempt) (time.Duration, bool) {
			return time.Hour, a.Number == 1 && !holds["policy"]
		}),
		Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			resp, err := busy(status, nil)(req)
			if holds["canceled"] {
				cancel()
			}
			return resp, err
		}),
		OnAttempt: func(_ httpretry.Attempt, d httpretry.Decision) { decisions = append(decisions, d) },
	}
	if holds["not_replayable"] {
		rt.MaxReplayBytes = -1
	}
	resp, err := rt.RoundTrip(newRequest(t, method, "http://example.com/", newTestBody("x")).WithContext(ctx))
	if err != nil {
		t.Fatalf("%v: got error %v, want the response", holds, err)
	}
	resp.Body.Close()
	return decisions[0]
}

// If several reasons hold, the first in the order in which Decision.Reason lists
// them is reported. A call that has its response is not canceled, though.
func TestReason_FirstInOrderIsReported(t *testing.T) {
	for set := range 1 << len(orderedReasons) {
		want := httpretry.Decision{Retry: true, Delay: time.Hour}
		holds := map[string]bool{}
		for i, reason := range slices.Backward(orderedReasons) {
			if set&(1<<i) != 0 {
				holds[reason] = true
				want = httpretry.Decision{Reason: reason}
				if reason == "policy" || reason == "deadline" {
					want.Delay = time.Hour
				}
			}
		}
		synctest.Test(t, func(t *testing.T) {
			if got := decisionWhen(t, holds); got != want {
				t.Errorf("%v hold: got %+v, want %+v", holds, got, want)
			}
		})
	}
}

// An attempt that the caller has ended is canceled, although its verdict is Final.
func TestReason_CanceledAttempt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got httpretry.Decision
	rt := &httpretry.RetryTransport{
		Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			cancel()
			return nil, req.Context().Err()
		}),
		OnAttempt: func(_ httpretry.Attempt, d httpretry.Decision) { got = d },
	}
	rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil).WithContext(ctx))
	if want := (httpretry.Decision{Reason: "canceled"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestReason_OtherCauses(t *testing.T) {
	outcome := func(o httpretry.Outcome) func(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
		return func(*http.Request, *http.Response, error) httpretry.Verdict {
			return httpretry.Verdict{Outcome: o}
		}
	}
	noGetBody := newRequest(t, "PUT", "http://example.com/", strings.NewReader("x"))
	noGetBody.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("gone") }
	get, post := newRequest(t, "GET", "http://example.com/", nil), newRequest(t, "POST", "http://example.com/", nil)
	tests := []struct {
		name string
		rt   *httpretry.RetryTransport
		req  *http.Request
		want string
		why  string
	}{
		{"success", &httpretry.RetryTransport{Base: statuses(200)}, get, "final", "success is final"},
		{"unknown outcome", &httpretry.RetryTransport{Base: statuses(503), Classifier: outcome(9)}, get, "final", "an unknown outcome is not retried"},
		{"rejected POST", &httpretry.RetryTransport{Base: statuses(500), Classifier: outcome(httpretry.Unprocessed), Policy: httpretry.Never}, post, "policy",
			"an unprocessed request may be resent"},
		{"own Idempotent", &httpretry.RetryTransport{Base: statuses(500), Idempotent: func(*http.Request) bool { return false }}, get, "not_idempotent",
			"in place of IsIdempotent"},
		{"failing GetBody", &httpretry.RetryTransport{Base: statuses(503), Policy: now}, noGetBody, "not_replayable", "the body can't be had again"},
		{"retries used up", &httpretry.RetryTransport{Base: statuses(503), Policy: now}, get, "policy", "MaxRetries is used up"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var last httpretry.Decision
			tt.rt.OnAttempt = func(_ httpretry.Attempt, d httpretry.Decision) { last = d }
			resp, err := tt.rt.RoundTrip(tt.req)
			if err != nil {
				t.Fatal(err)
			}
			readAll(t, resp)
			if want := (httpretry.Decision{Reason: tt.want}); last != want {
				t.Errorf("got %+v, want %+v: %s", last, want, tt.why)
			}
		})
	}
}

func TestAttemptNumber_Counts(t *testing.T) {
	if got := httpretry.AttemptNumber(context.Background()); got != 1 {
		t.Errorf("got %d, want 1 for a context that no RetryTransport has made", got)
	}
	var got []int
	rt := &httpretry.RetryTransport{Policy: now, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
		n := httpretry.AttemptNumber(req.Context())
		got = append(got, n)
		status := http.StatusServiceUnavailable
		if n == 4 {
			status = http.StatusOK
		}
		return busy(status, nil)(req)
	})}
	// A buffered body, a body with GetBody, and no body: each has its own way to
	// the next request.
	for _, body := range []io.Reader{newTestBody("x"), strings.NewReader("x"), nil} {
		got = nil
		req := newRequest(t, "PUT", "http://example.com/", body)
		resp, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, resp)
		if want := []int{1, 2, 3, 4}; !slices.Equal(got, want) {
			t.Errorf("with a body of %T: got %v, want %v", body, got, want)
		}
		if n := httpretry.AttemptNumber(req.Context()); n != 1 {
			t.Errorf("got %d from the caller's own context, want 1", n)
		}
	}
}

// A reported is the part of an Attempt and its Decision that can be compared.
type reported struct {
	Number         int
	Delay, Elapsed time.Duration
	Status         int
	Err            error
	Outcome        httpretry.Outcome
	Decision       httpretry.Decision
}

func report(t *testing.T, a httpretry.Attempt, d httpretry.Decision) reported {
	t.Helper()
	r := reported{a.Number, a.Delay, a.Elapsed, 0, a.Err, a.Verdict.Outcome, d}
	if a.Response != nil {
		r.Status = a.Response.StatusCode
	}
	if (a.Response == nil) == (a.Err == nil) {
		t.Errorf("got response %v and error %v, want one of them", a.Response, a.Err)
	}
	return r
}

// OnAttempt is called after each attempt, including the last, with the decision
// that follows.
func TestOnAttempt_ReportsEachAttempt(t *testing.T) {
	const sec, ms = time.Second, time.Millisecond
	retry := func(d time.Duration) httpretry.Decision { return httpretry.Decision{Retry: true, Delay: d} }
	stop := func(r string) httpretry.Decision { return httpretry.Decision{Reason: r} }
	boom := errors.New("boom")
	tests := []struct {
		name string
		base []any // a status or an error for each attempt
		want []reported
	}{
		{"success", []any{200}, []reported{
			{1, 0, 100 * ms, 200, nil, httpretry.Final, stop("final")},
		}},
		{"success after retries", []any{503, boom, 500, 200}, []reported{
			{1, 0, 100 * ms, 503, nil, httpretry.Unprocessed, retry(sec)},
			{2, sec, sec + 200*ms, 0, boom, httpretry.Uncertain, retry(2 * sec)},
			{3, 2 * sec, 3*sec + 300*ms, 500, nil, httpretry.Uncertain, retry(4 * sec)},
			{4, 4 * sec, 7*sec + 400*ms, 200, nil, httpretry.Final, stop("final")},
		}},
		{"final failure after a retry", []any{boom, 404}, []reported{
			{1, 0, 100 * ms, 0, boom, httpretry.Uncertain, retry(sec)},
			{2, sec, sec + 200*ms, 404, nil, httpretry.Final, stop("final")},
		}},
		{"retries run out", []any{503, 503, 503, boom}, []reported{
			{1, 0, 100 * ms, 503, nil, httpretry.Unprocessed, retry(sec)},
			{2, sec, sec + 200*ms, 503, nil, httpretry.Unprocessed, retry(2 * sec)},
			{3, 2 * sec, 3*sec + 300*ms, 503, nil, httpretry.Unprocessed, retry(4 * sec)},
			{4, 4 * sec, 7*sec + 400*ms, 0, boom, httpretry.Uncertain, stop("policy")},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				req := newRequest(t, "GET", "http://example.com/", nil)
				var got []reported
				rt := &httpretry.RetryTransport{
					Policy: httpretry.RetryConfig{MaxRetries: 3, Jitter: httpretry.NoJitter},
					Base:   scripted(100*ms, tt.base...),
					OnAttempt: func(a httpretry.Attempt, d httpretry.Decision) {
						if a.Request == req {
							t.Error("Attempt.Request is the caller's request, want a copy")
						}
						got = append(got, report(t, a, d))
					},
				}
				resp, err := rt.RoundTrip(req)
				if err == nil {
					readAll(t, resp)
				}
				if !slices.Equal(got, tt.want) {
					t.Errorf("reported\n%+v, want\n%+v", got, tt.want)
				}
			})
		})
	}
}

// scripted returns a base whose attempts end as the script says, each with a
// status or an error.
func scripted(takes time.Duration, script ...any) roundTripFunc {
	return func(req *http.Request) (*http.Response, error) {
		time.Sleep(takes) // virtual
		if _, err := consume(req); err != nil {
			return nil, err
		}
		next := script[0]
		script = script[1:]
		if err, ok := next.(error); ok {
			return nil, err
		}
		return response(req, next.(int), ""), nil
	}
}

// A request that was not sent has no attempt.
func TestOnAttempt_IsNotCalledWithoutAnAttempt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	rt := &httpretry.RetryTransport{Base: statuses(200), OnAttempt: func(a httpretry.Attempt, _ httpretry.Decision) {
		t.Errorf("heard of attempt %d, want of none: the context was done from the start", a.Number)
	}}
	rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil).WithContext(ctx))
}

// hostile are the jitters for fuzzed configurations.
var hostile = []func(backoff, previous time.Duration) time.Duration{
	nil, nil, nil, nil, httpretry.NoJitter, httpretry.FullJitter, httpretry.EqualJitter,
	httpretry.DecorrelatedJitter(time.Second, time.Minute), httpretry.DecorrelatedJitter(math.MinInt64, math.MaxInt64),
	func(_, _ time.Duration) time.Duration { return math.MinInt64 },
	func(_, _ time.Duration) time.Duration { return math.MaxInt64 },
}

// bounded is the number of those, from the first, that never exceed twice the
// backoff.
const bounded = 7

func FuzzRetryConfig(f *testing.F) {
	const sec = int64(time.Second)
	f.Add(3, int64(0), int64(0), 0.0, 0.0, int64(0), int64(0), uint8(0), 1, int64(0), int64(0), int64(0))
	f.Add(9, 100*sec, sec, 3.0, 1.0, 60*sec, 5*sec, uint8(1), 4, 3*sec, 7*sec, 2*sec)
	f.Add(math.MaxInt, int64(math.MaxInt64), int64(math.MaxInt64), math.MaxFloat64, 1.0, int64(math.MaxInt64), int64(math.MaxInt64),
		uint8(6), math.MaxInt, int64(math.MaxInt64), int64(math.MaxInt64), int64(math.MaxInt64))
	f.Add(math.MaxInt, int64(-1), int64(-1), math.NaN(), math.NaN(), int64(-1), int64(-1), uint8(9), 1<<20, int64(-1), int64(0), int64(0))
	f.Add(1, int64(1), int64(3), math.Inf(1), math.Inf(-1), int64(0), int64(0), uint8(8), 1, sec, int64(0), int64(math.MaxInt64))
	f.Fuzz(func(t *testing.T, retries int, initial, limit int64, factor, fraction float64, maxElapsed, maxAfter int64,
		jitter uint8, number int, asked, elapsed, previous int64) {
		if number < 1 || elapsed < 0 || previous < 0 {
			return // impossible in an Attempt
		}
		c := httpretry.RetryConfig{
			MaxRetries: retries, InitialBackoff: time.Duration(initial), MaxBackoff: time.Duration(limit), BackoffFactor: factor,
			JitterFraction: fraction, MaxElapsed: time.Duration(maxElapsed), MaxRetryAfter: time.Duration(maxAfter),
			Jitter: hostile[int(jitter)%len(hostile)],
		}
		a := attempt(number, time.Duration(asked))
		a.Elapsed, a.Delay = time.Duration(elapsed), time.Duration(previous)
		wait, retry := c.Backoff(a)
		if wait < 0 {
			t.Errorf("%+v after %+v: got %d, want no negative wait", c, a, wait)
		}
		most := retries
		if most == 0 {
			most = 3
		}
		if number > most && (retry || wait != 0) {
			t.Errorf("%+v after %+v: got %d, %t, want no more than MaxRetries, and no wait", c, a, wait, retry)
		}
		if !retry {
			return
		}
		if int64(wait) < asked {
			t.Errorf("%+v after %+v: got %d, want no less than the server asked for", c, a, wait)
		}
		if maxElapsed > 0 && (elapsed > maxElapsed || int64(wait) > maxElapsed-elapsed) {
			t.Errorf("%+v after %+v: got %d, which ends after MaxElapsed", c, a, wait)
		}
		wantBounded(t, c, a, wait, int(jitter)%len(hostile))
	})
}

// wantBounded fails if a wait is longer than MaxBackoff × (1 + fraction), or if
// the server asked for more than MaxRetryAfter.
func wantBounded(t *testing.T, c httpretry.RetryConfig, a httpretry.Attempt, wait time.Duration, jitter int) {
	t.Helper()
	limit := c.MaxBackoff
	if limit <= 0 {
		limit = time.Minute
	}
	longest := c.MaxRetryAfter
	if longest <= 0 {
		longest = limit
	}
	asked := a.Verdict.RetryAfter
	if asked > longest {
		t.Errorf("%+v after %+v: got a retry, though the server asked for more than %d", c, a, longest)
	}
	fraction := 1.0
	if c.Jitter == nil {
		if fraction = max(c.JitterFraction, 0); c.JitterFraction == 0 || !(fraction <= 1) {
			fraction = 0.1
		}
	}
	if most := float64(limit) * (1 + fraction) * (1 + 1e-15); asked <= 0 && jitter < bounded && float64(wait) > most {
		t.Errorf("%+v after %+v: got %d, want at most %g", c, a, wait, most)
	}
}
