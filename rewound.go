package httpretry

import (
	"io"
	"net/http"
)

// A rewound body has a GetBody of the caller's, which may rewind a reader that
// all copies share. So the copies of an attempt are fenced, a Read of theirs
// that is under way ends, and they are closed, before GetBody is called again.
type rewound struct {
	leased
	req *http.Request // the caller's
}

func (b *rewound) start(req *http.Request, first bool) error {
	source := b.req.Body
	if !first {
		// A Read under way may be of the reader that GetBody rewinds.
		if err := b.lease.wait(req.Context()); err != nil {
			return err
		}
		if err := b.lease.failure(); err != nil {
			return err
		}
		var err error
		if source, err = getBody(b.req); err != nil {
			return err
		}
	}
	l := new(lease)
	l.begin(b.req, req, false, nil)
	b.lease = l
	req.Body = l.lend(&leasedBody{source: source})
	req.GetBody = func() (io.ReadCloser, error) {
		// The Body is not fenced: middleware may read a copy before it.
		return l.renew(func() (io.ReadCloser, error) { return getBody(b.req) })
	}
	return nil
}
