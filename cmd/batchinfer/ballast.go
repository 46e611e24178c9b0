package main

import "runtime"

// ballastSize is the size that the heap has at least, as far as the garbage collector is
// concerned. With the few megabytes of a small run it would run 200 times a second, and
// shrink the stacks of all goroutines, which takes a fifth of the CPU time.
const ballastSize = 32 << 20

// newBallast returns memory that is never written to, and therefore takes none of the
// machine's. While it is in use, the garbage collector runs as if the heap had at least
// ballastSize. A larger heap needs none. The garbage of a small run can grow to
// ballastSize, and the ballast counts for GOMEMLIMIT.
func newBallast() []byte {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return make([]byte, max(0, ballastSize-int64(stats.HeapAlloc)))
}
