package httpretry

import (
	"net/http"

	"github.com/httpretry/httpretry/internal/route"
)

// choose records the server that sent resp.
func (c *call) choose(resp *http.Response) {
	if resp.Request == nil {
		return
	}
	if choice := route.ChoiceOf(resp.Request.Context()); choice != nil {
		c.choice = choice
	}
}

// chooseFailed records the server of the attempt that failed with err.
func (c *call) chooseFailed(err error) {
	anyError(err, 0, func(err error) bool {
		choice, ok := err.(route.Choice)
		if ok {
			c.choice = choice
		}
		return ok
	})
}

// reroute adapts the verdict if the next attempt can be sent to another server
// than the one that failed.
func (c *call) reroute() {
	if c.resuming() || c.failure == nil && c.verdict.Outcome == Final {
		return
	}
	wait, other := c.choice.Next()
	if c.verdict.Outcome == Final {
		if !other || !c.choice.Unreached() || isPermanent(c.err) {
			return
		}
		// A host that does not exist, for instance.
		c.verdict.Outcome = Unprocessed
	}
	c.verdict.RetryAfter, c.elsewhere = wait, other
}

// resuming reports whether the attempts of the call request the rest of a response.
// Its validator belongs to the server that sent it.
func (c *call) resuming() bool {
	_, ok := c.body.(*remainder)
	return ok
}

func isPermanent(err error) bool {
	return anyError(err, 0, func(err error) bool {
		_, ok := err.(*permanentError)
		return ok
	})
}
