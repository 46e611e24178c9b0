package httpretry

import (
	"math"
	"time"
)

// A rateLimit is a limit on the attempts per second. AdaptivePacer describes how
// it is found.
type rateLimit struct {
	free        *history
	least, most float64 // bounds; most may be infinite

	base   float64   // the rate that the server accepts; infinite: not known
	starts bool      // base is doubled until a refusal: few attempts were accepted before the first one
	excess float64   // the part of base by which it is exceeded
	credit credit    // attempts that may be sent faster after a wait that the server named
	next   time.Time // when the rate permits the next attempt
	sentAt time.Time // the last attempt
	closed time.Time // until then nothing is sent, whatever the rate
	quota  quota

	hold     time.Duration // the time after an opening before the first step
	stepAt   time.Time     // when excess may be raised
	toStep   int           // attempts to be sent before that, unless they take long
	stepped  time.Time     // when the first attempt of the last step may be sent; zero: no step yet
	early    int           // consecutive periods that a refusal of that attempt or the next one has begun
	feedback time.Duration // how long it may take until the server refuses a rate that is too high

	// A period begins with each refusal that counts. Then single attempts are
	// sent, the probes, until one is not refused and the limit is opened again.
	period    int
	probing   bool
	probe     time.Time     // when the probe in flight was sent; zero: there is none
	patience  time.Duration // after which a probe without a response counts as accepted
	undo      *rateLimit    // before the opening by such a probe, until an attempt is accepted
	gap       time.Duration // between probes
	refusedAt time.Time     // the first refusal of the period
	named     bool          // the server named the time of the opening
	keepsRate bool          // the refusal says nothing about the rate
	until     time.Time     // the time of the opening that the server named first

	begun  time.Time // when the limit was opened last; zero: never
	opened time.Time // when the server probably accepted again
	sent   int       // attempts since begun, without those that were refused
}

const (
	firstHold  = 3 * time.Second // time at a rate before it is exceeded
	holdSent   = 40              // attempts until then
	longHold   = 5 * time.Second // instead of attempts, if they take longer
	stepSent   = 8               // attempts until the next step
	firstStep  = 0.02            // of base
	leastStep  = 0.05            // attempts per second, so that slow processes catch up
	mostHold   = 2 * time.Minute // time at a rate that a small bucket refused to exceed
	leastKnown = 10              // attempts accepted before the first refusal that show a rate
	outage     = 3 * time.Second // after the time of an opening, until a server is taken to refuse everything
	startRate  = 10              // attempts per second, if nothing was accepted before
	firstGap   = 100 * time.Millisecond
	maxGap     = 5 * time.Second
	halfLife   = 100 // of feedback, in multiples of it
	timerSlack = 10 * time.Millisecond
)

func newRateLimit(free *history, least, most float64) rateLimit {
	// Both conditions are true for NaN.
	if !(most > 0) {
		most = math.Inf(1)
	}
	if !(least > 0) {
		least = 0
	}
	return rateLimit{
		free: free, least: least, most: most, base: math.Inf(1),
		credit: credit{most: math.Inf(1)}, hold: firstHold, patience: time.Second,
	}
}

func (r *rateLimit) perSecond() float64 {
	return min(max(r.base*(1+r.excess), r.least), r.most)
}

// duration returns the time that n attempts take.
func (r *rateLimit) duration(n int) time.Duration { return seconds(float64(n) / r.perSecond()) }

// seconds returns s seconds, at most 30 years.
func seconds(s float64) time.Duration {
	return time.Duration(min(s, 1e9) * float64(time.Second))
}

// opens returns the time before which nothing is sent.
func (r *rateLimit) opens() time.Time {
	if r.closed.After(r.next) {
		return r.closed
	}
	return r.next
}

// close lets nothing be sent before until.
func (r *rateLimit) close(until time.Time) {
	if until.After(r.closed) {
		r.closed = until
	}
}

// ready returns when the next attempt may be sent.
func (r *rateLimit) ready(now time.Time) time.Time {
	if !r.probe.IsZero() {
		// A response may take long. A refusal does not.
		if at := r.probe.Add(r.patience); at.After(now) {
			return at
		}
		before := *r
		r.open(now)
		r.undo = &before
	}
	return r.opens()
}

// send counts an attempt. limited reports whether it had to wait or others do.
func (r *rateLimit) send(now time.Time, limited bool) {
	r.sent++
	r.sentAt = now
	if r.probing {
		r.probe = now
		return
	}
	rate := r.perSecond()
	if left := max(r.quota.perSecond(now), r.least); left < rate {
		rate, limited = left, false
	}
	if math.IsInf(rate, 1) {
		return
	}
	if r.credit.use(now) {
		rate = min(rate*faster, r.most)
	}
	// A timer that is late delays only one attempt.
	if earliest := now.Add(-timerSlack); r.next.Before(earliest) {
		r.next = earliest
	}
	r.next = r.next.Add(seconds(1 / rate))
	r.toStep--
	switch {
	case !limited || now.Before(r.stepAt) || r.perSecond() >= r.most:
	case r.starts:
		r.base *= 2
		r.stepAt = now.Add(time.Second)
	case r.toStep <= 0 || now.Sub(r.stepAt) > longHold:
		r.excess = max(r.firstExcess(), 2*r.excess)
		r.stepped = r.next
		r.stepAt, r.toStep = now.Add(r.stepTime()), stepSent
	}
}

// firstExcess returns the excess of the first step.
func (r *rateLimit) firstExcess() float64 { return max(firstStep, leastStep/r.base) }

// stepTime returns the time until the next step.
func (r *rateLimit) stepTime() time.Duration {
	if r.quota.isWindow {
		return time.Second // the quota prevents a rate that is too high
	}
	return max(time.Second, r.feedback/2)
}

// returned takes back a turn that was not used.
func (r *rateLimit) returned(t turn) {
	if !t.sent.Before(r.begun) {
		r.sent--
	}
	if !r.probing {
		r.next = r.next.Add(-r.duration(1)) // for the next waiter
		r.toStep++
	}
	if t.period == r.period {
		r.probe = time.Time{}
	}
}

// accept handles an attempt that was not refused.
func (r *rateLimit) accept(t turn, now time.Time) {
	if t.lane == nil || t.period != r.period {
		return
	}
	r.undo = nil
	if r.probing {
		r.open(now)
	}
}

// refuse handles a refusal. keepsRate reports whether it says nothing about the
// rate.
func (r *rateLimit) refuse(t turn, retryAfter time.Duration, now time.Time, keepsRate bool) {
	if r.undo != nil && t.sent.Equal(r.undo.probe) {
		// The probe was refused late.
		sent, closed := r.sent, r.closed
		*r = *r.undo
		r.sent += sent
		r.close(closed)
	}
	if t.lane != nil && !t.sent.Before(r.begun) {
		r.sent--
	}
	if t.period < r.period {
		return // it was sent before the first refusal
	}
	r.undo = nil
	if t.lane != nil {
		r.patience = max(firstGap, 2*now.Sub(t.sent))
	}
	if r.probing {
		r.gap = min(2*r.gap, maxGap)
	} else {
		r.refusedAt, r.named, r.keepsRate = now, false, keepsRate
		r.until = now.Add(retryAfter)
		if !keepsRate {
			r.noteExcess(t.sent)
		}
		r.gap = firstGap
		if rate := r.perSecond(); !math.IsInf(rate, 1) {
			r.gap = max(seconds(1/rate), r.feedback/32)
		}
	}
	if r.least > 0 {
		r.gap = min(r.gap, seconds(1/r.least))
	}
	r.named = r.named || retryAfter > 0
	r.probing, r.probe = true, time.Time{}
	r.period++
	r.close(now.Add(r.gap))
}

// noteExcess notes which part of the rate the attempt sent at sent may have exceeded.
func (r *rateLimit) noteExcess(sent time.Time) {
	spacing := r.duration(1)
	r.credit.refuse(sent, spacing)
	if since := sent.Sub(r.stepped); since >= 0 && since < 2*spacing {
		r.early++
	} else {
		r.early = 0
	}
}

// open ends the probing: the server accepts again.
func (r *rateLimit) open(now time.Time) {
	probe := r.probe
	r.probing, r.probe = false, time.Time{}
	opened := now
	if r.gap > firstGap {
		// It did so some time after the last probe that was refused.
		opened = now.Add(-r.gap / 2)
	}
	if !r.keepsRate {
		r.learn(opened, now)
	}
	r.begun, r.opened, r.sent = now, opened, 0
	r.next = probe.Add(r.duration(1))
	if r.next.Before(now) {
		r.next = now // the next token of a bucket of one is there
	}
	r.stepAt, r.toStep = now.Add(r.hold), holdSent
	if r.starts {
		r.stepAt = now.Add(time.Second)
	}
}

// learn finds the rate that the server accepts.
func (r *rateLimit) learn(opened, now time.Time) {
	closed := now.Sub(r.refusedAt)
	if r.named && now.Sub(r.until) > outage {
		// The server refused everything, also after the time that it had named.
		opened, closed = r.refusedAt, 0
	}
	took := opened.Sub(r.opened).Seconds()
	if old := r.feedback.Seconds(); old > 0 {
		r.feedback = seconds(old * math.Exp2(-took/old/halfLife))
	}
	r.feedback = max(r.feedback, closed)
	second := min(1, closed.Seconds()) // that Retry-After was rounded up by
	madeUp := !r.named || r.credit.most >= r.base*second
	held := r.refusedAt.Sub(r.begun) > 2*r.feedback
	r.credit.learn()
	switch before := r.base; {
	case math.IsInf(before, 1) && r.begun.IsZero():
		r.begin(opened)
		if r.starts {
			return
		}
	case math.IsInf(before, 1):
		r.base = float64(r.sent+1) / took // with the probe that opened it
	case r.starts:
		r.base = min(r.base, float64(r.sent+1)/took)
	case r.credit.refused:
		// The credit was too large, whatever the rate.
	case r.excess > 0 && held:
		r.base = r.exceeded(took)
		r.hold = max(r.hold/2, firstHold)
		if !madeUp && r.measured(took) < 0.97*before {
			// A refusal costs more than a higher rate would gain.
			r.hold = min(4*r.hold, mostHold)
		}
	default:
		r.hold = firstHold // base is new
		r.base = min(r.measured(took), r.perSecond())
		if took < firstHold.Seconds() {
			r.base = min(r.base, 0.85*before)
		}
	}
	// The quota is exhausted: the next attempt at exactly the rate would be refused.
	r.starts, r.excess = false, -firstStep
	missed := 0.0
	if r.named {
		missed = r.base * second
	}
	r.credit.give(missed)
}

// begin finds the first rate. A few accepted attempts may be the content of a bucket,
// and do not show a rate.
func (r *rateLimit) begin(opened time.Time) {
	r.base = r.free.rate(r.refusedAt, opened)
	r.starts = r.base == 0 || r.free.accepted() < leastKnown
	if !r.starts {
		return
	}
	r.base = max(r.base, startRate)
	r.excess = 0
	r.feedback = 0 // no rate was refused
}

// exceeded returns the rate after a refusal of the excess. took is the time in seconds
// since the limit was opened.
func (r *rateLimit) exceeded(took float64) float64 {
	rate := max(r.base, min(r.measured(took), r.perSecond()))
	first := r.firstExcess()
	if r.excess > max(0.5, first) {
		// The limit has risen, and an earlier step was accepted, too.
		rate = max(rate, r.base*(1+r.excess/4))
	}
	if r.early > 1 && r.excess > first {
		// A larger bucket would have accepted more attempts of this step. So the
		// bucket is small, and it accepted the step before.
		rate = max(rate, r.base*(1+r.excess/2))
	}
	return rate
}

// measured returns the mean rate of accepted attempts since the limit was opened,
// took seconds ago. A few attempts at the rate before smooth it.
func (r *rateLimit) measured(took float64) float64 {
	const smooth = 5
	return float64(r.sent+smooth) / (took + smooth/r.base)
}
