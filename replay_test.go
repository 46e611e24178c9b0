package httpretry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
)

// pattern returns n bytes without repeated blocks.
func pattern(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// After an early response, net/http may still be sending the body when the next
// attempt begins. Every attempt must send the same bytes nevertheless.
func TestReplay_EarlyResponseToLargeUpload(t *testing.T) {
	content := pattern(8 << 20)
	for _, proto := range []int{1, 2} {
		t.Run(fmt.Sprint("HTTP", proto), func(t *testing.T) {
			var attempts atomic.Int32
			srv := newProtoServer(t, proto, func(w http.ResponseWriter, r *http.Request) {
				if attempts.Add(1)%2 == 1 {
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				if err := sameBytes(r.Body, content); err != nil {
					http.Error(w, err.Error(), http.StatusTeapot)
				}
			})
			client := newClient(t, srv, &httpretry.RetryTransport{Policy: now, MaxReplayBytes: 8 << 20})
			for range 30 {
				req := newRequest(t, "POST", srv.URL, nil)
				body := &testBody{Reader: bytes.NewReader(content), closed: make(chan struct{})}
				req.Body = body
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				if got := readAll(t, resp); resp.StatusCode != 200 {
					t.Fatalf("status %d: %s", resp.StatusCode, got)
				}
				<-body.closed // may come after the response
				body.wantClosedOnce(t)
			}
		})
	}
}

// newProtoServer speaks HTTP/1.1 or, unencrypted, HTTP/2, and gives its client
// a transport for that.
func newProtoServer(t *testing.T, proto int, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	speak(srv, proto)
	t.Cleanup(srv.Close)
	return srv
}

// sameBytes returns an error if r does not consist of want.
func sameBytes(r io.Reader, want []byte) error {
	buf := make([]byte, 64<<10)
	for off := 0; ; {
		n, err := r.Read(buf)
		if off+n > len(want) || !bytes.Equal(buf[:n], want[off:off+n]) {
			return fmt.Errorf("wrong bytes at offset %d", off)
		}
		off += n
		if err == io.EOF && off == len(want) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", off, len(want), err)
		}
	}
}

// A transport may continue to read the body after it has returned. It reads a
// prefix of the body and then an error, and takes no bytes from the next attempt.
func TestReplay_LateReadIsFenced(t *testing.T) {
	content := pattern(300 << 10)
	for range 300 {
		var late sync.WaitGroup
		n := 0
		before := io.ReadCloser(http.NoBody)
		rt := &httpretry.RetryTransport{Policy: now, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			if n, err := before.Read(make([]byte, 1)); n > 0 || err == nil {
				t.Errorf("an attempt that has ended read %d bytes and error %v, want an error", n, err)
			}
			before = req.Body
			if n++; n < 4 {
				late.Go(func() {
					defer req.Body.Close()
					got, err := io.ReadAll(io.LimitReader(req.Body, rand.Int64N(400<<10)))
					if !bytes.HasPrefix(content, got) {
						t.Errorf("a late reader got %d bytes that are not a prefix of the body (error %v)", len(got), err)
					}
				})
				return response(req, 503, ""), nil
			}
			got, err := consume(req)
			if err != nil || got != string(content) {
				t.Errorf("the last attempt got %d bytes and error %v, want the %d of the body", len(got), err, len(content))
			}
			return response(req, 200, ""), nil
		})}
		req := newRequest(t, "POST", "http://example.com/", nil)
		body := &testBody{Reader: &choppy{Reader: bytes.NewReader(content)}}
		req.Body = body
		if _, err := rt.RoundTrip(req); err != nil {
			t.Fatal(err)
		}
		late.Wait()
		body.wantClosedOnce(t)
	}
}

// During the wait, Reads of the ended attempt fail. Otherwise the buffer could
// exceed its limit, and the next attempt would lack bytes.
func TestReplay_ReadDuringWaitFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		content := string(pattern(90))
		var got []string
		second := failUntil(1, &got)
		rt := &httpretry.RetryTransport{MaxReplayBytes: 100, Policy: every(time.Second), Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			if httpretry.AttemptNumber(req.Context()) > 1 {
				return second(req)
			}
			time.AfterFunc(time.Second/2, func() {
				defer req.Body.Close()
				if n, err := req.Body.Read(make([]byte, 1)); n > 0 || err == nil {
					t.Errorf("an attempt that has ended read %d bytes and error %v, want an error", n, err)
				}
			})
			_, err := io.ReadFull(req.Body, make([]byte, 10))
			return response(req, 503, ""), err
		})}
		source := iotest.OneByteReader(strings.NewReader(content))
		if _, err := rt.RoundTrip(newRequest(t, "POST", "http://example.com/", source)); err != nil {
			t.Fatal(err)
		}
		if len(got) != 1 || got[0] != content {
			t.Errorf("the second attempt sent %q, want %q", got, content)
		}
	})
}

// Bytes that a transport reads while the Policy decides must not be missing from
// the next attempt.
func TestReplay_ReadDuringDecision(t *testing.T) {
	for _, retry := range []bool{true, false} {
		t.Run(fmt.Sprint("retry ", retry), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				content := pattern(300 << 10)
				asked, attempts := make(chan struct{}), 0
				rt := &httpretry.RetryTransport{
					MaxReplayBytes: 100,
					Policy: policyFunc(func(httpretry.Attempt) (time.Duration, bool) {
						close(asked)
						synctest.Wait() // until the late reader is done or blocked
						return 0, retry
					}),
					Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
						if attempts++; attempts == 1 {
							go func() {
								defer req.Body.Close()
								<-asked
								got, err := io.ReadAll(req.Body)
								if retry && (err == nil || !bytes.HasPrefix(content, got)) || !retry && !bytes.Equal(content, got) {
									t.Errorf("the late reader got %d bytes and error %v", len(got), err)
								}
							}()
							return response(req, 503, ""), nil
						}
						if got, err := consume(req); err != nil || got != string(content) {
							t.Errorf("the second attempt got %d bytes and error %v, want the %d of the body", len(got), err, len(content))
						}
						return response(req, 200, ""), nil
					}),
				}
				req := newRequest(t, "POST", "http://example.com/", nil)
				body := &testBody{Reader: bytes.NewReader(content)}
				req.Body = body
				if _, err := rt.RoundTrip(req); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				body.wantClosedOnce(t)
			})
		})
	}
}

// A choppy reader returns pieces of random size, some of them empty.
type choppy struct{ io.Reader }

func (c *choppy) Read(p []byte) (int, error) {
	if n := rand.IntN(5000); n < len(p) {
		p = p[:n]
	}
	return c.Reader.Read(p)
}

// failUntil reads and closes bodies, and responds with a 503 before the nth attempt.
func failUntil(n int, got *[]string) roundTripFunc {
	attempt := 0
	return func(req *http.Request) (*http.Response, error) {
		b, err := consume(req)
		*got = append(*got, b)
		if err != nil {
			return nil, err
		}
		if attempt++; attempt < n {
			return response(req, 503, ""), nil
		}
		return response(req, 200, ""), nil
	}
}

// The default limit is 1 MiB.
func TestMaxReplayBytes_DefaultIs1MiB(t *testing.T) {
	for size, want := range map[int]int{1 << 20: 2, 1<<20 + 1: 1} {
		var got []string
		rt := &httpretry.RetryTransport{Base: failUntil(2, &got), Policy: now}
		req := newRequest(t, "POST", "http://example.com/", nil)
		req.Body, req.ContentLength = newTestBody(string(pattern(size))), -1
		if _, err := rt.RoundTrip(req); err != nil || len(got) != want {
			t.Errorf("a body of %d bytes: got %d attempts and error %v, want %d", size, len(got), err, want)
		}
	}
}

func TestMaxReplayBytes_LimitsBuffer(t *testing.T) {
	const limit = 100_000
	tests := []struct {
		name     string
		size     int
		declared int64
		attempts int
		reason   string
	}{
		{"empty", 0, -1, 2, "an empty body is replayed too"},
		{"small", 10, -1, 2, ""},
		{"exact", limit, -1, 2, "exactly the limit can be replayed"},
		{"exact and declared", limit, limit, 2, ""},
		{"one more", limit + 1, -1, 1, "the current attempt continues, and no retry follows"},
		{"one more and declared", limit + 1, limit + 1, 1, "Content-Length exceeds the limit"},
		{"much more", 20 * limit, -1, 1, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			content := string(pattern(tt.size))
			req := newRequest(t, "POST", "http://example.com/", nil)
			body := newTestBody(content)
			req.Body, req.ContentLength = body, tt.declared
			var got []string
			var last httpretry.Decision
			rt := &httpretry.RetryTransport{
				Base: failUntil(2, &got), Policy: now, MaxReplayBytes: limit,
				OnAttempt: func(_ httpretry.Attempt, d httpretry.Decision) { last = d },
			}
			resp, err := rt.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != tt.attempts {
				t.Errorf("got %d attempts, want %d: %s", len(got), tt.attempts, tt.reason)
			}
			for i, b := range got {
				if b != content {
					t.Errorf("attempt %d sent %d bytes, want the %d of the body", i+1, len(b), len(content))
				}
			}
			if tt.attempts == 1 && (last.Reason != "not_replayable" || resp.StatusCode != 503) {
				t.Errorf("got reason %q and status %d, want %q and the attempt's own 503", last.Reason, resp.StatusCode, "not_replayable")
			}
			body.wantClosedOnce(t)
		})
	}
}

func TestReplay_StreamsFirstByte(t *testing.T) {
	pr, pw := io.Pipe()
	rt := &httpretry.RetryTransport{Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
		defer req.Body.Close()
		b := make([]byte, 1)
		if _, err := io.ReadFull(req.Body, b); err != nil || b[0] != 'a' {
			t.Errorf("got %q, %v, want the first byte while the source is still open", b, err)
		}
		go func() { // the source continues only now
			io.WriteString(pw, "b")
			pw.Close()
		}()
		rest, err := io.ReadAll(req.Body)
		if string(rest) != "b" || err != nil {
			t.Errorf("got rest %q, %v", rest, err)
		}
		return response(req, 200, ""), nil
	})}
	go io.WriteString(pw, "a")
	if _, err := rt.RoundTrip(newRequest(t, "POST", "http://example.com/", pr)); err != nil {
		t.Fatal(err)
	}
}

// zeros returns a reader of n zero bytes.
func zeros(n int64) io.Reader { return io.LimitReader(zero{}, n) }

type zero struct{}

func (zero) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestReplay_LargeUploadUsesLittleMemory(t *testing.T) {
	const size = 256 << 20
	rt := &httpretry.RetryTransport{Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
		defer req.Body.Close()
		n, err := io.Copy(io.Discard, req.Body)
		if n != size || err != nil {
			t.Errorf("got %d bytes, %v, want %d", n, err, size)
		}
		return response(req, 200, ""), nil
	})}
	req := newRequest(t, "POST", "http://example.com/", zeros(size))
	if got := allocated(func() { rt.RoundTrip(req) }); got > 4<<20 {
		t.Errorf("allocated %d KiB for a 256 MiB upload, want at most 4 MiB", got>>10)
	}
}

// After the last response, the body is not buffered any more: a full-duplex
// exchange may last arbitrarily long.
func TestReplay_FullDuplexUsesLittleMemory(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		w.WriteHeader(http.StatusOK)
		rc.Flush()
		buf := make([]byte, 4<<10)
		for {
			n, err := io.ReadFull(r.Body, buf)
			w.Write(buf[:n])
			rc.Flush()
			if err != nil {
				return
			}
		}
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	client := newClient(t, srv, &httpretry.RetryTransport{MaxReplayBytes: 64 << 10})
	pr, pw := io.Pipe()
	resp, err := client.Do(newRequest(t, "POST", srv.URL, pr))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	message, echo := pattern(4<<10), make([]byte, 4<<10)
	for i := range 2000 { // 8 MiB, one message after the other
		if _, err := pw.Write(message); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		if _, err := io.ReadFull(resp.Body, echo); err != nil || !bytes.Equal(echo, message) {
			t.Fatalf("message %d: the echo differs, error %v", i, err)
		}
	}
	pw.Close()
	if _, err := resp.Body.Read(echo); err != io.EOF {
		t.Errorf("got %v after the last message, want EOF", err)
	}
}

func TestFileBody_IsReadFromItsOffset(t *testing.T) {
	content := pattern(3 << 20) // above MaxReplayBytes
	path := filepath.Join(t.TempDir(), "upload")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	const offset = 12345
	want := content[offset:]
	srv := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		got, err := io.ReadAll(r.Body)
		switch {
		case err != nil:
			w.WriteHeader(http.StatusServiceUnavailable)
		case !bytes.Equal(got, want):
			w.WriteHeader(http.StatusTeapot)
		case r.Header.Get("X-Attempt") != "3":
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	for _, length := range []int64{int64(len(want)), -1} {
		t.Run(fmt.Sprint("ContentLength", length), func(t *testing.T) {
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.Seek(offset, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			tr := srv.Client().Transport
			client := &http.Client{Transport: &httpretry.RetryTransport{Policy: now, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				n := httpretry.AttemptNumber(req.Context())
				if _, ok := req.Body.(syscall.Conn); ok != (n == 1) {
					t.Errorf("attempt %d: net can see the file: %v, want that on the first attempt, for sendfile", n, ok)
				}
				req = req.Clone(req.Context())
				req.Header.Set("X-Attempt", fmt.Sprint(n))
				return tr.RoundTrip(req)
			})}}
			req := newRequest(t, "POST", srv.URL, f)
			req.ContentLength = length
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if readAll(t, resp); resp.StatusCode != 200 {
				t.Errorf("status %d: want 200 on the third attempt, with the file's bytes from where it stood", resp.StatusCode)
			}
			if err := f.Close(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("closing the file again: got %v, want an error because it is closed", err)
			}
		})
	}
}

// The bytes of a body that embeds a reader and overrides Read are those of its own
// Read, whatever other methods it inherits.
func TestReplay_SendsTheBodysOwnRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "upload")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	bodies := map[string]io.ReadCloser{
		"reader":              loudReader{bytes.NewReader([]byte("content")), io.NopCloser(nil)},
		"file, two levels up": struct{ loudFile }{loudFile{f}},
	}
	for name, body := range bodies {
		t.Run(name, func(t *testing.T) {
			var got []string
			rt := &httpretry.RetryTransport{Base: failUntil(3, &got), Policy: now}
			req := newRequest(t, "PUT", "http://example.com/", nil)
			req.Body = body
			if _, err := rt.RoundTrip(req); err != nil || fmt.Sprint(got) != "[CONTENT CONTENT CONTENT]" {
				t.Errorf("got bodies %q, %v, want three times what its Read returns", got, err)
			}
		})
	}
}

// A loudReader is a bytes.Reader with a Read of its own.
type loudReader struct {
	*bytes.Reader
	io.Closer
}

func (r loudReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	copy(p, bytes.ToUpper(p[:n]))
	return n, err
}

func (loudReader) Close() error { return nil }

// A loudFile is an *os.File with a Read of its own.
type loudFile struct{ *os.File }

func (f loudFile) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	copy(p, bytes.ToUpper(p[:n]))
	return n, err
}

// A pipe is an *os.File that cannot seek, so it is buffered.
func TestReplay_BuffersPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "through a pipe")
	w.Close()
	var got []string
	rt := &httpretry.RetryTransport{Base: failUntil(2, &got), Policy: now}
	if _, err := rt.RoundTrip(newRequest(t, "POST", "http://example.com/", r)); err != nil {
		t.Fatal(err)
	}
	if want := []string{"through a pipe", "through a pipe"}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got bodies %q, want %q", got, want)
	}
	if err := r.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closing the pipe again: got %v, want an error because it is closed", err)
	}
}

func TestReplay_FailingSource(t *testing.T) {
	boom := errors.New("disk on fire")
	source := func() *testBody {
		return &testBody{Reader: io.MultiReader(strings.NewReader("half"), errorReader{boom})}
	}
	t.Run("is final", func(t *testing.T) {
		attempts := 0
		rt := &httpretry.RetryTransport{Policy: now, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			attempts++
			_, err := consume(req)
			return nil, fmt.Errorf("sending: %w", err)
		})}
		req := newRequest(t, "PUT", "http://example.com/", nil)
		body := source()
		req.Body = body
		if _, err := rt.RoundTrip(req); !errors.Is(err, boom) || attempts != 1 {
			t.Errorf("got %v after %d attempts, want the source's error after 1: it would fail again", err, attempts)
		}
		body.wantClosedOnce(t)
	})
	t.Run("is final over the wire", func(t *testing.T) {
		srv := newServer(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
		var reasons []string
		client := newClient(t, srv, &httpretry.RetryTransport{Policy: now, OnAttempt: func(_ httpretry.Attempt, d httpretry.Decision) { reasons = append(reasons, d.Reason) }})
		req := newRequest(t, "PUT", srv.URL, nil)
		body := source()
		body.closed = make(chan struct{})
		req.Body = body
		if _, err := client.Do(req); !errors.Is(err, boom) || len(reasons) != 1 || reasons[0] != "final" {
			t.Errorf("got %v with reasons %q, want the source's error, once and final", err, reasons)
		}
		<-body.closed
		body.wantClosedOnce(t)
	})
	t.Run("is sticky", func(t *testing.T) {
		rt := &httpretry.RetryTransport{Policy: now, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			for range 3 {
				body, err := req.GetBody()
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(body)
				if string(b) != "half" || err != boom {
					t.Errorf("got %q, %v, want the same bytes and the same error every time", b, err)
				}
				if _, err := body.Read(make([]byte, 1)); err != boom {
					t.Errorf("reading on: got %v, want the same error", err)
				}
				body.Close()
			}
			_, err := consume(req)
			return nil, err
		})}
		req := newRequest(t, "PUT", "http://example.com/", nil)
		req.Body = source()
		if _, err := rt.RoundTrip(req); err != boom {
			t.Errorf("got %v, want %v", err, boom)
		}
	})
	t.Run("returns an early response", func(t *testing.T) {
		rt := &httpretry.RetryTransport{Policy: now, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			consume(req)
			return response(req, 503, "busy"), nil
		})}
		req := newRequest(t, "PUT", "http://example.com/", nil)
		req.Body = source()
		if resp, err := rt.RoundTrip(req); err != nil || readAll(t, resp) != "busy" {
			t.Errorf("got %v, want the 503: another attempt would fail", err)
		}
	})
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

// readWhole reads and closes the request body and responds with a 200, as a Base.
func readWhole(req *http.Request) (*http.Response, error) {
	defer req.Body.Close()
	if _, err := io.Copy(io.Discard, req.Body); err != nil {
		return nil, err
	}
	return response(req, 200, ""), nil
}

// wantLetGo checks that a source is closed, perhaps after RoundTrip has returned.
func wantLetGo(t *testing.T, source *io.PipeWriter) {
	t.Helper()
	synctest.Wait()
	if _, err := source.Write([]byte("x")); err != io.ErrClosedPipe {
		t.Errorf("writing to the source: got %v, want an error because it is closed", err)
	}
}

// A source that blocks does not delay the end of the call, and is closed.
func TestReplay_BlockedSource(t *testing.T) {
	t.Run("canceled", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			cause := errors.New("the reason")
			ctx, cancel := context.WithCancelCause(t.Context())
			pr, pw := io.Pipe()
			rt := &httpretry.RetryTransport{Base: roundTripFunc(readWhole)}
			time.AfterFunc(time.Second, func() { cancel(cause) })
			start := time.Now()
			_, err := rt.RoundTrip(newRequest(t, "POST", "http://example.com/", pr).WithContext(ctx))
			if !errors.Is(err, cause) || time.Since(start) != time.Second {
				t.Errorf("got %v after %v, want %v after 1s", err, time.Since(start), cause)
			}
			wantLetGo(t, pw)
		})
	})
	t.Run("retries run out", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			pr, pw := io.Pipe()
			rt := &httpretry.RetryTransport{AttemptTimeout: time.Second, Base: roundTripFunc(readWhole), Policy: httpretry.RetryConfig{MaxRetries: 1}}
			_, err := rt.RoundTrip(newRequest(t, "PUT", "http://example.com/", pr))
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want a timeout", err)
			}
			wantLetGo(t, pw)
		})
	})
	t.Run("too large to replay", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			pr, pw := io.Pipe()
			rt := &httpretry.RetryTransport{AttemptTimeout: time.Second, Base: roundTripFunc(readWhole), MaxReplayBytes: 10}
			go pw.Write(make([]byte, 100)) // and never a byte more
			_, err := rt.RoundTrip(newRequest(t, "PUT", "http://example.com/", pr))
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want a timeout", err)
			}
			wantLetGo(t, pw)
		})
	})
}

// Late bytes of the source are sent by the current attempt.
func TestReplay_BlockedSourceContinues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr, pw := io.Pipe()
		var got []string
		rt := &httpretry.RetryTransport{AttemptTimeout: time.Second, Policy: now, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			b, err := consume(req)
			got = append(got, b)
			if err != nil {
				return nil, err
			}
			return response(req, 200, ""), nil
		})}
		go func() {
			io.WriteString(pw, "early ")
			time.Sleep(2500 * time.Millisecond)
			io.WriteString(pw, "late")
			pw.Close()
		}()
		if _, err := rt.RoundTrip(newRequest(t, "PUT", "http://example.com/", pr)); err != nil {
			t.Fatal(err)
		}
		if want := []string{"early ", "early ", "early late"}; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("attempts read %q, want %q", got, want)
		}
	})
}

// A body that is not buffered is closed too, where net/http alone would wait.
func TestOneShot_BlockedSource(t *testing.T) {
	for name, set := range map[string]func(*http.Request, *httpretry.RetryTransport){
		"declared too large": func(req *http.Request, rt *httpretry.RetryTransport) { req.ContentLength = 1 << 30 },
		"never retried": func(req *http.Request, rt *httpretry.RetryTransport) {
			rt.Policy = &httpretry.RetryConfig{MaxRetries: -1}
		},
		"nothing buffered": func(req *http.Request, rt *httpretry.RetryTransport) { rt.MaxReplayBytes = -1 },
	} {
		for _, timeout := range []time.Duration{0, time.Second} {
			t.Run(fmt.Sprint(name, ", timeout ", timeout), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					if timeout == 0 {
						time.AfterFunc(time.Second, cancel)
					}
					pr, pw := io.Pipe()
					rt := &httpretry.RetryTransport{Base: roundTripFunc(readWhole), AttemptTimeout: timeout}
					req := newRequest(t, "PUT", "http://example.com/", pr).WithContext(ctx)
					set(req, rt)
					start := time.Now()
					if _, err := rt.RoundTrip(req); err == nil || time.Since(start) != time.Second {
						t.Errorf("got %v after %v, want an error after 1s", err, time.Since(start))
					}
					wantLetGo(t, pw)
				})
			})
		}
	}
}

// The Close of some sources waits for a Read that is under way.
func TestReplay_SourceWhoseCloseWaitsForRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &lockedBody{release: make(chan struct{})}
		rt := &httpretry.RetryTransport{
			AttemptTimeout: time.Second, Base: roundTripFunc(readWhole),
			Policy: httpretry.RetryConfig{MaxRetries: 1, Jitter: httpretry.NoJitter},
		}
		start := time.Now()
		_, err := rt.RoundTrip(newRequest(t, "PUT", "http://example.com/", source))
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 3*time.Second {
			t.Errorf("got %v after %v, want a timeout after two attempts and a wait of 1s each", err, time.Since(start))
		}
		close(source.release)
	})
}

// The source is also closed if net/http sends the body.
func TestReplay_BlockedSourceOverLoopback(t *testing.T) {
	for _, proto := range []int{1, 2} {
		srv := newProtoServer(t, proto, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
		client := newClient(t, srv, &httpretry.RetryTransport{})
		ctx, cancel := context.WithCancel(t.Context())
		pr, pw := io.Pipe()
		go func() {
			io.WriteString(pw, "x") // returns once the body is being sent
			cancel()
		}()
		if _, err := client.Do(newRequest(t, "POST", srv.URL, pr).WithContext(ctx)); !errors.Is(err, context.Canceled) {
			t.Errorf("HTTP/%d: got %v, want %v", proto, err, context.Canceled)
		}
		for { // blocks forever unless the source is closed
			if _, err := pw.Write([]byte("x")); err != nil {
				break
			}
		}
	}
}

// A lockedBody waits in Close for its Read, as the body of a server's request does.
type lockedBody struct {
	mu      sync.Mutex
	release chan struct{}
}

func (b *lockedBody) Read([]byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	<-b.release
	return 0, io.EOF
}

func (b *lockedBody) Close() error {
	<-b.release // a mutex would not count as blocked in a bubble
	b.mu.Lock()
	defer b.mu.Unlock()
	return nil
}

// The caller gets the cause of the context, not the error of a source that
// RetryTransport has closed.
func TestReplay_CancellationReportsCause(t *testing.T) {
	for _, limit := range []int64{-1, 10, 1 << 20} {
		synctest.Test(t, func(t *testing.T) {
			cause := errors.New("the reason")
			ctx, cancel := context.WithCancelCause(t.Context())
			pr, pw := io.Pipe()
			rt := &httpretry.RetryTransport{MaxReplayBytes: limit, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				_, err := consume(req)
				return nil, err
			})}
			go func() {
				pw.Write(make([]byte, 1000))
				cancel(cause)
			}()
			if _, err := rt.RoundTrip(newRequest(t, "POST", "http://example.com/", pr).WithContext(ctx)); err != cause {
				t.Errorf("limit %d: got %v, want %v", limit, err, cause)
			}
		})
	}
}

// A source may return any number of empty Reads.
func TestReplay_SourceWithEmptyReads(t *testing.T) {
	empty := 1000
	source := readerFunc(func(p []byte) (int, error) {
		if empty--; empty > 0 {
			return 0, nil
		}
		return copy(p, "x"), io.EOF
	})
	var got []string
	rt := &httpretry.RetryTransport{Base: failUntil(2, &got), Policy: now}
	if _, err := rt.RoundTrip(newRequest(t, "POST", "http://example.com/", source)); err != nil || fmt.Sprint(got) != "[x x]" {
		t.Errorf("got bodies %q, %v, want two of %q", got, err, "x")
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestFileBody_UnusualFiles(t *testing.T) {
	open := func(t *testing.T) (*os.File, string) {
		path := filepath.Join(t.TempDir(), "upload")
		if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		return f, path
	}
	t.Run("is a device", func(t *testing.T) {
		f, err := os.Open("/dev/urandom") // where Seek succeeds
		if errors.Is(err, os.ErrNotExist) {
			return // no such system
		}
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		rt := &httpretry.RetryTransport{Policy: now, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			defer req.Body.Close()
			begin := make([]byte, 16)
			_, err := io.ReadFull(req.Body, begin)
			got = append(got, string(begin))
			return response(req, 503-303*(len(got)/3), ""), err
		})}
		if _, err := rt.RoundTrip(newRequest(t, "POST", "http://example.com/", f)); err != nil || len(got) != 3 || got[0] != got[1] || got[0] != got[2] {
			t.Errorf("got bodies that begin with %q, %v, want the same three times", got, err)
		}
	})
	t.Run("shrinks", func(t *testing.T) {
		f, path := open(t)
		attempts := 0
		rt := &httpretry.RetryTransport{Policy: now, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			if _, err := consume(req); err != nil {
				return nil, err
			}
			if attempts++; attempts > 1 {
				t.Error("a truncated body was sent as if it were complete")
			}
			return response(req, 503, ""), os.Truncate(path, 3)
		})}
		var last httpretry.Decision
		var cause error
		rt.OnAttempt = func(a httpretry.Attempt, d httpretry.Decision) { last, cause = d, a.Err }
		resp, err := rt.RoundTrip(newRequest(t, "POST", "http://example.com/", f))
		if err != nil || resp.StatusCode != 503 || last.Reason != "not_replayable" || !errors.Is(cause, io.ErrUnexpectedEOF) {
			t.Errorf("got %v, %v, reason %q and cause %v, want the 503 before, %q and %v", resp, err, last.Reason, cause, "not_replayable", io.ErrUnexpectedEOF)
		}
	})
	t.Run("grows", func(t *testing.T) {
		f, path := open(t)
		var got []string
		rt := &httpretry.RetryTransport{Policy: now, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			b, err := consume(req)
			if err != nil {
				return nil, err
			}
			if got = append(got, b); len(got) == 2 {
				return response(req, 200, ""), nil
			}
			return response(req, 503, ""), os.WriteFile(path, []byte("content that has grown"), 0o600)
		})}
		req := newRequest(t, "POST", "http://example.com/", f)
		req.ContentLength = -1
		if _, err := rt.RoundTrip(req); err != nil || fmt.Sprint(got) != "[content content]" {
			t.Errorf("got bodies %q, %v, want the length that the first attempt sent", got, err)
		}
	})
}

// Middleware may read a copy in part and leave it open.
func TestReplay_UnclosedCopy(t *testing.T) {
	for _, size := range []int{100, 2 << 20} {
		content := string(pattern(size))
		body := newTestBody(content)
		rt := &httpretry.RetryTransport{Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			copied, err := req.GetBody()
			if err != nil {
				t.Fatal(err)
			}
			io.ReadFull(copied, make([]byte, 10))
			if got, err := consume(req); err != nil || got != content {
				t.Errorf("the body has %d bytes, %v, want all %d", len(got), err, size)
			}
			return response(req, 200, ""), nil
		})}
		if _, err := rt.RoundTrip(newRequest(t, "PUT", "http://example.com/", body)); err != nil {
			t.Fatal(err)
		}
		body.wantClosedOnce(t)
	}
}

// If an HTTP/2 connection turns out to be closed, net/http gets a copy before it
// finds that there is no other connection, and a second copy for a new
// connection. It neither reads nor closes the first one.
func TestReplay_AbandonedCopy(t *testing.T) {
	content := string(pattern(100 << 10))
	buffered := func() io.Reader { return iotest.HalfReader(strings.NewReader(content)) }
	tests := []struct {
		name   string
		source io.Reader
		max    int64
		read   int // bytes of the other copy that are read
		reason string
	}{
		{"seekable", strings.NewReader(content), 0, len(content), "the source is closed after the last read"},
		{"seekable, early response", strings.NewReader(content), 0, 10, "the source is closed with the copy"},
		{"buffered", buffered(), 0, len(content), "the other copy has all of it"},
		{"buffered, early response", buffered(), 0, 10, "the source is closed with the copy"},
		{"beyond the limit", buffered(), 10 << 10, len(content), "bytes that are not buffered are read by the copy that is sent"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rt := &httpretry.RetryTransport{MaxReplayBytes: tt.max, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				req.Body.Close()
				abandoned, err := req.GetBody()
				if err != nil {
					t.Fatal(err)
				}
				copied, err := req.GetBody()
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(io.LimitReader(copied, int64(tt.read)))
				if err != nil || string(got) != content[:tt.read] {
					t.Errorf("the copy has %d bytes, %v, want %d: %s", len(got), err, tt.read, tt.reason)
				}
				resp := response(req, 200, "")
				resp.Body = &testBody{Reader: readerFunc(func([]byte) (int, error) {
					copied.Close() // the transport is still sending when it has the headers
					if got, _ := io.ReadAll(abandoned); !strings.HasPrefix(content, string(got)) {
						t.Error("the abandoned copy read bytes that are not of the body")
					}
					return 0, io.EOF
				})}
				return resp, nil
			})}
			body := newTestBody("")
			body.Reader = tt.source
			req := newRequest(t, "PUT", "http://example.com/", nil)
			req.Body = body
			if s, ok := tt.source.(*strings.Reader); ok {
				req.Body = struct {
					*strings.Reader
					io.Closer
				}{s, body}
			}
			resp, err := rt.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			if got := body.closes.Load(); got != 0 && tt.read < len(content) {
				t.Error("the body was closed while it was being sent")
			}
			readAll(t, resp)
			body.wantClosedOnce(t)
		})
	}
}

// A buffered body has a GetBody, so net/http itself can replay it after a stale
// connection.
func TestReplay_NetHTTPReplaysOnStaleConnection(t *testing.T) {
	var requests atomic.Int32
	srv := newHTTP1Server(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if requests.Add(1) == 2 {
			panic(http.ErrAbortHandler) // closes the connection, which is in use a second time
		}
		w.Write(body)
	})
	client := newClient(t, srv, &httpretry.RetryTransport{OnAttempt: func(a httpretry.Attempt, _ httpretry.Decision) {
		if a.Number != 1 {
			t.Error("RetryTransport made a second attempt where net/http can replay")
		}
	}})
	for range 2 {
		req := newRequest(t, "POST", srv.URL, io.MultiReader(strings.NewReader("content")))
		req.Header.Set("Idempotency-Key", "1") // without it, net/http does not replay a POST
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, resp); got != "content" {
			t.Errorf("got %q, want %q", got, "content")
		}
	}
	if got := requests.Load(); got != 3 {
		t.Errorf("the server saw %d requests, want 3: two calls and one replay", got)
	}
}

// Middleware may read a copy of the body before it sends the body.
func TestReplay_CopiesAreIndependent(t *testing.T) {
	content := string(pattern(500 << 10))
	attempts := 0
	rt := &httpretry.RetryTransport{Policy: now, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
		attempts++
		copied, err := req.GetBody()
		if err != nil {
			t.Fatal(err)
		}
		part := make([]byte, 1000)
		io.ReadFull(req.Body, part)
		fromCopy, err := io.ReadAll(copied)
		if err != nil || string(fromCopy) != content {
			t.Errorf("attempt %d: the copy has %d bytes, %v, want all %d", attempts, len(fromCopy), err, len(content))
		}
		rest, err := consume(req)
		if err != nil || string(part)+rest != content {
			t.Errorf("attempt %d: the body has %d bytes, %v, want all %d", attempts, len(part)+len(rest), err, len(content))
		}
		if attempts < 3 {
			return response(req, 503, ""), nil
		}
		return response(req, 200, ""), nil
	})}
	req := newRequest(t, "PUT", "http://example.com/", nil)
	body := newTestBody(content)
	req.Body = body
	if _, err := rt.RoundTrip(req); err != nil {
		t.Fatal(err)
	}
	body.wantClosedOnce(t)
}

// With a GetBody, net/http resends a POST that was possibly processed, after an
// HTTP/2 PROTOCOL_ERROR. So only idempotent requests get one.
func TestGetBody_OnlyForIdempotentRequests(t *testing.T) {
	tests := []struct {
		name, method string
		key          bool
		idempotent   func(*http.Request) bool
		want         bool
	}{
		{"PUT", "PUT", false, nil, true},
		{"POST", "POST", false, nil, false},
		{"POST with a key", "POST", true, nil, true},
		{"POST that Idempotent reports", "POST", false, func(*http.Request) bool { return true }, true},
	}
	for _, tt := range tests {
		file, err := os.CreateTemp(t.TempDir(), "upload")
		if err != nil {
			t.Fatal(err)
		}
		file.WriteString("x")
		file.Seek(0, io.SeekStart)
		for source, body := range map[string]io.Reader{"buffered": io.MultiReader(strings.NewReader("x")), "file": file} {
			attempts := 0
			rt := &httpretry.RetryTransport{Policy: now, Idempotent: tt.idempotent, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				if attempts++; (req.GetBody != nil) != tt.want {
					t.Errorf("%s, %s, attempt %d: has a GetBody: %v, want %v", tt.name, source, attempts, req.GetBody != nil, tt.want)
				}
				consume(req)
				return response(req, 503, ""), nil
			})}
			req := newRequest(t, tt.method, "http://example.com/", body)
			if tt.key {
				req.Header.Set("Idempotency-Key", "1")
			}
			if _, err := rt.RoundTrip(req); err != nil || attempts < 2 {
				t.Errorf("%s, %s: got %d attempts and error %v, want several", tt.name, source, attempts, err)
			}
		}
	}
}

// A copy that is read past the limit fails there, and takes no bytes from the
// request's Body.
func TestReplay_CopyReadPastLimit(t *testing.T) {
	content := string(pattern(200 << 10))
	rt := &httpretry.RetryTransport{MaxReplayBytes: 100 << 10, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
		copied, err := req.GetBody()
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(copied); err == nil || !strings.HasPrefix(content, string(b)) {
			t.Errorf("the copy read %d bytes, error %v, want an error at the limit", len(b), err)
		}
		copied.Close()
		if got, err := consume(req); err != nil || got != content {
			t.Errorf("the body has %d bytes, %v, want all %d", len(got), err, len(content))
		}
		if _, err := req.GetBody(); err == nil {
			t.Error("GetBody returned a copy although the beginning is not buffered any more")
		}
		return response(req, 200, ""), nil
	})}
	if _, err := rt.RoundTrip(newRequest(t, "PUT", "http://example.com/", io.MultiReader(strings.NewReader(content)))); err != nil {
		t.Fatal(err)
	}
}

// If the request's Body was read past the limit and closed, as net/http does
// before it replays, a copy must fail at the first byte that is not buffered. It
// must not continue after the gap.
func TestReplay_CopyAfterBodyReadPastLimit(t *testing.T) {
	tests := []struct {
		name   string
		size   int
		before int // bytes read of the request before there is a copy
		copied int // bytes then read of the copy
		after  int // and of the request, before it is closed
		whole  bool
		reason string
	}{
		{"within the limit", 64, 20, 1, 5, true, "all of it is buffered"},
		{"beyond the buffer", 64, 20, 1, 30, false, "those bytes are not buffered"},
		{"beyond the buffer, not begun", 64, 20, 0, 30, false, "those bytes are not buffered"},
		{"beyond the first chunk", 200 << 10, 90 << 10, 1, 20 << 10, false, "the first chunk may be part of another buffer"},
		{"beyond the first chunk, not begun", 200 << 10, 90 << 10, 0, 20 << 10, false, "the beginning is not buffered any more"},
		{"beyond the first chunk, all of it buffered", 200 << 10, 90 << 10, 1, 10<<10 + 1, false, "the beginning is not buffered any more"},
		{"beyond the first chunk, later", 200 << 10, 90 << 10, 40 << 10, 20 << 10, false, "another part is buffered"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			content := string(pattern(tt.size))
			body := &testBody{Reader: iotest.OneByteReader(strings.NewReader(content))}
			rt := &httpretry.RetryTransport{MaxReplayBytes: int64(tt.size / 2), Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				io.CopyN(io.Discard, req.Body, int64(tt.before))
				copied, err := req.GetBody()
				if err != nil {
					t.Fatal(err)
				}
				begin := make([]byte, tt.copied)
				io.ReadFull(copied, begin)
				io.CopyN(io.Discard, req.Body, int64(tt.after))
				req.Body.Close()
				rest, err := io.ReadAll(copied)
				if got := string(begin) + string(rest); !strings.HasPrefix(content, got) || (err == nil) != tt.whole || tt.whole && got != content {
					t.Errorf("the copy read %d bytes, error %v, want the body, or a prefix and an error: %s", len(got), err, tt.reason)
				}
				copied.Close()
				return response(req, 200, ""), nil
			})}
			req := newRequest(t, "PUT", "http://example.com/", nil)
			req.Body = body
			if _, err := rt.RoundTrip(req); err != nil {
				t.Fatal(err)
			}
			body.wantClosedOnce(t)
		})
	}
}

// The caller's body is closed exactly once, however the call ends.
func TestRoundTrip_ClosesBodyOnce(t *testing.T) {
	boom := errors.New("boom")
	ends := map[string]roundTripFunc{
		"success":       statuses(200),
		"retried":       statuses(503, 503, 200),
		"status at end": statuses(503),
		"error": func(req *http.Request) (*http.Response, error) {
			consume(req)
			return nil, boom
		},
		"error before the body is read": func(req *http.Request) (*http.Response, error) {
			req.Body.Close()
			return nil, boom
		},
		"response before the body is read": func(req *http.Request) (*http.Response, error) {
			req.Body.Close()
			return response(req, 503, ""), nil
		},
		"closed twice": func(req *http.Request) (*http.Response, error) {
			req.Body.Close()
			req.Body.Close()
			return response(req, 200, ""), nil
		},
	}
	bodies := map[string]func(*http.Request, io.ReadCloser){
		"buffered": func(req *http.Request, b io.ReadCloser) { req.Body = b },
		"GetBody": func(req *http.Request, b io.ReadCloser) {
			req.Body = b
			req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("content")), nil }
		},
		"too large": func(req *http.Request, b io.ReadCloser) { req.Body, req.ContentLength = b, 1<<30 },
	}
	for end, base := range ends {
		if end == "closed twice" {
			continue // only a body that RetryTransport wraps allows that
		}
		for kind, set := range bodies {
			t.Run(end+"/"+kind, func(t *testing.T) {
				body := newTestBody("content")
				req := newRequest(t, "PUT", "http://example.com/", nil)
				set(req, body)
				rt := &httpretry.RetryTransport{Base: base, Policy: policyFunc(func(a httpretry.Attempt) (time.Duration, bool) { return 0, a.Number < 3 })}
				if resp, err := rt.RoundTrip(req); err == nil {
					readAll(t, resp)
				}
				body.wantClosedOnce(t)
			})
		}
	}
}

// If the body of an attempt cannot be replayed, the response before it is returned
// and OnAttempt gets the cause.
func TestGetBody_FailureReturnsTheResponse(t *testing.T) {
	gone := errors.New("gone")
	for name, getBody := range map[string]func() (io.ReadCloser, error){
		"error":   func() (io.ReadCloser, error) { return nil, gone },
		"nothing": func() (io.ReadCloser, error) { return nil, nil }, // net/http would send no body
		"fails when it is read": func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(strings.NewReader("x"), errorReader{gone})), nil
		},
	} {
		for _, delay := range []time.Duration{0, time.Second} {
			t.Run(fmt.Sprint(name, " after ", delay), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					req := newRequest(t, "POST", "http://example.com/", nil)
					body := newTestBody("x")
					req.Body, req.GetBody = body, getBody
					var log []string
					rt := &httpretry.RetryTransport{
						Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
							if b, err := consume(req); err != nil || b != "x" {
								return nil, fmt.Errorf("sending %q: %w", b, err)
							}
							return response(req, 503, "busy"), nil
						}),
						Policy: every(delay),
						OnAttempt: func(a httpretry.Attempt, d httpretry.Decision) {
							log = append(log, fmt.Sprintf("%d %q %t", a.Number, d.Reason, a.Err != nil))
						},
						OnDone: func(s httpretry.Summary) { log = append(log, fmt.Sprintf("done %q %v", s.Reason, s.Err)) },
					}
					resp, err := rt.RoundTrip(req)
					if err != nil || resp.StatusCode != 503 || readAll(t, resp) != "busy" {
						t.Errorf("got %v, %v, want the 503 with its body", resp, err)
					}
					if want := `[1 "" false 2 "not_replayable" true done "not_replayable" <nil>]`; fmt.Sprint(log) != want {
						t.Errorf("got calls %v, want %v", log, want)
					}
					body.wantClosedOnce(t)
				})
			})
		}
	}
}

// GetBody is called after the wait, so that a waiting upload has no open file.
func TestGetBody_IsCalledAfterTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var called []time.Duration
		req := newRequest(t, "PUT", "http://example.com/", nil)
		req.Body = newTestBody("x")
		req.GetBody = func() (io.ReadCloser, error) {
			called = append(called, time.Since(start))
			return newTestBody("x"), nil
		}
		rt := &httpretry.RetryTransport{Base: statuses(503, 503, 200), Policy: every(time.Minute)}
		if _, err := rt.RoundTrip(req); err != nil {
			t.Fatal(err)
		}
		if want := []time.Duration{time.Minute, 2 * time.Minute}; fmt.Sprint(called) != fmt.Sprint(want) {
			t.Errorf("GetBody was called after %v, want %v", called, want)
		}
	})
}

func TestReplay_Allocations(t *testing.T) {
	content := pattern(64 << 10)
	source := bytes.NewReader(content)
	body := struct{ io.ReadCloser }{io.NopCloser(source)}
	buf := make([]byte, 32<<10)
	resp := &http.Response{StatusCode: 200, Body: http.NoBody}
	rt := &httpretry.RetryTransport{Base: countedFunc(func(req *http.Request) (*http.Response, error) {
		defer req.Body.Close()
		for {
			if _, err := req.Body.Read(buf); err != nil {
				return resp, nil
			}
		}
	})}
	req, err := http.NewRequestWithContext(context.Background(), "POST", "http://example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Body = body
	if got := testing.AllocsPerRun(200, func() { source.Reset(content); rt.RoundTrip(req) }); got > 3 && poolsKeep {
		t.Errorf("a streamed 64 KiB POST made %v allocations, want at most 3", got)
	}
}

// FuzzReplay reads a body in pieces, in part, from copies, after the end of an
// attempt, and from a source that fails, as the input determines. Each copy must
// return a prefix of the body and then an error, or all of it and the source's end.
func FuzzReplay(f *testing.F) {
	f.Add(uint64(1), uint32(100), uint32(1000), byte(0), []byte{0, 1, 2})
	f.Add(uint64(2), uint32(70_000), uint32(65_536), byte(1), []byte{3, 4, 5, 255})
	f.Add(uint64(3), uint32(65_536), uint32(65_536), byte(0), []byte{7, 7, 7, 7})
	f.Add(uint64(4), uint32(33_000), uint32(0), byte(2), []byte{1, 128, 64})
	f.Fuzz(func(t *testing.T, seed uint64, size, limit uint32, kind byte, plan []byte) {
		size, limit = size%200_000, limit%200_000
		if len(plan) > 8 {
			plan = plan[:8]
		}
		content := pattern(int(size))
		boom := errors.New("boom")
		source := &fuzzSource{rng: rand.New(rand.NewPCG(seed, 1)), content: content, end: io.EOF}
		if kind%2 == 1 {
			source.end = boom
		}
		var late sync.WaitGroup
		defer late.Wait()
		check := func(got []byte, err error) {
			if !bytes.HasPrefix(content, got) {
				t.Errorf("read %d bytes that are not a prefix of the body", len(got))
			}
			if err == nil && (len(got) != len(content) || source.end != io.EOF) {
				t.Errorf("read io.EOF after %d of %d bytes of a source that ends with %v", len(got), len(content), source.end)
			}
			if errors.Is(err, boom) && len(got) != len(content) {
				t.Errorf("the source's error after %d of %d bytes", len(got), len(content))
			}
		}
		attempt := 0
		rt := &httpretry.RetryTransport{
			MaxReplayBytes: int64(limit),
			Policy:         policyFunc(func(a httpretry.Attempt) (time.Duration, bool) { return 0, true }),
			Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				if attempt++; attempt > len(plan) {
					got, err := readPieces(req.Body, seed)
					check(got, err)
					req.Body.Close()
					return response(req, 200, ""), err
				}
				step := plan[attempt-1]
				if step&1 != 0 {
					if copied, err := req.GetBody(); err == nil {
						got, err := readPieces(io.LimitReader(copied, int64(step)<<10), seed)
						if int64(len(got)) < int64(step)<<10 {
							check(got, err)
						}
						copied.Close()
					}
				}
				read := func() {
					defer req.Body.Close()
					got, err := readPieces(io.LimitReader(req.Body, int64(step)<<9), seed+uint64(step))
					if int64(len(got)) < int64(step)<<9 {
						check(got, err)
					}
				}
				if step&2 != 0 {
					late.Go(read)
				} else {
					read()
				}
				return response(req, 503, ""), nil
			}),
		}
		req := newRequest(t, "PUT", "http://example.com/", nil)
		body := &testBody{Reader: source}
		req.Body = body
		rt.RoundTrip(req)
		late.Wait()
		body.wantClosedOnce(t)
	})
}

// A fuzzSource returns content in random pieces, some of them empty, and its end
// with the last piece or after it.
type fuzzSource struct {
	rng     *rand.Rand
	content []byte
	end     error
}

func (s *fuzzSource) Read(p []byte) (int, error) {
	n := min(len(p), len(s.content), s.rng.IntN(9000))
	copy(p, s.content[:n])
	s.content = s.content[n:]
	if len(s.content) == 0 && (n == 0 || s.rng.IntN(2) == 0) {
		return n, s.end
	}
	return n, nil
}

// readPieces is io.ReadAll with buffers of random size.
func readPieces(r io.Reader, seed uint64) ([]byte, error) {
	rng := rand.New(rand.NewPCG(seed, 2))
	var all []byte
	for {
		p := make([]byte, 1+rng.IntN(40_000))
		n, err := r.Read(p)
		all = append(all, p[:n]...)
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
	}
}

// A call that waits for its next attempt uses little more memory than its body.
func TestReplay_WaitingCallUsesLittleMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const calls = 1000
		ctx, cancel := context.WithCancel(t.Context())
		resp := func(req *http.Request) *http.Response { return response(req, 503, "") }
		rt := &httpretry.RetryTransport{Policy: every(time.Hour), Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			_, err := consume(req)
			return resp(req), err
		})}
		heap := func() int64 {
			runtime.GC()
			runtime.GC() // empties the pools
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return int64(m.HeapAlloc)
		}
		before := heap()
		for range calls {
			req := newRequest(t, "POST", "http://example.com/", io.MultiReader(strings.NewReader("a small body"))).WithContext(ctx)
			go rt.RoundTrip(req)
		}
		synctest.Wait()
		if got := (heap() - before) / calls; got > 5<<10 {
			t.Errorf("a waiting call with a small buffered body uses %d bytes with its request, want at most 5 KiB", got)
		}
		cancel()
	})
}
