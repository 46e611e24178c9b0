package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// compactName is the name of the file that compact writes, beside the output.
func (o *output) compactName() string {
	return filepath.Join(filepath.Dir(o.path), "."+filepath.Base(o.path)+".batchinfer-new")
}

// removedSuffix ends the names of files that keep removed lines.
const removedSuffix = ".batchinfer-removed"

// removedName is the name of the file that keeps the removed lines, beside the
// output.
func (o *output) removedName() string { return o.path + removedSuffix }

// removingName is the name of the file that collects the removed lines before
// they are in the file of removedName, beside the output.
func (o *output) removingName() string {
	return filepath.Join(filepath.Dir(o.path), "."+filepath.Base(o.path)+".batchinfer-removing")
}

// removeLeftovers removes the files that a run leaves behind if it is killed.
func (o *output) removeLeftovers() {
	os.Remove(o.compactName())
	os.Remove(o.removingName())
}

// compact replaces the file with one that holds only the lines that the index
// knows as answers. The old file stays unmodified until the new one is complete.
func (o *output) compact(ctx context.Context, index index) (err error) {
	old := o.locked[0]
	info, err := old.Stat()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(o.compactName(), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
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
	copyTo := func(removed io.Writer) error { return o.copyAnswers(ctx, w, removed, index) }
	replace := func() error {
		// The new file is locked before it gets the output's name, so that no
		// other run can lock it in between.
		if err := errors.Join(f.Chmod(info.Mode().Perm()), f.Sync(), lock(f)); err != nil {
			return err
		}
		return os.Rename(f.Name(), o.path)
	}
	if err := o.keepAnd(copyTo, replace); err != nil {
		return err
	}
	o.file, o.size, o.sum = f, w.size, w.sum
	return o.noteModTime()
}

// copyAnswers copies the lines that the index knows to w, and the others to
// removed.
func (o *output) copyAnswers(ctx context.Context, w *output, removed io.Writer, index index) error {
	old := io.NewSectionReader(o.locked[0], 0, o.size)
	l := newLines(contextReader{ctx, old}, maxAnswerBytes)
	for l.next() {
		a, ok := parseAnswer(l.text)
		var err error
		switch {
		case l.blank():
		case ok && int(index[digestOf(a.CustomID)].answered) == l.number:
			_, err = w.append(append(l.text, '\n'))
		default:
			_, err = removed.Write(l.buf)
		}
		if err != nil {
			return err
		}
	}
	return l.err
}

// keepAnd keeps the text that collect writes, and the bytes behind the last whole
// line, in a file beside the output. Then it calls remove, which removes them from
// the output. If that or anything before fails, or the process is killed before,
// the file is as it was. Otherwise it would collect, in each run that is
// interrupted, all that stays in the output.
func (o *output) keepAnd(collect func(io.Writer) error, remove func() error) error {
	f, err := os.OpenFile(o.removingName(), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := collect(f); err != nil {
		return err
	}
	torn := io.NewSectionReader(o.locked[0], o.size, o.repaired)
	if _, err := io.Copy(f, torn); err != nil {
		return fmt.Errorf("%s: %w", o.name, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	undo, err := appendTo(o.removedName(), f)
	if err != nil {
		return err
	}
	if err := remove(); err != nil {
		return errors.Join(err, undo())
	}
	return nil
}

// appendTo appends text to the named file, which earlier runs may have left, and
// flushes it to the disk. On an error, the file is as it was; undo restores that
// too.
func appendTo(name string, text io.Reader) (undo func() error, err error) {
	info, err := os.Lstat(name)
	undo = func() error { return os.Remove(name) }
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s: not a regular file", name)
	default:
		undo = func() error { return os.Truncate(name, info.Size()) }
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	if info != nil && info.Size() > 0 {
		text = io.MultiReader(strings.NewReader("\n"), text) // its text may end in a torn line
	}
	_, err = io.Copy(f, text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, errors.Join(err, undo())
	}
	return undo, nil
}

// discardRemoved removes the file that keepAnd has written, in this run or in an
// earlier one.
func (o *output) discardRemoved() error {
	err := os.Remove(o.removedName())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
