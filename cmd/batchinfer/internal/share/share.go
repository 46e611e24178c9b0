// Package share divides the limits of a gateway among the workers that use it.
//
// Each worker is a member of a group for each of its gateways. The members of a group
// see each other on a [queue.Board], to which each writes a record about once a second.
// No message is sent for a request.
//
// A limit of n attempts in flight is n slots, and a limit of n attempts a second is n
// turns of a little more than a second. An attempt has its slot until it ends, and its turn
// for that time after it began. So a member with k turns makes at most k attempts in any
// second, and the sum does not depend on when the others make theirs. The machines need no
// common clock. If an attempt takes more than 20 ms longer to arrive than the next one of
// its member, the gateway may get both within a second.
//
// Slots and turns are divided among the members that have requests, by rank, in the order
// in which they joined. If there are fewer of them than members, the last members have
// none. A member without requests is idle: it has no rank, and joins again for its next
// attempt. The sum of the shares is never more than the limit, because
//
//   - a newcomer starts after every member with a rank has announced that it honors the
//     newcomer's arrival: the slots and turns that it has in use fit into the smaller share,
//   - a member leaves or becomes idle after its attempts, and turns of a second, are over,
//   - a member whose records have not reached the board for fenceAfter makes no attempt,
//   - and the others use its share after lapseAfter, which is longer.
//
// An attempt that such a member has begun, and that takes longer than the time between
// the two, is in flight beside those of the others.
//
// A worker without limits is a member, too, and keeps to those of the others. When no
// member has a limit any more, the last one remains until the group is empty. While there
// has been none, attempts wait for nothing but the first record of their worker. The
// limit of a newcomer holds from the time when it starts. A member that is cut off from
// the board since before that does not know the limit.
//
// When a gateway with a limit names a time before which it accepts nothing, all members
// wait.
package share

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
	"github.com/httpretry/httpretry/internal/route"
)

// Limits are the limits of one gateway for all workers together. If workers have
// different limits, the smallest one of each kind applies. It remains when the workers that
// have one leave, until all workers have left or one has another limit.
type Limits struct {
	InFlight  int     // attempts at one time; 0: no limit
	PerSecond float64 // attempts; 0: no limit
}

// smallest returns the smaller limit of each kind.
func (l Limits) smallest(other Limits) Limits {
	if other.InFlight > 0 && (l.InFlight == 0 || other.InFlight < l.InFlight) {
		l.InFlight = other.InFlight
	}
	if other.PerSecond > 0 && (l.PerSecond == 0 || other.PerSecond < l.PerSecond) {
		l.PerSecond = other.PerSecond
	}
	return l
}

// or returns the limits with those of other for the kinds that have none.
func (l Limits) or(other Limits) Limits {
	return Limits{cmp.Or(l.InFlight, other.InFlight), cmp.Or(l.PerSecond, other.PerSecond)}
}

// A Pacer makes the attempts of a worker keep to its shares. It is safe for concurrent
// use.
type Pacer struct {
	before  httpretry.Pacer
	members []*member // one for each gateway
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// Join makes a worker a member of the group of each of its gateways. An attempt first
// waits for before, and then for its share. The name of the worker must be unique, and
// consist of letters, digits and hyphens.
//
// The Pacer must be closed with [Pacer.Close].
func Join(board queue.Board, worker string, gateways []string, l Limits, before httpretry.Pacer) (*Pacer, error) {
	ctx, cancel := context.WithCancel(context.Background())
	p := &Pacer{before: before, cancel: cancel}
	for _, gateway := range gateways {
		u, err := url.Parse(gateway)
		if err != nil {
			cancel()
			return nil, errors.New("not a URL") // err quotes it
		}
		u.Path = strings.TrimRight(u.Path, "/")
		p.members = append(p.members, newMember(board, u, worker, l))
	}
	// A URL belongs to the gateway with the longest path, so that comes first.
	slices.SortStableFunc(p.members, func(a, b *member) int { return cmp.Compare(len(b.url.Path), len(a.url.Path)) })
	for _, m := range p.members {
		p.running.Go(func() { m.run(ctx) })
	}
	return p, nil
}

// Close leaves the groups. All attempts must have ended.
func (p *Pacer) Close() {
	p.cancel()
	p.running.Wait()
}

// Delay implements [httpretry.Pacer].
func (p *Pacer) Delay(req *http.Request) time.Duration { return p.before.Delay(req) }

// Wait implements [httpretry.Pacer].
func (p *Pacer) Wait(ctx context.Context, req *http.Request, backoff time.Duration) (func(httpretry.Attempt), error) {
	done, err := p.before.Wait(ctx, req, backoff)
	if err != nil {
		return nil, err
	}
	if done == nil {
		done = func(httpretry.Attempt) {}
	}
	m := p.memberFor(req.URL)
	if m == nil { // a redirect led elsewhere
		return done, nil
	}
	if err := m.limiter.wait(ctx); err != nil {
		done(httpretry.Attempt{Request: req, Err: route.ErrNotSent, Number: httpretry.AttemptNumber(ctx)})
		return nil, err
	}
	return func(a httpretry.Attempt) {
		m.limiter.leave()
		if a.Verdict.RetryAfter > 0 {
			m.pause(a.Verdict.RetryAfter)
		}
		done(a)
	}, nil
}

// Capacity returns the number of attempts that can be in flight now, or begin within about
// a second, at all gateways together; negative: no limit. If it is 0, other workers have
// the whole limit.
func (p *Pacer) Capacity() int {
	sum := 0
	for _, m := range p.members {
		n := m.capacity()
		if n < 0 {
			return n
		}
		sum += n
	}
	return sum
}

// Waiting returns the number of attempts that wait for a share. An attempt waits for those
// of several gateways at the same time, so the largest number at one of them counts.
func (p *Pacer) Waiting() int {
	most := 0
	for _, m := range p.members {
		waiting, _ := m.limiter.counts()
		most = max(most, waiting)
	}
	return most
}

// memberFor returns the member for the gateway of a URL, or nil.
func (p *Pacer) memberFor(u *url.URL) *member {
	for _, m := range p.members {
		if m.url.Scheme == u.Scheme && m.url.Host == u.Host && strings.HasPrefix(u.Path+"/", m.url.Path+"/") {
			return m
		}
	}
	return nil
}

// groupOf returns the name of the group of a gateway. It is a hash, because the path of
// the URL may be secret.
func groupOf(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[strings.ToLower(u.Scheme)]
	}
	address := strings.ToLower(u.Scheme+"://"+u.Hostname()) + ":" + port + strings.TrimRight(u.EscapedPath(), "/")
	sum := sha256.Sum256([]byte(address))
	return hex.EncodeToString(sum[:12])
}
