package compat_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/flaky"
	"github.com/httpretry/httpretry/inference"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

func newOpenAI(baseURL string, retry *httpretry.RetryTransport) openai.Client {
	client := openai.NewClient(
		option.WithHTTPClient(&http.Client{Transport: retry}),
		option.WithMaxRetries(0), // disables the SDK's own retries
		option.WithBaseURL(baseURL),
		option.WithAPIKey("key"),
	)
	return client
}

func newAnthropic(baseURL string, retry *httpretry.RetryTransport) anthropic.Client {
	client := anthropic.NewClient(
		anthropicoption.WithHTTPClient(&http.Client{Transport: retry}),
		anthropicoption.WithMaxRetries(0), // disables the SDK's own retries
		anthropicoption.WithBaseURL(baseURL),
		anthropicoption.WithAPIKey("key"),
	)
	return client
}

// generating sets up retry for a client of a language model API.
func generating(retry *httpretry.RetryTransport) {
	retry.Classifier = inference.Classifier // an exhausted quota is final
	retry.MaxResponseBytes = 1 << 20        // lets it read bodies; event streams are not buffered
	retry.Idempotent = func(req *http.Request) bool {
		return httpretry.IsIdempotent(req) ||
			strings.HasSuffix(req.URL.Path, "/chat/completions") || // generating has no side effect
			strings.HasSuffix(req.URL.Path, "/v1/messages")
	}
}

// Other POSTs to the same APIs have side effects.
func TestGenerating_LeavesOtherPOSTsAlone(t *testing.T) {
	t.Parallel()
	s := serve(t, failures{1: reset}, fileService())
	retry := s.retry()
	generating(retry)
	if err := openaiUpload(t.Context(), s.url, retry); err == nil {
		t.Error("got success, want the error of the reset: a retry may leave a second file")
	}
	if got := len(s.script.Requests()); got != 1 {
		t.Errorf("got %d requests, want 1", got)
	}
}

// Alone, openai-go makes two retries, and none after a response body or a
// timeout that failed. The RetryTransport succeeds where it does not.
func TestOpenAI_AloneFailsWhereRetryTransportSucceeds(t *testing.T) {
	cutOff := failure{Step: flaky.Pass().Truncate(20)}
	gateway := failure{Step: flaky.Status(http.StatusBadGateway)}
	for name, fails := range map[string]failures{
		"cut-off response": {1: cutOff},
		"hanging attempt":  {1: {Step: flaky.Hang()}},
		"three failures":   {1: gateway, 2: reset, 3: gateway},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			service := respond("application/json", openaiCompletion)
			alone := serve(t, fails, service)
			sdk := openai.NewClient(option.WithBaseURL(alone.url), option.WithAPIKey("key"),
				option.WithHTTPClient(&http.Client{Transport: alone.transport}), option.WithRequestTimeout(time.Second))
			if _, err := sdk.Chat.Completions.New(t.Context(), openaiQuestion); err == nil {
				t.Error("got success from the SDK alone, want an error")
			}
			s := serve(t, fails, service)
			retry := s.retry()
			generating(retry)
			retry.AttemptTimeout = time.Second
			if err := openaiChat(t.Context(), s.url, retry); err != nil {
				t.Errorf("got error %v, want success", err)
			}
			s.check(t, 1)
		})
	}
}

func TestLLM(t *testing.T) {
	runSDKTests(t, []sdkTest{
		{
			name: "openai-go chat", reason: "a reset, then two refusals: generating may be repeated",
			fails:     failures{1: reset, 2: busy, 3: down},
			configure: generating,
			service:   func() http.Handler { return respond("application/json", openaiCompletion) },
			call:      openaiChat,
		},
		{
			name: "openai-go streaming", reason: "the stream begins with the attempt that succeeds",
			fails:     failures{1: reset, 2: down},
			configure: generating,
			service:   func() http.Handler { return respond("text/event-stream", openaiEvents) },
			call:      openaiStream,
		},
		{
			name: "openai-go file upload", reason: "a large body that the server refuses early is sent again in full",
			fails:   failures{1: early, 2: busy},
			service: fileService,
			call:    openaiUpload,
		},
		{
			name: "anthropic-sdk-go message", reason: "a reset, then two refusals: generating may be repeated",
			fails:     failures{1: reset, 2: busy, 3: down},
			configure: generating,
			service:   func() http.Handler { return respond("application/json", anthropicReply) },
			call:      anthropicMessage,
		},
		{
			name: "anthropic-sdk-go streaming", reason: "the stream begins with the attempt that succeeds",
			fails:     failures{1: reset, 2: down},
			configure: generating,
			service:   func() http.Handler { return respond("text/event-stream", anthropicEvents) },
			call:      anthropicStream,
		},
	})
}

const (
	openaiCompletion = `{"id":"c","object":"chat.completion","choices":[{"index":0,` +
		`"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}]}`
	openaiEvents = `data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"hel"}}]}` + "\n\n" +
		`data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"lo"}}]}` + "\n\n" +
		"data: [DONE]\n\n"
	anthropicReply = `{"id":"m","type":"message","role":"assistant","model":"a-model",` +
		`"content":[{"type":"text","text":"hello"}],"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":1}}`
	anthropicEvents = "event: content_block_delta\n" +
		`data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hel"}}` + "\n\n" +
		"event: content_block_delta\n" +
		`data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"lo"}}` + "\n\n" +
		"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"
)

var openaiQuestion = openai.ChatCompletionNewParams{
	Model:    "a-model",
	Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("say hello")},
}

func openaiChat(ctx context.Context, url string, retry *httpretry.RetryTransport) error {
	client := newOpenAI(url, retry)
	completion, err := client.Chat.Completions.New(ctx, openaiQuestion)
	if err != nil {
		return err
	}
	return want("content", completion.Choices[0].Message.Content, "hello")
}

func openaiStream(ctx context.Context, url string, retry *httpretry.RetryTransport) error {
	client := newOpenAI(url, retry)
	events := client.Chat.Completions.NewStreaming(ctx, openaiQuestion)
	defer events.Close()
	var content string
	for events.Next() {
		content += events.Current().Choices[0].Delta.Content
	}
	if err := events.Err(); err != nil {
		return err
	}
	return want("content", content, "hello")
}

func openaiUpload(ctx context.Context, url string, retry *httpretry.RetryTransport) error {
	client := newOpenAI(url, retry)
	file, err := client.Files.New(ctx, openai.FileNewParams{
		File:    openai.File(stream(3<<20), "data.jsonl", "application/jsonl"),
		Purpose: openai.FilePurposeBatch,
	})
	if err != nil {
		return err
	}
	return want("digest", file.ID, digest(stream(3<<20)))
}

// fileService answers an upload with its digest as the file's id.
func fileService() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		file, _, err := r.FormFile("file")
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		defer file.Close()
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"id":%q,"object":"file"}`, digest(file))
	})
}

var anthropicQuestion = anthropic.MessageNewParams{
	Model:     "a-model",
	MaxTokens: 10,
	Messages:  []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("say hello"))},
}

func anthropicMessage(ctx context.Context, url string, retry *httpretry.RetryTransport) error {
	client := newAnthropic(url, retry)
	message, err := client.Messages.New(ctx, anthropicQuestion)
	if err != nil {
		return err
	}
	return want("text", message.Content[0].Text, "hello")
}

func anthropicStream(ctx context.Context, url string, retry *httpretry.RetryTransport) error {
	client := newAnthropic(url, retry)
	events := client.Messages.NewStreaming(ctx, anthropicQuestion)
	defer events.Close()
	var text string
	for events.Next() {
		text += events.Current().Delta.Text
	}
	if err := events.Err(); err != nil {
		return err
	}
	return want("text", text, "hello")
}
