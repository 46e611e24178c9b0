package main

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"strconv"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
)

// newLogger returns a logger whose records klog writes to w. A record of level
// -n appears from verbosity n on. klog has one state for the whole process, so
// the last logger made decides for all.
func newLogger(w io.Writer, verbosity int) *slog.Logger {
	flags := flag.NewFlagSet("klog", flag.PanicOnError)
	klog.InitFlags(flags)
	for name, value := range map[string]string{
		"logtostderr":     "false", // but to w
		"alsologtostderr": "false",
		"stderrthreshold": "FATAL",
		"one_output":      "true", // else an error is written once for each level below it
		"v":               strconv.Itoa(verbosity),
	} {
		if err := flags.Set(name, value); err != nil {
			panic(fmt.Sprintf("klog's flag -%s: %v", name, err))
		}
	}
	klog.SetOutput(w)
	return slog.New(logr.ToSlogHandler(klog.Background()))
}

// stopLogging writes what klog still holds, and ends its goroutine.
func stopLogging() {
	klog.StopFlushDaemon()
	klog.Flush()
	klog.SetOutput(io.Discard)
}
