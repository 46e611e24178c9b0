package inference_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/flaky"
	"github.com/httpretry/httpretry/inference"
)

// newLogger writes lines without the time to the buffer.
func newLogger(b *bytes.Buffer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}

func TestLog(t *testing.T) {
	const retrying = `level=DEBUG+1 msg="inference attempt failed, retrying" `
	retry := func(attempt, delay, category string) string {
		return `request_id=request-1 delay=` + delay + ` attempt=` + attempt + ` max=3 category=` + category
	}
	refused := func(status, retry string) string { return retrying + "status=" + status + " " + retry }
	failed := func(retry string) string { return retrying + retry }
	const success = `level=DEBUG+1 msg="inference request succeeded after retries" request_id=request-1 attempt=`
	for _, tc := range []struct {
		name  string
		level slog.Level
		steps []flaky.Step
		want  []string
	}{
		{"first attempt succeeds", -3, []flaky.Step{ok()}, nil},
		{"first attempt fails for good", -3, []flaky.Step{flaky.Status(401)}, nil},
		{
			"success after retries", -3,
			[]flaky.Step{flaky.Status(429), flaky.Status(500), flaky.Reset(), ok()},
			[]string{
				refused("429", retry("1", "1s", "RATE_LIMIT")), refused("500", retry("2", "2s", "SERVER_ERROR")),
				failed(retry("3", "4s", "SERVER_ERROR")), success + "3 max=3",
			},
		},
		{
			"truncated and hanging", -3,
			[]flaky.Step{ok().Truncate(9), flaky.Hang(), ok()},
			[]string{failed(retry("1", "1s", "SERVER_ERROR")), failed(retry("2", "2s", "SERVER_ERROR")), success + "2 max=3"},
		},
		{
			"failure after retries", -3,
			[]flaky.Step{flaky.Status(503), flaky.Status(400)},
			[]string{refused("503", retry("1", "1s", "SERVER_ERROR"))},
		},
		{
			"truncated to the end", -3,
			[]flaky.Step{ok().Truncate(9), ok().Truncate(9), ok().Truncate(9), ok().Truncate(9)},
			[]string{failed(retry("1", "1s", "SERVER_ERROR")), failed(retry("2", "2s", "SERVER_ERROR")), failed(retry("3", "4s", "SERVER_ERROR"))},
		},
		{"quiet at the level above", -2, []flaky.Step{flaky.Status(503), ok()}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				heard := 0
				client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
					BaseURL: "http://me:password@gateway.test/?token=hidden", APIKey: "sk-1234", MaxRetries: 3,
					JitterFraction: noJitter, Timeout: 10 * time.Second,
					Transport: flaky.New(tc.steps...).Transport(nil),
					Logger:    newLogger(&log, tc.level),
					OnAttempt: func(httpretry.Attempt, httpretry.Decision) { heard++ },
				})
				client.Generate(t.Context(), question())
				var got []string
				for line := range strings.Lines(log.String()) {
					got = append(got, strings.TrimSpace(line))
				}
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("log lines (-want +got):\n%s", diff)
				}
				if heard != len(tc.steps) {
					t.Errorf("OnAttempt was called %d times, want %d: logging must not replace it", heard, len(tc.steps))
				}
			})
		})
	}
}
