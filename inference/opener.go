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

// An opener makes the beginning of an event stream a part of the attempt. It
// stands below the retry layer of one stream, and returns the response when the
// first content has come. Until then:
//
//   - an error event becomes the response that the API would have sent, had it
//     known before it sent the 200: with the error's status and the event's
//     data as the body;
//   - a stream that ends or breaks off becomes an error, as does one that holds
//     anything but JSON.
//
// So the retry layer judges, waits, counts and reports as it does for any other
// failure, and its AttemptTimeout ends with the first content. An opener serves
// one call, whose attempts come one after the other.
type opener struct {
	base   http.RoundTripper
	events *eventReader // of the response that was returned last; nil if that is no stream
}

const (
	// maxOpeningBytes bounds what is kept of the events before the first
	// content. Those beyond it are dropped: they say as little as the others.
	maxOpeningBytes = 4 << 20

	// openingBytes is what it takes to keep an event, besides its data.
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

// open reads up to the first content, and sets o.events. If an error event comes
// first, it returns the response to hand on instead. A body that turns out to be
// something else it leaves as if it had not been read.
func (o *opener) open(resp *http.Response) (instead *http.Response, err error) {
	events := newEventReader(resp.Body)
	if !isEventStream(resp) {
		if !events.beginsLikeEvents() {
			resp.Body = begunBody{events.r, resp.Body}
			return nil, nil
		}
		resp.Header = withContentType(resp.Header, "text/event-stream") // so that the retry layer does not hold it back
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

// A malformedError fails an attempt whose stream holds anything but JSON. The
// caller gets the error inside.
type malformedError struct{ *InferenceError }

func notJSON(resp *http.Response, data []byte) *InferenceError {
	return statusError(ErrCategoryServer, resp, data, "event is not JSON")
}

// closeWhenDone closes the response's body when ctx is done, unless stop is
// called before: a body need not know of the context, nor ever come to an end.
func closeWhenDone(ctx context.Context, resp *http.Response) (stop func() bool) {
	body := onceBody{resp.Body, sync.OnceValue(resp.Body.Close)}
	resp.Body = body
	return context.AfterFunc(ctx, func() { body.Close() })
}

// A onceBody passes on the first Close, of which there may be several at once.
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
// say what it is: some gateways leave that out, and the SDKs do not ask. Text is
// what net/http takes it for if a handler says nothing.
func mayBeEventStream(resp *http.Response) bool {
	mediaType := contentType(resp)
	unknown := mediaType == noContentType || strings.EqualFold(mediaType, "text/plain")
	return isEventStream(resp) || resp.StatusCode == http.StatusOK && unknown
}

// A begunBody is a body whose beginning has been read, and will be read again.
type begunBody struct {
	io.Reader
	io.Closer
}

// errorResponse is the response that the API should have sent in place of resp,
// which brought the error in data. It has a copy of resp's header. The body of
// resp is still the caller's to close.
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

// withContentType returns a copy of h, which may be nil, with that Content-Type.
func withContentType(h http.Header, mediaType string) http.Header {
	if h = h.Clone(); h == nil {
		h = make(http.Header)
	}
	h.Set("Content-Type", mediaType)
	return h
}
