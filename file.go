package httpretry

import (
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"
)

// A fileBody is a body that is a regular file. The first attempt reads it from its
// current offset, and each further attempt with ReadAt from the same offset.
//
// It is not used for a type that embeds an *os.File, whose Read may return other
// bytes than the ReadAt that it inherits.
type fileBody struct {
	leased
	req        *http.Request // the caller's
	file       *os.File
	offset     int64        // before the first attempt
	length     atomic.Int64 // from there to the end, as read by the first attempt
	idempotent bool         // attempts have a GetBody
}

// newFileBody returns the body of req if that is a regular file, or nil.
func newFileBody(req *http.Request, idempotent func() bool) *fileBody {
	f, ok := req.Body.(*os.File)
	if !ok {
		return nil
	}
	// A pipe or a device is an *os.File too. A file in /proc has content
	// although its size is 0.
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	offset, err := f.Seek(0, io.SeekCurrent)
	if err != nil || offset >= info.Size() {
		return nil
	}
	b := &fileBody{req: req, file: f, offset: offset, idempotent: idempotent()}
	b.length.Store(info.Size() - offset)
	return b
}

func (b *fileBody) start(req *http.Request, first bool) error {
	l := new(lease)
	l.begin(b.req, req, false, b)
	b.lease = l
	if first {
		req.Body = sendfileBody{l.lend(&leasedBody{source: firstRead{b}}), b.file}
	} else {
		req.Body = l.lend(&leasedBody{source: b.again()})
	}
	if b.idempotent {
		req.GetBody = func() (io.ReadCloser, error) {
			return l.renew(func() (io.ReadCloser, error) { return b.again(), nil })
		}
	}
	return nil
}

// release implements releaser.
func (b *fileBody) release() { b.file.Close() }

// again returns a reader of the file from its offset. If the file has grown, the
// reader ends at its former length. If it has shrunk, the reader returns an error.
func (b *fileBody) again() io.ReadCloser {
	length := b.length.Load()
	return &rereader{io.NewSectionReader(b.file, b.offset, length), length}
}

// A firstRead reads the file from its current offset.
type firstRead struct{ b *fileBody }

func (r firstRead) Read(p []byte) (int, error) {
	n, err := r.b.file.Read(p)
	if err == io.EOF {
		if end, seekErr := r.b.file.Seek(0, io.SeekCurrent); seekErr == nil {
			r.b.length.Store(end - r.b.offset)
		}
	}
	return n, err
}

func (firstRead) Close() error { return nil }

// A rereader reads a part of a file.
type rereader struct {
	r    *io.SectionReader
	left int64 // bytes that the part must still have
}

func (r *rereader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.left -= int64(n)
	if err == io.EOF && r.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (*rereader) Close() error { return nil }

// A sendfileBody is a [syscall.Conn], so that package net uses sendfile.
type sendfileBody struct {
	*leasedBody
	file *os.File
}

// SyscallConn implements [syscall.Conn].
func (b sendfileBody) SyscallConn() (syscall.RawConn, error) { return b.file.SyscallConn() }
