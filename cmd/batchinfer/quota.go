package main

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/httpretry/httpretry/inference"
)

// A quota limits the tokens that a run uses in a minute. An attempt reserves as many
// tokens as the answers had on average; when it has ended, they are replaced by those
// that it used. It is safe for concurrent use, and a nil quota has no limit.
type quota struct {
	perSecond float64

	mu    sync.Mutex
	level float64 // tokens that may be used now; negative: reserved beforehand
	at    time.Time
	mean  float64   // tokens of an answer
	reset time.Time // no attempt before: the gateway's own limit is exhausted
}

// quotaBurst is the time whose tokens accumulate while they are not used.
const quotaBurst = 5 * time.Second

// newQuota returns nil if there is no limit.
func newQuota(perMinute int) *quota {
	if perMinute <= 0 {
		return nil
	}
	return &quota{perSecond: float64(perMinute) / 60, at: time.Now()}
}

// reserve reserves the tokens of an attempt, and returns the time until it may be
// made.
func (q *quota) reserve() (wait time.Duration, reserved float64) {
	if q == nil {
		return 0, 0
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	q.level = min(q.level+now.Sub(q.at).Seconds()*q.perSecond, q.perSecond*quotaBurst.Seconds())
	q.at = now
	if q.level < 0 {
		wait = time.Duration(-q.level / q.perSecond * float64(time.Second))
	}
	q.level -= q.mean
	return max(wait, q.reset.Sub(now)), q.mean
}

// cancel gives back the tokens of an attempt that has used none.
func (q *quota) cancel(reserved float64) {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.level += reserved
}

// use notes the tokens of an answer, whose reservation was canceled.
func (q *quota) use(tokens int) {
	if q == nil || tokens == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.level -= float64(tokens)
	if q.mean == 0 {
		q.mean = float64(tokens)
	}
	q.mean += (float64(tokens) - q.mean) / 16
}

// exhaust delays the next attempts if a response says that the gateway's own limit is
// exhausted, until its reset, but not for more than longest.
func (q *quota) exhaust(resp *http.Response, longest time.Duration) {
	if q == nil || resp == nil {
		return
	}
	wait := tokenReset(resp.Header)
	if wait <= 0 || wait > longest {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if reset := time.Now().Add(wait); reset.After(q.reset) {
		q.reset = reset
	}
}

// tokenReset returns the time until the reset of an exhausted limit of tokens, or 0 if
// none is exhausted.
func tokenReset(h http.Header) time.Duration {
	const remaining, reset = "X-Ratelimit-Remaining-Tokens", "X-Ratelimit-Reset-Tokens"
	if n, err := strconv.Atoi(strings.TrimSpace(h.Get(remaining))); err != nil || n > 0 {
		return 0
	}
	only := http.Header{remaining: h[remaining], reset: h[reset], "Date": h["Date"]}
	return inference.Classifier(new(http.Request), &http.Response{StatusCode: http.StatusTooManyRequests, Header: only, Body: http.NoBody}, nil).RetryAfter
}
