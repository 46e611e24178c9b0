package compat_test

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/httpretry/httpretry"
)

// A quota is a token bucket that counts.
type quota struct {
	perSecond, burst float64

	mu       sync.Mutex
	tokens   float64
	at       time.Time
	begun    time.Time
	attempts int
	refused  int
	later    int // refused after the first second
}

func (q *quota) accept() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	if q.attempts++; q.attempts == 1 {
		q.begun, q.at, q.tokens = now, now, q.burst
	}
	q.tokens = min(q.burst, q.tokens+now.Sub(q.at).Seconds()*q.perSecond)
	q.at = now
	if q.tokens >= 1 {
		q.tokens--
		return true
	}
	q.refused++
	if now.Sub(q.begun) > time.Second {
		q.later++
	}
	return false
}

// The client of docs/pacing.md.
func newPacedClient() *http.Client {
	client := &http.Client{Transport: &httpretry.RetryTransport{Pacer: &httpretry.AdaptivePacer{}}}
	return client
}

// 64 goroutines share an SDK, whose transport finds the limit of the server.
func TestPacer_SharedByAnSDK(t *testing.T) {
	t.Parallel()
	const callers, calls = 64, 900
	q := &quota{perSecond: 250, burst: 50}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !q.accept() {
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		respond("application/json", openaiCompletion).ServeHTTP(w, r)
	}))
	defer server.Close()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = callers
	defer transport.CloseIdleConnections()
	retry := newPacedClient().Transport.(*httpretry.RetryTransport)
	retry.Base, retry.Policy = transport, httpretry.RetryConfig{InitialBackoff: 100 * time.Millisecond}
	var wg sync.WaitGroup
	begun := time.Now()
	for i := range callers {
		wg.Go(func() {
			for n := i; n < calls; n += callers {
				if err := openaiChat(t.Context(), server.URL, retry); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(begun)
	t.Logf("%d attempts, of which %d were refused, %d after the first second; %v", q.attempts, q.refused, q.later, took)
	// The first attempts of all callers are in flight when the first is refused.
	if most := calls*103/100 + callers; q.attempts > most {
		t.Errorf("%d calls took %d attempts, want at most %d", calls, q.attempts, most)
	}
	if most := calls * 2 / 100; q.later > most {
		t.Errorf("%d attempts were refused after the first second, want at most %d", q.later, most)
	}
	// Shared machines are slow. Without a Pacer, it takes as long as the retries.
	if ideal := time.Duration((calls - q.burst) / q.perSecond * float64(time.Second)); took > 2*ideal {
		t.Errorf("the calls took %v, want about %v", took, ideal)
	}
}
