package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// write writes the answers to a new file, and then gives it the name of the output.
func (j *joiner) write(ctx context.Context) (err error) {
	name := filepath.Join(filepath.Dir(j.path), "."+filepath.Base(j.path)+".batchinfer-join")
	f, err := openLocked(name, j.name)
	if err != nil {
		return err
	}
	// On an error it is removed while it is locked: another may be writing it later.
	defer f.Close()
	defer func() {
		if err != nil {
			os.Remove(name)
		}
	}()
	if err := f.Truncate(0); err != nil { // a command that was killed may have left text
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	if err := j.copyAnswers(ctx, w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("%s: %w", j.name, err)
	}
	if j.old != nil {
		info, err := j.old.Stat()
		if err := errors.Join(err, f.Chmod(info.Mode().Perm())); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("%s: %w", j.name, err)
	}
	if err := j.unchanged(); err != nil {
		return err
	}
	return os.Rename(name, j.path)
}

// copyAnswers copies the answers in the order of the input.
func (j *joiner) copyAnswers(ctx context.Context, w io.Writer) error {
	var buf []byte
	for _, at := range j.places {
		if at.length == 0 {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		line, err := j.line(at, &buf)
		if err != nil {
			return err
		}
		if _, err := w.Write(append(line, '\n')); err != nil {
			return fmt.Errorf("%s: %w", j.name, err)
		}
	}
	return nil
}

// line reads the line at a place without its end. It is valid until buf is used again.
func (j *joiner) line(at place, buf *[]byte) ([]byte, error) {
	const largest = 1 << 20 // kept for the next line
	if n := int(at.length); cap(*buf) <= n || cap(*buf) > largest {
		*buf = make([]byte, n, n+1+n/4)
	}
	p := j.parts[at.part]
	text := (*buf)[:at.length]
	if _, err := p.file.ReadAt(text, at.offset); err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	text = bytes.TrimPrefix(text, []byte("\uFEFF")) // of the first line
	return bytes.TrimSpace(text), nil
}

// checkOld returns an error if the output that is replaced has an answer that is not
// in the parts: it may be the only one. Failures have been replaced by answers, or
// are in the parts, too.
func (j *joiner) checkOld(ctx context.Context) error {
	if j.old == nil {
		return nil
	}
	if _, err := j.old.Seek(0, io.SeekStart); err != nil {
		return err
	}
	var buf []byte
	l := newLines(contextReader{ctx, j.old}, maxAnswerBytes)
	for l.next() {
		if l.blank() {
			continue
		}
		a, ok := parseAnswer(l.text)
		e, known := j.input.index[digestOf(a.CustomID)]
		same := ok && known && !a.succeeded()
		if ok && known && a.succeeded() {
			line, err := j.line(j.places[e.line], &buf)
			if err != nil {
				return err
			}
			same = bytes.Equal(line, bytes.TrimSpace(l.text))
		}
		if !same {
			return fmt.Errorf("%s:%d: the file exists and this line is not in the parts: remove the file, give it as a part, or give another -output", j.name, l.number)
		}
	}
	if l.err != nil {
		return fmt.Errorf("%s:%d: %w", j.name, l.number+1, l.err)
	}
	return nil
}
