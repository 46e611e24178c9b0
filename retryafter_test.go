package httpretry_test

import (
	"fmt"
	"math"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
)

const (
	rfc1123 = "Sun, 06 Nov 1994 08:49:37 GMT"
	rfc850  = "Sunday, 06-Nov-94 08:49:37 GMT"
	asctime = "Sun Nov  6 08:49:37 1994"

	halfAMinuteBefore = "Sun, 06 Nov 1994 08:49:07 GMT"
)

// headerOf returns a header from alternating names and values.
func headerOf(namesAndValues ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(namesAndValues); i += 2 {
		h.Add(namesAndValues[i], namesAndValues[i+1])
	}
	return h
}

func TestRetryAfter_Numbers(t *testing.T) {
	const no = time.Duration(-1) // no wait requested
	tests := []struct {
		name, value string
		want        time.Duration
		reason      string
	}{
		{"zero", "0", 0, "a request not to wait"},
		{"seconds", "120", 2 * time.Minute, "RFC 9110, section 10.2.3"},
		{"leading zeros", "007", 7 * time.Second, "digits"},
		{"decimal", "1.5", 1500 * time.Millisecond, "sent by LLM APIs"},
		{"decimal below 1", "0.25", 250 * time.Millisecond, "sent by LLM APIs"},
		{"spaces", " \t5 ", 5 * time.Second, "optional whitespace is not part of a field value"},
		{"empty", "", no, "nothing asked"},
		{"blank", "  ", no, "nothing asked"},
		{"negative", "-5", no, "not a number of seconds"},
		{"plus", "+5", no, "not a number of seconds"},
		{"exponent", "1e3", no, "not digits"},
		{"hexadecimal", "0x10", no, "not digits"},
		{"underscore", "1_000", no, "Go's, not HTTP's"},
		{"NaN", "NaN", no, "not a number"},
		{"Inf", "Inf", no, "not digits"},
		{"infinity", "infinity", no, "not digits"},
		{"a point", ".", no, "no digit"},
		{"two points", "1.2.3", no, "not a number"},
		{"two values", "30,120", 2 * time.Minute, "a proxy combined two lines (RFC 9110, section 5.2)"},
		{"longest first", "120, 30", 2 * time.Minute, "the longest satisfies each of them"},
		{"decimal comma", "1,5", 5 * time.Second, "two values"},
		{"empty members", ",, 30 ,", 30 * time.Second, "RFC 9110, section 5.6.1: empty members are ignored"},
		{"a malformed member", "soon, 30, -5", 30 * time.Second, "at least the others are asked for"},
		{"no well-formed member", "soon, later", no, "neither a number nor a date"},
		{"commas", ",,,", no, "nothing asked"},
		{"beyond the first hundred", strings.Repeat("1,", 100) + "9", time.Second, "bounded"},
		{"unit", "5s", no, "a number has no unit"},
		{"other digits", "٣", no, "not ASCII"},
		{"garbage", "soon", no, "neither a number nor a date"},
		{"largest", "1000000000", 1e9 * time.Second, "a larger number is a date"},
		{"too large", "9223372037", math.MaxInt64, "saturates rather than turning negative"},
		{"far too large", "99999999999999999999999999", math.MaxInt64, "saturates"},
		{"400 digits", strings.Repeat("9", 400), math.MaxInt64, "beyond even a float64"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := httpretry.RetryAfter(&http.Response{Header: headerOf("Retry-After", tt.value)})
			if tt.want == no {
				if got != 0 || ok {
					t.Errorf("Retry-After: %q: got %v, %t, want 0, false: %s", tt.value, got, ok, tt.reason)
				}
			} else if got != tt.want || !ok {
				t.Errorf("Retry-After: %q: got %v, %t, want %v, true: %s", tt.value, got, ok, tt.want, tt.reason)
			}
		})
	}
}

// A decimal fraction is not rounded through a float64.
func TestRetryAfter_DecimalsAreExact(t *testing.T) {
	for ms := range 10_000 {
		value := fmt.Sprintf("%d.%03d", ms/1000, ms%1000)
		want := time.Duration(ms) * time.Millisecond
		got, ok := httpretry.RetryAfter(&http.Response{Header: headerOf("Retry-After", value)})
		if got != want || !ok {
			t.Fatalf("Retry-After: %s: got %d ns, %t, want %d ns, true", value, got, ok, want)
		}
	}
}

// An integer is not rounded through a float64.
func TestRetryAfter_IntegersAreExact(t *testing.T) {
	for _, n := range []int64{1, 9007199, 900719925, 461168601, 999999999, 1e9} {
		want := time.Duration(n) * time.Second
		got, _ := httpretry.RetryAfter(&http.Response{Header: headerOf("Retry-After", fmt.Sprint(n))})
		if got != want {
			t.Errorf("Retry-After: %d: got %d ns, want %d ns", n, got, want)
		}
	}
}

func TestRetryAfter_Dates(t *testing.T) {
	tests := []struct {
		name   string
		header http.Header
		want   time.Duration
		ok     bool
		reason string
	}{
		{"RFC 1123", headerOf("Retry-After", rfc1123, "Date", halfAMinuteBefore), 30 * time.Second, true, "the preferred form"},
		{"RFC 850", headerOf("Retry-After", rfc850, "Date", halfAMinuteBefore), 30 * time.Second, true, "obsolete, but to be accepted"},
		{"asctime", headerOf("Retry-After", asctime, "Date", halfAMinuteBefore), 30 * time.Second, true, "obsolete, but to be accepted"},
		{"spaces", headerOf("Retry-After", " "+rfc1123+" ", "Date", halfAMinuteBefore), 30 * time.Second, true, "not part of the value"},
		{"now", headerOf("Retry-After", rfc1123, "Date", rfc1123), 0, true, "a request not to wait"},
		{"past", headerOf("Retry-After", halfAMinuteBefore, "Date", rfc1123), 0, true, "a date that has passed is no wait"},
		{"past by the client's clock", headerOf("Retry-After", rfc1123), 0, true, "it is 2000 in the bubble"},
		{"no Date", headerOf("Retry-After", "Sat, 01 Jan 2000 00:01:00 GMT"), time.Minute, true, "measured by the client's clock"},
		{"bad Date", headerOf("Retry-After", "Sat, 01 Jan 2000 00:01:00 GMT", "Date", "today"), time.Minute, true, "as good as none"},
		{"client's clock is wrong", headerOf("Retry-After", "Sat, 01 Jan 2000 00:01:00 GMT", "Date", "Sat, 01 Jan 2000 00:00:50 GMT"),
			10 * time.Second, true, "the server's own clock counts"},
		{"far future", headerOf("Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT", "Date", rfc1123), math.MaxInt64, true, "saturates"},
		{"no such date", headerOf("Retry-After", "Sun, 31 Feb 1994 08:49:37 GMT", "Date", rfc1123), 0, false, "malformed"},
		{"another time zone", headerOf("Retry-After", "Sun, 06 Nov 1994 08:49:37 CET", "Date", halfAMinuteBefore), 0, false, "GMT is required"},
		{"RFC 3339", headerOf("Retry-After", "1994-11-06T08:49:37Z", "Date", halfAMinuteBefore), 0, false, "none of the three forms"},
		{"leap second", headerOf("Retry-After", "Sat, 31 Dec 2016 23:59:60 GMT", "Date", "Sat, 31 Dec 2016 23:59:30 GMT"),
			30 * time.Second, true, "RFC 9110, section 5.6.7: a second may be 60"},
		{"leap second, RFC 850", headerOf("Retry-After", "Saturday, 31-Dec-16 23:59:60 GMT", "Date", "Sat, 31 Dec 2016 23:59:30 GMT"),
			30 * time.Second, true, "RFC 9110, section 5.6.7: a second may be 60"},
		{"leap second, asctime", headerOf("Retry-After", "Sat Dec 31 23:59:60 2016", "Date", "Sat, 31 Dec 2016 23:59:30 GMT"),
			30 * time.Second, true, "RFC 9110, section 5.6.7: a second may be 60"},
		{"leap second of Date", headerOf("Retry-After", "Sun, 01 Jan 2017 00:00:30 GMT", "Date", "Sat, 31 Dec 2016 23:59:60 GMT"),
			30 * time.Second, true, "not the client's clock"},
		{"minute 60", headerOf("Retry-After", "Sat, 31 Dec 2016 23:60:00 GMT"), 0, false, "malformed"},
		{"second 61", headerOf("Retry-After", "Sat, 31 Dec 2016 23:59:61 GMT"), 0, false, "malformed"},
		{"only :60", headerOf("Retry-After", ":60"), 0, false, "malformed"},
		{"epoch", headerOf("Retry-After", "1000000030", "Date", "Sun, 09 Sep 2001 01:46:40 GMT"), 30 * time.Second, true, "above 10⁹"},
		{"epoch with a fraction", headerOf("Retry-After", "1000000030.5", "Date", "Sun, 09 Sep 2001 01:46:40 GMT"), 30500 * time.Millisecond, true, "above 10⁹"},
		{"epoch in milliseconds", headerOf("Retry-After", "1000000030500", "Date", "Sun, 09 Sep 2001 01:46:40 GMT"), 30500 * time.Millisecond, true, "above 10¹²"},
		{"epoch by the client's clock", headerOf("Retry-After", "1000000000"), 1e9 * time.Second, true, "10⁹ is the largest wait"},
		{"past epoch", headerOf("Retry-After", "1000000030", "Date", "Sun, 09 Sep 2001 02:46:40 GMT"), 0, true, "a date that has passed is no wait"},
		{"last epoch", headerOf("Retry-After", "9223372036", "Date", "Thu, 01 Jan 1970 00:00:00 GMT"), 9223372036 * time.Second, true, "fits just so"},
		{"epoch in a list", headerOf("Retry-After", "20, 1000000030", "Date", "Sun, 09 Sep 2001 01:46:40 GMT"), 30 * time.Second, true, "the longest"},
		{"dates in a list", headerOf("Retry-After", halfAMinuteBefore+", "+rfc1123, "Date", halfAMinuteBefore), 30 * time.Second, true, "the longest"},
		{"all forms in a list", headerOf("Retry-After", "5, "+asctime+", "+rfc850+",7,"+rfc1123+", 9", "Date", halfAMinuteBefore), 30 * time.Second, true, "the longest"},
		{"a number between dates", headerOf("Retry-After", rfc1123+", 45 ,"+rfc850, "Date", halfAMinuteBefore), 45 * time.Second, true, "the longest"},
		{"only a Date", headerOf("Date", rfc1123), 0, false, "nothing asked"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // for its clock: midnight UTC, 2000-01-01
				got, ok := httpretry.RetryAfter(&http.Response{Header: tt.header})
				if got != tt.want || ok != tt.ok {
					t.Errorf("%v: got %v, %t, want %v, %t: %s", tt.header, got, ok, tt.want, tt.ok, tt.reason)
				}
			})
		})
	}
}

func TestRetryAfter_Precedence(t *testing.T) {
	const ms, xms, ra = "retry-after-ms", "x-ms-retry-after-ms", "Retry-After"
	tests := []struct {
		name   string
		header http.Header
		want   time.Duration
		ok     bool
		reason string
	}{
		{"none", headerOf(), 0, false, "nothing asked"},
		{"no header at all", nil, 0, false, "a fake may leave it nil"},
		{"ms alone", headerOf(ms, "250"), 250 * time.Millisecond, true, "OpenAI, Azure"},
		{"x-ms alone", headerOf(xms, "250"), 250 * time.Millisecond, true, "Azure"},
		{"fraction of a millisecond", headerOf(ms, "0.5"), 500 * time.Microsecond, true, "a decimal"},
		{"spaces around ms", headerOf(ms, " 250\t"), 250 * time.Millisecond, true, "not part of the value"},
		{"ms before seconds", headerOf(ra, "1", ms, "250"), 250 * time.Millisecond, true, "Retry-After is rounded up"},
		{"x-ms before seconds", headerOf(ra, "1", xms, "250"), 250 * time.Millisecond, true, "Retry-After is rounded up"},
		{"ms before x-ms", headerOf(xms, "300", ms, "250"), 250 * time.Millisecond, true, "the order of the documentation"},
		{"all of them", headerOf(ra, "1", xms, "300", ms, "250"), 250 * time.Millisecond, true, "the order of the documentation"},
		{"zero ms", headerOf(ra, "1", ms, "0"), 0, true, "well-formed, though 0"},
		{"bad ms, seconds", headerOf(ra, "1", ms, "soon"), time.Second, true, "the first that is well-formed"},
		{"negative ms, x-ms", headerOf(ra, "1", ms, "-1", xms, "300"), 300 * time.Millisecond, true, "the first that is well-formed"},
		{"ms before a date", headerOf(ra, rfc1123, "Date", halfAMinuteBefore, ms, "250"), 250 * time.Millisecond, true, "more exact"},
		{"a date in ms", headerOf(ms, rfc1123, ra, "2"), 2 * time.Second, true, "milliseconds are a number"},
		{"huge ms", headerOf(ms, strings.Repeat("9", 30)), math.MaxInt64, true, "saturates"},
		{"two Retry-Afters", headerOf(ra, "1", ra, "3", ra, "2"), 3 * time.Second, true, "the longest"},
		{"two lists", headerOf(ra, "1, 4", ra, "3"), 4 * time.Second, true, "the longest"},
		{"list of ms", headerOf(ms, "250, 300", ra, "1"), 300 * time.Millisecond, true, "the longest"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := httpretry.RetryAfter(&http.Response{Header: tt.header})
			if got != tt.want || ok != tt.ok {
				t.Errorf("%v: got %v, %t, want %v, %t: %s", tt.header, got, ok, tt.want, tt.ok, tt.reason)
			}
		})
	}
}

func TestRetryAfter_Resets(t *testing.T) {
	const (
		remaining, reset  = "X-RateLimit-Remaining", "X-RateLimit-Reset"
		remains, resets   = "RateLimit-Remaining", "RateLimit-Reset"
		ms, ra, date      = "retry-after-ms", "Retry-After", "Date"
		september, epoch  = "Sun, 09 Sep 2001 01:46:40 GMT", "1000000030"
		limited, exceeded = http.StatusTooManyRequests, http.StatusForbidden
	)
	tests := []struct {
		name   string
		status int
		header http.Header
		want   time.Duration
		ok     bool
		reason string
	}{
		{"seconds", limited, headerOf(remaining, "0", reset, "44"), 44 * time.Second, true, "from now"},
		{"without X", limited, headerOf(remains, "0", resets, "44"), 44 * time.Second, true, "an early IETF draft"},
		{"fraction", limited, headerOf(remaining, "0", reset, "0.5"), 500 * time.Millisecond, true, "a decimal, as in Retry-After"},
		{"epoch", limited, headerOf(remaining, "0", reset, epoch, date, september), 30 * time.Second, true, "GitHub"},
		{"epoch with a fraction", limited, headerOf(remaining, "0", reset, epoch+".5", date, september), 30500 * time.Millisecond, true, "Discord"},
		{"epoch in milliseconds", limited, headerOf(remaining, "0", reset, epoch+"500", date, september), 30500 * time.Millisecond, true, "OpenRouter"},
		{"epoch by the client's clock", limited, headerOf(remaining, "0", reset, "1000000000"), 1e9 * time.Second, true, "10⁹ is the largest wait"},
		{"past", limited, headerOf(remaining, "0", reset, epoch, date, "Sun, 09 Sep 2001 02:46:40 GMT"), 0, true, "it was reset meanwhile"},
		{"date", limited, headerOf(remaining, "0", reset, rfc1123, date, halfAMinuteBefore), 30 * time.Second, true, "as in Retry-After"},
		{"spaces", limited, headerOf(remaining, " 0\t", reset, " 44 "), 44 * time.Second, true, "not part of the value"},
		{"several zeros", limited, headerOf(remaining, "000", reset, "44"), 44 * time.Second, true, "0"},
		{"far too large", limited, headerOf(remaining, "0", reset, strings.Repeat("9", 30)), math.MaxInt64, true, "saturates"},
		{"two limits", limited, headerOf(remaining, "0", reset, "44, 60"), time.Minute, true, "the longest"},
		{"both names", limited, headerOf(remaining, "0", reset, "60", remains, "0", resets, "44"), time.Minute, true, "the longest"},
		{"one exhausted", limited, headerOf(remaining, "0", reset, "44", remains, "1", resets, "60"), 44 * time.Second, true, "each has its own count"},
		{"the other's count", limited, headerOf(remaining, "0", resets, "44"), 0, false, "each has its own count"},
		{"some remain", limited, headerOf(remaining, "1", reset, "44"), 0, false, "another limit was exceeded"},
		{"some remain of one", limited, headerOf(remaining, "0", remaining, "9", reset, "44"), 0, false, "the reset may be that of the other"},
		{"some remain of one, in a list", limited, headerOf(remaining, "0, 9", reset, "44, 60"), 0, false, "the reset may be that of the other"},
		{"none remain of two", limited, headerOf(remaining, "0, 0", reset, "44, 60"), time.Minute, true, "the longest"},
		{"unknown count", limited, headerOf(reset, "44"), 0, false, "every response has it, also while some remain"},
		{"empty count", limited, headerOf(remaining, "", reset, "44"), 0, false, "malformed"},
		{"malformed count", limited, headerOf(remaining, "none", reset, "44"), 0, false, "malformed"},
		{"negative count", limited, headerOf(remaining, "-1", reset, "44"), 0, false, "some servers mean that there is no limit"},
		{"malformed reset", limited, headerOf(remaining, "0", reset, "soon"), 0, false, "malformed"},
		{"negative reset", limited, headerOf(remaining, "0", reset, "-44"), 0, false, "malformed"},
		{"no reset", limited, headerOf(remaining, "0"), 0, false, "nothing asked"},
		{"Retry-After", limited, headerOf(remaining, "0", reset, "44", ra, "5"), 5 * time.Second, true, "made for this response"},
		{"Retry-After of 0", limited, headerOf(remaining, "0", reset, "44", ra, "0"), 0, true, "well-formed, though 0"},
		{"malformed Retry-After", limited, headerOf(remaining, "0", reset, "44", ra, "soon"), 44 * time.Second, true, "the first that is well-formed"},
		{"milliseconds", limited, headerOf(remaining, "0", reset, "44", ms, "250"), 250 * time.Millisecond, true, "made for this response"},
		{"403", exceeded, headerOf(remaining, "0", reset, "44"), 44 * time.Second, true, "GitHub's refusal"},
		{"403, some remain", exceeded, headerOf(remaining, "1", reset, "44"), 0, false, "no permission"},
		{"503", http.StatusServiceUnavailable, headerOf(remaining, "0", reset, "44"), 44 * time.Second, true, "a refusal"},
		{"200", http.StatusOK, headerOf(remaining, "0", reset, "44"), 0, false, "it was the last that was allowed, and succeeded"},
		{"500", http.StatusInternalServerError, headerOf(remaining, "0", reset, "44"), 0, false, "it failed for another reason"},
		{"404", http.StatusNotFound, headerOf(remaining, "0", reset, "44"), 0, false, "not refused for its rate"},
		{"no status", 0, headerOf(remaining, "0", reset, "44"), 0, false, "a fake may leave it 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // for its clock: midnight UTC, 2000-01-01
				got, ok := httpretry.RetryAfter(&http.Response{StatusCode: tt.status, Header: tt.header})
				if got != tt.want || ok != tt.ok {
					t.Errorf("%d %v: got %v, %t, want %v, %t: %s", tt.status, tt.header, got, ok, tt.want, tt.ok, tt.reason)
				}
			})
		})
	}
}

// wantExact returns s units, exactly or saturated, or false if s is not a string
// of digits.
func wantExact(s string, unit time.Duration) (time.Duration, bool) {
	s = strings.TrimSpace(s)
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, _ := new(big.Int).SetString(s, 10)
	if n.Mul(n, big.NewInt(int64(unit))); n.IsInt64() {
		return time.Duration(n.Int64()), true
	}
	return math.MaxInt64, true
}

// A header of a megabyte costs no noticeable time.
func TestRetryAfter_HugeHeaderIsCheap(t *testing.T) {
	const size = 1 << 20
	for _, value := range []string{
		strings.Repeat("x,", size/2), strings.Repeat(",", size), strings.Repeat("9", size), strings.Repeat("Sun, ", size/5),
		strings.Repeat("1.", size/2), strings.Repeat(" ", size) + "soon", strings.Repeat(":60", size/3),
	} {
		for _, name := range []string{"Retry-After", "Retry-After-Ms", "Date", "X-RateLimit-Remaining", "X-RateLimit-Reset"} {
			h := headerOf(name, value, "Retry-After", "soon", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "soon")
			start := time.Now()
			httpretry.RetryAfter(&http.Response{StatusCode: http.StatusTooManyRequests, Header: h})
			if d := time.Since(start); d > time.Second {
				t.Errorf("%s: %q…: took %v, want less than 1s", name, value[:10], d)
			}
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, seed := range [][4]string{
		{"", "", "120", ""},
		{"", "", "1.5", ""},
		{"", "", rfc1123, halfAMinuteBefore},
		{"", "", rfc850, rfc1123},
		{"", "", asctime, ""},
		{"250", "300", "1", ""},
		{"-1", "1e3", "NaN", "Inf"},
		{"", "", "9223372037", ""},
		{"99999999999999999999", "", "", ""},
		{"", "", "4611686019", ""},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	f.Fuzz(func(t *testing.T, ms, xms, after, date string) {
		h := http.Header{"Retry-After-Ms": {ms}, "X-Ms-Retry-After-Ms": {xms}, "Retry-After": {after}, "Date": {date}}
		got, ok := httpretry.RetryAfter(&http.Response{Header: h})
		if got < 0 || !ok && got != 0 {
			t.Errorf("%q: got %d, %t, want no negative wait, and none if nothing is asked", h, got, ok)
		}
		for _, unit := range []struct {
			value string
			time.Duration
		}{{ms, time.Millisecond}, {xms, time.Millisecond}, {after, time.Second}} {
			want, digits := wantExact(unit.value, unit.Duration)
			if digits && unit.Duration == time.Second && want > 1e9*time.Second {
				return // a date
			}
			if digits {
				if got != want || !ok {
					t.Errorf("%q: got %d, %t, want %d, true", h, got, ok, want)
				}
				return
			}
			if strings.ContainsAny(unit.value, "0123456789") {
				return // it may be a decimal
			}
		}
	})
}

func FuzzRetryAfter_Resets(f *testing.F) {
	f.Add(429, "0", "44", "", "")
	f.Add(403, "0", "1000000030", "", "Sun, 09 Sep 2001 01:46:40 GMT")
	f.Add(503, "0, 0", "1000000030500, 20", "", "")
	f.Add(429, "00", "9223372037", "soon", "")
	f.Add(200, "0", "44", "7", "")
	f.Fuzz(func(t *testing.T, status int, remaining, reset, after, date string) {
		h := http.Header{"X-Ratelimit-Remaining": {remaining}, "X-Ratelimit-Reset": {reset}, "Retry-After": {after}, "Date": {date}}
		got, ok := httpretry.RetryAfter(&http.Response{StatusCode: status, Header: h})
		if got < 0 || !ok && got != 0 {
			t.Errorf("%d %q: got %d, %t, want no negative wait, and none if nothing is asked", status, h, got, ok)
		}
		delete(h, "X-Ratelimit-Reset")
		asked, askedOK := httpretry.RetryAfter(&http.Response{StatusCode: status, Header: h})
		refusal := status == 403 || status == 429 || status == 503
		if (got != asked || ok != askedOK) && (askedOK || !refusal || strings.Trim(remaining, "0 \t,") != "") {
			t.Errorf("%d %q, reset %q: got %d, %t, want %d, %t: nothing is exhausted, or Retry-After is there",
				status, h, reset, got, ok, asked, askedOK)
		}
		if want, digits := wantExact(reset, time.Second); digits && !askedOK && refusal && remaining == "0" &&
			want <= 1e9*time.Second && (got != want || !ok) {
			t.Errorf("%d %q, reset %q: got %d, %t, want %d, true", status, h, reset, got, ok, want)
		}
	})
}
