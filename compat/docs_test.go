package compat_test

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/flaky"
)

// Every Go snippet in the pages compiles: a whole program as it is, and a
// fragment because it stands, line for line, in a test.
func TestDocs(t *testing.T) {
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("got pages %v, %v, want those in docs", pages, err)
	}
	tests := readTests(t)
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, snippet := range regexp.MustCompile("(?ms)^ *```go\n(.*?)^ *```$").FindAllStringSubmatch(string(text), -1) {
			switch code := snippet[1]; {
			case strings.HasPrefix(code, "package "):
				vet(t, page, code)
			case !strings.Contains(tests, unindented(code)):
				t.Errorf("%s: this stands in no test of this module, and so it is not compiled:\n%s", page, code)
			}
		}
	}
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

// unindented returns code without what lines begin with, and what they are
// aligned by.
func unindented(code string) string {
	var all strings.Builder
	for line := range strings.Lines(code) {
		all.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
	}
	return all.String()
}

func vet(t *testing.T, page, program string) {
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "vet", file).CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", page, err, out)
	}
}

func newDownloadClient() *http.Client {
	client := &http.Client{Transport: &httpretry.RetryTransport{ResumeDownloads: true}}
	return client
}

func newStrictClassifier() httpretry.Classifier {
	strict := httpretry.ClassifierFunc(func(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
		v := httpretry.DefaultClassifier.Classify(req, resp, err)
		if resp != nil && resp.StatusCode == http.StatusServiceUnavailable {
			v.Outcome = httpretry.Uncertain
		}
		return v
	})
	return strict
}

// The fragments that belong to no SDK do what their pages say.
func TestFragments(t *testing.T) {
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

func serveObject(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("ETag", `"v1"`)
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(readAll(stream(objectSize))))
}
