package flaky

import (
	"context"
	"io"
	"net/http"
	"time"
)

// A pace slows a body down and holds its position within the current chunk. The
// zero pace does not slow it.
type pace struct {
	chunk int           // size of a chunk in bytes; 0: no chunks
	every time.Duration // wait before each chunk but the first
	left  int           // bytes left in the current chunk
	begun bool          // whether the first chunk has begun
}

// quota returns how many of n bytes may be transferred together.
func (p *pace) quota(n int) int {
	switch {
	case p.chunk == 0:
		return n
	case p.left == 0:
		return min(n, p.chunk)
	}
	return min(n, p.left)
}

// spend takes n bytes from the current chunk. If that is used up, it waits and
// begins the next chunk. n must be between 1 and the quota.
func (p *pace) spend(ctx context.Context, n int) error {
	err := p.begin(ctx)
	if err == nil {
		p.left -= n
	}
	return err
}

// begin waits and begins the next chunk if the current one is used up.
func (p *pace) begin(ctx context.Context) error {
	if p.chunk == 0 || p.left > 0 {
		return nil
	}
	if p.begun {
		if err := sleep(ctx, p.every); err != nil {
			return err
		}
	}
	p.begun, p.left = true, p.chunk
	return nil
}

// A requestBody applies the pace of a step to the reading of a request body.
type requestBody struct {
	io.ReadCloser
	ctx  context.Context
	pace pace
}

func (b *requestBody) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return b.ReadCloser.Read(p)
	}
	// The source must not be read before the wait.
	if err := b.pace.begin(b.ctx); err != nil {
		return 0, err
	}
	n, err := b.ReadCloser.Read(p[:b.pace.quota(len(p))])
	b.pace.left -= n
	return n, err
}

// A responseBody applies the ending and the pace of a step to the body of a
// response.
type responseBody struct {
	// ctx is done when the request's context is done, or when the body has
	// ended, failed or been closed. Read then returns its cause.
	ctx    context.Context
	cancel context.CancelCauseFunc
	src    io.ReadCloser
	ending ending
	left   int64 // bytes before the ending
	pace   pace
}

func newResponseBody(ctx context.Context, src io.ReadCloser, s Step) *responseBody {
	b := &responseBody{src: src, ending: s.ending, left: s.limit, pace: s.pace}
	b.ctx, b.cancel = context.WithCancelCause(ctx)
	return b
}

func (b *responseBody) Read(p []byte) (int, error) {
	if err := context.Cause(b.ctx); err != nil {
		return 0, err
	}
	n, err := b.read(p[:b.pace.quota(len(p))])
	if n > 0 {
		// Wait after reading, so as not to wait before the end of the body.
		if late := b.pace.spend(b.ctx, n); late != nil {
			n, err = 0, late
		}
	}
	if err != nil {
		b.cancel(err)
	}
	return n, err
}

// read reads from the source up to the ending. There it reads one byte more,
// because a body that ends there is whole.
func (b *responseBody) read(p []byte) (int, error) {
	if b.ending == whole || len(p) == 0 {
		return b.src.Read(p)
	}
	if b.left > 0 {
		n, err := b.src.Read(p[:min(int64(len(p)), b.left)])
		b.left -= int64(n)
		return n, err
	}
	n, err := b.src.Read(make([]byte, 1))
	switch {
	case n == 0:
		return 0, err
	case b.ending == stalled:
		<-b.ctx.Done()
		return 0, context.Cause(b.ctx)
	}
	return 0, io.ErrUnexpectedEOF
}

// Close also ends a Read that is waiting for the next chunk.
func (b *responseBody) Close() error {
	b.cancel(http.ErrBodyReadAfterClose)
	return b.src.Close()
}
