package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"
)

// A limitFile is the config file of a head, in which queue_max_in_flight may change
// while the job runs. A nil limitFile does not change.
type limitFile struct {
	options options
	getenv  func(string) string
	current int
	log     io.Writer

	size    int64 // of the file when it was read last
	modTime time.Time
}

// changed returns the limit if it has changed since the last call. A file with a
// mistake changes nothing.
func (f *limitFile) changed(ctx context.Context) (limit int, changed bool) {
	if f == nil || f.options.configFile == "" {
		return 0, false
	}
	info, err := os.Stat(f.options.configFile)
	if err != nil || info.Size() == f.size && info.ModTime().Equal(f.modTime) {
		return 0, false
	}
	f.size, f.modTime = info.Size(), info.ModTime()
	c, err := f.options.config(ctx, f.getenv)
	if ctx.Err() != nil { // the run has ended
		return 0, false
	}
	if err != nil {
		fmt.Fprintf(f.log, "batchinfer: queue_max_in_flight remains %s: %v\n", limitText(f.current), err)
		return 0, false
	}
	if c.queueMaxInFlight == f.current {
		return 0, false
	}
	f.current = c.queueMaxInFlight
	fmt.Fprintf(f.log, "batchinfer: queue_max_in_flight is now %s\n", limitText(f.current))
	return f.current, true
}

// forget makes changed return the limit again.
func (f *limitFile) forget() { f.current, f.modTime = -1, time.Time{} }

func limitText(n int) string {
	if n == 0 {
		return "unlimited"
	}
	return fmt.Sprint(n)
}
