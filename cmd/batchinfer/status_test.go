package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

// newStatusQueue returns a queue with two jobs and two workers. The head of the second
// job has not reported.
func newStatusQueue(t *testing.T) *memQueue {
	t.Helper()
	q := newMemQueue()
	first := newJob(t, q, "answers", 3)
	newJob(t, q, "night run", 1)
	if err := first.head.Report(t.Context(), queue.State{Requests: 20000, Answered: 1500, Failed: 2, HandedOut: 3}); err != nil {
		t.Fatal(err)
	}
	for name, state := range map[string]queue.WorkerState{
		"node-1": {Gateways: []string{"http://a:8000", "http://b:8000"}, InFlight: 40, Limit: 256, Finished: 1200},
		"node-2": {Gateways: []string{"http://c:8000"}, InFlight: 7, Limit: 16, Finished: 302},
	} {
		w, err := q.Join(t.Context(), name, "")
		if err == nil {
			err = w.Report(t.Context(), state)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	q.change(func() { q.jobs["night run"].seen = time.Time{} })
	return q
}

// A worker that was killed is listed for a while, but does not count.
func TestStatus_Prints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newStatusQueue(t)
		time.Sleep(83 * time.Second)
		q.change(func() {
			alive := q.workers["node-2"]
			alive.Seen = time.Now().Add(-queue.LapseAfter)
			q.workers["node-2"] = alive
		})
		var out bytes.Buffer
		if err := printStatus(t.Context(), &out, q, "", false); err != nil {
			t.Fatal(err)
		}
		want := `
JOB          REQUESTS  ANSWERED  FAILED  HANDED OUT  WAITING  TAKEN  RESULTS  WORKERS  HEAD SEEN
answers         20000      1500       2           3        3      0        0        1  1m23s ago
"night run"         0         0       0           0        1      0        0        1      never

WORKER  IN FLIGHT  LIMIT  FINISHED       SEEN  GATEWAYS
node-1         40    256      1200  1m23s ago  http://a:8000 http://b:8000
node-2          7     16       302     8s ago  http://c:8000
`
		if got := "\n" + out.String(); got != want {
			t.Errorf("got %s\nwant %s", got, want)
		}
	})
}

func TestStatus_OneJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newStatusQueue(t)
		var out bytes.Buffer
		if err := printStatus(t.Context(), &out, q, "answers", false); err != nil {
			t.Fatal(err)
		}
		if got := out.String(); !strings.Contains(got, "answers ") || strings.Contains(got, "night") {
			t.Errorf("got %s\nwant the job answers alone", got)
		}
		out.Reset()
		if err := printStatus(t.Context(), &out, q, "answer", false); !errors.Is(err, queue.ErrNoJob) || out.Len() > 0 {
			t.Errorf("an unknown job: got %q, %v, want %v", out.String(), err, queue.ErrNoJob)
		}
	})
}

// A queue without jobs is not a failure.
func TestStatus_NoJobs(t *testing.T) {
	for asJSON, want := range map[bool]string{false: "no jobs\n", true: "[]\n"} {
		var out bytes.Buffer
		if err := printStatus(t.Context(), &out, newMemQueue(), "", asJSON); err != nil || out.String() != want {
			t.Errorf("JSON %v: got %q, %v, want %q", asJSON, out.String(), err, want)
		}
	}
}

// Scripts find a list of jobs, each with a list of workers, even if there are none.
func TestStatus_JSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemQueue()
		newJob(t, q, "answers", 3)
		for _, job := range []string{"", "answers"} {
			var out bytes.Buffer
			if err := printStatus(t.Context(), &out, q, job, true); err != nil {
				t.Fatal(err)
			}
			var all []map[string]any
			if err := json.Unmarshal(out.Bytes(), &all); err != nil || len(all) != 1 {
				t.Fatalf("got %s, %v, want a list of one job", out.String(), err)
			}
			if workers, ok := all[0]["workers"].([]any); !ok || len(workers) > 0 || all[0]["job"] != "answers" || all[0]["waiting"] != 3.0 {
				t.Errorf("got %v, want the job answers with 3 waiting and an empty list of workers", all[0])
			}
		}
		w, _ := q.Join(t.Context(), "node", "")
		_ = w.Report(t.Context(), queue.WorkerState{})
		var out bytes.Buffer
		if err := printStatus(t.Context(), &out, q, "", true); err != nil || !strings.Contains(out.String(), `"gateways":[]`) {
			t.Errorf("got %s, %v, want an empty list of gateways", out.String(), err)
		}
	})
}

// A head that has never reported has no time at which it was seen.
func TestStatus_JSONWithoutReport(t *testing.T) {
	var out bytes.Buffer
	if err := writeStatus(&out, []queue.Status{{Job: "a"}}); err != nil || strings.Contains(out.String(), "head_seen") {
		t.Errorf("got %s, %v, want no head_seen", out.String(), err)
	}
}

// Names come from other machines: they can't move the cursor, or look like a row.
func TestStatus_QuotesNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const odd = "a\x1b[2J\nb\tc"
		q := newMemQueue()
		newJob(t, q, odd, 1)
		w, _ := q.Join(t.Context(), odd, "")
		_ = w.Report(t.Context(), queue.WorkerState{Gateways: []string{odd}})
		var out bytes.Buffer
		if err := printStatus(t.Context(), &out, q, "", false); err != nil {
			t.Fatal(err)
		}
		if got := out.String(); strings.ContainsAny(got, "\x1b\t") || strings.Count(got, "\n") != 5 {
			t.Errorf("got %q, want 5 lines without control characters", got)
		}
	})
}

// A name can be given to -job as it is printed.
func TestCellOf(t *testing.T) {
	long := strings.Repeat("x", maxJobBytes)
	for name, want := range map[string]string{
		"answers.jsonl": "answers.jsonl", long: long, "größe": "größe", "": `""`, "a b": `"a b"`, "a\nb": `"a\nb"`, `a"b`: `"a\"b"`,
	} {
		if got := cellOf(name); got != want {
			t.Errorf("%q: got %s, want %s", name, got, want)
		}
	}
}

// The clock of a server may be ahead of this machine's.
func TestSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for age, want := range map[time.Duration]string{
			-time.Minute: "0s ago", 400 * time.Millisecond: "0s ago", 90 * time.Second: "1m30s ago",
		} {
			if got := seen(time.Now().Add(-age)); got != want {
				t.Errorf("%v ago: got %q, want %q", age, got, want)
			}
		}
	})
}

// A worker that can't ask requests has a line that says why.
func TestStatus_PrintsProblems(t *testing.T) {
	got := workerProblems([]queue.WorkerStatus{
		{Name: "node-1"},
		{Name: "node-2", WorkerState: queue.WorkerState{Problem: "the gateway is unreachable: timeout"}},
		{Name: "node-3", WorkerState: queue.WorkerState{Problem: "AUTH_ERROR: HTTP 401: no\x1b[2J", Stopped: true}},
	})
	want := "\nworker node-2: the gateway is unreachable: timeout\nworker node-3 stopped: AUTH_ERROR: HTTP 401: no\uFFFD[2J\n"
	if got != want {
		t.Errorf("got %q\nwant %q", got, want)
	}
}
