package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
)

// lines reads a file line by line and holds one line at a time in memory. A
// line ends in "\n", "\r\n" or the end of the file. A byte order mark before
// the first line is skipped.
//
//	for l.next() { … l.text … }
//	if l.err != nil { … }
type lines struct {
	text       []byte // the line without its end; valid until next is called
	number     int    // of the line, from 1
	start, end int64  // offsets of the line and of the next one; see tooLong
	terminated bool   // the line ends in "\n", not at the end of the file
	tooLong    bool   // the line has more than max bytes: text is empty, and end is not yet known
	err        error  // the read error that ended the iteration, if any

	r    *bufio.Reader
	max  int
	buf  []byte // the line with its end
	more bool   // the line is too long and has not been read to its end
}

func newLines(r io.Reader, max int) *lines {
	return &lines{r: bufio.NewReaderSize(r, 64<<10), max: max}
}

// next reads a line and reports whether there was one. It returns as soon as a
// line is known to be too long, because such a line may never end; the next
// call skips the rest of it.
func (l *lines) next() bool {
	for l.more {
		l.read()
	}
	if l.err != nil {
		return false
	}
	l.start, l.tooLong, l.buf = l.end, false, l.buf[:0]
	for l.more = true; l.more && !l.tooLong; {
		l.keep(l.read())
	}
	if l.err != nil || l.start == l.end {
		return false
	}
	l.number++
	l.text = l.trim()
	return true
}

// read returns a part of the line, and clears more after the last one.
func (l *lines) read() []byte {
	part, err := l.r.ReadSlice('\n')
	l.end += int64(len(part))
	if err == bufio.ErrBufferFull {
		return part
	}
	l.more, l.terminated = false, err == nil
	if err != nil && err != io.EOF {
		l.err = err
	}
	return part
}

// keep adds part to the line, or drops the whole line if it is too long.
func (l *lines) keep(part []byte) {
	const ending = len("\r\n")
	if len(l.buf)+len(part) > l.max+ending {
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

// blank reports whether the line is empty or consists of white space.
func (l *lines) blank() bool {
	return !l.tooLong && len(bytes.TrimSpace(l.text)) == 0
}

// A contextReader is a reader whose Read fails once ctx is done. It does not
// interrupt a Read that blocks; for that, see interruptible.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
