// Package natsqueue implements a queue of requests on NATS JetStream.
//
// Each job has two streams with work-queue retention. One holds the requests, a message
// each under a subject of its own, so that the server refuses a request that it holds
// already. The other holds the results. Neither is synchronized to disk for each
// message: the record of a job is at its head, which hands out lost requests again.
//
// A bucket of keys and values holds the record of each job, which its head renews so
// that no second head begins, and the starts of suspects. Payloads that are too large
// for a message go through an object store of the job.
package natsqueue

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

const (
	// tryTimeout is how long a single request to a server may take before it is
	// repeated, perhaps to another server.
	tryTimeout = 5 * time.Second

	// confirmTimeout is how long the confirmation of a request or a result may take. It
	// is lost when a leader fails.
	confirmTimeout = 2 * time.Second

	// patience is how long a command waits for servers that have just started, which
	// can't make streams for some seconds.
	patience = 20 * time.Second

	// pingInterval is the time between two pings. A server that fails without closing
	// the connection is noticed after two.
	pingInterval = 4 * time.Second

	// smallestMaxPayload is that of a server that takes the records and a sensible chunk
	// of an object.
	smallestMaxPayload = 64 << 10
)

// Options tell how to connect.
type Options struct {
	// URL is that of a server, or of several, separated by commas.
	URL string

	// Credentials is the path of a file that ends in ".creds", a user and a password
	// separated by a colon, or a token. It is not part of any error.
	Credentials string

	// Notice, if not nil, is called with a line of text when the servers have not
	// responded to any request for some seconds, and when they respond again. The text
	// has no secrets. It is called by one goroutine at a time, and must not block long.
	Notice func(string)
}

// A broker is a connection to the servers. It implements [queue.Queue].
type broker struct {
	nc         *nats.Conn
	js         jetstream.JetStream
	maxInline  int         // bytes of the largest payload that is sent in a message
	mostLoaded int         // bytes of objects after which Take and Results read no further one
	away       atomic.Bool // the servers have not responded at the end, and Close does not wait for them
	outage     outage
}

// Dial connects to servers with JetStream.
func Dial(ctx context.Context, o Options) (queue.Queue, error) {
	b, err := dial(ctx, o)
	if err != nil {
		return nil, err // not a nil *broker
	}
	return b, nil
}

func dial(ctx context.Context, o Options) (*broker, error) {
	options := []nats.Option{
		nats.Name("batchinfer"),
		nats.Timeout(tryTimeout),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(500 * time.Millisecond),
		nats.ReconnectJitter(500*time.Millisecond, 500*time.Millisecond),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(1),
		nats.IgnoreAuthErrorAbort(),                                       // credentials may be renewed while a server does not accept them
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // the default prints
	}
	if o.Credentials != "" {
		option, err := credentials(o.Credentials)
		if err != nil {
			return nil, err
		}
		options = append(options, option)
	}
	nc, err := nats.Connect(o.URL, options...)
	if err != nil {
		return nil, fmt.Errorf("queue %s: %w", redacted(o.URL), explainConnect(err))
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(tryTimeout))
	if err != nil {
		nc.Close()
		return nil, err
	}
	b := &broker{nc: nc, js: js, maxInline: int(nc.MaxPayload()) - 1024, mostLoaded: mostLoaded, outage: outage{name: redacted(o.URL), notice: o.Notice}}
	if err := b.check(ctx); err != nil {
		nc.Close()
		return nil, fmt.Errorf("queue %s: %w", redacted(o.URL), err)
	}
	return b, nil
}

// check makes sure that the servers can hold a queue.
func (b *broker) check(ctx context.Context) error {
	if most := b.nc.MaxPayload(); most < smallestMaxPayload {
		return fmt.Errorf("max_payload of the server is %d bytes: must be at least %d", most, smallestMaxPayload)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return b.repeat(ctx, func(ctx context.Context) error {
		_, err := b.js.AccountInfo(ctx)
		return err
	})
}

// defaultReplicas returns the number of servers that hold each request if the settings
// don't say it: 3, so that one may fail, or 1 where the server is alone.
func (b *broker) defaultReplicas() int {
	if b.nc.ConnectedClusterName() == "" {
		return 1
	}
	return 3
}

// Close closes the connection.
func (b *broker) Close() error {
	var err error
	if b.nc.IsConnected() && !b.away.Load() {
		// Send the buffered messages that nobody waits for, such as acknowledgments. If
		// they are lost, some requests are asked twice, and none is lost.
		err = b.nc.FlushTimeout(tryTimeout)
	}
	b.nc.Close()
	if errors.Is(err, nats.ErrConnectionClosed) {
		return nil
	}
	return err
}

// credentials returns the option for a file, a user and password, or a token.
func credentials(c string) (nats.Option, error) {
	if strings.HasSuffix(c, ".creds") {
		if _, err := os.ReadFile(c); err != nil {
			return nil, fmt.Errorf("credentials of the queue: %w", err)
		}
		return nats.UserCredentials(c), nil
	}
	if user, password, ok := strings.Cut(c, ":"); ok {
		return nats.UserInfo(user, password), nil
	}
	return nats.Token(c), nil
}

// redacted returns the URLs of servers without users, passwords and tokens.
func redacted(servers string) string {
	var shown []string
	for server := range strings.SplitSeq(servers, ",") {
		scheme, host, ok := strings.Cut(strings.TrimSpace(server), "://")
		if !ok {
			scheme, host = "nats", scheme
		}
		host = host[strings.LastIndexByte(host, '@')+1:]
		host, _, _ = strings.Cut(host, "?")
		server = scheme + "://" + host
		shown = append(shown, server)
	}
	return strings.Join(shown, ",")
}
