package natsqueue

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// The first byte of a message tells where its payload is. A number follows, which is
// the Attempts of a request, and then the payload or the name of an object.
const (
	inline = 'i'
	object = 'o'
)

// objectChunk is the size of the messages that an object consists of.
const objectChunk = 1 << 20

// objectTimeout is how long one attempt to write or read an object may take.
const objectTimeout = time.Minute

// staleAfter is the wait before an object that was not found is read again. A follower
// has it later than the leader that confirmed it.
const staleAfter = 500 * time.Millisecond

// mostLoaded bounds the memory for the objects that one call of Take or Results reads.
const mostLoaded = 64 << 20

// encode returns a message with a payload. If it is too large for one, it is put into
// an object of the job first.
func (b *broker) encode(ctx context.Context, job *record, number int, payload []byte) ([]byte, error) {
	m := make([]byte, 1, 1+binary.MaxVarintLen64+min(len(payload), b.maxInline))
	m[0] = inline
	m = binary.AppendUvarint(m, uint64(number))
	if len(m)+len(payload) <= b.maxInline {
		return append(m, payload...), nil
	}
	m[0] = object
	name := nuid.Next()
	err := b.repeatEach(ctx, objectTimeout, func(ctx context.Context) error {
		store, err := b.objects(ctx, job)
		if err != nil {
			return err
		}
		meta := jetstream.ObjectMeta{Name: name, Opts: &jetstream.ObjectMetaOptions{ChunkSize: uint32(min(objectChunk, b.maxInline))}}
		_, err = store.Put(ctx, meta, bytes.NewReader(payload))
		return err
	})
	if err != nil {
		return nil, err
	}
	return append(m, name...), nil
}

// objects returns the store for the objects of a job, which it makes if need be.
func (b *broker) objects(ctx context.Context, job *record) (jetstream.ObjectStore, error) {
	bucket := objectBucket(token(job.Name))
	store, err := b.js.ObjectStore(ctx, bucket)
	if !errors.Is(err, jetstream.ErrBucketNotFound) && !isGone(err) {
		return store, err
	}
	store, err = b.js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: bucket, Replicas: max(1, job.Replicas)})
	if errors.Is(err, jetstream.ErrBucketExists) {
		return b.js.ObjectStore(ctx, bucket)
	}
	return store, err
}

// A content is the decoded form of a message.
type content struct {
	number  int
	payload []byte
	object  string // its name, if the payload is in one
}

var errForeign = errors.New("not a message of a job")

// decode returns the content of a message, without the payload of an object.
func decode(m []byte) (content, error) {
	if len(m) == 0 || m[0] != inline && m[0] != object {
		return content{}, errForeign
	}
	number, n := binary.Uvarint(m[1:])
	if n <= 0 || number > 1<<30 {
		return content{}, errForeign
	}
	c := content{number: int(number), payload: m[1+n:]}
	if m[0] == object {
		c.object, c.payload = string(c.payload), nil
	}
	return c, nil
}

// isUseless reports whether a message can't be used because of an error of decode or
// load.
func isUseless(err error) bool {
	return isGone(err) || errors.Is(err, errForeign) || errors.Is(err, jetstream.ErrDigestMismatch)
}

// load reads the payload of a content from its object. The error isUseless if the object
// does not exist, or is incomplete.
func (b *broker) load(ctx context.Context, token string, c *content) error {
	if c.object == "" {
		return nil
	}
	read := func(ctx context.Context) error {
		store, err := b.js.ObjectStore(ctx, objectBucket(token))
		if err == nil {
			c.payload, err = store.GetBytes(ctx, c.object)
		}
		return err
	}
	err := b.repeatEach(ctx, objectTimeout, read)
	if isUseless(err) && sleep(ctx, staleAfter) == nil {
		err = b.repeatEach(ctx, objectTimeout, read)
	}
	return err
}

// drop removes an object. If that fails, the object is removed with the job. The client
// library would write a marker first, which a full disk does not take.
func (b *broker) drop(ctx context.Context, token, name string) error {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	bucket := objectBucket(token)
	store, err := b.js.ObjectStore(ctx, bucket)
	if err != nil {
		return err
	}
	info, err := store.GetInfo(ctx, name)
	if err != nil {
		return fmt.Errorf("object %s: %w", name, err)
	}
	stream, err := b.js.Stream(ctx, objectStream(bucket))
	if err != nil {
		return err
	}
	// The description comes last: without it, nobody finds the chunks.
	for _, subject := range []string{"C." + info.NUID, "M." + base64.URLEncoding.EncodeToString([]byte(name))} {
		if err := stream.Purge(ctx, jetstream.WithPurgeSubject("$O."+bucket+"."+subject)); err != nil {
			return fmt.Errorf("object %s: %w", name, err)
		}
	}
	return nil
}
