package main

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// A run uses no more tokens a minute than -tpm allows, and nearly as many.
func TestRun_TokensPerMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := defaultConfig()
		cfg.maxTokensPerMinute = 60_000
		start := time.Now()
		b, _, err := runVirtual(t, 6000, cfg, virtualGateway(func(*http.Request) (int, string, string) {
			time.Sleep(time.Second)
			return 200, "", `{"choices":[{"text":"x"}],"usage":{"total_tokens":100}}`
		}))
		if err != nil || b.summary.answered != 6000 {
			t.Fatalf("got %d answered, %v", b.summary.answered, err)
		}
		if took := time.Since(start); took < 585*time.Second || took > 630*time.Second {
			t.Errorf("600 000 tokens at 60 000 a minute took %v, want about 10 minutes", took)
		}
	})
}

// A run sends no more requests a second than -rps allows, and nearly as many.
func TestRun_RequestsPerSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := defaultConfig()
		cfg.maxPerSecond = 20
		start := time.Now()
		b, _, err := runVirtual(t, 1200, cfg, virtualGateway(func(*http.Request) (int, string, string) { return 200, "", answered }))
		if took := time.Since(start); err != nil || b.summary.answered != 1200 || took < 59*time.Second || took > 63*time.Second {
			t.Errorf("got %d answered in %v, %v, want 1200 in a minute", b.summary.answered, took, err)
		}
	})
}
