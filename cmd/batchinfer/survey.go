package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
)

// A survey reads the output of an earlier run and finds out which requests it
// answers and which of its lines have to be removed.
type survey struct {
	index index    // of the input; read sets answered in its entries
	input string   // the name of the input, for messages
	part  shard    // whose requests the index has
	wrong problems // the reasons why the file can't be used

	whole        int64  // offset of the end of the last whole line
	end          int64  // offset of the end of the file
	sum          uint32 // checksum of the file up to whole
	unterminated bool   // the last whole line lacks its "\n"
	failed       int    // requests that have only failures
	stale        int    // lines to remove: failures and repeated answers

	answers  int                 // lines that belong to a request of the input
	failures map[digest]struct{} // requests that have a failure
}

// castagnoli is the polynomial that amd64 and arm64 have an instruction for.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// read surveys f. It returns an error if f can't be read or is not the output of
// the input.
func (s *survey) read(ctx context.Context, f io.ReadSeeker) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	s.failures = make(map[digest]struct{})
	l := newLines(contextReader{ctx, f}, maxAnswerBytes)
	for s.wrong.overflow() == nil && !l.tooLong && l.next() {
		s.end = l.end
		s.line(l)
	}
	for key := range s.failures {
		if s.index[key].answered == 0 {
			s.failed++
		}
	}
	if l.err != nil {
		return fmt.Errorf("%s:%d: %w", s.wrong.file, l.number+1, l.err)
	}
	return s.wrong.err()
}

// line enters a line of the output into the survey.
func (s *survey) line(l *lines) {
	a, ok := parseAnswer(l.text)
	switch {
	case l.tooLong:
		s.wrong.add(l.number, "not a line of batch output: longer than %d MiB", maxAnswerBytes>>20)
	case l.blank():
	case ok:
		s.note(a, l)
	case !l.terminated && s.torn(l.text):
		return // it does not belong to the whole lines
	default:
		s.wrong.add(l.number, "not a line of batch output")
	}
	s.whole, s.unterminated = l.end, !l.terminated
	s.sum = crc32.Update(s.sum, castagnoli, l.buf)
}

// note enters an answer into the index.
func (s *survey) note(a answer, l *lines) {
	key := digestOf(a.CustomID)
	e, known := s.index[key]
	if known {
		s.answers++
	}
	switch {
	case !s.part.has(key):
		s.wrong.add(l.number, "custom_id %s belongs to shard %v, and this is the output of shard %v: each shard needs an -output of its own, and the same number of shards in each run",
			quote(a.CustomID), s.part.of(key), s.part)
	case !known:
		// The answers of another batch could have custom_ids of this input,
		// and would be taken for answers to its requests.
		s.wrong.add(l.number, "custom_id %s is not in %s: is this the output of another batch?", quote(a.CustomID), s.input)
	case a.succeeded() && a.answersOther(e):
		s.wrong.add(l.number, "custom_id %s answers another request than line %d of %s: remove this line to send that request, or give another -output",
			quote(a.CustomID), e.line, s.input)
	case a.succeeded() && e.answered == 0:
		e.answered = int32(l.number)
		s.index[key] = e
	case !isWritten(l.text):
		// Removing this line would lose members that no other line holds.
		s.wrong.add(l.number, "not a line of batch output: batchinfer writes other members")
	default:
		s.stale++
		if !a.succeeded() {
			s.failures[key] = struct{}{}
		}
	}
}

// answersOther reports whether the answer is known to be that of another line than
// the entry's, under the same custom_id.
func (a answer) answersOther(e entry) bool {
	content, known := checksumIn(a.ID)
	return known && content != e.content
}

// torn reports whether text, the unterminated end of the file, is the beginning
// of a line of this output.
func (s *survey) torn(text []byte) bool {
	// After a power loss, a file system may have extended the file but not
	// written the data. Zeros alone could be any file, so they are accepted
	// only after an answer to a request of the input.
	written := bytes.TrimRight(text, "\x00")
	if len(written) < len(text) && s.answers == 0 {
		return false
	}
	b := readBeginning(written)
	if b.wrong {
		return false
	}
	_, known := s.index[digestOf(b.customID)]
	return known || b.customID == ""
}

func (a answer) succeeded() bool {
	return a.Error == nil && a.Response != nil && a.Response.StatusCode/100 == 2
}

// parseAnswer reads a line of output without its body.
func parseAnswer(text []byte) (a answer, ok bool) {
	var line struct {
		ID       string `json:"id"`
		CustomID string `json:"custom_id"`
		Response *struct {
			StatusCode int `json:"status_code"`
		} `json:"response"`
		Error json.RawMessage `json:"error"`
	}
	if json.Unmarshal(text, &line) != nil || line.CustomID == "" {
		return a, false
	}
	if line.Response == nil && absent(line.Error) { // a line of input, perhaps
		return a, false
	}
	a.ID, a.CustomID = line.ID, line.CustomID
	if line.Response != nil {
		a.Response = &response{StatusCode: line.Response.StatusCode}
	}
	if !absent(line.Error) {
		a.Error = &failure{}
	}
	return a, true
}
