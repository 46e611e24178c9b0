package chaos_test

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/httpretry/httpretry"
)

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// around returns a layer that changes the calls of the correct one.
func around(do func(next http.RoundTripper, req *http.Request) (*http.Response, error)) layerFunc {
	return func(base http.RoundTripper, attemptTime time.Duration) http.RoundTripper {
		next := retrying(base, attemptTime)
		return roundTripFunc(func(req *http.Request) (*http.Response, error) { return do(next, req) })
	}
}

// naive returns a layer that retries every failure, with one body for all
// attempts.
func naive(retire func(*http.Response)) layerFunc {
	return func(base http.RoundTripper, _ time.Duration) http.RoundTripper {
		return roundTripFunc(func(req *http.Request) (*http.Response, error) {
			sent := req.WithContext(req.Context())
			if req.Body != nil && req.Body != http.NoBody {
				sent.Body = &sharedBody{body: req.Body}
				defer req.Body.Close()
			}
			for attempt := 1; ; attempt++ {
				resp, err := base.RoundTrip(sent)
				if attempt == 4 || err == nil && resp.StatusCode < 429 || req.Context().Err() != nil {
					return resp, err
				}
				if err == nil {
					retire(resp)
				}
			}
		})
	}
}

// A sharedBody is read by several attempts, which take bytes from each other. The
// lock hides that from the race detector, so that the ledger can find it.
type sharedBody struct {
	mu   sync.Mutex
	body io.Reader
}

func (b *sharedBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.body.Read(p)
}

func (b *sharedBody) Close() error { return nil }

func closeResponse(resp *http.Response) { resp.Body.Close() }

// kept holds the leaks of the layers.
var kept sync.Map

func release() {
	kept.Range(func(key, _ any) bool {
		switch k := key.(type) {
		case *os.File:
			k.Close()
		case chan struct{}:
			close(k)
		}
		return true
	})
	kept.Clear()
}

var brokenLayers = []struct {
	name  string
	layer layerFunc
	want  breach
}{
	{"shares a reader", naive(closeResponse), otherBody},
	{"forgets responses", naive(func(*http.Response) {}), leftBodies},
	{"has connections of its own", func(base http.RoundTripper, attemptTime time.Duration) http.RoundTripper {
		return retrying(tagger{base.(tagger).base.Clone()}, attemptTime)
	}, leftConnections},
	{"retries any POST", func(base http.RoundTripper, attemptTime time.Duration) http.RoundTripper {
		rt := retrying(base, attemptTime).(*httpretry.RetryTransport)
		rt.Idempotent = func(*http.Request) bool { return true }
		return rt
	}, sentAgain},
	{"processes a POST twice", around(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
		if req.GetBody == nil {
			return next.RoundTrip(req)
		}
		if resp, err := next.RoundTrip(req); err == nil {
			resp.Body.Close()
		}
		again := req.WithContext(req.Context())
		again.Body, _ = req.GetBody()
		return next.RoundTrip(again)
	}), processedTwice},
	{"truncates responses", around(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(req)
		if err == nil {
			resp.Body = struct {
				io.Reader
				io.Closer
			}{io.LimitReader(resp.Body, 100), resp.Body}
		}
		return resp, err
	}), otherAnswer},
	{"returns a response and an error", around(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(req)
		if err == nil && req.Method == http.MethodPut {
			err = errors.New(resp.Status)
		}
		return resp, err
	}), notOneResult},
	{"gives neither", around(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(req)
		if err == nil && req.Method == http.MethodPut {
			resp.Body.Close()
			return nil, nil
		}
		return resp, err
	}), notOneResult},
	{"continues after the deadline", around(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(req)
		if req.Context().Err() != nil {
			time.Sleep(shortGrace + 100*time.Millisecond)
		}
		return resp, err
	}), overtime},
	{"does not close bodies", around(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
		sent := req.WithContext(req.Context())
		if req.Body != nil {
			sent.Body = io.NopCloser(req.Body)
		}
		return next.RoundTrip(sent)
	}), notClosedOnce},
	{"keeps files open", around(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
		sent := req.WithContext(req.Context())
		if f, ok := req.Body.(*os.File); ok {
			kept.Store(f, nil)
			sent.Body = io.NopCloser(f)
		}
		return next.RoundTrip(sent)
	}), leftFiles},
	{"closes bodies twice", around(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(req)
		if req.Body != nil {
			req.Body.Close()
		}
		return resp, err
	}), notClosedOnce},
	{"modifies requests", around(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
		req.Header.Add("Number", "")
		return next.RoundTrip(req)
	}), requestModified},
	{"does not retry", func(base http.RoundTripper, _ time.Duration) http.RoundTripper { return base }, unanswered},
	{"leaks a goroutine", around(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
		if req.Method == http.MethodPut {
			over := make(chan struct{})
			kept.Store(over, nil)
			go func() { <-over }()
		}
		return next.RoundTrip(req)
	}), leftGoroutines},
	{"keeps memory", around(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
		kept.Store(new([16 << 10]byte), nil)
		return next.RoundTrip(req)
	}), grownHeap},
}

// The ledger finds layers that break a promise.
func TestLedger_FindsBrokenLayers(t *testing.T) {
	for _, tt := range brokenLayers {
		t.Run(tt.name, func(t *testing.T) {
			const requests = 400
			t.Cleanup(release)
			x := newExperiment(t, 1, requests, tt.layer)
			x.patience, x.ledger.grace = time.Second, shortGrace
			x.run(requests)
			if x.ledger.breaches[tt.want] == 0 {
				t.Errorf("the ledger did not find that %s; it found %v", tt.want, x.ledger.breaches)
			}
		})
	}
}

// shortGrace is for layers that are expected to exceed it.
const shortGrace = 300 * time.Millisecond
