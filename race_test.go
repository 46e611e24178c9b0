//go:build race

package httpretry_test

// Under the race detector a sync.Pool loses at random what it is given.
const poolsKeep = false
