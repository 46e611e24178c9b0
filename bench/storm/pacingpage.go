package main

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/httpretry/httpretry/bench/internal/plot"
)

// pacingText is the template of the page about pacing.
//
//go:embed pacing.md.tmpl
var pacingText string

// files returns the page and the charts, by file name.
func (r *pacingReport) files() (map[string][]byte, error) {
	t, err := template.New("pacing").Funcs(template.FuncMap{
		"contenders": r.contenderTable,
		"limits":     r.limitTable,
		"changes":    r.changeTable,
		"figure":     r.figure,
	}).Parse(pacingText)
	if err != nil {
		return nil, err
	}
	var page strings.Builder
	if err := t.Execute(&page, r.seed); err != nil {
		return nil, err
	}
	files := map[string][]byte{"pacing.md": []byte(page.String())}
	files["pacing-rate.svg"] = r.rateChart().SVG()
	files["pacing-refusals.svg"] = r.refusalChart().SVG()
	files["pacing-waits.svg"] = r.waitChart().SVG()
	return files, nil
}

var figureHead = []string{"time / ideal", "attempts / request", "later refusals", "failed calls", "longest / median wait"}

// figures returns a row for figureHead, with the worst of all rs.
func figures(rs ...paced) []string {
	var took, attempts, refusals, wait float64
	failed := 0
	for _, r := range rs {
		took, attempts = max(took, r.timeRatio()), max(attempts, r.attemptsPerRequest())
		refusals, wait = max(refusals, r.laterRefusals()), max(wait, r.longestWait())
		failed = max(failed, r.failed)
	}
	return []string{
		fmt.Sprintf("%.2f", took), fmt.Sprintf("%.3f", attempts), fmt.Sprintf("%.1f %%", 100*refusals),
		fmt.Sprint(failed), fmt.Sprintf("%.1f", wait),
	}
}

// contenderTable compares the contenders at the limit with a name.
func (r *pacingReport) contenderTable(name string) string {
	rows := [][]string{append([]string{"pacer", "processes"}, figureHead...)}
	for _, k := range limits {
		if k.name != name {
			continue
		}
		for _, c := range contenders {
			for _, n := range processCounts {
				rows = append(rows, r.contenderRow(k, c, n))
			}
		}
	}
	return table(rows)
}

func (r *pacingReport) contenderRow(k kindOfLimit, c contender, processes int) []string {
	h := hints{retryAfter: true}
	return append([]string{c.name, fmt.Sprint(processes)}, figures(r.of(steady(k, c, h, usualCallers, processes, r.seed)))...)
}

// limitTable has the figures of AdaptivePacer at all limits, for a number of
// processes.
func (r *pacingReport) limitTable(processes int) string {
	rows := [][]string{append([]string{"limit", "the server says"}, figureHead...)}
	for _, k := range limits {
		for _, h := range k.hints() {
			var all []paced
			for _, callers := range callerCounts {
				all = append(all, r.of(steady(k, adaptive, h, callers, processes, r.seed)))
			}
			rows = append(rows, append([]string{k.name, h.String()}, figures(all...)...))
		}
	}
	return table(rows)
}

// changeTable has the times to settle.
func (r *pacingReport) changeTable() string {
	rows := [][]string{{"limit", "the server says", "pacer", "1 process: halved", "doubled", "10 processes: halved", "doubled"}}
	for _, k := range limits {
		for _, h := range k.hints() {
			for _, c := range contenders {
				if c.name != adaptive.name && (h != hints{retryAfter: true} || strings.Contains(c.name, "rate")) {
					continue
				}
				row := []string{k.name, h.String(), c.name}
				for _, n := range processCounts {
					res := r.of(changing(k, c, h, n, r.seed))
					row = append(row, settled(res, halved), settled(res, doubled))
				}
				rows = append(rows, row)
			}
		}
	}
	return table(rows)
}

func settled(r paced, change time.Duration) string {
	d, ok := r.settled(change)
	if !ok {
		return "not"
	}
	return fmt.Sprintf("%.0f s", d.Seconds())
}

// figure returns a figure of a contender at the limit with a name.
func (r *pacingReport) figure(limit, pacer, figure string) (string, error) {
	for _, k := range limits {
		for _, c := range contenders {
			for i, head := range figureHead {
				if k.name == limit && c.name == pacer && head == figure {
					return r.contenderRow(k, c, 1)[2+i], nil
				}
			}
		}
	}
	return "", fmt.Errorf("unknown figure %q of %q at %q", figure, pacer, limit)
}

type chartedContender struct {
	contender
	color plot.Color
}

// charted are the contenders in the charts.
var charted = []chartedContender{
	{unpaced, plot.Vermillion}, {contenders[1], plot.Orange}, {contenders[2], plot.Purple}, {adaptive, plot.Blue},
}

func (c chartedContender) series() plot.Series {
	return plot.Series{Label: strings.Trim(c.name, "`"), Color: c.color, Strong: c.name == adaptive.name}
}

const chartEnd = 200 * time.Second

// overTime returns a chart of the contenders at a bucket whose limit changes.
func (r *pacingReport) overTime(what string, of func(accepted, refused int) int) plot.Plot {
	p := plot.Plot{
		Title: what + " per second, with a limit that halves and doubles", Height: 260,
		About: "Token bucket, 64 callers, Retry-After. Each second of virtual time.",
		X:     plot.Linear("seconds", chartEnd.Seconds(), 20, number),
		Y:     plot.Linear(strings.ToLower(what)+" per second", 120, 20, number),
	}
	for _, c := range charted {
		res := r.of(changing(bucketLimit, c.contender, hints{retryAfter: true}, 1, r.seed))
		s := c.series()
		for at := time.Duration(0); at < chartEnd; at += time.Second {
			s.Line = append(s.Line, plot.Point{X: at.Seconds(), Y: float64(of(res.count(at, at+time.Second)))})
		}
		p.Series = append(p.Series, s)
	}
	return p
}

func number(x float64) string { return fmt.Sprint(x) }

func (r *pacingReport) rateChart() plot.Plot {
	p := r.overTime("Attempts", func(accepted, refused int) int { return accepted + refused })
	limit := plot.Series{Label: "limit", Color: plot.Gray, Steps: true, Dashed: true}
	for at := time.Duration(0); at <= chartEnd; at += time.Second {
		limit.Line = append(limit.Line, plot.Point{X: at.Seconds(), Y: limitPerSecond * halvesAndDoubles(at)})
	}
	p.Series = append([]plot.Series{limit}, p.Series...)
	return p
}

func (r *pacingReport) refusalChart() plot.Plot {
	return r.overTime("Refusals", func(_, refused int) int { return refused })
}

// waitChart shows the durations of the calls that arrived together.
func (r *pacingReport) waitChart() plot.Plot {
	p := plot.Plot{
		Title: "Duration of 64 calls that arrive together", Height: 260,
		About: "Token bucket, Retry-After. The calls of each way are sorted by duration.",
		X:     plot.Linear("calls", usualCallers, 8, number),
		Y:     plot.Linear("seconds", 50, 10, number),
	}
	for _, c := range charted {
		res := r.of(steady(bucketLimit, c.contender, hints{retryAfter: true}, usualCallers, 1, r.seed))
		s := c.series()
		for i, d := range slices.Sorted(slices.Values(res.first)) {
			s.Line = append(s.Line, plot.Point{X: float64(i + 1), Y: d.Seconds()})
		}
		p.Series = append(p.Series, s)
	}
	return p
}
