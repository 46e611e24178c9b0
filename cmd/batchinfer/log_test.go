package main

import (
	"bytes"
	"io"
	"log"
	"log/slog"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A record of level -3 is written with -v=3 and above.
func TestLogger(t *testing.T) {
	for verbosity := range 5 {
		var buf bytes.Buffer
		log := newLogger(&buf, verbosity)
		log.Log(t.Context(), slog.Level(-3), "retrying", "request_id", "r1")
		log.Error("broken")
		stopLogging()
		if got, want := strings.Contains(buf.String(), `"retrying" request_id="r1"`), verbosity >= 3; got != want {
			t.Errorf("-v=%d: record of level -3: got %t, want %t:\n%s", verbosity, got, want, buf.String())
		}
		if got := strings.Count(buf.String(), "broken"); got != 1 {
			t.Errorf("-v=%d: record of level error: got %d lines, want 1", verbosity, got)
		}
	}
}

// net/http logs data that a gateway sends after its response. The process must not
// print it, because it may hold the key.
func TestStandardLogIsSilent(t *testing.T) {
	var buf bytes.Buffer
	log.SetOutput(&buf)
	closed := make(chan struct{})
	g := newGateway(t, func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if r.Header.Get("X-Request-ID") == "r1" {
			<-closed // net/http logs before it closes the connection
			return false
		}
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return true
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{\"a\":1}your key is "+r.Header.Get("Authorization"))
		io.Copy(io.Discard, conn)
		close(closed)
		return true
	})
	env := map[string]string{apiKeyVariable: "Secret-0123456789"}
	o := start(t.Context(), env, nil, "-input", writeFile(t, inputOf(2)), "-output", filepath.Join(t.TempDir(), "out"), "-url", g.URL)
	o.want(t, exitOK)
	if buf.Len() > 0 {
		t.Errorf("the standard logger printed %q, want nothing", buf.String())
	}
}

func TestRunLogsRetries(t *testing.T) {
	g := newGateway(t, func(w http.ResponseWriter, _ *http.Request, asked int) bool {
		if asked == 2 {
			panic(http.ErrAbortHandler)
		}
		return asked == 1 && fail(w, 429, "")
	})
	lost := regexp.MustCompile(`(?m)^I.*"inference attempt failed, retrying" request_id="r0" delay="[0-9.]+[mµ]?s" attempt=2 max=3 category="SERVER_ERROR" cause="connection closed" excused=1$`)
	in, config := writeFile(t, inputOf(1)), writeFile(t, fastRetries)
	line := regexp.MustCompile(`(?m)^I.*retrying" status=429 request_id="r0" delay="[0-9.]+[mµ]?s" attempt=1 max=3 category="RATE_LIMIT" excused=1$`)
	for _, tt := range []struct {
		flag string
		want bool
	}{{"-v=3", true}, {"-v=2", false}, {"-v=0", false}} {
		g.forget()
		o := startPlain(t, "-input", in, "-output", filepath.Join(t.TempDir(), "out"), "-url", g.URL, "-config", config, tt.flag)
		o.want(t, exitOK)
		if got := line.MatchString(o.stderr) && lost.MatchString(o.stderr); got != tt.want {
			t.Errorf("%s: a line for each retry: got %t, want %t:\n%s", tt.flag, got, tt.want, o.stderr)
		}
		if !tt.want && o.stderr != "" {
			t.Errorf("%s: stderr: got %q, want nothing", tt.flag, o.stderr)
		}
	}
}
