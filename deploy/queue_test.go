package deploy

import (
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// startNATS starts servers with the values for the chart, on loopback.
func startNATS(t *testing.T) []*server.Server {
	t.Helper()
	v := readValues(t)
	secrets := mustDecode(t)
	for name, e := range v.Container.Env {
		for _, m := range secrets {
			if s, ok := m.Object.(*corev1.Secret); ok && e.ValueFrom != nil && s.Name == e.ValueFrom.SecretKeyRef.Name {
				t.Setenv(name, s.StringData[e.ValueFrom.SecretKeyRef.Key])
			}
		}
	}
	var routes []string
	for range v.Config.Cluster.Replicas {
		routes = append(routes, "nats://127.0.0.1:"+freePort(t))
	}
	var servers []*server.Server
	for i, route := range routes {
		o := &server.Options{}
		text := fmt.Sprintf(`
			server_name: "nats-%d"
			listen: "127.0.0.1:-1"
			cluster: { name: "nats", listen: "%s", no_advertise: true, routes: ["%s"] }
			jetstream: {
				store_dir: "%s", max_memory_store: 0, max_file_store: 1GB
				%s
			}
			%s`, i, strings.TrimPrefix(route, "nats://"), strings.Join(routes, `", "`), t.TempDir(), render(t, v.Config.JetStream.Merge), render(t, v.Config.Merge))
		file := filepath.Join(t.TempDir(), "nats.conf")
		writeFile(t, file, text)
		if err := o.ProcessConfigFile(file); err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		o.NoSigs, o.NoLog = true, true
		s, err := server.NewServer(o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			s.Shutdown()
			s.WaitForShutdown()
		})
		s.Start()
		servers = append(servers, s)
	}
	eventually(t, 30*time.Second, "the servers have a leader", func() bool {
		return slices.ContainsFunc(servers, (*server.Server).JetStreamIsLeader)
	})
	return servers
}

// lag returns the number that KEDA compares with lagThreshold, which it reads from the
// monitoring port of the consumer's leader.
func lag(t *testing.T, servers []*server.Server, scaler trigger) (requests uint64) {
	t.Helper()
	for _, s := range servers {
		info, err := s.Jsz(&server.JSzOptions{Account: scaler.Metadata.Account, Consumer: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, account := range info.AccountDetails {
			for _, stream := range account.Streams {
				for _, c := range stream.Consumer {
					if stream.Name == scaler.Metadata.Stream && c.Name == scaler.Metadata.Consumer && c.Cluster.Leader == s.Name() {
						requests = c.NumPending + uint64(c.NumAckPending)
					}
				}
			}
		}
	}
	return requests
}

// The head and two workers finish a job through three servers, with the arguments and
// the settings of the manifests and the values for NATS. KEDA sees the requests in the
// queue. The workers end after SIGTERM.
func TestQueue(t *testing.T) {
	const requests = 500
	release := make(chan struct{})
	g := newGateway(t, func(r *http.Request, _ string) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	servers := startNATS(t)
	c := newCluster(t, "http://gateway-a:8000", g.URL, "nats://nats:4222", servers[0].ClientURL())
	writeRequests(t, filepath.Join(c.work, "requests.jsonl"), requests)
	pod := find[*appsv1.Deployment](c, "batchinfer-gateway-a").Spec.Template.Spec
	workers := []*exec.Cmd{c.command(pod), c.command(pod)}
	head := c.command(find[*batchv1.Job](c, "batchinfer-head").Spec.Template.Spec)
	c.start(workers...)
	c.start(head)
	scaler := find[*scaledObject](c, "batchinfer-gateway-a").Spec.Triggers[0]
	eventually(t, 30*time.Second, "KEDA sees all requests", func() bool { return lag(t, servers, scaler) == requests })
	close(release)
	c.wait(head)
	for _, w := range workers {
		if err := w.Process.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("signal to a worker: %v", err)
		}
	}
	c.wait(workers...)
	verifyAnswers(t, filepath.Join(c.work, "answers.jsonl"), requests)
}
