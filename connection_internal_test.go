package httpretry

import (
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"testing"
	"time"
	"weak"
)

func TestFreshConnections_FreesPool(t *testing.T) {
	tr := new(http.Transport)
	key := weak.Make(tr)
	poolOf(tr)
	if _, ok := pools.Load(key); !ok {
		t.Fatal("the pool is not known")
	}
	runtime.KeepAlive(tr)
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		runtime.GC()
		if _, ok := pools.Load(key); !ok {
			return
		}
		time.Sleep(time.Millisecond) // cleanups run in a goroutine of their own
	}
	t.Error("the pool of a Transport that is gone is still known")
}

func TestPool_LimitsHosts(t *testing.T) {
	tr := new(http.Transport)
	for i := range 3 * maxRetiredHosts {
		poolOf(tr).retire(tr, strconv.Itoa(i)+".example:443", time.Now())
	}
	if got := len(poolOf(tr).retired); got == 0 || got > maxRetiredHosts {
		t.Errorf("got %d hosts, want at most %d", got, maxRetiredHosts)
	}
}

// A connection that could not be retired is not used by the retries of other calls that
// failed before, and delays none of them.
func TestPool_RemembersBlockedConnections(t *testing.T) {
	tr := new(http.Transport)
	p := poolOf(tr)
	failed := time.Now()
	p.retired["example.com:443"] = retirement{failed.Add(time.Second), false}
	if p.retire(tr, "example.com:443", failed) {
		t.Error("a connection that was blocked is used")
	}
	if !p.retire(tr, "example.com:443", failed.Add(2*time.Second)) {
		t.Error("after another failure, the connection is not tried again")
	}
}

// The copy of a Transport that uses HTTP/2 by default, as the zero value does, must
// not offer HTTP/2 without speaking it.
func TestFreshConnections_OwnConnectionSpeaksHTTP2(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	tr := new(http.Transport)
	tr.Clone() // sets TLSClientConfig, as a request does
	tr.TLSClientConfig.RootCAs = srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	req, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := freshConnections{tr}.alone(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.ProtoMajor != 2 {
		t.Errorf("got %s, want HTTP/2", resp.Proto)
	}
}
