package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
	"github.com/httpretry/httpretry/internal/rawjson"
)

// queueID returns the ID of a request in a queue. It changes with the content of the
// line, so that a result is never that of another prompt under the same custom_id.
func queueID(key digest, content checksum) queue.ID {
	id := make([]byte, 0, len("112233445566778899aabbcc-12345678"))
	id = append(hex.AppendEncode(id, key[:]), '-')
	return queue.ID(hex.AppendEncode(id, binary.BigEndian.AppendUint32(nil, uint32(content))))
}

// parseQueueID is the inverse of queueID.
func parseQueueID(id queue.ID) (key digest, content checksum, ok bool) {
	const digits = 2 * len(digest{})
	if len(id) != digits+len("-12345678") || id[digits] != '-' {
		return key, 0, false
	}
	_, err := hex.Decode(key[:], []byte(id[:digits]))
	n, err2 := strconv.ParseUint(string(id[digits+1:]), 16, 32)
	return key, checksum(n), err == nil && err2 == nil
}

// wireVersion changes when the head of a job cannot understand the results of older
// workers.
const wireVersion = 1

// A wireResult is a result as a worker sends it: as JSON, followed by a line break and
// the line of the output.
type wireResult struct {
	Version  int            `json:"v"`
	Attempts int            `json:"attempts"`
	Tokens   int            `json:"tokens,omitempty"`
	Retries  map[string]int `json:"retries,omitempty"` // by cause
	Waited   time.Duration  `json:"waited,omitempty"`  // in nanoseconds

	// Of a failure:
	Passing bool          `json:"passing,omitempty"`
	Final   bool          `json:"final,omitempty"`
	TooLong time.Duration `json:"too_long,omitempty"` // in nanoseconds
	Failure *failure      `json:"failure,omitempty"`
}

// encodeResult returns a result for the head. Its counts are those of r.tally, whose
// live must be that of this request alone.
func encodeResult(r result) []byte {
	retries, waited := r.tally.live.totals()
	text, err := json.Marshal(wireResult{
		Version: wireVersion, Attempts: r.tally.attempts, Tokens: r.tokens, Retries: retries, Waited: waited,
		Passing: r.passing, Final: r.tally.final, TooLong: r.tally.tooLong, Failure: r.answer.Error,
	})
	if err != nil {
		panic(fmt.Sprintf("encoding a result: %v", err))
	}
	return r.answer.appendLine(append(text, '\n'))
}

// errForeign is the mistake of a result that no worker of this version has sent.
var errForeign = errors.New("not a result of this version of batchinfer")

// decodeResult returns the result of a worker to the request with that ID, and the rest
// of the message. Its line is a part of payload, and belongs to that request.
func decodeResult(id queue.ID, payload []byte) (r result, w wireResult, err error) {
	head, line, _ := bytes.Cut(payload, []byte("\n"))
	if json.Unmarshal(head, &w) != nil || w.Version != wireVersion || !isAnswerTo(id, line) {
		return r, w, errForeign
	}
	r.line = line
	r.answer.Error, r.tokens, r.passing = w.Failure, w.Tokens, w.Passing
	r.tally.attempts, r.tally.final, r.tally.tooLong = w.Attempts, w.Final, w.TooLong
	return r, w, nil
}

// isAnswerTo reports whether text is one line of output with an answer to the request.
func isAnswerTo(id queue.ID, text []byte) bool {
	line, whole := bytes.CutSuffix(text, []byte("\n"))
	if !whole || bytes.ContainsAny(line, "\r\n") || !rawjson.Valid(line) {
		return false
	}
	var answerID, customID string
	for name, value := range rawjson.Members(line) {
		switch string(name) {
		case "id":
			answerID, _ = rawjson.String(value)
		case "custom_id":
			customID, _ = rawjson.String(value)
		}
	}
	content, known := checksumIn(answerID)
	return known && id == queueID(digestOf(customID), content)
}
