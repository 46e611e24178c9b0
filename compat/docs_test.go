package compat_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/flaky"
	"github.com/httpretry/httpretry/inference"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
)

// Every Go snippet of the pages and of README.md files compiles. A fragment stands,
// line for line, in a test of this module. A whole program passes go vet, and
// prints the text of its output comment if it has one, as an Example does.
func TestDocs(t *testing.T) {
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("got pages %v, %v, want those in docs", pages, err)
	}
	tests := readTests(t)
	for _, page := range append(pages, "../README.md", "../inference/README.md", "../flaky/README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, snippet := range regexp.MustCompile("(?ms)^ *```go\n(.*?)^ *```$").FindAllStringSubmatch(string(text), -1) {
			switch code := snippet[1]; {
			case strings.HasPrefix(code, "package "):
				check(t, page, code)
			case !strings.Contains(tests, unindented(code)):
				t.Errorf("%s: this is in no test of this module, and so it is not compiled:\n%s", page, code)
			}
		}
	}
}

// Every link between the pages leads to a file and, if it has an anchor, to a
// heading.
func TestDocs_Links(t *testing.T) {
	var pages []string
	for _, pattern := range []string{"../*.md", "../docs/*.md", "../*/README.md", "../cmd/*/README.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	link := regexp.MustCompile(`\]\(([^)#:]*)(?:#([^)]*))?\)`)
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		prose := regexp.MustCompile("(?ms)^```.*?^```$").ReplaceAllString(string(text), "")
		for _, m := range link.FindAllStringSubmatch(prose, -1) {
			target := page
			if m[1] != "" {
				target = filepath.Join(filepath.Dir(page), m[1])
			}
			content, err := os.ReadFile(target)
			if err != nil {
				t.Errorf("%s: %s: %v", page, m[0], err)
			} else if m[2] != "" && !slices.Contains(anchors(string(content)), m[2]) {
				t.Errorf("%s: %s: got no such heading in %s", page, m[0], target)
			}
		}
	}
}

// anchors returns the names that GitHub gives to the headings of a page.
func anchors(page string) (names []string) {
	for _, h := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		name := regexp.MustCompile(`[^\w \p{L}-]`).ReplaceAllString(strings.ToLower(h[1]), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}

// readTests returns the code of this module's tests, without indentation.
func readTests(t *testing.T) string {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range files {
		code, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString("\n" + unindented(string(code)))
	}
	return all.String()
}

// unindented returns code without indentation and alignment.
func unindented(code string) string {
	var all strings.Builder
	for line := range strings.Lines(code) {
		all.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
	}
	return all.String()
}

func check(t *testing.T, page, program string) {
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "vet", file).CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", page, err, out)
		return
	}
	output := regexp.MustCompile(`(?m)^\s*// Output: (.*)$`).FindStringSubmatch(program)
	if output == nil {
		return
	}
	var stderr strings.Builder
	cmd := exec.CommandContext(t.Context(), "go", "run", file)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if got := strings.TrimSpace(string(out)); err != nil || got != output[1] {
		t.Errorf("%s: got output %q, %v, want %q\n%s", page, got, err, output[1], stderr.String())
	}
}

func newDownloadClient() *http.Client {
	client := &http.Client{Transport: &httpretry.RetryTransport{ResumeDownloads: true}}
	return client
}

func newWatchedTransport() *httpretry.RetryTransport {
	watched := &httpretry.RetryTransport{
		IdleTimeout:       30 * time.Second, // without a byte
		MinBytesPerSecond: 1000,             // on average over IdleTimeout; without it, a byte suffices
		AttemptTimeout:    60 * time.Second, // to the end of the response header
	}
	return watched
}

// A response that falls silent fails after 30 s.
func TestDownloads_WatchedTransport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		watched := newWatchedTransport()
		watched.Base = flaky.New(flaky.Status(200).WithBody("hello").Stall(2)).Transport(nil)
		resp, err := (&http.Client{Transport: watched}).Get("http://example.com/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		start := time.Now()
		got, err := io.ReadAll(resp.Body)
		if took := time.Since(start); string(got) != "he" || !errors.Is(err, context.DeadlineExceeded) || took != 30*time.Second {
			t.Errorf("got %q, %v after %v, want a timeout after 2 bytes and 30s", got, err, took)
		}
	})
}

func newStrictClassifier() func(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
	strict := func(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
		v := httpretry.DefaultClassifier(req, resp, err)
		if resp != nil && resp.StatusCode == http.StatusServiceUnavailable {
			v.Outcome = httpretry.Uncertain
		}
		return v
	}
	return strict
}

func newInferenceClient() *inference.HTTPInferenceClient {
	client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
		BaseURL:    "http://localhost:8000",
		MaxRetries: 3, // 0, the default, turns retries off
	})
	return client
}

func newFlakyClient() (*http.Client, *flaky.Script) {
	script := flaky.New(
		flaky.Status(503).WithHeader("Retry-After", "1"), // the first request
		flaky.Reset(), // the second
		flaky.Pass(),  // the third, and all later ones
	)
	client := &http.Client{Transport: &httpretry.RetryTransport{Base: script.Transport(nil)}}
	return client, script
}

// The three ways of README.md to use a RetryTransport.
func newThreeWays(signer http.RoundTripper) (*http.Client, openai.Client, http.RoundTripper) {
	client := &http.Client{Transport: &httpretry.RetryTransport{}}       // wrap http.DefaultTransport
	sdk := openai.NewClient(option.WithHTTPClient(client))               // plug into an SDK
	rt := otelhttp.NewTransport(&httpretry.RetryTransport{Base: signer}) // compose with other middleware
	return client, sdk, rt
}

// Each of them retries.
func TestReadme_ThreeWays(t *testing.T) {
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections)
	s := serve(t, failures{1: down, 3: down, 5: down}, respond("application/json", `{"data":[{"id":"a-model"}]}`))
	client, sdk, rt := newThreeWays(s.transport)
	ctx := httpretry.Override(t.Context(), func(retry *httpretry.RetryTransport) { retry.Policy = s.retry().Policy })
	if _, err := get(ctx, client.Transport, s.url); err != nil {
		t.Errorf("the client: %v", err)
	}
	switch models, err := sdk.Models.List(ctx, option.WithBaseURL(s.url), option.WithMaxRetries(0)); {
	case err != nil:
		t.Errorf("the SDK: %v", err)
	case models.Data[0].ID != "a-model":
		t.Errorf("the SDK: got model %q, want a-model", models.Data[0].ID)
	}
	if _, err := get(ctx, rt, s.url); err != nil {
		t.Errorf("the RoundTripper: %v", err)
	}
	if got := len(s.script.Requests()); got != 6 {
		t.Errorf("got %d requests, want 6: two for each way", got)
	}
}

// Fragments that belong to no SDK do what their pages say.
func TestFragments(t *testing.T) {
	t.Run("inference client", func(t *testing.T) {
		if got := newInferenceClient().String(); !strings.Contains(got, "localhost:8000") {
			t.Errorf("got %s, want a client of the gateway", got)
		}
	})
	t.Run("flaky client", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, script := newFlakyClient()
			resp, err := client.Get("http://example.com")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if got := len(script.Requests()); got != 3 {
				t.Errorf("got %d requests, want 3: one for each step", got)
			}
		})
	})
	t.Run("strict classifier", func(t *testing.T) {
		script := flaky.New(flaky.Status(http.StatusServiceUnavailable))
		retry := &httpretry.RetryTransport{Base: script.Transport(nil), Classifier: newStrictClassifier()}
		resp, err := (&http.Client{Transport: retry}).Post("http://example.com", "text/plain", strings.NewReader("an order"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := len(script.Requests()); got != 1 {
			t.Errorf("got %d attempts, want 1: the upstream may have taken the order", got)
		}
	})
	t.Run("download client", func(t *testing.T) {
		t.Parallel()
		s := serve(t, failures{1: {Step: flaky.Pass().Truncate(objectSize / 2)}}, http.HandlerFunc(serveObject))
		client := newDownloadClient()
		client.Transport.(*httpretry.RetryTransport).Base = s.transport
		client.Transport.(*httpretry.RetryTransport).Policy = s.retry().Policy
		resp, err := client.Get(s.url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if got := digest(resp.Body); got != objectDigest {
			t.Errorf("got digest %q, want %q", got, objectDigest)
		}
	})
}

// An http.Client calls RoundTrip for each hop of a redirect. Two failures exceed
// the one retry, unless each hop has its own.
func TestRedirect_EachHopHasItsOwnRetries(t *testing.T) {
	t.Parallel()
	s := serve(t, failures{1: down, 3: down}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			http.Redirect(w, r, "/moved", http.StatusFound)
		}
	}))
	retry := s.retry()
	retry.Policy = httpretry.RetryConfig{MaxRetries: 1, InitialBackoff: time.Millisecond}
	resp, err := (&http.Client{Transport: retry}).Get(s.url + "/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if err := want("status", resp.StatusCode, http.StatusOK); err != nil {
		t.Error(err)
	}
	if got := httpretry.AttemptNumber(resp.Request.Context()); got != 2 {
		t.Errorf("got AttemptNumber %d, want 2: the attempts of the last hop", got)
	}
	s.check(t, 2)
}

func serveObject(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("ETag", `"v1"`)
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(readAll(stream(objectSize))))
}
