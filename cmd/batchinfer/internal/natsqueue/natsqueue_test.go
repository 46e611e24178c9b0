package natsqueue

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

func TestMain(m *testing.M) {
	// Most tests wait, so more of them run at the same time than there are processors.
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	// If an object is written fast, this goroutine of the client library finds no channel
	// to wait for, and remains.
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect"),
		// These of the server may stay when two clients make the same stream at the same
		// time, and the server then shuts down.
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}

// start returns a server alone and a connection to it.
func start(t *testing.T) (*Server, *broker) {
	t.Helper()
	s, err := Serve("127.0.0.1:0", t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, connect(t, s.URL())
}

func connect(t *testing.T, url string) *broker {
	t.Helper()
	b, err := dial(t.Context(), Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// job returns a job for a server alone.
func job(name string) queue.Job {
	return queue.Job{Name: name, Window: 1000, DeadAfter: 3 * time.Second, MaxDeaths: 3, Replicas: 1}
}

func open(t *testing.T, b *broker, j queue.Job) *head {
	t.Helper()
	h, err := b.Open(t.Context(), j)
	if err != nil {
		t.Fatalf("Open(%q): %v", j.Name, err)
	}
	t.Cleanup(func() { h.Close() })
	return h.(*head)
}

func join(t *testing.T, b *broker, name, job string) *worker {
	t.Helper()
	w, err := b.Join(t.Context(), name, job)
	if err != nil {
		t.Fatalf("Join(%q, %q): %v", name, job, err)
	}
	t.Cleanup(func() { w.Close() })
	return w.(*worker)
}

// startJob returns a connection to a server alone, the head of a job that has handed out
// n requests, and a worker for it.
func startJob(t *testing.T, n int) (*broker, *head, *worker) {
	t.Helper()
	_, b := start(t)
	h := open(t, b, job("batch"))
	w := join(t, b, "w1", "batch")
	handOut(t, h, numbered(n)...)
	return b, h, w
}

// within returns a context for calls that must not take longer.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func handOut(t *testing.T, h queue.Head, requests ...queue.Request) {
	t.Helper()
	for _, r := range requests {
		if err := h.HandOut(within(t, time.Minute), r); err != nil {
			t.Fatalf("HandOut(%s): %v", r.ID, err)
		}
	}
}

// numbered returns requests with the IDs r0, r1, ….
func numbered(n int) []queue.Request {
	var all []queue.Request
	for i := range n {
		all = append(all, queue.Request{ID: queue.ID(fmt.Sprintf("r%d", i)), Line: fmt.Appendf(nil, "line %d", i)})
	}
	return all
}

// take takes exactly n requests.
func take(t *testing.T, w queue.Worker, n int) []queue.Task {
	t.Helper()
	var all []queue.Task
	for len(all) < n {
		tasks, err := w.Take(within(t, time.Minute), n-len(all))
		if err != nil {
			t.Fatalf("Take after %d of %d requests: %v", len(all), n, err)
		}
		all = append(all, tasks...)
	}
	return all
}

// takeNone makes sure that a worker gets no request for a while.
func takeNone(t *testing.T, w queue.Worker) {
	t.Helper()
	if tasks, err := w.Take(within(t, 300*time.Millisecond), 10); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Take = %v, %v: want none", tasks, err)
	}
}

func finish(t *testing.T, w queue.Worker, tasks ...queue.Task) {
	t.Helper()
	for _, task := range tasks {
		if err := w.Finish(within(t, time.Minute), task, []byte("result of "+task.ID)); err != nil {
			t.Fatalf("Finish(%s): %v", task.ID, err)
		}
	}
}

// results receives and acknowledges n results, by their IDs.
func results(t *testing.T, h queue.Head, n int) map[queue.ID]string {
	t.Helper()
	all := map[queue.ID]string{}
	for len(all) < n {
		got, err := h.Results(within(t, time.Minute), n)
		if err != nil {
			t.Fatalf("Results after %d of %d: %v", len(all), n, err)
		}
		for _, r := range got {
			if _, twice := all[r.ID]; twice {
				t.Fatalf("result of %s twice", r.ID)
			}
			all[r.ID] = string(r.Payload)
		}
		if err := h.Ack(got); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func held(t *testing.T, h queue.Head) map[queue.ID]struct{} {
	t.Helper()
	ids, err := h.Held(within(t, time.Minute))
	if err != nil {
		t.Fatalf("Held: %v", err)
	}
	return ids
}

func TestQueue_CarriesRequestsAndResults(t *testing.T) {
	t.Parallel()
	_, b := start(t)
	h := open(t, b, job("batch"))
	w := join(t, b, "w1", "batch")
	const n = 500
	handOut(t, h, numbered(n)...)
	for _, task := range take(t, w, n) {
		if want := "line " + strings.TrimPrefix(string(task.ID), "r"); string(task.Line) != want {
			t.Errorf("%s has the line %q: want %q", task.ID, task.Line, want)
		}
		if task.Job != "batch" || task.DeadAfter != 3*time.Second || task.MaxDeaths != 3 || task.Suspect || task.Attempts != 0 {
			t.Errorf("task = %+v", task)
		}
		finish(t, w, task)
	}
	for id, payload := range results(t, h, n) {
		if want := "result of " + string(id); payload != want {
			t.Errorf("result of %s = %q: want %q", id, payload, want)
		}
	}
	eventually(t, "the queue holds nothing", func() bool { return len(held(t, h)) == 0 })
}

func TestHead_HandOutPassesAttempts(t *testing.T) {
	t.Parallel()
	_, b := start(t)
	h := open(t, b, job("batch"))
	w := join(t, b, "w1", "")
	handOut(t, h, queue.Request{ID: "a", Line: []byte("line"), Attempts: 300})
	if got := take(t, w, 1)[0].Attempts; got != 300 {
		t.Errorf("Attempts = %d: want 300", got)
	}
}

func TestHead_HandOutAddsNoRequestTwice(t *testing.T) {
	t.Parallel()
	_, b := start(t)
	h := open(t, b, job("batch"))
	w := join(t, b, "w1", "batch")
	for range 3 {
		handOut(t, h, numbered(100)...)
	}
	tasks := take(t, w, 100)
	handOut(t, h, numbered(100)...) // those that a worker has taken are held, too
	takeNone(t, w)
	finish(t, w, tasks...)
	results(t, h, 100)
	eventually(t, "the queue holds nothing", func() bool { return len(held(t, h)) == 0 })
	handOut(t, h, numbered(1)...)
	take(t, w, 1)
}

func TestHead_HeldAndRemove(t *testing.T) {
	t.Parallel()
	_, h, w := startJob(t, 3)
	eventually(t, "three requests are held", func() bool { return len(held(t, h)) == 3 })
	take(t, w, 1) // r0
	for _, id := range []queue.ID{"r0", "r2", "unknown"} {
		if err := h.Remove(t.Context(), id); err != nil {
			t.Errorf("Remove(%s): %v", id, err)
		}
	}
	if ids := held(t, h); len(ids) != 1 {
		t.Errorf("Held = %v: want r1", ids)
	}
	if task := take(t, w, 1)[0]; task.ID != "r1" {
		t.Errorf("took %s: want r1", task.ID)
	}
	takeNone(t, w)
}

func TestHead_LimitBoundsWhatIsTaken(t *testing.T) {
	t.Parallel()
	_, b := start(t)
	j := job("batch")
	j.MaxInFlight = 2
	h := open(t, b, j)
	w := join(t, b, "w1", "batch")
	handOut(t, h, numbered(10)...)
	tasks := take(t, w, 2)
	takeNone(t, w)
	finish(t, w, tasks[0])
	take(t, w, 1)
	if err := h.Limit(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	take(t, w, 3)
	takeNone(t, w)
	if err := h.Limit(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	take(t, w, 4)
}

func TestWorker_ReturnHandsBackAfterDelay(t *testing.T) {
	t.Parallel()
	_, _, w := startJob(t, 1)
	start := time.Now()
	if err := w.Return(take(t, w, 1)[0], 500*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	task := take(t, w, 1)[0]
	if d := time.Since(start); d < 450*time.Millisecond {
		t.Errorf("the request came back after %v: want 500ms", d)
	}
	start = time.Now()
	if err := w.Return(task, 0); err != nil {
		t.Fatal(err)
	}
	take(t, w, 1)
	if d := time.Since(start); d > 400*time.Millisecond {
		t.Errorf("the request came back after %v: want none", d)
	}
}

// Requests that a worker returns after Take has ended go to others, although Take was
// waiting for more.
func TestWorker_ReturnAfterTakeGoesToOthers(t *testing.T) {
	t.Parallel()
	_, b := start(t)
	h := open(t, b, job("batch"))
	for round := range 5 {
		w := join(t, b, fmt.Sprint("w", round), "batch")
		handOut(t, h, queue.Request{ID: queue.ID(fmt.Sprint("r", round)), Line: []byte("x")})
		task := take(t, w, 1)[0]
		ctx, cancel := context.WithCancel(t.Context())
		waiting := make(chan error)
		go func() {
			_, err := w.Take(ctx, 1)
			waiting <- err
		}()
		eventually(t, "the worker waits", func() bool {
			s, err := b.js.Consumer(t.Context(), workStream(token("batch")), workersConsumer)
			return err == nil && s.CachedInfo().NumWaiting > 0
		})
		cancel()
		<-waiting
		if err := w.Return(task, 0); err != nil {
			t.Fatal(err)
		}
		other := join(t, b, fmt.Sprint("other", round), "batch")
		start := time.Now()
		finish(t, other, take(t, other, 1)...)
		if d := time.Since(start); d > time.Second {
			t.Errorf("another worker got the request after %v", d)
		}
		results(t, h, 1)
	}
}

func TestWorker_LosesWhatItDoesNotRenew(t *testing.T) {
	t.Parallel()
	_, b := start(t)
	j := job("batch")
	j.DeadAfter = time.Second
	h := open(t, b, j)
	dead, alive := join(t, b, "dead", "batch"), join(t, b, "alive", "batch")
	handOut(t, h, numbered(2)...)
	lost := take(t, dead, 1)[0]
	kept := take(t, alive, 1)[0]
	for start := time.Now(); time.Since(start) < 2*j.DeadAfter; time.Sleep(j.DeadAfter / 4) {
		if err := alive.Renew(kept); err != nil {
			t.Fatal(err)
		}
	}
	again := take(t, alive, 1)[0]
	if again.ID != lost.ID {
		t.Fatalf("took %s: want %s, which was not renewed", again.ID, lost.ID)
	}
	takeNone(t, alive)
	finish(t, alive, again, kept)
	finish(t, dead, lost) // it was frozen: its result is a second one
	ids := map[queue.ID]int{}
	for n := 0; n < 3; {
		got, err := h.Results(within(t, time.Minute), 10)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range got {
			ids[r.ID]++
		}
		n += len(got)
	}
	if ids[lost.ID] != 2 || ids[kept.ID] != 1 {
		t.Errorf("results = %v", ids)
	}
}

func TestWorker_TakesSuspectsAlone(t *testing.T) {
	t.Parallel()
	_, _, w := startJob(t, 4)
	for range suspectAfter - 1 {
		for _, task := range take(t, w, 4) {
			if task.Suspect {
				t.Fatalf("%s is a suspect too early", task.ID)
			}
			die(t, w, task)
		}
	}
	for range 4 {
		tasks, err := w.Take(within(t, time.Minute), 10)
		if err != nil {
			t.Fatal(err)
		}
		if len(tasks) != 1 || !tasks[0].Suspect {
			t.Fatalf("Take = %v: want a suspect alone", tasks)
		}
	}
}

// die makes the queue deliver a request again, as it does after the worker that took it
// has died.
func die(t *testing.T, w *worker, task queue.Task) {
	t.Helper()
	if err := w.b.nc.Publish(task.Handle.(*taken).reply, negative(0)); err != nil {
		t.Fatal(err)
	}
}

// A request that workers return, such as while their gateways are out of reach, is no
// suspect. It becomes one after workers have died since.
func TestWorker_ReturnsMakeNoSuspect(t *testing.T) {
	t.Parallel()
	b, h, w := startJob(t, 1)
	for n := range 6 {
		task := take(t, w, 1)[0]
		if task.Suspect {
			t.Fatalf("a suspect after %d returns", n)
		}
		if err := w.Return(task, 0); err != nil {
			t.Fatal(err)
		}
	}
	for n := range suspectAfter - 1 {
		task := take(t, w, 1)[0]
		if task.Suspect {
			t.Fatalf("a suspect after %d workers have died", n)
		}
		die(t, w, task)
	}
	if task := take(t, w, 1)[0]; !task.Suspect {
		t.Error("no suspect after workers have died")
	}
	if err := h.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if keys, _, err := b.keys(t.Context(), registryBucket, ">"); err != nil || len(keys) > 0 {
		t.Errorf("keys = %v, %v: want none after the job", keys, err)
	}
}

func TestWorker_StartCountsDeaths(t *testing.T) {
	t.Parallel()
	b, _, w := startJob(t, 1)
	task := take(t, w, 1)[0]
	begin := func(want int) {
		t.Helper()
		// Only workers that disappear start a request without ending it.
		handle := *task.Handle.(*taken)
		task.Handle = &handle
		if deaths, err := w.Start(t.Context(), task); err != nil || deaths != want {
			t.Fatalf("Start = %d, %v: want %d", deaths, err, want)
		}
	}
	begin(0)
	begin(1)
	begin(2)
	if err := w.Return(task, 0); err != nil {
		t.Fatal(err)
	}
	task = take(t, w, 1)[0]
	begin(2) // the return is no death
	finish(t, w, task)
	keys, _, err := b.keys(t.Context(), registryBucket, "start.>")
	if err != nil || len(keys) > 0 {
		t.Errorf("keys = %v, %v: want none after Finish", keys, err)
	}
}

func TestWorker_TakesOfAllJobsInTurn(t *testing.T) {
	t.Parallel()
	_, b := start(t)
	w := join(t, b, "w1", "")
	one, two := open(t, b, job("one")), open(t, b, job("two"))
	handOut(t, one, numbered(200)...)
	handOut(t, two, numbered(200)...)
	count := map[string]int{}
	eventually(t, "both jobs are known", func() bool { return len(w.inTurn()) == 2 })
	for n := 0; n < 100; {
		tasks, err := w.Take(within(t, time.Minute), 10)
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			count[task.Job]++
		}
		n += len(tasks)
		finish(t, w, tasks...)
	}
	if count["one"] < 25 || count["two"] < 25 { // a job may get two turns before the response for the other arrives
		t.Errorf("took %v: want at least a quarter of each", count)
	}
	if err := one.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	for n := count["two"]; n < 200; n++ {
		for tasks := take(t, w, 1); tasks[0].Job != "two"; tasks = take(t, w, 1) {
		}
	}
}

func TestWorker_WaitsForItsJob(t *testing.T) {
	t.Parallel()
	_, b := start(t)
	w := join(t, b, "w1", "later")
	handOut(t, open(t, b, job("other")), numbered(1)...)
	takeNone(t, w)
	handOut(t, open(t, b, job("later")), numbered(1)...)
	if task := take(t, w, 1)[0]; task.Job != "later" {
		t.Errorf("took a request of %s", task.Job)
	}
}

func TestWorker_FinishAfterJobHasEnded(t *testing.T) {
	t.Parallel()
	_, h, w := startJob(t, 1)
	task := take(t, w, 1)[0]
	if err := h.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.Finish(within(t, renewEvery), task, nil); !errors.Is(err, queue.ErrNoJob) {
		t.Errorf("Finish = %v: want ErrNoJob, without the wait for a lost record", err)
	}
}

// A record that was removed is told from one that the servers have lost, so the results of
// a job that has ended delay nothing. A lost record is waited for.
func TestWorker_TellsEndedJobsFromLostDisks(t *testing.T) {
	t.Parallel()
	s, b := start(t)
	h := open(t, b, job("batch"))
	w := join(t, b, "w1", "batch")
	handOut(t, h, numbered(1)...)
	task := take(t, w, 1)[0]
	revision := task.Handle.(*taken).revision
	if err := h.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.Close()
	if !b.isRemoved(within(t, time.Minute), revision) {
		t.Error("the record of a job that has ended counts as lost")
	}
	s.loseDisk(t)
	eventually(t, "the server is back", func() bool {
		_, err := b.put(t.Context(), registryBucket, "state.other", nil)
		return err == nil
	})
	if b.isRemoved(within(t, time.Minute), revision) {
		t.Error("a record that the server has lost counts as removed")
	}
}

func TestWorker_CloseHandsBackWhatIsAhead(t *testing.T) {
	t.Parallel()
	b, _, w := startJob(t, 5)
	take(t, w, 1)
	w.pull(4)
	eventually(t, "requests are ahead", func() bool {
		w.jobs[0].puller.mu.Lock()
		defer w.jobs[0].puller.mu.Unlock()
		return len(w.jobs[0].puller.queue) > 0
	})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	take(t, join(t, b, "w2", "batch"), 4)
	if d := time.Since(start); d > time.Second {
		t.Errorf("another worker got the requests after %v: want immediately", d)
	}
}

// The last report of a worker that has ended by itself stays; that of another is removed.
func TestWorker_ReportOfStoppedWorkerStays(t *testing.T) {
	t.Parallel()
	_, b := start(t)
	open(t, b, job("a"))
	for name, state := range map[string]queue.WorkerState{"w1": {Problem: "AUTH_ERROR", Stopped: true}, "w2": {}} {
		w := join(t, b, name, "")
		if err := w.Report(within(t, time.Minute), state); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	jobs, err := b.Jobs(t.Context())
	if err != nil || len(jobs) != 1 {
		t.Fatalf("Jobs = %v, %v", jobs, err)
	}
	if w := jobs[0].Workers; len(w) != 1 || w[0].Name != "w1" || w[0].Problem != "AUTH_ERROR" || !w[0].Stopped {
		t.Errorf("workers = %+v, want w1 with its problem", w)
	}
}

func TestQueue_LargePayloads(t *testing.T) {
	t.Parallel()
	_, b := start(t)
	h := open(t, b, job("batch"))
	w := join(t, b, "w1", "batch")
	line, answer := make([]byte, largeLine), make([]byte, largeAnswer)
	for i := range answer {
		answer[i] = byte(i >> 8)
	}
	copy(line, answer)
	handOut(t, h, queue.Request{ID: "large", Line: line, Attempts: 2})
	task := take(t, w, 1)[0]
	if string(task.Line) != string(line) || task.Attempts != 2 {
		t.Fatalf("the line has changed on its way, %d bytes, attempts %d", len(task.Line), task.Attempts)
	}
	if err := w.Finish(within(t, time.Minute), task, answer); err != nil {
		t.Fatal(err)
	}
	got, err := h.Results(within(t, time.Minute), 1)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got[0].Payload, answer) {
		t.Fatalf("the result has changed on its way, %d bytes", len(got[0].Payload))
	}
	if err := h.Ack(got); err != nil {
		t.Fatal(err)
	}
	stream, err := b.js.Stream(t.Context(), "OBJ_"+objectBucket(token("batch")))
	if err != nil {
		t.Fatal(err)
	}
	if kept := stream.CachedInfo().State.Bytes; kept > 10_000 {
		t.Errorf("the objects keep %d bytes after the acknowledgment", kept)
	}
}

func TestQueue_ReadsFewObjectsAtOnce(t *testing.T) {
	t.Parallel()
	_, b := start(t)
	b.maxInline, b.mostLoaded = 1000, 3000 // objects of 2000 bytes: two are enough
	h := open(t, b, job("batch"))
	w := join(t, b, "w1", "batch")
	large := make([]byte, 2000)
	for i := range 6 {
		handOut(t, h, queue.Request{ID: queue.ID(fmt.Sprint("r", i)), Line: large})
	}
	eventually(t, "six requests are held", func() bool { return len(held(t, h)) == 6 })
	for n := 0; n < 6; {
		tasks, err := w.Take(within(t, time.Minute), 10)
		if err != nil || len(tasks) > 2 {
			t.Fatalf("Take = %d tasks, %v: want at most two", len(tasks), err)
		}
		n += len(tasks)
		for _, task := range tasks {
			if err := w.Finish(within(t, time.Minute), task, large); err != nil {
				t.Fatal(err)
			}
		}
	}
	for n := 0; n < 6; {
		got, err := h.Results(within(t, time.Minute), 10)
		if err != nil || len(got) > 2 {
			t.Fatalf("Results = %d, %v: want at most two", len(got), err)
		}
		n += len(got)
		if err := h.Ack(got); err != nil {
			t.Fatal(err)
		}
	}
}

// A result that was on its way when a connection broke must be back before the head hands
// out its request again.
func TestHead_ResultComesBackUnlessAcknowledged(t *testing.T) {
	t.Parallel()
	_, h, w := startJob(t, 1)
	finish(t, w, take(t, w, 1)...)
	if _, err := h.Results(within(t, time.Minute), 1); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	results(t, h, 1)
	if d := time.Since(start); d > resultsAgainAfter+3*time.Second {
		t.Errorf("the result came back after %v: want about %v", d, resultsAgainAfter)
	}
}

// The clock of the queue tells which workers have lapsed.
func TestBroker_WorkersLapse(t *testing.T) {
	t.Parallel()
	_, b := start(t)
	w := join(t, b, "w1", "")
	reported := time.Now() // the server receives the report later
	if err := w.Report(t.Context(), queue.WorkerState{}); err != nil {
		t.Fatal(err)
	}
	lapsed := func() bool {
		workers, err := b.workers(within(t, time.Minute))
		return err == nil && len(workers) == 1 && workers[0].Lapsed
	}
	if lapsed() && time.Since(reported) < queue.LapseAfter {
		t.Error("a worker has lapsed after its report")
	}
	for !lapsed() {
		if time.Since(reported) > forgetWorkers {
			t.Fatal("a silent worker does not lapse")
		}
		time.Sleep(500 * time.Millisecond)
	}
	if d := time.Since(reported); d < queue.LapseAfter {
		t.Errorf("it lapsed after %v: want at least %v", d, queue.LapseAfter)
	}
}

func TestQueue_JobsAndCancel(t *testing.T) {
	t.Parallel()
	_, b := start(t)
	h := open(t, b, job("b/Batch 2"))
	open(t, b, job("a"))
	w := join(t, b, "node-7.example", "b/Batch 2")
	handOut(t, h, numbered(5)...)
	finish(t, w, take(t, w, 2)[0])
	if err := h.Report(t.Context(), queue.State{Requests: 9, Answered: 1}); err != nil {
		t.Fatal(err)
	}
	if err := w.Report(t.Context(), queue.WorkerState{InFlight: 1, Gateways: []string{"http://g"}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the acknowledgment has arrived", func() bool { return len(held(t, h)) == 4 })
	jobs, err := b.Jobs(t.Context())
	if err != nil || len(jobs) != 2 || jobs[0].Job != "a" || jobs[1].Job != "b/Batch 2" {
		t.Fatalf("Jobs = %+v, %v", jobs, err)
	}
	s := jobs[1]
	if s.Requests != 9 || s.Answered != 1 || s.Waiting != 3 || s.Taken != 1 || s.Results != 1 || time.Since(s.HeadSeen) > time.Minute {
		t.Errorf("status = %+v", s)
	}
	if len(jobs[0].Workers) != 0 || len(s.Workers) != 1 || s.Workers[0].Name != "node-7.example" || s.Workers[0].InFlight != 1 {
		t.Errorf("workers of a = %+v, of b = %+v", jobs[0].Workers, s.Workers)
	}
	if err := b.Cancel(t.Context(), "c"); !errors.Is(err, queue.ErrNoJob) {
		t.Errorf("Cancel of an unknown job = %v: want ErrNoJob", err)
	}
	if err := b.Cancel(t.Context(), "b/Batch 2"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Results(within(t, time.Minute), 1); err == nil {
		_, err = h.Results(within(t, time.Minute), 1)
		if !errors.Is(err, queue.ErrCanceled) {
			t.Errorf("Results after Cancel = %v: want ErrCanceled", err)
		}
	}
	if err := h.HandOut(t.Context(), numbered(1)[0]); !errors.Is(err, queue.ErrCanceled) {
		t.Errorf("HandOut after Cancel = %v: want ErrCanceled", err)
	}
	h.Close()
	if r, _, err := b.find(t.Context(), token("b/Batch 2")); r != nil || err != nil {
		t.Errorf("the record after Close = %v, %v: want none", r, err)
	}
}

func TestToken_NamesDoNotCollide(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("long.", 60)
	seen := map[string]string{}
	for _, name := range []string{"a", "A", "a.b", "a_2eb", "a b", "a*", "a>", "a/b", "ä", "_41", "", long, long + "x", strings.ToUpper(long)} {
		token := token(name)
		if other, ok := seen[strings.ToLower(token)]; ok {
			t.Errorf("%q and %q have the token %s", name, other, token)
		}
		seen[strings.ToLower(token)] = name
		if len(token) > 150 || strings.ContainsAny(token, ".*> /\\") {
			t.Errorf("token(%q) = %q", name, token)
		}
	}
}

func TestDial_Failures(t *testing.T) {
	t.Parallel()
	const secret = "hunter2"
	dir := t.TempDir()
	s, err := Serve("127.0.0.1:0", dir, "user:"+secret)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	broken := filepath.Join(dir, secret+".creds")
	if err := os.WriteFile(broken, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, url, credentials, want string }{
		{"unreachable", "nats://user:" + secret + "@" + free.Addr().String(), "", "no server can be reached"},
		{"no credentials", s.URL(), "", "credentials are wrong or missing"},
		{"wrong password", s.URL(), "user:" + secret + "x", "credentials are wrong or missing"},
		{"wrong token", s.URL(), secret, "credentials are wrong or missing"},
		{"no such file", s.URL(), filepath.Join(dir, "none.creds"), "no such file"},
		{"a file without credentials", s.URL(), broken, "no nkey seed found"},
	} {
		_, err := Dial(t.Context(), Options{URL: c.url, Credentials: c.credentials})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v: want %q", c.name, err, c.want)
		}
		if err != nil && strings.Contains(strings.ReplaceAll(err.Error(), broken, ""), secret) {
			t.Errorf("%s: the error has the credentials: %v", c.name, err)
		}
	}
	q, err := Dial(t.Context(), Options{URL: s.URL() + "," + s.URL(), Credentials: "user:" + secret})
	if err != nil {
		t.Fatal(err)
	}
	q.Close()
}
