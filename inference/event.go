package inference

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
)

// maxEventBytes limits the size of an event, and of each of its lines. The largest
// contain images.
const maxEventBytes = 8 << 20

const byteOrderMark = "\uFEFF"

var errEventTooLarge = errors.New("event is larger than 8 MiB")

// A StreamEvent is one event of an answer.
type StreamEvent struct {
	// Data is the event's JSON object as received, including all choices, tool
	// calls and usage. The receiver owns it.
	Data []byte

	// Text is the text that the event adds to the choice with index 0, from
	// delta.content, message.content or text. If the content is a list of parts,
	// Text is that of the parts of type text. It may be empty.
	Text string

	// FinishReason is the finish reason of the choice with index 0, such as
	// "stop" or "length". It is empty if the choice has not finished.
	FinishReason string
}

// An eventReader reads server-sent events, as described in "Interpreting an event
// stream" of the HTML standard. It interprets the fields event and data, and the
// field error that older versions of llama.cpp send instead of data.
type eventReader struct {
	r       *bufio.Reader
	unused  []rawEvent // pushed back by unread
	line    []byte     // the last line read
	begun   bool       // the first line has been read
	passed  int        // the size of the blank lines that passBlankLines consumed
	afterCR bool       // the last line ended in CR; skip a following LF
}

func newEventReader(r io.Reader) *eventReader {
	return &eventReader{r: bufio.NewReader(&stickyReader{r: r})}
}

// A stickyReader repeats the first error of r, which r itself might not.
type stickyReader struct {
	r   io.Reader
	err error
}

// Read implements [io.Reader].
func (s *stickyReader) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(p)
	s.err = err
	return n, err
}

// A rawEvent is an event whose data has not been parsed.
type rawEvent struct {
	name string // the value of its last field "event"; "error" if it has a field of that name
	data []byte // the values of its fields "data", joined by line feeds
}

// next returns the next event whose data is not blank, or [io.EOF] at the end of
// the stream. It recognizes [DONE] without a following blank line. An event that
// is unfinished at the end of the stream is returned if it is an error or the end
// of a choice, since some gateways omit the last blank line; otherwise it is
// dropped, because it may have been cut off.
func (r *eventReader) next() (ev rawEvent, err error) {
	if len(r.unused) > 0 {
		ev, r.unused[0] = r.unused[0], rawEvent{} // releases its data
		r.unused = r.unused[1:]
		return ev, nil
	}
	for {
		err := r.readLine()
		if err != nil && err != io.EOF {
			return rawEvent{}, err
		}
		if tooLarge := ev.add(r.line); tooLarge != nil {
			return rawEvent{}, tooLarge
		}
		switch {
		case ev.saysDone():
			return ev, nil
		case err == io.EOF && ev.isWhole():
			return ev, nil
		case err == io.EOF:
			return rawEvent{}, io.EOF
		case len(r.line) > 0:
		case len(bytes.TrimSpace(ev.data)) > 0:
			return ev, nil
		default:
			ev = rawEvent{}
		}
	}
}

// beginsLikeEvents reports whether the stream starts with a comment or a known
// field name and colon, after an optional byte order mark and line endings. No
// HTML or JSON document does. It also returns true if the stream is empty or fails
// first; next then returns the error. It consumes nothing but blank lines.
func (r *eventReader) beginsLikeEvents() bool {
	skip, first, err := r.peekPast("\r\n")
	if err != nil {
		return err != bufio.ErrBufferFull
	}
	for _, field := range []string{"data:", "event:", "id:", "retry:", "error:", ":"} {
		if first != field[0] {
			continue // don't wait for more bytes
		}
		got, err := r.peek(skip, len(field))
		failed := err != nil && err != io.EOF && err != bufio.ErrBufferFull
		if string(got) == field || failed && strings.HasPrefix(field, string(got)) {
			return true
		}
	}
	return false
}

// beginsLikeJSON reports whether the stream starts with an object or an array,
// after an optional byte order mark and space. It consumes nothing but blank lines.
func (r *eventReader) beginsLikeJSON() bool {
	_, first, err := r.peekPast(" \t\r\n")
	return err == nil && (first == '{' || first == '[')
}

// peekPast returns the first byte that is neither part of a byte order mark nor
// among blanks, and its offset. It consumes nothing, unless more blank lines
// precede that byte than the buffer holds: DeepSeek sends empty lines to keep a
// connection alive, for minutes. It consumes at most maxResponseBytes of them, and
// then returns [bufio.ErrBufferFull].
func (r *eventReader) peekPast(blanks string) (skip int, first byte, err error) {
	got, err := r.peek(0, 1)
	if string(got) == byteOrderMark[:1] {
		if mark, _ := r.peek(0, len(byteOrderMark)); string(mark) == byteOrderMark {
			skip = len(byteOrderMark)
		}
		got, err = r.peek(skip, 1)
	}
	for err == nil && strings.IndexByte(blanks, got[0]) >= 0 {
		skip++
		got, err = r.peek(skip, 1)
		if err == bufio.ErrBufferFull && r.passBlankLines() {
			skip = 0
			got, err = r.peek(0, 1)
		}
	}
	if err != nil {
		return skip, 0, err
	}
	return skip, got[0], nil
}

// passBlankLines consumes the whole lines of a full buffer of blanks, with the byte
// order mark before them, and reports whether there were any.
func (r *eventReader) passBlankLines() bool {
	full, _ := r.r.Peek(r.r.Buffered())
	n := bytes.LastIndexAny(full, "\r\n") + 1
	if r.passed += n; n == 0 || r.passed > maxResponseBytes {
		return false
	}
	r.begun = true
	r.r.Discard(n)
	return true
}

// peek returns the n bytes that follow the next skip bytes, without consuming
// them, and an error if there are fewer.
func (r *eventReader) peek(skip, n int) ([]byte, error) {
	got, err := r.r.Peek(skip + n)
	return got[min(skip, len(got)):], err
}

// unread pushes back events for next to return. Events from an earlier unread must
// have been consumed.
func (r *eventReader) unread(events []rawEvent) { r.unused = events }

// readLine reads a line into r.line, without its end: CR, LF or CRLF. After a CR
// it does not wait for a LF, which might arrive much later.
func (r *eventReader) readLine() error {
	r.line = r.line[:0]
	for ended := false; !ended; {
		if _, err := r.r.Peek(1); err != nil {
			return err
		}
		here, _ := r.r.Peek(r.r.Buffered())
		if r.afterCR && here[0] == '\n' {
			r.r.Discard(1)
			r.afterCR = false
			continue
		}
		part, end := cutLine(here)
		if len(r.line)+len(part) > maxEventBytes {
			return errEventTooLarge
		}
		r.line = append(r.line, part...)
		r.r.Discard(len(part) + len(end))
		r.afterCR, ended = string(end) == "\r", len(end) > 0
	}
	if !r.begun {
		r.begun = true
		r.line = bytes.TrimPrefix(r.line, []byte(byteOrderMark))
	}
	return nil
}

// cutLine splits b at the first CR or LF, which it returns as end, if there is one.
func cutLine(b []byte) (line, end []byte) {
	i := len(b)
	for _, c := range []byte("\n\r") {
		if at := bytes.IndexByte(b[:i], c); at >= 0 {
			i = at
		}
	}
	return b[:i], b[i:min(i+1, len(b))]
}

// add adds a line to the event. An empty line adds nothing.
func (e *rawEvent) add(line []byte) error {
	name, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	switch string(name) {
	case "event":
		e.name = string(value)
	case "error":
		e.name = "error"
		fallthrough
	case "data":
		if len(e.data)+1+len(value) > maxEventBytes {
			return errEventTooLarge
		}
		if len(e.data) > 0 {
			e.data = append(e.data, '\n')
		}
		e.data = append(e.data, value...)
	}
	return nil
}
