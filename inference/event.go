package inference

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
)

// maxEventBytes bounds one event of a stream, and each of its lines. The
// longest ones carry an image.
const maxEventBytes = 8 << 20

const byteOrderMark = "\uFEFF"

var errEventTooLarge = errors.New("event is larger than 8 MiB")

// A StreamEvent is one piece of an answer.
type StreamEvent struct {
	// Data is the event as it came, which is a JSON object: all choices, tool
	// calls, usage and whatever else the gateway tells there. It belongs to
	// whoever receives the event.
	Data []byte

	// Text is what the event adds to the text of the choice with index 0, in
	// both forms of answers: delta.content and text. It may be empty.
	Text string

	// FinishReason is why the choice with index 0 ends here, such as "stop"
	// or "length". It is empty as long as it does not.
	FinishReason string
}

// An eventReader reads server-sent events, by "Interpreting an event stream" in
// the HTML standard. Of their fields it knows event and data, and the error
// that older llama.cpp sends in place of data.
type eventReader struct {
	r       *bufio.Reader
	unused  []rawEvent // given back by unread
	line    []byte     // the line that was read last
	begun   bool       // the first line has been read
	afterCR bool       // the last line ended in CR: a LF that follows is part of its end
}

func newEventReader(r io.Reader) *eventReader {
	return &eventReader{r: bufio.NewReader(&stickyReader{r: r})}
}

// A rawEvent is what stands between two empty lines of a stream.
type rawEvent struct {
	name string // the value of its last field "event"; "error" if it has a field of that name
	data []byte // the values of its fields "data", joined by line feeds
}

// next returns the next event whose data is not blank, and [io.EOF] when there
// is none. An event that is unfinished when the stream ends is dropped. Only
// [DONE] counts without the empty line after it and, when the stream ends there,
// without the end of its own line.
func (r *eventReader) next() (ev rawEvent, err error) {
	if len(r.unused) > 0 {
		ev, r.unused[0] = r.unused[0], rawEvent{} // so that its data is not kept alive
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

// beginsLikeEvents reports whether a field or a comment comes first, after a
// byte order mark and the ends of lines. A field must be one that is in use, and
// have its colon: so does no page and no JSON begin. It is also true if nothing
// comes, or if the stream breaks off before that is known: next tells why. It
// takes nothing from the stream.
func (r *eventReader) beginsLikeEvents() bool {
	skip := 0
	first, err := r.peek(skip, 1)
	if string(first) == byteOrderMark[:1] {
		if mark, _ := r.peek(0, len(byteOrderMark)); string(mark) == byteOrderMark {
			skip = len(byteOrderMark)
		}
		first, err = r.peek(skip, 1)
	}
	for err == nil && (first[0] == '\r' || first[0] == '\n') {
		skip++
		first, err = r.peek(skip, 1)
	}
	if err != nil {
		return err != bufio.ErrBufferFull // no stream begins with so many
	}
	for _, field := range []string{"data:", "event:", "id:", "retry:", "error:", ":"} {
		if first[0] != field[0] {
			continue // without waiting for more
		}
		got, err := r.peek(skip, len(field))
		brokeOff := err != nil && err != io.EOF && err != bufio.ErrBufferFull
		if string(got) == field || brokeOff && strings.HasPrefix(field, string(got)) {
			return true
		}
	}
	return false
}

// peek returns the next n bytes of the stream after skip, and if there are fewer
// of them also why.
func (r *eventReader) peek(skip, n int) ([]byte, error) {
	got, err := r.r.Peek(skip + n)
	return got[min(skip, len(got)):], err
}

// unread makes next return events that it has returned before once more, ahead of
// the others. No events may be left from an earlier unread.
func (r *eventReader) unread(events []rawEvent) { r.unused = events }

// readLine reads a line into r.line, without its end: CR, LF or CRLF. After a CR
// it does not wait for a LF, which may be long in coming.
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

// cutLine returns what stands before the first CR or LF, and that byte, if
// there is one.
func cutLine(b []byte) (line, end []byte) {
	i := len(b)
	for _, c := range []byte("\n\r") {
		if at := bytes.IndexByte(b[:i], c); at >= 0 {
			i = at
		}
	}
	return b[:i], b[i:min(i+1, len(b))]
}

// add adds a line to the event. An empty one adds nothing.
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
