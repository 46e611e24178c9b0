package httpretry_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/httpretry/httpretry"
)

// A server may respond before it has read the body. The transport then continues
// to read its copy, perhaps while a Read of the source is under way that the
// attempt before has caused.
func TestReplay_SourceReadUnderWayAfterLastResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, writer := io.Pipe()
		go writer.Write([]byte("begin"))
		var got strings.Builder
		var sent io.ReadCloser
		rt := &httpretry.RetryTransport{Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			if httpretry.AttemptNumber(req.Context()) == 1 {
				io.ReadFull(req.Body, make([]byte, len("begin")))
				go req.Body.Read(make([]byte, 1)) // blocks
				synctest.Wait()
				return response(req, 503, ""), nil
			}
			sent = req.Body
			io.CopyN(&got, sent, 2)
			return response(req, 200, ""), nil
		})}
		resp, err := rt.RoundTrip(newRequest(t, "PUT", "http://example.com/", source))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		io.CopyN(&got, sent, 3)
		go func() {
			writer.Write([]byte(" end"))
			writer.Close()
		}()
		_, err = io.Copy(&got, sent)
		sent.Close()
		if got.String() != "begin end" || err != nil {
			t.Errorf("second attempt read %q, error %v, want %q", got.String(), err, "begin end")
		}
	})
}

// A copy must not read a chunk that another copy has dropped: it may belong to
// the body of another call.
func TestReplay_CopyAtTheEndOfDroppedChunk(t *testing.T) {
	const chunk = 32 << 10
	content := pattern(chunk + 100)
	secret := bytes.Repeat([]byte("secret "), chunk)
	for range 20 {
		var sent, ahead io.ReadCloser
		req := newRequest(t, "PUT", "http://example.com/", nil)
		req.Body = newTestBodyOf(content)
		rt := &httpretry.RetryTransport{Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			sent = req.Body
			whole, err := req.GetBody()
			if err != nil {
				return nil, err
			}
			ahead, err = req.GetBody()
			if err != nil {
				return nil, err
			}
			io.Copy(io.Discard, whole)
			io.ReadFull(ahead, make([]byte, chunk))
			io.ReadFull(sent, make([]byte, chunk-1))
			return response(req, 200, ""), nil
		})}
		if _, err := rt.RoundTrip(req); err != nil {
			t.Fatal(err)
		}
		io.ReadFull(sent, make([]byte, 1)) // drops the first chunk

		// Another call buffers its body, and so may take that chunk.
		var other io.ReadCloser
		rt2 := &httpretry.RetryTransport{Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
			other = req.Body
			io.ReadFull(other, make([]byte, 3*chunk))
			return response(req, 200, ""), nil
		})}
		req2 := newRequest(t, "PUT", "http://example.com/", nil)
		req2.Body = newTestBodyOf(secret)
		if _, err := rt2.RoundTrip(req2); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(ahead)
		if !bytes.Equal(got, content[chunk:]) && err == nil {
			t.Fatalf("copy read %.30q, error %v, want the rest of its body or an error", got, err)
		}
		sent.Close()
		ahead.Close()
		other.Close()
	}
}

func newTestBodyOf(b []byte) io.ReadCloser { return &testBody{Reader: bytes.NewReader(b)} }
