package inference

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
)

// An opener makes what an event stream begins with a part of the attempt. It
// stands below the retry layer of one stream, and returns the response when the
// first content has come. Until then:
//
//   - an error event becomes the response that the API would have sent, had it
//     known before it sent the 200: with the error's status and the event's
//     data as the body;
//   - a stream that ends or breaks off becomes an error, as does one that holds
//     something else than JSON.
//
// So it is the retry layer that judges, waits, counts and reports, as it does
// for any other failure, and its AttemptTimeout ends with the first content.
type opener struct {
	base   http.RoundTripper
	events *eventReader // of the response that was returned, from its first event on
}

const (
	// maxOpeningBytes bounds what is kept of events before the first content.
	// What there is beyond it says as little, and is dropped.
	maxOpeningBytes = 4 << 20

	// openingBytes is what keeping an event takes besides its data.
	openingBytes = 64
)

var errNoContent = fmt.Errorf("event stream ended before its first content: %w", io.ErrUnexpectedEOF)

// RoundTrip implements [http.RoundTripper].
func (o *opener) RoundTrip(req *http.Request) (*http.Response, error) {
	o.events = nil
	resp, err := o.base.RoundTrip(req)
	if !isSuccess(resp, err) || !mayBeEventStream(resp) {
		return resp, err
	}
	ctx := req.Context()
	stop := closeWhenDone(ctx, resp)
	instead, err := o.open(resp)
	stop()
	switch {
	case err != nil && ctx.Err() != nil:
		err = context.Cause(ctx) // and not what came of closing the body
	case err == nil && instead == nil:
		return resp, nil
	}
	resp.Body.Close()
	return instead, err
}

// open reads up to the first content. It returns the response that an error
// event before it stands for. What turns out to be JSON it leaves as it is.
func (o *opener) open(resp *http.Response) (instead *http.Response, err error) {
	events := newEventReader(resp.Body)
	if !isEventStream(resp) {
		if events.beginsLikeJSON() {
			resp.Body = begunBody{events.r, resp.Body}
			return nil, nil
		}
		resp.Header = withContentType(resp.Header, "text/event-stream") // so that nobody holds it back
	}
	var opening []rawEvent
	room := maxOpeningBytes
	for {
		ev, err := events.next()
		if err == io.EOF {
			return nil, errNoContent
		} else if err != nil {
			return nil, err
		}
		switch meaning, _ := ev.interpret(); meaning {
		case isNoise:
		case isAside:
			if room -= len(ev.data) + openingBytes; room >= 0 {
				opening = append(opening, ev)
			}
		case isContent:
			events.unread(append(opening, ev))
			o.events = events
			return nil, nil
		case isDone:
			return nil, errNoContent
		case isFailure:
			return errorResponse(resp, ev.data), nil
		case isMalformed:
			return nil, &malformedError{notJSON(resp, ev.data)}
		}
	}
}

// A malformedError fails an attempt whose stream holds something else than
// JSON. What it is to the caller is inside.
type malformedError struct{ *InferenceError }

func notJSON(resp *http.Response, data []byte) *InferenceError {
	return statusError(ErrCategoryServer, resp, data, "event is not JSON")
}

// closeWhenDone closes the response's body when ctx is done, until stop is
// called. A body need not know of the context, nor ever come to an end.
func closeWhenDone(ctx context.Context, resp *http.Response) (stop func() bool) {
	body := onceBody{resp.Body, sync.OnceValue(resp.Body.Close)}
	resp.Body = body
	return context.AfterFunc(ctx, func() { body.Close() })
}

// A onceBody is a body that may be closed by several, of whom the first does it.
type onceBody struct {
	io.ReadCloser
	close func() error
}

// Close implements [io.Closer].
func (b onceBody) Close() error { return b.close() }

func isEventStream(resp *http.Response) bool {
	return strings.EqualFold(contentType(resp), "text/event-stream")
}

// mayBeEventStream reports whether the response is an event stream, or does not
// say what it is: some gateways leave that out, and the SDKs do not ask.
func mayBeEventStream(resp *http.Response) bool {
	return isEventStream(resp) || resp.StatusCode == http.StatusOK && resp.Header.Get("Content-Type") == ""
}

// A begunBody is a body of which the beginning has been read, and is read again.
type begunBody struct {
	io.Reader
	io.Closer
}

// errorResponse is the response that an error event, or an error in a success,
// stands for. It has the header of the one that brought it, which is closed.
func errorResponse(resp *http.Response, data []byte) *http.Response {
	e := *resp
	e.StatusCode = statusCode(parseAPIErrors(data))
	e.Status = strings.TrimSpace(fmt.Sprint(e.StatusCode, " ", http.StatusText(e.StatusCode)))
	e.Header = withContentType(resp.Header, "application/json")
	e.Header.Del("Content-Length")
	e.Header.Del("Content-Encoding")
	e.TransferEncoding, e.Trailer, e.Uncompressed = nil, nil, false
	e.ContentLength = int64(len(data))
	e.Body = io.NopCloser(bytes.NewReader(data))
	return &e
}

// withContentType is a copy of h, which may be nil, with another Content-Type.
func withContentType(h http.Header, mediaType string) http.Header {
	if h = h.Clone(); h == nil {
		h = make(http.Header)
	}
	h.Set("Content-Type", mediaType)
	return h
}
