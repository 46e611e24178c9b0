// Package chaos puts the library on lines that break in every way that a
// fault-injecting TCP proxy knows, and has a server keep a ledger of what
// arrives: it has tests and nothing else.
package chaos
