package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/httpretry/httpretry/internal/rawjson"
)

// maxAnswerBytes bounds a line of output. A response body has at most 16 MiB, and
// escapes and replaced characters make it at most three times as long.
const maxAnswerBytes = 64 << 20

// An answer is one line of output, in the format of the OpenAI batch API. A
// request that failed has an answer too: Error gives the reason, and Response
// is the gateway's response, or nil if there was none.
type answer struct {
	ID       string    `json:"id"`
	CustomID string    `json:"custom_id"`
	Response *response `json:"response"`
	Error    *failure  `json:"error"`
}

type response struct {
	StatusCode int             `json:"status_code"`
	RequestID  string          `json:"request_id"`
	Body       json.RawMessage `json:"body"`
}

type failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// An output is a file of answers, at most one for each custom_id. Every write
// adds whole lines, so that a process that is killed leaves whole lines. After a
// loss of power the last line may be torn; openOutput removes it.
type output struct {
	name string
	path string // name without symbolic links
	file file

	size    int64     // of the whole lines
	sum     uint32    // checksum of the whole lines
	modTime time.Time // of the file after the last write

	verifyAt time.Time // intact does not call verify before

	locked   []*os.File // the last is file
	repaired int64      // bytes of a torn last line that openOutput removed
	dropped  int        // failures of earlier runs that openOutput removed
	buf      []byte     // the last lines
}

// A file has the methods of an *os.File that an output needs.
type file interface {
	io.Writer
	Truncate(size int64) error
	Sync() error
}

// openOutput opens or creates the file of that name, and marks in the input's
// index which requests the file answers. It removes the lines of requests that
// failed, because they are sent again. A file that is not the output of this
// input is not modified.
func openOutput(ctx context.Context, name string, in *input) (*output, error) {
	// compact replaces the file, but must not replace a link to it.
	path, err := filepath.EvalSymlinks(name)
	if err != nil {
		path = name
	}
	if err := suitable(path, name, in); err != nil {
		return nil, err
	}
	// A name may be too long for the files beside the output, which a later run needs.
	longest := (&output{path: path}).removingName()
	if _, err := os.Lstat(longest); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: a file beside it would be: %w", name, err)
	}
	f, err := openLocked(path, name)
	if err != nil {
		return nil, err
	}
	o := &output{name: name, path: path, file: f, locked: []*os.File{f}}
	if err := o.restore(ctx, in); err != nil {
		o.Close()
		return nil, err
	}
	return o, nil
}

// openLocked opens the file and locks it.
func openLocked(path, name string) (*os.File, error) {
	for range 100 {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o666)
		if err != nil {
			return nil, err
		}
		if err := lock(f); err != nil {
			f.Close()
			return nil, fmt.Errorf("%s: in use by another run: %w", name, err)
		}
		// Another run may have replaced the file before it was locked. Then
		// the locked file no longer has a name, and writes to it would be lost.
		if isAt(f, path) {
			return f, nil
		}
		f.Close()
	}
	return nil, fmt.Errorf("%s: replaced repeatedly by another process", name)
}

// isAt reports whether f is the file at path.
func isAt(f *os.File, path string) bool {
	open, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(open, there)
}

// suitable returns an error for a path that must not be written to.
func suitable(path, name string, in *input) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s: not a regular file: a later run could not read it", name)
	}
	if src, ok := in.src.(*os.File); ok {
		if other, err := src.Stat(); err == nil && os.SameFile(info, other) {
			return fmt.Errorf("%s: is the input", name)
		}
	}
	return nil
}

// restore reads the lines that earlier runs have written and removes those that
// must not stay.
func (o *output) restore(ctx context.Context, in *input) error {
	f := o.locked[0]
	s := survey{index: in.index, wrong: problems{file: o.name}, input: in.name, part: in.part}
	if err := s.read(ctx, f); err != nil {
		return err
	}
	o.size, o.sum, o.repaired, o.dropped = s.whole, s.sum, s.end-s.whole, s.failed
	o.removeLeftovers()
	if s.stale > 0 {
		return o.compact(ctx, in.index)
	}
	if o.repaired > 0 {
		nothing := func(io.Writer) error { return nil }
		if err := o.keepAnd(nothing, func() error { return f.Truncate(o.size) }); err != nil {
			return err
		}
	}
	if s.unterminated {
		_, err := o.append([]byte("\n"))
		return err
	}
	return o.noteModTime()
}

// append adds whole lines. If the disk does not take all of them, append keeps those
// that are whole, and returns their number of bytes.
func (o *output) append(text []byte) (whole int, err error) {
	n, err := o.file.Write(text)
	if err != nil {
		err = fmt.Errorf("%s: %w", o.name, err)
		n = bytes.LastIndexByte(text[:n], '\n') + 1
		// If this fails too, the next run removes the torn line.
		o.file.Truncate(o.size + int64(n))
	}
	o.size += int64(n)
	o.sum = crc32.Update(o.sum, castagnoli, text[:n])
	return n, cmp.Or(err, o.noteModTime())
}

// write adds the answers of results, a line each, unless something else has changed the
// file. It returns the number of those that were written.
func (o *output) write(results ...result) (written int, err error) {
	const chunk = 1 << 20 // bytes that are written together, and kept for the next lines
	err = o.intact()
	for err == nil && written < len(results) {
		if cap(o.buf) > 2*chunk {
			o.buf = nil
		}
		o.buf = o.buf[:0]
		for _, r := range results[written:] {
			if o.buf = r.appendLine(o.buf); len(o.buf) >= chunk {
				break
			}
		}
		var whole int
		whole, err = o.append(o.buf)
		written += bytes.Count(o.buf[:whole], []byte("\n"))
	}
	return written, err
}

// appendLine appends the line of a result to dst.
func (r result) appendLine(dst []byte) []byte {
	if r.line != nil {
		return append(dst, r.line...)
	}
	return r.answer.appendLine(dst)
}

// appendLine appends the line of an answer to dst. A body that is nested so deeply
// that the line could not be read again is written as a string.
func (a answer) appendLine(dst []byte) []byte {
	start := len(dst)
	dst = a.append(dst)
	if a.Response != nil && !rawjson.Valid(dst[start:]) {
		flat := *a.Response
		flat.Body = quoteJSON(string(flat.Body))
		a.Response = &flat
		dst = a.append(dst[:start])
	}
	return dst
}

// append appends the line of an answer to dst, if its body is not nested too deeply.
func (a answer) append(dst []byte) []byte {
	dst = appendString(append(dst, `{"id":`...), a.ID)
	dst = appendString(append(dst, `,"custom_id":`...), a.CustomID)
	if r := a.Response; r == nil {
		dst = append(dst, `,"response":null`...)
	} else {
		dst = strconv.AppendInt(append(dst, `,"response":{"status_code":`...), int64(r.StatusCode), 10)
		dst = appendString(append(dst, `,"request_id":`...), r.RequestID)
		dst = appendCompact(append(dst, `,"body":`...), r.Body)
		dst = append(dst, '}')
	}
	if a.Error == nil {
		return append(dst, `,"error":null}`+"\n"...)
	}
	dst = appendString(append(dst, `,"error":{"code":`...), a.Error.Code)
	dst = appendString(append(dst, `,"message":`...), a.Error.Message)
	return append(dst, "}}\n"...)
}

// appendString appends a JSON string.
func appendString(dst []byte, s string) []byte {
	if special := func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }; strings.ContainsFunc(s, special) {
		return appendCompact(dst, quoteJSON(s))
	}
	return append(append(append(dst, '"'), s...), '"')
}

// appendCompact appends valid JSON without white space between its tokens, and with
// the characters escaped that lineEnd finds.
func appendCompact(dst, text []byte) []byte {
	quoted, escaped := false, false
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case !quoted && c <= ' ':
			continue
		case c >= utf8.RuneSelf: // only strings have such bytes
			if escape, size := lineEnd(text[i:]); size > 0 {
				dst = append(dst, escape...)
				i += size - 1
				continue
			}
		case escaped:
			escaped = false
		case c == '\\':
			escaped = true
		case c == '"':
			quoted = !quoted
		}
		dst = append(dst, c)
	}
	return dst
}

// lineEnd returns the escape and the size of the character at the beginning of
// text, if the line readers of some languages cut a line there. JSON allows it in
// strings.
func lineEnd(text []byte) (escape string, size int) {
	switch char, size := utf8.DecodeRune(text); char {
	case '\u0085', '\u2028', '\u2029':
		return fmt.Sprintf(`\u%04x`, char), size
	}
	return "", 0
}

// Close flushes the file to the disk. It returns errOutputChanged if the file at
// the output's path does not hold the lines that were written.
func (o *output) Close() error {
	err := errors.Join(o.file.Sync(), o.intact())
	for _, f := range o.locked {
		err = errors.Join(err, f.Close())
	}
	return err
}
