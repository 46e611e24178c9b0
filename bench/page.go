package main

import (
	"fmt"
	"slices"
	"strings"
)

// page returns the whole report as Markdown.
func (r *report) page() string {
	var b strings.Builder
	r.intro(&b)
	b.WriteString("\n## What it must reach\n\n")
	b.WriteString("Computed from the figures below. A line about time compares runs that were made in the same round. A difference is\nmeasurable if it is more than the spread of bare's own runs, and there in three rounds of four.\n\n")
	ts := targetTable(r.targets())
	ts.markdown(&b)
	b.WriteString("\n## In a glance\n\n")
	b.WriteString("Medians. ✗: does not do the work correctly, and the section of that work says why.\n\n")
	overview := r.overview()
	overview.markdown(&b)
	for _, c := range charts {
		fmt.Fprintf(&b, "\n![%s](%s)\n", c.title, c.file)
	}
	for _, w := range r.workloads {
		fmt.Fprintf(&b, "\n## %s\n\n%s.\n\n", w.name, w.about)
		t := r.table(w)
		t.markdown(&b)
	}
	b.WriteString(profiles)
	return b.String()
}

// profiles is not measured by this program: it says what was found with others.
const profiles = `
## What the profiles showed

Found with pprof, with the compiler's ` + "`-gcflags=-m`" + `, and by leaving out one thing at a time, the fastest of 15 000 batches.

- **A call that succeeds** took 8.7 ns over bare, of which no line took more than 2: the question whether the context is
  done, the look for a policy in it, the copy of the ` + "`RetryConfig`" + ` that its field needs, the verdict, each about one. Calls
  that the compiler did not inline were half of it. What is asked on that path now fits into one function: 5 to 6 ns. What is
  left is the call itself, the question about the context, and eight comparisons.
- **The clock** takes 33 ns to read, more than all of that. It is read only where ` + "`MaxElapsed`" + `, a budget, a hook or a policy
  of the caller's own will look at ` + "`Attempt.Elapsed`" + `.
- **The state of a call** stays on the stack. What goes to the heap of a call that is retried at once is the next request, with its
  context in the same piece, and the timer that bounds the drain, with its function: 3 allocations.
- **One 503 and then a 200** takes 430 ns over bare: 146 for the next request and its context, 110 for that timer, 54 to
  read the clock twice, 55 for the decision, 20 for the verdict. A goroutine for the drain made it 1.2 µs; it is still what
  drains beside a wait of 10 ms or more, where nobody waits for it.
- **A recording** is made in chunks from a pool, by a goroutine for each Read, which costs no allocation since the
  function that it runs is pooled too. Timers and channels are not: what is made in a testing/synctest bubble must not
  leave it.
- **A call that waits** holds its timer, 250 B, and of a body that was recorded 240 B and the bytes themselves. The first
  attempt's request and response, the next one's request, and the watch on the context were 1.3 KiB; they are let go before
  the wait, or made after it.
`

func (r *report) intro(b *strings.Builder) {
	m := r.machine
	fmt.Fprintf(b, `# Benchmarks

What a retry layer costs, measured side by side. This page, its charts and the figures behind them
([benchmarks.txt](benchmarks.txt), for benchstat: `+"`-row /work -col /contender`"+`) are written by

    go -C bench run .

%s on %s/%s, %d cores, %s; %d runs of each workload. The workloads take turns, and in each the contenders, in an
order that changes from run to run. A figure is the median over the runs, between their quartiles. Where only the processor counts, a run is
the fastest of %d batches of %v, so that what other processes take does not count. Connections and waiting calls, which
hardly vary, are measured in fewer runs.

**bare** is the transport alone, the floor; **http.Client** the same under a client, the floor for those
contenders that are clients and no transports (heimdall, resty). The others are used as transports. Each is configured
as its own documentation shows, with logging off, %d retries, and the same backoff. **backoff-loop** is the loop that a
careful user writes on cenkalti/backoff.

Before anything is measured, each contender shows that it does the work correctly: the request body arrives whole
and is closed; a replay carries the same bytes, also when the transport has answered early and goes on reading,
as net/http does; the response that a retry supersedes is drained, within a bound, and closed. Who gets it wrong has the
reason in the table instead of a figure. Who merely leaves a part out has it beside the figure, and is not counted as "best peer".

`, m.goVersion, m.os, m.arch, m.cores, m.cpu, r.runs, batches, batchTime, maxRetries)
	versions := table{head: []string{"contender", "module", "version"}}
	for _, c := range contenders {
		if c.module != "" {
			versions.add(c.name, c.module, r.version(c))
		}
	}
	versions.markdown(b)
}

func (r *report) version(c contender) string {
	if v := r.machine.versions[c.module]; v != "" && c.name != ownName {
		return v
	}
	return "this checkout"
}

// summary returns the targets and all tables for a terminal.
func (r *report) summary() string {
	var b strings.Builder
	for _, w := range r.workloads {
		fmt.Fprintf(&b, "%s: %s.\n", w.name, w.about)
		t := r.table(w)
		t.text(&b)
		b.WriteString("\n")
	}
	ts := slices.DeleteFunc(r.targets(), func(t target) bool { return !t.known })
	t := targetTable(ts)
	t.text(&b)
	met := len(slices.DeleteFunc(slices.Clone(ts), func(t target) bool { return !t.met }))
	fmt.Fprintf(&b, "\n%d of %d targets met.\n", met, len(ts))
	return b.String()
}

func targetTable(ts []target) table {
	t := table{head: []string{"", "target", "measured"}}
	for _, x := range ts {
		verdict := "NOT MET"
		switch {
		case !x.known:
			verdict = "–"
		case x.met:
			verdict = "met"
		}
		if x.note != "" {
			x.measured += " (" + x.note + ")"
		}
		t.add(verdict, x.promise, x.measured)
	}
	return t
}

// table shows one workload, a row for each contender.
func (r *report) table(w workload) table {
	first := w.metrics[0]
	t := table{head: []string{"contender", first.heading(), "quartiles", "× bare", "× best peer"}}
	for _, m := range w.metrics[1:] {
		t.head = append(t.head, m.heading())
	}
	t.head = append(t.head, "remark")
	_, best := r.bestPeer(w.name, first)
	floor := r.median(w.name, bareName, first)
	for _, res := range r.results[w.name] {
		s := summarize(res.series(first))
		row := []string{
			res.contender.name, amount(s.median, first), amount(s.low, first) + " to " + amount(s.high, first),
			amount(s.median/floor, ratio), amount(s.median/best, ratio),
		}
		for _, m := range w.metrics[1:] {
			row = append(row, amount(summarize(res.series(m)).median, m))
		}
		if res.wrong != "" {
			row[1], row[2] = wrongMark(res), "–"
		}
		t.add(append(row, res.wrong+res.note)...)
	}
	return t
}

// wrongMark stands in place of a figure. It is no fault of a contender that is
// there for comparison that it does not retry.
func wrongMark(res *result) string {
	if res.contender.once {
		return "–"
	}
	return "✗"
}

// overview has a column for each of the works that matter most.
func (r *report) overview() table {
	columns := []string{"GET", "POST", streamWork, "GET-503-then-200", "POST-503-then-200", uploadWork, "loopback-GET", "connections-60KiB", "waiting-no-body"}
	t := table{head: append([]string{"contender"}, columns...)}
	for _, c := range contenders {
		row := []string{c.name}
		for _, w := range columns {
			row = append(row, r.cell(w, c.name))
		}
		t.add(row...)
	}
	return t
}

func (r *report) cell(workload, contender string) string {
	res := r.result(workload, contender)
	switch {
	case res == nil:
		return "–"
	case res.wrong != "":
		return wrongMark(res)
	}
	for _, w := range r.workloads {
		if w.name == workload {
			return amount(summarize(res.series(w.metrics[0])).median, w.metrics[0])
		}
	}
	return "–"
}

// raw returns every run in the format of go test -bench, for benchstat.
func (r *report) raw() string {
	var b strings.Builder
	fmt.Fprintf(&b, "goos: %s\ngoarch: %s\npkg: github.com/httpretry/httpretry/bench\ncpu: %s\n", r.machine.os, r.machine.arch, r.machine.cpu)
	for _, w := range r.workloads {
		for _, res := range r.results[w.name] {
			for _, s := range res.samples {
				fmt.Fprintf(&b, "BenchmarkRetry/work=%s/contender=%s-%d 1", w.name, res.contender.name, r.machine.cores)
				for _, m := range w.metrics {
					fmt.Fprintf(&b, " %.4g %s", s[m], m)
				}
				b.WriteString("\n")
			}
		}
	}
	return b.String()
}
