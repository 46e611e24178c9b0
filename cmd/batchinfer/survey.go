package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
)

// A survey reads the output of an earlier run and finds out what it holds.
type survey struct {
	index index    // of the input; read marks what has been answered
	input string   // its name
	wrong problems // what makes the file unusable

	whole        int64 // where the last whole line ends
	end          int64 // where the file ends
	unterminated bool  // the last whole line lacks its "\n"
	failed       int   // requests of which there is only a failure
	stale        int   // lines that have to go before the run: failures and repetitions
}

// read returns an error if f can't be read, or does not look as if it was the
// output of the input.
func (s *survey) read(ctx context.Context, f io.ReadSeeker) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	failed := make(map[digest]struct{})
	l := newLines(f, maxAnswerBytes)
	torn := 0 // the number of the line that can't be read
	for l.next() && s.wrong.overflow() == nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		s.end = l.end
		if torn > 0 { // it was not the last
			s.wrong.add(torn, "not a line of batch output")
			torn = 0
		}
		if l.blank() {
			s.whole = l.end
			continue
		}
		a, ok := parseAnswer(l.text)
		if !ok && tearable(l.text) {
			torn = l.number
			continue
		}
		s.whole, s.unterminated = l.end, !l.terminated
		if !ok {
			s.wrong.add(l.number, "not a line of batch output")
			continue
		}
		s.note(a, l.number, failed)
	}
	for key := range failed {
		if s.index[key].answered == 0 {
			s.failed++
		}
	}
	if l.err != nil {
		return fmt.Errorf("%s:%d: %w", s.wrong.file, l.number+1, l.err)
	}
	return s.wrong.err()
}

// note enters a line of the output into the index.
func (s *survey) note(a answer, number int, failed map[digest]struct{}) {
	key := digestOf(a.CustomID)
	e, known := s.index[key]
	switch {
	case !known:
		// Were it let pass, the answers to other requests that happen to have
		// the same custom_id would pass for answers to these.
		s.wrong.add(number, "custom_id %s is not in %s: is this the output of another batch?", quote(a.CustomID), s.input)
	case !a.succeeded():
		failed[key] = struct{}{}
		s.stale++
	case e.answered > 0:
		s.stale++
	default:
		e.answered = int32(number)
		s.index[key] = e
	}
}

func (a answer) succeeded() bool {
	return a.Error == nil && a.Response != nil && a.Response.StatusCode/100 == 2
}

// parseAnswer reads a line of output, without its body.
func parseAnswer(text []byte) (a answer, ok bool) {
	var line struct {
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
	a.CustomID = line.CustomID
	if line.Response != nil {
		a.Response = &response{StatusCode: line.Response.StatusCode}
	}
	if !absent(line.Error) {
		a.Error = &failure{}
	}
	return a, true
}

// tearable reports whether a line that can't be read may be what is left of a
// line of output: the beginning of one, or the zeros that a file system leaves
// where it lost what was written.
func tearable(text []byte) bool {
	const beginning = `{"id":"`
	text = bytes.TrimRight(text, "\x00")
	n := min(len(text), len(beginning))
	return string(text[:n]) == beginning[:n]
}
