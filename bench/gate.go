package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// A finding is what the gate found out about a contender at one kind of work.
// The zero finding is: all is well.
type finding struct {
	wrong string // why it can't do the work correctly; no figure is given then
	note  string // what stands beside its figures
	lazy  bool   // it leaves out a part of the work, and is nobody's best peer
}

// gatePatience is how long a single call may take that should take a moment.
const gatePatience = 5 * time.Second

// gate tells whether c does one kind of work correctly: whether the request
// body arrives whole and is closed; whether replays carry the same bytes, also
// when the transport answers early and goes on reading; and, if failing,
// whether the response that a retry supersedes is drained, within a bound, and
// closed.
func gate(c contender, kind bodyKind, failing bool) finding {
	done := make(chan finding, 1)
	go func() { done <- examine(c, kind, failing) }()
	select {
	case f := <-done:
		return f
	case <-time.After(gatePatience):
		return finding{wrong: "does not return"}
	}
}

func examine(c contender, kind bodyKind, failing bool) finding {
	found := examineSuccess(c, kind)
	if found.wrong != "" || c.once {
		return found
	}
	replays := []*recorder{{failures: 1}}
	switch {
	case kind != noBody:
		replays = append(replays, &recorder{failures: 1, early: true})
	case !failing:
		return found
	}
	for _, r := range replays {
		if wrong := examineReplay(c, kind, r); wrong != "" {
			return finding{wrong: wrong}
		}
	}
	if failing {
		found = found.and(replays[0].superseded()).and(examineBound(c, kind))
	}
	return found
}

func (f finding) and(g finding) finding {
	if g.wrong != "" {
		return g
	}
	f.lazy = f.lazy || g.lazy
	f.note = strings.Trim(f.note+"; "+g.note, "; ")
	return f
}

var gateData = pattern(64 << 10)

func examineSuccess(c contender, kind bodyKind) finding {
	r := &recorder{}
	j := newJob(memoryURL, kind, bodyOf(gateData))
	status, _, err := c.open(r, time.Nanosecond)(j)
	switch {
	case err != nil:
		return finding{wrong: "fails: " + err.Error()}
	case status != http.StatusOK || len(r.got) != 1:
		return finding{wrong: fmt.Sprintf("status %d after %d attempts where the first succeeds", status, len(r.got))}
	case kind != noBody && !bytes.Equal(r.got[0], gateData):
		return finding{wrong: "sends a wrong body"}
	case kind == streamed && j.src.off > 0 && !j.src.closed:
		return finding{note: "never closes the request's body"}
	}
	return finding{}
}

func examineReplay(c contender, kind bodyKind, r *recorder) string {
	when := ""
	if r.early {
		when = " when the server answers early"
	}
	status, _, err := c.open(r, time.Nanosecond)(newJob(memoryURL, kind, bodyOf(gateData)))
	if len(r.got) == 2 && kind != noBody && !bytes.Equal(r.got[1], gateData) {
		return fmt.Sprintf("replays a wrong body%s: %d of %d bytes are right", when, agreeing(r.got[1], gateData), len(gateData))
	}
	switch {
	case err != nil:
		return "can't replay the body: " + err.Error()
	case status != http.StatusOK || len(r.got) != 2:
		return fmt.Sprintf("does not retry a 503: status %d after %d attempts", status, len(r.got))
	}
	return ""
}

// hugeBody stands for an error body that never ends.
const hugeBody = 64 << 20

// examineBound tells whether c reads an error body to its end, however far that is.
func examineBound(c contender, kind bodyKind) finding {
	r := &recorder{failures: 1, errorSize: hugeBody}
	examineReplay(c, kind, r)
	if len(r.errors) == 1 && r.errors[0].left == 0 {
		return finding{note: "drains without a bound: an error body that does not end holds up the call for ever", lazy: true}
	}
	return finding{}
}

// agreeing returns how many bytes got and want have in common from the start.
func agreeing(got, want []byte) int {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return i
		}
	}
	return min(len(got), len(want))
}

// A recorder is a transport that keeps what it is sent.
type recorder struct {
	failures  int // the first attempts, which get a 503
	errorSize int // of its body; 0: errorBodySize

	// early lets the first attempt have its answer when a part of its body has
	// been read. The rest is read while the second attempt is under way, as
	// net/http does it, here in turns and in one goroutine: what goes wrong
	// does so every time.
	early bool

	got    [][]byte
	stale  io.ReadCloser // the first attempt's body
	errors []*errorBody
}

const (
	earlyBytes = 1000
	turnBytes  = 512
)

// RoundTrip implements [http.RoundTripper].
func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	first := len(r.got) == 0
	got, err := r.receive(req)
	r.got = append(r.got, got)
	if first && r.early {
		r.stale = req.Body
	} else {
		closeAll(req.Body, r.stale)
		r.stale = nil
	}
	if err != nil {
		return nil, err
	}
	if len(r.got) <= r.failures {
		body := &errorBody{left: cmp.Or(r.errorSize, errorBodySize)}
		r.errors = append(r.errors, body)
		return failure(req, body), nil
	}
	return response(req, http.StatusOK, http.NoBody), nil
}

func (r *recorder) receive(req *http.Request) ([]byte, error) {
	var got bytes.Buffer
	if req.Body == nil {
		return nil, nil
	}
	if r.early && len(r.got) == 0 {
		_, err := io.CopyN(&got, req.Body, earlyBytes)
		return got.Bytes(), err
	}
	buf, ignored := make([]byte, turnBytes), make([]byte, turnBytes)
	for {
		n, err := req.Body.Read(buf)
		got.Write(buf[:n])
		if err == io.EOF {
			return got.Bytes(), nil
		}
		if err != nil {
			return got.Bytes(), err
		}
		if r.stale != nil {
			r.stale.Read(ignored)
		}
	}
}

func closeAll(bodies ...io.ReadCloser) {
	for _, b := range bodies {
		if b != nil {
			b.Close()
		}
	}
}

// superseded tells what became of the 503s.
func (r *recorder) superseded() finding {
	for _, body := range r.errors {
		switch {
		case !body.closed:
			return finding{wrong: "never closes the response it supersedes: a connection leaks"}
		case !body.ended && body.left > 0:
			return finding{note: "does not drain the response it supersedes", lazy: true}
		}
	}
	return finding{}
}
