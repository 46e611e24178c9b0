package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/httpretry/httpretry/inference"
)

// asServer is the environment variable that makes the test binary a nats-server.
const asServer = "BATCHINFER_TEST_SERVER"

// serveNATS runs nats-server with the arguments of the process.
func serveNATS() {
	opts, err := server.ConfigureOptions(flag.NewFlagSet("nats-server", flag.ExitOnError), os.Args[1:], nil, nil, nil)
	if err != nil {
		panic(err)
	}
	s, err := server.NewServer(opts)
	if err != nil {
		panic(err)
	}
	s.ConfigureLogger()
	s.Start()
	s.WaitForShutdown()
	os.Exit(0)
}

// freePorts returns ports that nobody listens on at this time.
func freePorts(t *testing.T, n int) (ports []int) {
	t.Helper()
	// Ports that a system gives to outgoing connections could be in use when a server
	// begins to listen. Those of Linux are above 32767, those of others above 49151.
	for range 1000 {
		port := 16384 + rand.IntN(16384)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		defer l.Close()
		if ports = append(ports, port); len(ports) == n {
			return ports
		}
	}
	t.Fatal("no free ports")
	return nil
}

// eventually waits for a condition.
func eventually(t *testing.T, patience time.Duration, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// asNoop is the environment variable that makes the test binary a worker whose gateway
// answers immediately, without HTTP. Its argument is the URL of the queue.
const asNoop = "BATCHINFER_TEST_NOOP"

// workForNothing is the main function of such a worker. Its answers have 1.5 KB.
func workForNothing() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	body := []byte(`{"choices":[{"message":{"content":"` + strings.Repeat("x", 1400) + `"}}],"usage":{"total_tokens":800}}`)
	client := clientFunc(func(_ context.Context, req *inference.InferenceRequest) (*inference.InferenceResponse, *inference.InferenceError) {
		return &inference.InferenceResponse{RequestID: req.RequestID, Response: body}, nil
	})
	cfg := defaultConfig()
	cfg.gatewayURL, cfg.queueURL = "http://gateway.test", os.Args[1]
	q, err := dialQueue(ctx, &cfg, nil)
	if err != nil {
		panic(err)
	}
	tasks, err := q.Join(ctx, workerName(), "")
	if err != nil {
		panic(err)
	}
	w, err := newWorker(tasks, client, &cfg, cfg.pacer(), func(string, ...any) {})
	if err != nil {
		panic(err)
	}
	if err := w.run(ctx, func() <-chan os.Signal { return nil }); err != nil {
		panic(err)
	}
	tasks.Close()
	q.Close()
	os.Exit(0)
}
