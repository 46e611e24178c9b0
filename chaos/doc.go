// Package chaos tests the library over connections that fail in every way that a
// fault-injecting TCP proxy offers, with a server that records all requests in a
// ledger. It consists of tests only.
package chaos
