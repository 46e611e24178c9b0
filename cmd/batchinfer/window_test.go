package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A queueing is a gateway that refuses nothing. It processes a number of requests at a
// time, and the others wait.
type queueing struct {
	slots   chan struct{}
	service func(*rand.Rand) (time.Duration, int) // time and tokens of a request

	mu   sync.Mutex
	rand *rand.Rand
	most int // in flight
	now  int
}

func newQueueing(slots int, service func(*rand.Rand) (time.Duration, int)) *queueing {
	return &queueing{slots: make(chan struct{}, slots), service: service, rand: rand.New(rand.NewPCG(1, 2))}
}

// process processes a request, and returns its tokens.
func (q *queueing) process() int {
	q.mu.Lock()
	q.now++
	q.most = max(q.most, q.now)
	d, tokens := q.service(q.rand)
	q.mu.Unlock()
	q.slots <- struct{}{}
	time.Sleep(d)
	<-q.slots
	q.mu.Lock()
	q.now--
	q.mu.Unlock()
	return tokens
}

func (q *queueing) RoundTrip(r *http.Request) (*http.Response, error) {
	return virtualGateway(func(*http.Request) (int, string, string) {
		return 200, "", strings.Replace(answered, "{", fmt.Sprintf(`{"usage":{"total_tokens":%d},`, q.process()), 1)
	}).RoundTrip(r)
}

// steady is a service of equal requests, varied that of a model whose answers have
// different lengths.
func steady(r *rand.Rand) (time.Duration, int) {
	return 900*time.Millisecond + time.Duration(r.Int64N(2e8)), 100
}

func varied(r *rand.Rand) (time.Duration, int) {
	tokens := 20 + int(r.ExpFloat64()*180)
	return 200*time.Millisecond + time.Duration(tokens)*4*time.Millisecond, tokens
}

// uncounted is varied without a usage.
func uncounted(r *rand.Rand) (time.Duration, int) {
	d, _ := varied(r)
	return d, 0
}

func meanOf(all []time.Duration) (mean time.Duration) {
	for _, d := range all {
		mean += d / time.Duration(len(all))
	}
	return mean
}

// Behind a gateway that queues, the number of requests in flight settles where more
// would only wait: the run takes about as long as with the best fixed number and, in
// its second half, a request beside it about as long as alone. The limits for a single
// run are wide because a few of the runs settle higher.
func TestWindow_SettlesWhereMoreWouldOnlyWait(t *testing.T) {
	for _, tt := range []struct {
		slots    int
		name     string
		service  func(*rand.Rand) (time.Duration, int)
		requests int
		seeds    int
		beside   float64 // most time of a request beside a single run
	}{
		{4, "steady", steady, 4000, 40, 1.3},
		{5, "steady", steady, 1500, 40, 1.4},
		{8, "steady", steady, 3000, 40, 1.3}, // twice as long if all of the first 16 stay in flight
		{40, "steady", steady, 10_000, 10, 1.35},
		{8, "varied", varied, 4000, 40, 2},
		{16, "varied", varied, 8000, 20, 1.6},
		{24, "varied", varied, 30_000, 6, 1.35},
		{16, "uncounted", uncounted, 4000, 40, 2},
	} {
		t.Run(fmt.Sprintf("%d %s", tt.slots, tt.name), func(t *testing.T) {
			var took, beside, mostTook, mostBeside float64
			for seed := range tt.seeds {
				a, b := newQueueRun(uint64(seed), tt.slots, tt.service).run(newWindow(256), tt.requests)
				took, beside = took+a/float64(tt.seeds), beside+b/float64(tt.seeds)
				mostTook, mostBeside = max(mostTook, a), max(mostBeside, b)
			}
			t.Logf("took %.3f times as long, at most %.3f; beside it %.3f, at most %.3f", took, mostTook, beside, mostBeside)
			if took > 1.05 || mostTook > 1.15 {
				t.Errorf("took %.3f times as long as with the best number in flight, at most %.3f; want 1.05, at most 1.15", took, mostTook)
			}
			if beside > 1.2 || mostBeside > tt.beside {
				t.Errorf("a request beside the run takes %.3f times as long as alone, at most %.3f; want 1.2, at most %v", beside, mostBeside, tt.beside)
			}
		})
	}
}

// A batch keeps to the number of its window. How well that number is chosen depends on
// the order of goroutines here, so that the limits are far from any number that settles:
// with 256 requests in flight, a request beside the run takes 6 to 32 times as long.
func TestRun_KeepsToItsWindow(t *testing.T) {
	for _, tt := range []struct {
		slots    int
		name     string
		service  func(*rand.Rand) (time.Duration, int)
		requests int
		beside   float64 // most time of a request beside the run, relative to that of one alone
	}{
		{8, "steady", steady, 3000, 4},
		{40, "steady", steady, 10_000, 2},
		{24, "varied", varied, 30_000, 2},
	} {
		t.Run(fmt.Sprintf("%d %s", tt.slots, tt.name), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueueing(tt.slots, tt.service)
				var mean time.Duration
				for range 10_000 {
					d, _ := tt.service(q.rand)
					mean += d / 10_000
				}
				var beside []time.Duration // how long each of the requests beside the run takes
				stop, stopped := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(stopped)
					for {
						select {
						case <-stop:
							return
						default:
						}
						start := time.Now()
						q.process()
						beside = append(beside, time.Since(start))
					}
				}()
				start := time.Now()
				b, _, err := runVirtual(t, tt.requests, defaultConfig(), q)
				took := time.Since(start)
				close(stop)
				<-stopped
				besideMean := meanOf(beside[len(beside)/2:]) // once the number has settled
				if err != nil || b.summary.answered != tt.requests {
					t.Fatalf("got %d answered, %v", b.summary.answered, err)
				}
				ideal := time.Duration(float64(tt.requests) * float64(mean) / float64(tt.slots-1)) // the request beside takes one
				t.Logf("took %v, at best %v: %.3f; beside it %.2f; at most %d in flight, at last %d",
					took.Round(time.Second), ideal.Round(time.Second), float64(took)/float64(ideal), float64(besideMean)/float64(mean), q.most, b.crew.traffic().limit)
				if ratio := float64(took) / float64(ideal); ratio > 1.15 {
					t.Errorf("took %.3f times as long as with the best number in flight, want at most 1.15", ratio)
				}
				if ratio := float64(besideMean) / float64(mean); ratio > tt.beside {
					t.Errorf("a request beside the run takes %.2f times as long as alone, want at most %v", ratio, tt.beside)
				}
			})
		})
	}
}

// While requests wait for one of several gateways, the limit is not reduced: those that
// are too many now are needed when another gateway returns. It may be raised.
func TestWindow_IsNotReducedWhileRequestsArePaced(t *testing.T) {
	for _, tt := range []struct {
		evidence    evidence
		least, most int // of the limit that is reached
	}{
		{undisturbed, leastLimit, 12},
		{paced, 50, 100},
	} {
		w := newWindow(256)
		now := time.Now()
		answer := func(n int, perSecond func(limit int) float64) {
			for range n {
				w.admit()
				interval := time.Duration(float64(time.Second) / perSecond(w.size()))
				f := w.begin(now.Add(-time.Duration(w.size()-1) * interval))
				now = now.Add(interval)
				w.leave(f, now, 0, tt.evidence)
			}
		}
		answer(3000, func(limit int) float64 { return min(100, float64(limit)*2) })
		if got := w.size(); got < 50 || got > 100 {
			t.Errorf("%v: the limit is %d at a gateway that makes use of 50, want 50 to 100", tt.evidence, got)
		}
		answer(30_000, func(int) float64 { return 10 }) // 10 a second, whatever the limit
		if got := w.size(); got < tt.least || got > tt.most {
			t.Errorf("%v: the limit is %d after that gateway has gone, want %d to %d", tt.evidence, got, tt.least, tt.most)
		}
	}
}

// A doubling takes the time of about two answers, also with many requests in flight.
func TestWindow_DoublesInTwoAnswerTimes(t *testing.T) {
	for name, service := range map[string]func(*rand.Rand) (time.Duration, int){"steady": steady, "varied": varied} {
		t.Run(name, func(t *testing.T) {
			const seeds = 20
			took := 0.0 // answer times, on average
			for seed := range uint64(seeds) {
				q := newQueueRun(seed, 1000, service)
				var mean time.Duration
				for range 1000 {
					d, _ := service(q.rand)
					mean += d / 1000
				}
				w := newWindow(1000)
				start := q.now
				for w.size() < 512 {
					q.answer(w)
				}
				took += q.now.Sub(start).Seconds() / mean.Seconds() / seeds
			}
			if took > 11 {
				t.Errorf("it took %.1f times as long as an answer until the limit was 512, want at most 11", took)
			}
		})
	}
}

// The doubling ends at the number that the gateway makes use of.
func TestWindow_EndsDoubling(t *testing.T) {
	const slots = 64
	for seed := range uint64(10) {
		q := newQueueRun(seed, slots, steady)
		w := newWindow(256)
		for w.phase == growing {
			q.answer(w)
		}
		if got := w.size(); got < slots || got > slots*9/8 {
			t.Errorf("seed %d: the limit is %d at a gateway that processes %d requests at a time, want %d to %d", seed, got, slots, slots, slots*9/8)
		}
	}
}

// The trial of a limit that is clearly too small ends before the answers show its
// throughput precisely.
func TestWindow_SmallerLimitEndsEarly(t *testing.T) {
	w := newWindow(256)
	w.keep(100, 100_000, 1)
	w.try(below, stepDown)
	now := time.Now()
	w.restart(now)
	r := rand.New(rand.NewPCG(1, 2))
	answers := 0
	for ; w.phase == below; answers++ {
		w.admit()
		const interval = time.Second / 350 // 70,000 tokens a second
		now = now.Add(interval)
		w.leave(w.begin(now.Add(-time.Duration(w.size())*interval)), now, int(r.ExpFloat64()*200), undisturbed)
	}
	if answers > 400 || w.size() != 100 {
		t.Errorf("after %d answers the limit was %d, want 100 after at most 400", answers, w.size())
	}
}

// When a gateway becomes slower, the limit follows, although it is rarely compared with
// others by then.
func TestWindow_FollowsAGatewayThatBecomesSlower(t *testing.T) {
	const slots, later = 64, 16
	for seed := range uint64(5) {
		q := newQueueRun(seed, slots, steady)
		w := newWindow(256)
		for range 300 * slots {
			q.answer(w)
		}
		q.free = q.free[:later]
		start := q.now
		for w.size() > 3*later/2 && q.now.Sub(start) < 1000*time.Second {
			q.answer(w)
		}
		if took := q.now.Sub(start); took > 180*time.Second {
			t.Errorf("the limit was %d after %v, want at most %d after 180s", w.size(), took.Round(time.Second), 3*later/2)
		}
	}
}

// While the limit follows a gateway that has become slower, the gateway becomes as fast
// as before. The limit does not follow any further, and is doubled.
func TestWindow_FollowsAGatewayThatBecomesFasterAgain(t *testing.T) {
	const slots, meanwhile = 64, 6
	for seed := range uint64(10) {
		q := newQueueRun(seed, slots, steady)
		w := newWindow(256)
		for range 100 * slots {
			q.answer(w)
		}
		q.free = q.free[:meanwhile]
		slow := q.now
		for w.size() > slots*2/3 {
			if q.answer(w); q.now.Sub(slow) > 1000*time.Second {
				t.Fatalf("the limit is still %d", w.size())
			}
		}
		for len(q.free) < slots {
			q.free = append(q.free, q.now)
		}
		start := q.now
		for w.size() < slots*3/4 && q.now.Sub(start) < 1000*time.Second {
			q.answer(w)
		}
		if took := q.now.Sub(start); took > 20*time.Second {
			t.Errorf("the limit was %d after %v, want at least %d after 20s", w.size(), took.Round(time.Second), slots*3/4)
		}
	}
}

// The trial of a limit that clearly brings more answers ends before they show the
// throughput precisely, and the limit is doubled again.
func TestWindow_LargerLimitEndsEarly(t *testing.T) {
	w := newWindow(256)
	w.keep(100, 100_000, 1)
	w.try(above, stepUp)
	now := time.Now()
	w.restart(now)
	r := rand.New(rand.NewPCG(1, 2))
	answers := 0
	for ; w.phase == above; answers++ {
		w.admit()
		const interval = time.Second / 800 // 160,000 tokens a second
		now = now.Add(interval)
		w.leave(w.begin(now.Add(-time.Duration(w.size())*interval)), now, int(r.ExpFloat64()*200), undisturbed)
	}
	if answers > 400 || w.phase != growing {
		t.Errorf("after %d answers the window is %s, want growing after at most 400", answers, w.phase)
	}
}

// Requests that hang do not take up a limit that is lowered before they count as hanging.
func TestWindow_RequestsThatHangLeaveRoom(t *testing.T) {
	for _, limit := range []int{16, 3, 2} { // before it is halved
		w := newWindow(256)
		w.keep(limit, 100, 1)
		now := time.Now()
		for range (limit + 1) / 2 { // will hang
			w.admit()
			w.begin(now)
		}
		answer := func() bool {
			if !w.admit() {
				return false
			}
			f := w.begin(now)
			now = now.Add(time.Second)
			w.leave(f, now, 0, undisturbed)
			return true
		}
		for range 2 * limit {
			if !answer() {
				t.Fatalf("no room beside half of a limit of %d", limit)
			}
		}
		w.try(halving, 0.5)
		for i := range 16 * limit {
			if !answer() {
				t.Fatalf("no room after %d more answers, beside half of a limit of %d that was halved", i, limit)
			}
		}
		room := 0
		for w.admit() {
			room++
		}
		if room != w.size() {
			t.Errorf("there is room for %d requests beside those that hang, want %d", room, w.size())
		}
	}
}

// A halved limit that the gateway makes use of tells the limit that it would make use of.
func TestWindow_EndsHalving(t *testing.T) {
	for _, tt := range []struct {
		throughput float64 // at 8, of 100 at 16
		phase      phase
		limit      int
	}{
		{50, above, 20},   // all of 16 were used, and perhaps more would be
		{70, holding, 11}, // 8 are 70 % of what is used
		{1, above, 40},    // an outage: at most twice the limit before, and a step
	} {
		w := newWindow(256)
		w.keep(16, 100, 1)
		w.try(halving, 0.5)
		now := time.Now()
		w.round = windowRound{answers: 100, measured: 100, tokens: tt.throughput, seconds: 8}
		w.judge(now)
		if w.phase != tt.phase || w.limit != tt.limit {
			t.Errorf("with a throughput of %v at 8, of 100 at 16: %s at %d, want %s at %d", tt.throughput, w.phase, w.limit, tt.phase, tt.limit)
		}
	}
}

// The answers of requests that hung tell nothing about the limit.
func TestWindow_AnswersOfRequestsThatHung(t *testing.T) {
	w := newWindow(256)
	w.keep(16, 0, 1000)
	w.restart(time.Time{})
	now := time.Unix(0, 0)
	hang := make([]flight, 16)
	for i := range hang {
		hang[i] = w.begin(now)
		w.flying++
	}
	for range 64 * 16 {
		w.admit()
		f := w.begin(now)
		now = now.Add(time.Second)
		w.leave(f, now, 10, undisturbed)
	}
	before := w.best
	for _, f := range hang {
		w.leave(f, now, 10, undisturbed)
	}
	for range 64 * 16 {
		w.admit()
		f := w.begin(now)
		now = now.Add(time.Second)
		w.leave(f, now, 10, undisturbed)
	}
	if w.phase != holding || w.size() != 16 || w.best != before || before != 160 {
		t.Errorf("%s at %d with a throughput of %v, and %v before those that hung had answers, want holding at 16 with 160", w.phase, w.size(), w.best, before)
	}
}
