package share

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A board is a [queue.Board] in memory.
type board struct {
	mu       sync.Mutex
	revision uint64
	values   map[string]queue.Entry
	changed  chan struct{} // closed and replaced after each change
	log      []queue.Entry
}

func newBoard() *board {
	return &board{values: make(map[string]queue.Entry), changed: make(chan struct{})}
}

// lose removes everything. The next revision is 1.
func (b *board) lose() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.revision, b.log = 0, nil
	clear(b.values)
}

func (b *board) members() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.values)
}

func (b *board) put(key string, value []byte) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.revision++
	e := queue.Entry{Key: key, Value: value, Revision: b.revision}
	if b.values[key] = e; value == nil {
		delete(b.values, key)
	}
	b.log = append(b.log, e)
	close(b.changed)
	b.changed = make(chan struct{})
	return b.revision
}

// A line connects one worker to a board, with delays and interruptions.
type line struct {
	*board
	mu   sync.Mutex
	cut  time.Time // until then nothing passes
	dead bool      // nothing passes any more
	slow time.Duration
}

var errCut = errors.New("the board is unreachable")

// pass waits as long as a message takes.
func (l *line) pass(ctx context.Context) error {
	l.mu.Lock()
	wait, dead := rand.N(l.slow)+1, l.dead
	if until := time.Until(l.cut); until > wait {
		wait = until
	}
	l.mu.Unlock()
	if dead {
		<-ctx.Done()
		return ctx.Err()
	}
	if !sleep(ctx, wait) {
		return errCut
	}
	return nil
}

func (l *line) Put(ctx context.Context, key string, value []byte) (uint64, error) {
	if err := l.pass(ctx); err != nil {
		return 0, err
	}
	return l.put(key, value), l.pass(ctx)
}

func (l *line) Delete(ctx context.Context, key string) error {
	if err := l.pass(ctx); err != nil {
		return err
	}
	l.put(key, nil)
	return nil
}

func (l *line) Watch(ctx context.Context, prefix string) (<-chan queue.Entry, error) {
	if err := l.pass(ctx); err != nil {
		return nil, err
	}
	l.board.mu.Lock()
	var first []queue.Entry
	for key, e := range l.values {
		if strings.HasPrefix(key, prefix) {
			first = append(first, e)
		}
	}
	slices.SortFunc(first, func(a, b queue.Entry) int { return int(a.Revision) - int(b.Revision) })
	next := len(l.log)
	l.board.mu.Unlock()

	entries := make(chan queue.Entry)
	send := func(e queue.Entry) bool {
		if l.pass(ctx) != nil || !strings.HasPrefix(e.Key, prefix) {
			return ctx.Err() == nil
		}
		select {
		case entries <- e:
			return true
		case <-ctx.Done():
			return false
		}
	}
	go func() {
		defer close(entries)
		for _, e := range first {
			if !send(e) {
				return
			}
		}
		for {
			l.board.mu.Lock()
			if next > len(l.log) { // the board was lost
				next = 0
			}
			news, changed := l.log[next:], l.changed
			next = len(l.log)
			l.board.mu.Unlock()
			for _, e := range news {
				if !send(e) {
					return
				}
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return entries, nil
}

// A gateway notes the attempts that it gets.
type gateway struct {
	way time.Duration // that an attempt takes to arrive, at most

	mu       sync.Mutex
	flying   int
	most     int
	arrivals []time.Time
}

func (g *gateway) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flying++
	g.most = max(g.most, g.flying)
	g.arrivals = append(g.arrivals, time.Now())
}

func (g *gateway) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flying--
}

// peak returns the largest number of attempts in flight since it was called last.
func (g *gateway) peak() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	most := g.most
	g.most = g.flying
	return most
}

// since returns the number of attempts since a time.
func (g *gateway) since(t time.Time) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, _ := slices.BinarySearchFunc(g.arrivals, t, time.Time.Compare)
	return len(g.arrivals) - n
}

// busiest returns the largest number of attempts in any second.
func (g *gateway) busiest() int {
	most, first := 0, 0
	for i, at := range g.arrivals {
		for at.Sub(g.arrivals[first]) >= time.Second {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// A worker makes as many attempts as its Pacer lets pass.
type worker struct {
	pacer *Pacer
	line  *line
	stop  context.CancelFunc
	wg    sync.WaitGroup
}

const gatewayURL = "http://gateway.test/base"

// startWorker starts a worker of so many callers, whose attempts take up to longest.
func startWorker(t *testing.T, b *board, name string, l Limits, g *gateway, callers int, longest time.Duration) *worker {
	t.Helper()
	w := &worker{line: &line{board: b, slow: 20 * time.Millisecond}}
	var err error
	w.pacer, err = Join(w.line, name, []string{gatewayURL}, l, new(httpretry.AdaptivePacer))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w.stop = cancel
	for range callers {
		w.wg.Go(func() {
			for ctx.Err() == nil {
				req, _ := http.NewRequestWithContext(ctx, "POST", gatewayURL+"/v1/x", nil)
				done, err := w.pacer.Wait(ctx, req, 0)
				if err != nil {
					return
				}
				if g.way > 0 {
					sleep(ctx, rand.N(g.way))
				}
				g.begin()
				sleep(ctx, rand.N(longest))
				g.end() // a gateway notices that a connection was closed
				done(httpretry.Attempt{Request: req, Response: &http.Response{StatusCode: 200}, Number: 1})
			}
		})
	}
	return w
}

// leave stops the worker as SIGTERM does.
func (w *worker) leave() {
	w.stop()
	w.wg.Wait()
	w.pacer.Close()
}

// kill stops the worker as kill -9 does: others learn it from the missing records.
func (w *worker) kill() {
	w.line.mu.Lock()
	w.line.dead = true
	w.line.mu.Unlock()
	w.leave()
}

// interrupt cuts the worker off from the board.
func (w *worker) interrupt(d time.Duration) {
	w.line.mu.Lock()
	defer w.line.mu.Unlock()
	w.line.cut = time.Now().Add(d)
}

// A fleet is a number of workers that share a gateway and a board.
type fleet struct {
	t       *testing.T
	board   *board
	gateway *gateway
	limits  Limits
	callers int           // of each worker
	longest time.Duration // of an attempt
	workers []*worker
	started int // so far
}

// resize starts or stops workers, one after the other, until there are n. It kills some
// of those that it stops.
func (f *fleet) resize(n int) {
	f.t.Helper()
	for len(f.workers) < n {
		f.started++
		w := startWorker(f.t, f.board, fmt.Sprint("w", f.started), f.limits, f.gateway, f.callers, f.longest)
		f.workers = append(f.workers, w)
		time.Sleep(rand.N(2 * time.Second))
	}
	for len(f.workers) > n {
		i := rand.IntN(len(f.workers))
		if w := f.workers[i]; rand.IntN(2) == 0 {
			w.leave()
		} else {
			w.kill()
		}
		f.workers = slices.Delete(f.workers, i, i+1)
		time.Sleep(rand.N(2 * time.Second))
	}
}

// wantLimitReached waits until the shares are settled, and checks that the workers use
// almost the whole limit for 10 s.
func (f *fleet) wantLimitReached() {
	f.t.Helper()
	time.Sleep(3 * lapseAfter)
	settled := time.Now()
	time.Sleep(10 * time.Second)
	// A turn is longer than a second, so 10 s may have only 9 of each.
	want := math.Floor(0.9 * 10 * f.limits.PerSecond)
	if f.limits.InFlight > 0 {
		want = 0.9 * 10 * float64(f.limits.InFlight) // an attempt takes a second on average
	}
	if got := f.gateway.since(settled); float64(got) < want {
		f.t.Errorf("%d workers: %d attempts in 10s, want at least %.0f", len(f.workers), got, want)
	}
}

// wantLimitKept checks the attempts since the beginning.
func (f *fleet) wantLimitKept() {
	f.t.Helper()
	g, busiest := f.gateway, f.gateway.busiest()
	f.t.Logf("at most %d in flight, %d in a second, %d attempts", g.most, busiest, len(g.arrivals))
	if f.limits.InFlight > 0 && g.most > f.limits.InFlight {
		f.t.Errorf("%d attempts in flight, want at most %d", g.most, f.limits.InFlight)
	}
	if most := int(math.Ceil(f.limits.PerSecond)); most > 0 && busiest > most {
		f.t.Errorf("%d attempts in a second, want at most %d", busiest, most)
	}
}

// Whatever workers do, the limits of the gateway are kept, and after some seconds
// without a change they are reached.
func TestPacer_KeepsTheLimitsOfAllWorkersTogether(t *testing.T) {
	for seed := range 8 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fleet{t: t, board: newBoard(), gateway: new(gateway), limits: Limits{PerSecond: 300}, callers: 400, longest: 50 * time.Millisecond}
				if seed%2 == 1 {
					f.limits, f.callers, f.longest = Limits{InFlight: 40}, 60, 2*time.Second
				}
				for _, size := range []int{2, 6, 3, 4} {
					f.resize(size)
					f.wantLimitReached()
					for _, w := range f.workers {
						w.interrupt(rand.N(10 * time.Second))
					}
					if seed%4 >= 2 {
						f.board.lose()
					}
					time.Sleep(rand.N(10 * time.Second))
				}
				for _, w := range f.workers {
					w.leave()
				}
				f.wantLimitKept()
			})
		})
	}
}

// No second has more attempts than the limit of a second, however many workers there
// are, and while they join, leave and are killed.
func TestPacer_KeepsTheLimitOfEachSecond(t *testing.T) {
	for _, limit := range []float64{0.4, 1, 2, 2.5, 5, 10, 300} {
		for _, size := range []int{2, 3, 12, 40} {
			if size == 40 && limit != 2 { // each takes seconds to simulate
				continue // it takes seconds
			}
			t.Run(fmt.Sprintf("%v for %d", limit, size), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := &fleet{
						t: t, board: newBoard(), gateway: &gateway{way: 10 * time.Millisecond},
						limits: Limits{PerSecond: limit}, callers: 2 + 600/size, longest: 50 * time.Millisecond,
					}
					if limit < 300 {
						f.callers = 3
					}
					f.resize(size)
					f.wantLimitReached()
					f.resize(size - size/3)
					f.resize(size)
					f.wantLimitReached()
					f.resize(0)
					f.wantLimitKept()
				})
			})
		}
	}
}

// The smallest limits of all workers count for all.
func TestPacer_SmallestLimitsCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, g := newBoard(), new(gateway)
		first := startWorker(t, b, "a", Limits{InFlight: 40}, g, 60, time.Second)
		time.Sleep(time.Minute)
		if n := g.peak(); n != 40 {
			t.Errorf("got %d in flight of the only worker, want 40", n)
		}
		second := startWorker(t, b, "b", Limits{InFlight: 10}, g, 60, time.Second)
		time.Sleep(time.Minute)
		g.peak()
		time.Sleep(time.Minute)
		if n := g.peak(); n != 10 {
			t.Errorf("got %d in flight of two workers, want 10", n)
		}
		second.leave()
		time.Sleep(time.Minute)
		if n := g.peak(); n != 40 {
			t.Errorf("got %d in flight after the second left, want 40", n)
		}
		first.leave()
	})
}

// A worker without limits keeps to those of others. While there are none, its attempts
// don't wait, even if the board is away.
func TestPacer_WithoutLimitsFollowsThoseOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, g := newBoard(), new(gateway)
		wantPeak := func(want int, when string) {
			t.Helper()
			g.peak()
			time.Sleep(time.Minute)
			if n := g.peak(); n != want {
				t.Errorf("got %d in flight %s, want %d", n, when, want)
			}
		}
		first := startWorker(t, b, "a", Limits{}, g, 20, time.Second)
		time.Sleep(period / 2)
		if n := g.peak(); n != 20 {
			t.Errorf("got %d in flight in the first half second, want 20", n)
		}
		first.interrupt(time.Minute)
		wantPeak(20, "without the board")
		time.Sleep(time.Minute)

		second := startWorker(t, b, "b", Limits{InFlight: 4, PerSecond: 100}, g, 20, time.Second)
		time.Sleep(fenceAfter)
		wantPeak(4, "after a worker with a limit has come")
		third := startWorker(t, b, "c", Limits{}, g, 20, time.Second)
		wantPeak(4, "after a second worker without a limit has come")
		second.leave()
		time.Sleep(time.Second)
		wantPeak(4, "after the worker with a limit has left")
		first.leave()
		fourth := startWorker(t, b, "d", Limits{}, g, 20, time.Second)
		time.Sleep(2 * lapseAfter)
		third.kill()
		time.Sleep(2 * lapseAfter)
		wantPeak(4, "of a worker that has never seen the one with a limit")

		fifth := startWorker(t, b, "e", Limits{InFlight: 7, PerSecond: 100}, g, 20, time.Second)
		time.Sleep(2 * lapseAfter)
		wantPeak(7, "after a worker with another limit has come")
		fifth.kill()
		time.Sleep(2 * lapseAfter)
		wantPeak(7, "after that was killed")
		fourth.leave()
		sixth := startWorker(t, b, "f", Limits{}, g, 20, time.Second)
		wantPeak(20, "after all workers have left")
		sixth.leave()
	})
}

// After the board has lost its values, a newcomer does not see a worker that is cut off
// from the board. It starts when the attempts of that worker have ended.
func TestPacer_NewcomerOnLostBoard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, g := newBoard(), new(gateway)
		first := startWorker(t, b, "a", Limits{InFlight: 40}, g, 60, lapseAfter-fenceAfter-period/2)
		time.Sleep(time.Minute)
		first.interrupt(time.Hour)
		b.lose()
		second := startWorker(t, b, "b", Limits{InFlight: 40}, g, 60, time.Second)
		time.Sleep(time.Minute)
		if n := g.peak(); n != 40 {
			t.Errorf("got %d in flight, want 40", n)
		}
		second.leave()
		first.kill()
	})
}

// Shares go to the workers that have requests. A worker without a share gets one when
// another has no more requests.
func TestPacer_SharesGoToWorkersWithRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, g := newBoard(), new(gateway)
		start := func(name string, callers int) *worker {
			return startWorker(t, b, name, Limits{InFlight: 2, PerSecond: 3}, g, callers, time.Second/2)
		}
		wantCapacity := func(w *worker, want int, who string) {
			t.Helper()
			if got := w.pacer.Capacity(); got != want {
				t.Errorf("capacity of %s: got %d, want %d", who, got, want)
			}
		}
		workers := []*worker{start("a", 0), start("b", 0), start("c", 0)}
		time.Sleep(time.Minute)
		wantCapacity(workers[0], 1, "a worker that has no requests")
		first := start("d", 4)
		time.Sleep(2 * lapseAfter)
		wantCapacity(first, 2, "the only worker with requests")
		second := start("e", 4)
		time.Sleep(2 * lapseAfter)
		third := start("f", 4)
		time.Sleep(2 * lapseAfter)
		wantCapacity(first, 1, "the first of three")
		wantCapacity(second, 1, "the second of three")
		wantCapacity(third, 0, "the third of three")
		if n := third.pacer.Waiting(); n != 4 {
			t.Errorf("got %d attempts that wait for a share, want 4", n)
		}
		first.stop() // and stays a member
		time.Sleep(2 * idleAfter)
		wantCapacity(third, 1, "the third after the first is idle")
		if n := g.peak(); n != 2 {
			t.Errorf("got %d in flight, want 2", n)
		}
		for _, w := range append(workers, first, second, third) {
			w.leave()
		}
		if n := g.busiest(); n > 3 {
			t.Errorf("%d attempts in a second, want at most 3", n)
		}
	})
}

// With fewer slots than workers, those that came first use them.
func TestPacer_FewerSlotsThanWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, g := newBoard(), new(gateway)
		var workers []*worker
		for i := range 5 {
			workers = append(workers, startWorker(t, b, fmt.Sprint("w", i), Limits{InFlight: 2}, g, 4, time.Second))
			time.Sleep(20 * time.Second)
		}
		for len(workers) > 0 {
			workers[0].kill()
			workers = workers[1:]
		}
		if n := g.peak(); n != 2 {
			t.Errorf("got %d in flight, want 2", n)
		}
	})
}

// A newcomer waits until the attempts that began under a larger share have ended.
func TestPacer_NewcomerWaitsForLongAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, g := newBoard(), new(gateway)
		first := startWorker(t, b, "a", Limits{InFlight: 8}, g, 8, 10*time.Minute)
		time.Sleep(time.Minute)
		second := startWorker(t, b, "b", Limits{InFlight: 8}, g, 8, 10*time.Minute)
		time.Sleep(2 * time.Hour)
		if n := g.peak(); n != 8 {
			t.Errorf("got %d in flight, want 8", n)
		}
		if n := b.members(); n != 2 {
			t.Errorf("got %d members on the board, want 2", n)
		}
		first.leave()
		second.leave()
		if n := b.members(); n != 0 {
			t.Errorf("got %d members on the board after they left, want none", n)
		}
	})
}

// When the gateway tells one worker to come back later, all of them do.
func TestPacer_PauseIsThatOfAllWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, g := newBoard(), new(gateway)
		first := startWorker(t, b, "a", Limits{PerSecond: 100}, g, 8, time.Second/100)
		second := startWorker(t, b, "b", Limits{PerSecond: 100}, g, 8, time.Second/100)
		time.Sleep(time.Minute)
		req, _ := http.NewRequestWithContext(t.Context(), "POST", gatewayURL+"/v1/x", nil)
		done, err := first.pacer.Wait(t.Context(), req, 0)
		if err != nil {
			t.Fatal(err)
		}
		done(httpretry.Attempt{Request: req, Response: &http.Response{StatusCode: 429}, Number: 1,
			Verdict: httpretry.Verdict{Outcome: httpretry.Unprocessed, RetryAfter: 30 * time.Second}})
		told := time.Now()
		time.Sleep(time.Second)
		quiet := time.Now()
		time.Sleep(told.Add(29 * time.Second).Sub(quiet))
		if n := g.since(quiet); n > 0 {
			t.Errorf("%d attempts while the gateway accepts none", n)
		}
		time.Sleep(10 * time.Second)
		if n := g.since(quiet); n < 500 {
			t.Errorf("%d attempts in the 9s after the pause, want more than 500", n)
		}
		first.leave()
		second.leave()
	})
}

// Each gateway of a worker has its own limits, and an attempt elsewhere has none.
func TestPacer_LimitsAreThoseOfOneGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := Join(&line{board: newBoard(), slow: time.Millisecond}, "w", []string{"http://a.test/x", "http://a.test/x/y/", "https://b.test"},
			Limits{InFlight: 1}, new(httpretry.AdaptivePacer))
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		time.Sleep(lapseAfter)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		wait := func(url string) (func(httpretry.Attempt), error) {
			req, _ := http.NewRequestWithContext(ctx, "GET", url, nil)
			return p.Wait(ctx, req, 0)
		}
		for _, url := range []string{"http://a.test/x/v1", "http://a.test/x/y/v1", "https://b.test/v1", "http://a.test/xy", "http://a.test/xy", "http://b.test/v1"} {
			if _, err := wait(url); err != nil {
				t.Errorf("%s: %v", url, err)
			}
		}
		if _, err := wait("http://a.test/x/v1/models"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a second attempt at the first gateway: got %v, want that it waits", err)
		}
	})
}

// Different spellings of a URL are one gateway, and no secret is on the board.
func TestGroupOf(t *testing.T) {
	same := []string{"http://Gateway.test/base", "http://gateway.test:80/base/", "HTTP://user:pass@gateway.test/base?key=1"}
	other := []string{"https://gateway.test/base", "http://gateway.test/Base", "http://gateway.test:81/base", "http://gateway.test/"}
	group := func(text string) string {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return groupOf(u)
	}
	want := group(same[0])
	for _, text := range same {
		if got := group(text); got != want {
			t.Errorf("%s: got another group than %s", text, same[0])
		}
	}
	for _, text := range other {
		if got := group(text); got == want {
			t.Errorf("%s: got the group of %s", text, same[0])
		}
	}
}

// A worker that is cut off from the board makes no attempts, because the others may
// use its share, until it is seen again.
func TestPacer_FencesItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, g := newBoard(), new(gateway)
		w := startWorker(t, b, "a", Limits{InFlight: 8}, g, 8, time.Second)
		time.Sleep(time.Minute)
		w.interrupt(time.Minute)
		time.Sleep(fenceAfter + period)
		cut := time.Now()
		time.Sleep(50 * time.Second)
		if n := g.since(cut); n > 0 {
			t.Errorf("%d attempts of a worker that nobody sees, want none", n)
		}
		time.Sleep(time.Minute)
		if n := g.since(cut); n == 0 {
			t.Errorf("no attempts after the board was reachable again")
		}
		w.leave()
	})
}

// An attempt that may pass at the moment when its caller goes away leaves its slot.
func TestLimiter_CanceledWhenItPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := &limiter{changed: func() {}}
		gate.allow(allowance{slots: 1, turns: -1, notAfter: time.Now().Add(time.Hour)})
		for range 100 {
			if err := gate.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			failed := make(chan error)
			go func() { failed <- gate.wait(ctx) }()
			synctest.Wait()
			cancel()
			gate.leave()
			if err := <-failed; err == nil {
				gate.leave()
			}
		}
		gate.allow(allowance{turns: -1})
		if !gate.fits() {
			t.Errorf("%d attempts in flight after all have ended, want none", gate.flying)
		}
	})
}

// A process that was suspended makes no attempt when it resumes, although nothing could
// close its limiter in the meantime.
func TestLimiter_ClosesByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := &limiter{changed: func() {}}
		gate.allow(allowance{slots: 1, turns: -1, notAfter: time.Now().Add(fenceAfter)})
		time.Sleep(2 * fenceAfter)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := gate.wait(ctx); err == nil {
			t.Error("an attempt passed after the time until which they were allowed")
		}
	})
}
