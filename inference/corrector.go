package inference

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
)

// A corrector stands below the retry layer, and makes of a success whose body
// is nothing but an error the response that the API should have sent: with the
// error's status, and the same body. Gateways send such when they have to send
// a status before they know, OpenRouter for one. An error event is the same in
// a stream, and opener's.
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

// peek returns the beginning of the response's body, one byte more than
// maxErrorBytes if there is as much, and leaves the body as if it had not been
// read.
func peek(ctx context.Context, resp *http.Response) []byte {
	stop := closeWhenDone(ctx, resp)
	defer stop()
	begin, err := readUpTo(resp, maxErrorBytes)
	rest := io.Reader(resp.Body)
	if err != nil {
		rest = brokenReader{err} // which a body need not say twice
	}
	resp.Body = begunBody{io.MultiReader(bytes.NewReader(begin), rest), resp.Body}
	return begin
}

type brokenReader struct{ err error }

// Read implements [io.Reader].
func (r brokenReader) Read([]byte) (int, error) { return 0, r.err }

// isOnlyError reports whether the body of a success tells of an error, and
// brings no answer beside.
func isOnlyError(body []byte) bool {
	if !speaksOfError(body) {
		return false // without decoding it, which takes longer than all else here
	}
	chunks := oneOrFew[chunk](body)
	return slices.ContainsFunc(chunks, chunk.isError) && !slices.ContainsFunc(chunks, chunk.isAnswer)
}

// speaksOfError reports whether JSON may hold the member error with something
// else than null, or the string. In a longer string the quotes are escaped.
func speaksOfError(body []byte) bool {
	_, after, found := bytes.Cut(body, []byte(`"error"`))
	for found && bytes.HasPrefix(bytes.TrimLeft(after, " \t\r\n:"), []byte("null")) {
		_, after, found = bytes.Cut(after, []byte(`"error"`))
	}
	return found
}

// isAnswer reports whether a choice of c is one.
func (c chunk) isAnswer() bool { return slices.ContainsFunc(c.Choices, choice.isAnswer) }
