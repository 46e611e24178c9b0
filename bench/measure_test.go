package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestMeasure_Interleaves(t *testing.T) {
	var turns []string
	w := workload{
		metrics: []metric{nsPerOp},
		gate: func(c contender) finding {
			if c.name == "wrong" {
				return finding{wrong: "for a reason"}
			}
			return finding{}
		},
		open: func(c contender) (trial, func()) {
			return func() (sample, error) {
				turns = append(turns, c.name)
				if c.name == "breaks" {
					return nil, errors.New("broke")
				}
				return sample{nsPerOp: 1}, nil
			}, func() { turns = append(turns, "free "+c.name) }
		},
	}
	cs := []contender{{name: "a"}, {name: "b"}, {name: "wrong"}, {name: "breaks"}}
	m := begin(w, cs, 3)
	measure([]*measurement{m}, io.Discard)
	results := m.results
	for i, want := range []int{3, 3, 0, 0} {
		if got := len(results[i].series(nsPerOp)); got != want {
			t.Errorf("%s: got %d figures, want %d", cs[i].name, got, want)
		}
	}
	if got, want := results[3].wrong, "broke"; got != want {
		t.Errorf("a contender that fails in a run: got the finding %q, want %q", got, want)
	}
	all := strings.Join(turns, " ")
	if aaa := "a a a"; strings.Contains(strings.ReplaceAll(all, " breaks", ""), aaa) || strings.Contains(all, "wrong") {
		t.Errorf("got the runs %q, want the contenders interleaved, without the incorrect one", all)
	}
	if !strings.HasSuffix(all, "free breaks free b free a") {
		t.Errorf("got the runs %q, want each contender to be freed at the end", all)
	}
}

func TestTimeBatches_CountsPerOperation(t *testing.T) {
	var kept []byte
	s, err := timeBatches(func(n int) error {
		for range n {
			kept = make([]byte, 1<<10)
			time.Sleep(time.Millisecond)
		}
		return nil
	}, 4, 2)
	if err != nil || len(kept) == 0 {
		t.Fatalf("timeBatches: %v", err)
	}
	if got := s[nsPerOp]; got < 1e6 || got > 1e9 {
		t.Errorf("time per operation: got %v ns, want at least the millisecond that each takes", got)
	}
	// Half, since two goroutines are said to have shared the work.
	if got := s[bytesPerOp]; got < 512 || got > 4<<10 {
		t.Errorf("memory per operation: got %v, want about 512", got)
	}
}

// Each workload measures all of its metrics, for httpretry and for bare.
func TestWorkloads_MeasureTheirMetrics(t *testing.T) {
	var short []workload
	for _, w := range workloads {
		if w.maxRuns == 0 { // the others take seconds
			short = append(short, w)
		}
	}
	r := measureAll(short, contenders, regexp.MustCompile("/httpretry$"), 1, io.Discard)
	for _, w := range short {
		for _, name := range []string{bareName, ownName} {
			res := r.result(w.name, name)
			if res == nil || res.wrong != "" || len(res.samples) != 1 {
				t.Errorf("%s/%s: got %+v, want one run", w.name, name, res)
				continue
			}
			for _, m := range w.metrics {
				if x := res.samples[0][m]; x < 0 || x == 0 && m == w.metrics[0] {
					t.Errorf("%s/%s: got %v %s, want a figure", w.name, name, x, m)
				}
			}
		}
	}
}

func TestConnections_AreCounted(t *testing.T) {
	leaking := contender{name: "leaking", open: roundTripper(func(base http.RoundTripper, _ time.Duration) http.RoundTripper {
		return faulty{RoundTripper: base, retire: func(*http.Response) {}}
	})}
	closing := contender{name: "closing", open: roundTripper(func(base http.RoundTripper, _ time.Duration) http.RoundTripper {
		return faulty{RoundTripper: base, retire: func(r *http.Response) { r.Body.Close() }}
	})}
	hanging := contender{name: "hanging", open: roundTripper(func(base http.RoundTripper, _ time.Duration) http.RoundTripper {
		return faulty{RoundTripper: base, retire: readAll}
	})}
	tests := []struct {
		contender      contender
		opened, leaked float64
		wrong          string
	}{
		{leaking, 2, 1, ""},
		{closing, 2, 0, ""},
		{hanging, 0, 0, "hangs"},
	}
	for _, tt := range tests {
		srv := newServer(&failer{size: endless})
		s, err := countConnections(tt.contender, srv)
		srv.stop()
		if tt.wrong != "" {
			if err == nil || !strings.HasPrefix(err.Error(), tt.wrong) {
				t.Errorf("%s: got error %v, want one that begins with %q", tt.contender.name, err, tt.wrong)
			}
			continue
		}
		if err != nil || s[connsOpened] != tt.opened || s[connsLeaked] != tt.leaked {
			t.Errorf("%s: got %v opened, %v leaked, %v; want %v, %v", tt.contender.name, s[connsOpened], s[connsLeaked], err, tt.opened, tt.leaked)
		}
	}
}

func TestWeigh_MeasuresTheMemoryOfACall(t *testing.T) {
	const kept = 16 << 10
	heavy := contender{name: "heavy", open: func(base http.RoundTripper, d time.Duration) send {
		return func(j *job) (int, int64, error) {
			keep := bytes.Repeat([]byte{1}, kept)
			status, size, err := consume(base.RoundTrip(j.next()))
			select {
			case <-time.After(d):
			case <-j.req.Context().Done():
				err = context.Cause(j.req.Context())
			}
			keep[0]++
			return status, size + int64(keep[0]), err
		}
	}}
	s, err := weigh(heavy, noBody, source{}, time.Minute)
	if err != nil {
		t.Fatalf("weigh: %v", err)
	}
	if got := s[heapHeld]; got < kept || got > kept+4<<10 {
		t.Errorf("got %v bytes on the heap for a waiting call, want the %d that it keeps and at most 4 KiB more", got, kept)
	}
}
