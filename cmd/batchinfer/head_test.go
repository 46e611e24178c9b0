package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/natsqueue"
	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

// A mistake in the flags or keys of a head is reported before anything is sent, with
// status 2, and without a secret.
func TestHead_Mistakes(t *testing.T) {
	in := writeFile(t, inputOf(2))
	for _, tt := range []struct {
		name   string
		args   []string
		config string
		want   string
	}{
		{"no URL", []string{"-queue", "q"}, "", "-queue: must begin with nats:// or tls:// and a host"},
		{"another scheme", []string{"-queue", "http://q:4222"}, "", "-queue: must begin with nats:// or tls:// and a host"},
		{"port", []string{"-queue", ":x"}, "", "-queue: must have a port from 1 to 65535"},
		{"port alone", []string{"-queue", "4222"}, "", "such as :4222"},
		{"address without port", []string{"-queue", "[::]"}, "", "such as :4222"},
		{"port 0", []string{"-queue", ":0"}, "", "-queue: must have a port from 1 to 65535"},
		{"gateway", []string{"-queue", "nats://q", "-url", "http://g"}, "", "-url: is a flag of the workers"},
		{"gateway and key", []string{"-url", "http://g"}, "queue_url: nats://q\n", "-url: is a flag of the workers"},
		{"rate", []string{"-queue", "nats://q", "-rps", "3"}, "", "-rps: is a flag of the workers"},
		{"shard", []string{"-queue", "nats://q", "-shard", "0/2"}, "", "-shard: the queue divides the requests by itself"},
		{"unreachable", []string{"-queue", "nats://me:p4ss@127.0.0.1:1"}, "", "queue nats://127.0.0.1:1: no server can be reached"},
		{"window", []string{"-queue", "nats://q"}, "queue_window: 0\n", "queue_window: is 0"},
		{"dead after", []string{"-queue", "nats://q"}, "queue_dead_after: soon\n", "queue_dead_after: "},
		{"dead too soon", []string{"-queue", "nats://q"}, "queue_dead_after: 999ms\n", "queue_dead_after: must be a duration of at least 1s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			o := startPlain(t, append(tt.args, "-input", in, "-output", out, "-config", writeFile(t, tt.config))...)
			o.want(t, exitUsage, tt.want)
			if strings.Contains(o.stderr, "p4ss") {
				t.Errorf("the password is in the message: %s", o.stderr)
			}
			if _, err := os.Stat(out); err == nil {
				t.Error("the output was created")
			}
		})
	}
}

// Names that are too long are refused before anything is sent.
func TestHead_LongNames(t *testing.T) {
	in, long := writeFile(t, inputOf(2)), filepath.Join(t.TempDir(), strings.Repeat("x", maxJobBytes+1))
	startPlain(t, "-input", in, "-output", long, "-queue", "nats://127.0.0.1:1").want(t, exitUsage, "longer than 128 bytes: set queue_job")
	g := newGateway(t, nil)
	longer := filepath.Join(t.TempDir(), strings.Repeat("x", 240))
	startPlain(t, "-input", in, "-output", longer, "-url", g.URL).want(t, exitUsage, "a file beside it would be: ")
	if len(g.asked) > 0 {
		t.Error("requests were sent")
	}
	if _, err := os.Stat(longer); err == nil {
		t.Error("the output was created")
	}
}

// serveQueue starts a server with a queue, and returns its URL.
func serveQueue(t *testing.T) string {
	t.Helper()
	s, err := natsqueue.Serve(fmt.Sprintf("127.0.0.1:%d", freePorts(t, 1)[0]), t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s.URL()
}

// A head that has filled the disk of the queue stops, and the same command with a smaller
// window finishes the job.
func TestHead_FullDiskOfQueue(t *testing.T) {
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, JetStream: true, JetStreamMaxStore: 128 << 10, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer s.WaitForShutdown()
	defer s.Shutdown()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	// More than fit and may be unconfirmed, so that HandOut returns the failure.
	in, out := writeFile(t, inputOf(3000)), filepath.Join(t.TempDir(), "out")
	head := func(window string) outcome {
		settings := writeFile(t, "queue_dead_after: 1h\nqueue_window: "+window+"\n")
		return startPlain(t, "-config", settings, "-input", in, "-output", out, "-queue", s.ClientURL())
	}
	head("20000").want(t, exitFailed, "start again with queue_window, which is 20000, below that", "0 of 3000 requests are answered")

	g := newGateway(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	worker := make(chan outcome, 1)
	go func() {
		worker <- start(ctx, nil, strings.NewReader(""), "work", "-queue", s.ClientURL(), "-url", g.URL)
	}()
	head("100").want(t, exitOK)
	cancel()
	(<-worker).want(t, exitOK)
	if answers := answersIn(t, out); len(answers) != 3000 {
		t.Errorf("got %d answers, want 3000", len(answers))
	}
}

// A head with the server inside, a worker, status and cancel, as a user starts them.
func TestHead_ServerInside(t *testing.T) {
	g := newGateway(t, nil)
	out := filepath.Join(t.TempDir(), "out")
	address := fmt.Sprintf("127.0.0.1:%d", freePorts(t, 1)[0])
	url := "nats://" + address
	head := make(chan outcome, 1)
	go func() {
		head <- startPlain(t, "-input", writeFile(t, inputOf(50)), "-output", out, "-queue", address)
	}()
	var jobs []queue.Status
	eventually(t, time.Minute, "the job is there", func() bool {
		o := startPlain(t, "status", "-queue", url, "-json")
		return o.status == exitOK && json.Unmarshal([]byte(o.stdout), &jobs) == nil && len(jobs) == 1 && jobs[0].Waiting == 50
	})
	if jobs[0].Job != "out" || jobs[0].Requests != 50 {
		t.Errorf("got %+v, want the job out with 50 requests", jobs[0])
	}
	startPlain(t, "status", "-queue", url, "-job", "other").want(t, exitFailed, `job "other": there is no such job`)
	startPlain(t, "cancel", "-queue", url, "-job", "other").want(t, exitFailed, `job "other": there is no such job`)
	startPlain(t, "cancel", "-queue", url).want(t, exitUsage, "-job is missing")
	if table := startPlain(t, "status", "-queue", url).stdout; !strings.Contains(table, "JOB  REQUESTS  ANSWERED") || !strings.Contains(table, "out        50         0") {
		t.Errorf("got the table\n%s", table)
	}

	ctx, cancel := context.WithCancel(t.Context())
	worker := make(chan outcome, 1)
	go func() { worker <- start(ctx, nil, strings.NewReader(""), "work", "-queue", url, "-url", g.URL) }()
	o := <-head
	o.want(t, exitOK, "50 requests for the workers of the job out: batchinfer work -queue "+url+" -url GATEWAY")
	cancel()
	(<-worker).want(t, exitOK)
	if answers := answersIn(t, out); len(answers) != 50 {
		t.Errorf("got %d answers, want 50", len(answers))
	}
	if _, err := os.Stat(out + ".queue"); err == nil {
		t.Error("the data of the server is still there")
	}
}

// A head warns of a job in the files of its server that nobody is the head of.
func TestHead_WarnsOfOtherJobs(t *testing.T) {
	t.Parallel() // it mostly waits
	out := filepath.Join(t.TempDir(), "out")
	address := fmt.Sprintf("127.0.0.1:%d", freePorts(t, 1)[0])
	s, err := natsqueue.Serve(address, out+".queue", "")
	if err != nil {
		t.Fatal(err)
	}
	q, err := natsqueue.Dial(t.Context(), natsqueue.Options{URL: s.URL()})
	if err != nil {
		t.Fatal(err)
	}
	h, err := q.Open(t.Context(), queue.Job{Name: "old job", Window: 10, DeadAfter: 30 * time.Second, MaxDeaths: 3, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	h.Close()
	q.Close()
	s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(3*time.Second, cancel)
	o := start(ctx, nil, strings.NewReader(""), "-input", writeFile(t, inputOf(5)), "-output", out, "-queue", address)
	o.want(t, exitInterrupted, `the queue also has the job old job, whose head has never reported: batchinfer cancel -queue nats://`+address+" -job 'old job' removes it")
}

// A head and a worker tell that the queue is out of reach, without its password.
func TestHead_TellsOfOutage(t *testing.T) {
	t.Parallel() // it mostly waits
	s, err := natsqueue.Serve("127.0.0.1:0", t.TempDir(), "me:p4ssw0rd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	url := strings.Replace(s.URL(), "//", "//me:p4ssw0rd@", 1)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	begin := func(args ...string) *sharedBuffer {
		var stderr sharedBuffer
		running.Go(func() {
			run(ctx, process{args, func(string) string { return "" }, strings.NewReader(""), io.Discard, &stderr})
		})
		return &stderr
	}
	head := begin("-queue", url, "-input", writeFile(t, inputOf(5)), "-output", filepath.Join(t.TempDir(), "out"))
	worker := begin("work", "-queue", url, "-url", "http://127.0.0.1:1")
	var jobs []queue.Status
	eventually(t, time.Minute, "the head and the worker have reported", func() bool {
		o := startPlain(t, "status", "-queue", url, "-json")
		return json.Unmarshal([]byte(o.stdout), &jobs) == nil && len(jobs) == 1 && !jobs[0].HeadSeen.IsZero() && len(jobs[0].Workers) == 1
	})
	s.Close()
	eventually(t, time.Minute, "both tell", func() bool {
		text := "batchinfer: queue " + s.URL() + ": unreachable since "
		return strings.Contains(head.String(), text) && strings.Contains(worker.String(), text)
	})
	if strings.Contains(head.String()+worker.String(), "p4ssw0rd") {
		t.Error("the password is in a message")
	}
}

// A head whose start fails leaves no files of its server.
func TestHead_FailureRemovesQueue(t *testing.T) {
	t.Parallel() // it mostly waits
	for name, input := range map[string]string{"missing": filepath.Join(t.TempDir(), "none"), "malformed": writeFile(t, "{\n")} {
		out := filepath.Join(t.TempDir(), "out")
		startPlain(t, "-input", input, "-output", out, "-queue", fmt.Sprintf("127.0.0.1:%d", freePorts(t, 1)[0])).want(t, exitUsage)
		if _, err := os.Stat(out + ".queue"); err == nil {
			t.Errorf("the input is %s: the files of the server are still there", name)
		}
	}
}

// The command for workers names the host, if the server listens on all of its addresses.
func TestHead_WorkCommand(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		":4222": host, "0.0.0.0:4222": host, "[::]:4222": host, "192.0.2.2:4222": "192.0.2.2", "node-1:4222": "node-1",
	} {
		h := &headQueue{server: &natsqueue.Server{}}
		if got := h.workCommand(&config{queueURL: address}); got != "batchinfer work -queue nats://"+want+":4222 -url GATEWAY" {
			t.Errorf("%s: got %s, want the host %s", address, got, want)
		}
	}
}

// A job that is canceled ends its head with status 1. The same command goes on later.
func TestHead_Canceled(t *testing.T) {
	url := serveQueue(t)
	out := filepath.Join(t.TempDir(), "answers 1.jsonl")
	args := []string{"-input", writeFile(t, inputOf(50)), "-output", out, "-queue", url}
	head := make(chan outcome, 1)
	go func() { head <- startPlain(t, args...) }()
	eventually(t, time.Minute, "the requests are in the queue", func() bool {
		return strings.Contains(startPlain(t, "status", "-queue", url).stdout, "  50 ")
	})
	startPlain(t, "cancel", "-queue", url, "-job", "answers 1.jsonl").want(t, exitOK)
	(<-head).want(t, exitFailed, "the job was canceled", "to go on:")
	if o := startPlain(t, "status", "-queue", url); o.stdout != "no jobs\n" {
		t.Errorf("got the table\n%s", o.stdout)
	}

	g := newGateway(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	worker := make(chan outcome, 1)
	go func() { worker <- start(ctx, nil, strings.NewReader(""), "work", "-queue", url, "-url", g.URL) }()
	startPlain(t, args...).want(t, exitOK)
	cancel()
	<-worker
}

// A second head of a job is refused while the first is alive.
func TestHead_Second(t *testing.T) {
	t.Parallel() // it mostly waits
	url := serveQueue(t)
	config := writeFile(t, "queue_job: night\nqueue_dead_after: 2s\n")
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan outcome, 1)
	args := func() []string {
		return []string{"-input", writeFile(t, inputOf(5)), "-output", filepath.Join(t.TempDir(), "out"), "-queue", url, "-config", config}
	}
	firstArgs := args()
	go func() { first <- start(ctx, nil, strings.NewReader(""), firstArgs...) }()
	eventually(t, time.Minute, "the job is there", func() bool {
		return startPlain(t, "status", "-queue", url, "-job", "night").status == exitOK
	})
	startPlain(t, args()...).want(t, exitUsage, "job night: another run is its head")
	cancel()
	(<-first).want(t, exitInterrupted, "0 of 5 requests are answered")
}

// The limit of a job follows the config file while the job runs, and a mistake in the
// file changes nothing.
func TestHead_LimitFollowsTheFile(t *testing.T) {
	name := writeFile(t, "queue_url: nats://q\nqueue_max_in_flight: 5\n")
	var log strings.Builder
	f := &limitFile{options: options{input: "in", output: "out", configFile: name}, getenv: func(string) string { return "" }, current: 5, log: &log}
	write := func(text string) {
		if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		f.modTime = time.Time{} // the clock of the file system may be coarse
	}
	want := func(limit int, changed bool, printed string) {
		t.Helper()
		log.Reset()
		if got, ok := f.changed(t.Context()); got != limit || ok != changed {
			t.Errorf("got %d, %v, want %d, %v", got, ok, limit, changed)
		}
		if !strings.Contains(log.String(), printed) || printed == "" && log.Len() > 0 {
			t.Errorf("printed %q, want %q", log.String(), printed)
		}
	}
	want(0, false, "")
	write("queue_url: nats://q\nqueue_max_in_flight: 7\n")
	want(7, true, "queue_max_in_flight is now 7")
	want(0, false, "")
	write("queue_url: nats://q\nqueue_max_in_flight: seven\n")
	want(0, false, "queue_max_in_flight remains 7: ")
	write("queue_url: nats://q\n")
	want(0, true, "queue_max_in_flight is now unlimited")

	write("queue_url: nats://q\nqueue_max_in_flight: 8\n")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	log.Reset()
	if _, ok := f.changed(ctx); ok || log.Len() > 0 {
		t.Errorf("after the end of the run: got %v and the line %q, want neither", ok, log.String())
	}
}
