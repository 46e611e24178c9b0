package main

import (
	"net/http"
	"testing"

	"github.com/httpretry/httpretry"
)

// BenchmarkPacer measures a GET that never failed, without a network. An
// AdaptivePacer adds to it at most 60 ns and no allocation.
//
//	go -C bench test -run '^$' -bench Pacer -count 10 .
func BenchmarkPacer(b *testing.B) {
	resp := &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}
	for _, pacer := range []struct {
		name string
		httpretry.Pacer
	}{{"unpaced", nil}, {"paced", new(httpretry.AdaptivePacer)}} {
		transport := &httpretry.RetryTransport{Base: constant{resp}, Pacer: pacer.Pacer}
		get := func(b *testing.B) func() {
			req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "http://server.example/", nil)
			if err != nil {
				b.Fatal(err)
			}
			resp.Request = req // so that the transport need not set it
			return func() {
				if _, err := transport.RoundTrip(req); err != nil {
					b.Error(err)
				}
			}
		}
		b.Run("single/"+pacer.name, func(b *testing.B) {
			call := get(b)
			b.ReportAllocs()
			for b.Loop() {
				call()
			}
		})
		b.Run("parallel/"+pacer.name, func(b *testing.B) {
			call := get(b)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					call()
				}
			})
		})
	}
}

// A constant is a Base that always returns the same response.
type constant struct{ resp *http.Response }

func (c constant) RoundTrip(*http.Request) (*http.Response, error) { return c.resp, nil }
