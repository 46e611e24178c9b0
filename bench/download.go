package main

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/httpretry/httpretry"
)

const (
	downloadSize = 1 << 30

	// downloads is the number of downloads in a run, of which the shortest time
	// counts.
	downloads = 5
)

// download returns a workload that reads a response of 1 GiB while its progress is
// watched. No other contender watches it.
func download() workload {
	return workload{
		name: downloadWork,
		about: "io.Copy of a response of 1 GiB from a server on loopback, with 32 KiB per Read; " + ownName +
			" with IdleTimeout and MinBytesPerSecond",
		metrics: []metric{nsPerOp},
		noPeers: true,
		gate:    func(contender) finding { return finding{} }, // each run checks the size
		open:    openDownload,
	}
}

func openDownload(x contender) (trial, func()) {
	srv := newServer(http.HandlerFunc(sendZeroes))
	base := network()
	var rt http.RoundTripper = base
	if x.name == ownName {
		rt = &httpretry.RetryTransport{Base: base, IdleTimeout: 30 * time.Second, MinBytesPerSecond: 1000}
	}
	run := func() (sample, error) {
		best := math.Inf(1)
		for range downloads {
			start := time.Now()
			if err := downloadOnce(rt, srv.URL); err != nil {
				return nil, err
			}
			best = min(best, float64(time.Since(start).Nanoseconds()))
		}
		return sample{nsPerOp: best}, nil
	}
	return run, func() {
		base.CloseIdleConnections()
		srv.stop()
	}
}

func downloadOnce(rt http.RoundTripper, url string) error {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	// io.Discard itself would read 8 KiB at a time.
	n, err := io.Copy(struct{ io.Writer }{io.Discard}, resp.Body)
	if err == nil && n != downloadSize {
		err = fmt.Errorf("downloads %d bytes", n)
	}
	return err
}

func sendZeroes(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", strconv.Itoa(downloadSize))
	piece := make([]byte, 1<<20)
	for range downloadSize / len(piece) {
		if _, err := w.Write(piece); err != nil {
			return
		}
	}
}
