package chaos_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// A bodyKind is the kind of a request body.
type bodyKind int

const (
	noBody       bodyKind = iota
	withGetBody           // as of http.NewRequest with a bytes.Reader
	streamed              // can be read once, of unknown length
	measured              // can be read once, of a declared length
	seekable              // an io.ReaderAt and io.Seeker
	openFile              // an *os.File, not at its beginning
	numBodyKinds int      = iota
)

// A plan describes a request and the intended response. The client and the server
// derive it from the number of the request.
type plan struct {
	id       int
	route    int
	method   string
	key      bool // has an Idempotency-Key
	body     bodyKind
	size     int64         // of the body
	patience time.Duration // of the caller

	turnedAway int   // the number of attempts that get a 429 or 503
	early      bool  // they get it before their body has been read
	fails      bool  // the first accepted attempt is processed and gets a 500
	download   bool  // the response has a strong ETag
	answer     int64 // the size of the response
}

func newPlan(seed uint64, id int) plan {
	r := rand.New(rand.NewPCG(seed, uint64(id)))
	p := plan{id: id, patience: callTime}
	p.route = [...]int{http1, http1, http1, http1TLS, http2TLS, http2TLS}[r.IntN(6)] // handshakes take time
	switch n := r.IntN(100); {
	case n < 40:
		p.method = http.MethodGet
	case n < 60:
		p.method = http.MethodPut
	default:
		p.method, p.key = http.MethodPost, n >= 85
	}
	p.answer = r.Int64N(2000)
	if p.method == http.MethodGet {
		if p.download = r.IntN(10) == 0; p.download {
			p.answer = 10_000 + r.Int64N(90_000)
		}
	} else {
		p.body, p.size = bodyKind(r.IntN(numBodyKinds)), bodySize(r)
	}
	if p.body == noBody {
		p.size = 0
	}
	if r.IntN(20) == 0 {
		p.turnedAway, p.early = 1+r.IntN(2), r.IntN(2) == 0
	}
	p.fails = r.IntN(50) == 0
	if r.IntN(100) == 0 {
		p.patience = time.Duration(r.IntN(20)) * time.Millisecond
	}
	return p
}

// bodySize returns a size that is usually small, and sometimes near the limit of
// the layer.
func bodySize(r *rand.Rand) int64 {
	switch n := r.IntN(1000); {
	case n < 950:
		return r.Int64N(4000)
	case n < 996:
		return r.Int64N(100_000)
	case n < 999:
		return maxReplayBytes - 1 + r.Int64N(3)
	default:
		return maxReplayBytes + r.Int64N(maxReplayBytes)
	}
}

// repeatable reports whether the request may be processed twice.
func (p plan) repeatable() bool { return p.method != http.MethodPost || p.key }

// once reports whether the layer cannot replay the request's body.
func (p plan) once() bool {
	return (p.body == streamed || p.body == measured || p.body == seekable) && p.size > maxReplayBytes
}

// sent and answered return the bytes of the request's and of the response's body.
func (p plan) sent() []byte     { return passage(2*p.id, p.size) }
func (p plan) answered() []byte { return passage(2*p.id+1, p.answer) }

// text contains all bodies. No two blocks of it are equal.
var text = func() []byte {
	b := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}()

func passage(n int, size int64) []byte {
	const largest = 2 * maxReplayBytes
	at := n * 31 % (len(text) - largest)
	return text[at : at+int(size) : at+int(size)]
}

var errOtherBytes = errors.New("other bytes than were sent")

var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// compare reads r to its end. It returns nil if the bytes are want, the error of r
// after a prefix of want, and errOtherBytes otherwise.
func compare(r io.Reader, want []byte) error {
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	for {
		n, err := r.Read(buf[:])
		if !bytes.HasPrefix(want, buf[:n]) {
			return errOtherBytes
		}
		want = want[n:]
		switch {
		case err == io.EOF && len(want) > 0:
			return fmt.Errorf("%w: the last %d are missing", errOtherBytes, len(want))
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// request returns the request of a plan. closed counts how often its body is
// closed.
func (p plan) request(url string, closed *atomic.Int32) (*http.Request, error) {
	req, err := http.NewRequest(p.method, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Number", strconv.Itoa(p.id))
	if p.key {
		req.Header.Set("Idempotency-Key", strconv.Itoa(p.id))
	}
	counted := &source{bytes.NewReader(p.sent()), closed}
	switch p.body {
	case withGetBody:
		req.Body = counted
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(p.sent())), nil }
	case streamed, measured:
		req.Body = struct{ io.ReadCloser }{counted}
	case seekable:
		req.Body = counted
	case openFile:
		// The layer needs the *os.File itself. If it is not closed, the number of
		// open files shows it.
		closed.Store(1)
		if req.Body, err = newFile(p.sent()); err != nil {
			return nil, err
		}
	}
	if req.Body != nil && p.body != streamed {
		req.ContentLength = p.size
	}
	return req, nil
}

// A source is a request body that counts how often it is closed.
type source struct {
	*bytes.Reader
	closed *atomic.Int32
}

func (s *source) Close() error {
	s.closed.Add(1)
	return nil
}

// newFile returns a file without a name, whose offset is the start of content.
func newFile(content []byte) (*os.File, error) {
	f, err := os.CreateTemp("", "chaos-")
	if err != nil {
		return nil, err
	}
	const before = "bytes that the caller has read"
	_, err = io.Copy(f, io.MultiReader(bytes.NewReader([]byte(before)), bytes.NewReader(content)))
	if err == nil {
		_, err = f.Seek(int64(len(before)), io.SeekStart)
	}
	return f, errors.Join(err, os.Remove(f.Name()))
}
