package failover

import (
	"cmp"
	"net/http"
	"net/url"
	"time"
)

const (
	// firstClosing and longestClosing limit the time for which an endpoint is
	// closed if it does not ask for one. With them, an endpoint that returns is
	// used again within 2 s, and one that does not costs a request every 2 s.
	firstClosing   = 250 * time.Millisecond
	longestClosing = 2 * time.Second

	// longestTimeout limits the time for which a timeout closes an endpoint.
	// Without it, an endpoint that does not respond would keep one request
	// waiting most of the time.
	longestTimeout = time.Minute

	// failuresInRow close an endpoint. One or two may be due to the request, or
	// to a connection that the server closed while it was idle.
	failuresInRow = 3

	// refusalFactor is applied to the requests in flight when one is refused.
	refusalFactor = 0.7
)

// A server is the state of an endpoint.
type server struct {
	url    *url.URL
	name   string // for errors: the URL without userinfo and query
	host   string // for Request.Host; "": the URL's
	header http.Header
	base   http.RoundTripper // never nil after Transport.init
	weight int

	// The following fields are guarded by Transport.mu.
	inFlight int
	turn     int             // in favor of this server among equals: smooth weighted round robin
	limit    float64         // on inFlight; infinite until a refusal or failure
	waiting  []chan struct{} // of requests that wait for room; closed when there may be some
	probing  bool            // the limit grows by 1 with each success, because it followed a failure
	down     bool            // it failed and has not responded since
	older    int             // in flight since before the server was closed
	failures int             // in a row, since it was closed
	closings int             // in a row
	era      int             // number of closings in all
	until    time.Time       // when the server opens; in the past: it is open
}

// wait returns the time until the server opens.
func (s *server) wait(now time.Time) time.Duration { return max(s.until.Sub(now), 0) }

// available reports whether the server accepts another request, as far as is known.
func (s *server) available(now time.Time) bool { return s.wait(now) == 0 && s.room() > 0 }

// room returns by how many requests the number in flight is below the limit.
func (s *server) room() float64 {
	n := s.inFlight
	if s.probing {
		// Requests that were sent before the failure may hang.
		n -= s.older
	}
	return s.limit - float64(n)
}

// choose returns the server for the attempt after last, which may be nil.
func (t *Transport) choose(last *attempt, now time.Time) *server {
	best := t.servers[0]
	for _, s := range t.servers[1:] {
		if compare(s, best, last, now) < 0 {
			best = s
		}
	}
	// Those that are equal to best take turns.
	next, total := best, 0
	for _, s := range t.servers {
		if compare(s, best, last, now) != 0 {
			continue
		}
		s.turn += s.weight
		total += s.weight
		if s.turn > next.turn {
			next = s
		}
	}
	next.turn -= total
	return next
}

// compare returns a negative number if a is a better choice than b, and 0 if they
// are equal.
func compare(a, b *server, last *attempt, now time.Time) int {
	rank := a.rank(last, now)
	if other := b.rank(last, now); rank != other {
		return rank - other
	}
	if rank == closedRank {
		return cmp.Compare(a.closedFor(now), b.closedFor(now))
	}
	return cmp.Compare(a.load(rank), b.load(rank))
}

// The ranks of servers, from the first choice to the last.
const (
	untriedRank = iota
	triedRank   // by the same call
	failedRank  // the previous attempt's
	fullRank
	closedRank
)

func (s *server) rank(last *attempt, now time.Time) int {
	switch available := s.available(now); {
	case s.wait(now) > 0, !available && s.down:
		return closedRank
	case !available:
		return fullRank
	case last != nil && last.server == s:
		return failedRank
	case last.tried(s):
		return triedRank
	}
	return untriedRank
}

// closedFor is compared between servers of closedRank.
func (s *server) closedFor(now time.Time) time.Duration {
	if s.down {
		// It may fail again, or a probe may be under way. A server that has
		// refused is alive and has said when it opens.
		return s.wait(now) + longestClosing
	}
	return s.wait(now)
}

// load is compared between other servers of the same rank.
func (s *server) load(rank int) float64 {
	if rank == fullRank {
		return float64(s.inFlight) / s.limit
	}
	return float64(s.inFlight) / float64(s.weight)
}

// accepted notes a response that is not a failure. Its body may still fail.
func (a *attempt) accepted() {
	a.t.mu.Lock()
	defer a.t.mu.Unlock()
	a.success = true
	s := a.server
	if a.era != s.era {
		return
	}
	s.until, s.down = time.Time{}, false
	defer a.t.wakeLocked()
	switch {
	case float64(a.load) < s.limit/2: // it does not show that the server accepts more
	case s.probing:
		s.limit++
	default:
		s.limit += 1 / s.limit
	}
}

// completed notes a response that has ended, or that the caller has closed.
func (a *attempt) completed() {
	a.t.mu.Lock()
	defer a.t.mu.Unlock()
	if a.success && !a.released && a.era == a.server.era {
		a.server.failures, a.server.closings = 0, 0
	}
	a.releaseLocked()
}

// refused notes a refusal by a server that asks to wait, or not if asked is 0.
func (a *attempt) refused(asked time.Duration) {
	a.t.mu.Lock()
	defer a.t.mu.Unlock()
	s := a.server
	// A Pacer limits the requests itself.
	if a.counts() && a.t.Pacer == nil {
		s.limit, s.probing = max(1, refusalFactor*float64(s.inFlight)), false
	}
	s.down = false
	a.closeLocked(asked, 0)
}

// refusedConnection notes an attempt that did not reach the server.
func (a *attempt) refusedConnection() {
	a.t.mu.Lock()
	defer a.t.mu.Unlock()
	a.probeLocked()
	a.closeLocked(0, 0)
}

// broke notes another failure, after the given time if it was a timeout.
func (a *attempt) broke(asked, timeout time.Duration) {
	a.t.mu.Lock()
	defer a.t.mu.Unlock()
	s := a.server
	if a.counts() {
		s.failures++
	}
	if s.failures >= failuresInRow || s.closings > 0 || asked > 0 {
		a.probeLocked()
		a.closeLocked(asked, min(timeout, longestTimeout))
	}
}

// counts reports whether a failure of the attempt is news. It is not if the server
// has been closed since the attempt began, which is one event for all attempts, or
// if it was closed even then.
func (a *attempt) counts() bool { return a.era == a.server.era && !a.early }

// probeLocked lets one request at a time through when the server opens.
func (a *attempt) probeLocked() {
	if a.counts() {
		a.server.limit, a.server.probing, a.server.down = 1, true, true
	}
}

// closeLocked closes the server for as long as it asked, or for a time of our own
// that is at least the given one.
func (a *attempt) closeLocked(asked, atLeast time.Duration) {
	s, now := a.server, time.Now()
	if a.counts() {
		if asked == 0 {
			n := s.closings
			if a.t.Pacer != nil && !s.down {
				n-- // a single refusal is left to the Pacer
			}
			if n >= 0 {
				asked = max(atLeast, min(firstClosing<<min(n, 10), longestClosing))
			}
		}
		s.closings++
		s.era++
		s.older, s.failures = s.inFlight, 0
	}
	if until := now.Add(asked); asked > 0 && until.After(s.until) {
		s.until = until
		s.wakeAllLocked()
	}
	a.t.wakeLocked()
}

// release ends the attempt's being in flight. It may be called several times.
func (a *attempt) release() {
	a.t.mu.Lock()
	defer a.t.mu.Unlock()
	a.releaseLocked()
}

func (a *attempt) releaseLocked() {
	if a.released {
		return
	}
	a.released = true
	a.server.inFlight--
	if a.era != a.server.era {
		a.server.older--
	}
	a.t.wakeLocked()
}
