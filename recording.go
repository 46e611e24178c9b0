package httpretry

import (
	"bytes"
	"sync"
)

// chunkSize is the size of net/http's own copy buffer.
const chunkSize = 32 << 10

// A recording is a buffer of the bytes of a stream between two offsets.
type recording struct {
	head, tail *chunk
	base       int64 // the offset of the first byte that is buffered
	end        int64 // the offset after the last one
	freed      int   // counts the chunks that were removed
}

// A cursor is a place in a recording, so that a reader need not search for it.
// The zero cursor is the beginning.
type cursor struct {
	chunk *chunk
	freed int // of the recording, when chunk was part of it
}

// A chunk is a part of a recording. All but the last of a recording are full.
type chunk struct {
	next   *chunk
	offset int64  // of its first byte
	data   []byte // chunkSize bytes, unless it was trimmed
}

// Streaming 64 KiB takes 3 allocations of 1 KiB in all with the pool, and 6 of
// 97 KiB without. The bytes that a chunk has from an earlier recording are never
// read: a recording is read up to its end.
var chunks = sync.Pool{New: func() any { return &chunk{data: make([]byte, chunkSize)} }}

// room returns space for the bytes that follow, at least one.
func (r *recording) room() []byte {
	if r.tail == nil || r.end-r.tail.offset == int64(len(r.tail.data)) {
		c := chunks.Get().(*chunk)
		c.next, c.offset = nil, r.end
		if r.tail == nil {
			r.head = c
		} else {
			r.tail.next = c
		}
		r.tail = c
	}
	return r.tail.data[r.end-r.tail.offset:]
}

// added records that n bytes have been written to the space from room.
func (r *recording) added(n int) { r.end += int64(n) }

// read copies bytes from offset, which must be at least base, to p. It begins
// to search at the cursor and moves it there.
func (r *recording) read(p []byte, offset int64, at *cursor) int {
	c := at.chunk
	if c == nil || at.freed != r.freed {
		// The chunk may be part of another recording by now.
		c = r.head
	}
	for offset-c.offset >= int64(len(c.data)) {
		c = c.next
	}
	*at = cursor{c, r.freed}
	first := offset - c.offset
	return copy(p, c.data[first:min(int64(len(c.data)), r.end-c.offset)])
}

// drop drops the bytes before offset, which is at most end.
func (r *recording) drop(offset int64) {
	r.base = offset
	for r.head != nil && (r.head.next != nil && r.head.next.offset <= offset || offset == r.end) {
		c := r.head
		r.head = c.next
		r.freed++
		if len(c.data) == chunkSize {
			chunks.Put(c)
		}
	}
	if r.head == nil {
		r.tail = nil
	}
}

// skip moves on to the offset that is n bytes after end, with nothing buffered.
func (r *recording) skip(n int) {
	r.drop(r.end)
	r.end += int64(n)
	r.base = r.end
}

// trim frees the unused space of a small recording: many may wait for a long
// time.
func (r *recording) trim() {
	c := r.head
	if used := r.end - r.base; c != nil && c == r.tail && r.base == 0 && used <= chunkSize/2 && len(c.data) == chunkSize {
		small := &chunk{data: bytes.Clone(c.data[:used])}
		r.freed++
		chunks.Put(c)
		r.head, r.tail = small, small
	}
}
