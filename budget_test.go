package httpretry_test

import (
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
)

// withdrawals counts how many of n retries b allows.
func withdrawals(b httpretry.Budget, n int) int {
	allowed := 0
	for range n {
		if b.Withdraw(httpretry.Attempt{Request: &http.Request{}}) {
			allowed++
		}
	}
	return allowed
}

func deposits(b httpretry.Budget, n int) {
	for range n {
		b.Deposit(&http.Request{})
	}
}

func TestTokenBudget_Allows(t *testing.T) {
	tests := []struct {
		name     string
		budget   *httpretry.TokenBudget
		deposits int
		wait     time.Duration
		burst    int
		then     int
	}{
		{"defaults, immediately", &httpretry.TokenBudget{}, 0, 0, 100, 0},
		{"defaults, a second later", &httpretry.TokenBudget{}, 0, time.Second, 100, 10},
		{"defaults, after requests", &httpretry.TokenBudget{}, 100, 0, 100, 20},
		{"defaults, after both", &httpretry.TokenBudget{}, 100, 3 * time.Second, 100, 50},
		{"accumulated up to Burst", &httpretry.TokenBudget{}, 1e6, time.Hour, 100, 100},
		{"a ratio alone", &httpretry.TokenBudget{Ratio: 0.5, MinPerSecond: -1, Burst: 10}, 8, time.Hour, 10, 4},
		{"a floor alone", &httpretry.TokenBudget{Ratio: -1, MinPerSecond: 2, Burst: 10}, 1000, 2 * time.Second, 10, 4},
		{"less than one a second", &httpretry.TokenBudget{Ratio: -1, MinPerSecond: 0.1, Burst: 3}, 0, 20 * time.Second, 3, 2},
		{"a burst below one", &httpretry.TokenBudget{Ratio: -1, MinPerSecond: -1, Burst: 0.1}, 0, 0, 1, 0},
		{"NaN", &httpretry.TokenBudget{Ratio: math.NaN(), MinPerSecond: math.NaN(), Burst: math.NaN()}, 1000, time.Hour, 1, 0},
		{"infinite", &httpretry.TokenBudget{Ratio: math.Inf(1), MinPerSecond: math.Inf(1), Burst: 5}, 1, 0, 5, 5},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := tt.budget
				if got := withdrawals(b, 1000); got != tt.burst {
					t.Errorf("a full budget allows %d retries in a row, want %d", got, tt.burst)
				}
				deposits(b, tt.deposits)
				time.Sleep(tt.wait)
				if got := withdrawals(b, 1000); got != tt.then {
					t.Errorf("after %d requests and %v it allows %d more, want %d", tt.deposits, tt.wait, got, tt.then)
				}
			})
		})
	}
}

// Frequent calls do not lose the tokens that MinPerSecond adds.
func TestTokenBudget_CreditsFractions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &httpretry.TokenBudget{Ratio: -1, MinPerSecond: 10, Burst: 1}
		withdrawals(b, 1)
		allowed := 0
		for range 100_000 {
			time.Sleep(10 * time.Nanosecond)
			allowed += withdrawals(b, 1)
		}
		if allowed != 0 {
			t.Errorf("%d retries were allowed within a millisecond, want none", allowed)
		}
		for range 1000 {
			time.Sleep(time.Millisecond)
			allowed += withdrawals(b, 1)
		}
		if allowed < 9 || allowed > 10 {
			t.Errorf("%d retries were allowed within a second, want about 10", allowed)
		}
	})
}

// Concurrent calls neither lose tokens nor take more than there are.
func TestTokenBudget_LosesNothingUnderConcurrency(t *testing.T) {
	b := &httpretry.TokenBudget{Ratio: 1, MinPerSecond: -1, Burst: 50}
	var taken atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				b.Deposit(nil)
				taken.Add(int64(withdrawals(b, 2)))
			}
		})
	}
	wg.Wait()
	left := int64(withdrawals(b, 1000))
	if got := taken.Load() + left; got > 8000+50 || taken.Load() < 8000-50 {
		t.Errorf("%d retries were allowed, of which %d at the end: want about 8000 and at most 50 more", got, left)
	}
}

// The retries within any period are at most its requests and its seconds allow,
// plus Burst. They are no fewer than an ideal token bucket allows.
func TestTokenBudget_BoundsEveryWindow(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 0))
		pick := func(values ...float64) float64 { return values[r.IntN(len(values))] }
		b := &httpretry.TokenBudget{
			Ratio: pick(-1, 0.001, 0.1, 0.2, 1, 3), MinPerSecond: pick(-1, 0.01, 1, 10, 5000), Burst: pick(1, 2.5, 10, 1000),
		}
		synctest.Test(t, func(t *testing.T) {
			traffic{r: r, budget: b, ratio: max(b.Ratio, 0), perSecond: max(b.MinPerSecond, 0), burst: b.Burst}.run(t)
		})
	}
}

// A traffic is a random sequence of requests and retries, some close together,
// some far apart, with a TokenBudget under test and its settings.
type traffic struct {
	r                       *rand.Rand
	budget                  *httpretry.TokenBudget
	ratio, perSecond, burst float64
}

func (f traffic) run(t *testing.T) {
	var (
		start   = time.Now()
		last    = start
		full    = f.burst // tokens in an ideal bucket
		allowed float64   // retries, minus the tokens that were added
		lowest  float64   // minimum of allowed
		granted int
		ideally int
	)
	for range 5000 {
		time.Sleep(time.Duration(f.r.ExpFloat64() * float64([]time.Duration{0, 1, time.Microsecond, 50 * time.Millisecond}[f.r.IntN(4)])))
		brought := time.Since(last).Seconds() * f.perSecond
		last = time.Now()
		request := f.r.IntN(3) == 0
		if request {
			f.budget.Deposit(nil)
			brought += f.ratio
		}
		allowed -= brought
		lowest = min(lowest, allowed)
		full = min(f.burst, full+brought)
		if request {
			continue
		}
		if full >= 1-1e-9 { // ten tenths are less than one, in floating point
			full--
			ideally++
		}
		if f.budget.Withdraw(httpretry.Attempt{}) {
			allowed++
			granted++
		}
		if allowed-lowest > f.burst+2e-6 {
			t.Fatalf("ratio %v, per second %v: %.3f retries more than were brought, in a window that ends after %v, want at most %v",
				f.ratio, f.perSecond, allowed-lowest, time.Since(start), f.burst)
		}
		if difference := granted - ideally; difference < -1 || difference > 1 {
			t.Fatalf("ratio %v, per second %v, burst %v: %d retries were allowed within %v, want about %d",
				f.ratio, f.perSecond, f.burst, granted, time.Since(start), ideally)
		}
	}
}

// The bound holds for concurrent calls in real time.
func TestTokenBudget_BoundsConcurrentRetries(t *testing.T) {
	b := &httpretry.TokenBudget{Ratio: 0.1, MinPerSecond: 2000, Burst: 50}
	var taken atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range 16 {
		wg.Go(func() {
			for range 4000 {
				b.Deposit(nil)
				taken.Add(int64(withdrawals(b, 3)))
			}
		})
	}
	wg.Wait()
	seconds := time.Since(start).Seconds()
	got := float64(taken.Load())
	const requests = 16 * 4000
	if most := 0.1*requests + 2000*seconds + 50; got > most || got < 0.09*requests {
		t.Errorf("%.0f retries were allowed within %.3f s, want from %.0f to %.0f", got, seconds, 0.09*requests, most)
	}
}

func TestBudget_WithdrawIsCalledLast(t *testing.T) {
	tests := []struct {
		name     string
		rt       httpretry.RetryTransport
		deadline time.Duration
	}{
		{"final", httpretry.RetryTransport{Base: statuses(404)}, 0},
		{"policy", httpretry.RetryTransport{Base: statuses(503), Policy: httpretry.Never}, 0},
		{"deadline", httpretry.RetryTransport{Base: statuses(503)}, time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &countingBudget{allow: true}
				tt.rt.Budget = b
				req := newRequest(t, "POST", "http://example.com/", strings.NewReader("x"))
				if tt.deadline > 0 {
					ctx, cancel := context.WithTimeout(req.Context(), tt.deadline)
					defer cancel()
					req = req.WithContext(ctx)
				}
				if _, err := tt.rt.RoundTrip(req); err != nil {
					t.Fatal(err)
				}
				if b.deposits != 1 || b.withdrawals != 0 {
					t.Errorf("got %d deposits and %d withdrawals, want 1 and none: no token is spent on a retry that isn't made", b.deposits, b.withdrawals)
				}
			})
		})
	}
}

type countingBudget struct {
	allow                 bool
	deposits, withdrawals int
}

func (b *countingBudget) Deposit(*http.Request) { b.deposits++ }

func (b *countingBudget) Withdraw(httpretry.Attempt) bool {
	b.withdrawals++
	return b.allow
}

func TestBudget_RefusedRetryReturnsTheResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &countingBudget{}
		var last httpretry.Decision
		rt := &httpretry.RetryTransport{Base: statuses(503), Budget: b, OnAttempt: func(_ httpretry.Attempt, d httpretry.Decision) { last = d }}
		req := newRequest(t, "POST", "http://example.com/", strings.NewReader("x"))
		req.GetBody = func() (io.ReadCloser, error) {
			t.Error("GetBody was called for a retry that is not made")
			return nil, io.EOF
		}
		start := time.Now()
		resp, err := rt.RoundTrip(req)
		if err != nil || readAll(t, resp) != "body of 503" || time.Since(start) != 0 {
			t.Errorf("got %v after %v, want the 503 immediately", err, time.Since(start))
		}
		if last.Retry || last.Reason != "budget" || b.deposits != 1 || b.withdrawals != 1 {
			t.Errorf("got %+v after %d deposits and %d withdrawals, want \"budget\" after 1 of each", last, b.deposits, b.withdrawals)
		}
	})
}

func TestPerHost_KeepsHostsApart(t *testing.T) {
	made := map[string]int{}
	b := httpretry.PerHost(func(host string) httpretry.Budget {
		made[host]++
		return &httpretry.TokenBudget{Ratio: -1, MinPerSecond: -1, Burst: 2}
	})
	allowed := func(host string) int {
		n := 0
		for range 5 {
			if b.Withdraw(httpretry.Attempt{Request: newRequest(t, "GET", "http://"+host+"/", nil)}) {
				n++
			}
		}
		return n
	}
	for _, host := range []string{"a", "b", "a:8080", "a"} {
		want := 2
		if made[host] > 0 {
			want = 0
		}
		if got := allowed(host); got != want || made[host] != 1 {
			t.Errorf("%s: %d retries allowed with %d budgets made, want %d with 1", host, got, made[host], want)
		}
	}
	b.Deposit(&http.Request{}) // Base rejects a request without a URL
}

func TestPerHost_UsesCanonicalHosts(t *testing.T) {
	tests := []struct {
		url, want, reason string
	}{
		{"https://example.com/", "example.com", "the plain form"},
		{"https://EXAMPLE.com/", "example.com", "host names are case-insensitive"},
		{"https://example.com:443/", "example.com", "the default port of https"},
		{"http://example.com:80/", "example.com", "the default port of http"},
		{"https://example.com:/", "example.com", "an empty port is the default port"},
		{"HTTPS://Example.Com:443/", "example.com", "schemes are case-insensitive"},
		{"http://example.com:443/", "example.com:443", "not the default port of http"},
		{"https://example.com:80/", "example.com:80", "not the default port of https"},
		{"https://example.com:8443/", "example.com:8443", "another port is another server"},
		{"https://[2001:DB8::1]:443/", "[2001:db8::1]", "the default port of https"},
		{"https://[2001:db8::1]/", "[2001:db8::1]", "no port"},
		{"https://[2001:db8::443]:8443/", "[2001:db8::443]:8443", "another port is another server"},
	}
	for _, tt := range tests {
		var got []string
		b := httpretry.PerHost(func(host string) httpretry.Budget {
			got = append(got, host)
			return &httpretry.TokenBudget{}
		})
		req := newRequest(t, "GET", tt.url, nil)
		b.Deposit(req)
		b.Withdraw(httpretry.Attempt{Request: req})
		if want := []string{tt.want}; !slices.Equal(got, want) {
			t.Errorf("%s: budgets were made for %q, want %q: %s", tt.url, got, want, tt.reason)
		}
	}
}

// A panic in newBudget, from which a server recovers, leaves no lock held.
func TestPerHost_SurvivesAPanicOfNewBudget(t *testing.T) {
	calls := 0
	b := httpretry.PerHost(func(string) httpretry.Budget {
		if calls++; calls == 1 {
			panic("newBudget")
		}
		return &httpretry.TokenBudget{}
	})
	req := newRequest(t, "GET", "http://example.com/", nil)
	func() {
		defer func() { recover() }()
		b.Deposit(req)
	}()
	b.Deposit(req)
	if calls != 2 {
		t.Errorf("newBudget was called %d times, want 2", calls)
	}
}

// A host has one budget, even if several goroutines use it first.
func TestPerHost_MakesOneBudgetPerHostConcurrently(t *testing.T) {
	const hosts, burst = 40, 3
	var made, taken [hosts]atomic.Int64
	b := httpretry.PerHost(func(host string) httpretry.Budget {
		i, err := strconv.Atoi(host)
		if err != nil {
			t.Error(err)
		}
		made[i].Add(1)
		return &httpretry.TokenBudget{Ratio: -1, MinPerSecond: -1, Burst: burst}
	})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 10 * hosts {
				req := &http.Request{URL: &url.URL{Host: strconv.Itoa(i % hosts)}}
				b.Deposit(req)
				if b.Withdraw(httpretry.Attempt{Request: req}) {
					taken[i%hosts].Add(1)
				}
			}
		})
	}
	wg.Wait()
	for i := range hosts {
		if made[i].Load() != 1 || taken[i].Load() != burst {
			t.Errorf("host %d: %d budgets were made and %d retries allowed, want 1 and %d", i, made[i].Load(), taken[i].Load(), burst)
		}
	}
}

func TestPerHost_BoundsItsMemory(t *testing.T) {
	made := 0
	b := httpretry.PerHost(func(string) httpretry.Budget { made++; return &httpretry.TokenBudget{} })
	req := newRequest(t, "GET", "http://busy/", nil)
	busy := *req.URL
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for i := range 200_000 {
		req.URL.Host = fmt.Sprint("host-", i)
		b.Deposit(req)
		if i%100 == 0 {
			b.Deposit(&http.Request{URL: &busy})
		}
	}
	if grown := int64(heap()) - int64(before); grown > 4<<20 {
		t.Errorf("200 000 hosts take %d KiB, want at most 4 MiB", grown>>10)
	}
	if made != 200_001 {
		t.Errorf("%d budgets were made, want 200001: a host in use is not forgotten", made)
	}
	if n := testing.AllocsPerRun(100, func() { b.Deposit(req) }); n != 0 {
		t.Errorf("a deposit for a known host makes %v allocations, want none", n)
	}
}
