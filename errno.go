//go:build !plan9

package httpretry

import "syscall"

// errnoOutcome classifies a bare errno, as returned by some custom dialers.
// Package syscall has no names for the Winsock codes, whose values no other
// system uses.
func errnoOutcome(err error) (outcome Outcome, known bool) {
	const wsaNetUnreach, wsaConnRefused, wsaHostUnreach = 10051, 10061, 10065
	errno, ok := err.(syscall.Errno)
	switch errno {
	case syscall.ECONNREFUSED, syscall.ENETUNREACH, syscall.EHOSTUNREACH,
		wsaNetUnreach, wsaConnRefused, wsaHostUnreach:
		return Unprocessed, ok
	}
	return Uncertain, ok
}
