package compat_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/httpretry/httpretry"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// An http2Server answers the first streams, on whichever connection, by the
// functions in answers, and later ones with a 200.
type http2Server struct {
	net.Listener
	answers []func(f *http2.Framer, stream uint32) error
	wg      sync.WaitGroup

	mu     sync.Mutex
	conns  []net.Conn // a client does not close one that a GOAWAY ended
	bodies []string   // of the streams, in the order in which they ended
}

func serveHTTP2(t *testing.T, answers ...func(*http2.Framer, uint32) error) *http2Server {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http2Server{Listener: listener, answers: answers}
	s.wg.Go(s.accept)
	t.Cleanup(func() {
		listener.Close()
		s.mu.Lock()
		for _, conn := range s.conns {
			conn.Close()
		}
		s.mu.Unlock()
		s.wg.Wait()
	})
	return s
}

func (s *http2Server) accept() {
	for {
		conn, err := s.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns = append(s.conns, conn)
		s.mu.Unlock()
		s.wg.Go(func() {
			defer conn.Close()
			s.talk(conn)
		})
	}
}

// talk serves one connection, until the client or the answers end it.
func (s *http2Server) talk(conn net.Conn) {
	if _, err := io.CopyN(io.Discard, conn, int64(len(http2.ClientPreface))); err != nil {
		return
	}
	f := http2.NewFramer(conn, conn)
	if err := f.WriteSettings(); err != nil {
		return
	}
	bodies := map[uint32]*bytes.Buffer{}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return
		}
		stream := frame.Header().StreamID
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				err = f.WriteSettingsAck()
			}
		case *http2.HeadersFrame:
			bodies[stream] = new(bytes.Buffer)
			if frame.StreamEnded() {
				err = s.answer(f, stream, "")
			}
		case *http2.DataFrame:
			bodies[stream].Write(frame.Data())
			if frame.StreamEnded() {
				err = s.answer(f, stream, bodies[stream].String())
			}
		}
		if err != nil {
			return
		}
	}
}

// answer ends a stream.
func (s *http2Server) answer(f *http2.Framer, stream uint32, body string) error {
	s.mu.Lock()
	n := len(s.bodies)
	s.bodies = append(s.bodies, body)
	s.mu.Unlock()
	if n < len(s.answers) {
		return s.answers[n](f, stream)
	}
	var block bytes.Buffer
	if err := hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "200"}); err != nil {
		return err
	}
	return f.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true,
	})
}

func refuse(f *http2.Framer, stream uint32) error {
	return f.WriteRSTStream(stream, http2.ErrCodeRefusedStream)
}

func cancelStream(f *http2.Framer, stream uint32) error {
	return f.WriteRSTStream(stream, http2.ErrCodeCancel)
}

// goAway ends the connection with a GOAWAY that does not cover stream 1.
func goAway(code http2.ErrCode) func(*http2.Framer, uint32) error {
	return func(f *http2.Framer, _ uint32) error { return f.WriteGoAway(0, code, nil) }
}

func (s *http2Server) url() string { return "http://" + s.Addr().String() }

// newHTTP2 returns the transport of golang.org/x/net, over plain TCP.
func newHTTP2(t *testing.T) *http2.Transport {
	transport := &http2.Transport{
		AllowHTTP: true,
		DialTLSContext: func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// The errors of golang.org/x/net/http2 mean what those of net/http mean. The
// body has no GetBody, so that its transport does not try again by itself.
func TestHTTP2Verdicts(t *testing.T) {
	tests := []struct {
		name   string
		answer func(*http2.Framer, uint32) error
		want   httpretry.Outcome
		reason string
	}{
		{"REFUSED_STREAM", refuse, httpretry.Unprocessed, "RFC 9113, section 8.7: it was closed before any processing"},
		{"graceful GOAWAY", goAway(http2.ErrCodeNo), httpretry.Unprocessed, "it does not cover stream 1"},
		{"GOAWAY with an error", goAway(http2.ErrCodeEnhanceYourCalm), httpretry.Unprocessed, "it does not cover stream 1 either"},
		{"CANCEL", cancelStream, httpretry.Uncertain, "it may have been processed"},
		{"cut connection", func(*http2.Framer, uint32) error { return io.EOF }, httpretry.Uncertain, "nobody knows"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serveHTTP2(t, tt.answer)
			body := io.MultiReader(strings.NewReader("hello"))
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url(), body)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := newHTTP2(t).RoundTrip(req)
			if err == nil {
				resp.Body.Close()
				t.Fatal("got a response, want an error")
			}
			if got := httpretry.DefaultClassifier(req, nil, err).Outcome; got != tt.want {
				t.Errorf("got %v for %q, want %v: %s", got, err, tt.want, tt.reason)
			}
		})
	}
}

// A request that an HTTP/2 server did not process is sent again with its whole
// body, by the HTTP/2 transport or by the RetryTransport.
func TestHTTP2Retries(t *testing.T) {
	tests := []struct {
		name     string
		method   string
		answers  []func(*http2.Framer, uint32) error
		attempts int
		reason   string
	}{
		{"REFUSED_STREAM", "PUT", []func(*http2.Framer, uint32) error{refuse}, 1, "the HTTP/2 transport replays through the GetBody of the buffer"},
		{"REFUSED_STREAM", "POST", []func(*http2.Framer, uint32) error{refuse}, 2, "a POST gets no GetBody, since that could repeat it after it was processed"},
		{"graceful GOAWAY", "PUT", []func(*http2.Framer, uint32) error{goAway(http2.ErrCodeNo)}, 1, "the HTTP/2 transport replays here too"},
		{"graceful GOAWAY", "POST", []func(*http2.Framer, uint32) error{goAway(http2.ErrCodeNo)}, 2, "and the RetryTransport here"},
		{"GOAWAY with an error", "POST", []func(*http2.Framer, uint32) error{goAway(http2.ErrCodeInternal)}, 2, "the HTTP/2 transport gives up, the RetryTransport does not"},
		{"two GOAWAYs", "POST", []func(*http2.Framer, uint32) error{goAway(http2.ErrCodeInternal), goAway(http2.ErrCodeInternal)}, 3, "it does not give up the second time either"},
	}
	for _, tt := range tests {
		t.Run(tt.name+" of a "+tt.method, func(t *testing.T) {
			t.Parallel()
			s := serveHTTP2(t, tt.answers...)
			attempts := 0
			retry := &httpretry.RetryTransport{
				Base:      newHTTP2(t),
				Policy:    httpretry.RetryConfig{InitialBackoff: time.Millisecond},
				OnAttempt: func(a httpretry.Attempt, _ httpretry.Decision) { attempts = a.Number },
			}
			err := sendOnce(t.Context(), retry, tt.method, s.url())
			if err != nil || attempts != tt.attempts {
				t.Errorf("got %d attempts, %v, want %d: %s", attempts, err, tt.attempts, tt.reason)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if got, want := len(s.bodies), len(tt.answers)+1; got != want {
				t.Errorf("got %d streams, want %d", got, want)
			}
			for n, body := range s.bodies {
				if body != "hello" {
					t.Errorf("got body %q on stream %d, want all of it", body, n+1)
				}
			}
		})
	}
}

// sendOnce sends a body that can be read only once.
func sendOnce(ctx context.Context, rt http.RoundTripper, method, url string) error {
	req, err := http.NewRequestWithContext(ctx, method, url, io.MultiReader(strings.NewReader("hello")))
	if err != nil {
		return err
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return err
	}
	return errors.Join(resp.Body.Close(), want("status", resp.StatusCode, http.StatusOK))
}
