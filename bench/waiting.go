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

	// The backoff need not end: calls are canceled when the memory has been
	// measured. If the machine is too busy for waitingTime, it is doubled.
	waitingTime    = 2 * time.Second
	maxWaitingTime = 32 * time.Second
)

var errTooBusy = errors.New("the machine was too busy to find all calls waiting at the same time")

// waiting returns a workload in which 10,000 goroutines make a call each. Each
// gets a 503 and waits for its retry, and the memory of all is measured. A
// contender that does not retry waits for its response instead, which takes the
// memory of the request and the goroutine.
func waiting(name string, kind bodyKind) workload {
	return workload{
		name: name,
		about: fmt.Sprintf("%s; %d goroutines wait for a retry: heap and stacks per call. "+
			"Contenders that do not retry wait for their response instead, which takes the memory of the request and the goroutine. "+
			"The transport grows the stack as net/http does",
			map[bodyKind]string{noBody: "GET", getBody: "POST of 1 KiB made by http.NewRequest", streamed: "POST of 1 KiB from a reader that can be read once"}[kind],
			waitingCalls),
		metrics: []metric{bytesHeld, heapHeld, stackHeld},
		gate:    func(x contender) finding { return gate(x, kind, false) },
		open: func(x contender) (trial, func()) {
			body := bodyOf(pattern(postSize))
			// The runtime keeps descriptors of goroutines: the first run would pay for them.
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

// memoryInUse returns the size of the reachable heap and of all stacks.
func memoryInUse() (heap, stacks float64) {
	for range 3 { // pools are emptied by the second
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc), float64(m.StackInuse)
}

// A waitingBase responds with a 503 to the first waitingCalls attempts and with a
// 200 to all others. If block is set, it waits for the end of the request's
// context instead.
type waitingBase struct {
	block    bool
	attempts atomic.Int64
	last     int // the number of goroutines at the last call of settled
}

// RoundTrip implements [http.RoundTripper].
func (b *waitingBase) RoundTrip(req *http.Request) (*http.Response, error) {
	growStack()
	_, cancel := context.WithCancelCause(req.Context()) // as net/http does; it adds memory to the request's context
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

// settled reports whether all calls have made their attempt and the number of
// goroutines no longer falls.
func (b *waitingBase) settled(before int) bool {
	last, now := b.last, runtime.NumGoroutine()
	b.last = now
	return b.attempts.Load() >= waitingCalls && now >= before+waitingCalls && now == last
}

// growStack grows the stack to 4 KiB, its size after a call of
// [http.Transport]. It does not shrink while a call waits.
//
//go:noinline
func growStack() byte {
	var frame [1500]byte
	return frame[time.Now().Nanosecond()%len(frame)]
}
