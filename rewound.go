package httpretry

import (
	"io"
	"net/http"
)

// A rewound body has a GetBody of the caller's, which may rewind a reader that
// all copies share. So the copies of an attempt are fenced, a Read of theirs
// that is under way ends, and they are closed, before GetBody is called again.
type rewound struct {
	req   *http.Request // the caller's
	lease *lease        // of the attempt that was started last
}

func (b *rewound) untouched() bool { return false }

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
	l := newLease(b.req, req, false, nil)
	b.lease = l
	req.Body = l.lend(source)
	req.GetBody = func() (io.ReadCloser, error) {
		// Not fenced: middleware may read a copy before it sends the body.
		source, err := getBody(b.req)
		if err != nil {
			return nil, err
		}
		return l.lend(source), nil
	}
	return nil
}

func (b *rewound) hold() bool         { return b.lease.failure() == nil }
func (b *rewound) stop()              { b.lease.end(errAttemptOver, false) }
func (b *rewound) settle(failed bool) { b.lease.settle(failed) }
func (b *rewound) failure() error     { return b.lease.failure() }
