package httpretry

import "net/http"

// A oneShot is a body that is sent once, because it is larger than
// MaxReplayBytes or because the policy never retries.
type oneShot struct {
	req     *http.Request // the caller's
	watched bool          // a context can end the attempt while Read blocks
	lease   *lease
}

// newOneShot returns the body of req. limited reports whether attempts have a
// context of their own.
func newOneShot(req *http.Request, limited bool) *oneShot {
	return &oneShot{req: req, watched: limited || req.Context().Done() != nil}
}

func (b *oneShot) untouched() bool { return !b.watched }

func (b *oneShot) start(req *http.Request, _ bool) error {
	if b.watched {
		// Only Close ends a Read of the body that blocks.
		b.lease = new(lease)
		b.lease.begin(b.req, req, true, nil)
		req.Body = b.lease.lend(&leasedBody{source: b.req.Body})
	}
	return nil
}

func (b *oneShot) hold() bool { return false }
func (b *oneShot) stop() bool { return true }

func (b *oneShot) settle(failed bool) {
	if b.lease != nil {
		b.lease.settle(failed)
	}
}

func (b *oneShot) failure() error {
	if b.lease == nil {
		return nil
	}
	return b.lease.failure()
}
