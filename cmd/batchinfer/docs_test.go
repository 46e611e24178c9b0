package main

import (
	"bytes"
	"flag"
	"fmt"
	"math"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry/inference"
)

var writeDocs = flag.Bool("docs.write", false, "write the chart of docs/batch.md, and log its progress lines")

// The pages for people who run batches name every flag and every key.
func TestDocs_NameEveryFlagAndKey(t *testing.T) {
	page := readFile(t, "../../docs/batch.md") + readFile(t, "../../docs/scale.md")
	help := startPlain(t, "-h").stderr
	for line := range strings.Lines(help) {
		if name, ok := strings.CutPrefix(line, "  -"); ok && !strings.Contains(page, "`-"+strings.Fields(name)[0]+"`") {
			t.Errorf("neither docs/batch.md nor docs/scale.md has the flag -%s", strings.Fields(name)[0])
		}
	}
	for key := range keys {
		if !strings.Contains(page, key) {
			t.Errorf("neither docs/batch.md nor docs/scale.md has the key %s", key)
		}
	}
}

// TestDocs_Chart runs a batch in virtual time against the gateway of docs/batch.md:
// 50 requests a second, from second 60 on 20, and from second 120 to 150 none,
// because it restarts. With -docs.write it writes the chart.
func TestDocs_Chart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const requests = 9000
		start := time.Now()
		fast, slow := bucket(50), bucket(20)
		g := &limited{status: 429, header: true, accept: func(now time.Time) (bool, time.Duration) {
			if at := now.Sub(start); at > 60*time.Second && at < 120*time.Second {
				return slow(now)
			}
			return fast(now)
		}}
		gateway := roundTripperFunc(func(r *http.Request) (*http.Response, error) {
			if at := time.Since(start); at > 120*time.Second && at < 150*time.Second {
				r.Body.Close()
				return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
			}
			return g.RoundTrip(r)
		})
		cfg := defaultConfig()
		cfg.gatewayURL = "http://gateway.test"
		client := cfg.client()
		client.Transport = gateway
		var screen bytes.Buffer
		b := newBatchWith(cfg, inference.NewHTTPInferenceClient(client), checkedInput(t, inputOf(requests)), &output{name: "out", file: &fullDisk{room: 1 << 30}})
		b.progress = newBar(&screen, requests, func() int { return 80 })
		if err := b.run(t.Context()); err != nil || b.summary.answered != requests {
			t.Fatalf("got %d answered, failed %v, %v, want all", b.summary.answered, b.summary.failed, err)
		}
		if !*writeDocs {
			return
		}
		lines := strings.Split(screen.String(), clearLine)
		for i := 0; i < len(lines); i += len(lines) / 40 {
			t.Log(lines[i])
		}
		b.summary.print(t.Output())
		if err := os.WriteFile("../../docs/batch-rate.svg", rateChart(b.summary.samples.all), 0o666); err != nil {
			t.Fatal(err)
		}
	})
}

// rateStyle is the style of the other charts of docs, which bench/internal/plot of
// another module draws.
const rateStyle = `<style>
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.title { font-size: 17px; font-weight: 600; }
.strong { font-weight: 600; }
text.dim { fill: #59636e; }
path { fill: none; stroke-linejoin: round; }
.page { fill: #ffffff; }
.grid { stroke: #d1d9e0; }
.axis { stroke: #59636e; }
.limit { stroke: #6e7781; stroke-width: 1.4; stroke-dasharray: 5 4; }
.rate { stroke: #0072b2; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
text.dim { fill: #9da7b1; }
.page { fill: #0d1117; }
.grid { stroke: #30363d; }
.axis { stroke: #9da7b1; }
.limit { stroke: #8b949e; }
.rate { stroke: #4c9fe0; }
}
</style>
`

// rateChart returns a chart of the answers per second over time. Its axes end at
// the first ticks that are beyond all samples.
func rateChart(samples []sample) []byte {
	const left, right, top, bottom = 130, 700, 64, 364
	seconds, most := 150.0, 60.0
	for _, s := range samples {
		seconds = max(seconds, math.Ceil(s.Seconds/30)*30)
		most = max(most, math.Ceil(s.AnswersPerSecond/20)*20)
	}
	x := func(at float64) float64 { return left + at/seconds*(right-left) }
	y := func(rate float64) float64 { return bottom - rate/most*(bottom-top) }
	var svg bytes.Buffer
	put := func(format string, args ...any) { fmt.Fprintf(&svg, format+"\n", args...) }
	put(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 970 420" role="img" aria-labelledby="title desc">`)
	put(`<title id="title">Answers per second of a run</title>`)
	put(`<desc id="desc">Each second of virtual time. Horizontal axis: seconds. Vertical axis: answers per second. ` +
		`Shown: limit of the gateway, which is 50, then 20, then 0 while it restarts, then 50; batchinfer, which follows it.</desc>`)
	svg.WriteString(rateStyle)
	put(`<rect width="100%%" height="100%%" class="page"/>`)
	put(`<text x="16" y="28" class="title">Answers per second of a run</text>`)
	put(`<text x="16" y="48" class="dim">The limit of the gateway falls to 20, and the gateway restarts. Each second of virtual time.</text>`)
	for rate := 0.0; rate <= most; rate += 20 {
		put(`<path d="M%d %.1fH%d" class="grid"/>`, left, y(rate), right)
		put(`<text x="%d" y="%.1f" text-anchor="end">%.0f</text>`, left-10, y(rate)+4.5, rate)
	}
	for at := 0.0; at <= seconds; at += 30 {
		put(`<path d="M%.1f %dV%d" class="grid"/>`, x(at), top, bottom+6)
		put(`<text x="%.1f" y="%d" text-anchor="middle">%.0f</text>`, x(at), bottom+20, at)
	}
	put(`<path d="M%d %dH%d" class="axis"/>`, left, bottom, right)
	put(`<text x="%d" y="%d" class="dim" text-anchor="middle">seconds</text>`, (left+right)/2, bottom+44)
	put(`<text class="dim" text-anchor="middle" transform="translate(24 %d) rotate(-90)">answers per second</text>`, (top+bottom)/2)
	put(`<path d="M%.1f %.1fH%.1fV%.1fH%.1fV%.1fH%.1fV%.1fH%d" class="limit"/>`,
		x(0), y(50), x(60), y(20), x(120), y(0), x(150), y(50), right)
	var line strings.Builder
	for i, s := range samples {
		fmt.Fprintf(&line, "%c%.1f %.1f", "ML"[min(i, 1)], x(s.Seconds), y(s.AnswersPerSecond))
	}
	put(`<path d="%s" class="rate"/>`, line.String())
	put(`<path d="M716 72H740" class="limit"/><text x="748" y="76.5">limit of the gateway</text>`)
	put(`<path d="M716 94H740" class="rate"/><text x="748" y="98.5" class="strong">batchinfer</text>`)
	put(`</svg>`)
	return svg.Bytes()
}

// No sample is drawn outside of the axes, and the chart can be read without seeing
// it and on a dark page.
func TestRateChart(t *testing.T) {
	svg := string(rateChart([]sample{{Seconds: 1, AnswersPerSecond: 5}, {Seconds: 100, AnswersPerSecond: 130}, {Seconds: 299, AnswersPerSecond: 1}}))
	for _, want := range []string{"<title ", "<desc ", "prefers-color-scheme: dark", ">answers per second</text>", ">140</text>", ">300</text>"} {
		if !strings.Contains(svg, want) {
			t.Errorf("got no %q in\n%s", want, svg)
		}
	}
	_, line, _ := strings.Cut(svg[:strings.Index(svg, `" class="rate"/>`)], `class="limit"/>`)
	for _, point := range strings.FieldsFunc(line[strings.Index(line, "M"):], func(r rune) bool { return r == 'M' || r == 'L' }) {
		var x, y float64
		if _, err := fmt.Sscan(point, &x, &y); err != nil || x < 130 || x > 700 || y < 64 || y > 364 {
			t.Errorf("got point %q, %v, want it within the axes", point, err)
		}
	}
}
