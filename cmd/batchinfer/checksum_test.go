package main

import (
	"hash/crc32"
	"testing"
)

func TestChecksumOf(t *testing.T) {
	line := checksumOf([]byte(`{"custom_id":"a","body":{"prompt":"a \"b\" c\\","n":[1,2]}}`))
	for _, same := range []string{
		` { "custom_id" : "a", "body":{"prompt":"a \"b\" c\\",` + "\t" + `"n":[1, 2]}}` + "\r",
	} {
		if checksumOf([]byte(same)) != line {
			t.Errorf("%s: got another checksum, want the same: only white space differs", same)
		}
	}
	for _, other := range []string{
		`{"custom_id":"a","body":{"prompt":"a \"b\"  c\\","n":[1,2]}}`,
		`{"custom_id":"a","body":{"prompt":"a \"b\" c\\ ","n":[1,2]}}`,
		`{"custom_id":"a","body":{"prompt":"a \"b\" C\\","n":[1,2]}}`,
		`{"custom_id":"a","body":{"prompt":"a \"b\" c\\","n":[2,1]}}`,
	} {
		if checksumOf([]byte(other)) == line {
			t.Errorf("%s: got the same checksum, want another", other)
		}
	}
}

// The checksum is that of the bytes outside of white space, but for that in strings.
func TestChecksumOf_WhiteSpace(t *testing.T) {
	for text, same := range map[string]string{
		`{ "a" : 1 }`:                 `{"a":1}`,
		"\t{\"a b\" :\r\n[1, 2]}":     `{"a b":[1,2]}`,
		`{"a\" : b" : "\\" , "c": 1}`: `{"a\" : b":"\\","c":1}`,
		`{"\\\\" : "\\\" }" }`:        `{"\\\\":"\\\" }"}`,
		`"" : ""`:                     `"":""`,
		`"no end : `:                  `"no end : `,
		`"no end \" : `:               `"no end \" : `,
		``:                            ``,
	} {
		if got, want := checksumOf([]byte(text)), checksum(crc32.Checksum([]byte(same), castagnoli)); got != want {
			t.Errorf("checksumOf(%s) = %08x, want %08x, that of %s", text, got, want, same)
		}
	}
}
