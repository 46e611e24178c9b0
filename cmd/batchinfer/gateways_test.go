package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/failover"
	"github.com/httpretry/httpretry/internal/route"
)

func TestGateways_Config(t *testing.T) {
	tests := []struct {
		text  string
		first string
		all   []failover.Endpoint
		err   string
	}{
		{text: "http://a", first: "http://a"},
		{text: "[http://a]", first: "http://a"},
		{text: "[http://a, 'https://b/base weight=10']", first: "http://a", all: []failover.Endpoint{{URL: "http://a"}, {URL: "https://b/base", Weight: 10}}},
		{text: "[&a http://a, http://b]", first: "http://a", all: []failover.Endpoint{{URL: "http://a"}, {URL: "http://b"}}},
		{text: "[]", err: "is an empty list"},
		{text: "[http://a, 1]", err: "is 1: it must be the URL of a gateway"},
		{text: "[http://a, [http://b]]", err: "is not a single value: it must be the URL of a gateway"},
		{text: "{http://a: 1}", err: "is not a single value: it must be the URL of a gateway"},
		{text: "[http://a, b]", err: "number 2: must begin with http:// or https:// and a host"},
		{text: "[http://a, http://a]", err: "number 2: is in the list already"},
		{text: "http://a weight=0", err: "after the URL: must be weight= and a whole number from 1 to 1000"},
		{text: "http://a 10", err: "after the URL: must be weight= and a whole number from 1 to 1000"},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			var c config
			err := c.parse("c.yaml", []byte("inference_gateway_url: "+tt.text))
			if tt.err != "" {
				if want := "c.yaml:1: inference_gateway_url: " + tt.err; err == nil || err.Error() != want {
					t.Errorf("got %v, want %s", err, want)
				}
				return
			}
			if err != nil || c.gatewayURL != tt.first || !reflect.DeepEqual(c.gateways, tt.all) {
				t.Errorf("got %q, %v, %v, want %q, %v", c.gatewayURL, c.gateways, err, tt.first, tt.all)
			}
			c = defaultConfig()
			if err := c.parseGateways([]string{"http://x", "http://y"}); err != nil || len(c.client().Endpoints) != 2 || c.client().Validate() != nil {
				t.Errorf("got client %v, %v, %v", c.client(), err, c.client().Validate())
			}
		})
	}
}

// The command to go on, and messages, show URLs with a weight unless they may hold a
// secret.
func TestGateways_CommandLine(t *testing.T) {
	for _, tt := range []struct{ url, want string }{
		{"http://a weight=2", "'http://a weight=2'"},
		{"http://me:p4ss@a weight=2", "URL"},
		{"http://a p4ss", "URL"},
	} {
		o := options{args: []string{"-url", tt.url}, urls: []string{tt.url}}
		if got := strings.TrimSpace(o.command()); got != "batchinfer -url "+tt.want {
			t.Errorf("%s: got %s, want -url %s", tt.url, got, tt.want)
		}
	}
	o := startPlain(t, "-input", "a", "-output", "b", "-url", "http://a", "-url", "")
	o.want(t, exitUsage, "-url: empty")
	o = startPlain(t, "-input", "a", "-output", "b", "-url", "http://a", "-url", "http://me:p4ss@b/v1")
	o.want(t, exitUsage, "-url: number 2: must not end in /v1")
	if strings.Contains(o.stderr, "p4ss") {
		t.Errorf("the password is in the message:\n%s", o.stderr)
	}
}

// A killable is a gateway that serves some requests at a time, each in 5 ms, and
// that can be killed and restarted.
type killable struct {
	address string
	slots   chan struct{}
	served  atomic.Int32
	srv     *http.Server
}

func newKillable(t *testing.T, capacity int) *killable {
	g := &killable{address: fmt.Sprintf("127.0.0.1:%d", freePorts(t, 1)[0]), slots: make(chan struct{}, capacity)}
	g.start(t)
	t.Cleanup(g.kill)
	return g
}

func (g *killable) start(t *testing.T) {
	l, err := net.Listen("tcp", g.address)
	if err != nil {
		t.Error(err)
		return
	}
	g.address = l.Addr().String()
	g.srv = &http.Server{Handler: g}
	go g.srv.Serve(l)
}

func (g *killable) kill() { g.srv.Close() }

func (g *killable) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	select {
	case g.slots <- struct{}{}:
	case <-r.Context().Done():
		return
	}
	defer func() { <-g.slots }()
	time.Sleep(5 * time.Millisecond)
	g.served.Add(1)
	fmt.Fprintf(w, `{"echo":%q}`, r.Header.Get("X-Request-ID"))
}

// Two gateways, of which one serves ten times as much as the other, under one batch.
// The large one is killed and comes back. Every request is answered, both gateways
// are used as far as they can serve, and the large one again after its return.
func TestRun_GatewayKilledAndBack(t *testing.T) {
	large, small := newKillable(t, 20), newKillable(t, 2)
	in := writeFile(t, inputOf(2000))
	out := filepath.Join(t.TempDir(), "out.jsonl")
	var atReturn atomic.Int32
	var wg sync.WaitGroup
	wg.Go(func() {
		for large.served.Load() < 500 {
			if t.Context().Err() != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
		large.kill()
		for before := small.served.Load(); small.served.Load() < before+50; {
			if t.Context().Err() != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
		atReturn.Store(large.served.Load())
		large.start(t)
	})
	o := startPlain(t, "-input", in, "-output", out, "-concurrency", "32", "-v", "3",
		"-url", "http://"+large.address, "-url", "http://"+small.address)
	wg.Wait()
	o.want(t, exitOK)
	for id, a := range answersIn(t, out) {
		if !a.succeeded() {
			t.Errorf("answer to %s: got %+v, want a success", id, a)
		}
	}
	t.Logf("%d served by the large gateway, of them %d before its return, %d by the small one; summary:\n%s",
		large.served.Load(), atReturn.Load(), small.served.Load(), o.stdout)
	if after := large.served.Load() - atReturn.Load(); after < 500 || small.served.Load() < 100 {
		t.Errorf("%d served by the large gateway after its return, %d by the small one, want at least 500 and 100", after, small.served.Load())
	}
}

// Gateways of which none can be reached pause the run, and in the end stop it, as a
// single one does.
func TestRun_NoneOfSeveralGatewaysIsReached(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	for name, outage := range map[string]time.Duration{"for an hour": 2 * time.Hour, "for half an hour": 30 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				cfg := defaultConfig()
				cfg.gateways = []failover.Endpoint{{URL: "http://a"}, {URL: "http://b"}}
				gateway := virtualGateway(func(*http.Request) (int, string, string) { return 200, "", answered })
				b, _, err := runVirtual(t, 100, cfg, roundTripFunc(func(req *http.Request) (*http.Response, error) {
					if time.Since(begun) < outage {
						req.Body.Close()
						return nil, refused
					}
					return gateway.RoundTrip(req)
				}))
				took := time.Since(begun)
				t.Logf("took %v, %v", took, err)
				switch {
				case outage > cfg.maxOutage && (err == nil || took < cfg.maxOutage || took > cfg.maxOutage+5*time.Minute):
					t.Errorf("got %v after %v, want an error after %v", err, took, cfg.maxOutage)
				case outage < cfg.maxOutage && (err != nil || b.summary.answered != 100 || took > outage+5*time.Minute):
					t.Errorf("got %d answered, %v after %v, want 100 after %v", b.summary.answered, err, took, outage)
				}
			})
		})
	}
}

// A gateway that will not serve is left alone, and its requests are answered by the
// other one. The run stops as hopeless only if both say so, each in its way.
func TestRun_OneOfSeveralGatewaysWillNotServe(t *testing.T) {
	denials := map[string]func() (int, string, string){
		"key":   func() (int, string, string) { return 401, "", `{"error":{"message":"bad key"}}` },
		"quota": func() (int, string, string) { return 429, "", `{"error":{"code":"insufficient_quota"}}` },
		"model": func() (int, string, string) { return 404, "", `{"error":{"message":"no such model"}}` },
	}
	for name, denial := range denials {
		for _, both := range []bool{false, true} {
			t.Run(fmt.Sprint(name, both), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var asked atomic.Int32
					cfg := defaultConfig()
					cfg.maxRetries = 0
					cfg.gateways = []failover.Endpoint{{URL: "http://a"}, {URL: "http://b"}}
					b, _, err := runVirtual(t, 1000, cfg, virtualGateway(func(r *http.Request) (int, string, string) {
						switch {
						case r.URL.Host == "a":
							asked.Add(1)
							return denial()
						case both:
							asked.Add(1)
							return denials["key"]()
						}
						return 200, "", answered
					}))
					n, hopeless := asked.Load(), errors.As(err, new(*hopelessError))
					switch {
					case !both && (err != nil || b.summary.answered != 1000 || n > 40):
						t.Errorf("got %d answered, failed %v, %v, %d refused, want 1000 and few refused", b.summary.answered, b.summary.failed, err, n)
					case both && (!hopeless || n > 100):
						t.Errorf("got %v after %d requests, want a hopeless run after at most 100", err, n)
					}
				})
			})
		}
	}
}

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// Requests that wait for the limit of a gateway are answered by another one soon after
// it has begun to refuse all.
func TestRun_GatewayWithALimitWillNotServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, accept := time.Now(), map[string]func(time.Time) (bool, time.Duration){"a": bucket(20), "b": bucket(20)}
		var mu sync.Mutex
		cfg := defaultConfig()
		cfg.gateways = []failover.Endpoint{{URL: "http://a"}, {URL: "http://b"}}
		b, _, err := runVirtual(t, 1600, cfg, virtualGateway(func(r *http.Request) (int, string, string) {
			time.Sleep(100 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			if r.URL.Host == "a" && time.Since(start) > 20*time.Second {
				return 401, "", `{"error":{"message":"bad key"}}`
			}
			if ok, _ := accept[r.URL.Host](time.Now()); !ok {
				return 429, "Retry-After: 1", ""
			}
			return 200, "", answered
		}))
		took := time.Since(start)
		t.Logf("took %v", took)
		if err != nil || b.summary.answered != 1600 || took > 80*time.Second {
			t.Errorf("got %d answered, failed %v, %v after %v, want 1600 within 80s", b.summary.answered, b.summary.failed, err, took)
		}
	})
}

// Of two gateways with limits of 100 and 10 requests per second, the first is down for
// 30 s. Both limits are reached before and again 5 s after its return, although all
// requests have waited for the other one meanwhile.
func TestRun_ThroughputIsBackAfterAnOutage(t *testing.T) {
	for _, status := range []int{429, 503} {
		for _, header := range []bool{false, true} {
			t.Run(fmt.Sprint(status, " ", header), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testThroughputIsBack(t, status, header) })
			})
		}
	}
}

func testThroughputIsBack(t *testing.T, status int, header bool) {
	gateways := make(map[string]*limited)
	for host, perSecond := range map[string]float64{"a": 100, "b": 10} {
		gateways[host] = &limited{status: status, header: header, accept: bucket(perSecond)}
	}
	var mu sync.Mutex
	var served [200]int // by second
	attempts, lost := 0, 0
	begun := time.Now()
	cfg := defaultConfig()
	cfg.gateways = []failover.Endpoint{{URL: "http://a"}, {URL: "http://b"}}
	const requests = 6600
	b, _, err := runVirtual(t, requests, cfg, roundTripFunc(func(req *http.Request) (*http.Response, error) {
		host := req.URL.Host
		at := time.Since(begun)
		down := host == "a" && at > 30*time.Second && at < time.Minute
		mu.Lock()
		attempts++
		if down {
			lost++
		}
		mu.Unlock()
		if down {
			req.Body.Close()
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
		}
		resp, err := gateways[host].RoundTrip(req)
		mu.Lock()
		defer mu.Unlock()
		if err == nil && resp.StatusCode == 200 {
			served[int(time.Since(begun).Seconds())]++
		}
		return resp, err
	}))
	if err != nil || b.summary.answered != requests || lost*100 > attempts {
		t.Errorf("got %d answered, failed %v, %v, and %d of %d attempts at the gateway that was down, want %d answered and at most 1%%",
			b.summary.answered, b.summary.failed, err, lost, attempts, requests)
	}
	mean := func(from, to int) float64 {
		sum := 0
		for _, n := range served[from:to] {
			sum += n
		}
		return float64(sum) / float64(to-from)
	}
	before, back, after := mean(10, 30), mean(65, 75), mean(65, 85)
	t.Logf("%.0f answers per second before, %.0f from 5 to 15 s after the return, %.0f from 5 to 25 s, %d attempts for %d requests, %d lost",
		before, back, after, attempts, requests, lost)
	const limit = 110
	if before < 0.9*limit || back < 0.85*before || after < 0.9*limit {
		t.Errorf("got %.0f answers per second before the outage, %.0f from 5 to 15 s after it, and %.0f from 5 to 25 s, want about %d",
			before, back, after, limit)
	}
}

// Of two gateways that queue, the smaller one hangs for 30 s, without an error. The
// requests that hang do not keep others from being answered by the larger one. The
// reserve of a lowered limit is tested by TestWindow_RequestsThatHangLeaveRoom.
func TestRun_OneOfSeveralGatewaysHangs(t *testing.T) {
	for at := 10 * time.Second; at <= 11*time.Second; at += 250 * time.Millisecond {
		t.Run(at.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testOneOfSeveralGatewaysHangs(t, at) })
		})
	}
}

func testOneOfSeveralGatewaysHangs(t *testing.T, hangs time.Duration) {
	const requests = 9500
	returns := hangs + 30*time.Second
	slots := map[string]chan struct{}{"a": make(chan struct{}, 20), "b": make(chan struct{}, 2)}
	var during atomic.Int32 // served by a in 25 s of the 30
	cfg := defaultConfig()
	cfg.gateways = []failover.Endpoint{{URL: "http://a"}, {URL: "http://b"}}
	begun := time.Now()
	b, _, err := runVirtual(t, requests, cfg, virtualGateway(func(r *http.Request) (int, string, string) {
		host := r.URL.Host
		slots[host] <- struct{}{}
		defer func() { <-slots[host] }()
		time.Sleep(90 * time.Millisecond) // 100 with those of virtualGateway
		if at := time.Since(begun); host == "b" && at > hangs && at < returns {
			time.Sleep(returns - at)
		}
		if at := time.Since(begun); host == "a" && at > hangs+5*time.Second && at < returns {
			during.Add(1)
		}
		return 200, "", answered
	}))
	perSecond := float64(during.Load()) / (returns - hangs - 5*time.Second).Seconds()
	t.Logf("took %v, %.0f/s from the larger gateway while the other one hung", time.Since(begun), perSecond)
	if err != nil || b.summary.answered != requests || perSecond < 185 {
		t.Errorf("got %d answered, failed %v, %v, and %.0f/s from the larger gateway while the other one hung, want all and at least 185 of 222",
			b.summary.answered, b.summary.failed, err, perSecond)
	}
}

// Gateways on one host have limits of their own.
func TestGateways_LimitsOfOneHost(t *testing.T) {
	c := config{gateways: []failover.Endpoint{{URL: "http://a/x"}, {URL: "http://a/x/y/"}, {URL: "http://b"}}}
	key := c.endpointPacer().(*httpretry.AdaptivePacer).Key
	for url, want := range map[string]string{
		"http://a/x/v1/chat": "a/x", "http://a/x/y/v1/chat": "a/x/y", "http://a/xy/v1": "a", "http://b/v1/chat": "b",
	} {
		req, err := http.NewRequest("POST", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := key(req); got != want {
			t.Errorf("%s: got %q, want %q", url, got, want)
		}
	}
}

// A toldPacer records the errors that it is told.
type toldPacer struct{ errs []error }

func (*toldPacer) Delay(*http.Request) time.Duration { return 0 }

func (p *toldPacer) Wait(context.Context, *http.Request, time.Duration) (func(httpretry.Attempt), error) {
	time.Sleep(time.Second)
	return func(a httpretry.Attempt) { p.errs = append(p.errs, a.Err) }, nil
}

// The Pacers of a run tell the next one of turns that are not used. Only the wait for the
// turn that is used counts as one of the request.
func TestGateways_TurnsThatAreNotUsed(t *testing.T) {
	refused := errors.New("refused")
	for name, tt := range map[string]struct {
		wrap func(httpretry.Pacer) httpretry.Pacer
		want []error
	}{
		"noted":   {noted, []error{route.ErrNotSent, refused}},
		"ceiling": {func(p httpretry.Pacer) httpretry.Pacer { return ceiling{p} }, []error{route.ErrNotSent, nil}},
	} {
		synctest.Test(t, func(t *testing.T) {
			var told toldPacer
			var waited tally
			ctx := withTally(t.Context(), &waited)
			for _, err := range []error{route.ErrNotSent, refused} {
				done, waitErr := tt.wrap(&told).Wait(ctx, nil, 0)
				if waitErr != nil {
					t.Fatal(waitErr)
				}
				done(httpretry.Attempt{Err: err})
			}
			if !reflect.DeepEqual(told.errs, tt.want) {
				t.Errorf("%s: the next Pacer was told %v, want %v", name, told.errs, tt.want)
			}
			if name == "noted" && waited.paced != time.Second {
				t.Errorf("got a wait of %v, want that of one turn, 1s", waited.paced)
			}
		})
	}
}
