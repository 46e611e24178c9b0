package main

import (
	"bytes"
	"flag"
	"fmt"
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

// rateChart returns a chart of the answers per second over time.
func rateChart(samples []sample) []byte {
	const width, height, left, top, perSecond, most = 720, 240, 50, 30, 2.8, 60.0
	x := func(seconds float64) float64 { return left + seconds*perSecond }
	y := func(rate float64) float64 { return height - 40 - rate/most*(height-40-top) }
	var svg bytes.Buffer
	fmt.Fprintf(&svg, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&svg, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	for rate := 0.0; rate <= most; rate += 20 {
		fmt.Fprintf(&svg, `<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%.0f</text>`+"\n", left, y(rate), width-10, left-6, y(rate)+4, rate)
	}
	for s := 0.0; x(s) < width-20; s += 30 {
		fmt.Fprintf(&svg, `<text x="%.1f" y="%d" text-anchor="middle">%.0f</text>`+"\n", x(s), height-22, s)
	}
	fmt.Fprintf(&svg, `<text x="%d" y="%d">seconds</text><text x="%d" y="18">answers a second; the grey line is the limit of the gateway</text>`+"\n", width/2, height-6, left)
	fmt.Fprintf(&svg, `<path d="M%.1f %.1fH%.1fV%.1fH%.1fV%.1fH%.1fV%.1fH%d" fill="none" stroke="#999" stroke-width="4" stroke-opacity="0.5"/>`+"\n",
		x(0), y(50), x(60), y(20), x(120), y(0), x(150), y(50), width-20)
	var points []string
	for _, s := range samples {
		points = append(points, fmt.Sprintf("%.1f,%.1f", x(s.Seconds), y(s.AnswersPerSecond)))
	}
	fmt.Fprintf(&svg, `<polyline points="%s" fill="none" stroke="#0a58ca" stroke-width="1.5"/>`+"\n</svg>\n", strings.Join(points, " "))
	return svg.Bytes()
}
