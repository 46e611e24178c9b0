package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	waitingCalls = 10_000

	// The backoff need not end: what can be cancelled is cancelled as soon as the
	// memory has been measured. A machine too busy for the first gets more.
	waitingTime    = 2 * time.Second
	maxWaitingTime = 32 * time.Second
)

var errTooBusy = errors.New("the machine was too busy to find all calls waiting at the same time")

// waiting has 10,000 goroutines make a call each, which gets a 503 and waits
// for its retry, and weighs them. A contender that does not retry waits for its
// response instead: what that holds is the request and the goroutine.
func waiting(name string, kind bodyKind) workload {
	return workload{
		name: name,
		about: fmt.Sprintf("%s; %d goroutines wait in backoff: heap and stacks per call. "+
			"The contenders that don't retry wait for their response instead, which is what the request and the goroutine hold. "+
			"The transport makes the stack as large as net/http's does",
			map[bodyKind]string{noBody: "GET", getBody: "POST of 1 KiB with GetBody", streamed: "POST of 1 KiB from a reader that can be read once"}[kind],
			waitingCalls),
		metrics: []metric{bytesHeld, heapHeld, stackHeld},
		gate:    func(x contender) finding { return gate(x, kind, false) },
		open: func(x contender) (trial, func()) {
			body := bodyOf(pattern(postSize))
			// The runtime keeps descriptors of goroutines, which the first would pay for.
			weigh(x, kind, body, waitingTime)
			return func() (s sample, err error) {
				for wait := waitingTime; wait <= maxWaitingTime; wait *= 2 {
					if s, err = weigh(x, kind, body, wait); err != errTooBusy {
						break
					}
				}
				return s, err
			}, func() {}
		},
		maxRuns: 3,
	}
}

func weigh(x contender, kind bodyKind, body source, wait time.Duration) (sample, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	base := &waitingBase{block: x.once}
	s := x.open(base, wait)
	heap, stacks := memoryInUse()
	goroutines := runtime.NumGoroutine()
	var calls sync.WaitGroup
	defer calls.Wait()
	defer cancel()
	for range waitingCalls {
		calls.Go(func() {
			own, cancel := context.WithCancel(ctx)
			defer cancel()
			s(newJob(memoryURL, kind, body).withContext(own))
		})
	}
	start := time.Now()
	for !base.settled(goroutines) {
		if time.Since(start) > wait {
			return nil, errTooBusy
		}
		time.Sleep(5 * time.Millisecond)
	}
	heapNow, stacksNow := memoryInUse()
	if base.attempts.Load() != waitingCalls {
		return nil, errTooBusy
	}
	onHeap, onStacks := (heapNow-heap)/waitingCalls, (stacksNow-stacks)/waitingCalls
	return sample{bytesHeld: onHeap + onStacks, heapHeld: onHeap, stackHeld: onStacks}, nil
}

// memoryInUse is what is reachable, and what goroutines' stacks take.
func memoryInUse() (heap, stacks float64) {
	for range 3 { // pools let go of what they hold at the second
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc), float64(m.StackInuse)
}

// A waitingBase answers the first waitingCalls attempts with a 503, all others
// with a 200; or, if block, not before the request's context is done.
type waitingBase struct {
	block    bool
	attempts atomic.Int64
	last     int // how many goroutines settled saw
}

// RoundTrip implements [http.RoundTripper].
func (b *waitingBase) RoundTrip(req *http.Request) (*http.Response, error) {
	growStack()
	_, cancel := context.WithCancelCause(req.Context()) // as net/http does: it leaves memory in the request's
	defer cancel(nil)
	n := b.attempts.Add(1)
	if b.block {
		<-req.Context().Done()
		closeAll(req.Body)
		return nil, context.Cause(req.Context())
	}
	if err := discardBody(req); err != nil {
		return nil, err
	}
	if n <= waitingCalls {
		return response(req, http.StatusServiceUnavailable, http.NoBody), nil
	}
	return response(req, http.StatusOK, http.NoBody), nil
}

// settled reports whether every call has made its attempt, and the goroutines
// that served it are gone: they are no fewer than when it was asked last.
func (b *waitingBase) settled(before int) bool {
	last, now := b.last, runtime.NumGoroutine()
	b.last = now
	return b.attempts.Load() >= waitingCalls && now >= before+waitingCalls && now == last
}

// growStack takes as much of the stack as makes it 4 KiB, which is what it is
// after a call of [http.Transport]. It is not given back while a call waits.
//
//go:noinline
func growStack() byte {
	var frame [1500]byte
	return frame[time.Now().Nanosecond()%len(frame)]
}
