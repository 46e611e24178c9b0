package httpretry

import (
	"hash/maphash"
	"maps"
	"math"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// A Budget bounds the retries of all requests together, so that an outage is
// not made worse by those who wait for its end. Both methods are called from
// many goroutines at once.
type Budget interface {
	// Deposit is called once per request, before its first attempt. It must
	// be cheap, and must not keep or modify the request.
	Deposit(req *http.Request)

	// Withdraw reports whether the attempt a may be followed by a retry. It is
	// asked last, when nothing else speaks against one.
	Withdraw(a Attempt) bool
}

// A TokenBudget allows retries in proportion to requests: each request brings
// Ratio tokens, each second MinPerSecond, and each retry takes one. What is not
// taken is saved, up to Burst. So the load on a server that rejects everything
// is at most 1 + Ratio times that of its callers, plus MinPerSecond from each
// process, once Burst is spent; it takes no coordination for that to hold.
//
// The model is that of Finagle's RetryBudget, a ratio and a floor for low
// traffic, with the cap of a token bucket in the place of Finagle's window of
// 10 s. A budget that only a success refills, as those of the AWS SDKs and of
// gRPC (proposal A6), also forbids the last retries of a total outage, but
// lets a client with little traffic retry hardly ever.
//
// The zero value has the defaults and is full. A TokenBudget is safe for
// concurrent use; it must not be copied after its first use, nor its fields be
// changed. In a field, NaN counts as negative.
type TokenBudget struct {
	// Ratio is how many retries each request allows for. If zero, 0.2; if
	// negative, none.
	Ratio float64

	// MinPerSecond is how many retries each second allows for, whatever the
	// traffic. It adds up over processes: where there are many, and each has
	// traffic enough, none are needed. If zero, 10; if negative, none.
	MinPerSecond float64

	// Burst is how many retries may be saved for later, at least 1. If zero,
	// what ten seconds of MinPerSecond bring.
	Burst float64

	spent atomic.Int64 // nanotokens that are missing to Burst, at least 0

	mu   sync.Mutex // held by Withdraw; guards paid
	paid time.Time  // the time up to which MinPerSecond has been credited
}

// Deposit implements [Budget].
func (b *TokenBudget) Deposit(*http.Request) {
	// While nothing fails nothing is spent, and nobody writes.
	for spent := b.spent.Load(); spent > 0; spent = b.spent.Load() {
		if b.spent.CompareAndSwap(spent, max(0, spent-nano(b.ratio()))) {
			return
		}
	}
}

// Withdraw implements [Budget].
func (b *TokenBudget) Withdraw(Attempt) bool {
	// The clock is read under the lock, so that time does not go back; and a
	// credit is used under it, so that it can't arrive when others have filled
	// the bucket and emptied it again.
	b.mu.Lock()
	defer b.mu.Unlock()
	credit, limit := b.credit(time.Now()), nano(b.burst())
	for {
		spent := b.spent.Load()
		left := max(0, spent-credit)
		granted := left+nano(1) <= limit
		if granted {
			left += nano(1)
		}
		if b.spent.CompareAndSwap(spent, left) {
			return granted
		}
	}
}

// credit is what MinPerSecond has brought since it last brought something. It
// is never negative. What is less than a millionth of a token is left to come,
// so that next to nothing is lost by counting whole nanotokens.
func (b *TokenBudget) credit(now time.Time) int64 {
	since := now.Sub(b.paid) // saturates for the zero time, when nothing is spent yet
	if since < 0 {
		// Time goes back only from one test with virtual time to the next.
		b.paid = now
		return 0
	}
	credit := nano(since.Seconds() * b.minPerSecond())
	if credit < nano(1e-6) {
		return 0
	}
	b.paid = now
	return credit
}

// nano is a number of tokens in nanotokens.
func nano(tokens float64) int64 { return int64(min(tokens, math.MaxInt32) * 1e9) }

func (b *TokenBudget) ratio() float64 { return orDefault(b.Ratio, 0.2) }

func (b *TokenBudget) minPerSecond() float64 { return orDefault(b.MinPerSecond, 10) }

func (b *TokenBudget) burst() float64 {
	return max(1, orDefault(b.Burst, 10*b.minPerSecond()))
}

// orDefault is v, the default for 0, and 0 for what is negative or no number.
// It bounds what is computed with it.
func orDefault(v, byDefault float64) float64 {
	switch {
	case v == 0:
		return byDefault
	case v > 0:
		return min(v, math.MaxInt32)
	}
	return 0
}

// PerHost returns a budget that keeps the hosts of requests apart, by
// URL.Host: each has a budget of its own, which newBudget makes when the host
// is first seen. newBudget is called with a lock held, for several hosts at
// once: it must not use the budget that PerHost returned, nor return nil.
//
// It remembers thousands of hosts: of those that were used least recently it
// forgets some, and their budgets begin anew when they come back.
func PerHost(newBudget func(host string) Budget) Budget {
	return &hostBudgets{newBudget: newBudget, seed: maphash.MakeSeed()}
}

type hostBudgets struct {
	newBudget func(host string) Budget
	seed      maphash.Seed
	shards    [64]hostShard
}

// Deposit implements [Budget].
func (h *hostBudgets) Deposit(req *http.Request) { h.of(req).Deposit(req) }

// Withdraw implements [Budget].
func (h *hostBudgets) Withdraw(a Attempt) bool { return h.of(a.Request).Withdraw(a) }

func (h *hostBudgets) of(req *http.Request) Budget {
	host := ""
	if req.URL != nil {
		host = req.URL.Host
	}
	shard := &h.shards[maphash.String(h.seed, host)%uint64(len(h.shards))]
	if b, ok := shard.load().recent[host]; ok {
		return b
	}
	return shard.add(host, h.newBudget)
}

// A hostShard holds some of the hosts. Its maps are never written to once they
// are published, so that looking up takes no lock.
type hostShard struct {
	mu    sync.Mutex
	hosts atomic.Pointer[hostMaps]
}

// hostMaps are two generations: when recent is full it takes the place of
// older, and what is still in use finds its way back.
type hostMaps struct{ recent, older map[string]Budget }

const maxRecentHosts = 64 // times 64 shards, times 2 generations

func (s *hostShard) load() *hostMaps {
	if m := s.hosts.Load(); m != nil {
		return m
	}
	return &hostMaps{}
}

func (s *hostShard) add(host string, newBudget func(string) Budget) Budget {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.load()
	b, ok := old.recent[host]
	if ok {
		return b // somebody else was faster
	}
	if b, ok = old.older[host]; !ok {
		b = newBudget(host)
	}
	next := &hostMaps{recent: maps.Clone(old.recent), older: old.older}
	if len(old.recent) >= maxRecentHosts {
		next = &hostMaps{older: old.recent}
	}
	if next.recent == nil {
		next.recent = make(map[string]Budget)
	}
	next.recent[host] = b
	s.hosts.Store(next)
	return b
}
