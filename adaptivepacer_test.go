package httpretry_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/internal/route"
)

// A pacedServer is a Base that decides about each attempt, and responds after work.
type pacedServer struct {
	accept func(now time.Duration, inFlight int) int // status
	header http.Header                               // of a refusal
	work   time.Duration

	refusing time.Duration // how long a refusal takes

	start time.Time

	mu       sync.Mutex
	inFlight int
	most     int
	sent     []time.Duration // of all attempts
	refused  []time.Duration
	paths    []string
}

func newPacedServer(work time.Duration, accept func(now time.Duration, inFlight int) int) *pacedServer {
	return &pacedServer{accept: accept, work: work, refusing: time.Millisecond, header: http.Header{}, start: time.Now()}
}

func (s *pacedServer) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	now := time.Since(s.start)
	status := s.accept(now, s.inFlight)
	s.sent = append(s.sent, now)
	s.paths = append(s.paths, req.URL.Path)
	if status == 200 {
		s.inFlight++
		s.most = max(s.most, s.inFlight)
	} else {
		s.refused = append(s.refused, now)
	}
	work, header := s.work, s.header.Clone()
	s.mu.Unlock()
	resp := response(req, status, "")
	if status != 200 {
		time.Sleep(s.refusing)
		resp.Header = header
		return resp, nil
	}
	select {
	case <-time.After(work):
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	}
	s.mu.Lock()
	s.inFlight--
	s.mu.Unlock()
	return resp, nil
}

// sentIn returns the number of attempts in a period.
func (s *pacedServer) sentIn(from, to time.Duration) (n int) {
	for _, at := range s.sent {
		if at >= from && at < to {
			n++
		}
	}
	return n
}

// bucket accepts rate requests per second, and as many at once.
func bucket(rate func(now time.Duration) float64) func(time.Duration, int) int {
	return bucketOf(math.Inf(1), rate)
}

// bucketOf accepts rate requests per second, and as many in a burst, but at most size.
func bucketOf(size float64, rate func(now time.Duration) float64) func(time.Duration, int) int {
	var tokens float64
	var last time.Duration
	first := true
	return func(now time.Duration, _ int) int {
		r := rate(now)
		tokens = min(tokens+(now-last).Seconds()*r, r, size)
		if last = now; first {
			first, tokens = false, min(r, size)
		}
		if tokens < 1-1e-9 {
			return 429
		}
		tokens--
		return 200
	}
}

func always(r float64) func(time.Duration) float64 { return func(time.Duration) float64 { return r } }

// work makes n requests with as many goroutines as callers and returns how many
// failed. The path of a request is its number.
func work(t *testing.T, rt http.RoundTripper, callers, n int) (failed int) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	next := 0
	for range callers {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= n {
					return
				}
				resp, err := rt.RoundTrip(newRequest(t, "GET", fmt.Sprintf("http://example.com/%d", i), nil))
				if err != nil || resp.StatusCode != 200 {
					mu.Lock()
					failed++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return failed
}

// After the first refusal, calls are sent at the rate that the server accepts, and
// few are refused.
func TestAdaptivePacer_FindsTheRate(t *testing.T) {
	for _, rate := range []float64{5, 20, 500} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newPacedServer(10*time.Millisecond, bucket(always(rate)))
				n := int(120 * rate)
				failed := work(t, &httpretry.RetryTransport{Base: s, Pacer: &httpretry.AdaptivePacer{}}, 64, n)
				took := time.Since(s.start).Seconds()
				later := len(slices.DeleteFunc(s.refused, func(at time.Duration) bool { return at < 5*time.Second }))
				if failed > 0 || took > 1.05*120 || float64(later) > 0.03*float64(n) {
					t.Errorf("%d calls failed, %d attempts were refused, it took %.1f s: want none, at most 3 %%, and 120 s", failed, later, took)
				}
			})
		})
	}
}

// A bucket of a few tokens is full soon after a refusal, and refuses a rate that is too
// high immediately.
func TestAdaptivePacer_SmallBuckets(t *testing.T) {
	const found, end = 60 * time.Second, 145 * time.Second
	for size, want := range map[float64]float64{1: 0.9, 5: 0.78, 10: 0.78, 20: 0.78} {
		for _, rate := range []float64{10, 50, 200} {
			for _, retryAfter := range []string{"", "1"} {
				for _, refusing := range []time.Duration{time.Millisecond, 100 * time.Millisecond} {
					name := fmt.Sprintf("%v of %v per second, Retry-After %s, after %v", size, rate, retryAfter, refusing)
					if refusing > time.Millisecond && rate > 50 || size == 20 && rate == 200 {
						continue // takes long to find
					}
					t.Run(name, func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							s := newPacedServer(100*time.Millisecond, bucketOf(size, always(rate)))
							s.refusing = refusing
							if retryAfter != "" {
								s.header.Set("Retry-After", retryAfter)
							}
							rt := &httpretry.RetryTransport{Base: s, Policy: httpretry.RetryConfig{MaxRetries: 1000}, Pacer: &httpretry.AdaptivePacer{}}
							failed := work(t, rt, 64, int(150*rate))
							accepted := s.sentIn(found, end)
							for _, at := range s.refused {
								if at >= found && at < end {
									accepted--
								}
							}
							reached := float64(accepted) / (rate * (end - found).Seconds())
							refused := float64(len(s.refused)-64) / float64(len(s.sent))
							t.Logf("%.3f of the rate, %.3f refused", reached, refused)
							if failed > 0 || reached < want || refused > 0.03 {
								t.Errorf("%d failed, %.3f of the rate was reached, and %.3f of the attempts were refused; want none, %v, 0.03", failed, reached, refused, want)
							}
						})
					})
				}
			}
		}
	}
}

// A server that refused everything for some time is used as before when it accepts again.
func TestAdaptivePacer_Outage(t *testing.T) {
	const begin, end, all = 30 * time.Second, 60 * time.Second, 150 * time.Second
	tests := []struct {
		name       string
		status     int
		retryAfter string
		accept     func() func(time.Duration, int) int
		late       time.Duration // at most, after the end and a wait that the server named
	}{
		{"429 of a bucket", 429, "1", func() func(time.Duration, int) int { return bucket(always(50)) }, 8 * time.Second},
		{"429 of a bucket, 10 s", 429, "10", func() func(time.Duration, int) int { return bucket(always(50)) }, 8 * time.Second},
		{"503 without a limit, 10 s", 503, "10", func() func(time.Duration, int) int {
			return func(time.Duration, int) int { return 200 }
		}, 40 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				accept := tt.accept()
				var s *pacedServer
				s = newPacedServer(2*time.Second, func(now time.Duration, inFlight int) int {
					if now >= begin && now < end {
						s.header.Set("Retry-After", tt.retryAfter)
						return tt.status
					}
					s.header.Set("Retry-After", "1")
					return accept(now, inFlight)
				})
				rt := &httpretry.RetryTransport{Base: s, Policy: httpretry.RetryConfig{MaxRetries: 1000}, Pacer: &httpretry.AdaptivePacer{}}
				failed := work(t, rt, 100, 50*int((all-(end-begin)).Seconds()))
				asked, _ := strconv.Atoi(tt.retryAfter)
				most := all + time.Duration(asked)*time.Second + tt.late
				took := time.Since(s.start)
				t.Logf("took %v", took)
				if failed > 0 || took > most {
					t.Errorf("%d calls failed, and all took %v, want none and at most %v", failed, took, most)
				}
			})
		})
	}
}

// Attempts that were sent long before the first refusal show no rate.
func TestAdaptivePacer_FewAttemptsBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		s := newPacedServer(50*time.Millisecond, func(time.Duration, int) int {
			if n++; n == 6 {
				return 429
			}
			return 200
		})
		rt := &httpretry.RetryTransport{Base: s, Pacer: &httpretry.AdaptivePacer{}}
		for range 5 {
			work(t, rt, 1, 1)
			time.Sleep(time.Hour)
		}
		begun := time.Now()
		work(t, rt, 1, 20)
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("20 calls after a refusal took %v, want at most 10s", took)
		}
	})
}

// A limit that halves or doubles is found again.
func TestAdaptivePacer_FollowsTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const sec = time.Second
		s := newPacedServer(10*time.Millisecond, bucket(func(now time.Duration) float64 {
			if now > 40*sec && now < 80*sec {
				return 10
			}
			return 20
		}))
		failed := work(t, &httpretry.RetryTransport{Base: s, Pacer: &httpretry.AdaptivePacer{}}, 64, 2400)
		if got := s.sentIn(50*sec, 80*sec); failed > 0 || got < 270 || got > 330 {
			t.Errorf("%d failed, and %d attempts in 30 s with a limit of 10/s, want about 300", failed, got)
		}
		if got := s.sentIn(92*sec, 112*sec); got < 360 || got > 440 {
			t.Errorf("%d attempts in 20 s with a limit of 20/s, want about 400", got)
		}
	})
}

// Nothing is sent before the time that the server named. Then the calls are sent
// one after the other, in the order of their arrival.
func TestAdaptivePacer_ClosesForAllCalls(t *testing.T) {
	for name, header := range map[string]http.Header{
		"Retry-After":       {"Retry-After": {"30"}},
		"X-RateLimit-Reset": {"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"30"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				accepted := 0
				s := newPacedServer(time.Millisecond, func(now time.Duration, _ int) int {
					if accepted++; accepted == 11 {
						return 429
					}
					return 200
				})
				s.header = header
				rt := &httpretry.RetryTransport{Base: s, Pacer: &httpretry.AdaptivePacer{}, Policy: httpretry.RetryConfig{Jitter: httpretry.NoJitter}}
				work(t, rt, 1, 10)
				var wg sync.WaitGroup
				for i := range 40 { // the first is refused
					wg.Go(func() {
						rt.RoundTrip(newRequest(t, "GET", fmt.Sprintf("http://example.com/%d", i), nil))
					})
					time.Sleep(100 * time.Millisecond)
				}
				wg.Wait()
				sent, paths := s.sent[11:], s.paths[11:]
				if opened := s.refused[0] + 30*time.Second; sent[0] < opened {
					t.Errorf("an attempt was sent %v before the named time", opened-sent[0])
				}
				for i := 2; i < len(sent); i++ {
					if sent[i] <= sent[i-1] {
						t.Errorf("attempts %d and %d were sent at the same time, want them spread", i-1, i)
					}
					if a, _ := strconv.Atoi(paths[i-1][1:]); paths[i] != fmt.Sprintf("/%d", a+1) && paths[i-1] != "/0" && paths[i] != "/0" && paths[i] != "/39" && a != 38 {
						t.Errorf("got order %v, want that of arrival", paths)
						break
					}
				}
			})
		})
	}
}

// An otherPacer passes each attempt on to the Pacer in it.
type otherPacer struct{ httpretry.Pacer }

// A call that is always refused does not keep the others from being sent, whether or
// not another Pacer is in between.
func TestAdaptivePacer_ProbesWithOtherCalls(t *testing.T) {
	for _, tt := range []struct {
		name string
		wrap func(httpretry.Pacer) httpretry.Pacer
	}{
		{"alone", func(p httpretry.Pacer) httpretry.Pacer { return p }},
		{"behind another", func(p httpretry.Pacer) httpretry.Pacer { return otherPacer{p} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := roundTripFunc(func(req *http.Request) (*http.Response, error) {
					time.Sleep(10 * time.Millisecond)
					if req.URL.Path == "/refused" {
						return response(req, http.StatusTooManyRequests, ""), nil
					}
					return response(req, http.StatusOK, ""), nil
				})
				untilDone := policyFunc(func(httpretry.Attempt) (time.Duration, bool) { return 0, true })
				rt := &httpretry.RetryTransport{Base: base, Pacer: tt.wrap(new(httpretry.AdaptivePacer)), Policy: untilDone}
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				get := func(path string) error {
					req, err := http.NewRequestWithContext(ctx, "GET", "http://host.test"+path, nil)
					if err != nil {
						return err
					}
					resp, err := rt.RoundTrip(req)
					if err == nil {
						resp.Body.Close()
					}
					return err
				}
				var refused, others sync.WaitGroup
				refused.Go(func() { get("/refused") })
				time.Sleep(20 * time.Millisecond) // it is refused once or twice
				start := time.Now()
				for range 10 {
					others.Go(func() {
						if err := get("/"); err != nil {
							t.Error(err)
						}
					})
				}
				others.Wait()
				if took := time.Since(start); took > time.Minute {
					t.Errorf("10 other calls took %v, want less than a minute", took)
				}
				cancel()
				refused.Wait()
			})
		})
	}
}

// The number in flight is found, too. It is what limits the calls: if they become
// faster, more are made. If the server accepts more, that is found.
func TestAdaptivePacer_FindsTheNumberInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const sec = time.Second
		var s *pacedServer
		s = newPacedServer(sec, func(now time.Duration, inFlight int) int {
			limit := 20
			if now > 60*sec {
				s.work = sec / 2
			}
			if now > 90*sec {
				limit = 40
			}
			if inFlight >= limit {
				return 503
			}
			return 200
		})
		failed := work(t, &httpretry.RetryTransport{Base: s, Pacer: &httpretry.AdaptivePacer{}}, 64, 1200+1200+3000)
		if later := len(s.refused) - 44; failed > 0 || later > 100 {
			t.Errorf("%d calls failed, %d attempts were refused later: want none and at most 100", failed, later)
		}
		for _, tt := range []struct {
			from, to  time.Duration
			perSecond int
		}{{10 * sec, 60 * sec, 20}, {62 * sec, 66 * sec, 40}, {110 * sec, 120 * sec, 80}} {
			want := tt.perSecond * int((tt.to-tt.from)/sec)
			if got := s.sentIn(tt.from, tt.to); got < want*93/100 || got > want*105/100 {
				t.Errorf("%d attempts from %v to %v, want about %d", got, tt.from, tt.to, want)
			}
		}
	})
}

func TestAdaptivePacer_TimeoutsLowerTheNumberInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := 0
		s := newPacedServer(0, func(time.Duration, int) int { return 200 })
		most := 0
		base := roundTripFunc(func(req *http.Request) (*http.Response, error) {
			s.mu.Lock()
			busy++
			if time.Since(s.start) > 20*time.Second {
				most = max(most, busy)
			}
			d := 100 * time.Millisecond
			if busy > 20 { // the queue is too long
				d = time.Minute
			}
			s.mu.Unlock()
			defer func() { s.mu.Lock(); busy--; s.mu.Unlock() }()
			select {
			case <-time.After(d):
				return response(req, 200, ""), nil
			case <-req.Context().Done():
				return nil, context.Cause(req.Context())
			}
		})
		rt := &httpretry.RetryTransport{Base: base, AttemptTimeout: time.Second, Pacer: &httpretry.AdaptivePacer{}, Policy: httpretry.RetryConfig{MaxRetries: 20}}
		if failed := work(t, rt, 64, 5000); failed > 0 || most > 40 {
			t.Errorf("%d calls failed, and up to %d were in flight, want none and about 20", failed, most)
		}
	})
}

// The rest of a window's quota is spread over the rest of the window, so that nothing
// is refused.
func TestAdaptivePacer_SpreadsTheQuotaOfAWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, window = 100, 10 * time.Second
		used, current, taken := 0, time.Duration(0), false
		var refused []time.Duration
		var mu sync.Mutex
		start := time.Now()
		base := roundTripFunc(func(req *http.Request) (*http.Response, error) {
			mu.Lock()
			now := time.Since(start)
			if now/window > current {
				current, used = now/window, 0
			}
			if current == 6 && now > 6*window+5*time.Second && !taken {
				taken, used = true, size-1 // by others
			}
			status := 200
			if used >= size {
				status = 429
				refused = append(refused, now)
			} else {
				used++
			}
			resp := response(req, status, "")
			resp.Header.Set("X-RateLimit-Remaining", strconv.Itoa(size-used))
			resp.Header.Set("X-RateLimit-Reset", strconv.Itoa(int(math.Ceil(((current+1)*window - now).Seconds()))))
			mu.Unlock()
			time.Sleep(10 * time.Millisecond)
			return resp, nil
		})
		failed := work(t, &httpretry.RetryTransport{Base: base, Pacer: &httpretry.AdaptivePacer{}}, 32, 12*size)
		later := slices.DeleteFunc(refused, func(at time.Duration) bool { return at < window })
		if took := time.Since(start); failed > 0 || len(later) > 0 || took > 132*time.Second {
			t.Errorf("%d calls failed, attempts were refused at %v, it took %v: want none after the first window, and 125 s", failed, later, took)
		}
	})
}

func TestAdaptivePacer_Bounds(t *testing.T) {
	run := func(t *testing.T, p *httpretry.AdaptivePacer, status func(time.Duration, int) int, n int) *pacedServer {
		s := newPacedServer(100*time.Millisecond, status)
		work(t, &httpretry.RetryTransport{Base: s, Pacer: p}, 50, n)
		return s
	}
	ok := func(time.Duration, int) int { return 200 }
	synctest.Test(t, func(t *testing.T) {
		s := run(t, &httpretry.AdaptivePacer{MaxPerSecond: 10}, ok, 300)
		if got := s.sentIn(0, 10*time.Second); got < 95 || got > 102 {
			t.Errorf("MaxPerSecond 10: %d attempts in 10 s", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		if s := run(t, &httpretry.AdaptivePacer{MaxInFlight: 7, MinPerSecond: math.NaN(), MaxPerSecond: math.NaN()}, ok, 300); s.most != 7 {
			t.Errorf("MaxInFlight 7: got %d", s.most)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := run(t, &httpretry.AdaptivePacer{MinPerSecond: 10}, bucket(always(2)), 100)
		if got := s.sentIn(2*time.Second, 4*time.Second); got < 18 {
			t.Errorf("MinPerSecond 10: %d attempts in 2 s", got)
		}
	})
}

// Each host has limits of its own, unless Key says otherwise.
func TestAdaptivePacer_Key(t *testing.T) {
	for name, key := range map[string]func(*http.Request) string{"": nil, "one key": func(*http.Request) string { return "" }} {
		synctest.Test(t, func(t *testing.T) {
			rt := &httpretry.RetryTransport{
				Pacer: &httpretry.AdaptivePacer{Key: key}, Policy: httpretry.Never,
				Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
					resp := response(req, 200, "")
					if strings.HasPrefix(strings.ToLower(req.URL.Host), "busy") {
						resp.StatusCode = 429
						resp.Header.Set("Retry-After", "60")
					}
					return resp, nil
				}),
			}
			rt.RoundTrip(newRequest(t, "GET", "http://BUSY.example:80/", nil))
			start := time.Now()
			rt.RoundTrip(newRequest(t, "GET", "http://busy.example/", nil))
			rt.RoundTrip(newRequest(t, "GET", "http://other.example/", nil))
			want := time.Minute
			if key != nil {
				want = 2 * time.Minute // the first of them is refused, too
			}
			if got := time.Since(start); got != want {
				t.Errorf("%q: the calls took %v, want %v", name, got, want)
			}
		})
	}
}

// A call that would be sent after its deadline fails immediately. A canceled one
// leaves its turn to the next.
func TestAdaptivePacer_DeadlineAndCancellation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refuse := true
		rt := &httpretry.RetryTransport{
			Pacer: &httpretry.AdaptivePacer{}, Policy: httpretry.Never,
			Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				resp := response(req, 200, "")
				if refuse {
					refuse = false
					resp.StatusCode = 429
					resp.Header.Set("Retry-After", "60")
				}
				return resp, nil
			}),
		}
		req := newRequest(t, "GET", "http://example.com/", nil)
		rt.RoundTrip(req)
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		_, err := rt.RoundTrip(req.WithContext(ctx))
		if e, ok := errors.AsType[*httpretry.Error](err); !ok || e.Reason != "deadline" || !e.Timeout() || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 0 {
			t.Errorf("got %v after %v, want an immediate error with reason deadline", err, time.Since(start))
		}
		canceled, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := rt.RoundTrip(req.WithContext(canceled)); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want it canceled", err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if _, err := rt.RoundTrip(req); err != nil || time.Since(start) != time.Minute {
				t.Errorf("got %v after %v, want a response after a minute", err, time.Since(start))
			}
		})
		time.Sleep(time.Second)
		cancel()
		wg.Wait()
	})
}

// Wait fails if the context is done, also if no wait is necessary.
func TestAdaptivePacer_WaitWithDoneContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	req := newRequest(t, "GET", "http://example.com/", nil)
	for _, p := range []*httpretry.AdaptivePacer{{}, {MaxInFlight: 1}} {
		for _, backoff := range []time.Duration{0, time.Hour} {
			if done, err := p.Wait(ctx, req, backoff); done != nil || err != context.Canceled {
				t.Errorf("MaxInFlight %d, backoff %v: got error %v, want %v", p.MaxInFlight, backoff, err, context.Canceled)
			}
		}
	}
}

// A canceled call neither takes its turn nor blocks those behind it.
func TestAdaptivePacer_CanceledCallLeavesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newPacedServer(10*time.Second, func(time.Duration, int) int { return 200 })
		rt := &httpretry.RetryTransport{Base: s, Pacer: &httpretry.AdaptivePacer{MaxInFlight: 1}}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		req := newRequest(t, "GET", "http://example.com/", nil)
		var wg sync.WaitGroup
		for _, ctx := range []context.Context{t.Context(), ctx, t.Context()} {
			wg.Go(func() { rt.RoundTrip(req.WithContext(ctx)) })
			synctest.Wait()
		}
		wg.Wait()
		if want := []time.Duration{0, 10 * time.Second}; !slices.Equal(s.sent, want) {
			t.Errorf("attempts were sent at %v, want %v", s.sent, want)
		}
	})
}

// Until a server refuses an attempt, an AdaptivePacer allocates nothing, and it keeps
// nothing about the hosts that refuse none.
func TestAdaptivePacer_CostsNothingBeforeTheFirstRefusal(t *testing.T) {
	req := newRequest(t, "GET", "http://example.com/", nil)
	resp := response(req, 200, "")
	rt := &httpretry.RetryTransport{
		Pacer: &httpretry.AdaptivePacer{},
		Base:  countedFunc(func(*http.Request) (*http.Response, error) { return resp, nil }),
	}
	if got := testing.AllocsPerRun(100, func() { rt.RoundTrip(req) }); got != 0 {
		t.Errorf("got %v allocations, want none", got)
	}
}

// The limits of keys that were not used for long are dropped.
func TestAdaptivePacer_MemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := 0
		rt := &httpretry.RetryTransport{
			Pacer: &httpretry.AdaptivePacer{Key: func(*http.Request) string { return strconv.Itoa(i) }}, Policy: httpretry.Never,
			Base: statuses(429),
		}
		req := newRequest(t, "GET", "http://example.com/", nil)
		for i = range 20_000 {
			rt.RoundTrip(req)
		}
		for _, tt := range []struct {
			key  int
			kept bool
		}{{1, false}, {19_999, true}} {
			i = tt.key
			start := time.Now()
			rt.RoundTrip(req)
			if took := time.Since(start); took > 0 != tt.kept {
				t.Errorf("key %d of 20000 has a limit that lets a call wait for %v, want it kept: %t", i, took, tt.kept)
			}
		}
	})
}

// window accepts n requests in each period.
func window(n int, period time.Duration) func(time.Duration, int) int {
	begun, left := time.Duration(0), n
	return func(now time.Duration, _ int) int {
		if now-begun >= period {
			begun, left = now.Truncate(period), n
		}
		if left == 0 {
			return 429
		}
		left--
		return 200
	}
}

// after refuses everything until then.
func after(then time.Duration, accept func(time.Duration, int) int) func(time.Duration, int) int {
	return func(now time.Duration, inFlight int) int {
		if now < then {
			return 429
		}
		return accept(now, inFlight)
	}
}

// A server that has accepted nothing before its first refusal gives no rate to begin
// with. It is found within seconds.
func TestAdaptivePacer_BeginsWithRefusals(t *testing.T) {
	unlimited := func(time.Duration, int) int { return 200 }
	spent := func(accept func(time.Duration, int) int) func(time.Duration, int) int {
		for range 1000 {
			accept(0, 0)
		}
		return accept
	}
	tests := []struct {
		name     string
		accept   func() func(time.Duration, int) int
		requests int
		want     time.Duration
	}{
		{"5 s", func() func(time.Duration, int) int { return after(5*time.Second, unlimited) }, 1000, 15 * time.Second},
		{"20 s", func() func(time.Duration, int) int { return after(20*time.Second, unlimited) }, 1000, 32 * time.Second},
		{"2 min", func() func(time.Duration, int) int { return after(2*time.Minute, unlimited) }, 1000, 132 * time.Second},
		{"then a bucket", func() func(time.Duration, int) int { return after(20*time.Second, bucket(always(50))) }, 3000, 95 * time.Second},
		{"an empty bucket", func() func(time.Duration, int) int { return spent(bucket(always(50))) }, 3000, 64 * time.Second},
		{"a spent window", func() func(time.Duration, int) int { return after(40*time.Second, window(600, time.Minute)) }, 3000, 390 * time.Second},
	}
	for _, tt := range tests {
		for _, retryAfter := range []string{"", "1"} {
			t.Run(tt.name+" "+retryAfter, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newPacedServer(50*time.Millisecond, tt.accept())
					if retryAfter != "" {
						s.header.Set("Retry-After", retryAfter)
					}
					rt := &httpretry.RetryTransport{Base: s, Policy: httpretry.RetryConfig{MaxRetries: 1000}, Pacer: &httpretry.AdaptivePacer{}}
					failed := work(t, rt, 64, tt.requests)
					took := time.Since(s.start)
					t.Logf("%d requests took %v, %d refused", tt.requests, took, len(s.refused))
					if failed > 0 || took > tt.want {
						t.Errorf("%d requests took %v and %d failed, want at most %v and 0", tt.requests, took, failed, tt.want)
					}
				})
			})
		}
	}
}

// A probe without a response for some time counts as accepted. If it is refused after
// all, what was found before remains valid.
func TestAdaptivePacer_LateRefusalOfAProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newPacedServer(50*time.Millisecond, window(300, time.Minute))
		base := roundTripFunc(func(req *http.Request) (*http.Response, error) {
			resp, err := s.RoundTrip(req)
			if now := time.Since(s.start); resp.StatusCode == 429 && now > 20*time.Second && now < 40*time.Second {
				time.Sleep(3 * time.Second)
			}
			return resp, err
		})
		rt := &httpretry.RetryTransport{Base: base, Policy: httpretry.RetryConfig{MaxRetries: 1000}, Pacer: &httpretry.AdaptivePacer{}}
		work(t, rt, 64, 2400) // 8 windows
		if took, most := time.Since(s.start), 8*time.Minute+30*time.Second; took > most {
			t.Errorf("2400 calls took %v, want at most %v", took, most)
		}
	})
}

// One call after the other is enough to find that a limit was raised.
func TestAdaptivePacer_SingleCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newPacedServer(10*time.Millisecond, bucket(func(now time.Duration) float64 {
			if now < 30*time.Second {
				return 2
			}
			return 1000
		}))
		work(t, &httpretry.RetryTransport{Base: s, Pacer: &httpretry.AdaptivePacer{}}, 1, 6000)
		if took := time.Since(s.start); took > 3*time.Minute {
			t.Errorf("6000 calls took %v, want at most 3m", took)
		}
	})
}

// A call that waits for its backoff when the server refuses another one waits for the
// server, too.
func TestAdaptivePacer_RefusalDuringABackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newPacedServer(0, func(now time.Duration, _ int) int {
			switch {
			case now == 0:
				return 500
			case now < time.Second:
				return 429
			}
			return 200
		})
		s.header.Set("Retry-After", "30")
		base := roundTripFunc(func(req *http.Request) (*http.Response, error) {
			resp, err := s.RoundTrip(req)
			if resp.StatusCode == 500 {
				resp.Header = http.Header{}
			}
			return resp, err
		})
		rt := &httpretry.RetryTransport{Base: base, Pacer: &httpretry.AdaptivePacer{}}
		var wg sync.WaitGroup
		wg.Go(func() { rt.RoundTrip(newRequest(t, "GET", "http://example.com/a", nil)) })
		time.Sleep(100 * time.Millisecond)
		wg.Go(func() { rt.RoundTrip(newRequest(t, "GET", "http://example.com/b", nil)) })
		wg.Wait()
		if got := s.sentIn(101*time.Millisecond, 30*time.Second); got > 0 {
			t.Errorf("%d attempts while the server was closed, want none", got)
		}
	})
}

// A server may ask all callers to wait with any status that may be retried.
func TestAdaptivePacer_RetryAfterClosesForAllCalls(t *testing.T) {
	uncertain := func(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
		v := httpretry.DefaultClassifier(req, resp, err)
		if v.Outcome == httpretry.Unprocessed {
			v.Outcome = httpretry.Uncertain
		}
		return v
	}
	for status, classifier := range map[int]func(*http.Request, *http.Response, error) httpretry.Verdict{429: nil, 500: nil, 502: nil, 503: uncertain, 504: nil} {
		synctest.Test(t, func(t *testing.T) {
			s := newPacedServer(0, func(now time.Duration, _ int) int {
				if now == 0 {
					return status
				}
				return 200
			})
			s.header.Set("Retry-After", "30")
			rt := &httpretry.RetryTransport{Base: s, Classifier: classifier, Policy: httpretry.Never, Pacer: &httpretry.AdaptivePacer{}}
			for range 2 {
				rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
			}
			if want := []time.Duration{0, 30*time.Second + time.Millisecond}; !slices.Equal(s.sent, want) {
				t.Errorf("status %d: attempts were sent at %v, want %v", status, s.sent, want)
			}
		})
	}
}

// A Classifier may name a wait for a reason that does not concern other calls.
func TestAdaptivePacer_WaitOfAClassifier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newPacedServer(0, func(now time.Duration, _ int) int {
			if now == 0 {
				return 401
			}
			return 200
		})
		rt := &httpretry.RetryTransport{Base: s, Policy: httpretry.Never, Pacer: &httpretry.AdaptivePacer{},
			Classifier: func(_ *http.Request, resp *http.Response, _ error) httpretry.Verdict {
				if resp.StatusCode == 401 {
					return httpretry.Verdict{Outcome: httpretry.Uncertain, RetryAfter: time.Minute}
				}
				return httpretry.Verdict{}
			}}
		for range 2 {
			rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
		}
		if got := s.sentIn(0, time.Second); got != 2 {
			t.Errorf("%d attempts in a second, want 2", got)
		}
	})
}

// One refusal, or one timeout, is no reason to send little for long.
func TestAdaptivePacer_SingleFailures(t *testing.T) {
	for _, status := range []int{503, 0} {
		synctest.Test(t, func(t *testing.T) {
			n := 0
			s := newPacedServer(time.Second, func(time.Duration, int) int {
				if n++; n == 3 && status != 0 {
					return status
				}
				return 200
			})
			s.header.Set("Retry-After", "60")
			hangs := false
			base := roundTripFunc(func(req *http.Request) (*http.Response, error) {
				if hangs {
					hangs = false
					<-req.Context().Done()
					return nil, context.Cause(req.Context())
				}
				return s.RoundTrip(req)
			})
			rt := &httpretry.RetryTransport{Base: base, AttemptTimeout: 5 * time.Second, Pacer: &httpretry.AdaptivePacer{}}
			for range 2 {
				n, hangs = 0, status == 0
				if hangs {
					work(t, rt, 1, 1)
				} else {
					work(t, rt, 3, 6)
				}
				begun := time.Now()
				work(t, rt, 64, 64*60) // a minute's work
				if took := time.Since(begun); took > 80*time.Second {
					t.Errorf("status %d: the calls after it took %v, want about a minute", status, took)
				}
				time.Sleep(3 * time.Hour)
			}
		})
	}
}

// A retry is not late because of the calls behind it, and a call ends when the server
// has asked it to wait too long.
func TestAdaptivePacer_Deadlines(t *testing.T) {
	t.Run("behind", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newPacedServer(0, func(now time.Duration, _ int) int {
				if now == 0 {
					return 500
				}
				return 200
			})
			rt := &httpretry.RetryTransport{Base: s, Pacer: &httpretry.AdaptivePacer{MaxPerSecond: 1}}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			var wg sync.WaitGroup
			wg.Go(func() {
				resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil).WithContext(ctx))
				if err != nil || resp.StatusCode != 200 {
					t.Errorf("got %v and error %v, want 200", resp, err)
				}
			})
			synctest.Wait()
			work(t, rt, 60, 60)
			wg.Wait()
		})
	})
	t.Run("backoff", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			req := newRequest(t, "GET", "http://example.com/", nil)
			_, err := new(httpretry.AdaptivePacer).Wait(ctx, req, time.Minute)
			if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
				t.Errorf("got error %v, want a timeout immediately", err)
			}
		})
	})
	t.Run("closed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newPacedServer(0, func(time.Duration, int) int { return 429 })
			s.header.Set("Retry-After", "3600")
			base := roundTripFunc(func(req *http.Request) (*http.Response, error) {
				time.Sleep(500 * time.Millisecond)
				return s.RoundTrip(req)
			})
			rt := &httpretry.RetryTransport{Base: base, Policy: httpretry.Never, Pacer: &httpretry.AdaptivePacer{MaxPerSecond: 1}}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			var wg sync.WaitGroup
			wg.Go(func() { rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil)) })
			synctest.Wait()
			for range 3 {
				wg.Go(func() {
					_, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil).WithContext(ctx))
					if e, ok := errors.AsType[*httpretry.Error](err); !ok || e.Reason != "deadline" || time.Since(s.start) > time.Second {
						t.Errorf("got error %v after %v, want the reason deadline within 1s", err, time.Since(s.start))
					}
				})
			}
			wg.Wait()
		})
	})
}

// The bounds are in force whatever the server refuses or says.
func TestAdaptivePacer_BoundsAfterRefusals(t *testing.T) {
	t.Run("MaxPerSecond", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := 0
			s := newPacedServer(5*time.Millisecond, func(time.Duration, int) int {
				if n++; n == 201 || n == 202 {
					return 429
				}
				return 200
			})
			s.header.Set("Retry-After", "1")
			work(t, &httpretry.RetryTransport{Base: s, Pacer: &httpretry.AdaptivePacer{MaxPerSecond: 10}}, 50, 300)
			for from := time.Duration(0); from < 30*time.Second; from += 500 * time.Millisecond {
				if got := s.sentIn(from, from+4*time.Second); got > 42 {
					t.Fatalf("%d attempts in the 4 s from %v, want about 40", got, from)
				}
			}
		})
	})
	t.Run("MinPerSecond, attempts in flight", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newPacedServer(time.Second, func(now time.Duration, inFlight int) int {
				if inFlight >= 2 && now < 3*time.Second {
					return 503
				}
				return 200
			})
			work(t, &httpretry.RetryTransport{Base: s, Pacer: &httpretry.AdaptivePacer{MinPerSecond: 20}}, 50, 600)
			if got := s.sentIn(5*time.Second, 10*time.Second); got < 99 {
				t.Errorf("%d attempts in 5 s, want 100", got)
			}
		})
	})
	t.Run("MinPerSecond, quota", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			left, start := 1000, time.Now()
			base := roundTripFunc(func(req *http.Request) (*http.Response, error) {
				left--
				resp := response(req, 200, "")
				resp.Header.Set("X-Ratelimit-Remaining", strconv.Itoa(left))
				resp.Header.Set("X-Ratelimit-Reset", strconv.Itoa(int((time.Hour - time.Since(start)).Seconds())))
				return resp, nil
			})
			work(t, &httpretry.RetryTransport{Base: base, Pacer: &httpretry.AdaptivePacer{MinPerSecond: 5, MaxPerSecond: 10}}, 8, 100)
			if took := time.Since(start); took > 21*time.Second {
				t.Errorf("100 calls took %v, want at most 20s", took)
			}
		})
	})
}

// turnOf waits for a turn of p, and returns the function that ends it.
func turnOf(t *testing.T, p httpretry.Pacer, req *http.Request) func(httpretry.Attempt) {
	done, err := p.Wait(t.Context(), req, 0)
	if err != nil {
		t.Error(err)
	}
	return done
}

// A turn that is not used neither opens a limit nor counts as accepted.
func TestAdaptivePacer_TurnThatIsNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p httpretry.AdaptivePacer
		req := newRequest(t, "GET", "http://example.com/", nil)
		wait := func() func(httpretry.Attempt) { return turnOf(t, &p, req) }
		refused := httpretry.Attempt{Response: response(req, 429, ""), Verdict: httpretry.Verdict{Outcome: httpretry.Unprocessed}}
		wait()(refused)
		wait()(httpretry.Attempt{Request: req, Err: route.ErrNotSent}) // the probe
		probe := wait()
		second := make(chan struct{})
		go func() {
			defer close(second)
			wait()(httpretry.Attempt{})
		}()
		time.Sleep(500 * time.Millisecond)
		select {
		case <-second:
			t.Error("a second attempt was permitted beside the probe")
		default:
		}
		probe(httpretry.Attempt{Response: response(req, 200, "")})
		<-second
	})
}

// Turns that were taken before an opening and are not used after it do not count for the
// rate.
func TestAdaptivePacer_TurnsThatAreNotUsedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p httpretry.AdaptivePacer
		req := newRequest(t, "GET", "http://example.com/", nil)
		wait := func() func(httpretry.Attempt) { return turnOf(t, &p, req) }
		refused := httpretry.Attempt{Response: response(req, 429, ""), Verdict: httpretry.Verdict{Outcome: httpretry.Unprocessed}}
		accepted := httpretry.Attempt{Response: response(req, 200, "")}
		wait()(refused)
		wait()(accepted)
		var held []func(httpretry.Attempt)
		for range 8 {
			held = append(held, wait())
		}
		wait()(refused)
		wait()(accepted)
		for _, done := range held {
			done(httpretry.Attempt{Request: req, Err: route.ErrNotSent})
		}
		for range 3 {
			wait()(refused)
			wait()(accepted)
			if d := p.Delay(req); d < 0 || d > time.Minute {
				t.Errorf("the next attempt is delayed by %v, want less than a minute", d)
			}
		}
	})
}

// Attempts of other keys that were in flight before the first refusal do not keep a
// waiter from its turn after they have ended, nor does a turn that was not used.
func TestAdaptivePacer_EndsOfOtherKeys(t *testing.T) {
	for name, end := range map[string]httpretry.Attempt{"accepted": {}, "not used": {Err: route.ErrNotSent}} {
		synctest.Test(t, func(t *testing.T) {
			var p httpretry.AdaptivePacer
			wait := func(host string) func(httpretry.Attempt) {
				done, err := p.Wait(t.Context(), newRequest(t, "GET", "http://"+host+"/", nil), 0)
				if err != nil {
					t.Error(err)
				}
				return done
			}
			var others []func(httpretry.Attempt)
			for range 3 {
				others = append(others, wait("b"))
			}
			first := wait("a")
			first(httpretry.Attempt{
				Response: response(newRequest(t, "GET", "http://a/", nil), 503, ""), Verdict: httpretry.Verdict{Outcome: httpretry.Unprocessed},
			})
			passed := make(chan struct{})
			go func() {
				defer close(passed)
				wait("a")(httpretry.Attempt{})
			}()
			time.Sleep(time.Second)
			for _, done := range others {
				done(end)
			}
			begun := time.Now()
			<-passed
			if took := time.Since(begun); took > 10*time.Second {
				t.Errorf("%s: the waiter had its turn after %v, want soon after the others have ended", name, took)
			}
		})
	}
}
