package httpretry

import "net/http"

// A body is the request body of one call, which several attempts send. The call
// uses its methods one at a time. [http.Transport] may read and close the body
// after the attempt has returned, so the attempt's copy of the body is fenced when
// another attempt follows.
type body interface {
	// untouched reports whether the first attempt can send the caller's
	// request unchanged.
	untouched() bool

	// start prepares req, a copy of the caller's request, for an attempt.
	start(req *http.Request, first bool) error

	// hold reports whether another attempt can send the whole body. The result
	// remains true until the next call of stop or settle.
	hold() bool

	// stop ends an attempt that another one follows. It reports whether the
	// body of that one cannot fail.
	stop() (certain bool)

	// settle ends the last attempt. If that did not fail, Base may continue to
	// send the body after its response.
	settle(failed bool)

	// failure returns the error of the caller's body, if reading it failed.
	failure() error
}

// newBody returns the body of the call's request.
func (c *call) newBody() body {
	req := c.req
	switch {
	case !hasBody(req):
		return noBody{}
	case req.GetBody != nil && (madeByNewRequest(req) || neverRetries(c.t.policy())):
		return independent{req}
	case req.GetBody != nil:
		return &rewound{req: req}
	}
	if b := newFileBody(req, c.idempotent); b != nil {
		return b
	}
	limit := c.t.maxReplayBytes()
	if limit < 0 || req.ContentLength > limit || neverRetries(c.t.policy()) {
		return newOneShot(req, c.t.AttemptTimeout > 0 || c.t.IdleTimeout > 0)
	}
	return newReplay(req, limit, c.idempotent())
}

func hasBody(req *http.Request) bool { return req.Body != nil && req.Body != http.NoBody }

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}

// A noBody is the absence of a body.
type noBody struct{}

func (noBody) untouched() bool                 { return true }
func (noBody) start(*http.Request, bool) error { return nil }
func (noBody) hold() bool                      { return true }
func (noBody) stop() bool                      { return true }
func (noBody) settle(bool)                     {}
func (noBody) failure() error                  { return nil }
