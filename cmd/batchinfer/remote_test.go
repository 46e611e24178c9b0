package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

// A jobRun is a job whose head is started several times, in virtual time.
type jobRun struct {
	t      *testing.T
	q      *memQueue
	text   string // of the input
	window int
	disk   *fullDisk // has the output
	b      *batch

	mostKept int // bytes of results
}

func newJobRun(t *testing.T, requests int) *jobRun {
	return &jobRun{t: t, q: newMemQueue(), text: inputOf(requests), window: 50, disk: &fullDisk{room: 1 << 30}, mostKept: mostKept}
}

// run runs a head until the job is done or ctx is.
func (j *jobRun) run(ctx context.Context) error {
	j.t.Helper()
	in := checkedInput(j.t, j.text)
	in.raw = true
	s := survey{index: in.index, wrong: problems{file: "out"}, input: in.name}
	if err := s.read(ctx, bytes.NewReader(j.disk.Bytes())); err != nil {
		j.t.Fatal(err)
	}
	job := queue.Job{Name: "job", Window: j.window, DeadAfter: 30 * time.Second, MaxDeaths: 3}
	head, err := j.q.Open(ctx, job)
	if err != nil {
		return err
	}
	sum := newSummary(len(in.index), in.index.answered(), "out")
	crew := newRemote(j.q, head, job, in, sum)
	crew.mostKept = j.mostKept
	j.b = &batch{
		crew: crew, input: in, output: &output{name: "out", file: j.disk, size: int64(j.disk.Len())},
		deferral: newDeferral(time.Minute), progress: newPlain(io.Discard, len(in.index)), summary: sum,
	}
	err = j.b.run(ctx)
	if closeErr := crew.close(context.Background(), err); closeErr != nil && !ended(closeErr) {
		j.t.Errorf("closing the head: %v", closeErr)
	}
	return err
}

// wantOnce checks that each request has one line, and returns those that failed.
func (j *jobRun) wantOnce() (failed int) {
	j.t.Helper()
	seen := make(map[string]int)
	for line := range strings.Lines(j.disk.String()) {
		var a answer
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			j.t.Fatalf("%q: %v", line, err)
		}
		seen[a.CustomID]++
		if a.Error != nil {
			failed++
		}
	}
	for i := range strings.Count(j.text, "\n") {
		if n := seen[fmt.Sprint("r", i)]; n != 1 {
			j.t.Errorf("request %d has %d lines, want 1", i, n)
		}
	}
	return failed
}

// A reply returns the result of a simulated worker; nil: it disappears with the task.
type reply func(t queue.Task) *result

// workers starts simulated workers, each of which asks 4 requests at a time and takes up
// to a second for them. They end when stop is called.
func (j *jobRun) workers(n int, f reply) (stop func()) {
	ctx, cancel := context.WithCancel(j.t.Context())
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			w, _ := j.q.Join(ctx, fmt.Sprint("w", i), "")
			defer w.Close()
			for {
				tasks, err := w.Take(ctx, 4)
				if err != nil {
					return
				}
				for _, t := range tasks {
					if !sleep(ctx, rand.N(250*time.Millisecond)) {
						return
					}
					if r := f(t); r != nil {
						_ = w.Finish(ctx, t, encodeResult(*r))
					}
				}
			}
		})
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

// complete runs a head until the job is done, stops the workers, and checks that each
// request has one line. It returns the number of requests that failed.
func (j *jobRun) complete(stop func()) (failed int) {
	j.t.Helper()
	if err := j.run(j.t.Context()); err != nil {
		j.t.Fatal(err)
	}
	stop()
	return j.wantOnce()
}

// abandon runs a head for a second, in which no request gets a result.
func (j *jobRun) abandon() {
	j.t.Helper()
	ctx, cancel := context.WithTimeout(j.t.Context(), time.Second)
	defer cancel()
	if err := j.run(ctx); !errors.Is(err, context.DeadlineExceeded) {
		j.t.Fatal(err)
	}
}

// answerTo returns an answer to a task.
func answerTo(t queue.Task) *result {
	l := newLines(bytes.NewReader(t.Line), maxLineBytes)
	l.next()
	req := checkedRequest(l)
	r := sampleResult(answer{ID: newID(req.content), CustomID: req.customID, Response: &response{200, req.customID, []byte("{}")}})
	r.tally.attempts, r.tally.tooLong = t.Attempts+1, 0
	return &r
}

// failureOf returns a failure that may pass.
func failureOf(t queue.Task) *result {
	r := answerTo(t)
	r.answer.Response, r.answer.Error, r.passing = nil, &failure{"SERVER_ERROR", "no"}, true
	return r
}

// Whatever happens to heads, workers and the queue, each request has one line in the
// output.
func TestRemote_EachRequestHasOneLine(t *testing.T) {
	for seed := range 5 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := newJobRun(t, 2000)
				stop := j.workers(10, func(task queue.Task) *result {
					switch n := rand.IntN(100); {
					case n < 2:
						return nil
					case n < 4:
						j.q.change(func() { // a result that arrives twice
							if job := j.q.jobs["job"]; job != nil {
								job.send(task.ID, encodeResult(*answerTo(task)))
							}
						})
					case n < 6 && task.Attempts == 0:
						return failureOf(task)
					}
					return answerTo(task)
				})
				for heads := 1; ; heads++ {
					patience := rand.N(time.Minute)
					if heads > 20 {
						patience = 24 * time.Hour
					}
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					err := j.run(ctx)
					cancel()
					if err == nil {
						t.Logf("%d heads", heads)
						break
					}
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Fatal(err)
					}
					if rand.IntN(3) == 0 {
						j.q.lose()
					}
				}
				stop()
				j.wantOnce()
				if len(j.q.jobs) > 0 {
					t.Error("the queue still has the job")
				}
			})
		})
	}
}

// When the servers lose everything in the middle of a run, the head hands it out again.
func TestRemote_HandsOutAgainWhatTheQueueForgot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJobRun(t, 1000)
		stop := j.workers(4, answerTo)
		go func() {
			time.Sleep(10 * time.Second)
			j.q.lose()
		}()
		start := time.Now()
		j.complete(stop)
		if took := time.Since(start); took > 3*time.Minute {
			t.Errorf("took %v, want about a minute", took)
		}
	})
}

// A head hands out no more requests than its window, and those of an earlier head not
// once more.
func TestRemote_Window(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJobRun(t, 200)
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			if err := j.run(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("got %v without workers, want that the run goes on", err)
			}
			cancel()
			if got := j.q.jobs["job"].handed; got != j.window {
				t.Errorf("%d requests were handed out, want %d", got, j.window)
			}
		}
	})
}

// A result that a worker sent while no head was running is used by the next one.
func TestRemote_ResultsWaitForTheNextHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJobRun(t, 50)
		j.abandon()
		asked := 0
		stop := j.workers(1, func(task queue.Task) *result {
			asked++
			return answerTo(task)
		})
		time.Sleep(time.Minute)
		j.complete(stop)
		if asked != 50 {
			t.Errorf("workers were asked %d times, want 50", asked)
		}
	})
}

// A head asks no request again that has a result or is at work, even if the queue delivers
// no results for a while, and has more of them than the head keeps in memory.
func TestRemote_Backlog(t *testing.T) {
	for name, most := range map[string]int{"small": mostKept, "large": 5000} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := newJobRun(t, 60)
				j.window, j.mostKept = 60, most
				j.abandon()
				var asked atomic.Int32
				stop := j.workers(1, func(task queue.Task) *result {
					asked.Add(1)
					return answerTo(task)
				})
				for asked.Load() < 40 {
					time.Sleep(100 * time.Millisecond)
				}
				j.q.change(func() { j.q.silent = time.Now().Add(8 * time.Second) })
				j.complete(stop)
				if got := asked.Load(); got != 60 {
					t.Errorf("workers were asked %d times, want 60", got)
				}
			})
		})
	}
}

// Results that are there, and that nobody has read yet, are not handed out again.
func TestRemote_UnreadResultsAreNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJobRun(t, 2000)
		j.window = 2000
		var asked atomic.Int32
		stop := j.workers(1, func(task queue.Task) *result {
			if asked.Add(1) == 1 {
				j.q.change(func() { j.q.silent = time.Now().Add(10 * time.Minute) })
			}
			return answerTo(task)
		})
		j.complete(stop)
		if got := asked.Load(); got > 2000+2*resultsAtOnce {
			t.Errorf("workers were asked %d times, want 2000 and at most %d again", got, 2*resultsAtOnce)
		}
	})
}

// A request that has its result, but whose acknowledgment was lost, is not asked again.
func TestRemote_LostAcknowledgments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJobRun(t, 600)
		var asked atomic.Int32
		stop := j.workers(1, func(task queue.Task) *result {
			asked.Add(1)
			if task.ID[0]%2 == 0 {
				return answerTo(task)
			}
			j.q.change(func() { j.q.jobs["job"].send(task.ID, encodeResult(*answerTo(task))) })
			return nil
		})
		j.complete(stop)
		if got := asked.Load(); got != 600 {
			t.Errorf("workers were asked %d times, want 600", got)
		}
	})
}

// A result that does not fit on the disk of the head stays in the queue for the next head.
func TestRemote_FullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJobRun(t, 100)
		j.disk.room = 2000
		var asked atomic.Int32
		stop := j.workers(4, func(task queue.Task) *result {
			asked.Add(1)
			return answerTo(task)
		})
		if err := j.run(t.Context()); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("got %v, want %v", err, syscall.ENOSPC)
		}
		j.disk.room, j.disk.full = 1<<20, false
		j.complete(stop)
		if got := asked.Load(); got != 100 {
			t.Errorf("workers were asked %d times, want 100", got)
		}
	})
}

// A request of another input in the queue is removed, and so is one with an answer.
func TestRemote_RemovesForeignRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJobRun(t, 50)
		j.abandon()
		j.text = strings.ReplaceAll(j.text, `"hi"`, `"hello"`)
		head := make(chan error)
		go func() { head <- j.run(t.Context()) }()
		time.Sleep(time.Second)
		stop := j.workers(2, func(task queue.Task) *result {
			if !bytes.Contains(task.Line, []byte("hello")) {
				t.Errorf("a worker got %s", task.Line)
			}
			return answerTo(task)
		})
		if err := <-head; err != nil {
			t.Fatal(err)
		}
		stop()
		j.wantOnce()
	})
}

// A failure that may pass is asked once more, by any worker. If that fails too, it is
// the answer.
func TestRemote_SecondChance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJobRun(t, 20)
		asked := make(map[queue.ID]int)
		stop := j.workers(1, func(task queue.Task) *result {
			asked[task.ID]++
			if asked[task.ID] == 2 && task.Attempts != 1 {
				t.Errorf("the second chance: got %d attempts before, want 1", task.Attempts)
			}
			return failureOf(task)
		})
		if failed := j.complete(stop); failed != 20 {
			t.Errorf("got %d failures, want 20", failed)
		}
		for id, n := range asked {
			if n != 2 {
				t.Errorf("%s was asked %d times, want twice", id, n)
			}
		}
		if got := j.b.summary.attempts; got[2] != 20 {
			t.Errorf("attempts: got %v, want 20 requests with 2", got)
		}
	})
}

// A payload that is not the result of a worker is dropped, and its request is asked again.
func TestRemote_Garbage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJobRun(t, 10)
		var mu sync.Mutex
		garbled := make(map[queue.ID]bool)
		stop := j.workers(1, func(task queue.Task) *result {
			mu.Lock()
			defer mu.Unlock()
			r := answerTo(task)
			if !garbled[task.ID] {
				garbled[task.ID] = true
				r.answer.CustomID = "other"
			}
			return r
		})
		j.complete(stop)
	})
}

// A request whose results are all of another version fails. There is no hope for the
// others then.
func TestRemote_GarbageOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJobRun(t, 10)
		asked := 0
		stop := j.workers(1, func(task queue.Task) *result {
			asked++
			r := answerTo(task)
			r.answer.CustomID = "other"
			return r
		})
		if failed := j.complete(stop); failed != 10 {
			t.Errorf("%d requests failed, want 10", failed)
		}
		if asked != 10*maxForeign {
			t.Errorf("workers were asked %d times, want %d", asked, 10*maxForeign)
		}
		if !strings.Contains(j.disk.String(), `"code":"FOREIGN_RESULT"`) {
			t.Errorf("got %s, want FOREIGN_RESULT", j.disk.String())
		}
	})
}

// A run ends when its job is canceled, when another head has taken it over, and when
// there is no hope for the other requests.
func TestRemote_Ends(t *testing.T) {
	for name, tt := range map[string]struct {
		do   func(q *memQueue)
		want error
	}{
		"canceled": {func(q *memQueue) { _ = q.Cancel(context.Background(), "job") }, queue.ErrCanceled},
		"lost":     {func(q *memQueue) { q.change(func() { q.jobs["job"].epoch++ }) }, queue.ErrLost},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := newJobRun(t, 100)
				go func() {
					time.Sleep(time.Minute)
					tt.do(j.q)
				}()
				if err := j.run(t.Context()); !errors.Is(err, tt.want) {
					t.Errorf("got %v, want %v", err, tt.want)
				}
			})
		})
	}
	t.Run("hopeless", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			j := newJobRun(t, 1000)
			stop := j.workers(1, func(task queue.Task) *result {
				r := failureOf(task)
				r.answer.Error.Code, r.passing, r.tally.final = "AUTH_ERROR", false, true
				return r
			})
			err := j.run(t.Context())
			stop()
			if _, ok := errors.AsType[*hopelessError](err); !ok {
				t.Errorf("got %v, want that there is no hope", err)
			}
			if len(j.q.jobs) > 0 {
				t.Error("the queue still has the job")
			}
		})
	})
}

// The second head of a job is refused while the first is alive.
func TestRemote_SecondHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJobRun(t, 100)
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error)
		go func() { first <- j.run(ctx) }()
		time.Sleep(time.Minute)
		second := &jobRun{t: t, q: j.q, text: j.text, window: 50, disk: &fullDisk{room: 1 << 20}}
		if err := second.run(t.Context()); !errors.Is(err, queue.ErrRunning) {
			t.Errorf("got %v, want %v", err, queue.ErrRunning)
		}
		cancel()
		<-first
	})
}

// The head tells once why workers have stopped, however many there are.
func TestRemote_TellsWhyWorkersStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJobRun(t, 300)
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- j.run(ctx) }()
		synctest.Wait()
		var log strings.Builder
		crew := j.b.crew.(*remote)
		crew.log = &log
		for _, name := range []string{"w1", "w2"} {
			forbidden := virtualGateway(func(*http.Request) (int, string, string) { return 401, "", "no such key" })
			bad := startWorker(t, newTestWorker(t, j.q, name, forbidden, nil))
			if err := <-bad.done; err == nil {
				t.Error("the worker ended without an error")
			}
			if err := bad.queue.Close(); err != nil {
				t.Error(err)
			}
			time.Sleep(2 * lookInterval)
		}
		if got := crew.traffic(); got.limit != 0 || got.flying != 0 {
			t.Errorf("after the workers have stopped, the head counts %+v", got)
		}
		cancel()
		<-ran
		if got := log.String(); strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, "batchinfer: worker w1 stopped: AUTH_ERROR: HTTP 401: ") || !strings.HasSuffix(got, "check the API key, in INFERENCE_API_KEY or inference_api_key\n") {
			t.Errorf("got %q, want one line with the reason and what to do", got)
		}
	})
}

// The head does not count the requests of workers that have disappeared.
func TestRemote_CountsWorkersThatAreAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemQueue()
		for _, name := range []string{"alive", "dead"} {
			if err := mustJoin(t, q, name).Report(t.Context(), queue.WorkerState{InFlight: 7, Limit: 8}); err != nil {
				t.Fatal(err)
			}
		}
		q.change(func() {
			dead := q.workers["dead"]
			dead.Seen = dead.Seen.Add(-queue.LapseAfter - time.Second)
			q.workers["dead"] = dead
		})
		newJob(t, q, "a", 1)
		jobs, err := q.Jobs(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		crew := &remote{}
		crew.status.Store(&jobs[0])
		if got := crew.traffic(); got.flying != 7 || got.limit != 8 {
			t.Errorf("got %+v, want those of the worker that is alive", got)
		}
	})
}
