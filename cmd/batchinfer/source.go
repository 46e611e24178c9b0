package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// openFile opens the file of that name for reading. It returns when ctx is done,
// although opening a named pipe blocks until the pipe has a writer.
func openFile(ctx context.Context, name string) (*os.File, error) {
	type result struct {
		f   *os.File
		err error
	}
	opened := make(chan result)
	go func() {
		f, err := os.Open(name)
		select {
		case opened <- result{f, err}:
		case <-ctx.Done():
			f.Close() // does nothing if f is nil
		}
	}()
	select {
	case r := <-opened:
		return r.f, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// interruptible returns a reader of r whose Read returns when ctx is done, even
// while a Read of r blocks. A Read of r may still be blocked after Close.
func interruptible(ctx context.Context, r io.Reader) io.ReadCloser {
	pr, pw := io.Pipe()
	stop := context.AfterFunc(ctx, func() { pw.CloseWithError(context.Cause(ctx)) })
	go func() {
		defer stop()
		_, err := io.Copy(pw, r)
		pw.CloseWithError(err)
	}()
	return pr
}

// openInput opens the file of that name, or stdin if the name is "-". An input
// that can be read only once, such as stdin or a pipe, is copied to a temporary
// file while it is checked.
func openInput(ctx context.Context, name string, stdin io.Reader) (*input, error) {
	if name == "-" {
		return spool("<stdin>", interruptible(ctx, stdin))
	}
	f, err := openFile(ctx, name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		f.Close()
		return nil, err
	case info.IsDir():
		f.Close()
		return nil, fmt.Errorf("%s: is a directory", name)
	case !info.Mode().IsRegular():
		r := interruptible(ctx, f)
		return spool(name, closers{r, r, f})
	}
	return &input{name: name, src: f, close: f.Close}, nil
}

// closers is a reader that closes several others.
type closers struct {
	io.Reader
	first, second io.Closer
}

func (c closers) Close() error { return errors.Join(c.first.Close(), c.second.Close()) }

// spool returns an input whose check reads r and copies it to a temporary file.
func spool(name string, r io.ReadCloser) (*input, error) {
	f, err := os.CreateTemp("", "batchinfer-input-*.jsonl")
	if err != nil {
		r.Close()
		return nil, err
	}
	// Where a file can be removed while it is open, a process that is killed
	// leaves nothing behind.
	removed := os.Remove(f.Name()) == nil
	discard := func() error {
		err := errors.Join(r.Close(), f.Close())
		if !removed {
			err = errors.Join(err, os.Remove(f.Name()))
		}
		return err
	}
	return &input{name: name, src: f, once: io.TeeReader(r, f), close: discard}, nil
}
