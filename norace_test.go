//go:build !race

package httpretry_test

const poolsKeep = true
