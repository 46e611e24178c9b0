package natsqueue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// An outage is told once, and so is its end. A request that fails among others that
// succeed is not an outage.
func TestOutage_ToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		o := &outage{name: "nats://a:4222", notice: func(text string) { told = append(told, text) }}
		start := time.Now()
		for range 10 {
			time.Sleep(time.Second)
			o.succeeded()
			o.failed(start)
		}
		if len(told) > 0 {
			t.Errorf("with a success each second: got %q, want nothing", told)
		}
		o.succeeded()
		gone := time.Now()
		for range 60 {
			time.Sleep(time.Second)
			o.failed(time.Now())
			if time.Since(gone) < noticeAfter && len(told) > 0 {
				t.Fatalf("after %v: got %q, want nothing", time.Since(gone), told)
			}
		}
		o.succeeded()
		o.succeeded()
		want := "queue nats://a:4222: unreachable since " + gone.Add(time.Second).Format(time.TimeOnly) + "; going on when it is back\n" +
			"queue nats://a:4222: reachable again"
		if got := strings.Join(told, "\n"); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
}

// A listener has the notices of a broker.
type listener struct {
	mu   sync.Mutex
	told []string
}

func (l *listener) hear(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = append(l.told, text)
}

// wants waits until the last notice contains a text.
func (l *listener) wants(t *testing.T, text string) {
	t.Helper()
	eventually(t, text, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.told) > 0 && strings.Contains(l.told[len(l.told)-1], text)
	})
}

// report makes a request each 100 ms until the test ends, as heads and workers do.
func report(t *testing.T, b *broker) {
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		for sleep(ctx, 100*time.Millisecond) == nil {
			b.put(ctx, boardBucket, "a", nil)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
}

func TestBroker_TellsOfServerThatEnds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := Serve("127.0.0.1:0", dir, "me:p4ssw0rd")
	if err != nil {
		t.Fatal(err)
	}
	var l listener
	b, err := dial(t.Context(), Options{URL: strings.Replace(s.URL(), "//", "//me:p4ssw0rd@", 1), Notice: l.hear})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	report(t, b)
	s.Close()
	l.wants(t, "queue "+s.URL()+": unreachable since ")
	s, err = Serve(s.address.String(), dir, "me:p4ssw0rd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	l.wants(t, ": reachable again")
}

func TestBroker_TellsOfLostQuorum(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	var l listener
	b, err := dial(t.Context(), Options{URL: c.url(), Notice: l.hear})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	if _, err := b.put(t.Context(), boardBucket, "a", nil); err != nil {
		t.Fatal(err)
	}
	report(t, b)
	c.stop(0)
	c.stop(1)
	l.wants(t, ": unreachable since ")
	c.start(t, 0)
	l.wants(t, ": reachable again")
	c.start(t, 1)
}

func TestExplain_NoLeader(t *testing.T) {
	api := &jetstream.APIError{Code: 503, ErrorCode: codeTemporarilyAway, Description: "JetStream system temporarily unavailable"}
	for _, err := range []error{api, fmt.Errorf("nats: %w", api), jetstream.ErrNoStreamResponse, errNoLeader} {
		if got := explain(err); !errors.Is(got, err) || !strings.Contains(got.Error(), "too few of the servers run") {
			t.Errorf("%v: got %v, want an error that says that too few servers run", err, got)
		}
	}
}
