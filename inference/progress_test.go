package inference_test

import (
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/httpretry/httpretry/inference"
)

// A slowBody is a body of events, each of which takes as long to arrive.
type slowBody struct {
	events   []string // the next one first
	interval time.Duration
	closed   chan struct{}
	close    func()
}

func newSlowBody(interval time.Duration, events []string) *slowBody {
	closed := make(chan struct{})
	return &slowBody{events, interval, closed, sync.OnceFunc(func() { close(closed) })}
}

func (b *slowBody) Read(p []byte) (int, error) {
	if len(b.events) == 0 {
		return 0, io.EOF
	}
	select {
	case <-b.closed:
		return 0, errors.New("read after Close")
	case <-time.After(b.interval):
	}
	n := copy(p, b.events[0])
	b.events = b.events[1:]
	return n, nil
}

func (b *slowBody) Close() error {
	b.close()
	return nil
}

// idleAfter returns the time from the content of a stream to its end, and whether
// that is a timeout after 6 s without progress. After the content, the stream has
// one event in each interval, 20 in all: the given ones again and again, with their
// number in place of #, and a time in place of @.
func idleAfter(t *testing.T, interval time.Duration, events ...string) (elapsed time.Duration, stalled bool) {
	t.Helper()
	sent := []string{sse(fo)}
	for i := range 20 {
		event := strings.NewReplacer("#", strconv.Itoa(i+1), "@", strconv.Itoa(1_700_000_001+i)).Replace(events[i%len(events)])
		if strings.HasPrefix(event, "{") || strings.HasPrefix(event, "[") {
			event = "data: " + event
		}
		sent = append(sent, event+"\n\n")
	}
	client := streamFrom(t, inference.HTTPInferenceClientConfig{Timeout: time.Hour, StreamIdleTimeout: 6 * time.Second},
		newSlowBody(interval, append(sent, sse("[DONE]"))))
	var start time.Time
	var failure error
	for _, err := range client.Stream(t.Context(), question()) {
		if start.IsZero() {
			start = time.Now()
		}
		failure = err
	}
	var timeout net.Error
	return time.Since(start), errors.As(failure, &timeout) && timeout.Timeout()
}

// choiceOf returns an event whose only choice has these members.
func choiceOf(members string) string { return `{"choices":[{"index":0,` + members + `}]}` }

// deltaOf returns an event whose delta has these members.
func deltaOf(members string) string { return choiceOf(`"delta":{` + members + `}`) }

// TestStream_KeepAlives has events that add nothing to the answer.
func TestStream_KeepAlives(t *testing.T) {
	for _, tc := range []struct {
		name   string
		events []string
	}{
		{"comment", []string{": ping"}},
		{"ping", []string{"data: ping"}},
		{"ping by its name", []string{"event: ping\ndata: {\"type\":\"ping\"}"}},
		{"no choices", []string{`{"choices":[]}`}},
		{"empty choice", []string{`{"choices":[{"index":0}]}`}},
		{"empty delta", []string{deltaOf(``)}},
		{"empty content", []string{deltaOf(`"content":""`)}},
		{"empty content in a list of one chunk", []string{"[" + deltaOf(`"content":""`) + "]"}},
		{"empty content of a second choice", []string{`{"choices":[{"index":1,"delta":{"content":""}}]}`}},
		{"role", []string{deltaOf(`"role":"assistant","content":""`)}},
		{"nulls", []string{deltaOf(`"content":null,"tool_calls":null,"refusal":null`)}},
		{"empty text", []string{choiceOf(`"text":""`)}},
		{"empty message", []string{choiceOf(`"message":{"role":"assistant","content":""}`)}},
		{"empty reasoning", []string{deltaOf(`"reasoning_content":"","reasoning":null,"reasoning_details":[]`)}},
		{"empty annotations and audio", []string{deltaOf(`"annotations":[],"audio":null,"function_call":null`)}},
		{"empty list as content", []string{deltaOf(`"content":[]`)}},
		{"empty log probabilities", []string{choiceOf(`"delta":{},"logprobs":{"content":[]}`)}},
		{"a filter's result", []string{choiceOf(`"delta":{},"content_filter_results":{"hate":{"filtered":false}}`)}},
		{"a filter's result again", []string{choiceOf(`"delta":{},"content_filter_results":{"hate":{"filtered":false,"severity":"safe"}}`)}},
		{"a filter's result for the prompt again", []string{`{"choices":[],"prompt_filter_results":[{"prompt_index":0,"content_filter_results":{"hate":{"severity":"safe"}}}]}`}},
		{"obfuscation", []string{`{"choices":[{"index":0,"delta":{"content":""}}],"obfuscation":"abc#"}`}},
		{"obfuscation in the delta", []string{deltaOf(`"content":"","obfuscation":"abc#"`)}},
		{"provider", []string{`{"choices":[{"index":0,"delta":{"content":"","role":"assistant"},"finish_reason":null,"native_finish_reason":null,"logprobs":null}],"provider":"x"}`}},
		{"usage of nothing", []string{`{"choices":[],"usage":{"prompt_tokens":0,"completion_tokens":0}}`}},
		{"usage again", []string{usage}},
		{"usage again with other spaces", []string{`{"choices":[],"usage":{"completion_tokens":2}}`, `{"choices":[],"usage":{ "completion_tokens" : 2 }}`}},
		{"usage again in another order", []string{`{"usage":{"a":2,"b":3}}`, `{"usage":{"b":3,"a":2}}`}},
		{"usage again, in turn with the finish reason", []string{usage, finish}},
		{"usage again with another time", []string{`{"usage":{"completion_tokens":2,"total_time":#.5,"queueTime":#,"latency_ms":#,"latencyMs":#}}`}},

		{"empty tool call", []string{deltaOf(`"tool_calls":[{"index":0,"function":{"arguments":""}}]`)}},
		{"empty second tool call", []string{deltaOf(`"tool_calls":[{"index":1,"function":{"arguments":""}}]`)}},
		{"tool call again", []string{deltaOf(`"tool_calls":[{"index":0,"id":"x","type":"function","function":{"name":"f","arguments":""}}]`)}},
		{"tool call again with another id", []string{deltaOf(`"tool_calls":[{"index":0,"id":"x#","type":"function","function":{"name":"f","arguments":""}}]`)}},
		{"two tool calls again in turn", []string{
			deltaOf(`"tool_calls":[{"index":0,"id":"x","function":{"name":"f","arguments":""}}]`),
			deltaOf(`"tool_calls":[{"index":1,"id":"y","function":{"name":"f","arguments":""}}]`),
		}},
		{"function call again", []string{deltaOf(`"function_call":{"name":"f","arguments":""}`)}},
		{"empty text part, as Mistral's", []string{deltaOf(`"content":[{"type":"text","text":""}]`)}},
		{"empty thought, as Mistral's", []string{deltaOf(`"content":[{"type":"thinking","thinking":[{"type":"text","text":""}]}]`)}},
		{"empty reasoning details", []string{deltaOf(`"reasoning_details":[{"type":"reasoning.text","text":"","format":"anthropic-claude-v1","index":0,"signature":""}]`)}},
		{"empty audio", []string{deltaOf(`"audio":{"id":"a","data":"","transcript":"","expires_at":@}`)}},
		{"id and time", []string{deltaOf(`"id":"m1","created":1`)}},
		{"another id and time", []string{deltaOf(`"id":"m#","message_id":"m#","requestId":"r#","created":#,"sent_at":"12:00:#","timestamp":#`)}},
		{"a time of any name", []string{deltaOf(`"now":@`), deltaOf(`"now":@.25`), deltaOf(`"now":@000`)}},
		{"number of the event", []string{deltaOf(`"seq":#`), deltaOf(`"sequence_number":#`), deltaOf(`"ping":#,"heartbeat":{"n":#}`)}},
		{"finish reason again", []string{finish}},
		{"null in quotes as finish reason", []string{choiceOf(`"delta":{},"finish_reason":"null"`)}},
		{"status again", []string{deltaOf(`"status":"thinking"`)}},
		{"number again", []string{deltaOf(`"progress":0.5,"busy":true`)}},
		{"a member of the stream again", []string{`{"choices":[{"index":0,"delta":{}}],"citations":["https://example.com/a","https://example.com/b"]}`}},
		{"ids among the members of the stream", []string{`{"choices":[{"index":0,"delta":{}}],"id":"#","service":"s#","x_groq":{"id":"req_#"}}`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// The first of them may have something new.
				if elapsed, stalled := idleAfter(t, time.Second, tc.events...); !stalled || elapsed > time.Duration(6+len(tc.events))*time.Second {
					t.Errorf("ended after %v, by a stall: %t; want a stall after 6 s without progress", elapsed, stalled)
				}
			})
		})
	}
}

// TestStream_Progress has events that add something to the answer, or might. To
// take one for a keep-alive would end a good stream.
func TestStream_Progress(t *testing.T) {
	for _, tc := range []struct {
		name   string
		events []string
	}{
		{"content", []string{deltaOf(`"content":"ha"`)}},
		{"content by another case", []string{`{"Choices":[{"Index":0,"Delta":{"Content":"ha"}}]}`}},
		{"content in a list of one chunk", []string{"[" + deltaOf(`"content":"ha"`) + "]"}},
		{"space", []string{deltaOf(`"content":" "`)}},
		{"a time as content", []string{deltaOf(`"content":"1700000000"`)}},
		{"a word for a keep-alive as content", []string{deltaOf(`"content":"ping"`)}},
		{"content of a second choice", []string{`{"choices":[{"index":1,"delta":{"content":"ha"}}]}`}},
		{"content of the second choice of two", []string{`{"choices":[{"index":0,"delta":{}},{"index":1,"delta":{"content":"ha"}}]}`}},
		{"text", []string{choiceOf(`"text":"ha"`)}},
		{"message", []string{choiceOf(`"message":{"role":"assistant","content":"ha"}`)}},
		{"text part, as Mistral's", []string{deltaOf(`"content":[{"type":"text","text":"ha"}]`)}},
		{"thought, as Mistral's", []string{deltaOf(`"content":[{"type":"thinking","thinking":[{"type":"text","text":"ha"}]}]`)}},
		{"part that is a string", []string{deltaOf(`"content":["ha"]`)}},
		{"reasoning", []string{deltaOf(`"content":"","reasoning_content":"hm"`)}},
		{"reasoning of another name", []string{deltaOf(`"reasoning":"hm"`)}},
		{"reasoning details", []string{deltaOf(`"reasoning_details":[{"type":"reasoning.text","text":"hm","format":"x","index":0}]`)}},
		{"encrypted reasoning", []string{deltaOf(`"reasoning_details":[{"type":"reasoning.encrypted","data":"AA=="}]`)}},
		{"signature", []string{deltaOf(`"thinking_blocks":[{"type":"thinking","thinking":"","signature":"AA=="}]`)}},
		{"refusal", []string{deltaOf(`"refusal":"no"`)}},
		{"audio", []string{deltaOf(`"audio":{"id":"a","data":"AAAA"}`)}},
		{"transcript", []string{deltaOf(`"audio":{"id":"a","transcript":"ha"}`)}},
		{"image", []string{deltaOf(`"images":[{"type":"image_url","image_url":{"url":"data:,AA"}}]`)}},
		{"arguments", []string{deltaOf(`"tool_calls":[{"index":0,"function":{"arguments":" "}}]`)}},
		{"arguments of a function call", []string{deltaOf(`"function_call":{"arguments":" "}`)}},
		{"arguments that are an object", []string{deltaOf(`"tool_calls":[{"index":0,"function":{"arguments":{"a":#}}}]`)}},
		{"another tool call", []string{deltaOf(`"tool_calls":[{"index":#,"id":"x","function":{"name":"f","arguments":""}}]`)}},
		{"another name of a tool", []string{deltaOf(`"tool_calls":[{"index":0,"function":{"name":"f#"}}]`)}},
		{"numbers of tokens", []string{deltaOf(`"tokens":[#,1]`)}},
		{"the same numbers of tokens in the delta", []string{deltaOf(`"tokens":[5]`)}},
		{"numbers of tokens in the choice", []string{choiceOf(`"delta":{"content":""},"token_ids":[#]`)}},
		{"log probabilities", []string{choiceOf(`"delta":{"content":""},"logprobs":{"content":[{"token":"","logprob":-0.#,"bytes":[240]}]}`)}},
		{"another filter's result", []string{choiceOf(`"content_filter_results":{},"content_filter_offsets":{"check_offset":#}`)}},
		{"another status", []string{deltaOf(`"status":"step #"`)}},
		{"another type", []string{deltaOf(`"type":"search_#"`)}},
		{"another number", []string{deltaOf(`"progress":#`)}},
		{"another number in a number's name", []string{deltaOf(`"progress":{"images":{"#":true}}`)}},
		{"string of an unknown name", []string{deltaOf(`"x":"ha"`)}},
		{"string in unknown lists", []string{deltaOf(`"x":[[{"y":["ha"]}]]`)}},
		{"anything deep", []string{deltaOf(`"x":` + strings.Repeat("[", 50) + `{"id":1}` + strings.Repeat("]", 50))}},
		{"delta that is a string", []string{choiceOf(`"text":"","delta":"ha"`)}},
		{"usage that grows", []string{`{"choices":[],"usage":{"completion_tokens":#}}`}},
		{"usage that grows, inside", []string{`{"choices":[],"usage":{"completion_tokens":2,"completion_tokens_details":{"reasoning_tokens":#}}}`}},
		{"usage that grows beside an empty delta", []string{`{"choices":[{"index":0,"delta":{"content":""}}],"usage":{"completion_tokens":#}}`}},
		{"usage of the other tokens", []string{`{"choices":[],"usage":{"prompt_tokens":#,"completion_tokens":1}}`}},
		{"a member of the stream that grows", []string{`{"choices":[{"index":0,"delta":{}}],"timings":{"predicted_n":#}}`}},
		{"finish reasons of many choices", []string{`{"choices":[{"index":#,"delta":{},"finish_reason":"stop"}]}`}},
		{"content among keep-alives", []string{deltaOf(`"content":"ha"`), deltaOf(`"tool_calls":[{"index":0,"function":{"arguments":"x"}}]`)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if elapsed, stalled := idleAfter(t, 5*time.Second, tc.events...); stalled || elapsed != 105*time.Second {
					t.Errorf("ended after %v, by a stall: %t; want the end after 1m45s", elapsed, stalled)
				}
			})
		})
	}
}

// BenchmarkStream measures the events of an answer without a network.
func BenchmarkStream(b *testing.B) {
	chunk := func(choice string) string {
		return `{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"small","system_fingerprint":"fp_1","choices":[` + choice + `],"obfuscation":"abcdef"}`
	}
	logprob := `{"token":"four","logprob":-0.25,"bytes":[102,111,117,114],"top_logprobs":[` + strings.Repeat(`{"token":"four","logprob":-0.25,"bytes":[102,111,117,114]},`, 19) + `{"token":"4","logprob":-3,"bytes":[52]}]}`
	for _, tc := range []struct{ name, event string }{
		{"content", chunk(`{"index":0,"delta":{"content":" four"},"logprobs":null,"finish_reason":null}`)},
		{"tool call", chunk(`{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":" four"}}]},"logprobs":null,"finish_reason":null}`)},
		{"logprobs", chunk(`{"index":0,"delta":{"content":" four"},"logprobs":{"content":[` + logprob + `]},"finish_reason":null}`)},
		{"image", chunk(`{"index":0,"delta":{"images":[{"type":"image_url","image_url":{"url":"` + strings.Repeat("A", 1<<20) + `"}}]},"finish_reason":null}`)},
	} {
		b.Run(tc.name, func(b *testing.B) {
			event := sse(tc.event)
			b.SetBytes(int64(len(event)))
			body := &flood{first: event, again: event}
			client := streamFrom(b, inference.HTTPInferenceClientConfig{}, body)
			b.ReportAllocs()
			n := 0
			for _, err := range client.Stream(b.Context(), question()) {
				if err != nil {
					b.Fatal(err)
				}
				if n++; n > b.N {
					break
				}
			}
		})
	}
}
