//go:build !race

package main

const memoryRequests = 100_000
