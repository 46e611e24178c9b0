package httpretry_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
)

// realHeaders returns response headers, the first of them from a real server.
func realHeaders(t *testing.T) map[string][]byte {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Etag", `"v1"`)
		w.Header().Set("X-Request-Id", "5f0c")
		io.WriteString(w, "{}")
	}))
	defer srv.Close()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	all, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	header, _, _ := bytes.Cut(all, []byte("{}"))
	return map[string][]byte{
		"net/http":     header,
		"early hints":  append([]byte("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"), header...),
		"HTTP/1.0":     []byte("HTTP/1.0 200 OK\r\nServer: old\r\n\r\n"),
		"bare LF":      []byte("HTTP/1.1 200 OK\nServer: older\n\n"),
		"no phrase":    []byte("HTTP/1.1 503\r\nRetry-After: 1\r\n\r\n"),
		"folded field": []byte("HTTP/1.1 200 OK\r\nServer: a\r\n b\r\nDate: today\r\n\r\n"),
		"all of tchar": []byte("HTTP/1.1 200 OK\r\n!#$%&'*+-.^_`|~09azAZ: 1\r\n\r\n"),
	}
}

// A header that a FIN or a reset cuts off at any byte is a broken connection.
func TestDefaultClassifier_CutOffHeaderIsUncertain(t *testing.T) {
	t.Parallel()
	ends := map[string]func(net.Conn){"FIN": func(conn net.Conn) { conn.Close() }, "RST": reset}
	requests := map[string]func(*testing.T, string) *http.Request{"GET": get, "POST": postOnce}
	for name, header := range realHeaders(t) {
		for endName, end := range ends {
			for method, send := range requests {
				t.Run(fmt.Sprintf("%s/%s/%s", name, endName, method), func(t *testing.T) {
					for n := range header {
						wantCutOffUncertain(t, header, n, end, send)
					}
				})
			}
		}
	}
}

func wantCutOffUncertain(t *testing.T, header []byte, n int, end func(net.Conn), send func(*testing.T, string) *http.Request) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		answer(string(header[:n]))(conn)
		end(conn)
	}()
	tr := &http.Transport{}
	req := send(t, "http://"+ln.Addr().String())
	err = errorOf(t, tr, req)
	tr.CloseIdleConnections()
	ln.Close()
	<-done
	wantOutcome(t, req, err, httpretry.Uncertain, fmt.Sprintf("cut off after %q", header[:n]))
}

// Under TLS the end of the connection may come without a close_notify alert.
func TestDefaultClassifier_CutOffHeaderOverTLSIsUncertain(t *testing.T) {
	cert, pool := newCertificate(t, "127.0.0.1", time.Now().Add(time.Hour))
	config := &tls.Config{Certificates: []tls.Certificate{cert}}
	const header = "HTTP/1.1 200 OK\r\nServer: a\r\n\r\n"
	for n := range len(header) {
		for name, end := range map[string]func(raw, conn net.Conn){
			"close_notify": func(_, conn net.Conn) { conn.Close() },
			"FIN":          func(raw, _ net.Conn) { raw.Close() },
			"RST":          func(raw, _ net.Conn) { reset(raw) },
		} {
			tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
			req := get(t, "https://"+serveRaw(t, func(raw net.Conn) {
				conn := tls.Server(raw, config)
				answer(header[:n])(conn)
				end(raw, conn)
			}))
			wantOutcome(t, req, errorOf(t, tr, req), httpretry.Uncertain, fmt.Sprintf("%s after %q", name, header[:n]))
			tr.CloseIdleConnections()
		}
	}
}

func TestDefaultClassifier_CutOffHTTP2HeaderIsUncertain(t *testing.T) {
	for n := range len(headers(1, status204)) {
		synctest.Test(t, func(t *testing.T) {
			tr := newH2Transport(func(stream uint32) ([]byte, bool) { return headers(stream, status204)[:n], true })
			defer tr.CloseIdleConnections()
			req := postOnce(t, "http://host.invalid")
			wantOutcome(t, req, errorOf(t, tr, req), httpretry.Uncertain, fmt.Sprintf("cut off after %d bytes", n))
		})
	}
}

// A line that no further byte could complete is malformed.
func TestDefaultClassifier_CompleteMalformedHeaderIsFinal(t *testing.T) {
	for _, header := range []string{
		"HTTP/2.0\r\n\r\n",
		"ICY\r\n\r\n",
		"HTTP/1.1 OK\r\n\r\n",
		"HTTP/1.1 2000 OK\r\n\r\n",
		"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
		"HTTP/1.1 200 OK\r\n<html>\r\n\r\n",
		"HTTP/1.1 200 OK\r\n(comment)\r\n\r\n",
		"HTTP/1.1 200 OK\r\nna\x00me: value\r\n\r\n",
		"HTTP/1.1 200 OK\r\n: value\r\n\r\n",
	} {
		_, err := http.ReadResponse(bufio.NewReader(bytes.NewReader([]byte(header))), nil)
		if err == nil {
			t.Errorf("net/http accepts %q", header)
			continue
		}
		wantOutcome(t, get(t, "http://host.invalid"), err, httpretry.Final, fmt.Sprintf("malformed: %q", header))
	}
}
