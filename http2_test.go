package httpretry_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/httpretry/httpretry"
)

// A moment is a part of a request on its stream.
type moment string

const (
	atHeaders moment = "before the body"
	atData    moment = "within the body"
	atEnd     moment = "after the body"
)

// A reaction returns the frames that a server sends at a moment, and whether it
// then closes the connection.
type reaction func(at moment, stream uint32) (send []byte, hangUp bool)

// react returns a reaction that calls f at one moment.
func react(when moment, f h2Answer) reaction {
	return func(at moment, stream uint32) (send []byte, hangUp bool) {
		if at != when {
			return nil, false
		}
		return f(stream)
	}
}

// An h2Peer is an HTTP/2 server that sends single frames over pipes. Its reaction
// applies to the first stream of all connections, whose window has the initial size
// of 65535 bytes. All other streams get a response when they have ended.
type h2Peer struct {
	first reaction
	grant bool // the window of the first stream is enlarged

	mu      sync.Mutex
	conns   []net.Conn
	streams []*h2Stream // in the order in which they arrived
}

type h2Stream struct {
	body  bytes.Buffer
	ended bool
	react reaction
}

// transport returns an http.Transport whose connections all lead to p.
func (p *h2Peer) transport() *http.Transport {
	tr := newH2Transport(nil)
	tr.DialContext = func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.conns = append(p.conns, server)
		go p.serve(server)
		return client, nil
	}
	return tr
}

// close closes the connections. After a GOAWAY the client does not.
func (p *h2Peer) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.conns {
		conn.Close()
	}
}

func (p *h2Peer) serve(conn net.Conn) {
	out, r := make(chan []byte, 100), bufio.NewReader(conn)
	go func() {
		for b := range out {
			conn.Write(b)
		}
		conn.Close()
	}()
	defer io.Copy(io.Discard, r) // the client may have to write before it reads
	defer close(out)
	out <- frame(frameSettings, 0, 0)
	r.Discard(len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	streams := make(map[uint32]*h2Stream)
	for {
		var head [9]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return
		}
		payload := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
		if _, err := io.ReadFull(r, payload); err != nil {
			return
		}
		send, hangUp := p.receive(streams, head[3], head[4], binary.BigEndian.Uint32(head[5:]), payload)
		if out <- send; hangUp {
			return
		}
	}
}

// receive receives a frame and returns the frames that are sent after it.
func (p *h2Peer) receive(streams map[uint32]*h2Stream, kind, flags byte, id uint32, payload []byte) (send []byte, hangUp bool) {
	const endStream = 0x1
	s, at := streams[id], atData
	switch kind {
	case frameHeaders:
		s, at = p.arrive(), atHeaders
		streams[id] = s
		if s.react == nil || p.grant {
			send = room(id)
		}
	case frameData:
		s.body.Write(payload)
	default:
		return nil, false
	}
	s.ended = flags&endStream != 0
	if s.ended {
		at = atEnd
	}
	if s.react == nil {
		s.react = react(atEnd, answer200)
	}
	reply, hangUp := s.react(at, id)
	return append(send, reply...), hangUp
}

func (p *h2Peer) arrive() *h2Stream {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := new(h2Stream)
	if len(p.streams) == 0 {
		s.react = p.first
	}
	p.streams = append(p.streams, s)
	return s
}

// room returns the frames that let a client send a body of up to 1 MiB.
func room(stream uint32) []byte {
	return append(frame(frameWindowUpdate, 0, 0, 1<<20), frame(frameWindowUpdate, 0, stream, 1<<20)...)
}

func answer200(stream uint32) ([]byte, bool) {
	const status200 = 8
	return headers(stream, status200), false
}

// settings returns a frame that changes one of the server's settings.
func settings(id uint16, value uint32) []byte {
	f := frame(frameSettings, 0, 0)
	f[2] = 6
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(f, id), value)
}

const (
	maxConcurrentStreams = 0x3 // RFC 9113, section 6.5.2
	initialWindowSize    = 0x4
)

// An h2Kind is a kind of request. Its body is larger than the initial window of a
// stream.
type h2Kind struct {
	name       string
	method     string
	body       func() io.Reader
	key        bool
	idempotent bool
	limit      int64 // MaxReplayBytes
}

var h2Body = string(pattern(100_000))

func withGetBody() io.Reader { return strings.NewReader(h2Body) }
func readOnce() io.Reader    { return io.MultiReader(withGetBody()) }

var h2Kinds = []h2Kind{
	{"GET", "GET", func() io.Reader { return nil }, false, true, 0},
	{"PUT with GetBody", "PUT", withGetBody, false, true, 0},
	{"PUT without", "PUT", readOnce, false, true, 0},
	{"PUT that is not buffered", "PUT", readOnce, false, true, -1},
	{"POST with GetBody", "POST", withGetBody, false, false, 0},
	{"POST without", "POST", readOnce, false, false, 0},
	{"POST with a key", "POST", readOnce, true, true, 0},
	{"POST that is not buffered", "POST", readOnce, false, false, -1},
}

// A fate is the way in which a request is resent, or not.
type fate int

const (
	served        fate = iota // the first stream gets its response
	sentBelow                 // net/http resends it if it has a GetBody; otherwise RetryTransport, if replayable
	repeatedBelow             // net/http resends it if it has a GetBody, even if it is not idempotent
	sentAgain                 // RetryTransport resends it if it is replayable
	sentIfTwice               // RetryTransport resends it if it is replayable and idempotent
	failed                    // it is not resent
)

// want returns the numbers of streams and attempts, and whether the call succeeds.
func (f fate) want(k h2Kind) (streams, attempts int, ok bool) {
	again := k.limit == 0 // it is replayable
	switch {
	case f == served:
		return 1, 1, true
	case (f == sentBelow || f == repeatedBelow) && again && k.hasGetBody():
		return 2, 1, true
	case (f == sentBelow || f == sentAgain) && again, f == sentIfTwice && again && k.idempotent:
		return 2, 2, true
	}
	return 1, 1, false
}

// hasGetBody reports whether the request has a GetBody: the caller's or, if it is
// idempotent, RetryTransport's.
func (k h2Kind) hasGetBody() bool {
	_, own := k.body().(*strings.Reader)
	return own || k.idempotent
}

// check makes a request of kind k, and r is the reaction to its first stream.
func (k h2Kind) check(t *testing.T, r reaction, grant bool, f fate, reason string) {
	p := &h2Peer{first: r, grant: grant}
	tr := p.transport()
	attempts := 0
	rt := &httpretry.RetryTransport{
		Base: tr, Policy: now, MaxReplayBytes: k.limit,
		OnAttempt: func(a httpretry.Attempt, _ httpretry.Decision) { attempts = a.Number },
	}
	req := newRequest(t, k.method, "http://host.invalid", k.body())
	if k.key {
		req.Header.Set("Idempotency-Key", "1")
	}
	resp, err := rt.RoundTrip(req)
	if err == nil {
		resp.Body.Close()
	}
	synctest.Wait()
	tr.CloseIdleConnections()
	p.close()
	synctest.Wait()

	streams, wantAttempts, ok := f.want(k)
	if len(p.streams) != streams || attempts != wantAttempts || (err == nil) != ok {
		t.Errorf("got %d streams, %d attempts, error %v; want %d, %d, success %v: %s", len(p.streams), attempts, err, streams, wantAttempts, ok, reason)
	}
	for n, s := range p.streams {
		if got := s.body.String(); !strings.HasPrefix(h2Body, got) || s.ended && req.Body != nil && got != h2Body {
			t.Errorf("stream %d: got wrong bytes", n+1)
		}
		if n == len(p.streams)-1 && ok && f != served && !s.ended {
			t.Errorf("stream %d got its response before it ended", n+1)
		}
	}
}

// test makes requests of each kind, sends the frames of answer at each moment, and
// expects f.
func (f fate) test(t *testing.T, name string, kinds []h2Kind, answer h2Answer, reason string) {
	for _, when := range []moment{atHeaders, atData, atEnd} {
		for _, k := range kinds {
			if k.method == "GET" && when != atEnd {
				continue
			}
			t.Run(fmt.Sprintf("%s/%s/%s", name, when, k.name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { k.check(t, react(when, answer), when == atEnd, f, reason) })
			})
		}
	}
}

// A request whose stream the server resets is retried if the error code allows
// that: before, during and after the sending of its body.
func TestHTTP2_StreamReset(t *testing.T) {
	for code := uint32(codeNo); code <= codeHTTP11Required+1; code++ {
		f, reason := sentIfTwice, "the server may have begun to process the stream"
		switch code {
		case codeProtocol:
			f, reason = repeatedBelow, "net/http resends it on a new connection, even if it is not idempotent"
		case codeRefusedStream:
			f, reason = sentBelow, "the server did not process the stream"
		case codeInadequateSecurity, codeHTTP11Required:
			f, reason = failed, "net/http will not negotiate anything else next time"
		}
		f.test(t, fmt.Sprintf("%#x", code), h2Kinds, func(stream uint32) ([]byte, bool) { return rstStream(stream, code), false }, reason)
	}
}

// A GOAWAY names the last stream that the server may process. It will not process
// any later one.
func TestHTTP2_GoAway(t *testing.T) {
	t.Parallel()
	for code := uint32(codeNo); code <= codeHTTP11Required+1; code++ {
		f, reason := sentAgain, "it does not cover the stream, and net/http reports an error"
		switch code {
		case codeNo:
			f, reason = sentBelow, "it does not cover the stream"
		case codeInadequateSecurity, codeHTTP11Required:
			f, reason = failed, "net/http will not negotiate anything else next time"
		}
		name := func(kind string) string { return fmt.Sprintf("%s/%#x", kind, code) }
		f.test(t, name("not covered"), h2Kinds, func(uint32) ([]byte, bool) { return goAway(0, code), false }, reason)
		sentIfTwice.test(t, name("covered, then closed"), h2Kinds, func(stream uint32) ([]byte, bool) {
			return goAway(stream, code), true
		}, "the server may have begun to process the stream")
		served.test(t, name("covered, and answered"), h2Kinds, func(stream uint32) ([]byte, bool) {
			answer, _ := answer200(stream)
			return append(goAway(stream, code), answer...), false
		}, "the server continues to process the stream")
	}
}

var settingsInFlight = []struct {
	name   string
	send   func(stream uint32) []byte // within the body
	then   h2Answer                   // at its end; nil: the stream has no end
	want   fate
	reason string
}{
	{
		"no further streams", func(stream uint32) []byte { return append(settings(maxConcurrentStreams, 0), room(stream)...) },
		answer200, served, "it does not apply to open streams",
	},
	{
		"one stream", func(stream uint32) []byte { return append(settings(maxConcurrentStreams, 1), room(stream)...) },
		answer200, served, "one stream is open",
	},
	{
		"the window shrinks", func(stream uint32) []byte { return append(settings(initialWindowSize, 0), room(stream)...) },
		answer200, served, "the window becomes negative, then positive",
	},
	{
		"the window shrinks, and grows", func(stream uint32) []byte {
			return bytes.Join([][]byte{settings(initialWindowSize, 10), room(stream), settings(initialWindowSize, 1<<20)}, nil)
		},
		answer200, served, "the body continues",
	},
	{
		"the window shrinks, then CANCEL", func(stream uint32) []byte {
			return append(settings(initialWindowSize, 0), rstStream(stream, codeCancel)...)
		},
		nil, sentIfTwice, "the server may have begun to process the stream",
	},
	{
		"the window shrinks, then REFUSED_STREAM", func(stream uint32) []byte {
			return append(settings(initialWindowSize, 0), rstStream(stream, codeRefusedStream)...)
		},
		nil, sentBelow, "the server did not process the stream",
	},
	{
		"no further streams, then REFUSED_STREAM", func(stream uint32) []byte {
			return append(settings(maxConcurrentStreams, 0), rstStream(stream, codeRefusedStream)...)
		},
		nil, sentBelow, "net/http makes another connection",
	},
	{
		"no further streams, then GOAWAY", func(stream uint32) []byte {
			return append(settings(maxConcurrentStreams, 0), goAway(0, codeEnhanceYourCalm)...)
		},
		nil, sentAgain, "it does not cover the stream",
	},
	{
		"the window exceeds its maximum", func(uint32) []byte { return settings(initialWindowSize, 1<<31) },
		nil, sentIfTwice, "it ends the connection, and the request was possibly processed",
	},
}

// The server may change its settings while requests are under way.
func TestHTTP2_SettingsDuringRequest(t *testing.T) {
	for _, tt := range settingsInFlight {
		for _, k := range h2Kinds {
			if k.method == "GET" {
				continue
			}
			t.Run(tt.name+"/"+k.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					changed := false
					k.check(t, func(at moment, stream uint32) ([]byte, bool) {
						switch {
						case at == atData && !changed:
							changed = true
							return tt.send(stream), false
						case at == atEnd && tt.then != nil:
							return tt.then(stream)
						}
						return nil, false
					}, false, tt.want, tt.reason)
				})
			})
		}
	}
}

// A server may respond before it has received the whole body, and then reset the
// stream with NO_ERROR (RFC 9113, section 8.1).
func TestHTTP2_EarlyResponse(t *testing.T) {
	served.test(t, "200", h2Kinds, func(stream uint32) ([]byte, bool) {
		answer, _ := answer200(stream)
		return append(answer, rstStream(stream, codeNo)...), false
	}, "the response is returned")
}
