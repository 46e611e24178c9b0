package main

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"time"
)

var errOutputChanged = errors.New("removed, replaced or changed by something else during the run")

// current is the file at the output's path, or nil in tests without a file.
func (o *output) current() *os.File {
	if len(o.locked) == 0 {
		return nil
	}
	return o.locked[len(o.locked)-1]
}

// noteModTime makes the file's modification time the one that intact expects.
func (o *output) noteModTime() error {
	f := o.current()
	if f == nil {
		return nil
	}
	info, err := f.Stat()
	if err == nil {
		o.modTime = info.ModTime()
	}
	return err
}

// intact returns errOutputChanged if something else has removed, replaced or
// changed the file. It is cheap, but does not notice a change that leaves both
// the size and the modification time unchanged; verify does.
func (o *output) intact() error {
	f := o.current()
	if f == nil {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	there, err := os.Stat(o.path)
	if err != nil || info.Size() != o.size || !os.SameFile(info, there) {
		return fmt.Errorf("%s: %w", o.name, errOutputChanged)
	}
	if info.ModTime().Equal(o.modTime) || time.Now().Before(o.verifyAt) {
		return nil
	}
	// The time may have changed without the lines: by touch, or on a network
	// file system that sets it some time after each write. There, reading the
	// file must not take more than a small part of the run.
	start := time.Now()
	if err := o.verify(context.Background()); err != nil {
		return err
	}
	o.modTime, o.verifyAt = info.ModTime(), time.Now().Add(20*time.Since(start))
	return nil
}

// verify reads the file again, and returns errOutputChanged unless it holds the
// lines that were written.
func (o *output) verify(ctx context.Context) error {
	f := o.current()
	if f == nil {
		return nil
	}
	sum := crc32.New(castagnoli)
	lines := io.NewSectionReader(f, 0, o.size)
	_, err := io.Copy(sum, contextReader{ctx, lines})
	if err == nil && sum.Sum32() != o.sum {
		err = errOutputChanged
	}
	if err != nil {
		return fmt.Errorf("%s: %w", o.name, err)
	}
	return nil
}
