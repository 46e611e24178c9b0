package failover_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/failover"
)

// serveAt starts a server at an address, or any if it is empty.
func serveAt(t *testing.T, address string, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	if address != "" {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		srv.Listener.Close()
		srv.Listener = listener
	}
	srv.Start()
	return srv
}

// One of two real servers is killed in the middle of requests and returns. Every
// POST gets its own answer.
func TestTransport_ServerKilledAndBack(t *testing.T) {
	var served [2]atomic.Int32
	handler := func(i int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			time.Sleep(2 * time.Millisecond)
			served[i].Add(1)
			fmt.Fprintf(w, "%s %s", r.URL.Path, body)
		}
	}
	a, b := serveAt(t, "", handler(0)), serveAt(t, "", handler(1))
	defer b.Close()
	base := new(http.Transport)
	defer base.CloseIdleConnections()
	client := &http.Client{Transport: &httpretry.RetryTransport{
		Base:       &failover.Transport{Endpoints: []failover.Endpoint{{URL: a.URL}, {URL: b.URL}}, Base: base},
		Idempotent: func(*http.Request) bool { return true },
	}}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for i := range 8 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				want := fmt.Sprintf("/v1 %d-%d", i, n)
				resp, err := client.Post("http://gateway/v1", "text/plain", strings.NewReader(want[4:]))
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if string(got) != want || err != nil {
					t.Errorf("got %q, %v, want %q", got, err, want)
				}
			}
		})
	}
	// until waits until a server has served n more requests.
	until := func(i, n int32) {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second)
		for before := served[i].Load(); served[i].Load() < before+n; {
			if time.Now().After(deadline) {
				t.Fatalf("server %d serves no requests", i)
			}
			time.Sleep(time.Millisecond)
		}
	}
	defer wg.Wait()
	defer close(stop)
	until(0, 20)
	address := a.Listener.Addr().String()
	a.Listener.Close()
	a.CloseClientConnections()
	a.Close()
	until(1, 50)
	a = serveAt(t, address, handler(0))
	defer a.Close()
	until(0, 20)
}
