package http_test

import (
	"net/http"
	"os"
	"time"

	"github.com/httpretry/httpretry"
)

// modes are the RoundTrippers that the clients of the tests use.
var modes = map[string]func(base http.RoundTripper) http.RoundTripper{
	"wrapper": func(base http.RoundTripper) http.RoundTripper { return wrapper{base} },
	"never": func(base http.RoundTripper) http.RoundTripper {
		return &httpretry.RetryTransport{Base: base, Policy: httpretry.Never}
	},
	// A Policy other than Never, so that request bodies are buffered.
	"everything": func(base http.RoundTripper) http.RoundTripper {
		return &httpretry.RetryTransport{
			Base:           base,
			Policy:         once{},
			Classifier:     classify,
			AttemptTimeout: time.Hour,
			OnAttempt:      func(httpretry.Attempt, httpretry.Decision) {},
		}
	},
	"retries": func(base http.RoundTripper) http.RoundTripper {
		policy := httpretry.RetryConfig{InitialBackoff: time.Millisecond, MaxBackoff: time.Millisecond}
		return &httpretry.RetryTransport{Base: base, Policy: policy}
	},
}

// A wrapper does nothing beyond what any RoundTripper around another one does.
type wrapper struct{ base http.RoundTripper }

func (w wrapper) RoundTrip(req *http.Request) (*http.Response, error) {
	return w.base.RoundTrip(req)
}

func (w wrapper) CloseIdleConnections() {
	if c, ok := w.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// once is a Policy without retries that is not known for it.
type once struct{}

func (once) Backoff(httpretry.Attempt) (time.Duration, bool) { return 0, false }

// classify costs a copy of the request and of the response.
func classify(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
	return httpretry.DefaultClassifier(req, resp, err)
}

func init() {
	mode := os.Getenv("HTTPSUITE_MODE")
	if mode == "" {
		return // the program lists the tests
	}
	wrap, ok := modes[mode]
	if !ok {
		panic("unknown mode " + mode)
	}
	calls, err := os.OpenFile(os.Getenv("HTTPSUITE_CALLS"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		panic(err)
	}
	http.WrapTransport = func(base http.RoundTripper) http.RoundTripper {
		calls.Write([]byte{'.'}) // counted by the size of the file
		return wrap(base)
	}
}
