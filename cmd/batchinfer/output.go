package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
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
// adds a whole line, so that a process that is killed leaves whole lines. After
// a loss of power the last line may be torn; openOutput removes it.
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
	buf      bytes.Buffer
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
	s := survey{index: in.index, wrong: problems{file: o.name}, input: in.name}
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
		return o.append([]byte("\n"))
	}
	return o.noteModTime()
}

// append adds whole lines. If they can't be written whole, append restores the
// previous end of the file.
func (o *output) append(text []byte) error {
	n, err := o.file.Write(text)
	if err != nil {
		// If this fails too, the next run removes the torn line.
		o.file.Truncate(o.size)
		return fmt.Errorf("%s: %w", o.name, err)
	}
	o.size += int64(n)
	o.sum = crc32.Update(o.sum, castagnoli, text)
	return o.noteModTime()
}

// write adds an answer as one line, unless something else has changed the file.
// A body that is nested so deeply that the line could not be read again is
// written as a string.
func (o *output) write(a answer) error {
	if err := o.intact(); err != nil {
		return err
	}
	err := o.encode(a)
	if err == nil && !json.Valid(o.buf.Bytes()) && a.Response != nil {
		flat := *a.Response
		flat.Body = quoteJSON(string(flat.Body))
		a.Response = &flat
		err = o.encode(a)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", o.name, err)
	}
	return o.append(o.buf.Bytes())
}

// encode sets buf to the line of an answer.
func (o *output) encode(a answer) error {
	const largest = 1 << 20 // kept for the next line
	if o.buf.Cap() > largest {
		o.buf = bytes.Buffer{}
	}
	o.buf.Reset()
	enc := json.NewEncoder(&o.buf)
	enc.SetEscapeHTML(false)
	return enc.Encode(a)
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
