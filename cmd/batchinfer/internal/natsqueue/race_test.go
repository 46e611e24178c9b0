//go:build race

package natsqueue

// With the race detector a server takes a second for ten megabytes.
const (
	largeLine   = 9 << 20
	largeAnswer = 12 << 20
)
