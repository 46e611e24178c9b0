package flaky_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"time"

	"github.com/httpretry/httpretry/flaky"
)

// A client gets a refused connection, then a response from an overloaded server,
// then a success, all without a network.
func Example() {
	script := flaky.New(
		flaky.Refuse(),
		flaky.Status(503).WithHeader("Retry-After", "1"),
	)
	client := &http.Client{Transport: script.Transport(nil)}

	for range 3 {
		resp, err := client.Get("http://example.test/")
		if err != nil {
			fmt.Println(err)
			continue
		}
		resp.Body.Close()
		fmt.Printf("%s, Retry-After: %q\n", resp.Status, resp.Header.Get("Retry-After"))
	}
	fmt.Println(len(script.Requests()), "requests")
	// Output:
	// Get "http://example.test/": dial tcp example.test:80: connect: connection refused
	// 503 Service Unavailable, Retry-After: "1"
	// 200 OK, Retry-After: ""
	// 3 requests
}

// A Handler makes the connections to a real server fail.
func ExampleScript_Handler() {
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "hello")
	})
	script := flaky.New(flaky.Reset(), flaky.Pass().Truncate(2))
	srv := httptest.NewServer(script.Handler(hello))
	defer srv.Close()

	_, err := http.Get(srv.URL)
	fmt.Println(errors.Is(err, syscall.ECONNRESET))

	for range 2 {
		resp, err := http.Get(srv.URL)
		if err != nil {
			fmt.Println(err)
			return
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		fmt.Printf("%q %v\n", body, err)
	}
	// Output:
	// true
	// "he" unexpected EOF
	// "hello" <nil>
}

// Every third request fails.
func ExampleFunc() {
	script := flaky.Func(func(n int, _ *http.Request) flaky.Step {
		if n%3 == 0 {
			return flaky.Status(500)
		}
		return flaky.Pass()
	})
	client := &http.Client{Transport: script.Transport(nil)}
	for range 6 {
		resp, err := client.Get("http://example.test/")
		if err != nil {
			fmt.Println(err)
			return
		}
		resp.Body.Close()
		fmt.Print(resp.StatusCode, " ")
	}
	// Output: 200 200 500 200 200 500
}

// The record of a request includes its body.
func ExampleScript_Requests() {
	script := flaky.New()
	client := &http.Client{Transport: script.Transport(nil)}
	resp, err := client.Post("http://example.test/items", "text/plain", strings.NewReader("hello"))
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()

	for _, r := range script.Requests() {
		fmt.Printf("%s %s %s %q\n", r.Method, r.URL, r.Header.Get("Content-Type"), r.Body)
	}
	// Output: POST http://example.test/items text/plain "hello"
}

// A step can be reused with modifications.
func ExampleStep() {
	busy := flaky.Status(503).WithBody("busy")
	script := flaky.New(
		busy,
		busy.After(10*time.Millisecond).WithHeader("Retry-After", "1"),
		busy.Slow(1, time.Millisecond),
		busy.Early(),
	)
	client := &http.Client{Transport: script.Transport(nil)}
	for range 4 {
		resp, err := client.Get("http://example.test/")
		if err != nil {
			fmt.Println(err)
			return
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		fmt.Printf("%d %q %q %v\n", resp.StatusCode, resp.Header.Get("Retry-After"), body, err)
	}
	// Output:
	// 503 "" "busy" <nil>
	// 503 "1" "busy" <nil>
	// 503 "" "busy" <nil>
	// 503 "" "busy" <nil>
}

// A request without a response ends with the timeout of its client.
func ExampleHang() {
	client := &http.Client{
		Transport: flaky.New(flaky.Hang()).Transport(nil),
		Timeout:   10 * time.Millisecond,
	}
	_, err := client.Get("http://example.test/")
	timeout, ok := errors.AsType[net.Error](err)
	fmt.Println(ok && timeout.Timeout())
	// Output: true
}

// A Transport can return any error.
func ExampleError() {
	script := flaky.New(flaky.Error(io.ErrUnexpectedEOF))
	client := &http.Client{Transport: script.Transport(nil)}
	_, err := client.Get("http://example.test/")
	fmt.Println(err)
	// Output: Get "http://example.test/": unexpected EOF
}
