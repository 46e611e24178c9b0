package main

import (
	"bytes"
	"net"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
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

// A run without answers shows the last failure until there is an answer.
func TestProgressLastFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSummary(9, 0, "")
		note := func() string {
			countAttempt(httpretry.Attempt{
				Request: httptest.NewRequest("POST", "/", nil).WithContext(withTally(t.Context(), &tally{live: s.live})),
				Err:     &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, Number: 1,
			}, httpretry.Decision{Retry: true})
			return troubles(s)
		}
		if got, want := note(), "0 failed, 1 retries"; got != want {
			t.Errorf("at once: got %q, want %q", got, want)
		}
		time.Sleep(10 * time.Second)
		if got, want := note(), "0 failed, 2 retries; last failure: connection refused"; got != want {
			t.Errorf("after 10 seconds: got %q, want %q", got, want)
		}
		s.add(result{})
		if got, want := note(), "0 failed, 3 retries"; got != want {
			t.Errorf("after an answer: got %q, want %q", got, want)
		}
	})
}

// A log line does not mix with the bar.
func TestBar(t *testing.T) {
	var buf bytes.Buffer
	b, s := newBar(&buf, 10), newSummary(10, 0, "")
	s.answered = 5
	b.show(s)
	const line = "I0101 retrying\n"
	if n, err := b.Write([]byte(line)); n != len(line) || err != nil {
		t.Errorf("Write: got %d, %v, want %d", n, err, len(line))
	}
	s.answered = 10
	b.show(s)
	b.close()
	const clearLine = "\x1b[2K\r"
	if !strings.Contains(buf.String(), clearLine+line) {
		t.Errorf("the log line is not alone in its line: %q", buf.String())
	}
	for _, text := range []string{"  0% ", "100% ", "(10/10)", "0 failed, 0 retries"} {
		if !strings.Contains(buf.String(), text) {
			t.Errorf("the bar never shows %q: %q", text, buf.String())
		}
	}
}
