package chaos_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/stream"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/rs/zerolog"
)

// A line is an address that forwards connections to a server, with the same fault
// for its lifetime. stop cuts its connections.
type line interface {
	addr() string
	stop()
}

// A fault is a kind of failure of a line.
type fault struct {
	name   string
	weight int // the relative frequency
	lay    func(upstream string, r *rand.Rand) line
}

var faults = []fault{
	{"none", 8, lay(nil)},
	{"latency", 4, lay(func(r *rand.Rand) []toxic {
		return []toxic{{"latency", either(r), 1, attributes{"latency": 1 + r.IntN(10), "jitter": r.IntN(5)}}}
	})},
	{"bandwidth", 3, lay(func(r *rand.Rand) []toxic {
		return []toxic{{"bandwidth", either(r), 1, attributes{"rate": 200 + r.IntN(4000)}}} // KiB/s
	})},
	{"small pieces", 3, lay(func(r *rand.Rand) []toxic {
		return []toxic{{"slicer", either(r), 1, attributes{"average_size": 200 + r.IntN(2000), "size_variation": 100}}}
	})},
	{"cut after some bytes", 6, lay(func(r *rand.Rand) []toxic {
		return []toxic{{"limit_data", either(r), 0.7, attributes{"bytes": 1 + r.IntN(60_000)}}}
	})},
	// With TLS that is within the handshake of about 2 KiB.
	{"cut after few bytes", 2, lay(func(r *rand.Rand) []toxic {
		return []toxic{{"limit_data", either(r), 0.7, attributes{"bytes": 1 + r.IntN(1500)}}}
	})},
	{"reset", 3, lay(func(r *rand.Rand) []toxic {
		return []toxic{{"reset_peer", either(r), 0.5, attributes{"timeout": r.IntN(20)}}}
	})},
	{"hanging", 1, lay(func(r *rand.Rand) []toxic {
		return []toxic{{"timeout", either(r), 0.3, attributes{"timeout": 0}}}
	})},
	{"hanging, then closed", 2, lay(func(r *rand.Rand) []toxic {
		return []toxic{{"timeout", either(r), 0.5, attributes{"timeout": 1 + r.IntN(100)}}}
	})},
	{"slow to close", 2, lay(func(r *rand.Rand) []toxic {
		return []toxic{
			{"slow_close", "downstream", 1, attributes{"delay": 1 + r.IntN(100)}},
			{"limit_data", "downstream", 0.5, attributes{"bytes": 1 + r.IntN(20_000)}},
		}
	})},
	{"silent after some bytes", 3, layFading(0)},
	{"a trickle after some bytes", 3, layFading(5)},
	{"half closed", 3, layHalfClosing},
	{"refused", 2, layNothing},
}

// pick returns a random fault.
func pick(r *rand.Rand) fault {
	total := 0
	for _, f := range faults {
		total += f.weight
	}
	n := r.IntN(total)
	for _, f := range faults {
		if n -= f.weight; n < 0 {
			return f
		}
	}
	panic("unreachable")
}

func either(r *rand.Rand) string { return [...]string{"upstream", "downstream"}[r.IntN(2)] }

// A toxic is a fault that toxiproxy applies to one direction of connections.
type toxic struct {
	Type       string     `json:"type"`
	Stream     string     `json:"stream"`
	Toxicity   float32    `json:"toxicity"` // the share of connections that it applies to
	Attributes attributes `json:"attributes"`
}

type attributes map[string]int

// A toxicLine is a toxiproxy whose toxics do not change. If toxiproxy changes
// them while connections are open, it deadlocks: it waits for blocked
// connections, under a lock that these need.
type toxicLine struct{ proxy *toxiproxy.Proxy }

var proxies = toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())

func lay(draw func(*rand.Rand) []toxic) func(string, *rand.Rand) line {
	return func(upstream string, r *rand.Rand) line {
		p := toxiproxy.NewProxy(proxies, upstream, "127.0.0.1:0", upstream)
		var drawn []toxic
		if draw != nil {
			drawn = draw(r)
		}
		for _, direction := range []string{"upstream", "downstream"} {
			chain := []toxic{{"valve", direction, 1, nil}}
			for _, t := range drawn {
				if t.Stream == direction {
					chain = append(chain, t, chain[0])
				}
			}
			for i, t := range chain {
				addToxic(p, fmt.Sprint(direction, i), t)
			}
		}
		if err := p.Start(); err != nil {
			panic(err)
		}
		return toxicLine{p}
	}
}

// layFading lays a line with a fading toxic.
func layFading(every int) func(string, *rand.Rand) line {
	return lay(func(r *rand.Rand) []toxic {
		return []toxic{{"fading", either(r), 0.7, attributes{"bytes": 1 + r.IntN(60_000), "every": every}}}
	})
}

func addToxic(p *toxiproxy.Proxy, name string, t toxic) {
	text, err := json.Marshal(struct {
		Name string `json:"name"`
		toxic
	}{name, t})
	if err == nil {
		_, err = p.Toxics.AddToxicJson(bytes.NewReader(text))
	}
	if err != nil {
		panic(err)
	}
}

func (l toxicLine) addr() string { return l.proxy.Listen }
func (l toxicLine) stop()        { l.proxy.Stop() }

// A valve is placed before and after each other toxic. A toxic whose output is
// closed or not read accepts no input, and the goroutines of toxiproxy that
// write to it would block forever.
type valve struct{}

func init() { toxics.Register("valve", new(valve)) }

// Pipe implements [toxics.Toxic].
func (*valve) Pipe(stub *toxics.ToxicStub) {
	defer stub.Close()
	const patience = time.Second
	timer := time.NewTimer(0)
	defer timer.Stop()
	for stuck := false; ; {
		c, ok := <-stub.Input
		switch {
		case !ok:
			return
		case stuck:
			continue
		}
		timer.Reset(patience)
		select {
		case stub.Output <- c:
		case <-timer.C:
			stuck = true
		}
	}
}

// A fading toxic passes a number of bytes. After them it passes single bytes or,
// if Every is 0, nothing, and keeps the connection open.
type fading struct {
	Bytes int `json:"bytes"`
	Every int `json:"every"` // milliseconds
}

func init() { toxics.Register("fading", new(fading)) }

// Pipe implements [toxics.Toxic]. It always accepts input, for the reason given at
// valve.
func (f *fading) Pipe(stub *toxics.ToxicStub) {
	defer stub.Close()
	var tick <-chan time.Time
	if f.Every > 0 {
		ticker := time.NewTicker(time.Duration(f.Every) * time.Millisecond)
		defer ticker.Stop()
		tick = ticker.C
	}
	left := f.Bytes
	var late []byte
	for {
		select {
		case c, ok := <-stub.Input:
			if !ok {
				return
			}
			n := min(left, len(c.Data))
			left -= n
			if n > 0 {
				stub.Output <- &stream.StreamChunk{Data: c.Data[:n], Timestamp: c.Timestamp}
			}
			if f.Every > 0 {
				late = append(late, c.Data[n:]...)
			}
		case <-tick:
			if len(late) > 0 {
				stub.Output <- &stream.StreamChunk{Data: late[:1], Timestamp: time.Now()}
				late = late[1:]
			}
		}
	}
}

// A deadLine refuses connections.
type deadLine struct{}

func layNothing(string, *rand.Rand) line { return deadLine{} }

func (deadLine) addr() string { return "127.0.0.1:1" } // an unused port
func (deadLine) stop()        {}

// A halfClosing line closes one direction of a connection and keeps the other.
// Toxiproxy always closes both.
type halfClosing struct {
	ln       net.Listener
	upstream string
	down     bool // the direction that is closed
	limit    int64

	wg      sync.WaitGroup
	mu      sync.Mutex
	stopped bool
	open    map[net.Conn]bool
}

func layHalfClosing(upstream string, r *rand.Rand) line {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	l := &halfClosing{
		ln: ln, upstream: upstream, open: make(map[net.Conn]bool),
		down: r.IntN(2) == 0, limit: 1 + r.Int64N(30_000),
	}
	l.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			l.wg.Go(func() { l.forward(conn) })
		}
	})
	return l
}

func (l *halfClosing) forward(client net.Conn) {
	defer l.hold(client)()
	server, err := net.Dial("tcp", l.upstream)
	if err != nil {
		return
	}
	defer l.hold(server)()
	from, to := client, server
	if l.down {
		from, to = server, client
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		io.CopyN(unspliced{to}, from, l.limit)
		to.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, from)
	})
	io.Copy(unspliced{from}, to)
	from.(*net.TCPConn).CloseWrite()
	wg.Wait()
}

// An unspliced prevents io.Copy from splicing, which leaves pipes open that look
// like leaked files.
type unspliced struct{ io.Writer }

// hold lets stop close conn. It returns a function that closes conn earlier.
func (l *halfClosing) hold(conn net.Conn) (done func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[conn] = true
	if l.stopped {
		conn.Close()
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.open, conn)
		conn.Close()
	}
}

func (l *halfClosing) addr() string { return l.ln.Addr().String() }

func (l *halfClosing) stop() {
	l.ln.Close()
	l.mu.Lock()
	l.stopped = true
	for conn := range l.open {
		conn.Close()
	}
	l.mu.Unlock()
	l.wg.Wait()
}
