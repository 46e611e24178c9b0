// Package compat tests httpretry with other people's SDKs and middleware, and
// the code in the documentation. It contains only tests.
package compat
