package chaos_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A breach is a broken promise.
type breach string

const (
	otherBody       breach = "a complete request body has other bytes than were sent"
	otherAnswer     breach = "a complete response is not the one to its request"
	processedTwice  breach = "a request that is not idempotent was processed twice"
	sentAgain       breach = "a request that is not idempotent was sent again after it was possibly processed"
	notOneResult    breach = "a call ended with a response and an error, or with neither"
	overtime        breach = "a call continued after its context was done"
	notClosedOnce   breach = "a request body was not closed exactly once"
	requestModified breach = "the caller's request was modified"
	unanswered      breach = "a call failed without a fault"
	leftBodies      breach = "response bodies are left open"
	leftConnections breach = "connections are left"
	leftGoroutines  breach = "goroutines are left"
	leftFiles       breach = "open files are left"
	grownHeap       breach = "the heap has grown"
)

// A ledger records the requests that arrive at a server and the ends of the
// calls. Its size is constant.
type ledger struct {
	seed    uint64
	entries []entry
	grace   time.Duration // of a call after its context is done, for a busy machine

	mu       sync.Mutex
	breaches map[breach]int
	examples []string
	tally    map[string]int
	open     int // connections to the server

	bodies atomic.Int64 // of responses, that are open
}

// An entry records one request.
type entry struct {
	mu        sync.Mutex
	arrivals  int32
	accepted  int32 // arrivals that the server accepted
	processed int32
	turned    int32 // arrivals that the server rejected
	last      int32 // the attempt that arrived last
	closed    atomic.Int32
}

func newLedger(seed uint64, requests int) *ledger {
	return &ledger{
		seed: seed, entries: make([]entry, requests), grace: 10 * time.Second,
		breaches: make(map[breach]int), tally: make(map[string]int),
	}
}

func (l *ledger) breach(b breach, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.breaches[b]++; l.breaches[b] <= 3 {
		l.examples = append(l.examples, string(b)+": "+fmt.Sprintf(format, args...))
	}
}

// count counts an event that is not a breach, but has to occur in every run.
func (l *ledger) count(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally[what]++
}

// report fails the test if a promise was broken.
func (l *ledger) report(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, text := range l.examples {
		t.Error(text)
	}
	for b, n := range l.breaches {
		t.Errorf("%d times: %s", n, b)
	}
	if t.Failed() {
		t.Errorf("to repeat the faults and requests, in another interleaving: -chaos.seed=%d", l.seed)
	}
}

// summary returns the counts, one per line.
func (l *ledger) summary() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lines []string
	for what, n := range l.tally {
		lines = append(lines, fmt.Sprintf("%8d %s\n", n, what))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// ServeHTTP is the server. It follows the plan of a request and checks that the
// request may arrive.
func (l *ledger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.Atoi(r.Header.Get("Number"))
	attempt, attemptErr := strconv.Atoi(r.Header.Get("Attempt"))
	if err != nil || attemptErr != nil || id >= len(l.entries) {
		l.breach(otherBody, "no such request: %v", r.Header)
		return
	}
	p, e := newPlan(l.seed, id), &l.entries[id]
	turnAway, first := l.arrive(p, e, int32(attempt))
	if turnAway && p.early {
		// The client may still be sending.
		turnedAway(w, p)
		return
	}
	switch err := compare(r.Body, p.sent()); {
	case errors.Is(err, errOtherBytes):
		l.breach(otherBody, "%+v: attempt %d, %v", p, attempt, err)
		return
	case err != nil:
		l.count("request bodies that failed")
		w.WriteHeader(http.StatusBadRequest)
		return
	case turnAway:
		turnedAway(w, p)
		return
	}
	l.process(p, e)
	if first && p.fails {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	answer(w, r, p)
}

// arrive records the arrival of a request's header. It reports whether the server
// rejects the request and, if not, whether it is the first accepted one.
func (l *ledger) arrive(p plan, e *entry, attempt int32) (turnAway, first bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.arrivals++
	replayed := attempt == e.last && e.arrivals > 1
	e.last = attempt
	if e.accepted > 0 && !p.repeatable() {
		who := "the layer"
		if replayed {
			who = "net/http"
		}
		l.breach(sentAgain, "%+v: by %s, as attempt %d", p, who, attempt)
	}
	if replayed {
		l.count("arrivals that net/http itself repeated")
	}
	l.count("arrivals")
	if e.turned < int32(p.turnedAway) {
		e.turned++
		return true, false
	}
	e.accepted++
	return false, e.accepted == 1
}

func (l *ledger) process(p plan, e *entry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.processed++; e.processed > 1 {
		l.count("requests processed again")
		if !p.repeatable() {
			l.breach(processedTwice, "%+v", p)
		}
	}
}

func turnedAway(w http.ResponseWriter, p plan) {
	status := http.StatusServiceUnavailable
	if p.id%2 == 0 {
		status = http.StatusTooManyRequests
	}
	http.Error(w, "come back", status)
}

// answer sends the response to a request, with or without a Content-Length.
func answer(w http.ResponseWriter, r *http.Request, p plan) {
	content := p.answered()
	w.Header().Set("Content-Type", "application/octet-stream")
	switch {
	case p.download:
		w.Header().Set("ETag", fmt.Sprintf("%q", strconv.Itoa(p.id)))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	case p.id%4 == 0: // chunked
		half := len(content) / 2
		w.Write(content[:half])
		http.NewResponseController(w).Flush()
		w.Write(content[half:])
	default:
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		w.Write(content)
	}
}

// connState is the [http.Server.ConnState] of the server.
func (l *ledger) connState(_ net.Conn, state http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch state {
	case http.StateNew:
		l.open++
	case http.StateClosed:
		l.open--
	}
}

func (l *ledger) connections() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open
}
