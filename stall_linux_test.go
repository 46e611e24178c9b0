package httpretry_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/httpretry/httpretry"
)

// A file over TCP is sent with sendfile, which reads nothing from the body. Its
// progress is the offset of the file.
func TestIdleTimeout_KeepsSendfile(t *testing.T) {
	t.Parallel()
	// sendfile needs sockets, and so real time. The limit of the transfer that must
	// succeed is one that a busy machine does not meet between two pieces.
	const size, limit, long = 64 << 20, 500 * time.Millisecond, 2 * time.Second
	path := filepath.Join(t.TempDir(), "upload")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	released := make(chan struct{})
	srv := newHTTP1Server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			io.CopyN(io.Discard, r.Body, 1<<20)
			<-released // the socket buffers take a part of the rest
			return
		}
		// Slower than the limit in all, but never silent for long.
		for err := error(nil); err == nil; {
			time.Sleep(long / 70)
			_, err = io.CopyN(io.Discard, r.Body, size/100)
		}
	})
	t.Cleanup(func() { close(released) })
	var read atomic.Int64
	var conns atomic.Int32
	rt := &httpretry.RetryTransport{Policy: httpretry.Never, IdleTimeout: limit, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
		body, ok := req.Body.(sendable)
		if !ok {
			t.Errorf("the body is a %T, which net can't send with sendfile", req.Body)
			return srv.Client().Transport.RoundTrip(req)
		}
		req = req.Clone(req.Context())
		req.Body = countedFile{body, &read, &conns}
		return srv.Client().Transport.RoundTrip(req)
	})}
	for _, method := range []string{"PUT", "POST"} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		read.Store(0)
		conns.Store(0)
		req := newRequest(t, method, srv.URL, f)
		if method == "PUT" {
			req = req.WithContext(httpretry.Override(t.Context(), func(rt *httpretry.RetryTransport) { rt.IdleTimeout = long }))
		}
		req.ContentLength = size
		resp, err := rt.RoundTrip(req)
		if conns.Load() != 1 || read.Load() > 64<<10 {
			t.Errorf("%s: the file was asked for %d times and %d bytes of the body were read, want that only of the first", method, conns.Load(), read.Load())
		}
		var stalled net.Error
		switch {
		case method == "POST" && (!errors.As(err, &stalled) || !strings.HasPrefix(err.Error(), "httpretry: request body stalled: no byte for 500ms after ")):
			t.Errorf("got %v from a silent server, want a stall", err)
		case method == "PUT" && err != nil:
			t.Errorf("got %v from a slow server, want a response", err)
		case err == nil:
			resp.Body.Close()
		}
	}
}

// A sendable body can be sent with sendfile.
type sendable interface {
	io.ReadCloser
	syscall.Conn
}

// A countedFile counts how it is read.
type countedFile struct {
	sendable
	read  *atomic.Int64
	conns *atomic.Int32
}

func (f countedFile) Read(p []byte) (int, error) {
	n, err := f.sendable.Read(p)
	f.read.Add(int64(n))
	return n, err
}

func (f countedFile) SyscallConn() (syscall.RawConn, error) {
	f.conns.Add(1)
	return f.sendable.SyscallConn()
}
