package main

import (
	"bufio"
	"bytes"
	"io"
)

// lines reads a file line by line, a line ending in "\n", "\r\n" or the end of
// the file, and never holds more than one of them. A byte order mark before
// the first line is not part of it.
//
//	for l.next() { … l.text … }
//	if l.err != nil { … }
type lines struct {
	text       []byte // without its end; valid until next is called
	number     int    // of the line, from 1
	start, end int64  // where in the file the line begins, and the next one
	terminated bool   // the line ends in "\n", not in the end of the file
	tooLong    bool   // the line has more than max bytes; text is empty
	err        error  // what ended the reading, unless it was the end of the file

	r   *bufio.Reader
	max int
	buf []byte
}

func newLines(r io.Reader, max int) *lines {
	return &lines{r: bufio.NewReaderSize(r, 64<<10), max: max}
}

// next reads a line, and reports whether there was one.
func (l *lines) next() bool {
	if l.err != nil {
		return false
	}
	l.start, l.tooLong, l.buf = l.end, false, l.buf[:0]
	for {
		part, err := l.r.ReadSlice('\n')
		l.end += int64(len(part))
		l.keep(part)
		if err == bufio.ErrBufferFull {
			continue
		}
		if err != nil && err != io.EOF {
			l.err = err
			return false
		}
		l.terminated = err == nil
		break
	}
	if l.start == l.end {
		return false
	}
	l.number++
	l.text = l.trim()
	return true
}

// keep adds part to the line, or drops the whole line once it is too long.
func (l *lines) keep(part []byte) {
	const ending = len("\r\n")
	if l.tooLong || len(l.buf)+len(part) > l.max+ending {
		l.tooLong, l.buf = true, nil
		return
	}
	l.buf = append(l.buf, part...)
}

func (l *lines) trim() []byte {
	text := bytes.TrimSuffix(l.buf, []byte("\n"))
	text = bytes.TrimSuffix(text, []byte("\r"))
	if l.number == 1 {
		text = bytes.TrimPrefix(text, []byte("\uFEFF"))
	}
	if len(text) > l.max {
		l.tooLong, text = true, nil
	}
	return text
}

// blank reports whether the line has nothing to say.
func (l *lines) blank() bool {
	return !l.tooLong && len(bytes.TrimSpace(l.text)) == 0
}
