package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// A progress displays the progress of a run. Log lines are written through it, so
// that they and the bar do not mix. Write is safe for concurrent use; show and
// close are not. Calls of show are cheap: it limits how often it prints.
type progress interface {
	io.Writer
	show(s *summary)
	close()
}

// newProgress returns a bar if w is a terminal, otherwise a plain progress.
func newProgress(w io.Writer, total int) progress {
	if f, ok := w.(*os.File); ok && total > 0 && term.IsTerminal(int(f.Fd())) {
		return newBar(w, total)
	}
	return newPlain(w, total)
}

// A plain progress prints lines: the first after a second, and later ones at
// growing intervals of up to a minute.
type plain struct {
	io.Writer
	total       int
	start, next time.Time
}

func newPlain(w io.Writer, total int) *plain {
	now := time.Now()
	return &plain{Writer: w, total: total, start: now, next: now.Add(time.Second)}
}

func (p *plain) show(s *summary) {
	now := time.Now()
	if now.Before(p.next) {
		return
	}
	p.next = now.Add(min(max(now.Sub(p.start)/4, time.Second), time.Minute))
	fmt.Fprintf(p, "batchinfer: %d of %d requests done, %s\n", s.done(), p.total, troubles(s))
}

func (p *plain) close() {}

// troubles returns the number of failures and retries, and the last failure if
// no answer has arrived for some time.
func troubles(s *summary) string {
	const silence = 5 * time.Second
	retries, failure := s.live.now()
	text := fmt.Sprintf("%d failed, %d retries", sum(s.failed), retries)
	if failure != "" && time.Since(s.answerAt) >= silence {
		text += "; last failure: " + failure
	}
	return text
}

// A bar is a progress bar on the last line of a terminal.
type bar struct {
	mu    sync.Mutex
	w     io.Writer
	shown *progressbar.ProgressBar
}

func newBar(w io.Writer, total int) *bar {
	return &bar{w: w, shown: progressbar.NewOptions(total,
		progressbar.OptionSetWriter(w), // not b, so that the bar finds the terminal and its width
		progressbar.OptionSetWidth(30),
		progressbar.OptionShowCount(),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionUseANSICodes(true),
		progressbar.OptionSetRenderBlankState(true),
	)}
}

func (b *bar) show(s *summary) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shown.Describe(troubles(s))
	b.shown.Set(s.done())
}

// Write writes log lines above the bar.
func (b *bar) Write(text []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shown.Clear()
	n, err := b.w.Write(text)
	b.shown.RenderBlank()
	return n, err
}

func (b *bar) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shown.Exit()
	fmt.Fprintln(b.w)
}
