package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
	"github.com/httpretry/httpretry/cmd/batchinfer/internal/share"
	"github.com/httpretry/httpretry/inference"
)

// A jobOf is a job in a memQueue, and the results that its head has.
type jobOf struct {
	head    queue.Head
	total   int
	results map[string][]wireResult // by custom_id
	lines   map[string]answer
	foreign int
}

// newJob hands out n requests.
func newJob(t *testing.T, q *memQueue, name string, n int) *jobOf {
	t.Helper()
	h, err := q.Open(t.Context(), queue.Job{Name: name, DeadAfter: 30 * time.Second, MaxDeaths: 3})
	if err != nil {
		t.Fatal(err)
	}
	j := &jobOf{head: h, results: make(map[string][]wireResult), lines: make(map[string]answer)}
	for i := range n {
		j.handOut(t, chatLine(fmt.Sprintf("%s-%d", name, i)), fmt.Sprintf("%s-%d", name, i))
	}
	return j
}

func (j *jobOf) handOut(t *testing.T, line, customID string) {
	t.Helper()
	j.total++
	id := queueID(digestOf(customID), checksumOf([]byte(line)))
	if err := j.head.HandOut(t.Context(), queue.Request{ID: id, Line: []byte(line)}); err != nil {
		t.Fatal(err)
	}
}

// collect gets results until every request has one, or ctx is done.
func (j *jobOf) collect(ctx context.Context) {
	for len(j.results)+j.foreign < j.total && ctx.Err() == nil {
		results, _ := j.head.Results(ctx, 100)
		for _, r := range results {
			decoded, w, err := decodeResult(r.ID, r.Payload)
			if err != nil {
				j.foreign++
				continue
			}
			var a answer
			if err := json.Unmarshal(decoded.line, &a); err != nil {
				panic(err)
			}
			j.results[a.CustomID] = append(j.results[a.CustomID], w)
			j.lines[a.CustomID] = a
		}
		_ = j.head.Ack(results)
	}
}

// want checks that each request has one result, and that those in failed, and no others,
// are failures with that code.
func (j *jobOf) want(t *testing.T, failed map[string]string) {
	t.Helper()
	if len(j.results) != j.total {
		t.Errorf("%d of %d requests have a result", len(j.results), j.total)
	}
	for id, results := range j.results {
		if len(results) != 1 {
			t.Errorf("%s has %d results", id, len(results))
		}
		code := ""
		if f := results[0].Failure; f != nil {
			code = f.Code
		}
		if code != failed[id] {
			t.Errorf("%s: got the failure %q (%v), want %q", id, code, results[0].Failure, failed[id])
		}
	}
}

// newTestWorker returns a worker with a gateway in virtual time.
func newTestWorker(t *testing.T, q *memQueue, name string, gateway http.RoundTripper, change func(*config)) *worker {
	t.Helper()
	tasks, err := q.Join(t.Context(), name, "")
	if err != nil {
		t.Fatal(err)
	}
	return newTestWorkerOf(t, tasks, gateway, change)
}

func newTestWorkerOf(t *testing.T, tasks queue.Worker, gateway http.RoundTripper, change func(*config)) *worker {
	t.Helper()
	cfg := defaultConfig()
	cfg.gatewayURL = "http://gateway.test"
	if change != nil {
		change(&cfg)
	}
	client := cfg.client()
	client.Transport = gateway
	w, err := newWorker(tasks, inference.NewHTTPInferenceClient(client), &cfg, cfg.pacer(), func(string, ...any) {})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// newSharingWorker returns a worker with a share of the limits of its gateway.
func newSharingWorker(t *testing.T, q *memQueue, name string, l share.Limits, gateway http.RoundTripper) *worker {
	t.Helper()
	w := newTestWorker(t, q, name, gateway, nil)
	shares, err := share.Join(q.Board(), name, w.asker.config.gatewayTexts(), l, w.asker.gate.next)
	if err != nil {
		t.Fatal(err)
	}
	w.asker.gate.next, w.shares = shares, shares
	return w
}

// A running is a worker that runs.
type running struct {
	*worker
	stop   func() // asks it to end
	urgent chan os.Signal
	done   chan error
}

func startWorker(t *testing.T, w *worker) *running {
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{worker: w, stop: cancel, urgent: make(chan os.Signal), done: make(chan error, 1)}
	go func() { r.done <- w.run(ctx, func() <-chan os.Signal { return r.urgent }) }()
	return r
}

// end stops the worker and returns the time that it took to end.
func (r *running) end(t *testing.T) time.Duration {
	t.Helper()
	start := time.Now()
	r.stop()
	if err := <-r.done; err != nil {
		t.Errorf("the worker ended with: %v", err)
	}
	return time.Since(start)
}

// taken returns the number of requests that a worker has.
func (q *memQueue) takenRequests() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for _, j := range q.jobs {
		for _, r := range j.requests {
			if r.owner != nil && time.Now().Before(r.taken) {
				n++
			}
		}
	}
	return n
}

func requestID(r *http.Request) string { return r.Header.Get("X-Request-ID") }

func answering(*http.Request) (int, string, string) { return 200, "", answered }

func TestWorker_FinishesAllRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemQueue()
		r := startWorker(t, newTestWorker(t, q, "w", virtualGateway(answering), nil))
		time.Sleep(time.Minute) // it waits for a job
		a, b := newJob(t, q, "a", 500), newJob(t, q, "b", 100)
		a.collect(t.Context())
		b.collect(t.Context())
		a.want(t, nil)
		b.want(t, nil)
		if took := r.end(t); took > 0 {
			t.Errorf("an idle worker took %v to end", took)
		}
	})
}

// Whenever workers are stopped, each request is asked until it has one result, and the
// next worker gets all of them immediately.
func TestWorker_HandsBackWhatItHolds(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			var mu sync.Mutex
			random := func(n int) int {
				mu.Lock()
				defer mu.Unlock()
				return rnd.IntN(n)
			}
			gateway := unreliableGateway(random)
			q := newMemQueue()
			job := newJob(t, q, "a", 300)
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			for i := range 3 {
				wg.Go(func() {
					for n := 0; ctx.Err() == nil; n++ {
						w := newTestWorker(t, q, fmt.Sprint(i, n), gateway, nil)
						r := startWorker(t, w)
						sleep(ctx, time.Duration(random(40_000))*time.Millisecond)
						if took := r.end(t); took > maxEnding+10*time.Millisecond { // the gateway's last ones
							t.Errorf("a worker took %v to end", took)
						}
						if len(w.held) > 0 || w.lost > 0 {
							t.Errorf("a worker ended with %d requests, and %d lost", len(w.held), w.lost)
						}
					}
				})
			}
			job.collect(t.Context())
			cancel()
			wg.Wait()
			passing := 0
			for _, results := range job.results {
				if results[0].Passing {
					passing++ // the head hands it out again
					results[0].Failure = nil
				}
			}
			if passing > 10 {
				t.Errorf("%d requests failed", passing)
			}
			job.want(t, nil)
		})
	}
}

// unreliableGateway returns a gateway that answers after up to 20 s, and sometimes fails
// or refuses. random returns a number below n.
func unreliableGateway(random func(n int) int) http.RoundTripper {
	status := func(*http.Request) (int, string, string) {
		switch random(10) {
		case 0:
			return 500, "", ""
		case 1:
			return 429, "Retry-After: 3", ""
		}
		return answering(nil)
	}
	return roundTripperFunc(func(r *http.Request) (*http.Response, error) {
		if !sleep(r.Context(), time.Duration(random(20_000))*time.Millisecond) {
			r.Body.Close()
			return nil, r.Context().Err()
		}
		return virtualGateway(status).RoundTrip(r)
	})
}

// stuck is a gateway that never answers.
var stuck = roundTripperFunc(func(r *http.Request) (*http.Response, error) {
	defer r.Body.Close()
	<-r.Context().Done()
	return nil, r.Context().Err()
})

func TestWorker_GivesRequestsTimeToEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemQueue()
		newJob(t, q, "a", 100)
		r := startWorker(t, newTestWorker(t, q, "w", stuck, nil))
		time.Sleep(time.Minute)
		if n := q.takenRequests(); n != firstLimit+1 {
			t.Errorf("the worker holds %d requests, want %d and one ahead", n, firstLimit)
		}
		stopped := time.Now()
		r.stop()
		time.Sleep(time.Second)
		if n := q.takenRequests(); n != firstLimit {
			t.Errorf("after the signal the worker holds %d requests, want %d", n, firstLimit)
		}
		if <-r.done; time.Since(stopped) != maxEnding || q.takenRequests() != 0 {
			t.Errorf("ended after %v with %d requests, want %v and 0", time.Since(stopped), q.takenRequests(), maxEnding)
		}
	})
}

// A request that waits for its retry is handed back without delay.
func TestWorker_HandsBackWhatWaitsForARetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemQueue()
		newJob(t, q, "a", 100)
		r := startWorker(t, newTestWorker(t, q, "w", virtualGateway(func(*http.Request) (int, string, string) { return 500, "", "" }),
			func(c *config) { c.initialBackoff, c.maxBackoff = time.Minute, time.Minute }))
		time.Sleep(5 * time.Second)
		if took := r.end(t); took > 0 || q.takenRequests() > 0 {
			t.Errorf("ended after %v with %d requests, want 0 and 0", took, q.takenRequests())
		}
	})
}

func TestWorker_HandsBackImmediatelyAfterSecondSignal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemQueue()
		newJob(t, q, "a", 100)
		r := startWorker(t, newTestWorker(t, q, "w", stuck, nil))
		time.Sleep(time.Minute)
		stopped := time.Now()
		r.stop()
		close(r.urgent)
		if <-r.done; time.Since(stopped) != 0 || q.takenRequests() != 0 {
			t.Errorf("ended after %v with %d requests, want 0 and 0", time.Since(stopped), q.takenRequests())
		}
	})
}

// A queue that is unreachable does not keep a worker from ending, and the worker does not
// claim that it has handed anything back.
func TestWorker_EndsWithoutQueue(t *testing.T) {
	for _, tt := range []struct {
		name     string
		gateway  http.RoundTripper
		buffered bool // Return does not notice
		second   bool // signal
		most     time.Duration
	}{
		{"results wait", virtualGateway(answering), false, false, maxEnding + maxFlush},
		{"requests are under way", stuck, false, false, maxEnding + maxFlush},
		{"buffered", stuck, true, false, maxEnding + 2*maxFlush},
		{"second signal", stuck, true, true, 2 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newMemQueue()
				newJob(t, q, "a", 100)
				m := &mortal{Worker: mustJoin(t, q, "w"), buffers: tt.buffered}
				r := startWorker(t, newTestWorkerOf(t, m, tt.gateway, nil))
				time.Sleep(5 * time.Millisecond)
				m.dead.Store(true)
				time.Sleep(time.Minute)
				held := len(r.all())
				start := time.Now()
				r.stop()
				if tt.second {
					close(r.urgent)
				}
				<-r.done
				if took := time.Since(start); took > tt.most {
					t.Errorf("took %v, want at most %v", took, tt.most)
				}
				if held == 0 || r.returned != held || r.lost != held {
					t.Errorf("of %d requests, %d were returned and %d lost, want all of them", held, r.returned, r.lost)
				}
			})
		})
	}
}

func mustJoin(t *testing.T, q *memQueue, name string) queue.Worker {
	t.Helper()
	w, err := q.Join(t.Context(), name, "")
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// An unconfirmed is a connection to a queue that confirms no result, as while it has no
// leader.
type unconfirmed struct{ queue.Worker }

func (u unconfirmed) Finish(ctx context.Context, _ queue.Task, _ []byte) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// A worker takes few requests whose results the queue does not confirm: they would be
// asked again if it died.
func TestWorker_TakesLittleWithoutConfirmations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemQueue()
		newJob(t, q, "night", 5000)
		slow := virtualGateway(func(*http.Request) (int, string, string) {
			time.Sleep(200 * time.Millisecond)
			return 200, "", answered
		})
		const inFlight = 16
		r := startWorker(t, newTestWorkerOf(t, unconfirmed{mustJoin(t, q, "w")}, slow, func(c *config) { c.perWorker = inFlight }))
		time.Sleep(time.Minute)
		if held := len(r.all()); held > 5*inFlight {
			t.Errorf("the worker holds %d requests, want at most %d", held, 5*inFlight)
		}
		r.end(t)
	})
}

// A mortal is a connection to a queue that nothing passes after it is dead.
type mortal struct {
	queue.Worker
	dead   atomic.Bool
	frozen atomic.Bool // nothing passes until it is false

	buffers bool // Return succeeds when it is dead
}

var errDead = errors.New("dead")

func (m *mortal) pass(ctx context.Context) error {
	if m.dead.Load() {
		<-ctx.Done()
		return errDead
	}
	for m.frozen.Load() {
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

func (m *mortal) Take(ctx context.Context, limit int) ([]queue.Task, error) {
	if err := m.pass(ctx); err != nil {
		return nil, err
	}
	return m.Worker.Take(ctx, limit)
}

func (m *mortal) Finish(ctx context.Context, t queue.Task, payload []byte) error {
	if err := m.pass(ctx); err != nil {
		return err
	}
	return m.Worker.Finish(ctx, t, payload)
}

func (m *mortal) Renew(t queue.Task) error {
	if m.dead.Load() || m.frozen.Load() {
		return errDead
	}
	return m.Worker.Renew(t)
}

func (m *mortal) Return(t queue.Task, delay time.Duration) error {
	switch {
	case m.dead.Load() && m.buffers:
		return nil
	case m.dead.Load():
		return errDead
	}
	return m.Worker.Return(t, delay)
}

func (m *mortal) Flush(ctx context.Context) error {
	if m.dead.Load() && !m.buffers {
		return errDead // it is noticed immediately
	}
	if err := m.pass(ctx); err != nil {
		return err
	}
	return m.Worker.Flush(ctx)
}

// unreachable is a gateway without a process.
var unreachable = roundTripperFunc(func(r *http.Request) (*http.Response, error) {
	r.Body.Close()
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
})

// A worker whose gateway is unreachable lets others have its requests, and none of them
// fails. When the gateway is back, the worker goes on.
func TestWorker_LeavesRequestsToOthersDuringAnOutage(t *testing.T) {
	for _, tt := range []struct {
		name string
		down http.RoundTripper
	}{
		{"connection refused", unreachable},
		{"502 of a proxy", virtualGateway(func(*http.Request) (int, string, string) { return 502, "", "" })},
		{"asked to wait", virtualGateway(func(*http.Request) (int, string, string) { return 503, "Retry-After: 600", "" })},
		{"asked to wait for less than maxHeld", virtualGateway(func(*http.Request) (int, string, string) { return 429, "Retry-After: 5", "" })},
		{"asked to wait, slowly", roundTripperFunc(func(r *http.Request) (*http.Response, error) {
			time.Sleep(3 * time.Second)
			return virtualGateway(func(*http.Request) (int, string, string) { return 429, "Retry-After: 5", "" }).RoundTrip(r)
		})},
		{"refused", virtualGateway(func(*http.Request) (int, string, string) { return 429, "", "" })},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newMemQueue()
				var up atomic.Bool
				var asked atomic.Int32
				gateway := roundTripperFunc(func(r *http.Request) (*http.Response, error) {
					if up.Load() {
						asked.Add(1)
						return virtualGateway(answering).RoundTrip(r)
					}
					return tt.down.RoundTrip(r)
				})
				first := newJob(t, q, "a", 200)
				bad := startWorker(t, newTestWorker(t, q, "bad", gateway, nil))
				time.Sleep(30 * time.Second)
				if n := q.takenRequests(); n > 1 {
					t.Errorf("during the outage, the worker holds %d requests, want one", n)
				}
				good := startWorker(t, newTestWorker(t, q, "good", virtualGateway(answering), nil))
				collected := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				first.collect(ctx)
				if took := time.Since(collected); took > 2*maxProbe {
					t.Errorf("the other worker took %v, want at most that of a probe and the next", took)
				}
				good.end(t)
				up.Store(true)
				more := newJob(t, q, "b", 200)
				more.collect(t.Context())
				first.collect(t.Context())
				first.want(t, nil)
				more.want(t, nil)
				bad.end(t)
			})
		})
	}
}

// While the gateway refuses all requests, the worker takes none in advance: its next one
// would be that which it has handed back to others.
func TestWorker_HoldsOneRequestWhileAllAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemQueue()
		newJob(t, q, "a", 200)
		r := startWorker(t, newTestWorker(t, q, "w", roundTripperFunc(func(r *http.Request) (*http.Response, error) {
			time.Sleep(3 * time.Second)
			return virtualGateway(func(*http.Request) (int, string, string) { return 429, "Retry-After: 5", "" }).RoundTrip(r)
		}), nil))
		time.Sleep(20 * time.Second)
		for range 400 {
			time.Sleep(250 * time.Millisecond)
			if n := q.takenRequests(); n > 1 {
				t.Fatalf("the worker holds %d requests, want at most one", n)
			}
		}
		r.end(t)
	})
}

// A gateway that works on some requests, however long that takes, is not taken for one that
// accepts none, although it refuses others.
func TestWorker_KeepsTheRequestsOfASlowGateway(t *testing.T) {
	for _, tt := range []struct {
		name    string
		slots   int
		latency time.Duration
		paced   bool // the pacer makes requests wait for longer than maxHeld, so others get them
	}{
		{"slow", 1000, time.Minute, false},
		{"slow, and refuses some", 5, time.Minute, true},
		{"slow, and accepts one at a time", 1, time.Minute, true},
		{"fast, and accepts one at a time", 1, time.Second, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newMemQueue()
				newJob(t, q, "a", 10_000)
				var flying atomic.Int32
				gateway := roundTripperFunc(func(r *http.Request) (*http.Response, error) {
					defer flying.Add(-1)
					if int(flying.Add(1)) > tt.slots {
						return virtualGateway(func(*http.Request) (int, string, string) { return 429, "Retry-After: 5", "" }).RoundTrip(r)
					}
					time.Sleep(tt.latency)
					return virtualGateway(answering).RoundTrip(r)
				})
				r := startWorker(t, newTestWorker(t, q, "w", gateway, nil))
				gate, refusing := r.asker.gate, 0
				for range 2400 {
					time.Sleep(250 * time.Millisecond)
					gate.mu.Lock()
					if gate.refusing {
						refusing++
					}
					gate.mu.Unlock()
				}
				r.mu.Lock()
				if refusing > 0 || r.returned > 0 && !tt.paced || r.summary.done() < 5 {
					t.Errorf("in ten minutes, the gateway accepted none for %d quarters of a second, %d requests were handed back and %d are done",
						refusing, r.returned, r.summary.done())
				}
				r.mu.Unlock()
				r.end(t)
			})
		})
	}
}

// While the gateway is unreachable, the worker says why, in its own lines and its report.
func TestWorker_TellsWhyTheGatewayIsUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemQueue()
		newJob(t, q, "a", 100)
		var up atomic.Bool
		r := startWorker(t, newTestWorker(t, q, "w", roundTripperFunc(func(r *http.Request) (*http.Response, error) {
			if up.Load() {
				return virtualGateway(answering).RoundTrip(r)
			}
			return unreachable.RoundTrip(r)
		}), nil))
		time.Sleep(time.Minute)
		if got := r.progress(time.Now()); !strings.Contains(got, "last failure: connection refused") {
			t.Errorf("progress: got %q, want the reason", got)
		}
		if got := r.state().Problem; got != "the gateway is unreachable: connection refused" {
			t.Errorf("report: got %q, want the reason", got)
		}
		up.Store(true)
		time.Sleep(time.Minute)
		if got := r.state().Problem; got != "" {
			t.Errorf("report: got %q after the outage", got)
		}
		r.end(t)
	})
}

// A gateway that is down for hours makes no request fail.
func TestWorker_OutageFailsNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemQueue()
		job := newJob(t, q, "a", 1000)
		r := startWorker(t, newTestWorker(t, q, "w", virtualGateway(func(*http.Request) (int, string, string) { return 502, "", "" }), nil))
		ctx, cancel := context.WithTimeout(t.Context(), 6*time.Hour)
		defer cancel()
		job.collect(ctx)
		if len(job.results) > 0 {
			t.Errorf("%d requests failed", len(job.results))
		}
		r.end(t)
	})
}

// Requests that make the gateway time out are finished, although it looks unreachable.
// More workers than the limit of the gateway allows don't keep requests from those that
// may ask them: a job takes about as long as with few workers.
func TestWorker_WithoutAShareKeepsNoRequests(t *testing.T) {
	for _, tt := range []struct {
		name   string
		limits share.Limits
		least  time.Duration // for 60 requests of 0.2 s
	}{
		{"in flight", share.Limits{InFlight: 2}, 6 * time.Second},
		{"per second", share.Limits{PerSecond: 4}, 15 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newMemQueue()
				gateway := virtualGateway(func(*http.Request) (int, string, string) {
					time.Sleep(200 * time.Millisecond)
					return 200, "", answered
				})
				var workers []*running
				for i := range 5 {
					workers = append(workers, startWorker(t, newSharingWorker(t, q, fmt.Sprint("w", i), tt.limits, gateway)))
				}
				time.Sleep(time.Minute)
				start := time.Now()
				j := newJob(t, q, "a", 60)
				asking, most := make(chan int, 1), 2*tt.limits.InFlight+2*int(tt.limits.PerSecond)
				go func() {
					time.Sleep(4 * time.Second)
					n := 0
					for _, w := range workers {
						n += w.state().InFlight
					}
					asking <- n
				}()
				j.collect(t.Context())
				if took := time.Since(start); took > tt.least+5*time.Second {
					t.Errorf("60 requests took %v, want about %v", took, tt.least)
				}
				if n := <-asking; n > most {
					t.Errorf("the workers report %d requests in flight, want at most %d", n, most)
				}
				j.want(t, nil)
				for _, w := range workers {
					w.end(t)
					w.shares.Close()
				}
			})
		})
	}
}

func TestWorker_FinishesRequestsThatNeverEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemQueue()
		job := newJob(t, q, "a", 20)
		r := startWorker(t, newTestWorker(t, q, "w", virtualGateway(func(r *http.Request) (int, string, string) { return 504, "", "" }), nil))
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		job.collect(ctx)
		if len(job.results) != job.total {
			t.Errorf("%d of %d requests have a result after a day", len(job.results), job.total)
		}
		r.end(t)
	})
}

// A worker with a wrong key makes no request fail. Its error tells the reason.
func TestWorker_EndsWithWrongKey(t *testing.T) {
	for _, requests := range []int{5, 500} {
		synctest.Test(t, func(t *testing.T) {
			q := newMemQueue()
			job := newJob(t, q, "a", requests)
			bad := startWorker(t, newTestWorker(t, q, "bad", virtualGateway(func(*http.Request) (int, string, string) { return 401, "", "" }), nil))
			err := <-bad.done
			if err == nil || !strings.Contains(err.Error(), "check the API key") {
				t.Errorf("got %v, want what to do", err)
			}
			if n := q.takenRequests(); n > 0 {
				t.Errorf("%d requests were not handed back", n)
			}
			good := startWorker(t, newTestWorker(t, q, "good", virtualGateway(answering), nil))
			job.collect(t.Context())
			job.want(t, nil)
			good.end(t)
		})
	}
}

// A worker whose key is revoked while it works makes no request fail, although it has had
// answers, and gets more to the requests that it sent before.
func TestWorker_EndsWhenItsKeyIsRevoked(t *testing.T) {
	for _, requests := range []int{60, 600} {
		synctest.Test(t, func(t *testing.T) {
			q := newMemQueue()
			job := newJob(t, q, "a", requests)
			var asked atomic.Int32
			revoked := roundTripperFunc(func(r *http.Request) (*http.Response, error) {
				if n := asked.Add(1); n <= 45 {
					time.Sleep(500*time.Millisecond + time.Duration(n)*time.Millisecond)
					return virtualGateway(answering).RoundTrip(r)
				}
				return virtualGateway(func(*http.Request) (int, string, string) { return 401, "", "" }).RoundTrip(r)
			})
			slow := roundTripperFunc(func(r *http.Request) (*http.Response, error) {
				time.Sleep(3 * time.Second)
				return virtualGateway(answering).RoundTrip(r)
			})
			few := func(c *config) { c.perWorker = 4 }
			bad := startWorker(t, newTestWorker(t, q, "bad", revoked, few))
			good := startWorker(t, newTestWorker(t, q, "good", slow, few))
			job.collect(t.Context())
			job.want(t, nil)
			if err := <-bad.done; err == nil || !strings.Contains(err.Error(), "check the API key") {
				t.Errorf("got %v, want what to do", err)
			}
			good.end(t)
		})
	}
}

// A failure whose cause may be the worker is the request's own if the gateway answers
// requests that are sent later, however long that takes.
func TestWorker_FinishesFailuresOfItsOwn(t *testing.T) {
	for _, tt := range []struct {
		requests, forbidden, concurrency int
		latency                          time.Duration
	}{
		{3, 0, 256, 20 * time.Millisecond}, // the answers to the others are the last ones
		{300, 150, 256, 20 * time.Millisecond},
		{300, 150, 16, 10 * time.Second},
		{5, 2, 1, 2 * maxWithheld},
	} {
		t.Run(fmt.Sprintf("%d requests, %v", tt.requests, tt.latency), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newMemQueue()
				job := newJob(t, q, "a", tt.requests)
				forbidden := fmt.Sprintf("a-%d", tt.forbidden)
				gateway := roundTripperFunc(func(r *http.Request) (*http.Response, error) {
					if requestID(r) == forbidden {
						return virtualGateway(func(*http.Request) (int, string, string) { return 401, "", "" }).RoundTrip(r)
					}
					time.Sleep(tt.latency)
					return virtualGateway(answering).RoundTrip(r)
				})
				r := startWorker(t, newTestWorker(t, q, "w", gateway, func(c *config) { c.perWorker = tt.concurrency }))
				job.collect(t.Context())
				job.want(t, map[string]string{forbidden: string(inference.ErrCategoryAuth)})
				r.end(t)
			})
		})
	}
}

// A request that makes its worker disappear fails after the third one. Its neighbours
// are answered.
func TestWorker_AsksSuspectsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemQueue()
		job := newJob(t, q, "a", 300)
		const poison = "a-150"
		ctx, cancel := context.WithCancel(t.Context())
		var kills int
		var beside atomic.Int32
		var wg sync.WaitGroup
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				m := &mortal{Worker: mustJoin(t, q, fmt.Sprint(n))}
				killed := make(chan struct{})
				var flying atomic.Int32
				var w *worker
				gateway := roundTripperFunc(func(r *http.Request) (*http.Response, error) {
					flying.Add(1)
					defer flying.Add(-1)
					if requestID(r) != poison {
						return virtualGateway(answering).RoundTrip(r)
					}
					if n >= 2 {
						beside.Add(flying.Load() - 1)
					}
					m.dead.Store(true)
					close(killed)
					return stuck.RoundTrip(r)
				})
				w = newTestWorkerOf(t, m, gateway, nil)
				r := startWorker(t, w)
				select {
				case <-killed:
					kills++
				case <-ctx.Done():
				}
				r.stop()
				close(r.urgent)
				<-r.done
			}
		})
		job.collect(t.Context())
		cancel()
		wg.Wait()
		job.want(t, map[string]string{poison: codeWorkerLost})
		if kills != 5 || beside.Load() > 0 { // two deliveries before it is a suspect, and three starts
			t.Errorf("%d workers disappeared, with %d other requests in flight, want 5 and 0", kills, beside.Load())
		}
	})
}

// A suspect is asked after all other requests that the worker holds have ended or are
// handed back, and before it asks others.
func TestWorker_AsksNothingBesideASuspect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemQueue()
		job := newJob(t, q, "a", 100)
		const suspect, failing = "a-50", "a-4"
		q.change(func() {
			for _, r := range q.jobs["a"].requests {
				if bytes.Contains(r.Line, []byte(`"`+suspect+`"`)) {
					r.deliveries = 2
				}
			}
		})
		var mu sync.Mutex
		flying, beside := make(map[string]bool), 0
		var askedAt time.Duration
		start := time.Now()
		gateway := roundTripperFunc(func(r *http.Request) (*http.Response, error) {
			id := requestID(r)
			mu.Lock()
			flying[id] = true
			if flying[suspect] {
				beside += len(flying) - 1
				askedAt = cmp.Or(askedAt, time.Since(start))
			}
			mu.Unlock()
			time.Sleep(5 * time.Second)
			mu.Lock()
			delete(flying, id)
			mu.Unlock()
			if id == failing && time.Since(start) < time.Minute {
				return virtualGateway(func(*http.Request) (int, string, string) { return 500, "", "" }).RoundTrip(r)
			}
			return virtualGateway(answering).RoundTrip(r)
		})
		r := startWorker(t, newTestWorker(t, q, "w", gateway, func(c *config) { c.initialBackoff, c.maxBackoff = time.Hour, time.Hour }))
		time.Sleep(50 * time.Second)
		job.collect(t.Context())
		job.want(t, nil)
		if beside > 0 {
			t.Errorf("%d requests were in flight beside the suspect", beside)
		}
		if askedAt == 0 || askedAt > 40*time.Second {
			t.Errorf("the suspect was asked after %v: it waited for a retry", askedAt)
		}
		r.end(t)
	})
}

// A worker that is frozen for longer than its requests are its own goes on.
func TestWorker_GoesOnAfterAFreeze(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemQueue()
		job := newJob(t, q, "a", 200)
		m := &mortal{Worker: mustJoin(t, q, "frozen")}
		frozen := startWorker(t, newTestWorkerOf(t, m, virtualGateway(answering), nil))
		time.Sleep(15 * time.Millisecond)
		m.frozen.Store(true)
		time.Sleep(time.Minute)
		other := startWorker(t, newTestWorker(t, q, "other", virtualGateway(answering), nil))
		time.Sleep(time.Minute)
		m.frozen.Store(false)
		job.collect(t.Context())
		if len(job.results) != job.total {
			t.Errorf("%d of %d requests have a result", len(job.results), job.total)
		}
		frozen.end(t)
		other.end(t)
	})
}

// A line that this version can't read fails, and is not asked again.
func TestWorker_FinishesLinesThatItCannotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemQueue()
		job := newJob(t, q, "a", 1)
		job.handOut(t, `{"custom_id":"odd","method":"TRACE","url":"/v1/x"}`, "odd")
		job.handOut(t, "garbage", "")
		r := startWorker(t, newTestWorker(t, q, "w", virtualGateway(answering), nil))
		job.collect(t.Context())
		if f := job.results["odd"][0].Failure; f == nil || f.Code != "INVALID_REQ" || !strings.Contains(f.Message, "method: is") {
			t.Errorf("got %v, want what is wrong with the line", f)
		}
		r.end(t)
	})
}

// Two jobs get the same part of a worker.
func TestWorker_ServesJobsInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemQueue()
		a, b := newJob(t, q, "a", 5000), newJob(t, q, "b", 5000)
		r := startWorker(t, newTestWorker(t, q, "w", virtualGateway(answering), func(c *config) { c.perWorker = 8 }))
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() { a.collect(ctx) })
		wg.Go(func() { b.collect(ctx) })
		wg.Wait()
		na, nb := len(a.results), len(b.results)
		t.Logf("%d and %d", na, nb)
		if na+nb < 2000 || na < nb*4/5 || nb < na*4/5 {
			t.Errorf("in 3 s, %d and %d requests were answered, want about as many of both jobs", na, nb)
		}
		r.end(t)
	})
}

// Two gateways, one of which is ten times as fast, answer together as many requests as
// each would alone, because each worker takes as many as its gateway has room for.
func TestWorker_UnequalGateways(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const requests, fast, slow = 12_000, 40, 4
		service := func(r *rand.Rand) (time.Duration, int) {
			return 100*time.Millisecond + time.Duration(r.IntN(200))*time.Millisecond, 0
		}
		q := newMemQueue()
		job := newJob(t, q, "a", requests)
		start := time.Now()
		var all []*running
		for _, slots := range []int{fast, slow} {
			all = append(all, startWorker(t, newTestWorker(t, q, fmt.Sprint(slots), newQueueing(slots, service), nil)))
		}
		job.collect(t.Context())
		took := time.Since(start)
		job.want(t, nil)
		const ideal = requests * 200 * time.Millisecond / (fast + slow)
		t.Logf("took %v, at best %v: %.3f; limits %d and %d", took, ideal, float64(took)/float64(ideal), all[0].window.size(), all[1].window.size())
		if float64(took) > 1.05*float64(ideal) {
			t.Errorf("took %v, want at most 5 %% more than %v", took, ideal)
		}
		for _, r := range all {
			r.end(t)
		}
	})
}

// While there are few requests, the window learns nothing from them.
func TestWindow_KeepsItsLimitWithoutRequests(t *testing.T) {
	for _, missing := range []bool{true, false} {
		now := time.Now()
		w := newWindow(256)
		w.keep(100, 1000, 1) // of a second
		w.skip = 1
		ended := 0
		for range 20_000 { // by a queue that has ten requests a second
			for w.admit() {
			}
			if missing {
				w.flying = 2
				w.starve(now)
			}
			now = now.Add(100 * time.Millisecond)
			w.leave(w.begin(now.Add(-10*time.Second)), now, 0, undisturbed)
			if ended++; missing && ended%2 == 0 {
				w.feed(now)
			}
		}
		if got := w.size(); (got == 100) != missing {
			t.Errorf("requests are missing: %v; the limit was 100 and is %d", missing, got)
		}
	}
}

// Requests of a canceled job are dropped.
func TestWorker_DropsRequestsOfAJobThatHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemQueue()
		newJob(t, q, "a", 5)
		over := &endedJob{Worker: mustJoin(t, q, "w")}
		r := startWorker(t, newTestWorkerOf(t, over, stuck, nil))
		time.Sleep(5 * time.Second)
		over.ended.Store(true)
		time.Sleep(10 * time.Second) // the next renewal
		r.mu.Lock()
		if len(r.held) > 0 || r.asking > 0 || r.returned > 0 {
			t.Errorf("%d requests are held, %d asked, %d returned, want none", len(r.held), r.asking, r.returned)
		}
		r.mu.Unlock()
		r.end(t)
	})
}

// An endedJob is a worker whose job may have ended.
type endedJob struct {
	queue.Worker
	ended atomic.Bool
}

func (w *endedJob) Renew(t queue.Task) error {
	if w.ended.Load() {
		return fmt.Errorf("a: %w", queue.ErrNoJob)
	}
	return w.Worker.Renew(t)
}
