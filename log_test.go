package httpretry_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/httpretry/httpretry"
)

// newLogger returns a logger without times, and the buffer that it writes to.
func newLogger(level slog.Level) (*slog.Logger, *bytes.Buffer) {
	buf := new(bytes.Buffer)
	return slog.New(slog.NewTextHandler(buf, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey && len(groups) == 0 {
			return slog.Attr{}
		}
		return a
	}})), buf
}

// lines returns the lines of buf.
func lines(buf *bytes.Buffer) []string {
	return slices.Collect(strings.Lines(buf.String()))
}

func TestLogAttempts_Records(t *testing.T) {
	boom := errors.New("boom")
	const (
		of      = ` method=GET url=http://example.com/v1/models `
		retry   = `level=INFO msg="attempt failed, retrying"` + of
		success = `level=INFO msg="succeeded after retries"` + of
		giveUp  = `level=WARN msg="attempt failed, not retrying"` + of
		other   = `level=DEBUG msg="attempt ended"` + of
	)
	tests := []struct {
		name   string
		method string
		script []any
		want   []string
	}{
		{"success", "GET", []any{200}, []string{
			other + "attempt=1 status=200\n",
		}},
		{"final failure", "GET", []any{404}, []string{
			other + "attempt=1 status=404 reason=final\n",
		}},
		{"success after retries", "GET", []any{503, boom, 204}, []string{
			retry + "attempt=1 status=503 delay=1s\n",
			retry + "attempt=2 error=boom delay=2s\n",
			success + "attempt=3 status=204\n",
		}},
		{"final failure after a retry", "GET", []any{503, 404}, []string{
			retry + "attempt=1 status=503 delay=1s\n",
			other + "attempt=2 status=404 reason=final\n",
		}},
		{"retries run out", "GET", []any{503, boom, 500}, []string{
			retry + "attempt=1 status=503 delay=1s\n",
			retry + "attempt=2 error=boom delay=2s\n",
			giveUp + "attempt=3 status=500 reason=policy\n",
		}},
		{"not idempotent", "POST", []any{boom}, []string{
			strings.ReplaceAll(giveUp, "GET", "POST") + "attempt=1 error=boom reason=not_idempotent\n",
		}},
		{"no method", "", []any{200}, []string{
			other + "attempt=1 status=200\n",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				logger, buf := newLogger(slog.LevelDebug)
				rt := &httpretry.RetryTransport{Base: scripted(0, tt.script...), OnAttempt: httpretry.LogAttempts(logger)}
				rt.Policy = httpretry.RetryConfig{MaxRetries: 2, JitterFraction: -1}
				req := newRequest(t, "GET", "http://example.com/v1/models", nil)
				req.Method = tt.method
				if resp, err := rt.RoundTrip(req); err == nil {
					readAll(t, resp)
				}
				if diff := cmp.Diff(tt.want, lines(buf)); diff != "" {
					t.Errorf("log (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// The reason for which there is no retry is in the record.
func TestLogAttempts_Reasons(t *testing.T) {
	for _, reason := range orderedReasons {
		synctest.Test(t, func(t *testing.T) {
			logger, buf := newLogger(slog.LevelDebug)
			onErrorReason(t, reason, httpretry.LogAttempts(logger))
			got := lines(buf)
			records := 2
			if reason == "not_replayable" {
				records = 3 // GetBody fails after the second wait
			}
			if len(got) != records || !strings.Contains(got[len(got)-1], "reason="+string(reason)+"\n") {
				t.Errorf("got %q, want %d records, the last with the reason %q", got, records, reason)
			}
		})
	}
}

func TestLogAttempts_WithholdsSecrets(t *testing.T) {
	for name, inner := range secretErrors {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				logger, buf := newLogger(slog.LevelDebug)
				req := newRequest(t, "GET", secretURL, nil)
				req.Header.Set("Authorization", "Bearer header-secret")
				req.Header.Set("Cookie", "a=header-secret")
				header := headerOf("Set-Cookie", "b=header-secret", "Location", secretURL)
				rt := &httpretry.RetryTransport{OnAttempt: httpretry.LogAttempts(logger), Base: roundTripFunc(
					func(req *http.Request) (*http.Response, error) {
						if httpretry.AttemptNumber(req.Context()) == 2 {
							return nil, inner
						}
						return busy(http.StatusServiceUnavailable, header)(req)
					})}
				resp, err := rt.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				readAll(t, resp)
				got := lines(buf)
				if len(got) != 4 {
					t.Errorf("got %d records, want 4", len(got))
				}
				for _, line := range got {
					wantNoSecret(t, name, line)
					if !strings.Contains(line, "url=https://example.com/v1/models ") {
						t.Errorf("got %q, want the URL's host and path in it", line)
					}
				}
			})
		})
	}
}

// A decision against a wait shows how long the wait would have been.
func TestLogAttempts_WaitThatIsTooLong(t *testing.T) {
	logger, buf := newLogger(slog.LevelDebug)
	a := httpretry.Attempt{Request: newRequest(t, "GET", "http://example.com/", nil), Number: 2,
		Response: &http.Response{StatusCode: 429}, Verdict: httpretry.Verdict{Outcome: httpretry.Unprocessed}}
	httpretry.LogAttempts(logger)(a, httpretry.Decision{Delay: time.Hour, Reason: "deadline"})
	want := []string{"level=WARN msg=\"attempt failed, not retrying\" method=GET url=http://example.com/ attempt=2 status=429 delay=1h0m0s reason=deadline\n"}
	if diff := cmp.Diff(want, lines(buf)); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

// A retry that fails because the body cannot be sent again is final, but worth
// a warning with its cause: only the caller can fix it.
func TestLogAttempts_WarnsOfABodyThatCannotBeReplayed(t *testing.T) {
	logger, buf := newLogger(slog.LevelInfo)
	a := httpretry.Attempt{Request: newRequest(t, "POST", "http://example.com/", nil), Number: 2, Err: errors.New("GetBody: file removed")}
	httpretry.LogAttempts(logger)(a, httpretry.Decision{Reason: "not_replayable"})
	want := []string{"level=WARN msg=\"attempt failed, not retrying\" method=POST url=http://example.com/ attempt=2 error=\"GetBody: file removed\" reason=not_replayable\n"}
	if diff := cmp.Diff(want, lines(buf)); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

// A response that the Classifier takes for a failure is not logged as a success.
func TestLogAttempts_FailureWithStatus200(t *testing.T) {
	logger, buf := newLogger(slog.LevelInfo)
	a := httpretry.Attempt{Request: newRequest(t, "GET", "http://example.com/", nil), Number: 3,
		Response: &http.Response{StatusCode: 200}, Verdict: httpretry.Verdict{Outcome: httpretry.Uncertain}}
	httpretry.LogAttempts(logger)(a, httpretry.Decision{Reason: "policy"})
	want := []string{"level=WARN msg=\"attempt failed, not retrying\" method=GET url=http://example.com/ attempt=3 status=200 reason=policy\n"}
	if diff := cmp.Diff(want, lines(buf)); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

// A disabled level produces no record.
func TestLogAttempts_Levels(t *testing.T) {
	const retry, giveUp = "attempt failed, retrying", "attempt failed, not retrying"
	tests := []struct {
		level slog.Level
		want  []string
	}{
		{slog.LevelDebug, []string{retry, giveUp}},
		{slog.LevelInfo, []string{retry, giveUp}},
		{slog.LevelWarn, []string{giveUp}},
		{slog.LevelError, nil},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			logger, buf := newLogger(tt.level)
			rt := &httpretry.RetryTransport{Base: statuses(503), Policy: httpretry.RetryConfig{MaxRetries: 1}, OnAttempt: httpretry.LogAttempts(logger)}
			resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
			if err != nil {
				t.Fatal(err)
			}
			readAll(t, resp)
			got := lines(buf)
			if len(got) != len(tt.want) {
				t.Fatalf("at %v: got %q, want %d records", tt.level, got, len(tt.want))
			}
			for i, line := range got {
				if !strings.Contains(line, tt.want[i]) {
					t.Errorf("at %v: got %q, want %q in it", tt.level, line, tt.want[i])
				}
			}
		})
	}
}

func TestLogAttempts_DisabledLevelAllocatesNothing(t *testing.T) {
	logger, _ := newLogger(slog.LevelError)
	onAttempt := httpretry.LogAttempts(logger)
	a := httpretry.Attempt{Request: newRequest(t, "GET", "http://example.com/", nil), Number: 1, Err: io.EOF}
	allocs := testing.AllocsPerRun(100, func() { onAttempt(a, httpretry.Decision{Retry: true, Delay: time.Second}) })
	if allocs != 0 {
		t.Errorf("got %v allocations for a disabled record, want none", allocs)
	}
}

// keepDefault restores the default logger at the end of the test.
func keepDefault(t *testing.T) {
	old, flags, out := slog.Default(), log.Flags(), log.Writer()
	t.Cleanup(func() {
		slog.SetDefault(old)
		log.SetFlags(flags)
		log.SetOutput(out)
	})
}

// The default logger may be set after LogAttempts was called.
func TestLogAttempts_NilLogger(t *testing.T) {
	keepDefault(t)
	onAttempt := httpretry.LogAttempts(nil)
	a := httpretry.Attempt{Request: newRequest(t, "GET", "http://example.com/", nil), Number: 1, Err: io.EOF,
		Verdict: httpretry.Verdict{Outcome: httpretry.Uncertain}}
	for range 2 {
		logger, buf := newLogger(slog.LevelDebug)
		slog.SetDefault(logger)
		onAttempt(a, httpretry.Decision{Retry: true, Delay: time.Second})
		want := []string{"level=INFO msg=\"attempt failed, retrying\" method=GET url=http://example.com/ attempt=1 error=EOF delay=1s\n"}
		if diff := cmp.Diff(want, lines(buf)); diff != "" {
			t.Errorf("log of the default logger (-want +got):\n%s", diff)
		}
	}
}

// contextHandler records the context of each record.
type contextHandler struct {
	slog.Handler
	got *[]context.Context
}

func (h contextHandler) Handle(ctx context.Context, _ slog.Record) error {
	*h.got = append(*h.got, ctx)
	return nil
}

// A handler finds trace ids in the request's context.
func TestLogAttempts_UsesTheRequestsContext(t *testing.T) {
	var got []context.Context
	logger := slog.New(contextHandler{slog.NewTextHandler(io.Discard, nil), &got})
	req := newRequest(t, "GET", "http://example.com/", nil)
	rt := &httpretry.RetryTransport{Base: scripted(0, 503, 200), Policy: now, OnAttempt: httpretry.LogAttempts(logger)}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, resp)
	if want := []context.Context{req.Context(), req.Context()}; !slices.Equal(got, want) {
		t.Errorf("got records with the contexts %v, want the caller's request's", got)
	}
}

// Handlers may depend on the kinds of the attributes.
func TestLogAttempts_AttributeKinds(t *testing.T) {
	tests := []struct {
		attempt  httpretry.Attempt
		decision httpretry.Decision
		want     map[string]slog.Kind
	}{
		{httpretry.Attempt{Err: io.EOF}, httpretry.Decision{Reason: "policy"},
			map[string]slog.Kind{"method": slog.KindString, "url": slog.KindString, "attempt": slog.KindInt64, "error": slog.KindString, "reason": slog.KindString}},
		{httpretry.Attempt{Response: &http.Response{StatusCode: 503}}, httpretry.Decision{Retry: true, Delay: time.Second},
			map[string]slog.Kind{"method": slog.KindString, "url": slog.KindString, "attempt": slog.KindInt64, "status": slog.KindInt64, "delay": slog.KindDuration}},
	}
	for _, tt := range tests {
		got := map[string]slog.Kind{}
		logger := slog.New(kindHandler{slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelDebug}), got})
		tt.attempt.Request = &http.Request{URL: &url.URL{Scheme: "http", Host: "example.com"}}
		httpretry.LogAttempts(logger)(tt.attempt, tt.decision)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("kinds of attributes (-want +got):\n%s", diff)
		}
	}
}

// kindHandler records the kind of each attribute.
type kindHandler struct {
	slog.Handler
	got map[string]slog.Kind
}

func (h kindHandler) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		h.got[a.Key] = a.Value.Kind()
		return true
	})
	return nil
}
