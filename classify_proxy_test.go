package httpretry_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/httpretry/httpretry"
)

// behindProxy sets up a POST to an https URL through a proxy.
func behindProxy(scheme string, proxy func(*testing.T) string) func(*testing.T, *http.Transport) *http.Request {
	return func(t *testing.T, tr *http.Transport) *http.Request {
		tr.Proxy = http.ProxyURL(&url.URL{Scheme: scheme, Host: proxy(t)})
		return postOnce(t, "https://host.invalid")
	}
}

func saying(text string) func(*testing.T) string {
	return func(t *testing.T) string { return serveRaw(t, answer(text)) }
}

func TestDefaultClassifier_Proxy(t *testing.T) {
	testFailures(t, []failure{
		{"refused", "nothing was sent", httpretry.Unprocessed, "proxyconnect", behindProxy("http", closedAddr)},
		{"SOCKS refused", "nothing was sent", httpretry.Unprocessed, "proxyconnect", behindProxy("socks5", closedAddr)},
		{"untrusted", "trying again changes no certificate", httpretry.Final, "unknown authority", behindProxy("https", func(t *testing.T) string {
			return strings.TrimPrefix(serveTLS(t, &tls.Config{}), "https://")
		})},
		{"hangs up on TLS", "nothing was sent", httpretry.Unprocessed, "proxyconnect", behindProxy("https", func(t *testing.T) string {
			return serveRaw(t, func(conn net.Conn) { answerAnything("")(conn); conn.Close() })
		})},
		{
			"CONNECT malformed", "malformed", httpretry.Final, "malformed HTTP response",
			behindProxy("http", saying("HELLO\r\n\r\n")),
		},
		{
			"hook that reports a failed connection", "a proxy with phrases of its own", httpretry.Unprocessed, "Tunnel closed for lunch",
			func(t *testing.T, tr *http.Transport) *http.Request {
				tr.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
					return &net.OpError{Op: "proxyconnect", Net: "tcp", Err: errors.New(resp.Status)}
				}
				return behindProxy("http", saying("HTTP/1.1 503 Tunnel closed for lunch\r\n\r\n"))(t, tr)
			},
		},
		{
			"invalid address", "a mistake in the configuration", httpretry.Final, "invalid proxy address",
			func(t *testing.T, tr *http.Transport) *http.Request {
				// The text of http.ProxyFromEnvironment, which reads it only once.
				tr.Proxy = func(*http.Request) (*url.URL, error) {
					return nil, fmt.Errorf("invalid proxy address %q: %v", "proxy.invalid:port", errors.New("invalid port"))
				}
				return get(t, "https://host.invalid")
			},
		},
	})
}

// A proxy that does not open a tunnel has sent nothing to the server.
func TestDefaultClassifier_ProxyStatus(t *testing.T) {
	statuses := map[int]httpretry.Outcome{
		500: httpretry.Unprocessed, 502: httpretry.Unprocessed, 503: httpretry.Unprocessed, 504: httpretry.Unprocessed,
	} // every other one: Final
	for status := 300; status < 600; status++ {
		phrase := http.StatusText(status)
		if phrase == "" {
			continue
		}
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			testFailures(t, []failure{{
				"registered phrase", "RFC 9110, section 9.3.6", statuses[status], phrase,
				behindProxy("http", saying(fmt.Sprintf("HTTP/1.1 %d %s\r\n\r\n", status, phrase))),
			}, {
				"lower case", "a phrase is for people", statuses[status], strings.ToLower(phrase),
				behindProxy("http", saying(fmt.Sprintf("HTTP/1.1 %d %s\r\n\r\n", status, strings.ToLower(phrase)))),
			}})
		})
	}
	testFailures(t, []failure{
		{"nginx", "504", httpretry.Unprocessed, "", behindProxy("http", saying("HTTP/1.1 504 Gateway Time-out\r\n\r\n"))},
		{"nginx, 503", "503", httpretry.Unprocessed, "", behindProxy("http", saying("HTTP/1.1 503 Service Temporarily Unavailable\r\n\r\n"))},
		{"Apache", "502", httpretry.Unprocessed, "", behindProxy("http", saying("HTTP/1.1 502 Proxy Error\r\n\r\n"))},
		{"no phrase", "net/http drops the status", httpretry.Final, "", behindProxy("http", saying("HTTP/1.1 403\r\n\r\n"))},
		{"empty phrase", "net/http drops the status", httpretry.Final, "", behindProxy("http", saying("HTTP/1.1 403 \r\n\r\n"))},
	})
}

// Only an untyped error of a request for an https URL can be a reason phrase.
func TestDefaultClassifier_PhraseWithoutConnect(t *testing.T) {
	const reason = "a server may have processed the request"
	wantOutcome(t, get(t, "http://host.invalid"), errors.New("Bad Gateway"), httpretry.Uncertain, reason)
	wantOutcome(t, get(t, "https://host.invalid"), typedError("Bad Gateway"), httpretry.Uncertain, reason)
	wantOutcome(t, get(t, "https://host.invalid"), errors.New("Bad Gateway: upstream"), httpretry.Uncertain, reason)
	wantOutcome(t, get(t, "https://host.invalid"), errMiddleware, httpretry.Uncertain, "unknown")
}

type typedError string

func (e typedError) Error() string { return string(e) }

// serveProxy responds to each CONNECT with the next of responses, the last of
// which repeats, and counts the requests.
func serveProxy(t *testing.T, responses ...string) (addr string, connects *atomic.Int32) {
	connects = new(atomic.Int32)
	return serveRaw(t, func(conn net.Conn) {
		n := connects.Add(1)
		answer(responses[min(int(n), len(responses))-1])(conn)
		conn.Close()
	}), connects
}

func TestRetryTransport_ProxyRefusalIsFinal(t *testing.T) {
	for _, line := range []string{
		"400 Bad Request", "401 Unauthorized", "403 Forbidden", "403 Blocked by policy", "404 Host not found", "405 No",
		"407 Auth failed", "407 Proxy Authentication Required", "418", "403", "403 ", "451 Ask your lawyer: really", "501 Not Implemented",
	} {
		t.Run(line, func(t *testing.T) {
			addr, connects := serveProxy(t, "HTTP/1.1 "+line+"\r\n\r\n")
			tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: addr})}
			defer tr.CloseIdleConnections()
			rt := &httpretry.RetryTransport{Base: tr, Policy: httpretry.RetryConfig{MaxRetries: 3, InitialBackoff: 1}}
			_, phrase, _ := strings.Cut(line, " ")
			if phrase == "" && line[len(line)-1] != ' ' {
				phrase = "unknown status code"
			}
			if err := errorOf(t, rt, get(t, "https://host.invalid")); err.Error() != phrase {
				t.Errorf("got the error %q, want %q, as net/http returned it", err, phrase)
			}
			if n := connects.Load(); n != 1 {
				t.Errorf("the proxy got %d requests, want 1: it refused the first", n)
			}
		})
	}
}

func TestRetryTransport_ProxyFailureIsRetriedForPOST(t *testing.T) {
	addr, connects := serveProxy(t, "HTTP/1.1 502 Bad Gateway\r\n\r\n", "HTTP/1.1 503 Service Unavailable\r\n\r\n", "HTTP/1.1 403 Forbidden\r\n\r\n")
	tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: addr})}
	defer tr.CloseIdleConnections()
	rt := &httpretry.RetryTransport{Base: tr, Policy: httpretry.RetryConfig{MaxRetries: 5, InitialBackoff: 1}}
	errorOf(t, rt, postOnce(t, "https://host.invalid"))
	if n := connects.Load(); n != 3 {
		t.Errorf("the proxy got %d requests, want 3: one after each 5xx", n)
	}
}

// Without a proxy, an untyped error is that of a dialer or of middleware.
func TestRetryTransport_UntypedErrorWithoutProxyIsRetried(t *testing.T) {
	for name, tr := range map[string]*http.Transport{
		"no proxy":          {},
		"not for this host": {Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }},
		"SOCKS proxy":       {Proxy: http.ProxyURL(&url.URL{Scheme: "socks5", Host: "proxy.invalid"})},
		"failing dialer":    {Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.invalid"})},
	} {
		t.Run(name, func(t *testing.T) {
			dials := 0
			tr.DialContext = func(context.Context, string, string) (net.Conn, error) {
				dials++
				return nil, errors.New("dialer: busy")
			}
			rt := &httpretry.RetryTransport{Base: tr, Policy: httpretry.RetryConfig{MaxRetries: 2, InitialBackoff: 1}}
			errorOf(t, rt, get(t, "https://host.invalid"))
			if dials != 3 {
				t.Errorf("dialed %d times, want 3", dials)
			}
		})
	}
}

// A socksServer serves the handshake of RFC 1928 and RFC 1929 up to the reply.
type socksServer struct {
	method  byte // that it chooses
	version byte // of the reply about the credentials
	auth    byte // status of the credentials
	reply   byte // to the command
	hangUp  int  // number of messages after which it closes the connection, if not 0
}

func (s socksServer) serve(conn net.Conn) {
	r := bufio.NewReader(conn)
	step := func(read func() int, reply ...byte) bool {
		if _, err := r.Discard(read()); err != nil {
			return false
		}
		conn.Write(reply)
		if s.hangUp--; s.hangUp == 0 {
			conn.Close()
		}
		return s.hangUp != 0
	}
	peek := func(i int) int {
		b, err := r.Peek(i + 1)
		if err != nil {
			return 0
		}
		return int(b[i])
	}
	if !step(func() int { return 2 + peek(1) }, 5, s.method) {
		return
	}
	if s.method == 2 {
		read := func() int { user := peek(1); return 3 + user + peek(2+user) }
		if !step(read, s.version, s.auth) || s.auth != 0 {
			return
		}
	}
	step(func() int { return 7 + peek(4) }, 5, s.reply, 0, 1, 0, 0, 0, 0, 0, 0)
}

func TestDefaultClassifier_SOCKS(t *testing.T) {
	const refusal, failure = "the next attempt would be refused as well", "nothing was sent"
	const final, unprocessed = httpretry.Final, httpretry.Unprocessed
	long := strings.Repeat("a", 256)
	for _, tt := range []struct {
		name   string
		server socksServer
		user   *url.Userinfo
		host   string
		want   httpretry.Outcome
		text   string
		reason string
	}{
		{"no acceptable method", socksServer{method: 0xff}, nil, "", final, "no acceptable authentication methods", refusal},
		{"unknown method", socksServer{method: 7}, url.UserPassword("u", "p"), "", final, "unsupported authentication method", refusal},
		{"wrong password", socksServer{method: 2, version: 1, auth: 1}, url.UserPassword("u", "p"), "", final, "authentication failed", refusal},
		{"wrong version", socksServer{method: 2, version: 9}, url.UserPassword("u", "p"), "", final, "invalid username/password version", refusal},
		{"password too long", socksServer{method: 2}, url.UserPassword("u", long), "", final, "invalid username/password", refusal},
		{"host too long", socksServer{}, nil, long, final, "FQDN too long", refusal},
		{"general failure", socksServer{reply: 1}, nil, "", unprocessed, "general SOCKS server failure", failure},
		{"ruleset", socksServer{reply: 2}, nil, "", final, "not allowed by ruleset", refusal},
		{"network unreachable", socksServer{reply: 3}, nil, "", unprocessed, "network unreachable", failure},
		{"host unreachable", socksServer{reply: 4}, nil, "", unprocessed, "host unreachable", failure},
		{"connection refused", socksServer{reply: 5}, nil, "", unprocessed, "connection refused", failure},
		{"TTL expired", socksServer{reply: 6}, nil, "", unprocessed, "TTL expired", failure},
		{"command", socksServer{reply: 7}, nil, "", final, "command not supported", refusal},
		{"address type", socksServer{reply: 8}, nil, "", final, "address type not supported", refusal},
		{"unknown reply", socksServer{reply: 99}, nil, "", unprocessed, "unknown code", failure},
		{"closed after the method", socksServer{hangUp: 1}, nil, "", unprocessed, "socks connect", failure},
		{"closed after the password", socksServer{method: 2, version: 1, hangUp: 2}, url.UserPassword("u", "p"), "", unprocessed, "socks connect", failure},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tr := &http.Transport{ResponseHeaderTimeout: 5 * time.Second}
			tr.Proxy = http.ProxyURL(&url.URL{Scheme: "socks5", User: tt.user, Host: serveRaw(t, tt.server.serve)})
			defer tr.CloseIdleConnections()
			host := tt.host
			if host == "" {
				host = "host.invalid"
			}
			req := postOnce(t, "http://"+host)
			err := errorOf(t, tr, req)
			if !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got the error %q, want %q in it", err, tt.text)
			}
			wantOutcome(t, req, err, tt.want, tt.reason)
		})
	}
	notSOCKS := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "socks5", Host: serveRaw(t, answerAnything("HTTP/1.1 400 Bad Request\r\n\r\n"))})}
	req := postOnce(t, "http://host.invalid")
	wantOutcome(t, req, errorOf(t, notSOCKS, req), final, "it does not speak SOCKS")
}
