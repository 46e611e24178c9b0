package inference

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
)

// A corrector stands below the retry layer, and turns a success whose body is
// nothing but an error into the response that the API should have sent: with
// the error's status, and the same body. Some gateways, OpenRouter for one, have
// to send a status before they know the outcome. In a stream the same comes as
// an error event, which is the opener's concern.
type corrector struct{ base http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (c corrector) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.base.RoundTrip(req)
	if !isSuccess(resp, err) || isEventStream(resp) || resp.ContentLength > maxErrorBytes {
		return resp, err
	}
	body := peek(req.Context(), resp)
	if len(body) > maxErrorBytes || !isOnlyError(body) {
		return resp, nil
	}
	resp.Body.Close()
	return errorResponse(resp, body), nil
}

// isSuccess reports whether an attempt brought a success that has a body. A
// transport of the caller's need not keep the contract of [http.RoundTripper].
func isSuccess(resp *http.Response, err error) bool {
	return err == nil && resp != nil && resp.Body != nil && resp.StatusCode/100 == 2
}

// CloseIdleConnections is what [http.Client.CloseIdleConnections] calls.
func (c corrector) CloseIdleConnections() {
	if base, ok := c.base.(interface{ CloseIdleConnections() }); ok {
		base.CloseIdleConnections()
	}
}

// peek returns what [readUpTo] reads of the response's body, for maxErrorBytes,
// and leaves the body as if it had not been read. When ctx is done it closes the
// body.
func peek(ctx context.Context, resp *http.Response) []byte {
	stop := closeWhenDone(ctx, resp)
	defer stop()
	resp.Body = begunBody{&stickyReader{r: resp.Body}, resp.Body}
	begin, _ := readUpTo(resp, maxErrorBytes) // whose error comes again behind it
	resp.Body = begunBody{io.MultiReader(bytes.NewReader(begin), resp.Body), resp.Body}
	return begin
}

// A stickyReader repeats its error, which a body need not do.
type stickyReader struct {
	r   io.Reader
	err error
}

// Read implements [io.Reader].
func (s *stickyReader) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(p)
	s.err = err
	return n, err
}

// isOnlyError reports whether the body of a success tells of an error, and has
// no answer beside it.
func isOnlyError(body []byte) bool {
	if !speaksOfError(body) {
		return false // without decoding it, which takes longer than all else here
	}
	chunks := oneOrFew[chunk](body)
	return slices.ContainsFunc(chunks, chunk.isError) && !slices.ContainsFunc(chunks, chunk.isAnswer)
}

// speaksOfError reports whether JSON may tell of an error: "error" is in it, as a
// name or a value, and not only with null after it, or there is a message and
// no choices, which have messages too. Within a longer string the quotes would be
// escaped.
func speaksOfError(body []byte) bool {
	if bytes.Contains(body, []byte(`"message"`)) && !bytes.Contains(body, []byte(`"choices"`)) {
		return true
	}
	_, after, found := bytes.Cut(body, []byte(`"error"`))
	for found && bytes.HasPrefix(bytes.TrimLeft(after, " \t\r\n:"), []byte("null")) {
		_, after, found = bytes.Cut(after, []byte(`"error"`))
	}
	return found
}

// isAnswer reports whether one of c's choices is an answer.
func (c chunk) isAnswer() bool { return slices.ContainsFunc(c.Choices, choice.isAnswer) }
