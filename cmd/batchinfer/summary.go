package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// A summary has the counts of a run.
type summary struct {
	total    int // requests of the input
	earlier  int // requests that earlier runs have answered
	start    time.Time
	output   string
	answered int            // requests answered in this run
	failed   map[string]int // requests that failed in this run, by category
	retries  map[string]int // by cause
	attempts map[int]int    // number of requests by number of attempts
	saved    int            // requests answered after a retry
	waited   time.Duration  // sum of the waits between attempts

	live     *live     // counts of the requests in flight
	answerAt time.Time // time of the last answer, or start
}

func newSummary(total, earlier int, output string) *summary {
	now := time.Now()
	return &summary{
		total:    total,
		earlier:  earlier,
		start:    now,
		answerAt: now,
		live:     new(live),
		output:   output,
		failed:   make(map[string]int),
		retries:  make(map[string]int),
		attempts: make(map[int]int),
	}
}

func (s *summary) add(r result) {
	if r.answer.Error != nil {
		s.failed[r.answer.Error.Code]++
	} else {
		s.answered++
		s.answerAt = time.Now()
		if len(r.tally.causes) > 0 {
			s.saved++
		}
	}
	s.attempts[r.tally.attempts]++
	s.waited += r.tally.waited
	for _, cause := range r.tally.causes {
		s.retries[cause]++
	}
}

// done returns the number of requests that ended in this run.
func (s *summary) done() int { return s.answered + sum(s.failed) }

// todo returns the number of requests without an answer before this run.
func (s *summary) todo() int { return s.total - s.earlier }

// print writes the summary as text.
func (s *summary) print(w io.Writer) {
	row := func(name, value, note string) {
		fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("%-12s %10s   %s", name, value, note), " "))
	}
	number := func(n int) string { return fmt.Sprint(n) }
	earlier := ""
	if s.earlier > 0 {
		earlier = fmt.Sprintf("%d of them in earlier runs", s.earlier)
	}
	row("requests", number(s.total), "")
	row("succeeded", number(s.earlier+s.answered), earlier)
	row("failed", number(sum(s.failed)), byCount(s.failed))
	if left := s.todo() - s.done(); left > 0 {
		row("not done", number(left), "")
	}
	if s.done() > 0 {
		row("attempts", fmt.Sprintf("%.2f", s.perRequest()), "a request; "+s.distribution())
		row("retries", number(sum(s.retries)), byCount(s.retries))
		row("waited", round(s.waited), "between attempts, over all requests")
		row("saved", number(s.saved), "requests that would have failed without retries")
	}
	row("took", round(time.Since(s.start)), "")
	row("output", "", s.output)
}

// perRequest returns the mean number of attempts.
func (s *summary) perRequest() float64 {
	attempts := 0
	for n, requests := range s.attempts {
		attempts += n * requests
	}
	return float64(attempts) / float64(max(1, s.done()))
}

// distribution returns the number of requests for each number of attempts.
func (s *summary) distribution() string {
	var parts []string
	for _, n := range slices.Sorted(maps.Keys(s.attempts)) {
		parts = append(parts, fmt.Sprintf("%d took %d", s.attempts[n], n))
	}
	return strings.Join(parts, ", ")
}

// byCount returns counts in descending order.
func byCount(counts map[string]int) string {
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	var parts []string
	for _, name := range names {
		parts = append(parts, fmt.Sprintf("%s: %d", name, counts[name]))
	}
	return strings.Join(parts, ", ")
}

func sum(counts map[string]int) int {
	n := 0
	for _, count := range counts {
		n += count
	}
	return n
}

func round(d time.Duration) string {
	if d < time.Minute {
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
