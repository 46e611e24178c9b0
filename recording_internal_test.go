package httpretry

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// A modelRecording is a recording beside a plain byte slice with the same bytes.
type modelRecording struct {
	recording
	stream []byte // all bytes from offset 0 to end, also those that were dropped
	base   int
	last   cursor // after the last read; its chunk may have been freed since
	next   int    // the offset after that read
	filler byte
}

// An operation changes or reads a recording. Its argument is any number.
type operation struct {
	name string
	do   func(*modelRecording, *testing.T, int)
}

var operations = []operation{
	{"add", (*modelRecording).testAdd},
	{"read", (*modelRecording).testRead},
	{"read on", (*modelRecording).testReadOn},
	{"drop", (*modelRecording).testDrop},
	{"drop about a chunk", (*modelRecording).testDropChunk},
	{"drop all", func(m *modelRecording, _ *testing.T, _ int) { m.dropTo(len(m.stream)) }},
	{"skip", (*modelRecording).testSkip},
	{"trim", (*modelRecording).testTrim},
}

// testAdd adds up to n bytes.
func (m *modelRecording) testAdd(t *testing.T, n int) {
	room := m.room()
	if len(room) == 0 || len(room) > chunkSize {
		t.Fatalf("room for %d bytes, want 1 to %d", len(room), chunkSize)
	}
	n = min(n, len(room))
	for i := range room[:n] {
		m.filler += 7 // a period that no power of 2 has
		if m.filler > 250 {
			m.filler -= 250
		}
		room[i] = m.filler
	}
	m.added(n)
	m.stream = append(m.stream, room[:n]...)
}

// testRead reads at an offset, and begins to search at the first chunk.
func (m *modelRecording) testRead(t *testing.T, n int) {
	if m.base < len(m.stream) {
		m.readAt(t, m.base+n%(len(m.stream)-m.base), 1+n, cursor{})
	}
}

// testReadOn reads at the offset where the last read ended.
func (m *modelRecording) testReadOn(t *testing.T, n int) {
	if m.next >= m.base && m.next < len(m.stream) {
		m.readAt(t, m.next, 1+n, m.last)
	}
}

func (m *modelRecording) readAt(t *testing.T, offset, size int, at cursor) {
	p := make([]byte, size)
	got := m.read(p, int64(offset), &at)
	if got == 0 || !bytes.HasPrefix(m.stream[offset:], p[:got]) {
		t.Fatalf("read at offset %d of %d to %d returned %d bytes, want some of those that were added", offset, m.base, len(m.stream), got)
	}
	m.last, m.next = at, offset+got
}

// testDrop drops the bytes before any offset.
func (m *modelRecording) testDrop(_ *testing.T, n int) {
	m.dropTo(m.base + n%(len(m.stream)-m.base+1))
}

// testDropChunk drops the bytes of the first chunk, one byte less or one more.
func (m *modelRecording) testDropChunk(_ *testing.T, n int) {
	if m.head != nil && m.head.next != nil {
		m.dropTo(max(m.base, int(m.head.next.offset)+min(n%3, len(m.stream)-int(m.head.next.offset)+1)-1))
	}
}

func (m *modelRecording) dropTo(offset int) {
	m.drop(int64(offset))
	m.base = offset
}

// testSkip continues n bytes later.
func (m *modelRecording) testSkip(_ *testing.T, n int) {
	m.skip(n)
	m.stream = append(m.stream, make([]byte, n)...)
	m.base = len(m.stream)
}

// testTrim frees the unused space. A recording that grows after it has a second
// chunk, which stays as it is.
func (m *modelRecording) testTrim(t *testing.T, _ int) {
	m.trim()
	if n := len(m.stream); m.base == 0 && n > 0 && n <= chunkSize/2 && m.head == m.tail && len(m.head.data) != n {
		t.Fatalf("a recording of %d bytes has %d bytes after trim", n, len(m.head.data))
	}
}

// check compares the recording with the byte slice.
func (m *modelRecording) check(t *testing.T) {
	if m.recording.base != int64(m.base) || m.end != int64(len(m.stream)) {
		t.Fatalf("offsets %d to %d, want %d to %d", m.recording.base, m.end, m.base, len(m.stream))
	}
	var at cursor
	for offset := m.base; offset < len(m.stream); offset = m.next {
		m.readAt(t, offset, chunkSize, at)
		at = m.last
	}
	chunks := 0
	for c := m.head; c != nil; c = c.next {
		chunks++
	}
	// The first and the last may be used in part, or one may have been trimmed.
	if limit := (len(m.stream)-m.base)/chunkSize + 2; chunks > limit {
		t.Fatalf("%d chunks for %d bytes, want at most %d", chunks, len(m.stream)-m.base, limit)
	}
}

// runRecordings applies operations to two recordings that share the pool of chunks: a chunk
// that is freed too early gets the bytes of the other one.
func runRecordings(t *testing.T, program []byte) {
	recordings := [2]modelRecording{{filler: 1}, {filler: 101}}
	for ; len(program) >= 3; program = program[3:] {
		m := &recordings[program[0]>>7]
		o := operations[int(program[0]&0x7f)%len(operations)]
		o.do(m, t, int(binary.BigEndian.Uint16(program[1:])))
		for i := range recordings {
			recordings[i].check(t)
		}
	}
	for i := range recordings {
		m := &recordings[i]
		m.dropTo(len(m.stream))
		if m.check(t); m.head != nil || m.tail != nil {
			t.Fatal("chunks are left when all bytes are dropped")
		}
	}
}

func TestRecording_MatchesByteSlice(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		program := make([]byte, 3*(1+rng.IntN(40)))
		for i := range program {
			program[i] = byte(rng.Uint32())
		}
		runRecordings(t, program)
	}
}

func FuzzRecording(f *testing.F) {
	add := []byte{0, 0xff, 0xff}
	f.Add(bytes.Repeat(add, 3))
	f.Add(append(bytes.Repeat(add, 3), 3, 0x80, 0, 1, 0, 9, 2, 0xff, 0xff, 6, 0, 1, 0, 0, 9))
	f.Add([]byte{0, 0, 9, 7, 0, 0, 0, 0xff, 0xff, 0x80, 0xff, 0xff, 5, 0, 0, 0, 0, 1})
	f.Fuzz(runRecordings)
}
