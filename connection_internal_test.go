package httpretry

import (
	"net/http"
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
