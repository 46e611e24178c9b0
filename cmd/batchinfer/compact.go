package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// compactName is the name of the file that compact writes, beside the output.
func (o *output) compactName() string {
	return filepath.Join(filepath.Dir(o.path), "."+filepath.Base(o.path)+".batchinfer-new")
}

// removedName is the name of the file that keeps the removed lines, beside the
// output.
func (o *output) removedName() string { return o.path + ".batchinfer-removed" }

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
	if err := o.copyAnswers(ctx, w, index); err != nil {
		return err
	}
	if err := o.keepTornLine(old); err != nil {
		return err
	}
	// The new file is locked before it gets the output's name, so that no
	// other run can lock it in between.
	if err := errors.Join(f.Chmod(info.Mode().Perm()), f.Sync(), lock(f)); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), o.path); err != nil {
		return err
	}
	o.file, o.size, o.sum = f, w.size, w.sum
	return o.noteModTime()
}

// copyAnswers copies the lines that the index knows to w, and keeps the others.
func (o *output) copyAnswers(ctx context.Context, w *output, index index) error {
	old := io.NewSectionReader(o.locked[0], 0, o.size)
	l := newLines(contextReader{ctx, old}, maxAnswerBytes)
	for l.next() {
		a, ok := parseAnswer(l.text)
		var err error
		switch {
		case l.blank():
		case ok && int(index[digestOf(a.CustomID)].answered) == l.number:
			err = w.append(append(l.text, '\n'))
		default:
			err = o.keepRemoved(l.buf)
		}
		if err != nil {
			return err
		}
	}
	return l.err
}

// keepTornLine keeps the bytes behind the last whole line of f, and flushes all
// that has been kept to the disk.
func (o *output) keepTornLine(f *os.File) error {
	torn := make([]byte, o.repaired)
	if _, err := f.ReadAt(torn, o.size); err != nil && err != io.EOF {
		return fmt.Errorf("%s: %w", o.name, err)
	}
	if err := o.keepRemoved(torn); err != nil {
		return err
	}
	return o.removed.Sync()
}

// keepRemoved adds text, which is about to be removed from the output, to a file
// beside it. discardRemoved removes that file when a run has succeeded. Text that
// an earlier run has left in it stays.
func (o *output) keepRemoved(text []byte) error {
	if o.removed == nil {
		f, err := openRemoved(o.removedName())
		if err != nil {
			return err
		}
		o.removed = f
	}
	_, err := o.removed.Write(text)
	return err
}

func openRemoved(name string) (*os.File, error) {
	info, err := os.Lstat(name)
	switch {
	case err == nil && !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s: not a regular file", name)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	f, openErr := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if openErr != nil || err != nil || info.Size() == 0 {
		return f, openErr
	}
	// The text in it may end in a torn line.
	if _, err := f.WriteString("\n"); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// discardRemoved removes the file that keepRemoved has written, in this run or in
// an earlier one.
func (o *output) discardRemoved() error {
	err := os.Remove(o.removedName())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
