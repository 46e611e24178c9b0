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

// A moment is how far a request has got on its stream.
type moment string

const (
	atHeaders moment = "before the body"
	atData    moment = "within the body"
	atEnd     moment = "after the body"
)

// A reaction is what a server sends at a moment, and whether it then closes the
// connection.
type reaction func(at moment, stream uint32) (send []byte, hangUp bool)

// react sends what f returns at one moment, and nothing at others.
func react(when moment, f h2Answer) reaction {
	return func(at moment, stream uint32) (send []byte, hangUp bool) {
		if at != when {
			return nil, false
		}
		return f(stream)
	}
}

// An h2Peer is a server that speaks HTTP/2 frame by frame, over pipes. The
// first stream that arrives, on whichever connection, meets a reaction, and has
// no more room for its body than HTTP/2 gives it unasked: 65535 bytes. All other
// streams are answered when they have ended.
type h2Peer struct {
	first reaction
	grant bool // the first stream has all the room it wants

	mu      sync.Mutex
	conns   []net.Conn
	streams []*h2Stream // in the order in which they arrived
}

type h2Stream struct {
	body  bytes.Buffer
	ended bool
	react reaction
}

// transport returns one whose connections all lead to p.
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

// close ends the connections, which a client does not do after a GOAWAY.
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

// receive takes a frame, and returns what is sent for it.
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

// room lets a client send a body of up to 1 MiB.
func room(stream uint32) []byte {
	return append(frame(frameWindowUpdate, 0, 0, 1<<20), frame(frameWindowUpdate, 0, stream, 1<<20)...)
}

func answer200(stream uint32) ([]byte, bool) {
	const status200 = 8
	return headers(stream, status200), false
}

// settings changes one of the server's settings.
func settings(id uint16, value uint32) []byte {
	f := frame(frameSettings, 0, 0)
	f[2] = 6
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(f, id), value)
}

const (
	maxConcurrentStreams = 0x3 // RFC 9113, section 6.5.2
	initialWindowSize    = 0x4
)

// An h2Kind is a kind of request, with a body that is larger than the room that
// a stream has at first.
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
	{"PUT that is not recorded", "PUT", readOnce, false, true, -1},
	{"POST with GetBody", "POST", withGetBody, false, false, 0},
	{"POST without", "POST", readOnce, false, false, 0},
	{"POST with a key", "POST", readOnce, true, true, 0},
	{"POST that is not recorded", "POST", readOnce, false, false, -1},
}

// A fate is what becomes of a request.
type fate int

const (
	served        fate = iota // the first stream is answered
	sentBelow                 // net/http sends it again, if it can; else the layer, if it can
	repeatedBelow             // net/http sends it again, if it can, whatever that may do
	sentAgain                 // the layer does, if it can be
	sentIfTwice               // the layer does, if it also may be processed twice
	failed                    // nobody does
)

// want returns how many streams and attempts there are, and whether the call
// succeeds.
func (f fate) want(k h2Kind) (streams, attempts int, ok bool) {
	again := k.limit == 0 // it can be had again
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

// hasGetBody reports whether net/http can have the body again: the caller gives
// it, or the layer, which does so only where being processed twice does no harm.
func (k h2Kind) hasGetBody() bool {
	_, own := k.body().(*strings.Reader)
	return own || k.idempotent
}

// check makes a request of kind k whose first stream meets r.
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
			t.Errorf("stream %d: got other bytes than were sent", n+1)
		}
		if n == len(p.streams)-1 && ok && f != served && !s.ended {
			t.Errorf("stream %d was answered before it ended", n+1)
		}
	}
}

// test makes requests of each kind, whose first stream is answered at each
// moment, and then meets f.
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

// A stream that the server resets with an error code is sent again when that
// code allows it: before, while and after the body is sent, whoever has it.
func TestHTTP2_StreamReset(t *testing.T) {
	for code := uint32(codeNo); code <= codeHTTP11Required+1; code++ {
		f, reason := sentIfTwice, "the server may have begun to process the stream"
		switch code {
		case codeProtocol:
			f, reason = repeatedBelow, "net/http tries again on a new connection, and does not ask whether that may be"
		case codeRefusedStream:
			f, reason = sentBelow, "the server did not process the stream"
		case codeInadequateSecurity, codeHTTP11Required:
			f, reason = failed, "net/http will not negotiate anything else next time"
		}
		f.test(t, fmt.Sprintf("%#x", code), h2Kinds, func(stream uint32) ([]byte, bool) { return rstStream(stream, code), false }, reason)
	}
}

// A GOAWAY says which streams the server has not processed and never will. The
// others may go on.
func TestHTTP2_GoAway(t *testing.T) {
	for code := uint32(codeNo); code <= codeHTTP11Required+1; code++ {
		f, reason := sentAgain, "it does not cover the stream; net/http takes it for an error"
		switch code {
		case codeNo:
			f, reason = sentBelow, "it does not cover the stream"
		case codeInadequateSecurity, codeHTTP11Required:
			f, reason = failed, "net/http will not negotiate anything else next time"
		}
		name := func(what string) string { return fmt.Sprintf("%s/%#x", what, code) }
		f.test(t, name("not covered"), h2Kinds, func(uint32) ([]byte, bool) { return goAway(0, code), false }, reason)
		sentIfTwice.test(t, name("covered, then closed"), h2Kinds, func(stream uint32) ([]byte, bool) {
			return goAway(stream, code), true
		}, "the server may have begun to process the stream")
		served.test(t, name("covered, and answered"), h2Kinds, func(stream uint32) ([]byte, bool) {
			answer, _ := answer200(stream)
			return append(goAway(stream, code), answer...), false
		}, "the server goes on with the stream")
	}
}

var settingsInFlight = []struct {
	name   string
	send   func(stream uint32) []byte // within the body
	then   h2Answer                   // at its end; nil: it can't come to that
	want   fate
	reason string
}{
	{
		"no further streams", func(stream uint32) []byte { return append(settings(maxConcurrentStreams, 0), room(stream)...) },
		answer200, served, "it is not about those that are open",
	},
	{
		"one stream", func(stream uint32) []byte { return append(settings(maxConcurrentStreams, 1), room(stream)...) },
		answer200, served, "this is the one",
	},
	{
		"the window shrinks", func(stream uint32) []byte { return append(settings(initialWindowSize, 0), room(stream)...) },
		answer200, served, "what is then less than no room counts against what is granted",
	},
	{
		"the window shrinks, and grows", func(stream uint32) []byte {
			return bytes.Join([][]byte{settings(initialWindowSize, 10), room(stream), settings(initialWindowSize, 1<<20)}, nil)
		},
		answer200, served, "the body goes on where it stopped",
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
		"the window becomes larger than can be", func(uint32) []byte { return settings(initialWindowSize, 1<<31) },
		nil, sentIfTwice, "it ends the connection, and what came before may have been processed",
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

// A server that has read enough may answer before it has all of the body, and
// ask for no more of it (RFC 9113, section 8.1).
func TestHTTP2_EarlyResponse(t *testing.T) {
	served.test(t, "200", h2Kinds, func(stream uint32) ([]byte, bool) {
		answer, _ := answer200(stream)
		return append(answer, rstStream(stream, codeNo)...), false
	}, "the answer counts")
}
