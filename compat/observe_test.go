package compat_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/flaky"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	semconv "go.opentelemetry.io/otel/semconv/v1.40.0"
	"go.opentelemetry.io/otel/trace"
	"k8s.io/klog/v2"
)

// A notRetried is an attempt that is not followed by another.
type notRetried struct {
	reason string
	meets  []flaky.Step

	// prepare sets up the request and the transport so that the reason applies.
	prepare func(*httpretry.RetryTransport, *http.Request) *http.Request

	// remedy makes the call succeed. It is nil if there is none, or if only time
	// helps.
	remedy func(*httpretry.RetryTransport, *http.Request) *http.Request
}

var notRetriedFor = []notRetried{
	{"canceled", []flaky.Step{flaky.Status(503)}, cancelCall, nil},
	{"final", []flaky.Step{flaky.Status(404)}, unchanged, retryNotFound},
	{"not_idempotent", []flaky.Step{flaky.Status(502)}, asPost("an order"), setIdempotencyKey},
	{"not_replayable", []flaky.Step{flaky.Status(503)}, asPost(strings.Repeat("an order ", 1<<18)), bufferMore},
	{"policy", []flaky.Step{flaky.Status(503), flaky.Status(503)}, retryOnce, retryMore},
	{"deadline", []flaky.Step{flaky.Status(503).WithHeader("Retry-After", "30")}, withDeadline, nil},
	{"budget", []flaky.Step{flaky.Status(503)}, exhaustBudget, nil},
}

func unchanged(_ *httpretry.RetryTransport, req *http.Request) *http.Request { return req }

func cancelCall(retry *httpretry.RetryTransport, req *http.Request) *http.Request {
	ctx, cancel := context.WithCancel(req.Context())
	base := retry.Base
	retry.Base = roundTripFunc(func(req *http.Request) (*http.Response, error) {
		resp, err := base.RoundTrip(req)
		cancel()
		return resp, err
	})
	return req.WithContext(ctx)
}

func asPost(body string) func(*httpretry.RetryTransport, *http.Request) *http.Request {
	return func(_ *httpretry.RetryTransport, req *http.Request) *http.Request {
		req.Method = http.MethodPost
		req.Body = io.NopCloser(strings.NewReader(body))
		return req
	}
}

func retryNotFound(retry *httpretry.RetryTransport, req *http.Request) *http.Request {
	retry.Classifier = func(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
		if resp != nil && resp.StatusCode == http.StatusNotFound {
			return httpretry.Verdict{Outcome: httpretry.Uncertain} // a replica lags behind
		}
		return httpretry.DefaultClassifier(req, resp, err)
	}
	return req
}

func setIdempotencyKey(_ *httpretry.RetryTransport, req *http.Request) *http.Request {
	req.Header.Set("Idempotency-Key", rand.Text())
	return req
}

func bufferMore(retry *httpretry.RetryTransport, req *http.Request) *http.Request {
	retry.MaxReplayBytes = 16 << 20
	return req
}

func retryOnce(retry *httpretry.RetryTransport, req *http.Request) *http.Request {
	retry.Policy = httpretry.RetryConfig{MaxRetries: 1, InitialBackoff: time.Millisecond}
	return req
}

func retryMore(_ *httpretry.RetryTransport, req *http.Request) *http.Request {
	patient := httpretry.RetryConfig{MaxRetries: 8, InitialBackoff: 10 * time.Millisecond}
	req = req.WithContext(httpretry.Override(req.Context(), func(t *httpretry.RetryTransport) { t.Policy = patient }))
	return req
}

func withDeadline(_ *httpretry.RetryTransport, req *http.Request) *http.Request {
	ctx, cancel := context.WithTimeout(req.Context(), 10*time.Second)
	context.AfterFunc(req.Context(), cancel)
	return req.WithContext(ctx)
}

func exhaustBudget(retry *httpretry.RetryTransport, req *http.Request) *http.Request {
	budget := &httpretry.TokenBudget{Ratio: -1, MinPerSecond: -1, Burst: 1}
	budget.Withdraw(httpretry.Attempt{Request: req})
	retry.Budget = budget
	return req
}

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// Each reason is listed at Decision.Reason, and has a section on the page and a test.
func TestReasons_AreAllExplained(t *testing.T) {
	page, err := os.ReadFile("../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	reasons, list := declaredReasons(t)
	for _, reason := range reasons {
		if !strings.Contains(list, strconv.Quote(reason)+": ") {
			t.Errorf("the comment of Decision.Reason does not list %q", reason)
		}
		if !strings.Contains(string(page), "\n### "+reason+"\n") {
			t.Errorf("docs/observability.md: got no section %q", reason)
		}
		if !slices.ContainsFunc(notRetriedFor, func(n notRetried) bool { return n.reason == reason }) {
			t.Errorf("got no test of the section %q", reason)
		}
	}
	if listed := strings.Count(list, "\": "); len(reasons) == 0 || len(reasons) != listed {
		t.Errorf("got %d reasons, and %d in the comment of Decision.Reason", len(reasons), listed)
	}
}

// declaredReasons returns the values of the constants that are reasons, and the comment
// of Decision.Reason.
func declaredReasons(t *testing.T) (reasons []string, list string) {
	file, err := parser.ParseFile(token.NewFileSet(), "../attempt.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ValueSpec:
			for i, name := range n.Names {
				if !strings.HasPrefix(name.Name, "reason") {
					continue
				}
				value, err := strconv.Unquote(n.Values[i].(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				reasons = append(reasons, value)
			}
		case *ast.TypeSpec:
			if n.Name.Name != "Decision" {
				return false
			}
			for _, field := range n.Type.(*ast.StructType).Fields.List {
				if field.Names[0].Name == "Reason" {
					list = field.Doc.Text()
				}
			}
		}
		return true
	})
	return reasons, list
}

// The log of a failure that is not retried is the one that the page shows, and
// the remedy of the page helps.
func TestReasons(t *testing.T) {
	page, err := os.ReadFile("../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range notRetriedFor {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			last, log := tt.run(t, nil)
			if last.Retry || last.Reason != tt.reason {
				t.Errorf("got reason %q, want %q", last.Reason, tt.reason)
			}
			if lines := strings.Split(strings.TrimSpace(log), "\n"); !strings.Contains(string(page), lines[len(lines)-1]) {
				t.Errorf("docs/observability.md does not show what is logged:\n%s", lines[len(lines)-1])
			}
			if tt.remedy == nil {
				return
			}
			if _, log := tt.run(t, tt.remedy); !strings.Contains(log, "succeeded after retries") {
				t.Errorf("got %s, want the remedy to help", log)
			}
		})
	}
}

// run makes the call and returns the last decision and what was logged.
func (n notRetried) run(t *testing.T, remedy func(*httpretry.RetryTransport, *http.Request) *http.Request) (httpretry.Decision, string) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://api.example.com/orders?token=secret", nil)
	if err != nil {
		t.Fatal(err)
	}
	retry := &httpretry.RetryTransport{
		Base:   flaky.New(n.meets...).Transport(nil),
		Policy: httpretry.RetryConfig{MaxRetries: 3, InitialBackoff: time.Millisecond, Jitter: httpretry.NoJitter},
	}
	req = n.prepare(retry, req)
	if remedy != nil {
		req = remedy(retry, req)
	}
	var log bytes.Buffer
	var last httpretry.Decision
	logAttempts := httpretry.LogAttempts(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	})))
	retry.OnAttempt = func(a httpretry.Attempt, d httpretry.Decision) {
		last = d
		logAttempts(a, d)
	}
	resp, err := retry.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return last, log.String()
}

func logToSlog() *httpretry.RetryTransport {
	retry := &httpretry.RetryTransport{OnAttempt: httpretry.LogAttempts(slog.Default())}
	return retry
}

func logToKlog(retry *httpretry.RetryTransport) {
	retry.OnAttempt = httpretry.LogAttempts(slog.New(logr.ToSlogHandler(klog.Background())))
}

func logToLogr(logger logr.Logger, retry *httpretry.RetryTransport) {
	retry.OnAttempt = httpretry.LogAttempts(slog.New(logr.ToSlogHandler(logger.WithName("http"))))
}

// Records of LogAttempts reach klog and any logr.Logger. Those below Info have
// the verbosity of the same number.
func TestLogBridges(t *testing.T) {
	var klogged bytes.Buffer
	klog.LogToStderr(false)
	klog.SetOutput(&klogged)
	defer klog.LogToStderr(true)

	var logged strings.Builder
	logger := funcr.New(func(prefix, args string) { fmt.Fprintln(&logged, prefix, args) }, funcr.Options{Verbosity: 4})

	retry := logToSlog()
	retry.Policy = httpretry.RetryConfig{MaxRetries: 1, InitialBackoff: time.Millisecond}
	for _, bridge := range []func(){func() { logToKlog(retry) }, func() { logToLogr(logger, retry) }} {
		bridge()
		retry.Base = flaky.New(flaky.Status(503)).Transport(nil)
		for range 2 {
			if _, err := get(t.Context(), retry, "https://api.example.com/orders"); err != nil {
				t.Fatal(err)
			}
		}
	}
	klog.Flush()
	tests := []struct{ name, log, want string }{
		{"klog", klogged.String(), `"attempt failed, retrying" method="GET" url="https://api.example.com/orders" attempt=1 status=503`},
		{"klog", klogged.String(), `"succeeded after retries" method="GET" url="https://api.example.com/orders" attempt=2 status=200`},
		{"logr", logged.String(), `http "level"=0 "msg"="succeeded after retries" "method"="GET"`},
		{"logr at V(4)", logged.String(), `http "level"=4 "msg"="attempt ended" "method"="GET"`},
	}
	for _, tt := range tests {
		if !strings.Contains(tt.log, tt.want) {
			t.Errorf("%s: got\n%s\nwant a line with %s", tt.name, tt.log, tt.want)
		}
	}
	if strings.Contains(klogged.String(), "attempt ended") {
		t.Errorf("got\n%s\nwant nothing of V(4) at klog's default verbosity", klogged.String())
	}
}

// resendCount sets the number of the retry on the span of each attempt.
type resendCount struct{ http.RoundTripper }

func (r resendCount) RoundTrip(req *http.Request) (*http.Response, error) {
	if n := httpretry.AttemptNumber(req.Context()); n > 1 {
		trace.SpanFromContext(req.Context()).SetAttributes(semconv.HTTPRequestResendCount(n - 1))
	}
	return r.RoundTripper.RoundTrip(req)
}

// traced returns a transport with a span for each call and a child span for
// each attempt.
func traced(base http.RoundTripper, retry *httpretry.RetryTransport, traces trace.TracerProvider) http.RoundTripper {
	retry.Base = otelhttp.NewTransport(resendCount{base}, otelhttp.WithTracerProvider(traces))
	return otelhttp.NewTransport(retry, otelhttp.WithTracerProvider(traces))
}

func TestOtelSpans(t *testing.T) {
	t.Parallel()
	s := serve(t, failures{1: reset, 2: down}, respond("text/plain", "hello"))
	spans := tracetest.NewSpanRecorder()
	traces := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	defer traces.Shutdown(context.Background())
	if _, err := get(t.Context(), traced(s.transport, s.retry(), traces), s.url); err != nil {
		t.Fatal(err)
	}
	s.check(t, 1)
	ended := spans.Ended()
	if len(ended) != 4 {
		t.Fatalf("got %d spans, want 4: three attempts and the call", len(ended))
	}
	call := ended[3]
	var got []string
	for _, attempt := range ended[:3] {
		if attempt.Parent().SpanID() != call.SpanContext().SpanID() {
			t.Errorf("got an attempt outside the span of its call")
		}
		got = append(got, attributeOf(attempt, "http.request.resend_count")+"/"+attributeOf(attempt, "http.response.status_code"))
	}
	if want := []string{"/", "1/503", "2/200"}; !slices.Equal(got, want) {
		t.Errorf("got resend counts and statuses %q, want %q", got, want)
	}
	if got := attributeOf(call, "http.response.status_code"); got != "200" {
		t.Errorf("got status %q in the span of the call, want 200", got)
	}
}

// attributeOf returns the value of an attribute as text, "" if there is none.
func attributeOf(span sdktrace.ReadOnlySpan, key attribute.Key) string {
	for _, a := range span.Attributes() {
		if a.Key == key {
			return a.Value.String()
		}
	}
	return ""
}

// otelMetrics makes the transport record four metrics.
func otelMetrics(retry *httpretry.RetryTransport, meter metric.Meter) error {
	retries, err1 := meter.Int64Counter("http.client.retries", metric.WithUnit("{retry}"))
	givenUp, err2 := meter.Int64Counter("http.client.given_up", metric.WithUnit("{request}"))
	waited, err3 := meter.Float64Histogram("http.client.wait.duration", metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300))
	attempts, err4 := meter.Int64Histogram("http.client.request.attempts", metric.WithUnit("{attempt}"),
		metric.WithExplicitBucketBoundaries(1, 2, 3, 4, 5, 8))
	retry.OnAttempt = func(a httpretry.Attempt, d httpretry.Decision) {
		ctx, host := a.Request.Context(), semconv.ServerAddress(a.Request.URL.Hostname())
		if a.Delay > 0 {
			waited.Record(ctx, a.Delay.Seconds(), metric.WithAttributes(host))
		}
		if d.Retry {
			retries.Add(ctx, 1, metric.WithAttributes(host, semconv.ErrorTypeKey.String(errorType(a))))
		}
	}
	retry.OnDone = func(s httpretry.Summary) {
		ctx, host := s.Request.Context(), semconv.ServerAddress(s.Request.URL.Hostname())
		attempts.Record(ctx, int64(s.Attempts), metric.WithAttributes(host))
		if s.Reason != "final" {
			givenUp.Add(ctx, 1, metric.WithAttributes(host, attribute.String("httpretry.reason", s.Reason)))
		}
	}
	return errors.Join(err1, err2, err3, err4)
}

// errorType returns why an attempt is retried. It has few values.
func errorType(a httpretry.Attempt) string {
	timeout, ok := errors.AsType[net.Error](a.Err)
	switch {
	case ok && timeout.Timeout():
		return "timeout"
	case a.Err != nil:
		return semconv.ErrorTypeOther.Value.AsString()
	}
	return strconv.Itoa(a.Response.StatusCode)
}

// promMetrics makes the transport record the same metrics for Prometheus.
func promMetrics(retry *httpretry.RetryTransport, reg prometheus.Registerer) {
	retries := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "http_client_retries_total", Help: "Retries."}, []string{"server_address", "error_type"})
	givenUp := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "http_client_given_up_total", Help: "Calls that ended without a final result."},
		[]string{"server_address", "httpretry_reason"})
	waited := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "http_client_wait_duration_seconds", Help: "Wait before an attempt, for a retry or for the Pacer.",
		Buckets: []float64{0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300}}, []string{"server_address"})
	attempts := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "http_client_request_attempts", Help: "Attempts of a call.", Buckets: []float64{1, 2, 3, 4, 5, 8}},
		[]string{"server_address"})
	reg.MustRegister(retries, givenUp, waited, attempts)
	retry.OnAttempt = func(a httpretry.Attempt, d httpretry.Decision) {
		host := a.Request.URL.Hostname()
		if a.Delay > 0 {
			waited.WithLabelValues(host).Observe(a.Delay.Seconds())
		}
		if d.Retry {
			retries.WithLabelValues(host, errorType(a)).Inc()
		}
	}
	retry.OnDone = func(s httpretry.Summary) {
		host := s.Request.URL.Hostname()
		attempts.WithLabelValues(host).Observe(float64(s.Attempts))
		if s.Reason != "final" {
			givenUp.WithLabelValues(host, s.Reason).Inc()
		}
	}
}

// measure makes four calls with a measured transport: one meets a 503 and a
// refused connection and succeeds, one is a POST that ends with its first 502, one
// is canceled while it waits, and one is a download that is resumed.
func measure(t *testing.T, retry *httpretry.RetryTransport) {
	t.Helper()
	file := flaky.Status(200).WithHeader("ETag", `"v1"`).WithBody("0123456789").Truncate(5)
	rest := flaky.Status(206).WithHeader("ETag", `"v1"`).WithHeader("Content-Range", "bytes 5-9/10").WithBody("56789")
	retry.Base = flaky.New(flaky.Status(503), flaky.Refuse(), flaky.Pass(), flaky.Status(502), flaky.Status(503), file, rest).Transport(nil)
	retry.ResumeDownloads = true
	retry.Policy = httpretry.RetryConfig{InitialBackoff: time.Second, BackoffFactor: 1, Jitter: httpretry.NoJitter}
	synctest.Test(t, func(t *testing.T) {
		if _, err := get(t.Context(), retry, "https://api.example.com/orders"); err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: retry}
		resp, err := client.Post("https://api.example.com/orders", "text/plain", strings.NewReader("an order"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(500*time.Millisecond, cancel)
		if _, err := get(ctx, retry, "https://api.example.com/orders"); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want the call to be canceled", err)
		}
		if body, err := get(t.Context(), retry, "https://api.example.com/orders"); err != nil || body != "0123456789" {
			t.Errorf("got %q, %v, want the whole file", body, err)
		}
	})
}

func TestOtelMetrics(t *testing.T) {
	t.Parallel()
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	defer provider.Shutdown(context.Background())
	retry := &httpretry.RetryTransport{}
	if err := otelMetrics(retry, provider.Meter("httpretry")); err != nil {
		t.Fatal(err)
	}
	measure(t, retry)
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range all.ScopeMetrics[0].Metrics {
		switch data := m.Data.(type) {
		case metricdata.Sum[int64]:
			for _, p := range data.DataPoints {
				got = append(got, fmt.Sprint(m.Name, " ", attributes(p.Attributes), " ", p.Value))
			}
		case metricdata.Histogram[int64]:
			for _, p := range data.DataPoints {
				got = append(got, fmt.Sprint(m.Name, " ", attributes(p.Attributes), " ", p.Count, " ", p.Sum))
			}
		case metricdata.Histogram[float64]:
			for _, p := range data.DataPoints {
				got = append(got, fmt.Sprint(m.Name, " ", attributes(p.Attributes), " ", p.Count, " ", p.Sum))
			}
		}
	}
	slices.Sort(got)
	want := []string{
		"http.client.given_up httpretry.reason=canceled,server.address=api.example.com 1",
		"http.client.given_up httpretry.reason=not_idempotent,server.address=api.example.com 1",
		"http.client.request.attempts server.address=api.example.com 4 7",
		"http.client.retries error.type=503,server.address=api.example.com 2",
		"http.client.retries error.type=_OTHER,server.address=api.example.com 2",
		"http.client.wait.duration server.address=api.example.com 3 3",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func attributes(set attribute.Set) string { return set.Encoded(attribute.DefaultEncoder()) }

func logAndMeasure(retry *httpretry.RetryTransport, logger *slog.Logger, reg prometheus.Registerer) {
	promMetrics(retry, reg)
	logAttempt, measureAttempt := httpretry.LogAttempts(logger), retry.OnAttempt
	retry.OnAttempt = func(a httpretry.Attempt, d httpretry.Decision) {
		logAttempt(a, d)
		measureAttempt(a, d)
	}
}

func TestPrometheusMetrics(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	reg := prometheus.NewRegistry()
	retry := &httpretry.RetryTransport{}
	logAndMeasure(retry, slog.New(slog.NewTextHandler(&log, nil)), reg)
	measure(t, retry)
	if got, want := strings.Count(log.String(), "\n"), 7; got != want {
		t.Errorf("got %d lines in the log beside the metrics, want %d:\n%s", got, want, log.String())
	}
	const want = `
# HELP http_client_given_up_total Calls that ended without a final result.
# TYPE http_client_given_up_total counter
http_client_given_up_total{httpretry_reason="canceled",server_address="api.example.com"} 1
http_client_given_up_total{httpretry_reason="not_idempotent",server_address="api.example.com"} 1
# HELP http_client_request_attempts Attempts of a call.
# TYPE http_client_request_attempts histogram
http_client_request_attempts_bucket{server_address="api.example.com",le="1"} 2
http_client_request_attempts_bucket{server_address="api.example.com",le="2"} 3
http_client_request_attempts_bucket{server_address="api.example.com",le="3"} 4
http_client_request_attempts_bucket{server_address="api.example.com",le="4"} 4
http_client_request_attempts_bucket{server_address="api.example.com",le="5"} 4
http_client_request_attempts_bucket{server_address="api.example.com",le="8"} 4
http_client_request_attempts_bucket{server_address="api.example.com",le="+Inf"} 4
http_client_request_attempts_sum{server_address="api.example.com"} 7
http_client_request_attempts_count{server_address="api.example.com"} 4
# HELP http_client_retries_total Retries.
# TYPE http_client_retries_total counter
http_client_retries_total{error_type="503",server_address="api.example.com"} 2
http_client_retries_total{error_type="_OTHER",server_address="api.example.com"} 2
`
	err := testutil.GatherAndCompare(reg, strings.NewReader(want),
		"http_client_given_up_total", "http_client_request_attempts", "http_client_retries_total")
	if err != nil {
		t.Error(err)
	}
	if got := testutil.CollectAndCount(reg, "http_client_wait_duration_seconds"); got != 1 {
		t.Errorf("got %d series of waits, want 1", got)
	}
}
