package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"strconv"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
)

// newLogger returns a logger whose records klog writes to w. A record of level
// -n is written if verbosity is at least n. Since klog's state is global, each
// call also affects earlier loggers.
func newLogger(w io.Writer, verbosity int) *slog.Logger {
	flags := flag.NewFlagSet("klog", flag.PanicOnError)
	klog.InitFlags(flags)
	for name, value := range map[string]string{
		"logtostderr":     "false", // to w instead
		"alsologtostderr": "false",
		"stderrthreshold": "FATAL",
		"one_output":      "true", // otherwise an error is written once for each lower level
		"v":               strconv.Itoa(verbosity),
	} {
		if err := flags.Set(name, value); err != nil {
			panic(fmt.Sprintf("klog's flag -%s: %v", name, err))
		}
	}
	klog.SetOutput(w)
	return slog.New(retryHandler{logr.ToSlogHandler(klog.Background())})
}

// A retryHandler replaces the number of the retry in a record about an attempt: only
// failures that use up retries of the request count.
type retryHandler struct{ slog.Handler }

// Handle implements [slog.Handler].
func (h retryHandler) Handle(ctx context.Context, r slog.Record) error {
	excused := tallyOf(ctx).excused
	if excused == 0 {
		return h.Handler.Handle(ctx, r)
	}
	counted := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "attempt" && a.Value.Kind() == slog.KindInt64 {
			a.Value = slog.Int64Value(max(a.Value.Int64()-int64(excused), 0))
		}
		counted.AddAttrs(a)
		return true
	})
	return h.Handler.Handle(ctx, counted)
}

// WithAttrs implements [slog.Handler].
func (h retryHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return retryHandler{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements [slog.Handler].
func (h retryHandler) WithGroup(name string) slog.Handler {
	return retryHandler{h.Handler.WithGroup(name)}
}

// stopLogging flushes klog's buffer and ends its goroutine.
func stopLogging() {
	klog.StopFlushDaemon()
	klog.Flush()
	klog.SetOutput(io.Discard)
}
