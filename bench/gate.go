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

// A finding is the result of the gate for a contender at a workload. The zero
// finding means that the contender is correct.
type finding struct {
	wrong string // why the contender is incorrect; it then gets no figure
	note  string // shown next to the figures
	lazy  bool   // it omits a part of the work, and is never the best peer
}

// gatePatience limits a call that should take milliseconds.
const gatePatience = 5 * time.Second

// gate checks that c works correctly. The request body must arrive whole and be
// closed. A replay must have the same bytes, also if the transport has returned
// early and still reads the previous attempt's body. If failing, the discarded
// response must be read, within a bound, and closed.
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
		found = found.and(replays[0].discarded()).and(examineBound(c, kind))
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
		return finding{wrong: fmt.Sprintf("status %d after %d attempts although the first succeeds", status, len(r.got))}
	case kind != noBody && !bytes.Equal(r.got[0], gateData):
		return finding{wrong: "sends a wrong body"}
	case kind == streamed && j.src.off > 0 && !j.src.closed:
		return finding{note: "never closes the request body"}
	}
	return finding{}
}

func examineReplay(c contender, kind bodyKind, r *recorder) string {
	when := ""
	if r.early {
		when = " after an early response"
	}
	status, _, err := c.open(r, time.Nanosecond)(newJob(memoryURL, kind, bodyOf(gateData)))
	if len(r.got) == 2 && kind != noBody && !bytes.Equal(r.got[1], gateData) {
		return fmt.Sprintf("replays a wrong body%s: %d of %d bytes are correct", when, agreeing(r.got[1], gateData), len(gateData))
	}
	switch {
	case err != nil:
		return "cannot replay the body: " + err.Error()
	case status != http.StatusOK || len(r.got) != 2:
		return fmt.Sprintf("does not retry a 503: status %d after %d attempts", status, len(r.got))
	}
	return ""
}

// hugeBody is the size of an error body that stands for an endless one.
const hugeBody = 64 << 20

// examineBound checks that c does not read an error body of any size to its end.
func examineBound(c contender, kind bodyKind) finding {
	r := &recorder{failures: 1, errorSize: hugeBody}
	examineReplay(c, kind, r)
	if len(r.errors) == 1 && r.errors[0].left == 0 {
		return finding{note: "discards without a bound: an endless error body blocks the call forever", lazy: true}
	}
	return finding{}
}

// agreeing returns the length of the common prefix of got and want.
func agreeing(got, want []byte) int {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return i
		}
	}
	return min(len(got), len(want))
}

// A recorder is a transport that keeps the request bodies.
type recorder struct {
	failures  int // the number of attempts that get a 503
	errorSize int // of its body; 0: errorBodySize

	// early makes the first attempt return when a part of its body has been
	// read. As net/http does, the recorder reads the rest during the second
	// attempt. It alternates between the two in one goroutine, so that a wrong
	// replay is wrong in every run.
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

// discarded reports how the contender has treated the 503s.
func (r *recorder) discarded() finding {
	for _, body := range r.errors {
		switch {
		case !body.closed:
			return finding{wrong: "never closes the discarded response: a connection leaks"}
		case !body.ended && body.left > 0:
			return finding{note: "does not read the discarded response", lazy: true}
		}
	}
	return finding{}
}
