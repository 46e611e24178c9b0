package natsqueue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

// Codes of errors of a server that the client library does not name.
const (
	codeAccountFull        = 10002
	codeNoPeers            = 10005
	codeServerFull         = 10023
	codeStorageFull        = 10047
	codeReplicasAlone      = 10074
	codeStoreFailed        = 10077
	codeNotLeader          = 10009
	codeTemporarilyAway    = 10008
	codeStreamOffline      = 10118
	codeConsumerOffline    = 10119
	firstWait              = 50 * time.Millisecond
	longestWait            = 2 * time.Second
	descriptionHeldAlready = "maximum messages per subject exceeded"
)

// errNoLeader is a response of a server that does not know.
var errNoLeader = errors.New("a consumer has no leader")

// repeat calls f until it succeeds, fails for good, or ctx is done. Each call has
// tryTimeout. The error is explained, or it is the cause why ctx is done.
func (b *broker) repeat(ctx context.Context, f func(context.Context) error) error {
	return b.repeatEach(ctx, tryTimeout, f)
}

// repeatEach is repeat with another time for each call.
func (b *broker) repeatEach(ctx context.Context, timeout time.Duration, f func(context.Context) error) error {
	for wait := firstWait; ; wait = min(2*wait, longestWait) {
		start := time.Now()
		try, cancel := context.WithTimeout(ctx, timeout)
		err := f(try)
		cancel()
		switch {
		case err == nil:
			b.outage.succeeded()
			return nil
		case passing(err):
			b.outage.failed(start)
		}
		if ctx.Err() == nil && passing(err) {
			sleep(ctx, wait/2+rand.N(wait/2))
		} else if ctx.Err() == nil {
			return explain(err)
		}
		switch cause := context.Cause(ctx); cause {
		case nil:
		case context.DeadlineExceeded:
			return expired{explain(err)}
		default:
			return cause
		}
	}
}

// An expired error is the last failure before a deadline.
type expired struct{ error }

func (e expired) Unwrap() error        { return e.error }
func (e expired) Is(target error) bool { return target == context.DeadlineExceeded }

// passing reports whether a request that failed with this error may succeed later:
// servers restart, elect leaders, and are out of reach for a while.
func passing(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode {
		case codeNoPeers, codeNotLeader, codeTemporarilyAway, codeStreamOffline, codeConsumerOffline:
			return true
		case codeReplicasAlone, jetstream.JSErrCodeJetStreamNotEnabled, jetstream.JSErrCodeJetStreamNotEnabledForAccount:
			return false
		}
		return api.Code >= 500 && !isFull(err)
	}
	return errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, nats.ErrTimeout) ||
		errors.Is(err, nats.ErrNoResponders) ||
		errors.Is(err, nats.ErrDisconnected) ||
		errors.Is(err, nats.ErrConnectionReconnecting) ||
		errors.Is(err, nats.ErrReconnectBufExceeded) ||
		errors.Is(err, jetstream.ErrNoStreamResponse) ||
		errors.Is(err, jetstream.ErrAsyncPublishTimeout) ||
		errors.Is(err, jetstream.ErrTooManyStalledMsgs) ||
		errors.Is(err, jetstream.ErrInvalidJSAck) ||
		errors.Is(err, errNoLeader)
}

// isFull reports whether an error says that there is no room on the disk.
func isFull(err error) bool {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return false
	}
	switch api.ErrorCode {
	case codeAccountFull, codeServerFull, codeStorageFull:
		return true
	case codeStoreFailed:
		// The code stands for all failures to store a message. Only its text, which
		// tests compare with that of a server, tells them apart.
		return strings.Contains(api.Description, "maximum bytes exceeded") || strings.Contains(api.Description, "no space left")
	}
	return false
}

// isHeldAlready reports whether a message was refused because the stream has one with
// the same subject.
func isHeldAlready(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == codeStoreFailed && strings.Contains(api.Description, descriptionHeldAlready)
}

// isGone reports whether a stream, a consumer, a bucket or a message does not exist.
func isGone(err error) bool {
	for _, gone := range []error{
		jetstream.ErrStreamNotFound, jetstream.ErrConsumerNotFound, jetstream.ErrConsumerDoesNotExist, jetstream.ErrMsgNotFound,
		jetstream.ErrBucketNotFound, jetstream.ErrKeyNotFound, jetstream.ErrObjectNotFound,
	} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

// isOvertaken reports whether a value was not written because it has another revision
// than the writer has seen.
func isOvertaken(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, jetstream.ErrKeyExists) || errors.As(err, &api) &&
		(api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// explain returns an error that names the remedy, if there is one.
func explain(err error) error {
	var api *jetstream.APIError
	switch {
	case err == nil:
		return nil
	case isFull(err):
		return fmt.Errorf("%w: lower queue_window, cancel a job, or raise max_file_store of the server (%w)", queue.ErrFull, err)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("the server has no JetStream for this user: enable it in the configuration of the server (%w)", err)
	case errors.As(err, &api) && (api.ErrorCode == codeReplicasAlone || api.ErrorCode == codeNoPeers):
		return fmt.Errorf("too few servers for queue_replicas: lower it, or start more servers (%w)", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return fmt.Errorf("no response: the servers are starting, have no leader, or do not permit the request (%w)", err)
	case errors.As(err, &api) && passing(err), errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, errNoLeader):
		return fmt.Errorf("the servers have no leader: they are starting, or too few of the servers run (%w)", err)
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("no response: the servers have no JetStream, or no leader (%w)", err)
	}
	return err
}

// explainConnect returns an error that names the remedy for a failure to connect.
func explainConnect(err error) error {
	var timeout net.Error // of a server that is suspended
	switch {
	case errors.Is(err, nats.ErrNoServers), errors.Is(err, nats.ErrTimeout), errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("no server can be reached: check the address, and that it runs (%w)", err)
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return fmt.Errorf("the credentials are wrong or missing: set queue_credentials (%w)", err)
	}
	return err
}
