package main

import (
	"bytes"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/inference"
)

// The intervals between lines grow: an hour has at most a hundred lines.
func TestPlainProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var buf bytes.Buffer
		p, s := newPlain(&buf, 9), newSummary(9, 0, "")
		s.answered, s.failed["UNKNOWN"] = 4, 1
		for range 7 { // of requests that have not ended
			s.live.note("HTTP 429", true)
		}
		p.show(s)
		if buf.Len() > 0 {
			t.Errorf("at the start: got %q, want nothing", buf.String())
		}
		time.Sleep(time.Second)
		p.show(s)
		if got, want := buf.String(), "batchinfer: 5 of 9 requests done, 1 failed, 7 retries\n"; got != want {
			t.Errorf("after a second: got %q, want %q", got, want)
		}
		for range 3600 * 5 {
			time.Sleep(200 * time.Millisecond)
			p.show(s)
		}
		if got := strings.Count(buf.String(), "\n"); got < 50 || got > 100 {
			t.Errorf("after an hour: got %d lines, want 50 to 100", got)
		}
	})
}

// exclusive counts the calls of Write that are made during another one.
type exclusive struct {
	busy     atomic.Bool
	overlaps atomic.Int32
}

func (e *exclusive) Write(b []byte) (int, error) {
	if !e.busy.CompareAndSwap(false, true) {
		e.overlaps.Add(1)
		return len(b), nil
	}
	time.Sleep(time.Millisecond)
	e.busy.Store(false)
	return len(b), nil
}

func TestPlainProgress_LogLines(t *testing.T) {
	var w exclusive
	p, s := newPlain(&w, 9), newSummary(9, 0, "")
	p.next = p.start
	var logging sync.WaitGroup
	for range 10 {
		logging.Go(func() { p.Write([]byte("a log line\n")) })
	}
	p.show(s)
	logging.Wait()
	if n := w.overlaps.Load(); n > 0 {
		t.Errorf("%d of 11 lines were written at the same time as another one", n)
	}
}

// A run without answers shows the last failure until there is an answer.
func TestProgressLastFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSummary(9, 0, "")
		note := func() string {
			countAttempt(httpretry.Attempt{
				Request: httptest.NewRequest("POST", "/", nil).WithContext(withTally(t.Context(), &tally{live: s.live})),
				Err:     &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, Number: 1,
			}, httpretry.Decision{Retry: true})
			return strings.Join(s.status(time.Now()), ", ")
		}
		if got, want := note(), "0 failed, 1 retries"; got != want {
			t.Errorf("at once: got %q, want %q", got, want)
		}
		time.Sleep(10 * time.Second)
		if got, want := note(), "0 failed, 2 retries, last failure: connection refused"; got != want {
			t.Errorf("after 10 seconds: got %q, want %q", got, want)
		}
		s.add(result{})
		if got := note(); strings.Contains(got, "last failure") {
			t.Errorf("after an answer: got %q, want no failure", got)
		}
	})
}

// While all requests wait, their number and the time of the next attempt are shown,
// and no estimate.
func TestProgress_AllWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSummary(900, 0, "")
		s.add(result{})
		time.Sleep(10 * time.Second)
		s.traffic = func() traffic { return traffic{limit: 64, waiting: 64, next: time.Now().Add(42 * time.Second)} }
		if got := s.status(time.Now()); got[0] != "64 wait, next attempt in 42 s" {
			t.Errorf("got %q, want the wait first", got)
		}
		s.traffic = func() traffic { return traffic{limit: 64, waiting: 63, flying: 1} }
		if got := s.status(time.Now()); strings.Contains(got[0], "wait") {
			t.Errorf("with an attempt under way: got %q, want no wait", got)
		}
	})
}

// progressOf returns the lines that a run of 100 requests shows, of which all are answered.
func progressOf(t *testing.T, gateway virtualGateway) string {
	t.Helper()
	cfg := defaultConfig()
	cfg.gatewayURL = "http://gateway.test"
	client := cfg.client()
	client.Transport = gateway
	b := newBatchWith(cfg, inference.NewHTTPInferenceClient(client), checkedInput(t, inputOf(100)), &output{name: "out", file: &fullDisk{room: 1 << 30}})
	var lines strings.Builder
	b.progress = newPlain(&lines, 100)
	if err := b.run(t.Context()); err != nil || b.summary.answered != 100 {
		t.Fatalf("got %d answered, %v", b.summary.answered, err)
	}
	return lines.String()
}

// While the gateway refuses everything, the time of the next attempt is shown, although
// it is put off again and again.
func TestProgress_AllWaitForProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		lines := progressOf(t, func(*http.Request) (int, string, string) {
			if time.Since(start) < 2*time.Minute {
				return 429, "", ""
			}
			return 200, "", answered
		})
		waits, times := strings.Count(lines, " wait, "), strings.Count(lines, " wait, next attempt in ")
		if waits < 10 || times < waits {
			t.Errorf("got %d lines with a wait, %d of them with its end, want 10 or more, and all:\n%s", waits, times, lines)
		}
	})
}

// While requests wait to be sent again at the end of the run, their number and the time
// of the next attempt are shown.
func TestProgress_WaitsToSendAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		lines := progressOf(t, func(r *http.Request) (int, string, string) {
			if id := r.Header.Get("X-Request-ID"); (id == "r7" || id == "r8") && time.Since(start) < 30*time.Second {
				return 500, "", ""
			}
			return 200, "", answered
		})
		if got := strings.Count(lines, " 2 wait, next attempt in "); got < 3 {
			t.Errorf("got %d lines with 2 that wait, and the time, want at least 3:\n%s", got, lines)
		}
	})
}

// The estimate follows the rate of the last minute.
func TestProgress_EstimateIsThatOfLastMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSummary(10_000, 0, "")
		for range 600 { // a slow beginning of ten minutes
			time.Sleep(time.Second)
			s.add(result{tokens: 5})
		}
		for range 61 {
			for range 10 {
				time.Sleep(100 * time.Millisecond)
				s.add(result{tokens: 50})
			}
		}
		texts := strings.Join(s.status(time.Now()), ", ")
		if !strings.HasPrefix(texts, "14 m 3") || !strings.Contains(texts, ", 10.0/s, 5") || !strings.Contains(texts, " tokens/s") {
			t.Errorf("got %q, want 8790 requests at 10 a second and 50 tokens each", texts)
		}
		time.Sleep(2 * time.Minute)
		if got := s.status(time.Now())[0]; strings.Contains(got, "left") {
			t.Errorf("after two minutes without an answer: got %q, want no estimate", got)
		}
	})
}

// The bar fits the width of the terminal, whatever it shows, and uses no second line.
func TestBar_FitsWidth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var buf bytes.Buffer
		s := newSummary(1_000_000, 0, "")
		s.failed["UNKNOWN"], s.deferred = 12345, 678
		s.traffic = func() traffic { return traffic{limit: 256, waiting: 200, flying: 56} }
		for range 3 {
			s.add(result{tokens: 1000})
		}
		s.live.note("name not resolved", true)
		width := 80
		b := newBar(&buf, 1_000_000, func() int { return width })
		for _, width = range []int{200, 120, 80, 50, 40, 20, 5, 1, 80} {
			for range 3 {
				time.Sleep(4 * time.Second)
				buf.Reset()
				b.show(s)
				line := strings.TrimPrefix(buf.String(), clearLine)
				if n := utf8.RuneCountInString(line); n >= width || strings.ContainsAny(line, "\n\r") {
					t.Errorf("width %d: got %d columns: %q", width, n, line)
				}
				if width >= 40 && line != "" && !strings.Contains(line, "(12348/1000000)") {
					t.Errorf("width %d: got %q, want the count in it", width, line)
				}
				t.Logf("%3d %s", width, line)
			}
		}
	})
}

// A log line after a change of the width does not draw a bar of the old width.
func TestBar_LogLineAfterResize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var buf bytes.Buffer
		width := 120
		b, s := newBar(&buf, 1000, func() int { return width }), newSummary(1000, 0, "")
		s.answered = 500
		time.Sleep(time.Second)
		b.show(s)
		buf.Reset()
		width = 40
		b.Write([]byte("log\n"))
		line := strings.TrimPrefix(buf.String(), clearLine+"log\n"+clearLine)
		if n := utf8.RuneCountInString(line); n >= 40 || !strings.Contains(line, "(500/1000)") {
			t.Errorf("got %d columns: %q, want the bar in less than 40", n, buf.String())
		}
	})
}

// A log line does not mix with the bar.
func TestBar(t *testing.T) {
	var buf bytes.Buffer
	b, s := newBar(&buf, 10, func() int { return 80 }), newSummary(10, 0, "")
	s.answered = 5
	b.show(s)
	const line = "I0101 retrying\n"
	if n, err := b.Write([]byte(line)); n != len(line) || err != nil {
		t.Errorf("Write: got %d, %v, want %d", n, err, len(line))
	}
	s.answered = 10
	b.show(s)
	b.close()
	if !strings.Contains(buf.String(), clearLine+line) {
		t.Errorf("the log line is not alone in its line: %q", buf.String())
	}
	for _, text := range []string{"  0% ", "100% ", "(10/10)", "0 failed, 0 retries"} {
		if !strings.Contains(buf.String(), text) {
			t.Errorf("the bar never shows %q: %q", text, buf.String())
		}
	}
}
