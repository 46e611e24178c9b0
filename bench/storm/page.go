package main

import (
	_ "embed"
	"fmt"
	"strings"
	"text/template"
)

// pageText is the template of the page.
//
//go:embed page.md.tmpl
var pageText string

// page returns the page as Markdown.
func (r *report) page() ([]byte, error) {
	functions := template.FuncMap{
		"storms":    func() string { return r.stormTable(storms(r.seed)) },
		"shedding":  func() string { return r.stormTable(shedding(r.seed)) },
		"fleets":    r.fleetTable,
		"herds":     r.herdTable,
		"fleetName": func(bucket, processes int) string { return fleetName(buckets[bucket], processes) },
		"recovers":  r.figure(result.recovers),
		"laterLoad": r.figure(func(res result) string { return percent(res.laterLoad()) }),
		"herdServed": func(kind string) (string, error) {
			return r.figure(result.everServed)(herdName(kind))
		},
	}
	t, err := template.New("page").Funcs(functions).Parse(pageText)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	if err := t.Execute(&b, r.seed); err != nil {
		return nil, err
	}
	return []byte(b.String()), nil
}

// figure returns a function that returns a figure of the scenario with a name.
func (r *report) figure(of func(result) string) func(name string) (string, error) {
	return func(name string) (string, error) {
		res, ok := r.results[name]
		if !ok {
			return "", fmt.Errorf("unknown scenario %q", name)
		}
		return of(res), nil
	}
}

// table returns a Markdown table. The first row is the head.
func table(rows [][]string) string {
	var b strings.Builder
	for i, row := range rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			b.WriteString("|---" + strings.Repeat("|--:", len(row)-1) + "|\n")
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func (r *report) stormTable(scenarios []scenario) string {
	rows := [][]string{{"retries", "served in the outage", "served after it", "load at the end", "attempts per call", "wasted work", "recovers after"}}
	for _, s := range scenarios {
		res := r.results[s.name]
		all := res.since(before)
		during, later := res.sum(before, before+outage), res.sum(before+outage, before+outage+after)
		rows = append(rows, []string{
			s.name, percent(share(during.served, during.calls)), percent(share(later.served, later.calls)),
			percent(res.laterLoad()), res.attemptsPerCall(before),
			percent(share(all.wasted, all.worked)), res.recovers(),
		})
	}
	return table(rows)
}

func (r *report) fleetTable() string {
	rows := [][]string{
		{"budget of each process", "processes", "attempts per call, at most", "measured", "recovers after"},
		{"none", "any", fmt.Sprintf("%d.00", 1+maxRetries), r.results[unbounded].attemptsPerCall(0), r.results[withDefault].recovers()},
	}
	for _, b := range buckets {
		for _, n := range fleetSizes {
			rows = append(rows, r.fleetRow(b, n))
		}
	}
	return table(rows)
}

func (r *report) fleetRow(b bucket, processes int) []string {
	storm, dark := r.results[fleetName(b, processes)], r.results[blackoutName(b, processes)]
	return []string{
		b.name, fmt.Sprint(processes), fmt.Sprintf("%.2f", dark.bound()), dark.attemptsPerCall(0), storm.recovers(),
	}
}

func (r *report) herdTable() string {
	rows := [][]string{{"jitter", "served", "attempts per call", "responses in the busiest second", "seconds with a response"}}
	for _, k := range kinds {
		res := r.results[herdName(k.name)]
		most, busy := 0, 0
		for _, s := range res.seconds {
			most = max(most, s.worked)
			if s.worked > 0 {
				busy++
			}
		}
		rows = append(rows, []string{
			k.name, res.everServed(), res.attemptsPerCall(0), fmt.Sprint(most), fmt.Sprint(busy),
		})
	}
	return table(rows)
}
