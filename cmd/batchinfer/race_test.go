//go:build race

package main

// Under the race detector, reading JSON takes eight times as long. There, the
// memory test only has to find races.
const memoryRequests = 10_000
