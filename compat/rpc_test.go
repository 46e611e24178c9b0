package compat_test

import (
	"context"
	"net/http"
	"testing"

	"connectrpc.com/connect"
	"github.com/httpretry/httpretry"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const procedure = "/test.v1.EchoService/Echo"

func newConnect(baseURL string, retry *httpretry.RetryTransport) *connect.Client[wrapperspb.StringValue, wrapperspb.StringValue] {
	client := connect.NewClient[wrapperspb.StringValue, wrapperspb.StringValue](
		&http.Client{Transport: retry}, // it has no retries of its own
		baseURL+procedure,
	)
	return client
}

func TestRPC(t *testing.T) {
	// Only the author of a procedure knows that it may be called twice.
	idempotent := func(retry *httpretry.RetryTransport) {
		retry.Idempotent = func(*http.Request) bool { return true }
	}
	runSDKTests(t, []sdkTest{
		{
			name: "connect-go unary", reason: "a POST that was reset, then refused twice",
			fails: failures{1: reset, 2: busy, 3: down}, configure: idempotent, service: connectUnaryService, call: connectUnary,
		},
		{
			name: "connect-go unary over HTTP/2", reason: "the reset is one of the stream",
			fails: failures{1: reset, 2: down}, tls: true, configure: idempotent, service: connectUnaryService, call: connectUnary,
		},
		{
			name: "connect-go server stream", reason: "its request body is a pipe, buffered while it is sent",
			fails: failures{1: reset, 2: busy, 3: down}, configure: idempotent, service: connectStreamService, call: connectStream,
		},
		{
			name: "connect-go server stream over HTTP/2", reason: "the stream begins with the attempt that succeeds",
			fails: failures{1: reset, 2: down}, tls: true, configure: idempotent, service: connectStreamService, call: connectStream,
		},
	})
}

func connectUnary(ctx context.Context, url string, retry *httpretry.RetryTransport) error {
	client := newConnect(url, retry)
	resp, err := client.CallUnary(ctx, connect.NewRequest(wrapperspb.String("hello")))
	if err != nil {
		return err
	}
	return want("value", resp.Msg.GetValue(), "hello")
}

func connectStream(ctx context.Context, url string, retry *httpretry.RetryTransport) error {
	client := newConnect(url, retry)
	stream, err := client.CallServerStream(ctx, connect.NewRequest(wrapperspb.String("hello")))
	if err != nil {
		return err
	}
	defer stream.Close()
	var value string
	for stream.Receive() {
		value += stream.Msg().GetValue()
	}
	if err := stream.Err(); err != nil {
		return err
	}
	return want("value", value, "hello")
}

func connectUnaryService() http.Handler {
	echo := func(_ context.Context, req *connect.Request[wrapperspb.StringValue]) (*connect.Response[wrapperspb.StringValue], error) {
		return connect.NewResponse(req.Msg), nil
	}
	return connect.NewUnaryHandler(procedure, echo)
}

// connectStreamService returns each letter of its request in a message.
func connectStreamService() http.Handler {
	spell := func(
		_ context.Context, req *connect.Request[wrapperspb.StringValue], out *connect.ServerStream[wrapperspb.StringValue],
	) error {
		for _, letter := range req.Msg.GetValue() {
			if err := out.Send(wrapperspb.String(string(letter))); err != nil {
				return err
			}
		}
		return nil
	}
	return connect.NewServerStreamHandler(procedure, spell)
}
