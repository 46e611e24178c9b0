package compat_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/inference"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

func newOpenAI(baseURL string, retry *httpretry.RetryTransport) openai.Client {
	client := openai.NewClient(
		option.WithHTTPClient(&http.Client{Transport: retry}),
		option.WithMaxRetries(0), // switches off the SDK's own retries
		option.WithBaseURL(baseURL),
		option.WithAPIKey("key"),
	)
	return client
}

func newAnthropic(baseURL string, retry *httpretry.RetryTransport) anthropic.Client {
	client := anthropic.NewClient(
		anthropicoption.WithHTTPClient(&http.Client{Transport: retry}),
		anthropicoption.WithMaxRetries(0), // switches off the SDK's own retries
		anthropicoption.WithBaseURL(baseURL),
		anthropicoption.WithAPIKey("key"),
	)
	return client
}

// generating is for a client that does nothing else.
func generating(retry *httpretry.RetryTransport) {
	retry.Classifier = inference.Classifier{}                   // a 429 for a used-up quota is final
	retry.MaxResponseBytes = 1 << 20                            // lets it read error bodies, and holds back no stream
	retry.Idempotent = func(*http.Request) bool { return true } // generating has no side effect
}

func TestLLM(t *testing.T) {
	runSDKTests(t, []sdkTest{
		{
			name: "openai-go chat", reason: "reset, which generating survives, then rejected twice",
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
			name: "openai-go file upload", reason: "a server that turns a large body away early gets all of it the second time",
			fails:     failures{1: early, 2: busy},
			configure: largeBodies,
			service:   fileService,
			call:      openaiUpload,
		},
		{
			name: "anthropic-sdk-go message", reason: "reset, which generating survives, then rejected twice",
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
