//go:build race

package main

// Under the race detector reading JSON takes eight times as long. What the
// memory test then proves is the absence of races; the bound, it proves without.
const memoryRequests = 10_000
