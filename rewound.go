package httpretry

import (
	"io"
	"net/http"
)

// A rewound body has a GetBody of the caller's, which may rewind a reader that
// all copies share. Before GetBody is called again, the copies of the previous
// attempt are fenced, a Read in progress is awaited, and the copies are closed.
type rewound struct {
	leased
	req *http.Request // the caller's
}

func (b *rewound) start(req *http.Request, first bool) error {
	source := b.req.Body
	if !first {
		// A Read in progress may use the reader that GetBody rewinds.
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
		// The Body remains readable, because middleware may read a copy
		// before the Body is sent.
		return l.renew(func() (io.ReadCloser, error) { return getBody(b.req) })
	}
	return nil
}
