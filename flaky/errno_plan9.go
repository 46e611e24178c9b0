package flaky

import "syscall"

const (
	errRefused = syscall.ErrorString("connection refused")
	errReset   = syscall.ErrorString("connection reset by peer")
)
