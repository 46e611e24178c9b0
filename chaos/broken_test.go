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

// around makes a layer that does something to the calls of the right one.
func around(do func(next http.RoundTripper, req *http.Request) (*http.Response, error)) layerFunc {
	return func(base http.RoundTripper, attemptTime time.Duration) http.RoundTripper {
		next := retrying(base, attemptTime)
		return roundTripFunc(func(req *http.Request) (*http.Response, error) { return do(next, req) })
	}
}

// naive makes a layer that retries all that failed, with the one body that it
// has.
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

// A sharedBody can be read by several attempts, each of which gets what the
// others leave to it. The lock is for the race detector, which would find that
// before the ledger does.
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

// kept is what layers keep that they must not.
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
	{"cuts answers short", around(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(req)
		if err == nil {
			resp.Body = struct {
				io.Reader
				io.Closer
			}{io.LimitReader(resp.Body, 100), resp.Body}
		}
		return resp, err
	}), otherAnswer},
	{"gives a response and an error", around(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
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
	{"keeps on after the deadline", around(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
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
	{"forgets a goroutine", around(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
		if req.Method == http.MethodPut {
			over := make(chan struct{})
			kept.Store(over, nil)
			go func() { <-over }()
		}
		return next.RoundTrip(req)
	}), leftGoroutines},
	{"keeps what it need not", around(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
		kept.Store(new([16 << 10]byte), nil)
		return next.RoundTrip(req)
	}), grownHeap},
}

// What breaks a promise is found: else that nothing is found would mean
// nothing.
func TestLedger(t *testing.T) {
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

// shortGrace is long enough for a layer that has to be found anyway.
const shortGrace = 300 * time.Millisecond
