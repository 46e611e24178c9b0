package natsqueue

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

// longestName is the number of bytes of a job's name that go into names of streams. A
// server makes a directory of the name of a stream.
const longestName = 100

// token returns the name of a job as a token of a subject and of the name of a stream.
// Different names have different tokens, also where file names ignore case.
func token(job string) string {
	var b strings.Builder
	for _, c := range []byte(job) {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	if b.Len() <= longestName {
		return b.String()
	}
	// No other token contains two underscores in a row.
	sum := sha256.Sum256([]byte(job))
	return b.String()[:longestName] + "__" + hex.EncodeToString(sum[:12])
}

func workStream(token string) string    { return "BATCHINFER_" + token }
func resultsStream(token string) string { return "BATCHINFER_" + token + "_RESULTS" }
func objectBucket(token string) string  { return "batchinfer_" + token }
func objectStream(bucket string) string { return "OBJ_" + bucket }

func workSubject(token string, id queue.ID) string {
	return "batchinfer." + token + ".work." + string(id)
}
func resultSubject(token string, id queue.ID) string {
	return "batchinfer." + token + ".result." + string(id)
}

// idOf returns the last token of the subject of a request or a result.
func idOf(subject string) queue.ID {
	return queue.ID(subject[strings.LastIndexByte(subject, '.')+1:])
}
