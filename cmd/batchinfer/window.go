package main

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"
)

// A window limits the number of requests in flight to the number that the gateway
// makes use of. A gateway that queues refuses nothing: with more requests in flight
// it answers no more of them, only later, and delays the requests of others.
//
// It measures the throughput over a round of answers. The first rounds double the limit
// as long as the number of answers per second grows with it. By Little's law, the gateway
// makes use of the limit before the last doubling, multiplied by the growth. If already
// the first doubling brings little, the limit is halved as long as the throughput does not
// fall with it. Later rounds compare a larger and a smaller limit, rarely if neither is
// better. They derive the tokens per second, or answers if these have no number of tokens,
// from the durations of the answers, also by Little's law. If the throughput falls or rises
// very much, the limit is halved or doubled again.
//
// A request that many others have overtaken does not count. Otherwise those that hang at
// one of several gateways would take the place of those that another one could answer.
//
// It is safe for concurrent use.
type window struct {
	most int
	room chan struct{} // receives a value when there may be room, unless one is waiting

	mu     sync.Mutex
	flying int
	limit  int
	ended  int   // requests
	begun  []int // values of ended when the requests in flight began, in ascending order

	// After the limit was lowered, a quarter of it is reserved for requests that begin later.
	// Otherwise those that hang could take up all of it, and no other would overtake them.
	// The later ones may hang too, which is less likely.
	lowered int // value of ended when the limit was last lowered
	before  int // value of flying then

	phase    phase
	base     int     // the limit that is compared with
	best     float64 // the throughput at base; 0: not measured
	rate     float64 // while growing: answers per second at base; 0: not measured
	lower    bool    // the last doubling brought nothing, so a smaller limit is tried first
	hold     int     // rounds to go before the next comparison
	holdNext int     // rounds to hold after that comparison, if it brings nothing

	skip    int // answers until the round starts: those to requests of an earlier limit
	round   windowRound
	drained bool      // the input has no more requests
	starved time.Time // start of the shortage that round.lost does not include yet; zero: there are enough requests
}

// A flight is a request in flight.
type flight struct {
	start time.Time
	begun int // value of window.ended at start
}

// An evidence is what the duration of a request tells about the limit.
type evidence uint8

const (
	undisturbed evidence = iota // it was the gateway's processing
	paced                       // it was, apart from a wait for one of several gateways
	disturbed                   // it was something else
)

type phase string

const (
	growing phase = "growing" // by doubling
	holding phase = "holding" // at base
	above   phase = "above"   // trying a larger limit
	below   phase = "below"   // trying a smaller limit
	halving phase = "halving" // halving a first limit that was too large
)

const (
	firstLimit = 16 // so that the first failures are few
	leastLimit = 2

	roundAnswers = 64   // at least, in a round that is not growing or halving
	clearAnswers = 32   // at least, in any round
	stepUp       = 1.25 // of the limit that is tried
	stepDown     = 0.7

	// The throughput must grow by at least this part of the growth of the limit, or
	// the larger limit serves only the queue.
	useful = 0.3

	// The throughput may fall by at most this part of the reduction of the limit, or
	// the gateway made use of the larger limit.
	costly = 0.5

	noise = 0.03 // of the throughput of a round

	// precision is the standard error that the throughput of a round may have, relative to
	// the throughput. A round has at most maxRound times as many answers to reach it.
	precision = 0.04
	maxRound  = 8

	flat    = 1.2 // times the throughput, after a doubling that served only the queue
	linear  = 0.4 // of the growth of the limit, for another doubling
	maxHold = 32  // rounds

	slower = 0.7 // of the throughput before, of a gateway that makes use of a smaller limit now

	maxDisturbed = 0.05 // of the answers of a round that counts

	// hangFactor, times the limit, is the number of others that end before a request is
	// taken to hang. A request that takes eight times as long as the mean may
	// be one, and costs one more in flight.
	hangFactor = 8
)

func newWindow(most int) *window {
	return &window{
		most: most, limit: min(firstLimit, most), room: make(chan struct{}, 1),
		phase: growing, holdNext: 1,
	}
}

// enter waits until there is room for a request. It must not be called concurrently
// with itself.
func (w *window) enter(ctx context.Context) error {
	for !w.admit() {
		select {
		case <-w.room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (w *window) admit() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	hanging, _ := slices.BinarySearch(w.begun, w.ended-hangFactor*w.limit)
	older, _ := slices.BinarySearch(w.begun, w.lowered)
	held := w.flying <= w.before && w.flying-older < (w.limit+3)/4
	if w.flying >= w.most || w.flying-hanging >= w.limit && !held {
		return false
	}
	w.flying++
	return true
}

// begin notes that a request which has entered is sent. The result is for leave.
func (w *window) begin(now time.Time) flight {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.round.start.IsZero() {
		w.round.start = now
	}
	w.begun = append(w.begun, w.ended)
	return flight{now, w.ended}
}

// leave notes the end of a request.
func (w *window) leave(f flight, now time.Time, tokens int, e evidence) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i, _ := slices.BinarySearch(w.begun, f.begun)
	w.begun = slices.Delete(w.begun, i, i+1)
	hung := f.begun < w.ended-hangFactor*w.limit
	w.ended++
	w.lose(now)
	w.flying--
	select {
	case w.room <- struct{}{}:
	default:
	}
	if w.skip > 0 {
		if w.skip--; w.skip == 0 {
			w.round = windowRound{start: now}
		}
		return
	}
	if hung {
		return
	}
	w.round.add(now.Sub(f.start), tokens, e)
	if w.drained || w.round.answers < w.enough() && !w.clear() {
		return
	}
	if w.round.few(w.round.disturbed) && w.round.lost <= noise*w.round.elapsed(now) {
		w.judge(now)
	}
	w.restart(now)
}

// restart begins a round, after the answers to the requests in flight.
func (w *window) restart(now time.Time) {
	w.round = windowRound{start: now}
	w.skip = w.flying
	if w.phase != growing {
		w.skip = max(w.skip, w.limit)
	}
}

// enough returns the number of answers of a round.
func (w *window) enough() int {
	switch w.phase { // doubling is easy to tell from noise
	case growing:
		return max(clearAnswers, w.limit)
	case halving:
		return max(clearAnswers, 2*w.limit)
	}
	n := max(roundAnswers, 4*w.limit)
	if w.lower {
		return n
	}
	// The more irregular the answers are, the more of them are needed.
	return max(n, min(int(w.round.variation()/(precision*precision)), maxRound*n))
}

// clear reports whether a round tells enough before it has all answers: a larger limit
// brings much, or a smaller one is too small.
func (w *window) clear() bool {
	if w.round.answers < max(clearAnswers, w.limit) {
		return false
	}
	margin := 2 * math.Sqrt(max(w.round.variation(), 0.5)/float64(w.round.answers))
	change := w.throughput()/w.best - 1
	switch w.phase {
	case above:
		return change-margin > linear*w.change()
	case below:
		return -change-margin > -costly*w.change()
	}
	return false
}

// starve notes that there is no request for the last one that entered. The time until
// feed tells nothing about the limit.
func (w *window) starve(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.starved = now
}

// feed notes that there is a request again.
func (w *window) feed(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lose(now)
	w.starved = time.Time{}
}

// lose adds the time that the missing requests would have used. The lock is held.
func (w *window) lose(now time.Time) {
	if w.starved.IsZero() {
		return
	}
	missing := max(w.limit-w.flying+1, 1)
	w.round.lost += now.Sub(w.starved).Seconds() * float64(missing) / float64(w.limit)
	w.starved = now
}

// drain notes that no more requests follow those that are in flight.
func (w *window) drain() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drained = true
}

// judge chooses the next limit after a round.
func (w *window) judge(now time.Time) {
	throughput := w.throughput()
	switch {
	case w.phase == growing:
		w.grow(now)
	case w.phase == above:
		w.judgeLarger(throughput, now)
	case w.phase == below:
		w.judgeSmaller(throughput)
	case w.best > 0 && throughput > w.best/slower: // the gateway has become faster
		w.growAgain(now)
	case w.phase == holding:
		w.judgeHeld(throughput)
	case w.phase == halving:
		w.judgeHalf(throughput)
	}
}

// throughput returns that of the round, at the current limit.
func (w *window) throughput() float64 { return float64(w.limit) * w.round.throughput() }

// judgeHeld ends a round at base.
func (w *window) judgeHeld(throughput float64) {
	if w.best == 0 {
		w.best = throughput
	}
	if throughput < slower*w.best {
		w.best, w.holdNext = throughput, 1
		w.try(halving, 0.5)
		return
	}
	w.best += (throughput - w.best) / 2
	if w.hold--; w.hold > 0 {
		return
	}
	lower := w.lower
	w.lower = false
	switch {
	case lower && w.limit < 2*firstLimit:
		w.try(halving, 0.5)
	case lower:
		w.try(below, stepDown)
	default:
		w.try(above, stepUp)
	}
}

// judgeLarger ends a round at a limit above base.
func (w *window) judgeLarger(throughput float64, now time.Time) {
	growth, larger := throughput/w.best-1, w.change()
	switch {
	case growth >= linear*larger: // the doubling ended too early
		w.growAgain(now)
	case growth >= useful*larger:
		w.keep(w.limit, throughput, 1)
	case growth > noise && w.round.few(w.round.paced):
		w.keep(int(float64(w.base)*(1+growth)+0.5), throughput, min(2*w.holdNext, maxHold))
	default:
		w.try(below, stepDown)
	}
}

// judgeSmaller ends a round at a limit below base.
func (w *window) judgeSmaller(throughput float64) {
	loss := 1 - throughput/w.best
	if loss > costly*-w.change() {
		w.keep(w.base, w.best, min(2*w.holdNext, maxHold))
		return
	}
	// The part of the limit that the gateway made use of, if the smaller limit
	// made use of all of it.
	used := float64(w.limit) * max(w.best/throughput, 1)
	w.keep(int(used+0.5), max(w.best, throughput), 1)
	if loss < noise {
		w.try(below, stepDown)
	}
}

// judgeHalf ends a round at half of base.
func (w *window) judgeHalf(throughput float64) {
	loss := 1 - throughput/w.best
	if loss < costly/2*-w.change() {
		w.try(halving, 0.5)
		return
	}
	// The gateway makes use of all of this limit, and of a larger one in
	// proportion to its throughput.
	used := float64(w.limit) * w.best / throughput
	w.keep(int(min(used, float64(2*w.base))+0.5), w.best, 1)
	if w.limit >= firstLimit {
		w.try(above, stepUp) // perhaps the doubling ended too early
	}
}

// change returns the part by which the limit is larger than the one that it is compared
// with.
func (w *window) change() float64 { return float64(w.limit)/float64(w.base) - 1 }

// grow doubles the limit, or ends the doubling. It counts answers over the elapsed time: in
// a short round, the number of tokens varies more, and many of the durations do not include
// the queue of the doubled limit yet.
func (w *window) grow(now time.Time) {
	rate := float64(w.round.answers) / w.round.elapsed(now)
	if w.rate > 0 {
		growth, larger := rate/w.rate, float64(w.limit)/float64(w.base)
		if growth < 1+linear*(larger-1) {
			w.lower = growth < flat || w.base == firstLimit
			w.keep(int(float64(w.base)*max(growth, 1)+0.5), 0, 1)
			return
		}
	}
	w.base, w.rate = w.limit, rate
	if w.limit == w.most {
		w.keep(w.limit, 0, 1)
		return
	}
	w.set(2 * w.limit)
}

// growAgain begins to double the limit again.
func (w *window) growAgain(now time.Time) {
	w.phase, w.rate = growing, 0
	w.grow(now)
}

// try measures another limit, if it differs. While requests wait for one of several
// gateways, a smaller limit might suffice, but would be too small when another one returns.
func (w *window) try(p phase, step float64) {
	if p == halving {
		w.base = w.limit
	}
	w.phase = p
	w.set(int(float64(w.base)*step + 0.5))
	switch {
	case p != above && !w.round.few(w.round.paced):
		w.keep(w.base, w.best, min(2*w.holdNext, maxHold))
	case w.limit != w.base:
	case p == above:
		w.try(below, stepDown)
	default:
		w.keep(w.base, w.best, min(2*w.holdNext, maxHold))
	}
}

// keep makes limit the one to compare with, for a number of rounds.
func (w *window) keep(limit int, throughput float64, rounds int) {
	w.set(limit)
	w.phase, w.base, w.best = holding, w.limit, throughput
	w.hold, w.holdNext = rounds, rounds
}

func (w *window) set(limit int) {
	limit = min(max(limit, leastLimit), w.most)
	if limit < w.limit {
		w.lowered, w.before = w.ended, w.flying
	}
	w.limit = limit
}

// reduce lowers the limit to n until the next comparison, because this machine can't send
// more requests at a time.
func (w *window) reduce(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n >= w.limit || w.limit <= leastLimit {
		return
	}
	w.keep(n, 0, 1)
	w.restart(time.Now())
}

// size returns the current limit.
func (w *window) size() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.limit
}
