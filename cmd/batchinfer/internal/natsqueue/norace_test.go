//go:build !race

package natsqueue

// The largest line and answer that must work.
const (
	largeLine   = 16 << 20
	largeAnswer = 64 << 20
)
