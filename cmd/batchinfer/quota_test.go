package main

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry/failover"
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

// With -tpm, a run waits for the reset of the gateway's own limit of tokens, although the
// answers tell no usage.
func TestRun_TokensPerMinuteOfTheGateway(t *testing.T) {
	for _, tt := range []struct {
		name, remaining, reset string
		least, most            time.Duration
	}{
		{"exhausted", "0", "60s", 60 * time.Second, 65 * time.Second},
		{"not exhausted", "9", "60s", 0, 5 * time.Second},
		{"too long", "0", "61m", 0, 5 * time.Second},
		{"malformed", "0", "soon", 0, 5 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := defaultConfig()
				cfg.maxTokensPerMinute = 60_000
				start := time.Now()
				gateway := virtualGateway(func(*http.Request) (int, string, string) { return 200, "", answered })
				b, _, err := runVirtual(t, 100, cfg, roundTripFunc(func(req *http.Request) (*http.Response, error) {
					resp, err := gateway.RoundTrip(req)
					if err == nil && time.Since(start) < time.Second {
						resp.Header.Set("X-Ratelimit-Remaining-Tokens", tt.remaining)
						resp.Header.Set("X-Ratelimit-Reset-Tokens", tt.reset)
					}
					return resp, err
				}))
				if took := time.Since(start); err != nil || b.summary.answered != 100 || took < tt.least || took > tt.most {
					t.Errorf("got %d answered, %v after %v, want 100 after %v to %v", b.summary.answered, err, took, tt.least, tt.most)
				}
			})
		})
	}
}

// A run sends no more requests a second than -rps allows, and nearly as many.
func TestRun_RequestsPerSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := defaultConfig()
		cfg.maxPerSecond = 20
		for _, cfg.gateways = range [][]failover.Endpoint{nil, {{URL: "http://a"}, {URL: "http://b"}}} {
			start := time.Now()
			b, _, err := runVirtual(t, 1200, cfg, virtualGateway(func(*http.Request) (int, string, string) { return 200, "", answered }))
			if took := time.Since(start); err != nil || b.summary.answered != 1200 || took < 59*time.Second || took > 63*time.Second {
				t.Errorf("%d gateways: got %d answered in %v, %v, want 1200 in a minute", len(cfg.gateways), b.summary.answered, took, err)
			}
		}
	})
}
