package main

import (
	"fmt"
	"math"
	"strings"
)

// A target is a limit that the library promises to keep, with the measurement.
type target struct {
	promise  string
	measured string
	met      bool
	known    bool   // it was measured
	note     string // qualifies the figure: a lower bound, or peers that omit work
}

const (
	maxLayerNs     = 40
	maxStreamNs    = 1.0 / 3 // of the fastest peer's
	maxStreamAlloc = 3
	maxStreamBytes = 1 << 10
	maxUploadBytes = 2 << 20
	maxWaitBytes   = 2 << 10

	// Allocations are averages over many calls. Those of the runtime must not
	// count, and one more per call would be 1.
	allocNoise = 0.05
)

// targets returns all targets, in the order of the page.
func (r *report) targets() []target {
	var ts []target
	for _, w := range []string{"GET", "POST", "GET-cancellable", "POST-cancellable", "GET-parallel", "POST-parallel"} {
		ts = append(ts, r.layerTarget(w))
	}
	ts = append(ts, r.streamTime(), r.streamMemory(), r.uploadMemory(), r.uploadStart(), r.downloadTime())
	for _, w := range []string{"GET-503-then-200", "POST-503-then-200"} {
		ts = append(ts, r.retryTarget(w))
	}
	for _, w := range []string{"loopback-GET", "loopback-POST"} {
		for _, m := range []metric{p50, p90, p99} {
			ts = append(ts, r.noDifference(w, m, fmt.Sprintf("%s: no measurable difference from bare at the %s", w, percentile(m))))
		}
	}
	for _, w := range []string{"connections-1KiB", "connections-60KiB", "connections-endless"} {
		ts = append(ts, r.connectionTarget(w))
	}
	for _, w := range []string{"waiting-no-body", "waiting-GetBody", "waiting-1KiB-buffered"} {
		ts = append(ts, r.waitingTarget(w))
	}
	return ts
}

// percentile names a metric in prose.
func percentile(m metric) string {
	return map[metric]string{p50: "median", p90: "90th percentile", p99: "99th percentile"}[m]
}

// judged completes t. A figure that is NaN was not measured.
func (t target) judged(met bool, figures ...float64) target {
	t.known = true
	for _, x := range figures {
		t.known = t.known && !math.IsNaN(x)
	}
	t.met = t.known && met
	if !t.known {
		t.measured = "not measured"
	}
	return t
}

func (r *report) layerTarget(w string) target {
	ns, allocs := r.overBare(w, nsPerOp), r.overBare(w, allocsPerOp).median
	return target{
		promise:  fmt.Sprintf("%s: no allocation, and at most %d ns over bare", w, maxLayerNs),
		measured: fmt.Sprintf("%+.1f ns (%+.1f to %+.1f), %s allocations", ns.median, ns.low, ns.high, amount(allocs, allocsPerOp)),
	}.judged(ns.median <= maxLayerNs && allocs < allocNoise, ns.median, allocs)
}

const streamWork = "POST-64KiB-streamed"

func (r *report) streamTime() target {
	own := r.median(streamWork, ownName, nsPerOp)
	peer, best := r.bestPeer(streamWork, nsPerOp)
	return target{
		promise:  streamWork + ": at most a third of the time of the fastest peer that replays it correctly",
		measured: fmt.Sprintf("%s, %.2f of %s's %s", amount(own, nsPerOp), own/best, peer, amount(best, nsPerOp)),
	}.judged(own <= best*maxStreamNs, own, best)
}

func (r *report) streamMemory() target {
	allocs, bytes := r.overBare(streamWork, allocsPerOp).median, r.overBare(streamWork, bytesPerOp).median
	return target{
		promise:  fmt.Sprintf("%s: at most %d allocations and %s over bare", streamWork, maxStreamAlloc, amount(maxStreamBytes, bytesPerOp)),
		measured: fmt.Sprintf("%s allocations, %s", amount(allocs, allocsPerOp), amount(bytes, bytesPerOp)),
	}.judged(allocs <= maxStreamAlloc+allocNoise && bytes <= maxStreamBytes, allocs, bytes)
}

const uploadWork = "upload-64MiB"

func (r *report) uploadMemory() target {
	over := r.overBare(uploadWork, peakBytes).median
	return target{
		promise:  fmt.Sprintf("%s: less than %s of memory over bare", uploadWork, amount(maxUploadBytes, peakBytes)),
		measured: amount(over, peakBytes),
	}.judged(over < maxUploadBytes, over)
}

func (r *report) uploadStart() target {
	return r.noDifference(uploadWork, firstByteNs, uploadWork+": the first byte is not later than bare's")
}

const (
	downloadWork  = "download-1GiB"
	maxDownloadNs = 1.02 // of bare's
)

func (r *report) downloadTime() target {
	bare := r.median(downloadWork, bareName, nsPerOp)
	over := r.overBare(downloadWork, nsPerOp)
	return target{
		promise:  downloadWork + ": at most 2 % longer than bare",
		measured: fmt.Sprintf("%+.1f %% (%+.1f to %+.1f)", 100*over.median/bare, 100*over.low/bare, 100*over.high/bare),
	}.judged(bare+over.median <= bare*maxDownloadNs, over.median)
}

// noDifference returns a target that is met unless the difference from bare
// exceeds the spread of bare's own runs in at least three rounds out of four.
func (r *report) noDifference(w string, m metric, promise string) target {
	over, own := r.overBare(w, m), summarize(r.result(w, bareName).series(m))
	return target{
		promise: promise,
		measured: fmt.Sprintf("%s against %s: a difference of %s (%s to %s); bare's own runs spread over %s",
			amount(r.median(w, ownName, m), m), amount(own.median, m), amount(over.median, m),
			amount(over.low, m), amount(over.high, m), amount(own.spread(), m)),
	}.judged(over.median <= own.spread() || over.low <= 0, over.median)
}

func (r *report) retryTarget(w string) target {
	ns, allocs := r.median(w, ownName, nsPerOp), r.median(w, ownName, allocsPerOp)
	fast, leastNs := r.bestPeer(w, nsPerOp)
	thrifty, leastAllocs := r.bestPeer(w, allocsPerOp)
	return target{
		promise: w + ": fewer allocations and less time than every peer that discards the response within a bound",
		note:    r.lazier(w, ns),
		measured: fmt.Sprintf("%s against %s (%s); %s allocations against %s (%s)", amount(ns, nsPerOp), amount(leastNs, nsPerOp), fast,
			amount(allocs, allocsPerOp), amount(leastAllocs, allocsPerOp), thrifty),
	}.judged(ns < leastNs && allocs < leastAllocs, ns, leastNs, allocs, leastAllocs)
}

// lazier names the contenders that take less time than ns because they omit a
// part of the work.
func (r *report) lazier(w string, ns float64) string {
	var faster []string
	for _, res := range r.results[w] {
		if name := res.contender.name; res.lazy && r.median(w, name, nsPerOp) < ns {
			faster = append(faster, fmt.Sprintf("%s takes %s and %s allocations, because it %s", name,
				amount(r.median(w, name, nsPerOp), nsPerOp), amount(r.median(w, name, allocsPerOp), allocsPerOp), res.note))
		}
	}
	return strings.Join(faster, "; ")
}

func (r *report) connectionTarget(w string) target {
	opened, leaked := r.median(w, ownName, connsOpened), r.median(w, ownName, connsLeaked)
	t := target{
		promise:  w + ": one connection per call, none leaked",
		measured: fmt.Sprintf("%s opened, %s leaked", amount(opened, connsOpened), amount(leaked, connsLeaked)),
	}
	most := 1.0
	if w == "connections-endless" {
		most = 2
		t.promise = w + ": two connections per call, none leaked"
		t.note = "HTTP/1.1 cannot end a response early. A connection whose response never ends must be closed, so two is the minimum"
	}
	return t.judged(opened <= most && leaked == 0, opened, leaked)
}

func (r *report) waitingTarget(w string) target {
	over := r.overBare(w, bytesHeld).median
	t := target{
		promise:  fmt.Sprintf("%s: less than %s beyond request and goroutine", w, amount(maxWaitBytes, bytesHeld)),
		measured: amount(over, bytesHeld),
	}
	if w == "waiting-1KiB-buffered" {
		t.note = "1 KiB of it is the buffered body, which the retry sends"
	}
	return t.judged(over < maxWaitBytes, over)
}
