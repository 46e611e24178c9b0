package natsqueue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

// loseDisk ends the server, and starts it at the same address with an empty directory.
func (s *Server) loseDisk(t *testing.T) {
	t.Helper()
	s.Close()
	next, err := Serve(s.address.String(), t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	s.server = next.server
}

func TestQueue_SurvivesLossOfDisk(t *testing.T) {
	t.Parallel()
	s, b := start(t)
	h := open(t, b, job("batch"))
	w := join(t, b, "w1", "")
	handOut(t, h, numbered(10)...)
	lost := take(t, w, 3)
	s.loseDisk(t)
	// The head hands out requests again that the queue does not hold, as its watchdog does.
	eventually(t, "the requests are forgotten", func() bool { return len(held(t, h)) == 0 })
	handOut(t, h, numbered(10)...)
	finish(t, w, lost...)
	finish(t, w, take(t, w, 10)...)
	seen := map[queue.ID]bool{}
	for len(seen) < 10 {
		got, err := h.Results(within(t, 15*time.Second), 100)
		if err != nil {
			t.Fatalf("after %d of 10 results: %v", len(seen), err)
		}
		for _, r := range got {
			seen[r.ID] = true
		}
		h.Ack(got)
	}
	if r, _, err := b.find(t.Context(), h.token); err != nil || r == nil || r.Owner != h.record.Owner {
		t.Errorf("the record = %v, %v: want that of the head", r, err)
	}
}

// The goroutines of the worker end, too: TestMain looks for them.
func TestWorker_CloseWithoutServer(t *testing.T) {
	t.Parallel()
	s, b := start(t)
	w := join(t, b, "w1", "")
	s.Close()
	eventually(t, "the connection is broken", func() bool { return !b.nc.IsConnected() })
	start := time.Now()
	if err := w.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("Close took %v: want no wait for a server that is gone", d)
	}
}

// The client library buffers messages without a connection.
func TestWorker_ReturnFailsWithoutServer(t *testing.T) {
	t.Parallel()
	s, b := start(t)
	h := open(t, b, job("a"))
	handOut(t, h, numbered(2)...)
	w := join(t, b, "w1", "")
	tasks := take(t, w, 2)
	if err := w.Flush(t.Context()); err != nil {
		t.Errorf("Flush = %v with a server", err)
	}
	s.Close()
	eventually(t, "the connection is broken", func() bool { return !b.nc.IsConnected() })
	start := time.Now()
	for _, task := range tasks {
		if err := w.Return(task, 0); err == nil {
			t.Error("Return succeeds without a server")
		}
	}
	if err := w.Flush(t.Context()); err == nil {
		t.Error("Flush succeeds without a server")
	}
	if err := w.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("took %v: want no wait for a server that is gone", d)
	}
}

// A cluster consists of servers within the test.
type cluster struct {
	options []*server.Options
	servers []*server.Server
}

// startCluster returns three servers that replicate.
func startCluster(t *testing.T) *cluster {
	t.Helper()
	var routes []*url.URL
	var ports []int
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		routes = append(routes, &url.URL{Scheme: "nats", Host: l.Addr().String()})
		l.Close()
	}
	c := &cluster{}
	for i, port := range ports {
		c.options = append(c.options, &server.Options{
			ServerName: "s" + strconv.Itoa(i), Host: "127.0.0.1", Port: -1,
			Cluster: server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: port}, Routes: routes,
			JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
		})
		c.servers = append(c.servers, nil)
		c.start(t, i)
	}
	t.Cleanup(func() {
		for i := range c.servers {
			c.stop(i)
		}
	})
	return c
}

// start starts a server, at the same port as before.
func (c *cluster) start(t *testing.T, i int) {
	t.Helper()
	s, err := server.NewServer(c.options[i])
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("a server does not start")
	}
	c.options[i].Port = s.Addr().(*net.TCPAddr).Port
	c.servers[i] = s
}

func (c *cluster) stop(i int) {
	c.servers[i].Shutdown()
	c.servers[i].WaitForShutdown()
}

func (c *cluster) url() string {
	var all []string
	for _, o := range c.options {
		all = append(all, "nats://127.0.0.1:"+strconv.Itoa(o.Port))
	}
	return strings.Join(all, ",")
}

// leader returns the server that leads a stream.
func (c *cluster) leader(stream string) int {
	for i, s := range c.servers {
		if s.JetStreamIsStreamLeader("$G", stream) {
			return i
		}
	}
	return 0
}

func TestCluster_SurvivesLossOfLeaders(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	b := connect(t, c.url())
	j := job("batch")
	j.Replicas, j.DeadAfter = 3, 9*time.Second
	h := open(t, b, j)
	ctx := within(t, 3*time.Minute) // a busy machine finds leaders slowly
	working, done := context.WithCancel(ctx)
	var asked atomic.Int64
	var running sync.WaitGroup
	for i := range 3 {
		w := join(t, connect(t, c.url()), fmt.Sprintf("w%d", i), "batch")
		running.Go(func() { answer(working, t, w, &asked) })
	}
	const n = 3000
	running.Go(func() {
		for _, r := range numbered(n) {
			if err := h.HandOut(ctx, r); err != nil {
				t.Errorf("HandOut(%s): %v", r.ID, err)
			}
		}
	})
	answered := map[queue.ID]bool{}
	stopped := -1
	for len(answered) < n {
		got, err := h.Results(ctx, 1000)
		if err != nil {
			t.Fatalf("after %d of %d results: %v", len(answered), n, err)
		}
		for _, r := range got {
			answered[r.ID] = true
		}
		if err := h.Ack(got); err != nil {
			t.Fatal(err)
		}
		switch {
		case stopped < 0 && len(answered) > n/4:
			stopped = c.leader(workStream(h.token))
			c.stop(stopped)
		case stopped < 3 && len(answered) > n/2:
			c.start(t, stopped)
			stopped = 3 // no longer
		}
	}
	// On a busy machine the election of a leader takes longer than DeadAfter, and then
	// many are.
	t.Logf("%d of %d requests were asked again", asked.Load()-n, n)
	done()
	running.Wait()
}

// answer answers requests until ctx is done, and counts them.
func answer(ctx context.Context, t *testing.T, w queue.Worker, asked *atomic.Int64) {
	var finishing sync.WaitGroup
	defer finishing.Wait()
	for {
		tasks, err := w.Take(ctx, 50)
		if err != nil {
			if ctx.Err() == nil {
				t.Errorf("Take: %v", err)
			}
			return
		}
		asked.Add(int64(len(tasks)))
		for _, task := range tasks {
			finishing.Go(func() {
				ended := make(chan struct{})
				defer close(ended)
				go renew(w, task, ended)
				time.Sleep(rand.N(10 * time.Millisecond)) // a gateway
				if err := w.Finish(ctx, task, task.Line); err != nil && ctx.Err() == nil {
					t.Errorf("Finish(%s): %v", task.ID, err)
				}
			})
		}
	}
}

// renew keeps a request until it has ended.
func renew(w queue.Worker, task queue.Task, ended <-chan struct{}) {
	ticker := time.NewTicker(task.DeadAfter / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ended:
			return
		case <-ticker.C:
			w.Renew(task) // fails after the end of the test
		}
	}
}

// alone starts a server with other options than Serve has.
func alone(t *testing.T, o *server.Options) string {
	t.Helper()
	o.Host, o.Port, o.NoSigs, o.NoLog = "127.0.0.1", -1, true, true
	o.StoreDir = t.TempDir()
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("a server does not start")
	}
	return s.ClientURL()
}

func TestDial_ServerWithoutJetStream(t *testing.T) {
	t.Parallel()
	_, err := Dial(t.Context(), Options{URL: alone(t, &server.Options{})})
	if err == nil || !strings.Contains(err.Error(), "JetStream") {
		t.Errorf("error %v: want JetStream named", err)
	}
}

func TestDial_SmallMaxPayload(t *testing.T) {
	t.Parallel()
	_, err := Dial(t.Context(), Options{URL: alone(t, &server.Options{JetStream: true, MaxPayload: 1000})})
	if err == nil || !strings.Contains(err.Error(), "max_payload of the server is 1000 bytes") {
		t.Errorf("error %v: want max_payload named", err)
	}
}

func TestOpen_TooFewServers(t *testing.T) {
	t.Parallel()
	_, b := start(t)
	j := job("batch")
	j.Replicas = 3
	_, err := b.Open(t.Context(), j)
	if err == nil || !strings.Contains(err.Error(), "queue_replicas") {
		t.Errorf("error %v: want queue_replicas named", err)
	}
	open(t, b, job("batch")) // nothing is left of the failure
}

// fill hands out requests until the disk of the queue is full.
func fill(t *testing.T, h *head) {
	t.Helper()
	ctx := within(t, 20*time.Second)
	var err error
	for i := 0; err == nil; i++ {
		err = h.HandOut(ctx, queue.Request{ID: queue.ID(strconv.Itoa(i)), Line: make([]byte, 100_000)})
	}
	if !errors.Is(err, queue.ErrFull) {
		t.Fatalf("HandOut = %v: want ErrFull", err)
	}
}

// A head that has filled the disk leaves room for the results of the requests that were
// taken, and for the next head, which does not wait.
func TestHandOut_FullDisk(t *testing.T) {
	t.Parallel()
	for name, maxPayload := range map[string]int32{"messages": 0, "objects": 64 << 10} {
		t.Run(name, func(t *testing.T) {
			b := connect(t, alone(t, &server.Options{JetStream: true, JetStreamMaxStore: 4 << 20, MaxPayload: maxPayload}))
			j := job("batch")
			j.DeadAfter = time.Hour
			h := open(t, b, j)
			w := join(t, b, "w1", "batch")
			handOut(t, h, numbered(3)...)
			tasks := take(t, w, 3)
			fill(t, h)
			before := len(held(t, h))
			if err := h.Remove(t.Context(), "0"); err != nil { // the record fits
				t.Fatal(err)
			}
			if err := h.Close(); err != nil {
				t.Fatalf("Close = %v", err)
			}
			next, err := b.Open(within(t, 10*time.Second), j)
			if err != nil {
				t.Fatalf("Open of the next head = %v", err)
			}
			t.Cleanup(func() { next.Close() })
			ids := held(t, next.(*head))
			if len(ids) > before/2 {
				t.Errorf("%d of %d requests are still held", len(ids), before)
			}
			for _, task := range tasks {
				if _, ok := ids[task.ID]; !ok {
					t.Errorf("%s is no longer held, although a worker has it", task.ID)
				}
			}
			finish(t, w, tasks...)
			results(t, next, 3)
			large := queue.Request{ID: "large", Line: make([]byte, 1<<20)}
			handOut(t, next, large)
			finish(t, w, take(t, w, 1)...)
			results(t, next, 1)
		})
	}
}

func TestCancel_FullDisk(t *testing.T) {
	t.Parallel()
	b := connect(t, alone(t, &server.Options{JetStream: true, JetStreamMaxStore: 4 << 20}))
	h := open(t, b, job("batch"))
	w := join(t, b, "w1", "batch")
	fill(t, h)
	taken := 0
	eventually(t, "nothing can be taken back", func() bool {
		tasks, _ := w.Take(within(t, time.Second), 100) // the head may take back some meanwhile
		taken += len(tasks)
		return taken >= len(held(t, h))
	})
	if err := b.Cancel(t.Context(), "batch"); err != nil {
		t.Fatalf("Cancel = %v", err)
	}
	eventually(t, "the head has ended", func() bool { return errors.Is(h.ended(), queue.ErrCanceled) })
}

// A head keeps its job while the disk is full.
func TestHead_RenewsOnFullDisk(t *testing.T) {
	t.Parallel()
	b := connect(t, alone(t, &server.Options{JetStream: true, JetStreamMaxStore: 4 << 20}))
	h := open(t, b, job("batch"))
	fill(t, h)
	if err := h.renew(within(t, 10*time.Second)); err != nil {
		t.Errorf("renew = %v", err)
	}
}

// A head that is interrupted while it begins makes room on a full disk like another.
func TestHead_InterruptedOnFullDisk(t *testing.T) {
	t.Parallel()
	b := connect(t, alone(t, &server.Options{JetStream: true, JetStreamMaxStore: 4 << 20}))
	h := open(t, b, job("batch"))
	fill(t, h)
	h.end()
	next := &head{
		b: b, token: h.token, record: h.snapshot(), revision: h.revision, renewed: time.Now(),
		ready: make(chan struct{}, 1), suspect: make(chan struct{}, 1), renewal: make(chan struct{}),
	}
	next.ctx, next.cancel = context.WithCancelCause(context.Background())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := next.begin(ctx); err == nil {
		t.Error("begin succeeded although it was interrupted")
	}
	if err := next.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
}

// Before a head makes room on a full disk, the servers have read all that was handed out.
func TestSender_Settle(t *testing.T) {
	t.Parallel()
	_, b := start(t)
	h := open(t, b, job("batch"))
	var stored atomic.Bool
	_, err := b.nc.Subscribe("slow", func(m *nats.Msg) {
		time.Sleep(50 * time.Millisecond)
		stored.Store(true)
		m.Respond([]byte(`{"stream":"slow","seq":1}`))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.sender.send(t.Context(), "slow", nil); err != nil {
		t.Fatal(err)
	}
	h.sender.settle(t.Context())
	if !stored.Load() {
		t.Error("settled before the request was stored")
	}
}

func TestHandOut_SilentStream(t *testing.T) {
	t.Parallel()
	// A server whose disk has no room left stops the stream, and says nothing.
	_, b := start(t)
	h := open(t, b, job("batch"))
	h.sender.full = time.Second
	if _, err := b.nc.SubscribeSync("silence"); err != nil { // else there would be no responders
		t.Fatal(err)
	}
	if err := h.sender.send(t.Context(), "silence", nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the silence is an error", func() bool {
		h.sender.mu.Lock()
		defer h.sender.mu.Unlock()
		return h.sender.err != nil
	})
	if err := h.HandOut(t.Context(), numbered(1)[0]); !errors.Is(err, queue.ErrFull) {
		t.Errorf("HandOut = %v: want ErrFull", err)
	}
	handOut(t, h, numbered(1)...) // the head may go on
}

func TestServe_BadAddressAndDirectory(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	for _, c := range []struct{ address, credentials, want string }{
		{"nonsense", "", "address"},
		{s.address.String(), "", "in use"},
		{"127.0.0.1:0", "x.creds", "user:password"},
	} {
		got, err := Serve(c.address, t.TempDir(), c.credentials)
		if err == nil {
			got.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Serve(%q, %q) = %v: want %q", c.address, c.credentials, err, c.want)
		}
	}
	if got, err := Serve("127.0.0.1:0", "/dev/null/queue", ""); err == nil {
		got.Close()
		t.Error("Serve with an impossible directory: want an error")
	}
}
