package inference

import (
	"bytes"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/internal/rawjson"
)

const (
	// denialTime is how long an endpoint that will not serve is left alone. Nothing but
	// a person ends such a state, so more requests would only be refused.
	denialTime = time.Minute

	// maxDenials limits the number of denials that are kept.
	maxDenials = 1000
)

// denials has the responses of several endpoints that say that the endpoint will not
// serve requests, or not those for a model: because of a key, an account, a quota or
// the model. Another endpoint may serve them. It is safe for concurrent use.
type denials struct {
	endpoints int

	mu       sync.Mutex
	times    map[denial]time.Time
	answered map[int]time.Time // of the last answer of each endpoint
}

// A denial is a reason not to send requests to an endpoint.
type denial struct {
	endpoint int
	model    string // that it lacks; "": it serves nothing
}

func newDenials(endpoints int) *denials {
	return &denials{endpoints: endpoints, times: make(map[denial]time.Time), answered: make(map[int]time.Time)}
}

// note is the Classifier of the endpoints. It makes a denial a failure that closes the
// endpoint.
func (d *denials) note(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
	v := classifyExchange(req, resp, err)
	x := exchangeOf(req.Context())
	denied, key := x.denial(resp, err, v)
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if !denied {
		if err == nil && resp.StatusCode/100 == 2 && x.endpoint != outside {
			d.answered[x.endpoint] = now
			delete(d.times, denial{endpoint: x.endpoint})
			if len(d.times) > 0 {
				delete(d.times, denial{x.endpoint, x.model()})
			}
		}
		return v
	}
	if len(d.times) >= maxDenials {
		clear(d.times)
	}
	d.times[key] = now
	if at, ok := d.answered[x.endpoint]; ok && key.model != "" && now.Sub(at) < denialTime {
		return v // it serves requests for other models
	}
	// Uncertain, so that a Pacer does not take it for the refusal of a rate.
	return httpretry.Verdict{Outcome: httpretry.Uncertain, RetryAfter: denialTime}
}

// classify is the Classifier of the RetryTransport above the endpoints. A denial is
// final only if no endpoint will serve the request.
func (d *denials) classify(req *http.Request, resp *http.Response, err error) httpretry.Verdict {
	v := classifyExchange(req, resp, err)
	denied, key := exchangeOf(req.Context()).denial(resp, err, v)
	if !denied {
		return v
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	for i := range d.endpoints {
		if !d.holds(denial{endpoint: i}, now) && !d.holds(denial{i, key.model}, now) {
			return httpretry.Verdict{Outcome: httpretry.Uncertain}
		}
	}
	return v
}

// holds reports whether a denial is recent. The lock is held.
func (d *denials) holds(key denial, now time.Time) bool {
	at, ok := d.times[key]
	return ok && now.Sub(at) < denialTime+denialTime/2 // the endpoint is asked again after a minute
}

// outside is the endpoint of an attempt that a redirect led to another host.
const outside = -1

// denial reports whether the outcome of an attempt with verdict v says that the endpoint
// will not serve the request, and which of its requests.
func (x *exchange) denial(resp *http.Response, err error, v httpretry.Verdict) (denied bool, key denial) {
	status, body := 0, x.body
	if f, ok := errors.AsType[*failure](err); ok {
		status, body = f.status, f.cause.Body
	} else if err == nil {
		status = resp.StatusCode
	}
	if v.Outcome != httpretry.Final || x.endpoint == outside {
		return false, denial{}
	}
	key = denial{endpoint: x.endpoint}
	if _, isAlert := errors.AsType[*alertError](err); isAlert {
		return true, key
	}
	ofModel := bytes.Contains(bytes.ToLower(body), []byte("model"))
	switch status {
	case http.StatusUnauthorized, http.StatusPaymentRequired, http.StatusTooManyRequests:
	case http.StatusForbidden:
		if ofModel {
			key.model = x.model()
		}
	case http.StatusNotFound:
		if !ofModel && !x.completion {
			return false, denial{} // what the request asks for may not exist
		}
		key.model = x.model()
	default:
		return false, denial{}
	}
	return true, key
}

// model returns the model of the request, or "" if it names none.
func (x *exchange) model() string {
	const maxBytes = 256 // real names have less than 100
	for name, value := range rawjson.Members(x.request) {
		if string(name) == "model" {
			model, _ := rawjson.String(value)
			return model[:min(len(model), maxBytes)]
		}
	}
	return ""
}
