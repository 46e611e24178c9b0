package httpretry

import (
	"math"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// A Budget limits the retries of all requests that share it, so that retries do
// not prolong an outage. Its methods must be safe for concurrent use.
type Budget interface {
	// Deposit is called once for each call of RoundTrip, before its first
	// attempt. It must be fast, and must not retain or modify the request.
	Deposit(req *http.Request)

	// Withdraw reports whether attempt a may be followed by a retry. It is
	// called last, only if nothing else prevents the retry.
	Withdraw(a Attempt) bool
}

// A TokenBudget allows retries in proportion to requests: each request adds
// Ratio tokens, each second adds MinPerSecond, and each retry takes one. Unused
// tokens accumulate, up to Burst. Once Burst is spent, a server that refuses
// everything therefore gets at most 1 + Ratio times its callers' load, plus
// MinPerSecond per process, without any coordination between processes.
//
// The model is Finagle's RetryBudget, with a token bucket in place of its
// 10-second window. Budgets that are refilled only by successes, as in the AWS
// SDKs and in gRPC (proposal A6), stop all retries in a total outage, but rarely
// let a client with little traffic retry at all.
//
// The zero value uses the defaults and starts full. A TokenBudget is safe for
// concurrent use. It must not be copied, nor its fields modified, after first
// use. NaN counts as negative.
type TokenBudget struct {
	// Ratio is the number of retries that each request allows. If zero, it is
	// 0.2. If negative, requests allow none.
	Ratio float64

	// MinPerSecond is the number of retries that each second allows,
	// regardless of traffic. It is per process: in a large fleet whose processes
	// all have traffic, set it to a negative value. If zero, it is 10. If
	// negative, only requests allow retries.
	MinPerSecond float64

	// Burst is the maximum number of unused retries that accumulate, at least
	// 1. If zero, it is ten seconds' worth of MinPerSecond.
	Burst float64

	mu       sync.Mutex // guards the fields below
	spent    float64    // tokens missing from Burst; 0 if the bucket is full
	credited time.Time  // when MinPerSecond was last credited to spent
}

// Deposit implements [Budget].
func (b *TokenBudget) Deposit(*http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spent = max(0, b.spent-b.ratio())
}

// Withdraw implements [Budget].
func (b *TokenBudget) Withdraw(Attempt) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	// The time since the zero Time saturates, but then nothing is spent yet.
	// Time goes backward only between testing/synctest bubbles.
	elapsed := max(0, now.Sub(b.credited))
	b.credited = now
	b.spent = max(0, b.spent-elapsed.Seconds()*b.minPerSecond())
	// Ten deposits of 0.1 add up to slightly less than one token.
	const rounding = 1e-9
	if b.spent+1 > b.burst()+rounding {
		return false
	}
	b.spent++
	return true
}

func (b *TokenBudget) ratio() float64 { return orDefault(b.Ratio, 0.2) }

func (b *TokenBudget) minPerSecond() float64 { return orDefault(b.MinPerSecond, 10) }

func (b *TokenBudget) burst() float64 {
	return max(1, orDefault(b.Burst, 10*b.minPerSecond()))
}

// orDefault returns byDefault if v is 0, and 0 if v is negative or NaN.
// Otherwise it returns v, limited so that sums and differences stay finite and
// count single tokens.
func orDefault(v, byDefault float64) float64 {
	switch {
	case v == 0:
		return byDefault
	case v > 0:
		return min(v, math.MaxInt32)
	}
	return 0
}

// PerHost returns a Budget that keeps a separate budget for each host. It calls
// newBudget for the first request to a host. Hosts are identified by
// Request.URL.Host, in lower case and without the default port of the URL's
// scheme: example.com, EXAMPLE.com and, for https, example.com:443 are one host.
//
// newBudget is called with a lock held. It must not return nil, nor use the
// Budget that PerHost returned.
//
// PerHost keeps the budgets of a few thousand hosts. If there are more, the
// budgets of the least recently used are dropped, and a host that reappears
// gets a new one.
func PerHost(newBudget func(host string) Budget) Budget {
	return &hostBudgets{newBudget: newBudget}
}

type hostBudgets struct {
	newBudget func(host string) Budget
	budgets   generations[Budget]
}

// Deposit implements [Budget].
func (h *hostBudgets) Deposit(req *http.Request) { h.budget(req.URL).Deposit(req) }

// Withdraw implements [Budget].
func (h *hostBudgets) Withdraw(a Attempt) bool { return h.budget(a.Request.URL).Withdraw(a) }

func (h *hostBudgets) budget(u *url.URL) Budget {
	host := canonicalHost(u)
	return h.budgets.get(host, func() Budget { return h.newBudget(host) })
}

// generations is a map that keeps the values of a few thousand keys that were used
// recently.
type generations[V any] struct {
	// Both maps are guarded by mu. When recent is full it replaces older. A key
	// that is found in older returns to recent, so that only keys that were not
	// used for a whole generation are dropped.
	mu            sync.Mutex
	recent, older map[string]V
}

const maxRecentKeys = 4096

// get returns the value of key. If there is none, it adds the result of make, or
// returns the zero value if make is nil.
func (g *generations[V]) get(key string, make func() V) V {
	g.mu.Lock()
	defer g.mu.Unlock()
	if v, ok := g.recent[key]; ok {
		return v
	}
	v, ok := g.older[key]
	if !ok {
		if make == nil {
			return v
		}
		v = make()
	}
	if g.recent == nil || len(g.recent) >= maxRecentKeys {
		g.recent, g.older = map[string]V{}, g.recent
	}
	g.recent[key] = v
	return v
}

// canonicalHost returns the host of u in lower case, with its port unless that
// is the default of u's scheme. It returns "" if u is nil, which is left to Base
// to reject.
func canonicalHost(u *url.URL) string {
	if u == nil {
		return ""
	}
	host := u.Host
	switch port := u.Port(); {
	case port == "":
		// RFC 3986, section 3.2.3: a port may be empty.
		host = strings.TrimSuffix(host, ":")
	case port == "80" && u.Scheme == "http", port == "443" && u.Scheme == "https":
		host = strings.TrimSuffix(host, ":"+port)
	}
	return strings.ToLower(host)
}
