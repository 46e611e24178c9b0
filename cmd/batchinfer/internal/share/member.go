package share

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"sync"
	"time"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

const (
	period     = time.Second      // between two records of a member
	fenceAfter = 4 * period       // without a confirmed record, a member makes no attempt
	lapseAfter = queue.LapseAfter // without a record of a member, the others use its share

	idleAfter = 3 * period // without an attempt, a member gives its share to others

	// minTurn is the length of a turn. It is more than a second, because attempts do not
	// take equally long to arrive at the gateway.
	minTurn = time.Second + 20*time.Millisecond

	maxPause = time.Hour
)

// A record is the value of a member on the board.
type record struct {
	Number  int    `json:"number"`   // from 1; each record of a member has the next one
	Idle    bool   `json:"idle"`     // the member has no rank, and makes no attempts before it joins
	Joined  uint64 `json:"joined"`   // revision of the record with which the member joined; 0: this record
	Honored uint64 `json:"honored"`  // the member keeps to the share that follows from all entries up to this revision
	Limits  Limits `json:"limits"`   // of the member itself
	Kept    Limits `json:"kept"`     // that remain if no member has any
	Pause   int64  `json:"pause_ms"` // time during which the gateway accepts nothing, from now on
}

// A peer is the last record of a member of the group, which may be the receiver itself.
type peer struct {
	idle       bool
	joined     uint64
	honored    uint64
	limits     Limits
	kept       Limits
	revision   uint64    // of the record
	receivedAt time.Time // when the record arrived
}

// A member is a worker in the group of a gateway. It is idle, or joins by writing a
// record, which gives it a rank. A record is confirmed when the member receives it from the
// board. The member starts, which means that it makes attempts, when the members that
// joined earlier honor its arrival.
//
// A member whose share is empty does not become idle. So it gets its turn after others
// have become idle, although it can have no attempts until then.
type member struct {
	board   queue.Board
	url     *url.URL
	prefix  string // of the keys of the group
	key     string
	limits  Limits
	limiter limiter

	writeRequests chan struct{} // has a value if the next record should not wait for the period to end

	mu             sync.Mutex
	least          Limits            // that count for all members; see updateLimits
	kept           Limits            // that remain if no member has any
	first          uint64            // revision of the first record that was confirmed; 0: none
	peers          map[string]*peer  // by key, the member itself included
	unconfirmed    map[int]time.Time // when the write of each record began, by its number
	number         int               // of the last record
	joining        bool              // the record with which it joins is not confirmed yet
	joined         uint64            // revision of that record; 0: not confirmed yet, or the member is idle
	joinedAt       time.Time         // when that record was confirmed
	known          bool              // a record has been confirmed since the process began
	watchedSince   time.Time         // when the first record was confirmed; zero: none
	watching       time.Time         // when the watch of the board began
	free           bool              // nobody has a limit, as far as the member knows
	started        bool              // every earlier member uses a smaller share
	confirmedWrite time.Time         // when the write of the last confirmed record began; zero: none
	received       uint64            // revision of the last entry received
	applied        uint64            // the limiter has the share that follows from all entries up to this revision
	honored        uint64            // as applied, and no more attempts than that share are in flight
	announced      uint64            // honored, as the last record has it
	pausedUntil    time.Time         // the gateway accepts nothing before
	share          allowance         // of the limiter
}

func newMember(board queue.Board, u *url.URL, worker string, l Limits) *member {
	m := &member{board: board, url: u, prefix: "share." + groupOf(u) + ".", limits: l, least: l, writeRequests: make(chan struct{}, 1)}
	m.key = m.prefix + worker
	m.peers, m.unconfirmed = make(map[string]*peer), make(map[int]time.Time)
	m.limiter.changed = m.changed
	return m
}

// reset makes the member a newcomer. It will wait for the next record of each peer, or
// until the peer lapses, because the board may have lost its values, and a peer without a
// record may still make attempts. The lock is held.
func (m *member) reset() {
	for _, p := range m.peers {
		p.revision, p.joined, p.honored, p.idle = 0, 0, 0, false
	}
	delete(m.peers, m.key)
	clear(m.unconfirmed)
	m.joined, m.joining, m.started, m.first = 0, false, false, 0
	m.received, m.applied, m.honored, m.announced = 0, 0, 0, 0
	m.confirmedWrite, m.watchedSince, m.watching = time.Time{}, time.Time{}, time.Now()
}

// run is a member of the group until ctx is done, and then leaves it.
func (m *member) run(ctx context.Context) {
	defer m.leave()
	defer m.limiter.close()
	for ctx.Err() == nil {
		m.watch(ctx)
	}
}

// leave removes the member from the board, so that others need not wait until it
// lapses. The turns of the last second are over then.
func (m *member) leave() {
	if last := m.limiter.last(); !last.IsZero() && m.hasRate() {
		time.Sleep(time.Until(last.Add(minTurn)))
	}
	ctx, cancel := context.WithTimeout(context.Background(), period)
	defer cancel()
	_ = m.board.Delete(ctx, m.key) // if it fails, the member lapses
}

// watch joins the group, and follows the board until ctx is done, the board fails, or
// the member must join again.
func (m *member) watch(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var writing sync.WaitGroup
	defer writing.Wait()
	defer cancel()
	m.mu.Lock()
	m.reset()
	m.mu.Unlock()
	m.apply()
	entries, err := m.board.Watch(ctx, m.prefix)
	if err != nil {
		sleep(ctx, period)
		return
	}
	writing.Go(func() { m.writeRecords(ctx) })
	tick := time.NewTicker(period / 4)
	defer tick.Stop()
	for {
		select {
		case e, ok := <-entries:
			if !ok {
				sleep(ctx, period)
				return
			}
			m.receive(e)
		case <-tick.C:
			if m.mustRejoin() {
				return
			}
		case <-ctx.Done():
			return
		}
		m.apply()
	}
}

// mustRejoin reports whether no record has been confirmed for so long that others may
// soon use the member's share.
func (m *member) mustRejoin() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	since := m.confirmedWrite
	if since.IsZero() {
		since = m.watching
	}
	return time.Since(since) > fenceAfter
}

// writeRecords writes a record each period, and sooner after requestWrite.
func (m *member) writeRecords(ctx context.Context) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		text, ready := m.nextRecord()
		if !ready {
			if !sleep(ctx, period/20) {
				return
			}
			continue
		}
		put, cancel := context.WithTimeout(ctx, fenceAfter)
		_, _ = m.board.Put(put, m.key, text) // receive learns whether it succeeded
		cancel()
		select {
		case <-tick.C:
		case <-m.writeRequests:
			if !sleep(ctx, period/20) { // several requests become one record
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// nextRecord returns the text of the next record. After the record that joins the group,
// the next one is not ready before that is confirmed: with two of them, the member would
// join twice.
func (m *member) nextRecord() (text []byte, ready bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.joining {
		return nil, false
	}
	idle := m.restsOrIsIdle()
	m.joining = m.joined == 0 && !idle
	m.number++
	m.unconfirmed[m.number] = time.Now()
	m.announced = m.honored
	text, err := json.Marshal(record{
		Number: m.number, Idle: idle, Joined: m.joined, Honored: m.announced, Limits: m.limits, Kept: m.kept,
		Pause: max(time.Until(m.pausedUntil).Milliseconds(), 0),
	})
	if err != nil {
		panic(fmt.Sprintf("encoding a record: %v", err))
	}
	return text, true
}

// restsOrIsIdle reports whether the member has no rank and needs none. A member that had
// no attempts for a while gives up its rank. The lock is held.
func (m *member) restsOrIsIdle() bool {
	// A member without a rank is idle unless an attempt waits, or had begun before the
	// member lost its rank.
	after := time.Duration(0)
	if m.joined > 0 {
		after = idleAfter
	}
	switch {
	case m.least == Limits{}:
		return false
	case m.joined > 0 && (!m.started || m.share.slots == 0 || m.share.turns == 0):
		return false // it stands in line
	case !m.limiter.rest(after):
		return false
	}
	m.joined, m.started, m.share = 0, false, allowance{}
	return true
}

// receive handles an entry of the board.
func (m *member) receive(e queue.Entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.received = max(m.received, e.Revision)
	if e.Value == nil {
		if e.Key != m.key {
			delete(m.peers, e.Key)
			m.updateLimits()
		}
		return
	}
	var r record
	if json.Unmarshal(e.Value, &r) != nil {
		return // from another version: the member lapses
	}
	now := time.Now()
	p := m.peers[e.Key]
	switch {
	case p == nil:
		p = new(peer)
		m.peers[e.Key] = p
	case e.Revision <= p.revision:
		return // known: the watch was interrupted and began again
	}
	p.revision, p.honored, p.limits, p.receivedAt = e.Revision, r.Honored, r.Limits, now
	p.kept = r.Kept
	m.updateLimits()
	p.idle = r.Idle
	if p.joined = r.Joined; p.joined == 0 && !r.Idle {
		p.joined = e.Revision
	}
	if pause := min(time.Duration(r.Pause)*time.Millisecond, maxPause); pause > 0 && now.Add(pause).After(m.pausedUntil) {
		m.pausedUntil = now.Add(pause)
	}
	if e.Key == m.key {
		m.confirm(r, e.Revision)
	}
}

// confirm handles a record of the member itself that the board has sent. The lock is held.
func (m *member) confirm(r record, revision uint64) {
	began, own := m.unconfirmed[r.Number]
	if !own {
		return // from an earlier process with the same name
	}
	m.confirmedWrite = began
	for n := range m.unconfirmed {
		if n <= r.Number {
			delete(m.unconfirmed, n)
		}
	}
	if m.watchedSince.IsZero() {
		m.known, m.watchedSince, m.first = true, time.Now(), revision
	}
	switch {
	case r.Idle && m.joined > 0: // the board stored it late: it took the rank away
		m.joined, m.started = 0, false
	case !r.Idle && r.Joined == 0: // the board may have stored it twice
		m.joined, m.joining, m.started, m.joinedAt = revision, false, false, time.Now()
	}
}

// apply forgets the peers that have lapsed, and sets the limiter to the member's share.
func (m *member) apply() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, p := range m.peers {
		if key != m.key && time.Since(p.receivedAt) > lapseAfter {
			delete(m.peers, key)
		}
	}
	m.updateLimits()
	m.started = m.started || m.mayStart()
	// A newcomer does not know the limits of others before it has joined. A member that
	// joins again knew them before it was cut off from the board.
	m.free = (m.free || m.joined > 0) && m.least == Limits{}
	switch {
	case m.free:
		m.share = allowance{slots: -1, turns: -1}
	case m.started:
		m.share = m.allowance()
	default:
		m.share = allowance{}
	}
	m.limiter.allow(m.share)
	m.applied = m.received
	m.noteHonored()
}

// noteHonored notes that the attempts in flight fit into the share, if they do. It
// requests a write if that lets a newcomer start. The lock is held.
func (m *member) noteHonored() {
	if !m.limiter.fits() {
		return // some attempts passed under a larger share
	}
	m.honored = m.applied
	if m.joined == 0 {
		return // nobody waits for an idle member
	}
	for _, p := range m.peers {
		if p.joined > m.announced && p.joined <= m.honored {
			m.requestWrite()
			return
		}
	}
}

// mayStart reports whether every member that joined earlier has announced that it honors
// the arrival of this one. The lock is held.
func (m *member) mayStart() bool {
	// The board may have lost its values before this member joined. Members that are no
	// longer on the board begin no attempt after fenceAfter, and those that they have begun
	// get as much time to end as those of a member that lapses.
	if m.joined == 0 || time.Since(m.watchedSince) < lapseAfter {
		return false
	}
	for key, p := range m.peers {
		if key != m.key && !p.idle && p.joined < m.joined && p.honored < m.joined {
			return false
		}
	}
	return true
}

// allowance returns the member's share. The lock is held.
func (m *member) allowance() allowance {
	least := m.least
	a := allowance{
		slots: m.part(least.InFlight), turns: -1,
		notBefore: m.pausedUntil, notAfter: m.confirmedWrite.Add(fenceAfter),
	}
	if least.PerSecond > 0 {
		n := math.Ceil(least.PerSecond)
		a.turns = m.part(int(min(n, math.MaxInt32)))
		a.turn = time.Duration(min(n/least.PerSecond, maxPause.Seconds()) * float64(minTurn))
	}
	return a
}

// part returns the member's part of a limit; negative: no limit. The member with rank r
// of n has the parts r, r+n, r+2n and so on, below the limit. The number of parts of a
// rank does not grow with n. The lock is held.
func (m *member) part(limit int) int {
	if limit == 0 {
		return -1
	}
	rank, n := 0, 0
	for _, p := range m.peers {
		if p.idle {
			continue
		}
		n++
		if p.joined < m.joined {
			rank++
		}
	}
	n = max(n, 1)
	return max((limit-rank+n-1)/n, 0)
}

// capacity returns the number of attempts that the member can have in flight now or
// begin within a turn; negative: no limit. An idle member has one, for which it joins, and
// keeps it while it normally starts.
func (m *member) capacity() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, flying := m.limiter.counts()
	switch {
	case m.free:
		return -1
	case m.watchedSince.IsZero() && m.known:
		return 1 // the queue is away like its board: requests can't be handed back
	case time.Since(m.watchedSince) < lapseAfter || m.watchedSince.IsZero():
		return 0
	case m.joined == 0 || !m.started && time.Since(m.joinedAt) < period:
		return 1
	case !m.started:
		return 0
	case m.share.turns < 0:
		return m.share.slots
	case m.share.slots < 0:
		return flying + m.share.turns
	}
	if m.share.turns == 0 {
		return 0
	}
	return min(m.share.slots, flying+m.share.turns)
}

// hasRate reports whether there is a limit of the attempts per second.
func (m *member) hasRate() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.least.PerSecond > 0
}

// updateLimits sets least to the smallest limits of the members. Those of a kind that no
// member has any more remain, because the workers with limits may be preempted while others
// continue. A member keeps no limits of a record that is older than its own first one: the
// records of killed workers stay on the board. The lock is held.
func (m *member) updateLimits() {
	all, alive := m.limits, m.limits
	kept, keptAlive := m.kept, m.kept
	for _, p := range m.peers {
		all, kept = all.smallest(p.limits), kept.smallest(p.kept)
		if m.first > 0 && p.revision > m.first {
			alive, keptAlive = alive.smallest(p.limits), keptAlive.smallest(p.kept)
		}
	}
	m.least, m.kept = all.or(kept), alive.or(keptAlive)
}

// pause makes all members of the group wait, because the gateway asked for it.
func (m *member) pause(d time.Duration) {
	m.mu.Lock()
	until := time.Now().Add(min(d, maxPause))
	longer := until.Sub(m.pausedUntil) > period/10
	if longer {
		m.pausedUntil = until
	}
	m.mu.Unlock()
	if longer {
		m.apply()
		m.requestWrite()
	}
}

// changed is called after an attempt has begun to wait, or has ended.
func (m *member) changed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.honored < m.applied {
		m.noteHonored()
	}
	if m.joined == 0 && !m.joining {
		m.requestWrite()
	}
}

// requestWrite makes writeRecords write a record before the period ends.
func (m *member) requestWrite() {
	select {
	case m.writeRequests <- struct{}{}:
	default:
	}
}

// sleep waits for d, and reports whether that ended before ctx.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
