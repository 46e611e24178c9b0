package httpretry

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"testing"
)

var contentRanges = []struct {
	in     string
	want   byteRange
	ok     bool
	reason string
}{
	{"bytes 0-0/1", byteRange{0, 0, 1}, true, "one byte"},
	{"bytes 5-9/10", byteRange{5, 9, 10}, true, "to the end"},
	{"bytes 5-9/*", byteRange{5, 9, -1}, true, "the total may be unknown"},
	{"BYTES 5-9/10", byteRange{5, 9, 10}, true, "units are case-insensitive"},
	{"bytes 007-009/0010", byteRange{7, 9, 10}, true, "leading zeros are digits"},
	{"bytes 0-9223372036854775805/9223372036854775806", byteRange{0, math.MaxInt64 - 2, math.MaxInt64 - 1}, true, "the largest"},
	{"bytes 0-9223372036854775806/*", byteRange{0, math.MaxInt64 - 1, -1}, true, "the largest without a total"},
	{"bytes 0-9223372036854775807/*", byteRange{}, false, "its end overflows an int64"},
	{"bytes 0-9/9223372036854775807", byteRange{}, false, "the end of the next range would overflow"},
	{"bytes 0-9/9223372036854775808", byteRange{}, false, "overflow"},
	{"bytes 18446744073709551616-18446744073709551617/*", byteRange{}, false, "overflow to 0"},
	{"", byteRange{}, false, "empty"},
	{"bytes", byteRange{}, false, "unit alone"},
	{"bytes */10", byteRange{}, false, "only for a 416"},
	{"bytes 5-9", byteRange{}, false, "no total"},
	{"bytes 5-9/", byteRange{}, false, "empty total"},
	{"bytes -9/10", byteRange{}, false, "no first byte"},
	{"bytes 5-/10", byteRange{}, false, "no last byte"},
	{"bytes 9-5/10", byteRange{}, false, "backwards"},
	{"bytes 5-10/10", byteRange{}, false, "beyond the total"},
	{"bytes=5-9/10", byteRange{}, false, "the syntax of Range"},
	{"bytes:5-9/10", byteRange{}, false, "not a valid separator"},
	{"items 5-9/10", byteRange{}, false, "another unit"},
	{"bytes  5-9/10", byteRange{}, false, "two spaces"},
	{"bytes\t5-9/10", byteRange{}, false, "a tab"},
	{"bytes 5 - 9/10", byteRange{}, false, "spaces within"},
	{"bytes +5-9/10", byteRange{}, false, "a sign"},
	{"bytes 5--9/10", byteRange{}, false, "another sign"},
	{"bytes 5-9/+10", byteRange{}, false, "and another"},
	{"bytes 5-9/-1", byteRange{}, false, "a negative total is not an unknown one"},
	{"bytes 0x5-9/10", byteRange{}, false, "not decimal"},
	{"bytes 1_0-19/20", byteRange{}, false, "no underscores"},
	{"bytes ٥-٩/*", byteRange{}, false, "digits are ASCII"},
	{"bytes 5-9/10, bytes 12-13/20", byteRange{}, false, "two"},
	{"bytes 5-9/10/10", byteRange{}, false, "two totals"},
	{"bytes 5-9/10 ", byteRange{}, false, "a space at the end"},
}

func TestParseContentRange(t *testing.T) {
	for _, tt := range contentRanges {
		if got, ok := parseContentRange(tt.in); got != tt.want || ok != tt.ok {
			t.Errorf("parseContentRange(%q): got %v, %v, want %v, %v: %s", tt.in, got, ok, tt.want, tt.ok, tt.reason)
		}
	}
}

// contentRangeGrammar is that of RFC 9110, section 14.4, for bytes.
var contentRangeGrammar = regexp.MustCompile(`^(?i:bytes) ([0-9]+)-([0-9]+)/([0-9]+|\*)$`)

// An accepted value follows the grammar, has the offsets of the text, and cannot
// overflow.
func FuzzContentRange(f *testing.F) {
	for _, tt := range contentRanges {
		f.Add(tt.in)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, ok := parseContentRange(s)
		m := contentRangeGrammar.FindStringSubmatch(s)
		if !ok {
			if r != (byteRange{}) {
				t.Errorf("%q: got %v although it was rejected", s, r)
			}
			if m != nil && plausible(m[1], m[2], m[3]) {
				t.Errorf("%q was rejected, want it accepted: it follows the grammar", s)
			}
			return
		}
		if m == nil {
			t.Fatalf("%q: got %v, want it rejected: it does not follow the grammar", s, r)
		}
		if r.first < 0 || r.last < r.first || r.last+1 <= 0 || r.total+1 < 0 || r.total >= 0 && r.total <= r.last {
			t.Errorf("%q: got %v, which is not a range", s, r)
		}
		total := "*"
		if r.total >= 0 {
			total = fmt.Sprint(r.total)
		}
		if got, want := fmt.Sprintf("%d-%d/%s", r.first, r.last, total), digitsOf(m[1])+"-"+digitsOf(m[2])+"/"+digitsOf(m[3]); got != want {
			t.Errorf("%q: got %s, want %s", s, got, want)
		}
	})
}

// plausible reports whether a range of these digits is in order and cannot
// overflow.
func plausible(first, last, total string) bool {
	a, errA := strconv.ParseInt(first, 10, 62)
	b, errB := strconv.ParseInt(last, 10, 62)
	if total == "*" {
		return errA == nil && errB == nil && a <= b
	}
	n, err := strconv.ParseInt(total, 10, 62)
	return errA == nil && errB == nil && err == nil && a <= b && b < n
}

// digitsOf returns digits without leading zeros.
func digitsOf(digits string) string {
	for len(digits) > 1 && digits[0] == '0' {
		digits = digits[1:]
	}
	return digits
}
