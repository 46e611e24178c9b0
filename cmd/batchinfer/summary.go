package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
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
	deferred int            // requests that failed and will be sent again
	attempts map[int]int    // number of requests by number of attempts
	saved    int            // requests answered after a retry
	tokens   int            // used by the answers, as far as they tell

	live     *live          // counts of the attempts
	traffic  func() traffic // the attempts at this time
	meter    meter
	samples  samples
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
		traffic:  func() traffic { return traffic{} },
		output:   output,
		failed:   make(map[string]int),
		attempts: make(map[int]int),
	}
}

func (s *summary) add(r result) {
	now := time.Now()
	if r.answer.Error != nil {
		s.failed[r.answer.Error.Code]++
		s.meter.add(now, 0, 0)
	} else {
		s.answered++
		s.answerAt = now
		s.tokens += r.tokens
		s.meter.add(now, 1, r.tokens)
		if r.tally.attempts > 1 {
			s.saved++
		}
	}
	s.attempts[r.tally.attempts]++
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
		retries, waited := s.live.totals()
		row("retries", number(sum(retries)), byCount(retries))
		row("waited", round(waited), "before attempts, over all requests")
		row("saved", number(s.saved), "requests that would have failed without retries")
	}
	took := time.Since(s.start)
	row("took", round(took), s.speed(took))
	row("output", "", s.output)
}

// speed returns the mean throughput of the run.
func (s *summary) speed(took time.Duration) string {
	if s.answered == 0 {
		return ""
	}
	text := number3(float64(s.answered)/took.Seconds()) + " answers a second"
	if s.tokens > 0 {
		text += ", " + number3(float64(s.tokens)/took.Seconds()) + " tokens a second"
	}
	if limit := s.traffic().limit; limit > 0 {
		text += fmt.Sprintf(", with up to %d in flight at the end", limit)
	}
	return text
}

// A report is the summary as JSON. Its members are part of the program's interface.
type report struct {
	ExitStatus       int            `json:"exit_status"`
	Output           string         `json:"output"`
	Requests         int            `json:"requests"`         // of the input
	AnsweredEarlier  int            `json:"answered_earlier"` // by earlier runs
	Answered         int            `json:"answered"`         // by this run
	Failed           int            `json:"failed"`           // in this run
	NotDone          int            `json:"not_done"`         // neither answered nor failed
	Failures         map[string]int `json:"failures"`         // by category
	Attempts         map[int]int    `json:"attempts"`         // number of requests by number of attempts
	Retries          map[string]int `json:"retries"`          // by cause
	WaitedSeconds    float64        `json:"waited_seconds"`   // before attempts, over all requests
	Saved            int            `json:"saved"`            // requests answered after a retry
	Tokens           int            `json:"tokens"`           // as far as the answers tell
	Start            time.Time      `json:"start"`
	Seconds          float64        `json:"seconds"` // duration of the run
	AnswersPerSecond float64        `json:"answers_per_second"`
	TokensPerSecond  float64        `json:"tokens_per_second"`
	InFlight         int            `json:"in_flight"` // limit at the end
	Samples          []sample       `json:"samples"`   // the run over time
}

// writeJSON writes a report to the named file, if there is a name.
func (s *summary) writeJSON(name string, status int) error {
	if name == "" {
		return nil
	}
	retries, waited := s.live.totals()
	took := time.Since(s.start).Seconds()
	text, err := json.MarshalIndent(report{
		ExitStatus: status, Output: s.output,
		Requests: s.total, AnsweredEarlier: s.earlier, Answered: s.answered, Failed: sum(s.failed), NotDone: s.todo() - s.done(),
		Failures: s.failed, Attempts: s.attempts, Retries: retries, WaitedSeconds: waited.Seconds(), Saved: s.saved,
		Tokens: s.tokens, Start: s.start.UTC(), Seconds: took,
		AnswersPerSecond: float64(s.answered) / took, TokensPerSecond: float64(s.tokens) / took,
		InFlight: s.traffic().limit, Samples: s.samples.all,
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(text, '\n'), 0o666)
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
