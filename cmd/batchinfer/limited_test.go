package main

import (
	"fmt"
	"net/http"
	"sync"
	"time"
)

// A limited gateway refuses requests beyond a limit.
type limited struct {
	mu       sync.Mutex
	attempts int
	refused  int
	accept   func(now time.Time) (ok bool, wait time.Duration)
	done     func() // an accepted request has ended
	status   int    // of a refusal
	header   bool   // a refusal has a Retry-After
}

func (g *limited) RoundTrip(r *http.Request) (*http.Response, error) {
	return virtualGateway(func(*http.Request) (int, string, string) {
		g.mu.Lock()
		g.attempts++
		ok, wait := g.accept(time.Now())
		if !ok {
			g.refused++
			g.mu.Unlock()
			time.Sleep(20 * time.Millisecond)
			if g.header {
				return g.status, fmt.Sprintf("Retry-After: %d", int(wait.Seconds())+1), ""
			}
			return g.status, "", ""
		}
		g.mu.Unlock()
		time.Sleep(300 * time.Millisecond)
		if g.done != nil {
			g.mu.Lock()
			g.done()
			g.mu.Unlock()
		}
		return 200, "", answered
	}).RoundTrip(r)
}

// bucket is a token bucket of one second.
func bucket(perSecond float64) func(time.Time) (bool, time.Duration) {
	level, at := perSecond, time.Now()
	return func(now time.Time) (bool, time.Duration) {
		level = min(level+now.Sub(at).Seconds()*perSecond, perSecond)
		at = now
		if level < 1 {
			return false, time.Duration((1 - level) / perSecond * float64(time.Second))
		}
		level--
		return true, 0
	}
}

// minutely is a quota for each minute.
func minutely(quota int) func(time.Time) (bool, time.Duration) {
	start, used := time.Now(), 0
	return func(now time.Time) (bool, time.Duration) {
		if now.Sub(start) >= time.Minute {
			start, used = start.Add(now.Sub(start).Truncate(time.Minute)), 0
		}
		if used == quota {
			return false, start.Add(time.Minute).Sub(now)
		}
		used++
		return true, 0
	}
}
