package inference

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// An opener makes what an event stream begins with a part of the attempt. It
// stands below the retry layer, and returns the response when the first content
// has come, with all that was read put back. Until then:
//
//   - an error event becomes the response that the API would have sent, had it
//     known before it sent the 200: with the error's status and the event's
//     data as the body;
//   - a stream that ends or breaks off becomes an error.
//
// So it is the retry layer that judges, waits, counts and reports, as it does
// for any other failure, and its AttemptTimeout ends with the first content.
type opener struct{ base http.RoundTripper }

// maxOpeningBytes bounds what is read, and kept, in search of the first content.
const maxOpeningBytes = 1 << 20

var errNoContent = fmt.Errorf("event stream ended before its first content: %w", io.ErrUnexpectedEOF)

// RoundTrip implements [http.RoundTripper].
func (o opener) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := o.base.RoundTrip(req)
	if err != nil || resp == nil || resp.Body == nil || resp.StatusCode/100 != 2 || !isEventStream(resp) {
		return resp, err
	}
	opening := &opening{ReadCloser: resp.Body}
	resp.Body = opening
	events := newEventReader(opening)
	for {
		ev, err := events.next()
		c := ev.chunk()
		switch {
		case opening.full:
			// Whoever reads the stream will see what it is.
			opening.rewind()
			return resp, nil
		case err == io.EOF:
			opening.Close()
			return nil, errNoContent
		case err != nil:
			opening.Close()
			return nil, err
		case ev.isError(c):
			opening.Close()
			return errorResponse(resp, ev.data), nil
		case !ev.isKeepAlive(c) && (ev.isDone() || c.isContent()):
			opening.rewind()
			return resp, nil
		}
	}
}

func isEventStream(resp *http.Response) bool {
	return strings.EqualFold(contentType(resp), "text/event-stream")
}

// An opening is a response body that keeps what is read of it, up to
// maxOpeningBytes, until it is rewound.
type opening struct {
	io.ReadCloser
	kept   bytes.Buffer
	full   bool
	err    error
	replay bool
}

// Read implements [io.Reader].
func (o *opening) Read(p []byte) (int, error) {
	switch {
	case o.replay && o.kept.Len() > 0:
		return o.kept.Read(p)
	case o.err != nil:
		return 0, o.err
	case o.replay:
		return o.ReadCloser.Read(p)
	}
	room := maxOpeningBytes - o.kept.Len()
	if room == 0 {
		o.full = true
		return 0, io.EOF
	}
	n, err := o.ReadCloser.Read(p[:min(len(p), room)])
	o.kept.Write(p[:n])
	o.err = err // which a body need not return twice
	return n, err
}

// rewind makes the body be read from the start.
func (o *opening) rewind() { o.replay = true }

// errorResponse is the response that an error event stands for. It has the
// header of the one that brought the event, which is closed.
func errorResponse(resp *http.Response, data []byte) *http.Response {
	e := *resp
	e.StatusCode = statusCode(parseAPIErrors(data))
	e.Status = strings.TrimSpace(fmt.Sprint(e.StatusCode, " ", http.StatusText(e.StatusCode)))
	e.Header = resp.Header.Clone()
	e.Header.Set("Content-Type", "application/json")
	e.Header.Del("Content-Length")
	e.Header.Del("Content-Encoding")
	e.TransferEncoding, e.Trailer, e.Uncompressed = nil, nil, false
	e.ContentLength = int64(len(data))
	e.Body = io.NopCloser(bytes.NewReader(data))
	return &e
}
