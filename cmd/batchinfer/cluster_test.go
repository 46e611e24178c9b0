//go:build unix

package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

var (
	clusterRequests = flag.Int("cluster.requests", 6000, "requests in the input of TestCluster_KillsLoseNothing")
	clusterKill     = flag.Duration("cluster.kill", time.Second, "time between two kills of TestCluster_KillsLoseNothing")
	clusterKills    = flag.Int("cluster.kills", 13, "kills of TestCluster_KillsLoseNothing, at most")
)

// A cluster is a number of NATS servers, each a process.
type cluster struct {
	t       *testing.T
	servers []*natsServer
	env     []string // of the servers
}

type natsServer struct {
	name string
	port int
	args []string
	dir  string
	cmd  *exec.Cmd
}

// startCluster starts n servers with additions to the environment, and waits until they
// are ready.
func startCluster(t *testing.T, n int, env ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, env: append(os.Environ(), append(env, asServer+"=1")...)}
	ports := freePorts(t, 2*n)
	var routes []string
	for _, port := range ports[n:] {
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", port))
	}
	for i := range n {
		s := &natsServer{name: fmt.Sprint("n", i), port: ports[i], dir: filepath.Join(t.TempDir(), fmt.Sprint("n", i))}
		s.args = []string{"-n", s.name, "-a", "127.0.0.1", "-p", fmt.Sprint(s.port), "-js", "-sd", s.dir}
		if n > 1 {
			s.args = append(s.args, "-cluster_name", "test", "-cluster", routes[i], "-routes", strings.Join(routes, ","))
		}
		c.servers = append(c.servers, s)
		c.start(s)
	}
	c.waitReady()
	return c
}

func (c *cluster) start(s *natsServer) {
	c.t.Helper()
	s.cmd = exec.CommandContext(c.t.Context(), os.Args[0], s.args...)
	s.cmd.Env = c.env
	if err := s.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	cmd := s.cmd
	c.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// kill kills a server as a loss of power does.
func (c *cluster) kill(s *natsServer) {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

func (c *cluster) url() string {
	var urls []string
	for _, s := range c.servers {
		urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", s.port))
	}
	return strings.Join(urls, ",")
}

// admin returns a connection to the cluster.
func (c *cluster) admin() jetstream.JetStream {
	c.t.Helper()
	nc, err := nats.Connect(c.url(), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		c.t.Fatal(err)
	}
	return js
}

// waitReady waits until the servers make streams.
func (c *cluster) waitReady() {
	c.t.Helper()
	js := c.admin()
	eventually(c.t, time.Minute, "the servers make a stream", func() bool {
		ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Second)
		defer cancel()
		_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "ready", Subjects: []string{"ready"}, Replicas: len(c.servers)})
		return err == nil && js.DeleteStream(ctx, "ready") == nil
	})
}

// leader returns the server that leads a stream of the job, or nil.
func (c *cluster) leader(js jetstream.JetStream) *natsServer {
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Second)
	defer cancel()
	streams := js.ListStreams(ctx)
	for info := range streams.Info() {
		if info.Cluster == nil || !strings.HasPrefix(info.Config.Name, "BATCHINFER_") {
			continue
		}
		for _, s := range c.servers {
			if s.name == info.Cluster.Leader {
				return s
			}
		}
	}
	return nil
}

// A farm is a job with its head and its workers, each a process, and a gateway.
type farm struct {
	t        *testing.T
	queue    string
	requests int
	in, out  string
	config   string
	gateway  *gateway
	stderr   sync.Map // *exec.Cmd → *bytes.Buffer
}

func newFarm(t *testing.T, queue string, requests int, g *gateway) *farm {
	f := &farm{t: t, queue: queue, requests: requests, gateway: g, in: writeFile(t, inputOf(requests)), out: filepath.Join(t.TempDir(), "out")}
	f.config = writeFile(t, fastRetries+"queue_dead_after: 4s\n")
	return f
}

// run starts the program as a process.
func (f *farm) run(args ...string) *exec.Cmd {
	f.t.Helper()
	cmd := command(f.t, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	f.stderr.Store(cmd, &stderr)
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func (f *farm) head() *exec.Cmd {
	return f.run("-input", f.in, "-output", f.out, "-queue", f.queue, "-config", f.config)
}

// worker starts a worker whose requests reach the gateway below a path.
func (f *farm) worker(path string) *exec.Cmd {
	return f.run("work", "-queue", f.queue, "-url", f.gateway.URL+path, "-concurrency", "16", "-config", f.config)
}

func (f *farm) printed(cmd *exec.Cmd) string {
	text, _ := f.stderr.Load(cmd)
	return text.(*bytes.Buffer).String()
}

// wantOnce checks that each request has one answer.
func (f *farm) wantOnce() {
	f.t.Helper()
	answers := answersIn(f.t, f.out) // reports a second line
	for n := range f.requests {
		if a := answers[fmt.Sprint("r", n)]; !a.succeeded() {
			f.t.Errorf("request %d: got %+v, want an answer", n, a)
		}
	}
	if len(answers) != f.requests {
		f.t.Errorf("got %d answers, want %d", len(answers), f.requests)
	}
}

// slowGateway answers after some time, so that kills find requests under way.
func slowGateway(t *testing.T, d time.Duration) *gateway {
	return newGateway(t, func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		select {
		case <-time.After(d):
		case <-r.Context().Done():
		}
		return false
	})
}

// Workers, the leading server and the head are killed in turn. Each request is answered
// once, and hardly any is asked twice.
//
//	go test -run Cluster_Kills -v -cluster.requests 100000 -cluster.kill 2s -cluster.kills 1000
func TestCluster_KillsLoseNothing(t *testing.T) {
	t.Parallel() // it mostly waits
	requests := *clusterRequests
	c := startCluster(t, 3)
	f := newFarm(t, c.url(), requests, slowGateway(t, 40*time.Millisecond))
	// Electing a leader takes up to 9 s, in which no worker can renew its requests.
	f.config = writeFile(t, fastRetries+"queue_dead_after: 10s\n")
	js := c.admin()
	head := f.head()
	workers := make([]*exec.Cmd, 4)
	for i := range workers {
		workers[i] = f.worker("")
	}
	ended := make(chan error, 1)
	wait := func(cmd *exec.Cmd) { ended <- cmd.Wait() }
	go wait(head)
	kills := map[string]int{}
	kill := func(n int) (killed *natsServer) {
		switch {
		case n%7 == 3:
			if killed = c.leader(js); killed != nil {
				kills["leader"]++
				c.kill(killed)
			}
		case n%12 == 6:
			kills["head"]++
			_ = head.Process.Kill()
			<-ended
			head = f.head()
			go wait(head)
		default:
			kills["worker"]++
			i := rand.IntN(len(workers))
			_ = workers[i].Process.Kill()
			_ = workers[i].Wait()
			workers[i] = f.worker("")
		}
		return killed
	}
	var down *natsServer
	for n := 1; ; n++ {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("the head: %v\n%s", err, f.printed(head))
			}
			f.wantOnce()
			again := f.gateway.again()
			t.Logf("%d requests, killed: %v; %d asked again (%.2f %%)", requests, kills, again, 100*float64(again)/float64(requests))
			most := requests / 50
			if requests < 20_000 {
				most = requests / 4 // a short run consists of kills
			}
			if again > most {
				t.Errorf("%d requests were asked again, want at most %d", again, most)
			}
			return
		case <-time.After(*clusterKill):
		}
		if down != nil {
			c.start(down)
			down = nil
		} else if n <= *clusterKills {
			down = kill(n)
		}
	}
}

// All servers are killed in the middle of a run, and their disks are lost.
func TestCluster_DisksOfAllServersAreLost(t *testing.T) {
	t.Parallel() // it mostly waits
	c := startCluster(t, 3)
	f := newFarm(t, c.url(), 2000, slowGateway(t, 20*time.Millisecond))
	head := f.head()
	for range 2 {
		f.worker("")
	}
	eventually(t, time.Minute, "a third of the requests is asked", func() bool { return f.gateway.requests() > 700 })
	for _, s := range c.servers {
		c.kill(s)
		if err := os.RemoveAll(s.dir); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range c.servers {
		c.start(s)
	}
	if err := head.Wait(); err != nil {
		t.Fatalf("the head: %v\n%s", err, f.printed(head))
	}
	f.wantOnce()
	t.Logf("%d of %d requests were asked again", f.gateway.again(), f.requests)
}

// A worker that is frozen longer than its requests are kept, and comes back, changes
// nothing in the output.
func TestCluster_FrozenWorkerComesBack(t *testing.T) {
	t.Parallel() // it mostly waits
	c := startCluster(t, 1)
	var ofFrozen atomic.Int32
	f := newFarm(t, c.url(), 8000, newGateway(t, func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		if strings.HasPrefix(r.URL.Path, "/frozen/") {
			ofFrozen.Add(1)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-r.Context().Done():
		}
		return false
	}))
	head := f.head()
	frozen := f.worker("/frozen")
	eventually(t, time.Minute, "the worker works", func() bool { return ofFrozen.Load() > 100 })
	_ = frozen.Process.Signal(syscall.SIGSTOP)
	f.worker("")
	before := ofFrozen.Load()
	eventually(t, time.Minute, "the other worker gets its requests", func() bool { return f.gateway.again() > 0 })
	_ = frozen.Process.Signal(syscall.SIGCONT)
	if err := head.Wait(); err != nil {
		t.Fatalf("the head: %v\n%s", err, f.printed(head))
	}
	f.wantOnce()
	t.Logf("%d requests of the worker before, %d after it came back; %d asked again", before, ofFrozen.Load()-before, f.gateway.again())
	if ofFrozen.Load() < before+100 {
		t.Error("the worker did not come back before the end")
	}
}

// A request that kills each worker that asks it becomes an error, and takes no other
// request with it.
func TestCluster_RequestThatKillsItsWorkers(t *testing.T) {
	t.Parallel() // it mostly waits
	c := startCluster(t, 1)
	const poison = "r77"
	var mu sync.Mutex
	workers := make(map[string]*exec.Cmd)
	deaths := 0
	g := newGateway(t, func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		if r.Header.Get("X-Request-ID") != poison {
			time.Sleep(10 * time.Millisecond)
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		name, _, _ := strings.Cut(r.URL.Path[1:], "/")
		if cmd := workers[name]; cmd != nil {
			_ = cmd.Process.Kill()
			delete(workers, name)
			deaths++
		}
		return false
	})
	f := newFarm(t, c.url(), 300, g)
	head := f.head()
	started := 0
	revive := func() {
		mu.Lock()
		defer mu.Unlock()
		for len(workers) < 2 {
			started++
			name := fmt.Sprint("w", started)
			workers[name] = f.worker("/" + name)
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- head.Wait() }()
	for running := true; running; {
		revive()
		select {
		case err := <-ended:
			if code := head.ProcessState.ExitCode(); code != exitFailed {
				t.Fatalf("the head: %v, want status %d\n%s", err, exitFailed, f.printed(head))
			}
			running = false
		case <-time.After(100 * time.Millisecond):
		}
	}
	answers := answersIn(t, f.out)
	for id, a := range answers {
		if id == poison {
			if a.Error == nil || a.Error.Code != "worker_lost" {
				t.Errorf("%s: got %+v, want the error worker_lost", id, a)
			}
		} else if !a.succeeded() {
			t.Errorf("%s: got %+v, want an answer", id, a.Error)
		}
	}
	if len(answers) != f.requests {
		t.Errorf("got %d answers, want %d", len(answers), f.requests)
	}
	t.Logf("%d workers were killed", deaths)
	if deaths > 6 {
		t.Errorf("%d workers were killed, want at most 3 alone and 2 before", deaths)
	}
}

// A worker that gets SIGTERM hands back its requests, so that others need not wait until
// it is taken for dead.
func TestCluster_TerminatedWorkerHandsBack(t *testing.T) {
	t.Parallel() // it mostly waits
	c := startCluster(t, 1)
	f := newFarm(t, c.url(), 600, slowGateway(t, 20*time.Millisecond))
	f.config = writeFile(t, fastRetries+"queue_dead_after: 10m\n")
	head := f.head()
	first := f.worker("")
	f.worker("")
	eventually(t, time.Minute, "the worker works", func() bool { return f.gateway.requests() > 100 })
	_ = first.Process.Signal(syscall.SIGTERM)
	if err := first.Wait(); err != nil {
		t.Errorf("the worker: %v\n%s", err, f.printed(first))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	context.AfterFunc(ctx, func() { _ = head.Process.Kill() })
	if err := head.Wait(); err != nil {
		t.Fatalf("the head: %v, want that it ends without the worker\n%s", err, f.printed(head))
	}
	f.wantOnce()
	if again := f.gateway.again(); again > 0 {
		t.Errorf("%d requests were asked twice, want none", again)
	}
}

// A head that is started after another was killed says why it waits, and continues.
func TestCluster_HeadWaitsForAnotherThatMayBeAlive(t *testing.T) {
	t.Parallel() // it mostly waits
	c := startCluster(t, 1)
	f := newFarm(t, c.url(), 100, slowGateway(t, time.Millisecond))
	killed := f.head()
	eventually(t, time.Minute, "the job is there", func() bool {
		return strings.Contains(startPlain(t, "status", "-queue", c.url()).stdout, " 100 ")
	})
	_ = killed.Process.Kill()
	_ = killed.Wait()
	f.worker("")
	head := f.head()
	if err := head.Wait(); err != nil {
		t.Fatalf("the head: %v\n%s", err, f.printed(head))
	}
	f.wantOnce()
	if want := "waiting for a sign of it, for up to 4s"; !strings.Contains(f.printed(head), want) {
		t.Errorf("the head does not say %q:\n%s", want, f.printed(head))
	}
}
