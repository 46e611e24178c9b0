package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxAnswerBytes bounds a line of output, so that any file may be opened by
// mistake.
const maxAnswerBytes = 1 << 30

// An answer is one line of output, as the OpenAI batch API writes them. A
// request that failed for good has an answer too: Error says why, and Response
// is what the gateway said, nil if it said nothing.
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

// An output is a file of answers, to which answers are added. It holds at most
// one for each custom_id, and whoever kills the program at whatever moment
// finds whole lines in it; after a loss of power the last may be torn, which
// openOutput repairs.
type output struct {
	name string
	path string // name without links
	file file
	size int64 // up to the end of the last whole line
	buf  bytes.Buffer

	locked   []*os.File
	repaired int64 // bytes of a torn last line that openOutput removed
	dropped  int   // failures of earlier runs that openOutput removed: they are asked again
}

// A file is what an output needs of an *os.File.
type file interface {
	io.Writer
	Truncate(size int64) error
	Sync() error
}

// openOutput opens the file of that name, which it makes if there is none, and
// marks in the index which requests it holds an answer for. A failure is not an
// answer: its line is removed and its request is asked again. Nothing is
// changed in a file that is not the output of this input.
func openOutput(ctx context.Context, name string, in *input) (*output, error) {
	// A link stays a link when its file is replaced.
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

// openLocked opens the file, and locks it.
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
		// Between the two, another run may have replaced the file and ended:
		// what is locked then has no name, and would be lost.
		if isAt(f, path) {
			return f, nil
		}
		f.Close()
	}
	return nil, fmt.Errorf("%s: is replaced again and again", name)
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

var errOutputChanged = errors.New("removed, replaced or changed by something else during the run")

// intact returns an error if the file at the output's path is not what was
// written.
func (o *output) intact() error {
	f := o.locked[len(o.locked)-1]
	if !isAt(f, o.path) {
		return errOutputChanged
	}
	info, err := f.Stat()
	if err == nil && info.Size() != o.size {
		err = errOutputChanged
	}
	return err
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
		return fmt.Errorf("%s: not a regular file: a run could not go on from it", name)
	}
	if src, ok := in.src.(*os.File); ok {
		if other, err := src.Stat(); err == nil && os.SameFile(info, other) {
			return fmt.Errorf("%s: is the input", name)
		}
	}
	return nil
}

// restore reads what an earlier run has left, and makes it fit to go on from.
func (o *output) restore(ctx context.Context, in *input) error {
	f := o.locked[0]
	s := survey{index: in.index, wrong: problems{file: o.name}, input: in.name}
	if err := s.read(ctx, f); err != nil {
		return err
	}
	o.size, o.repaired, o.dropped = s.whole, s.end-s.whole, s.failed
	if s.stale > 0 {
		return o.compact(ctx, in.index)
	}
	if o.repaired > 0 {
		if err := f.Truncate(o.size); err != nil {
			return err
		}
	}
	if s.unterminated {
		return o.append([]byte("\n"))
	}
	return nil
}

// compact replaces the file by one that holds only the lines that the index
// knows as answers. The old file stays as it is until the new one is complete.
func (o *output) compact(ctx context.Context, index index) (err error) {
	old := o.locked[0]
	info, err := old.Stat()
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(o.path), "."+filepath.Base(o.path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	o.locked = append(o.locked, f)
	w := &output{name: o.name, file: f}
	if err := w.copyAnswers(ctx, old, o.size, index); err != nil {
		return err
	}
	// Before it has its name, so that no other run finds it unlocked.
	if err := errors.Join(f.Chmod(info.Mode().Perm()), f.Sync(), lock(f)); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), o.path); err != nil {
		return err
	}
	o.file, o.size = f, w.size
	return nil
}

func (o *output) copyAnswers(ctx context.Context, old *os.File, size int64, index index) error {
	l := newLines(io.NewSectionReader(old, 0, size), maxAnswerBytes)
	for l.next() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		a, ok := parseAnswer(l.text)
		if !ok || int(index[digestOf(a.CustomID)].answered) != l.number {
			continue
		}
		if err := o.append(append(l.text, '\n')); err != nil {
			return err
		}
	}
	return l.err
}

// write adds an answer, as one whole line in one call. A body that is nested
// so deep that the line could not be read again is written as a string.
func (o *output) write(a answer) error {
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

// encode makes buf the line of an answer.
func (o *output) encode(a answer) error {
	o.buf.Reset()
	enc := json.NewEncoder(&o.buf)
	enc.SetEscapeHTML(false)
	return enc.Encode(a)
}

// append adds whole lines. When they can't be written whole, the file ends
// where it ended before.
func (o *output) append(text []byte) error {
	n, err := o.file.Write(text)
	if err == nil {
		o.size += int64(n)
		return nil
	}
	// If this fails too, the next run finds a torn line, and repairs it.
	o.file.Truncate(o.size)
	return fmt.Errorf("%s: %w", o.name, err)
}

// Close makes sure that what was written is on the disk, and is there under
// its name, else the error is errOutputChanged.
func (o *output) Close() error {
	err := errors.Join(o.file.Sync(), o.intact())
	for _, f := range o.locked {
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("%s: %w", o.name, err)
	}
	return nil
}
