package flaky

import (
	"context"
	"io"
	"net/http"
	"time"
)

// A pace says how fast a body goes, and how far into a chunk it is. The zero
// pace is as fast as can be.
type pace struct {
	chunk int // bytes; 0: no limit
	every time.Duration
	left  int  // bytes of the chunk begun that have yet to go
	begun bool // whether there was a first chunk
}

// quota returns how many of n bytes may go together.
func (p *pace) quota(n int) int {
	switch {
	case p.chunk == 0:
		return n
	case p.left == 0:
		return min(n, p.chunk)
	}
	return min(n, p.left)
}

// spend takes n bytes, at most the quota and not 0, out of the chunk begun, or
// begins another, for which it waits.
func (p *pace) spend(ctx context.Context, n int) error {
	if p.chunk == 0 {
		return nil
	}
	if p.left == 0 {
		if p.begun {
			if err := sleep(ctx, p.every); err != nil {
				return err
			}
		}
		p.begun, p.left = true, p.chunk
	}
	p.left -= n
	return nil
}

// A responseBody is the body of a response as a step wants it to arrive.
type responseBody struct {
	// ctx is done when the request's context is, or when the body has ended,
	// broken or been closed. Its cause is what Read returns from then on.
	ctx       context.Context
	cancel    context.CancelCauseFunc
	src       io.ReadCloser
	truncated bool
	left      int64 // bytes before the body breaks off, if truncated
	pace      pace
}

func newResponseBody(ctx context.Context, src io.ReadCloser, s Step) *responseBody {
	b := &responseBody{src: src, truncated: s.truncated, left: s.limit, pace: s.pace}
	b.ctx, b.cancel = context.WithCancelCause(ctx)
	return b
}

func (b *responseBody) Read(p []byte) (int, error) {
	if err := context.Cause(b.ctx); err != nil {
		return 0, err
	}
	n, err := b.read(p[:b.pace.quota(len(p))])
	if n > 0 {
		// The wait comes after the bytes were read, so that there is none
		// before the end of the body.
		if late := b.pace.spend(b.ctx, n); late != nil {
			n, err = 0, late
		}
	}
	if err != nil {
		b.cancel(err)
	}
	return n, err
}

// read reads from the source as far as the truncation allows. Where the body is
// to break off it looks for one byte more, since a body that ends there by
// itself is whole.
func (b *responseBody) read(p []byte) (int, error) {
	if !b.truncated || len(p) == 0 {
		return b.src.Read(p)
	}
	if b.left > 0 {
		n, err := b.src.Read(p[:min(int64(len(p)), b.left)])
		b.left -= int64(n)
		return n, err
	}
	n, err := b.src.Read(make([]byte, 1))
	if n > 0 {
		return 0, io.ErrUnexpectedEOF
	}
	return 0, err
}

// Close ends a Read that is waiting.
func (b *responseBody) Close() error {
	b.cancel(http.ErrBodyReadAfterClose)
	return b.src.Close()
}
