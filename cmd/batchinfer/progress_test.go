package main

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The lines get rarer as a run gets longer: an hour has no more than a hundred.
func TestPlainProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var buf bytes.Buffer
		p, s := newPlain(&buf, 9), newSummary(9, 0, "")
		s.answered, s.failed["UNKNOWN"], s.retries["HTTP 429"] = 4, 1, 7
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

// A log line stands in a line of its own, not in the bar.
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
