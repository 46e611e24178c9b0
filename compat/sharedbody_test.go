package compat_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"github.com/httpretry/httpretry"
	"github.com/openai/openai-go/v3/option"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// uploadSize exceeds the buffers of a loopback connection, so that net/http is
// still reading the body when the response to an attempt arrives.
const uploadSize = 4 << 20

// upload repeats nowhere, so that a gap shows, and is text, as a string of a
// protobuf message must be.
var upload = hex.EncodeToString([]byte(readAll(stream(uploadSize / 2))))

// The GetBody of these SDKs rewinds a single reader, which net/http may still be
// reading for the attempt before. Each attempt must carry the bytes of the body
// all the same, and the last one all of them.
func TestRetryTransport_GetBodyRewindsSharedReader(t *testing.T) {
	message, err := proto.Marshal(wrapperspb.String(upload))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		body    string // as it is sent
		service func() http.Handler
		call    func(ctx context.Context, url string, retry *httpretry.RetryTransport) error
	}{
		{"azblob", upload, azblobService, azblobUpload(upload)},
		{"connect-go", string(message), connectUnaryService, connectUnaryShared},
		{"openai-go", upload, digestService, openaiUploadShared},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			const calls = 20
			fails := failures{}
			for call := range calls {
				fails[3*call+1], fails[3*call+2] = early, early
			}
			s := serve(t, fails, tt.service())
			checked := &bodyChecker{base: s.transport, want: tt.body}
			for call := range calls {
				retry := s.retry()
				retry.Base = checked
				if err := tt.call(t.Context(), s.url, retry); err != nil {
					t.Errorf("call %d: got error %v, want success after two early 503s", call+1, err)
				}
			}
			if got, want := int(s.attempts.Load()), 3*calls; got != want {
				t.Errorf("got %d attempts, want %d", got, want)
			}
			s.transport.CloseIdleConnections()
			checked.report(t)
		})
	}
}

func connectUnaryShared(ctx context.Context, url string, retry *httpretry.RetryTransport) error {
	client := newConnect(url, retry)
	resp, err := client.CallUnary(ctx, connect.NewRequest(wrapperspb.String(upload)))
	if err != nil {
		return err
	}
	return want("digest", digest(strings.NewReader(resp.Msg.GetValue())), digest(strings.NewReader(upload)))
}

func openaiUploadShared(ctx context.Context, url string, retry *httpretry.RetryTransport) error {
	client := newOpenAI(url, retry)
	var resp struct{ Digest string }
	body := option.WithRequestBody("application/octet-stream", bytes.NewReader([]byte(upload)))
	if err := client.Post(ctx, "uploads", nil, &resp, body); err != nil {
		return err
	}
	return want("digest", resp.Digest, digest(strings.NewReader(upload)))
}

// digestService returns the digest of each request body.
func digestService() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got := digest(r.Body)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"digest":%q}`, got)
	})
}

// A bodyChecker is the Base of a RetryTransport. It compares the bytes that are
// read of each attempt's body, and of the copies that its GetBody returns, with
// those that the body should have. net/http may read after RoundTrip has
// returned, so faults are collected.
type bodyChecker struct {
	base http.RoundTripper
	want string

	mu     sync.Mutex
	read   int64 // bytes, by all attempts
	faults []error
}

func (c *bodyChecker) RoundTrip(req *http.Request) (*http.Response, error) {
	attempt := httpretry.AttemptNumber(req.Context())
	sent := req.WithContext(req.Context())
	sent.Body = &checkedBody{ReadCloser: req.Body, c: c, attempt: attempt}
	if req.GetBody != nil {
		sent.GetBody = func() (io.ReadCloser, error) {
			body, err := req.GetBody()
			if err != nil {
				return nil, err
			}
			return &checkedBody{ReadCloser: body, c: c, attempt: attempt}, nil
		}
	}
	return c.base.RoundTrip(sent)
}

func (c *bodyChecker) report(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := errors.Join(c.faults...); err != nil {
		t.Error(err)
	}
	t.Logf("%d bytes were read and compared", c.read)
}

type checkedBody struct {
	io.ReadCloser
	c       *bodyChecker
	attempt int
	off     int
}

func (b *checkedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	switch rest := b.c.want[b.off:]; {
	case !strings.HasPrefix(rest, string(p[:n])):
		b.c.faults = append(b.c.faults, fmt.Errorf("attempt %d got other bytes at offset %d", b.attempt, b.off))
	case err == io.EOF && n < len(rest):
		b.c.faults = append(b.c.faults, fmt.Errorf("attempt %d got EOF at offset %d of %d", b.attempt, b.off+n, len(b.c.want)))
	}
	b.off = min(b.off+n, len(b.c.want))
	b.c.read += int64(n)
	return n, err
}
