package redact

import "strings"

// A matcher finds the parts of one text that are secret. It indexes the text
// rather than the secrets, which may be far longer.
type matcher struct {
	readings []reading
	cut      []bool // the bytes of the text that findBeginning has found

	// runs holds the substrings of the readings by their length, and whether
	// each is secret. A map is nil until a secret of its length is looked for.
	runs [quoteBytes + 1]map[string]bool

	// sums has a bit for each value of sum for a run of quoteBytes. It spares
	// nearly all lookups in runs: without it, 100 MiB take 5 s.
	sums [1 << (sumBits - 6)]uint64
}

func newMatcher(text string) *matcher {
	return &matcher{readings: readings(text), cut: make([]bool, len(text))}
}

// run returns the substrings of length n, at most quoteBytes.
func (m *matcher) run(n int) map[string]bool {
	if m.runs[n] != nil {
		return m.runs[n]
	}
	m.runs[n] = make(map[string]bool)
	for _, r := range m.readings {
		for i := range len(r.text) - n + 1 {
			m.runs[n][r.text[i:i+n]] = false
		}
		if n < quoteBytes || len(r.text) < n {
			continue
		}
		for _, sum := range rolling(r.text) {
			m.sums[sum.bit()/64] |= 1 << (sum.bit() % 64)
		}
	}
	return m.runs[n]
}

// find marks secret, or if it is longer than quoteBytes each part of it that has
// quoteBytes, where the text holds it.
func (m *matcher) find(secret []byte) {
	if len(secret) < quoteBytes {
		m.mark(secret)
		return
	}
	m.run(quoteBytes)
	for i, sum := range rolling(secret) {
		if m.sums[sum.bit()/64]&(1<<(sum.bit()%64)) != 0 {
			m.mark(secret[i : i+quoteBytes])
		}
	}
}

func (m *matcher) mark(part []byte) {
	runs := m.run(len(part))
	if secret, found := runs[string(part)]; found && !secret {
		runs[string(part)] = true
	}
}

// findBeginning hides the longest beginning of secret that the text ends with:
// whoever cut the text may have cut the secret.
func (m *matcher) findBeginning(secret string) {
	for _, r := range m.readings {
		for n := min(len(secret), len(r.text)); n >= minCutBytes; n-- {
			if strings.HasSuffix(r.text, secret[:n]) {
				r.hide(m.cut, len(r.text)-n, n)
				break
			}
		}
	}
}

// hidden returns which bytes of the text are part of a secret.
func (m *matcher) hidden() []bool {
	hidden := m.cut
	for n, runs := range m.runs {
		if runs == nil {
			continue
		}
		for _, r := range m.readings {
			for i := range len(r.text) - n + 1 {
				if runs[r.text[i:i+n]] {
					r.hide(hidden, i, n)
				}
			}
		}
	}
	return hidden
}

const sumBits = 20

// A sum is the hash of quoteBytes bytes: a polynomial whose value for the next
// window follows from that for the last (Karp and Rabin, 1987).
type sum uint64

const sumBase sum = 0x9E3779B97F4A7C15

// outgoing is sumBase to the power of quoteBytes.
var outgoing = func() sum {
	power := sum(1)
	for range quoteBytes {
		power *= sumBase
	}
	return power
}()

func (s sum) bit() uint64 { return uint64(s) >> (64 - sumBits) }

// rolling yields the offset and the sum of each window of quoteBytes in b.
func rolling[T ~string | ~[]byte](b T) func(yield func(int, sum) bool) {
	return func(yield func(int, sum) bool) {
		var s sum
		for i := range len(b) {
			s = s*sumBase + sum(b[i]) + 1
			if i >= quoteBytes {
				s -= (sum(b[i-quoteBytes]) + 1) * outgoing
			}
			if i >= quoteBytes-1 && !yield(i-quoteBytes+1, s) {
				return
			}
		}
	}
}
