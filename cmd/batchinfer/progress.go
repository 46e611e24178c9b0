package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

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
		return newBar(w, total, func() int {
			width, _, err := term.GetSize(int(f.Fd()))
			if err != nil || width <= 0 {
				return defaultWidth
			}
			return width
		})
	}
	return newPlain(w, total)
}

// A plain progress prints lines: the first after a second, and later ones at
// growing intervals of up to a minute.
type plain struct {
	total       int
	start, next time.Time

	mu sync.Mutex // guards writes to w
	w  io.Writer
}

func newPlain(w io.Writer, total int) *plain {
	now := time.Now()
	return &plain{w: w, total: total, start: now, next: now.Add(time.Second)}
}

func (p *plain) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.w.Write(b)
}

func (p *plain) show(s *summary) {
	now := time.Now()
	if now.Before(p.next) {
		return
	}
	p.next = now.Add(min(max(now.Sub(p.start)/4, time.Second), time.Minute))
	fmt.Fprintf(p, "batchinfer: %d of %d requests done, %s\n", s.done(), p.total, strings.Join(s.status(now), ", "))
}

func (p *plain) close() {}

// status returns the state of the run as short texts, the most important first.
func (s *summary) status(now time.Time) (texts []string) {
	add := func(format string, args ...any) { texts = append(texts, fmt.Sprintf(format, args...)) }
	retries, failure := s.live.now()
	add("%d failed, %d retries", sum(s.failed), retries)
	t, r := s.traffic(), s.meter.rate(now)
	const silence = 5 * time.Second
	silent := now.Sub(s.answerAt) >= silence
	switch {
	case t.flying == 0 && t.waiting > 0 && silent:
		texts = append([]string{t.wait(now)}, texts...)
	case r.requests > 0 && s.done() >= 5 && s.todo() > s.done(): // fewer tell nothing about the rate
		left := time.Duration(float64(s.todo()-s.done()) / r.requests * float64(time.Second))
		texts = append([]string{brief(left) + " left"}, texts...)
	}
	if failure != "" && silent {
		add("last failure: %s", failure)
		if hint := s.live.hint(); hint != "" {
			add("%s", hint)
		}
	}
	if r.answers > 0 {
		add("%s/s", number3(r.answers))
	}
	if r.tokens > 0 {
		add("%s tokens/s", number3(r.tokens))
	}
	if t.limit > 0 {
		add("%d of %d in flight", t.flying, t.limit)
	}
	if s.deferred > 0 {
		add("%d to send again", s.deferred)
	}
	return texts
}

// wait returns a text for a time in which no attempt is under way.
func (t traffic) wait(now time.Time) string {
	text := fmt.Sprintf("%d wait", t.waiting)
	if left := t.next.Sub(now); left > 0 {
		text += ", next attempt in " + brief(left)
	}
	return text
}

// brief returns a duration with at most two units, such as 42 s or 3 m 20 s.
func brief(d time.Duration) string {
	d = max(d.Round(time.Second), 0)
	h, m, s := int(d/time.Hour), int(d/time.Minute)%60, int(d/time.Second)%60
	switch {
	case h >= 100:
		return fmt.Sprintf("%d h", h)
	case h > 0:
		return fmt.Sprintf("%d h %d m", h, m)
	case m > 0:
		return fmt.Sprintf("%d m %d s", m, s)
	}
	return fmt.Sprintf("%d s", s)
}

// number3 returns a number with three digits, or all before the decimal point.
func number3(x float64) string {
	switch {
	case x < 10:
		return fmt.Sprintf("%.2f", x)
	case x < 100:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.0f", x)
}

// A bar is a progress bar on the last line of a terminal.
type bar struct {
	mu    sync.Mutex
	w     io.Writer
	width func() int // of the terminal, in columns
	total int
	done  int       // requests, when texts were made
	texts []string  // as they were drawn last
	line  string    // the same, for the width at that time
	drawn time.Time // when that was
}

const (
	defaultWidth = 80 // of a terminal that does not tell
	barInterval  = 100 * time.Millisecond
	clearLine    = "\x1b[2K\r"
)

func newBar(w io.Writer, total int, width func() int) *bar {
	b := &bar{w: w, total: total, width: width}
	b.draw(b.fitted())
	return b
}

// fitted returns the line for the width of the terminal. The last column stays free:
// some terminals wrap when it is written.
func (b *bar) fitted() string { return barLine(b.done, b.total, b.texts, b.width()-1) }

func (b *bar) draw(line string) {
	b.line = line
	io.WriteString(b.w, clearLine+line)
}

func (b *bar) show(s *summary) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if now.Sub(b.drawn) < barInterval && s.done() < b.total {
		return
	}
	b.drawn, b.done, b.texts = now, s.done(), s.status(now)
	if line := b.fitted(); line != b.line {
		b.draw(line)
	}
}

// barLine returns a line of at most width columns. Of the texts it has as many as
// fit, and the last may be cut. A bar fills the room that they leave.
func barLine(done, total int, texts []string, width int) string {
	const least = 10 // columns of a bar, for which a wide terminal always has room
	line := fmt.Sprintf("%3d%% (%d/%d)", 100*done/max(total, 1), done, total)
	forTexts := width
	if width >= 60 {
		forTexts -= least + len(" []")
	}
	sep := " "
	for _, text := range texts {
		room := forTexts - utf8.RuneCountInString(line) - len(sep)
		if len(text) > room {
			if room > least {
				line += sep + text[:room-1] + "…"
			}
			break
		}
		line += sep + text
		sep = ", "
	}
	if room := width - utf8.RuneCountInString(line) - len(" []"); room >= least {
		room = min(room, 30)
		full := room * done / max(total, 1)
		percent, rest, _ := strings.Cut(line, "% ")
		line = percent + "% [" + strings.Repeat("=", full) + strings.Repeat(" ", room-full) + "] " + rest
	}
	if runes := []rune(line); len(runes) > width {
		line = string(runes[:max(width, 0)])
	}
	return line
}

// Write writes log lines above the bar.
func (b *bar) Write(text []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	io.WriteString(b.w, clearLine)
	n, err := b.w.Write(text)
	b.draw(b.fitted()) // the width may have changed
	return n, err
}

func (b *bar) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	fmt.Fprintln(b.w)
}
