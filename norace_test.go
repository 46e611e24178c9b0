//go:build !race

package httpretry_test

// poolsKeep is whether a sync.Pool keeps what it is given.
const poolsKeep = true
