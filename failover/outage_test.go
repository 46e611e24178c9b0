package failover_test

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/failover"
)

// A gateway simulates a server that serves so many requests at a time, each in
// about 200 ms. It queues more than that, or refuses them.
type gateway struct {
	slots   chan struct{}
	refuses string // Retry-After of refusals; "": it queues

	mu       sync.Mutex
	down     chan struct{} // closed while the gateway is down
	lost     int           // attempts while it was down
	served   []time.Time
	attempts int
	refused  int
}

func newGateway(capacity int, refuses string) *gateway {
	return &gateway{slots: make(chan struct{}, capacity), refuses: refuses, down: make(chan struct{})}
}

func (g *gateway) kill() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.down)
}

func (g *gateway) restart() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.down = make(chan struct{})
}

func (g *gateway) RoundTrip(req *http.Request) (*http.Response, error) {
	g.mu.Lock()
	g.attempts++
	down := g.down
	g.mu.Unlock()
	select {
	case <-down:
		g.count(&g.lost)
		return nil, errRefused
	default:
	}
	if g.refuses != "" {
		select {
		case g.slots <- struct{}{}:
		default:
			g.count(&g.refused)
			return status(503, g.refuses)(req)
		}
	} else {
		select {
		case g.slots <- struct{}{}:
		case <-down:
			return nil, errReset
		}
	}
	defer func() { <-g.slots }()
	select {
	case <-time.After(time.Duration(150+rand.IntN(100)) * time.Millisecond):
		g.mu.Lock()
		defer g.mu.Unlock()
		g.served = append(g.served, time.Now())
		return response(req, 200, "answer"), nil
	case <-down:
		return nil, errReset
	}
}

func (g *gateway) count(n *int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	*n++
}

// servedIn returns the number of responses from one time to another.
func (g *gateway) servedIn(from, to time.Time) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, at := range g.served {
		if !at.Before(from) && at.Before(to) {
			n++
		}
	}
	return n
}

// Two gateways, one of which serves ten times as much as the other. One is killed
// for 30 s. Every request gets an answer, few attempts are sent to the one that is
// down, and 5 s after its return it serves as much as before.
func TestTransport_Outage(t *testing.T) {
	for _, refuses := range []string{"", "1"} {
		for killed := range 2 {
			t.Run("refuses "+strconv.Quote(refuses)+" killed "+strconv.Itoa(killed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testOutage(t, refuses, killed) })
			})
		}
	}
}

func testOutage(t *testing.T, refuses string, killed int) {
	gateways := []*gateway{newGateway(40, refuses), newGateway(4, refuses)}
	callers := 64
	if refuses != "" {
		callers = 40 // otherwise the rest has to wait somewhere
	}
	rt := &httpretry.RetryTransport{
		Base: &failover.Transport{Endpoints: []failover.Endpoint{
			{URL: "http://a", Base: gateways[0]}, {URL: "http://b", Base: gateways[1]},
		}},
		Policy:     httpretry.RetryConfig{MaxRetries: 30, MaxBackoff: 4 * time.Second},
		Idempotent: func(*http.Request) bool { return true },
	}
	var calls, failed atomic.Int32
	begun := time.Now()
	at := func(seconds int) time.Time { return begun.Add(time.Duration(seconds) * time.Second) }
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for time.Since(begun) < 80*time.Second {
				calls.Add(1)
				if code, err := send(t, rt, newRequest(t, "POST", "prompt")); code != 200 || err != nil {
					failed.Add(1)
				}
			}
		})
	}
	time.Sleep(20 * time.Second)
	gateways[killed].kill()
	time.Sleep(30 * time.Second)
	gateways[killed].restart()
	wg.Wait()
	attempts, refused := gateways[0].attempts+gateways[1].attempts, gateways[0].refused+gateways[1].refused
	lost := gateways[killed].lost
	if failed.Load() > 0 || lost*100 > attempts {
		t.Errorf("%d of %d calls failed, %d of %d attempts were sent to the gateway that was down, want none and 1 %%",
			failed.Load(), calls.Load(), lost, attempts)
	}
	rates := func(from, to int) (rates [2]float64) {
		for i, g := range gateways {
			rates[i] = float64(g.servedIn(at(from), at(to))) / float64(to-from)
		}
		return rates
	}
	before, during, after := rates(10, 20), rates(25, 50), rates(55, 75)
	t.Logf("%d attempts for %d calls, %d refused, %d lost; served per second before %v, during %v, after %v",
		attempts, calls.Load(), refused, lost, before, during, after)
	if after[killed] < 0.9*before[killed] || after[0]+after[1] < 0.9*(before[0]+before[1]) {
		t.Errorf("served %v per second 5 s after the outage, %v before it", after, before)
	}
}
