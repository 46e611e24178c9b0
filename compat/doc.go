// Package compat tests the library together with software that other people
// wrote: it has tests and nothing else.
package compat
