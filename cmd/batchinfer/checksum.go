package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
)

// A checksum is a CRC-32C of the content of a line of input, without white space
// between the JSON tokens. The id of an answer holds it, so that a later run notices
// that the answer is that of another prompt under the same custom_id.
type checksum uint32

func checksumOf(line []byte) checksum {
	sum, start := uint32(0), 0
	for i := 0; i < len(line); i++ {
		switch {
		case line[i] == '"':
			i = stringEnd(line, i)
		case line[i] <= ' ':
			sum = crc32.Update(sum, castagnoli, line[start:i])
			start = i + 1
		}
	}
	return checksum(crc32.Update(sum, castagnoli, line[start:]))
}

// stringEnd returns the index of the quote that ends the string which begins with the
// quote at i, or the length of text.
func stringEnd(text []byte, i int) int {
	for {
		n := bytes.IndexByte(text[i+1:], '"')
		if n < 0 {
			return len(text)
		}
		i += 1 + n
		escapes := 0
		for text[i-1-escapes] == '\\' { // a quote stands before them
			escapes++
		}
		if escapes%2 == 0 {
			return i
		}
	}
}

// idPrefix begins the id of every answer.
const idPrefix = "batch_req_"

// newID returns the id of an answer to a request with that checksum.
func newID(content checksum) string {
	return fmt.Sprintf("%s%s_%08x", idPrefix, rand.Text(), uint32(content))
}

// checksumIn returns the checksum in an id of newID. The ids of other programs, and
// of earlier versions of this one, have none.
func checksumIn(id string) (content checksum, ok bool) {
	random, digits, ok := strings.Cut(strings.TrimPrefix(id, idPrefix), "_")
	isRandom := func(r rune) bool { return r >= 'A' && r <= 'Z' || r >= '2' && r <= '7' }
	isHex := func(r rune) bool { return r >= '0' && r <= '9' || r >= 'a' && r <= 'f' }
	if !ok || !strings.HasPrefix(id, idPrefix) || len(random) != randomChars || !only(random, isRandom) || len(digits) != 8 || !only(digits, isHex) {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 16, 32)
	return checksum(n), err == nil
}

// randomChars is the length of the text that [rand.Text] returns.
const randomChars = 26

// only reports whether text has no other characters than those.
func only(text string, those func(rune) bool) bool {
	return strings.IndexFunc(text, func(r rune) bool { return !those(r) }) < 0
}
