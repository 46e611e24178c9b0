package httpretry_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/flaky"
)

// A download that fails is resumed from the first missing byte. The server must
// support ranges and send an ETag or a Last-Modified date, as http.ServeContent and
// most file servers do.
func ExampleRetryTransport_resumeDownloads() {
	serve := func(w http.ResponseWriter, r *http.Request) {
		fmt.Printf("%s, Range %q\n", r.Method, r.Header.Get("Range"))
		w.Header().Set("ETag", `"first-edition"`)
		http.ServeContent(w, r, "story.txt", time.Time{}, strings.NewReader("And they lived happily ever after."))
	}
	// The first response fails after eight bytes, the second after six.
	script := flaky.New(flaky.Pass().Truncate(8), flaky.Pass().Truncate(6))
	server := httptest.NewServer(script.Handler(http.HandlerFunc(serve)))
	defer server.Close()

	client := &http.Client{Transport: &httpretry.RetryTransport{
		Policy:          httpretry.RetryConfig{MaxRetries: 3, InitialBackoff: time.Millisecond},
		ResumeDownloads: true,
	}}
	resp, err := client.Get(server.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(string(body), err)
	// Output:
	// GET, Range ""
	// GET, Range "bytes=8-"
	// GET, Range "bytes=14-"
	// And they lived happily ever after. <nil>
}
