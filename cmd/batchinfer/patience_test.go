package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry/inference"
)

// A virtualGateway responds within the process, so that its waits are virtual.
type virtualGateway func(req *http.Request) (status int, header, body string)

func (g virtualGateway) RoundTrip(req *http.Request) (*http.Response, error) {
	io.Copy(io.Discard, req.Body)
	req.Body.Close()
	time.Sleep(10 * time.Millisecond)
	status, header, body := g(req)
	resp := &http.Response{
		StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Request: req,
		Header: make(http.Header), Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
	}
	if name, value, ok := strings.Cut(header, ": "); ok {
		resp.Header.Set(name, value)
	}
	return resp, nil
}

const answered = `{"choices":[{"message":{"content":"hi"}}]}`

// runVirtual runs a batch of n requests against a gateway in virtual time, and
// returns the batch, its output and its error.
func runVirtual(t *testing.T, n int, cfg config, gateway http.RoundTripper) (*batch, *bytes.Buffer, error) {
	t.Helper()
	cfg.gatewayURL = "http://gateway.test"
	client := cfg.client()
	client.Transport = gateway
	in := checkedInput(t, inputOf(n))
	disk := &fullDisk{room: 1 << 30}
	b := newBatchWith(cfg, inference.NewHTTPInferenceClient(client), in, &output{name: "out", file: disk})
	err := b.run(t.Context())
	return b, &disk.Buffer, err
}

// A refusal with a time to come back does not use up the retries of a request,
// however often it comes and however long it is.
func TestRun_RefusalsAreNotRetries(t *testing.T) {
	for _, tt := range []struct {
		name, header string
		status       int
		refusals     int32 // of each request
	}{
		{"119 s", "Retry-After: 119", 429, 1},
		{"59 minutes", "Retry-After: 3540", 503, 1},
		{"often", "Retry-After: 2", 429, 5},
		{"without a time", "", 429, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked [10]atomic.Int32
				cfg := defaultConfig()
				cfg.maxOutage = 24 * time.Hour
				b, _, err := runVirtual(t, 10, cfg, virtualGateway(func(r *http.Request) (int, string, string) {
					var n int
					fmt.Sscanf(r.Header.Get("X-Request-ID"), "r%d", &n)
					switch n := asked[n].Add(1); {
					case n <= tt.refusals:
						return tt.status, tt.header, ""
					case n <= tt.refusals+3: // as many as a request has retries
						return 500, "", ""
					}
					return 200, "", answered
				}))
				if err != nil || b.summary.answered != 10 || len(b.summary.failed) > 0 {
					t.Errorf("got %d answered, failed %v, %v, want all 10 answered", b.summary.answered, b.summary.failed, err)
				}
				if got := b.summary.attempts[int(tt.refusals)+4]; got != 10 || b.deferral.waiting != nil {
					t.Errorf("requests by attempts: got %v, want 10 with %d, and none sent again later", b.summary.attempts, tt.refusals+4)
				}
			})
		})
	}
}

// Requests that are always refused, such as those for one model, do not keep the others
// from being answered.
func TestRun_PutsOffRequestsThatAreAlwaysRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		again := make(map[string]int)
		cfg := defaultConfig()
		cfg.perWorker = 16 // fewer than these requests
		b, _, err := runVirtual(t, 400, cfg, virtualGateway(func(r *http.Request) (int, string, string) {
			if id := r.Header.Get("X-Request-ID"); strings.HasSuffix(id, "0") {
				mu.Lock()
				defer mu.Unlock()
				again[id]++
				return 429, "", ""
			}
			return 200, "", answered
		}))
		if b.summary.answered != 360 || len(b.summary.failed) > 0 || err == nil {
			t.Errorf("got %d answered, failed %v, %v, want 360 answered and an error", b.summary.answered, b.summary.failed, err)
		}
		if len(again) != 40 {
			t.Errorf("%d of 40 requests were tried", len(again))
		}
	})
}

// A gateway refuses one request whatever the rate, for instance because it is too large.
// The rate of the others does not fall with each of its refusals.
func TestRun_OneRequestIsAlwaysRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var mu sync.Mutex
		var last time.Duration // when the last of the others was answered
		cfg := defaultConfig()
		cfg.perWorker, cfg.maxOutage = 8, time.Minute
		b, _, err := runVirtual(t, 300, cfg, virtualGateway(func(r *http.Request) (int, string, string) {
			if r.Header.Get("X-Request-ID") == "r20" {
				return 429, "Retry-After: 2", ""
			}
			time.Sleep(400 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			last = time.Since(start)
			return 200, "", answered
		}))
		// Without refusals they take 15 s.
		if b.summary.answered != 299 || err == nil || last > 45*time.Second {
			t.Errorf("got %d answered after %v, %v, want 299 within 45s, and an error", b.summary.answered, last, err)
		}
	})
}

// A request is refused whatever the rate if it was refused three times, each after as many
// others had been answered as are in flight.
func TestGate_RequestsThatAreSingled(t *testing.T) {
	for _, tt := range []struct {
		reason         string
		flying, before int // attempts that are under way, and answers before each refusal
		refusals       int
		want           bool
	}{
		{"three refusals among answers", 10, 10, 3, true},
		{"two", 10, 10, 2, false},
		{"among fewer answers than are in flight", 10, 9, 100, false},
		{"nothing else in flight, and three answers", 1, 3, 3, true},
		{"nothing else in flight, and two answers", 1, 2, 100, false},
		{"no answers", 0, 0, 100, false},
	} {
		g, request, got := &gate{flying: tt.flying}, new(tally), false
		for range tt.refusals {
			g.goods += tt.before
			got = g.isSingled(request)
		}
		if got != tt.want {
			t.Errorf("%s: got %t, want %t", tt.reason, got, tt.want)
		}
	}
}

// A gateway that refuses all requests for five minutes gets single attempts, however
// often each request is refused.
func TestRun_AllAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var refused atomic.Int32
		cfg := defaultConfig()
		cfg.perWorker = 2
		b, _, err := runVirtual(t, 200, cfg, virtualGateway(func(*http.Request) (int, string, string) {
			if now := time.Since(start); now > 5*time.Second && now < 305*time.Second {
				refused.Add(1)
				return 429, "", ""
			}
			time.Sleep(100 * time.Millisecond)
			return 200, "", answered
		}))
		if err != nil || b.summary.answered != 200 || refused.Load() > 150 {
			t.Errorf("got %d answered, %v, %d refused, want 200, and at most 150 refused in 300s", b.summary.answered, err, refused.Load())
		}
	})
}

// A request that is asked to wait for too long fails, and its error has both times.
func TestRun_ErrorHasTheWaitThatWasAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, out, err := runVirtual(t, 1, defaultConfig(), virtualGateway(func(*http.Request) (int, string, string) {
			return 429, "Retry-After: 7200", `{"error":{"message":"Slow down"}}`
		}))
		const want = `"message":"HTTP 429: Slow down (the gateway asked to wait for 2h0m0s, and inference_max_retry_after allows 1h0m0s)"`
		if err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("got %s, %v, want %s", out, err, want)
		}
	})
}

// A request that fails for a reason that may pass is sent again at the end of the
// run, after a pause.
func TestRun_SendsPassingFailuresAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		b, out, err := runVirtual(t, 100, defaultConfig(), virtualGateway(func(r *http.Request) (int, string, string) {
			switch r.Header.Get("X-Request-ID") {
			case "r3":
				if time.Since(start) < 60*time.Second {
					return 502, "", "restarting"
				}
			case "r4":
				return 500, "", "always"
			case "r5":
				return 400, "", "never"
			}
			return 200, "", answered
		}))
		if err != nil || b.summary.answered != 98 || b.summary.deferred != 0 {
			t.Errorf("got %d answered, %d deferred, %v, want 98 and 0", b.summary.answered, b.summary.deferred, err)
		}
		if got := b.summary.attempts; got[8] != 1 || got[5] != 1 || got[1] != 98 {
			t.Errorf("requests by attempts: got %v, want r4 with 8, r3 with 5, the others with 1", got)
		}
		if got := strings.Count(out.String(), "\n"); got != 100 {
			t.Errorf("lines: got %d, want one for each request", got)
		}
	})
}

// A hopeless run stops after a few failures, and says why.
func TestRun_StopsIfHopeless(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	untrusted := httptest.NewTLSServer(http.NotFoundHandler())
	defer untrusted.Close()
	untrusted.Config.ErrorLog = nil
	status := func(status int, body string) func(*testing.T) string {
		return func(t *testing.T) string {
			return newGateway(t, func(w http.ResponseWriter, _ *http.Request, _ int) bool { return fail(w, status, body) }).URL
		}
	}
	for _, tt := range []struct {
		name string
		url  func(*testing.T) string
		want string
	}{
		{"key", status(401, `{"error":{"message":"Incorrect API key"}}`), "AUTH_ERROR: HTTP 401: Incorrect API key\nbatchinfer: check the API key"},
		{"model", status(404, `{"error":{"message":"The model m does not exist","code":"model_not_found"}}`), "MODEL_NOT_FOUND: HTTP 404: The model m does not exist\nbatchinfer: check the model"},
		{"path", status(404, "page not found"), "NOT_FOUND: HTTP 404: page not found\nbatchinfer: check the gateway's URL"},
		{"quota", status(429, `{"error":{"message":"You exceeded your quota","code":"insufficient_quota"}}`), "QUOTA_EXHAUSTED: HTTP 429: You exceeded"},
		{"parameter", status(400, "no such parameter"), "INVALID_REQ: HTTP 400: no such parameter"},
		{"wait", func(t *testing.T) string {
			return newGateway(t, func(w http.ResponseWriter, _ *http.Request, _ int) bool {
				w.Header().Set("Retry-After", "90000")
				return fail(w, 429, "")
			}).URL
		}, "RATE_LIMIT: HTTP 429: Too Many Requests (the gateway asked to wait for 25h0m0s,"},
		{"certificate", func(*testing.T) string { return untrusted.URL }, "CERTIFICATE: failed to execute request: tls: failed to verify certificate"},
		{"http for a server with TLS alerts", func(t *testing.T) string { return "http://" + alertServer(t) }, "WRONG_SCHEME: failed to execute request: server gave TLS response to HTTP client"},
		{"http for https", func(*testing.T) string { return strings.Replace(untrusted.URL, "https", "http", 1) }, "WRONG_SCHEME: HTTP 400: Client sent an HTTP request to an HTTPS server.\nbatchinfer: check whether"},
		{"https for http", func(*testing.T) string { return strings.Replace(plain.URL, "http", "https", 1) }, "WRONG_SCHEME: failed to execute request: http: server gave HTTP response"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			o := startPlain(t, "-input", writeFile(t, inputOf(1000)), "-output", out, "-url", tt.url(t))
			o.want(t, exitFailed, "20 requests in a row failed in the same way: "+tt.want, " of 1000 requests are answered", "to go on:\n  batchinfer -input ")
			if got := len(answersIn(t, out)); got > 20+16 {
				t.Errorf("lines in the output: got %d, want those of the requests that were sent", got)
			}
		})
	}
}

// alertServer returns the address of a server that responds to each connection with a TLS
// alert.
func alertServer(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				http.ReadRequest(bufio.NewReader(conn))
				io.WriteString(conn, "\x15\x03\x01\x00\x02\x02\x46")
			}()
		}
	}()
	return l.Addr().String()
}

// Messages of one cause are recognized although a part of them varies.
func TestRun_StopsIfHopelessWhateverVaries(t *testing.T) {
	for name, message := range map[string]string{
		"number":         `bad (request id %d)`,
		"id":             `bad, see req_%xab`,
		"UUID":           `bad: 00000000-0000-0000-0000-%012d`,
		"quoted text":    `no such parameter in 'question %d'`,
		"letters":        `bad (trace %s)`,
		"an error":       `{"error":{"message":"unknown parameter","request_id":"%d"}}`,
		"JSON":           `{"detail":[{"loc":["body",3],"msg":"missing","input":{"a":"say \"%d\""}}]}`,
		"cut off quote":  `bad input "question %d`,
		"long word":      `bad, see abcdefghijkl%s`,
		"number at once": `bad%d`,
	} {
		for _, status := range []int{400, 422} {
			t.Run(fmt.Sprint(name, status), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var n atomic.Int32
					_, _, err := runVirtual(t, 3000, defaultConfig(), virtualGateway(func(*http.Request) (int, string, string) {
						i := n.Add(1)
						if strings.Contains(message, "%s") {
							return status, "", fmt.Sprintf(message, strings.Repeat(string(rune('a'+i%26)), 8))
						}
						return status, "", fmt.Sprintf(message, i)
					}))
					if _, ok := errors.AsType[*hopelessError](err); !ok || n.Load() > 60 {
						t.Errorf("got %v after %d requests, want a hopeless run after at most 60", err, n.Load())
					}
				})
			})
		}
	}
}

// Failures of single requests do not stop a run, whatever their number.
func TestRun_GoesOnAfterFailuresOfSingleRequests(t *testing.T) {
	for name, handle := range map[string]func(n int32) (int, string){
		"of the prompt": func(n int32) (int, string) { return 400, fmt.Sprintf("prompt %d is too long", n) },
		"of its length": func(n int32) (int, string) {
			return 400, fmt.Sprintf(`{"error":{"message":"maximum context length is 8192, got %d","code":"context_length_exceeded"}}`, n)
		},
		"of its content": func(n int32) (int, string) { return 400, `{"error":{"code":"content_filter"}}` },
		"of two kinds": func(n int32) (int, string) {
			return 400, []string{"no such parameter", "no such tool"}[n%2]
		},
		"after an answer": func(n int32) (int, string) {
			if n == 1 {
				return 200, answered
			}
			return 400, "no such parameter"
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var n atomic.Int32
				cfg := defaultConfig()
				cfg.perWorker = 1
				b, _, err := runVirtual(t, 100, cfg, virtualGateway(func(*http.Request) (int, string, string) {
					status, body := handle(n.Add(1))
					return status, "", body
				}))
				if err != nil || b.summary.done() != 100 {
					t.Errorf("got %d done, %v, want 100", b.summary.done(), err)
				}
			})
		})
	}
}

// A short inference_max_outage ends a run soon after it, not with a probe that is due
// much later.
func TestRun_ShortOutageEndsInTime(t *testing.T) {
	for _, allowed := range []time.Duration{time.Second, 10 * time.Second, time.Minute, 10 * time.Minute} {
		t.Run(fmt.Sprint(allowed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := defaultConfig()
				cfg.maxOutage = allowed
				start := time.Now()
				_, _, err := runVirtual(t, 100, cfg, roundTripFunc(func(r *http.Request) (*http.Response, error) {
					r.Body.Close()
					return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
				}))
				if took := time.Since(start); err == nil || took < allowed || took > allowed+allowed/16 {
					t.Errorf("got %v after %v, want an error after %v and little more", err, took, allowed)
				}
			})
		})
	}
}

// A gateway that closes connections without a response may expect https. If it has ever
// responded, it does not.
func TestRun_ClosedConnectionsMayMeanHTTPS(t *testing.T) {
	for _, tt := range []struct {
		name      string
		err       error
		responses int32
		want      bool
	}{
		{"closed", io.EOF, 0, true},
		{"reset", &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}, 0, true},
		{"refused", &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}, 0, false},
		{"closed after an answer", io.EOF, 1, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var n atomic.Int32
				cfg := defaultConfig()
				cfg.maxOutage = 10 * time.Minute
				gateway := virtualGateway(func(*http.Request) (int, string, string) { return 200, "", answered })
				b, _, err := runVirtual(t, 100, cfg, roundTripFunc(func(r *http.Request) (*http.Response, error) {
					if n.Add(1) <= tt.responses {
						return gateway.RoundTrip(r)
					}
					r.Body.Close()
					time.Sleep(time.Millisecond)
					return nil, tt.err
				}))
				shown := strings.Contains(strings.Join(b.summary.status(time.Now()), ", "), perhapsTLS)
				if got := err != nil && strings.Contains(err.Error(), perhapsTLS); got != tt.want || shown != tt.want {
					t.Errorf("got %v, and advice in the line: %t, want it in both: %t", err, shown, tt.want)
				}
			})
		})
	}
}

// Requests for which this machine has no file left wait for those that have one, and use
// up no retry. Fewer are sent at a time then.
func TestRun_TooManyOpenFiles(t *testing.T) {
	for name, full := range map[string]error{
		"socket":   &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", syscall.EMFILE)},
		"resolver": &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "dial udp: socket: too many open files", IsTemporary: true}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const files = 10
				var open, failed atomic.Int32
				cfg := defaultConfig()
				cfg.maxRetries = 0
				cfg.gatewayURL = "http://gateway.test"
				client := cfg.client()
				client.Transport = roundTripFunc(func(r *http.Request) (*http.Response, error) {
					defer open.Add(-1)
					if open.Add(1) > files {
						r.Body.Close()
						failed.Add(1)
						return nil, full
					}
					return virtualGateway(func(*http.Request) (int, string, string) {
						time.Sleep(20 * time.Second)
						return 200, "", answered
					}).RoundTrip(r)
				})
				b := newBatchWith(cfg, inference.NewHTTPInferenceClient(client), checkedInput(t, inputOf(100)), &output{name: "out", file: &fullDisk{room: 1 << 30}})
				var warnings []string
				b.crew.(*local).asker.warn = func(text string) { warnings = append(warnings, text) }
				start := time.Now()
				err := b.run(t.Context())
				if err != nil || b.summary.answered != 100 || b.summary.attempts[1] < 80 {
					t.Errorf("got %d answered, failed %v, attempts %v, %v, want all answered", b.summary.answered, b.summary.failed, b.summary.attempts, err)
				}
				if took := time.Since(start); took > 6*time.Minute {
					t.Errorf("took %v, want little more than 200 s", took)
				}
				if failed.Load() > 100 || len(warnings) != 1 || !strings.Contains(warnings[0], "ulimit -n") {
					t.Errorf("got %d attempts in vain, and warnings %q, want few, and one warning", failed.Load(), warnings)
				}
			})
		})
	}
}

func TestCategoryOf(t *testing.T) {
	status := func(code int, body string) error { return &inference.StatusError{StatusCode: code, Body: []byte(body)} }
	for _, tt := range []struct {
		name  string
		err   error
		final bool
		want  string
	}{
		{"model", status(404, `{"error":{"message":"The Model m does not exist"}}`), true, "MODEL_NOT_FOUND"},
		{"path", status(404, "page not found"), true, "NOT_FOUND"},
		{"payment", status(402, ""), true, "QUOTA_EXHAUSTED"},
		{"quota", status(429, ""), true, "QUOTA_EXHAUSTED"},
		{"rate", status(429, ""), false, "GIVEN"},
		{"host", fmt.Errorf("wrapped: %w", &net.DNSError{IsNotFound: true}), true, "UNKNOWN_HOST"},
		{"name server", &net.DNSError{IsTemporary: true}, false, "GIVEN"},
		{"certificate", &tls.CertificateVerificationError{Err: errors.New("x")}, true, "CERTIFICATE"},
		{"files", &net.OpError{Op: "dial", Err: syscall.EMFILE}, false, "TOO_MANY_OPEN_FILES"},
		{"nginx", status(400, "<h1>400 The plain HTTP request was sent to HTTPS port</h1>"), true, "WRONG_SCHEME"},
		{"none", nil, false, "GIVEN"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := categoryOf(&inference.InferenceError{Category: "GIVEN", RawError: tt.err}, tt.final); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// An answer to another prompt under the same custom_id is noticed when the run goes
// on, and neither used nor removed.
func TestRun_NoticesChangedPrompt(t *testing.T) {
	g := newGateway(t, nil)
	input := inputOf(3)
	out := filepath.Join(t.TempDir(), "out")
	args := func(input string) []string {
		return []string{"-input", writeFile(t, input), "-output", out, "-url", g.URL}
	}
	startPlain(t, args(input)...).want(t, exitOK)
	before := readFile(t, out)
	g.forget()
	startPlain(t, args(strings.Replace(input, `"hi"`, `"ho"`, 1))...).want(t, exitUsage,
		`: custom_id "r0" answers another request than line 1 of `)
	startPlain(t, args(strings.ReplaceAll(input, `,"`, ",\t\"")+chatLine("r3")+"\n")...).want(t, exitOK)
	if got := g.forget(); len(got) != 1 || got["r3"] != 1 {
		t.Errorf("sent: got %v, want only the new request", got)
	}
	if got := readFile(t, out); !strings.HasPrefix(got, before) {
		t.Errorf("output: got %q, want the answers unchanged: %q", got, before)
	}
}

// A restart of the gateway costs no request. For 30 s it refuses connections, and
// the requests in flight are lost.
func TestRun_RestartCostsNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var mu sync.Mutex
		var probes []time.Duration
		now, most := 0, 0
		g := virtualGateway(func(*http.Request) (int, string, string) {
			time.Sleep(300 * time.Millisecond)
			return 200, "", answered
		})
		gateway := roundTripperFunc(func(r *http.Request) (*http.Response, error) {
			const down, up = 5 * time.Second, 35 * time.Second
			if at := time.Since(start); at >= down && at < up {
				r.Body.Close()
				mu.Lock()
				probes = append(probes, at)
				now++
				most = max(most, now)
				mu.Unlock()
				if at > down+3*time.Second {
					time.Sleep(3 * time.Second) // as a host that does not respond
				}
				mu.Lock()
				now--
				mu.Unlock()
				return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
			}
			resp, err := g.RoundTrip(r)
			if at := time.Since(start); at >= down && at < up {
				return nil, &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
			}
			return resp, err
		})
		b, _, err := runVirtual(t, 3000, defaultConfig(), gateway)
		if err != nil || b.summary.answered != 3000 || b.summary.deferred != 0 {
			t.Errorf("got %d answered, failed %v, %v, want all 3000", b.summary.answered, b.summary.failed, err)
		}
		if len(probes) > 12 || most > 1 {
			t.Errorf("got %d probes while the gateway was down, %d at a time, want one at a time: %v", len(probes), most, probes)
		}
	})
}

type roundTripperFunc func(*http.Request) (*http.Response, error)

func (f roundTripperFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A run ends when nobody has reached the gateway for a time, and leaves the requests
// without a line, so that the same command sends them.
func TestRun_EndsAfterAnOutage(t *testing.T) {
	for name, gateway := range map[string]roundTripperFunc{
		"refused": func(*http.Request) (*http.Response, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
		},
		"asks to wait": func(r *http.Request) (*http.Response, error) {
			return virtualGateway(func(*http.Request) (int, string, string) { return 429, "Retry-After: 2", "" }).RoundTrip(r)
		},
		"bad gateway": func(r *http.Request) (*http.Response, error) {
			return virtualGateway(func(*http.Request) (int, string, string) { return 502, "", "" }).RoundTrip(r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var attempts atomic.Int32
				start := time.Now()
				b, out, err := runVirtual(t, 1000, defaultConfig(), roundTripperFunc(func(r *http.Request) (*http.Response, error) {
					attempts.Add(1)
					r.Body.Close()
					r.Body = http.NoBody
					return gateway(r)
				}))
				if err == nil || !strings.Contains(err.Error(), "the gateway has answered nothing for 1h") {
					t.Errorf("got error %v, want one that says for how long there was no answer", err)
				}
				if took := time.Since(start); took < time.Hour || took > time.Hour+10*time.Minute {
					t.Errorf("took %v, want an hour", took)
				}
				if name == "refused" && (out.Len() > 0 || b.summary.done() > 0 || attempts.Load() > 500) {
					t.Errorf("got %d done, %d attempts, want none done, and one attempt in 10 s", b.summary.done(), attempts.Load())
				}
				t.Logf("%d attempts, failed: %v", attempts.Load(), b.summary.failed)
			})
		})
	}
}

// After a gateway has asked all requests to wait for some time, it is soon used as before.
func TestRun_OutageWithRetryAfter(t *testing.T) {
	const begin, end, all = 30 * time.Second, 60 * time.Second, 180 * time.Second
	for _, tt := range []struct {
		status int
		header string
	}{{503, "Retry-After: 10"}, {529, "Retry-After: 1"}, {429, "Retry-After: 1"}} {
		t.Run(fmt.Sprint(tt.status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				slots := make(chan struct{}, 100)
				start := time.Now()
				gateway := virtualGateway(func(*http.Request) (int, string, string) {
					if now := time.Since(start); now >= begin && now < end {
						return tt.status, tt.header, ""
					}
					slots <- struct{}{}
					time.Sleep(2 * time.Second)
					<-slots
					return 200, "", answered
				})
				n := 50 * int((all - (end - begin)).Seconds())
				b, _, err := runVirtual(t, n, defaultConfig(), gateway)
				took := time.Since(start)
				t.Logf("took %v", took)
				if err != nil || b.summary.answered != n || took > all+60*time.Second {
					t.Errorf("got %d of %d answered, %v, in %v, want all in at most %v", b.summary.answered, n, err, took, all+60*time.Second)
				}
			})
		})
	}
}
