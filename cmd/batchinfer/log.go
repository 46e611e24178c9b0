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
	return slog.New(tallying{logr.ToSlogHandler(klog.Background())})
}

// A tallying handler adds two attributes to a line about a request: the cause of a
// failure without a status, and how many attempts do not count toward max, because the
// gateway asked for a wait or was not reached.
type tallying struct{ slog.Handler }

// Handle implements [slog.Handler].
func (h tallying) Handle(ctx context.Context, r slog.Record) error {
	t := tallyOf(ctx)
	r = r.Clone()
	if t.failure != "" {
		r.AddAttrs(slog.String("cause", t.failure))
	}
	if t.excused > 0 {
		r.AddAttrs(slog.Int("excused", t.excused))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements [slog.Handler].
func (h tallying) WithAttrs(attrs []slog.Attr) slog.Handler {
	return tallying{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements [slog.Handler].
func (h tallying) WithGroup(name string) slog.Handler { return tallying{h.Handler.WithGroup(name)} }

// stopLogging flushes klog's buffer and ends its goroutine.
func stopLogging() {
	klog.StopFlushDaemon()
	klog.Flush()
	klog.SetOutput(io.Discard)
}
