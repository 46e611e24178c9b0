package inference_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/flaky"
	"github.com/httpretry/httpretry/inference"
)

const (
	begin  = `{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}`
	fo     = `{"choices":[{"index":0,"delta":{"content":"Fo"},"finish_reason":null}]}`
	ur     = `{"choices":[{"index":0,"delta":{"content":"ur"},"finish_reason":null}]}`
	finish = `{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`
	usage  = `{"choices":[],"usage":{"completion_tokens":2}}`
	failed = `{"error":{"message":"too busy","type":"overloaded_error"}}`
)

// sse writes each of data as an event.
func sse(data ...string) string {
	var b strings.Builder
	for _, d := range data {
		b.WriteString("data: " + d + "\n\n")
	}
	return b.String()
}

var four = sse(begin, fo, ur, finish, usage, "[DONE]")

func eventStream(body string) flaky.Step {
	return flaky.Status(200).WithHeader("Content-Type", "text/event-stream; charset=utf-8").WithBody(body)
}

// plainText is a 200 with the Content-Type that net/http detects for an event stream
// if the handler sets none.
func plainText(body string) flaky.Step {
	return flaky.Status(200).WithHeader("Content-Type", "text/plain; charset=utf-8").WithBody(body)
}

// collect returns the data, and the text, of all events.
func collect(t *testing.T, events iter.Seq2[inference.StreamEvent, error]) (data []string, text string, failure *inference.InferenceError) {
	t.Helper()
	for ev, err := range events {
		if failure != nil {
			t.Fatalf("got %q and %v after the error %v, which must be the last", ev.Data, err, failure)
		}
		if err != nil {
			if !errors.As(err, &failure) {
				t.Fatalf("got %#v, want an *InferenceError", err)
			}
			continue
		}
		data = append(data, string(ev.Data))
		text += ev.Text
	}
	return data, text, failure
}

// overEachProtocol runs test with servers of HTTP/1.1, then of HTTP/2.
func overEachProtocol(t *testing.T, test func(t *testing.T, start func(http.Handler) inference.HTTPInferenceClientConfig)) {
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(protocol, func(t *testing.T) {
			test(t, func(h http.Handler) inference.HTTPInferenceClientConfig {
				server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Proto != protocol {
						t.Errorf("got a request over %s, want %s", r.Proto, protocol)
					}
					h.ServeHTTP(w, r)
				}))
				server.EnableHTTP2 = protocol == "HTTP/2.0"
				server.StartTLS()
				t.Cleanup(server.Close)
				return inference.HTTPInferenceClientConfig{BaseURL: server.URL, Transport: server.Client().Transport}
			})
		})
	}
}

// write sends body in pieces that arrive one by one.
func write(w http.ResponseWriter, body string, size int) {
	w.Header().Set("Content-Type", "text/event-stream")
	for len(body) > 0 {
		n := min(size, len(body))
		io.WriteString(w, body[:n])
		http.NewResponseController(w).Flush()
		body = body[n:]
	}
}

func TestStreamOverTheWire(t *testing.T) {
	overEachProtocol(t, func(t *testing.T, start func(http.Handler) inference.HTTPInferenceClientConfig) {
		for _, size := range []int{1, 2, 3, 7, 1 << 20} {
			for _, end := range []string{"\n", "\r", "\r\n"} {
				t.Run(fmt.Sprintf("%d bytes at once, lines end in %q", size, end), func(t *testing.T) {
					stream := strings.ReplaceAll("\uFEFF: hello\n"+four, "\n", end)
					var sent atomic.Value
					client := newClient(t, start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						body, _ := io.ReadAll(r.Body)
						sent.Store(r.Method + " " + r.URL.Path + " " + r.Header.Get("Accept") + " " + string(body))
						write(w, stream, size)
					})))
					got, text, err := collect(t, client.Stream(t.Context(), question()))
					if err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff([]string{begin, fo, ur, finish, usage}, got); diff != "" {
						t.Errorf("events (-want +got):\n%s", diff)
					}
					if text != "Four" {
						t.Errorf("got text %q, want Four", text)
					}
					want := "POST /v1/chat/completions text/event-stream " +
						strings.TrimSuffix(questionBody, "}") + `,"stream":true}`
					if sent.Load() != want {
						t.Errorf("sent %s\nwant %s", sent.Load(), want)
					}
				})
			}
		}
	})
}

// TestStreamIsNotHeldBack fails if an event is yielded only after the next one.
func TestStreamIsNotHeldBack(t *testing.T) {
	overEachProtocol(t, func(t *testing.T, start func(http.Handler) inference.HTTPInferenceClientConfig) {
		received := make(chan struct{})
		client := newClient(t, start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			// The CR at the end may be the first half of a CRLF.
			for _, part := range []string{"data: " + fo + "\r\r", "data: " + ur + "\r\r", sse("[DONE]")} {
				write(w, part, len(part))
				select {
				case <-received:
				case <-r.Context().Done():
					return
				}
			}
		})))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		defer close(received)
		var text string
		for ev, err := range client.Stream(ctx, question()) {
			if err != nil {
				t.Fatalf("got %v after %q: the event that was sent did not arrive", err, text)
			}
			text += ev.Text
			received <- struct{}{}
		}
		if text != "Four" {
			t.Errorf("got %q, want Four", text)
		}
	})
}

func TestStreamFormat(t *testing.T) {
	data := func(n int) string { return fmt.Sprintf(`{"choices":[{"text":"%d"}]}`, n) }
	const open, end = `{"choices":[{`, `"text":"1"}]}`
	for _, tc := range []struct {
		name string
		body string
		want []string // data; [DONE] is added to the body
	}{
		{"events", sse(data(1), data(2)), []string{data(1), data(2)}},
		{"no space after the colon", "data:" + data(1) + "\n\n", []string{data(1)}},
		{"two spaces", "data:  " + data(1) + "\n\n", []string{" " + data(1)}},
		{"data on several lines", "data: " + open + "\ndata: \ndata: " + end + "\n\n", []string{open + "\n\n" + end}},
		{"byte order mark", "\uFEFF" + sse(data(1)), []string{data(1)}},
		{"byte order mark elsewhere is not one", sse(data(1)) + "\uFEFF" + sse(data(2)), []string{data(1)}},
		{"comments", ": hello\n\n:\n" + sse(data(1)) + ":data: 2\n\n", []string{data(1)}},
		{"comment inside an event", "data: " + open + "\n: well\ndata: " + end + "\n\n", []string{open + "\n" + end}},
		{
			"other fields", "id: 7\nretry: 100\nother: x\nevent\nevent: message\ndata: " + data(1) + "\ndata\n\n",
			[]string{data(1) + "\n"},
		},
		{"event without data", "event: message\n\n" + sse(data(1)), []string{data(1)}},
		{"blank data", "data:\n\ndata\n\ndata: \ndata:\n\n" + sse(data(1)), []string{data(1)}},
		{"field name with a space", " data: 1\n\n" + sse(data(1)), []string{data(1)}},
		{"many empty lines", "\n\n\r\n\r\r" + sse(data(1)) + "\n\n\n", []string{data(1)}},
		{"CR", "data: " + open + "\rdata: " + end + "\r\r", []string{open + "\n" + end}},
		{"CRLF", "data: " + open + "\r\ndata: " + end + "\r\n\r\n", []string{open + "\n" + end}},
		{"mixed", "data: " + open + "\rdata:\r\ndata: " + end + "\n\r\n", []string{open + "\n\n" + end}},
		{"CR at the end of the first content", "data: " + data(1) + "\r\n\r\n" + sse(data(2)), []string{data(1), data(2)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			step := eventStream(tc.body + sse("[DONE]", data(99)))
			client := newClient(t, inference.HTTPInferenceClientConfig{BaseURL: fakeURL, Transport: flaky.New(step).Transport(nil)})
			got, _, err := collect(t, client.Stream(t.Context(), question()))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

// noise are events that are not part of an answer.
var noise = []struct{ name, event string }{
	{"comment", ": OPENROUTER PROCESSING\n\n"},
	{"comment without an empty line", ": ping\n"},
	{"ping by name", "event: ping\ndata: 2026-11-06T08:00:42Z\n\n"},
	{"ping by name, as Anthropic's", "event: ping\ndata: {\"type\":\"ping\"}\n\n"},
	{"keep-alive by name", "event: keep-alive\ndata: x\n\n"},
	{"heartbeat by name", "event: heartbeat\ndata: x\n\n"},
	{"other name, not JSON", "event: metadata\ndata: queue=7\n\n"},
	{"other name, with an error", "event: debug\ndata: " + failed + "\n\n"},
	{"other name, with choices", "event: retrieval\ndata: " + fo + "\n\n"},
	{"other name, data first", "data: <html>\nevent: status\n\n"},
	{"ping", sse(`{"type":"ping"}`)},
	{"keepalive, as OpenAI's", sse(`{"type":"keepalive","sequence_number":466}`)},
	{"heartbeat that says more", sse(`{"type":"heartbeat","message":"still here","code":7}`)},
	{"ping in plain words", sse("ping")},
	{"empty object", sse("{}")},
	{"null", sse("null")},
	{"number", sse("1")},
	{"string", sse(`"still here"`)},
	{"list", sse("[]")},
	{"list of other things", sse(`[1,{},{"a":1}]`)},
	{"unknown object", sse(`{"status":"queued","message":"2 before you"}`)},
	{"object that says that all is well", sse(`{"code":200,"message":"OK","status":"ok"}`)},
	{"chunk without choices", sse(`{"id":"","object":"chat.completion.chunk","choices":[]}`)},
	{"chunk with null for choices", sse(`{"choices":null,"usage":null,"prompt_filter_results":null}`)},
	{"error that is none", sse(`{"error":null}`, `{"error":{}}`, `{"error": [ ]}`, `{"error":""}`, `{"error":false}`)},
}

func TestStreamPassesOverNoise(t *testing.T) {
	const s = time.Second
	for _, tc := range noise {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := tc.event
				script := flaky.New(
					eventStream(n+sse(failed)),
					eventStream(n+n+sse("[DONE]")),
					eventStream(sse(begin)+n),
					eventStream(strings.Repeat(n, 1000)).Slow(len(n), s), // until the Timeout
					eventStream(n+sse(begin)+n+sse(fo)+n+sse(ur, finish)+n+sse(usage)+n+sse("[DONE]")),
				)
				client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
					BaseURL: fakeURL, MaxRetries: 4, Timeout: 10 * s, MaxBackoff: s, JitterFraction: noJitter, Transport: script.Transport(nil),
				})
				got, text, err := collect(t, client.Stream(t.Context(), question()))
				if err != nil || text != "Four" {
					t.Errorf("got %q and %v, want the answer of the fifth attempt", text, err)
				}
				if diff := cmp.Diff([]string{begin, fo, ur, finish, usage}, got); diff != "" {
					t.Errorf("events (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff([]time.Duration{0, 1 * s, 2 * s, 3 * s, 14 * s}, starts(script)); diff != "" {
					t.Errorf("starts of the attempts (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestStreamOfNoiseWithoutEnd has noise that arrives faster than it is read, from a
// body that ignores the request's context.
func TestStreamOfNoiseWithoutEnd(t *testing.T) {
	for _, tc := range append(noise, struct{ name, event string }{"the role", sse(begin)}) {
		for _, before := range []string{"", sse(fo)} {
			if tc.name == "the role" && before != "" {
				continue // it is an event there
			}
			t.Run(fmt.Sprintf("%s, %d bytes after the first content", tc.name, len(before)), func(t *testing.T) {
				t.Parallel()
				body := &flood{first: before, again: strings.Repeat(tc.event, 1+(64<<10)/len(tc.event))}
				client := streamFrom(t, inference.HTTPInferenceClientConfig{
					Timeout: time.Second, StreamIdleTimeout: 50 * time.Millisecond,
				}, body)
				data, _, err := collect(t, client.Stream(t.Context(), question()))
				checkError(t, err, inference.ErrCategoryServer, "request timeout")
				if (len(data) == 1) != (before != "") {
					t.Errorf("got %d events, want the content alone: noise is no event", len(data))
				}
			})
		}
	}
}

// A flood is an infinite body that never blocks.
type flood struct {
	first, again string
	at           int // in again
	closed       atomic.Bool
}

func (f *flood) Read(p []byte) (n int, err error) {
	switch {
	case f.closed.Load():
		return 0, errors.New("read after Close")
	case f.first != "":
		n = copy(p, f.first)
		f.first = f.first[n:]
	default:
		n = copy(p, f.again[f.at:])
		f.at = (f.at + n) % len(f.again)
	}
	return n, nil
}

func (f *flood) Close() error {
	f.closed.Store(true)
	return nil
}

func TestStreamEvent(t *testing.T) {
	for _, tc := range []struct {
		name, data   string
		text, reason string
	}{
		{"chat", fo, "Fo", ""},
		{"completion", `{"choices":[{"index":0,"text":"Fo","finish_reason":null}]}`, "Fo", ""},
		{"last", finish, "", "stop"},
		{"last with text", `{"choices":[{"index":0,"text":"ur","finish_reason":"length"}]}`, "ur", "length"},
		{"null in quotes", `{"choices":[{"index":0,"text":"Fo","finish_reason":"null"}]}`, "Fo", ""},
		{"other choice", `{"choices":[{"index":1,"delta":{"content":"Fo"},"finish_reason":"stop"}]}`, "", ""},
		{"both", `{"choices":[{"index":1,"text":"a"},{"index":0,"text":"b"}]}`, "b", ""},
		{"no index", `{"choices":[{"delta":{"content":"Fo"}}]}`, "Fo", ""},
		{"tool call", `{"choices":[{"index":0,"delta":{"content":null,"tool_calls":[{"index":0}]}}]}`, "", ""},
		{"content in parts", `{"choices":[{"index":0,"delta":{"content":[{"text":"Fo"}]}}]}`, "Fo", ""},
		{
			"reasoning and text in parts, as Mistral's",
			`{"choices":[{"delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"Hm"}]},{"type":"text","text":"F"},{"type":"text","text":"o"}]}}]}`,
			"Fo", "",
		},
		{"other parts", `{"choices":[{"delta":{"content":[{"type":"reference","text":"x"},7,"x",{"text":1},{"type":"text","text":"Fo"}]}}]}`, "Fo", ""},
		{"whole message", `{"choices":[{"message":{"role":"assistant","content":"Fo"}}]}`, "Fo", ""},
		{"whole message in parts", `{"choices":[{"message":{"content":[{"type":"text","text":"Fo"}]}}]}`, "Fo", ""},
		{"an error of which nothing is said", `{"error":{"message":"","code":0},"choices":[{"delta":{"content":"Fo"}}]}`, "Fo", ""},
		{"other types", `{"object":7,"choices":[{"index":"0","text":[],"delta":"x","finish_reason":1}]}`, "", ""},
		{"the model's reasoning", `{"choices":[{"delta":{"content":"","reasoning_content":"Hm"}}]}`, "", ""},
		{"the same name twice: the first counts", `{"choices":[{"delta":{"content":"Fo"},"delta":{"content":"x"}}],"choices":[{"text":"x"}]}`, "Fo", ""},
		{"usage", usage, "", ""},
		{"usage alone", `{"usage":{"completion_tokens":2}}`, "", ""},
		{"a filter's result", `{"choices":[],"prompt_filter_results":[{"prompt_index":0}]}`, "", ""},
		{"a filter that found nothing", `{"choices":[],"prompt_filter_results":[]}`, "", ""},
		{"a filter's result for a choice", `{"choices":[{"index":0,"content_filter_offsets":{"check_offset":9}}]}`, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client := newClient(t, inference.HTTPInferenceClientConfig{
				BaseURL: fakeURL, Transport: flaky.New(eventStream(sse(tc.data, finish, "[DONE]"))).Transport(nil),
			})
			var got []inference.StreamEvent
			for ev, err := range client.Stream(t.Context(), question()) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, ev)
			}
			want := []inference.StreamEvent{
				{Data: []byte(tc.data), Text: tc.text, FinishReason: tc.reason},
				{Data: []byte(finish), FinishReason: "stop"},
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

type failedOpening struct {
	name string
	step flaky.Step
	next time.Duration // when the second attempt starts; Timeout is 10 s
}

// failedOpenings are the ways in which a stream fails before its first content.
func failedOpenings() []failedOpening {
	const s = time.Second
	comments := strings.Repeat(": still here\n\n", 5)
	ping := sse(`{"type":"ping"}`)
	muchOf := func(event string) string { return strings.Repeat(event, 3<<19/len(event)) }
	return []failedOpening{
		{"503", flaky.Status(503), 1 * s},
		{"429 with Retry-After", flaky.Status(429).WithHeader("Retry-After", "5"), 5 * s},
		{"529", flaky.Status(529), 1 * s},
		{"reset", flaky.Reset(), 1 * s},
		{"refused", flaky.Refuse(), 1 * s},
		{"no answer in time", flaky.Hang(), 11 * s},
		{"error event", eventStream(sse(failed)), 1 * s},
		{"error event without a Content-Type", flaky.Status(200).WithBody(sse(failed)), 1 * s},
		{"error event as text", plainText(sse(failed)), 1 * s},
		{"error event by its name, without a Content-Type", flaky.Status(200).WithBody("event: error\ndata: no\n\n"), 1 * s},
		{"error event with an id, without a Content-Type", flaky.Status(200).WithBody("id: 1\n" + sse(failed)), 1 * s},
		{"error event after retry, without a Content-Type", flaky.Status(200).WithBody("retry: 1\n\n" + sse(failed)), 1 * s},
		{"error event by the name of its field, without a Content-Type", flaky.Status(200).WithBody("error: {\"code\":500,\"message\":\"no\"}\n\n"), 1 * s},
		{"error event without a Content-Type, after keep-alives", flaky.Status(200).WithBody("\r\n\n: still here\n\n" + sse(failed)), 1 * s},
		{"nothing, without a Content-Type", flaky.Status(200).WithBody(""), 1 * s},
		{"nothing, as text", plainText(""), 1 * s},
		{"error in place of a stream", flaky.Status(200).WithBody(failed), 1 * s},
		{"error in place of a stream, after white space", flaky.Status(200).WithBody("\n  " + failed), 1 * s},
		{"error event after a byte order mark", plainText("\uFEFF" + sse(failed)), 1 * s},
		{"error in place of a stream, after many lines", plainText(strings.Repeat("\n", 5000) + failed), 1 * s},
		{"error in place of a stream, as text", plainText(failed), 1 * s},
		{"stuck as text", plainText(four).Slow(0, time.Hour), 11 * s},
		{"stuck without a Content-Type", flaky.Status(200).WithBody(four).Slow(0, time.Hour), 11 * s},
		{"error event after the role", eventStream(sse(begin, failed)), 1 * s},
		{"error event after comments and pings", eventStream(comments + sse(`{"type":"ping"}`, failed)), 1 * s},
		{"error event by the name of its field", eventStream("error: {\"code\":500,\"message\":\"context size\"}\n\n" + sse("[DONE]")), 1 * s},
		{"error event by its name", eventStream("event: error\ndata: out of memory\n\n"), 1 * s},
		{"error event with RetryInfo", eventStream(sse(geminiRate)), 34070 * time.Millisecond},
		{"error event, and the stream stays open", eventStream(sse(failed)+comments).Slow(len(sse(failed)), time.Hour), 1 * s},
		{"error event in a stream with Retry-After", eventStream(sse(failed)).WithHeader("Retry-After", "7"), 7 * s},
		{"error event that a stream goes on after", eventStream(sse(failed, fo, finish, "[DONE]")), 1 * s},
		{"event that is not JSON", eventStream(sse("upstream connect error", "[DONE]")), 1 * s},
		{"event that is a page", eventStream(sse(begin, "<!doctype html>")), 1 * s},
		{"event that is cut", eventStream(sse(fo[:len(fo)-1])), 1 * s},
		{"event that is too deep", eventStream(sse(strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000))), 1 * s},
		{"nothing", eventStream(""), 1 * s},
		{"only comments", eventStream(comments), 1 * s},
		{"[DONE] at once", eventStream(sse("[DONE]")), 1 * s},
		{"[DONE] after the role", eventStream(sse(begin, "[DONE]")), 1 * s},
		{"[DONE] after usage", eventStream(sse(usage, "[DONE]")), 1 * s},
		{"only the role", eventStream(sse(begin)), 1 * s},
		{"null in quotes is no finish reason", eventStream(sse(`{"choices":[{"index":0,"delta":{"role":"assistant"},"finish_reason":"null"}]}`, failed)), 1 * s},
		{"only a filter's result", eventStream(sse(`{"choices":[],"prompt_filter_results":[{"prompt_index":0}]}`)), 1 * s},
		{"first event without its end", eventStream("data: " + fo + "\n"), 1 * s},
		{"cut in the first event", eventStream(four).Truncate(9), 1 * s},
		{"cut after the role", eventStream(four).Truncate(int64(len(sse(begin)))), 1 * s},
		{"stuck after the headers", eventStream(four).Slow(0, time.Hour), 11 * s},
		{"stuck after the role", eventStream(four).Slow(len(sse(begin)), time.Hour), 11 * s},
		{"stuck after many comments", eventStream(muchOf(comments)+comments).Slow(len(muchOf(comments)), time.Hour), 11 * s},
		{"stuck after many pings", eventStream(muchOf(ping)+ping).Slow(len(muchOf(ping)), time.Hour), 11 * s},
		{"stuck after saying often that it begins", eventStream(muchOf(sse(begin))+ping).Slow(len(muchOf(sse(begin))), time.Hour), 11 * s},
		{"cut after many pings", eventStream(muchOf(ping)), 1 * s},
		{"error event after many pings", eventStream(muchOf(ping) + sse(failed)), 1 * s},
		{"comments for ever", eventStream(strings.Repeat(": still here\n\n", 1000)).Slow(14, s), 11 * s},
	}
}

func TestStreamIsRetriedUntilContent(t *testing.T) {
	for _, tc := range failedOpenings() {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				script := flaky.New(tc.step, eventStream(four))
				client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
					BaseURL: fakeURL, MaxRetries: 1, Timeout: 10 * time.Second, JitterFraction: noJitter, Transport: script.Transport(nil),
				})
				got, _, err := collect(t, client.Stream(t.Context(), question()))
				if err != nil {
					t.Fatalf("after a failure and a success: got %v, want the answer", err)
				}
				if diff := cmp.Diff([]string{begin, fo, ur, finish, usage}, got); diff != "" {
					t.Errorf("events, of the second attempt alone (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff([]time.Duration{0, tc.next}, starts(script)); diff != "" {
					t.Errorf("starts of the attempts (-want +got):\n%s", diff)
				}
			})
		})
	}
}

type lateFailure struct {
	name     string
	step     flaky.Step
	text     string
	category inference.ErrorCategory
	message  string
	is       error
}

// lateFailures are the ways in which a stream fails after its first content.
func lateFailures() []lateFailure {
	const server, notEnded = inference.ErrCategoryServer, "failed to execute request: event stream ended without [DONE] or a finish reason: unexpected EOF"
	return []lateFailure{
		{"error event", eventStream(sse(begin, fo, failed, ur)), "Fo", server, "HTTP 529: too busy", nil},
		{
			"error event beside content", eventStream(sse(fo, ur, `{"error":{"code":429,"message":"slow down"},"choices":[{"index":0,"delta":{"content":"!"},"finish_reason":"error"}]}`)),
			"Four", inference.ErrCategoryRateLimit, "HTTP 429: slow down", nil,
		},
		{"error event after the finish reason", eventStream(sse(fo, finish, failed)), "Fo", server, "HTTP 529: too busy", nil},
		{"end", eventStream(sse(begin, fo, ur)), "Four", server, notEnded, io.ErrUnexpectedEOF},
		{"end, and null in quotes is no finish reason", eventStream(sse(`{"choices":[{"index":0,"delta":{"content":"Fo"},"finish_reason":"null"}]}`)), "Fo", server, notEnded, io.ErrUnexpectedEOF},
		{"end in an event", eventStream(sse(begin, fo) + "data: " + ur + "\n"), "Fo", server, notEnded, io.ErrUnexpectedEOF},
		{"end in the JSON of the last event", eventStream(sse(begin, fo) + "data: " + finish[:len(finish)-1]), "Fo", server, notEnded, io.ErrUnexpectedEOF},
		{"error event without a blank line", eventStream(sse(fo) + "data: " + failed), "Fo", server, "HTTP 529: too busy", nil},
		{"end of one of two choices", eventStream(sse(fo, `{"choices":[{"index":1,"text":"x"}]}`, finish)), "Fo", server, notEnded, io.ErrUnexpectedEOF},
		{
			"cut", eventStream(four).Truncate(int64(len(sse(begin, fo)) + 5)), "Fo",
			server, "failed to execute request: unexpected EOF", io.ErrUnexpectedEOF,
		},
		{
			"cut after the finish reason", eventStream(four).Truncate(int64(len(sse(begin, fo, ur, finish)))), "Four",
			server, "failed to execute request: unexpected EOF", io.ErrUnexpectedEOF,
		},
		{"stuck", eventStream(four).Slow(len(sse(begin, fo)), time.Hour), "Fo", server, "request timeout", context.DeadlineExceeded},
		{"event that is not JSON", eventStream(sse(fo, "{", ur, "[DONE]")), "Fo", server, "HTTP 200: event is not JSON", nil},
		{"error event of another type", eventStream(sse(fo, `{"type":"error","message":"no"}`, "[DONE]")), "Fo", server, "HTTP 500: no", nil},
		{"error event in an array", eventStream(sse(fo, "["+failed+"]", "[DONE]")), "Fo", server, "HTTP 529: too busy", nil},
		{"error event that is a string", eventStream(sse(fo, `{"error":"rate limit exceeded"}`, "[DONE]")), "Fo", inference.ErrCategoryRateLimit, "HTTP 429: rate limit exceeded", nil},
		{
			"error event without an envelope", eventStream(sse(fo, `{"message":"no","type":"x","param":null,"code":400}`, "[DONE]")), "Fo",
			inference.ErrCategoryInvalidReq, "HTTP 400: no", nil,
		},
		{
			"choice that ends in an error", eventStream(sse(fo, `{"choices":[{"index":0,"delta":{},"finish_reason":"error"}]}`, "[DONE]")), "Fo",
			server, `HTTP 500: {"choices":[{"index":0,"delta":{},"finish_reason":"error"}]}`, nil,
		},
		{"error in a field of its own", eventStream(sse(fo) + "error: {\"code\":503,\"message\":\"no\"}\n\n" + sse("[DONE]")), "Fo", server, "HTTP 503: no", nil},
		{"noise, and the end", eventStream(sse(fo) + strings.Repeat(sse("{}", "null"), 100)), "Fo", server, notEnded, io.ErrUnexpectedEOF},
	}
}

// TestStreamIsNeverRetriedAfterContent also checks the errors of such streams.
func TestStreamIsNeverRetriedAfterContent(t *testing.T) {
	for _, tc := range lateFailures() {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				script := repeat(tc.step)
				client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
					BaseURL: fakeURL, MaxRetries: 5, Timeout: 10 * time.Second, Transport: script.Transport(nil),
				})
				_, text, err := collect(t, client.Stream(t.Context(), question()))
				checkError(t, err, tc.category, tc.message)
				var partial *inference.StreamError
				if !errors.As(err, &partial) || partial.Text != tc.text || text != tc.text {
					t.Fatalf("got %q, and %#v, want both to have %q", text, err.RawError, tc.text)
				}
				if tc.is != nil && !errors.Is(err, tc.is) {
					t.Errorf("got %#v, want an error that is %v", partial.Err, tc.is)
				}
				var status *inference.StatusError
				if strings.HasPrefix(tc.message, "HTTP ") != errors.As(err, &status) {
					t.Errorf("got %#v, want a *StatusError for a failure that has a status", partial.Err)
				}
				if strings.Contains(err.Error()+err.RawError.Error(), tc.text) {
					t.Errorf("%v, or %v, quotes the answer", err, err.RawError)
				}
				if n := len(script.Requests()); n != 1 {
					t.Errorf("got %d attempts, want 1", n)
				}
			})
		})
	}
}

// TestStreamFailuresOverTheWire has real connections.
func TestStreamFailuresOverTheWire(t *testing.T) {
	overEachProtocol(t, func(t *testing.T, start func(http.Handler) inference.HTTPInferenceClientConfig) {
		first := len(sse(begin, fo))
		for _, tc := range []struct {
			name     string
			steps    []flaky.Step // after the last, each request gets the answer
			text     string
			timeout  bool // rather than an unexpected end
			attempts int  // at least
		}{
			{
				name: "before content",
				steps: []flaky.Step{
					flaky.Status(503), eventStream(sse(begin, failed)), eventStream(four).Truncate(9),
					eventStream(four).Slow(len(sse(begin)), time.Hour), eventStream(""),
				},
				text: "Four", attempts: 6,
			},
			{"cut after content", []flaky.Step{eventStream(four).Truncate(int64(first))}, "Fo", false, 1},
			{"end after content", []flaky.Step{eventStream(four[:first])}, "Fo", false, 1},
			{"stuck after content", []flaky.Step{eventStream(four).Slow(first, time.Hour)}, "Fo", true, 1},
		} {
			t.Run(tc.name, func(t *testing.T) {
				script := flaky.New(tc.steps...)
				config := start(script.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { write(w, four, 1) })))
				config.Timeout, config.StreamIdleTimeout = 500*time.Millisecond, 200*time.Millisecond
				config.MaxRetries, config.InitialBackoff = 10, time.Millisecond
				_, text, err := collect(t, newClient(t, config).Stream(t.Context(), question()))
				if text != tc.text || len(script.Requests()) < tc.attempts {
					t.Errorf("got %q after %d attempts, want %q after %d", text, len(script.Requests()), tc.text, tc.attempts)
				}
				var partial *inference.StreamError
				switch {
				case text == "Four" && err != nil:
					t.Errorf("got %v after the whole answer, want no error", err)
				case text == "Four":
				case !errors.As(err, &partial) || partial.Text != tc.text:
					t.Errorf("got %#v, want a *StreamError with %q", err, tc.text)
				case tc.timeout != errors.Is(err, context.DeadlineExceeded):
					t.Errorf("got %v, want a timeout: %t", err, tc.timeout)
				}
			})
		}
	})
}

func TestStreamFailure(t *testing.T) {
	const server, noContent = inference.ErrCategoryServer, "event stream ended before its first content: unexpected EOF"
	for _, tc := range []struct {
		name     string
		step     flaky.Step
		category inference.ErrorCategory
		message  string
		attempts int
	}{
		{"503", flaky.Status(503), server, "HTTP 503: Service Unavailable", 3},
		{"401", flaky.Status(401).WithBody(`{"error":{"message":"no key"}}`), inference.ErrCategoryAuth, "HTTP 401: no key", 1},
		{"quota", flaky.Status(429).WithBody(openAIQuota), inference.ErrCategoryRateLimit, "HTTP 429: You exceeded your current quota", 1},
		{"quota as an event", eventStream(sse(openAIQuota)), inference.ErrCategoryRateLimit, "HTTP 429: You exceeded your current quota", 1},
		{"quota as JSON that is labelled as a stream", eventStream("\n" + openAIQuota), inference.ErrCategoryRateLimit, "HTTP 429: You exceeded your current quota", 1},
		{"quota as an event without a blank line", eventStream("data: " + openAIQuota), inference.ErrCategoryRateLimit, "HTTP 429: You exceeded your current quota", 1},
		{"error by its name without a blank line", eventStream("event: error\ndata: no"), server, "HTTP 500: no", 3},
		{"page that is labelled as a stream", eventStream("<html>\n\n"), server, "failed to execute request: httpretry: gave up after 3 attempts (policy): " + noContent, 3},
		{"empty object in place of a stream", flaky.Status(200).WithBody("{}"), server, "HTTP 200: response has no answer (no Content-Type)", 3},
		{"answer of another API", flaky.Status(200).WithBody(`{"output":"four"}`), server, "HTTP 200: response is not an event stream (no Content-Type)", 3},
		{"bad request as an event", eventStream(sse(`{"error":{"message":"no","type":"invalid_request_error"}}`)), inference.ErrCategoryInvalidReq, "HTTP 400: no", 1},
		{"nothing", eventStream(""), server, "failed to execute request: httpretry: gave up after 3 attempts (policy): " + noContent, 3},
		{"reset", flaky.Error(syscall.ECONNRESET), server, "failed to execute request: httpretry: gave up after 3 attempts (policy): connection reset by peer", 3},
		{"stuck", flaky.Hang(), server, "request timeout", 3},
		{"text", plainText("eventually: a welcome page"), server, "HTTP 200: response is not an event stream (text/plain)", 3},
		{"text of one byte", plainText("e"), server, "HTTP 200: response is not an event stream (text/plain)", 3},
		{"a page without a Content-Type", flaky.Status(200).WithBody("<html>data: 1"), server, "HTTP 200: response is not an event stream (no Content-Type)", 3},
		{"stuck before it is known what it is", plainText("\n\nevent: ping\n").Slow(5, time.Hour), server, "request timeout", 3},
		{"cut before it is known what it is", plainText(four).Truncate(3), server, "failed to execute request: httpretry: gave up after 3 attempts (policy): unexpected EOF", 3},
		{"marks in the wrong place", plainText("\n\uFEFF" + four), server, "HTTP 200: response is not an event stream (text/plain)", 3},
		{"word after many lines", plainText(strings.Repeat("\n", 4095) + "eventually"), server, "HTTP 200: response is not an event stream (text/plain)", 3},
		{"much JSON", flaky.Status(200).WithHeader("Content-Type", "application/json").WithBody(strings.Repeat(" ", 17<<20)), inference.ErrCategoryUnknown, "HTTP 200: response body is larger than 16 MiB", 1},
		{"stuck in JSON", ok().Slow(3, time.Hour), server, "request timeout", 3},
		{"cut in JSON", ok().Truncate(3), server, "failed to execute request: unexpected EOF", 3},
		{"cut in text", plainText(answer).Truncate(3), server, "failed to execute request: unexpected EOF", 3},
		{"nothing at all", flaky.Status(204), server, "HTTP 204: response is not an event stream (no Content-Type)", 3},
		{"first event is not JSON", eventStream(sse("hello", "[DONE]")), server, "HTTP 200: event is not JSON", 3},
		{"[DONE] at once", eventStream(sse("[DONE]")), server, "failed to execute request: httpretry: gave up after 3 attempts (policy): " + noContent, 3},
		{"redirect to a GET", flaky.Status(303).WithHeader("Location", "/"), inference.ErrCategoryUnknown, "HTTP 303: See Other", 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				script := repeat(tc.step)
				client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
					BaseURL: fakeURL, MaxRetries: 2, Transport: script.Transport(nil),
				})
				data, _, err := collect(t, client.Stream(t.Context(), question()))
				checkError(t, err, tc.category, tc.message)
				var partial *inference.StreamError
				if errors.As(err, &partial) || len(data) > 0 {
					t.Errorf("got %q and %#v, want neither events nor a *StreamError", data, partial)
				}
				if n := len(script.Requests()); n != tc.attempts {
					t.Errorf("got %d attempts, want %d", n, tc.attempts)
				}
			})
		})
	}
}

type errorEvent struct {
	data string
	want int
}

// errorEvents are error events of many gateways, with the corresponding statuses.
func errorEvents() []errorEvent {
	return []errorEvent{
		{`{"error":{"code":502}}`, 502},
		{`{"error":{"code":"503"}}`, 503},
		{`{"error":{"code":200}}`, 500},
		{`{"error":{"code":"rate_limit_exceeded","type":"tokens"}}`, 429},
		{`{"error":{"code":null,"type":"rate_limit_error"}}`, 429},
		{`{"error":{"code":"invalid_api_key","type":"invalid_request_error"}}`, 401},
		{`{"error":{"type":"billing_hard_limit_reached"}}`, 429},
		{`{"error":{"type":"billing_not_active"}}`, 429},
		{`{"error":{"code":429,"status":"RESOURCE_EXHAUSTED"}}`, 429},
		{`{"error":{"status":"UNAVAILABLE"}}`, 503},
		{`{"error":{"status":"DEADLINE_EXCEEDED"}}`, 504},
		{`{"error":{"status":"PERMISSION_DENIED"}}`, 403},
		{`{"type":"error","error":{"type":"overloaded_error"}}`, 529},
		{`{"type":"error","error":{"type":"api_error"}}`, 500},
		{`{"type":"error","error":{"type":"timeout_error"}}`, 504},
		{`{"type":"error","error":{"type":"not_found_error"}}`, 404},
		{`{"type":"error","error":{"type":"request_too_large"}}`, 413},
		{`{"error":{"type":"BadRequestError","code":400}}`, 400},
		{`{"error":{"type":"InternalServerError"}}`, 500},
		{`{"object":"error","type":"NotFoundError","code":null}`, 404},
		{`{"error":"out of memory"}`, 500},
		{`{"error":"rate limit exceeded"}`, 429},
		{`{"error":"insufficient_quota"}`, 429},
		{`{"error":"model overloaded","code":"insufficient_quota"}`, 429},
		{`{"error":"rate limit exceeded","code":503}`, 503},
		{`{"error":"Model is overloaded","error_type":"overloaded"}`, 529},
		{`{"error":"Input validation error: too long","error_type":"validation"}`, 422},
		{`{"error":{"message":"slow down","status_code":429}}`, 429},
		{`{"type":"error","message":"no"}`, 500},
		{`{"type":"error","code":"rate_limit_exceeded","message":"no","choices":[]}`, 429},
		{`[{"error":{"code":503,"message":"The model is overloaded.","status":"UNAVAILABLE"}}]`, 503},
		{` [ {"error":{"status":"INVALID_ARGUMENT"}} ]`, 400},
		{`{"object":"error","message":"no","type":"BadRequestError","param":null,"code":400}`, 400},
		{`{"message":"Tokens per minute limit exceeded","type":"too_many_requests_error","param":"quota","code":"token_quota_exceeded"}`, 429},
		{`{"message":"no","type":"invalid_request_error"}`, 400},
		{`{"message":"no","type":"InternalServerException"}`, 500},
		{`{"message":"no","code":"1301"}`, 500},
		{`{"message":"no","code":"context_window"}`, 500},
		{`{"message":"no","status":503}`, 503},
		{`{"message":"no","code":-1}`, 500},
		{`{"status":"error","message":"no"}`, 500},
		{`{"success":false,"errors":[{"code":7009,"message":"no"}],"result":null}`, 500},
		{`{"detail":"Internal Server Error"}`, 500},
		{`{"detail":[{"loc":["body"],"msg":"no"}]}`, 500},
		{`{"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}`, 500},
		{`{"choices":[{"index":0,"delta":{"content":""},"finish_reason":"insufficient_system_resource"}]}`, 500},
		{`{"choices":[{"index":0,"delta":{"content":""},"finish_reason":"network_error"}]}`, 500},
		{`{"error":{"code":502,"message":"no"},"choices":[{"index":0,"delta":{"content":"!"},"finish_reason":"error"}]}`, 502},
		{`{"choices":[{"index":0,"delta":{"content":"!"},"error":{"code":429,"message":"no"}}]}`, 429},
		{`{"choices":[],"x_groq":{"id":"1","error":"over_capacity"}}`, 500},
		{`{"error":true}`, 500},
		{`{"error":{"code":"new_kind"}}`, 500},
	}
}

// TestErrorEventStatus checks the statuses of errorEvents.
func TestErrorEventStatus(t *testing.T) {
	for _, tc := range errorEvents() {
		t.Run(tc.data, func(t *testing.T) {
			var heard []int
			client := newClient(t, inference.HTTPInferenceClientConfig{
				BaseURL: fakeURL, Transport: flaky.New(eventStream(sse(tc.data))).Transport(nil),
				OnAttempt: func(a httpretry.Attempt, _ httpretry.Decision) {
					status, ok := errors.AsType[*inference.StatusError](a.Err)
					if !ok {
						t.Fatalf("OnAttempt got %v, want a *StatusError", a.Err)
					}
					heard = append(heard, status.StatusCode)
				},
			})
			_, _, err := collect(t, client.Stream(t.Context(), question()))
			var status *inference.StatusError
			if !errors.As(err, &status) || status.StatusCode != tc.want || string(status.Body) != tc.data {
				t.Errorf("got %#v, want a *StatusError with %d and the event's data", err, tc.want)
			}
			if diff := cmp.Diff([]int{tc.want}, heard); diff != "" {
				t.Errorf("status that OnAttempt heard of (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStreamEnds(t *testing.T) {
	other := func(reason string) string {
		return `{"choices":[{"index":1,"text":"x","finish_reason":` + reason + `}]}`
	}
	for _, tc := range []struct {
		name string
		body string
		want int // events
	}{
		{"[DONE]", sse(fo, "[DONE]"), 1},
		{"[DONE] and more", sse(fo, "[DONE]", ur, failed), 1},
		{"[DONE] without an empty line", sse(fo) + "data: [DONE]\n", 1},
		{"[DONE] without the end of its line", sse(fo) + "data: [DONE]", 1},
		{"[DONE] among spaces", sse(fo) + "data:  [DONE] \n\n", 1},
		{"[DONE] without a space", sse(fo) + "data:[DONE]\n\n", 1},
		{"[DONE] with a name", sse(fo) + "event: done\n" + sse("[DONE]", ur), 1},
		{"[DONE] with another name", sse(fo) + "event: end\ndata: [DONE]\n\n" + sse(ur), 1},
		{"[DONE] of a foreign event", sse(fo) + "event: tool_status\ndata: [DONE]\n\n" + sse(ur, finish), 3},
		{"nothing to say", sse(begin, finish, "[DONE]"), 2},
		{"nothing to say, without the role", sse(`{"choices":[{"delta":{},"finish_reason":"stop"}]}`, "[DONE]"), 1},
		{"no text to complete", sse(`{"choices":[{"text":"","finish_reason":"length"}]}`, "[DONE]"), 1},
		{"content filter", sse(begin, `{"choices":[{"delta":{},"finish_reason":"content_filter"}]}`, "[DONE]"), 2},
		{"tool call", sse(begin, `{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f"}}]}}]}`, "[DONE]"), 2},
		{"refusal", sse(`{"choices":[{"delta":{"refusal":"No."}}]}`, "[DONE]"), 1},
		{"reasoning", sse(`{"choices":[{"delta":{"reasoning":"Hm"}}]}`, "[DONE]"), 1},
		{"whole message", sse(`{"choices":[{"message":{"role":"assistant","content":"Four"}}]}`, "[DONE]"), 1},
		{"finish reason", sse(fo, finish), 2},
		{"finish reason and usage", sse(fo, finish, usage), 3},
		{"finish reason alone", sse(finish), 1},
		{"finish reason without a blank line", sse(fo) + "data: " + finish + "\n", 2},
		{"finish reason without the end of its line", sse(fo) + "data: " + finish, 2},
		{"finish reason without the end of its line, after a CR", sse(fo) + "data: " + finish + "\r", 2},
		{"finish reason without a blank line, with an id", sse(fo) + "id: 7\nevent: message\ndata:" + finish + "\nid: 8", 2},
		{"usage without a blank line", sse(fo, finish) + "data: " + usage, 3},
		{"finish reasons of two choices", sse(fo, other("null"), finish, other(`"length"`)), 4},
		{"empty piece after the finish reason", sse(fo, finish, begin), 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			script := flaky.New(eventStream(tc.body))
			client := newClient(t, inference.HTTPInferenceClientConfig{
				BaseURL: fakeURL, MaxRetries: 2, Transport: script.Transport(nil),
			})
			got, _, err := collect(t, client.Stream(t.Context(), question()))
			if err != nil || len(got) != tc.want {
				t.Errorf("got %d events and %v, want %d and no error", len(got), err, tc.want)
			}
		})
	}
}

// TestStream_ContentType has the labels that gateways set on their streams.
func TestStream_ContentType(t *testing.T) {
	types := []string{
		"text/event-stream", "application/json", "application/octet-stream", "application/x-ndjson", "text/plain",
		"text/html; charset=utf-8", "",
	}
	whole := `{"choices":[{"index":0,"message":{"role":"assistant","content":"Four"},"finish_reason":"stop"}]}`
	for _, tc := range []struct {
		name, body string
		events     []string
		reason     string
	}{
		{"event stream", four, []string{begin, fo, ur, finish, usage}, "stop"},
		{"event stream after a comment", ": hello\n\n" + four, []string{begin, fo, ur, finish, usage}, "stop"},
		{"whole answer", whole, []string{whole}, "stop"},
		{"whole answer after white space", "\r\n\t" + whole, []string{"\r\n\t" + whole}, "stop"},
		{"whole answer after a byte order mark", "\uFEFF" + whole, []string{whole}, "stop"},
		{"whole answer on many lines", strings.ReplaceAll(whole, ":", ":\n\n"), []string{strings.ReplaceAll(whole, ":", ":\n\n")}, "stop"},
		{"whole answer without a finish reason", strings.Replace(answer, "four", "Four", 1), []string{strings.Replace(answer, "four", "Four", 1)}, ""},
		{"whole completion", `{"choices":[{"text":"Four"}]}`, []string{`{"choices":[{"text":"Four"}]}`}, ""},
	} {
		for _, mediaType := range types {
			t.Run(tc.name+"/"+mediaType, func(t *testing.T) {
				step := flaky.Status(200).WithBody(tc.body)
				if mediaType != "" {
					step = step.WithHeader("Content-Type", mediaType)
				}
				client := newClient(t, inference.HTTPInferenceClientConfig{BaseURL: fakeURL, Transport: flaky.New(step).Transport(nil)})
				var got []string
				var text, reason string
				for ev, err := range client.Stream(t.Context(), question()) {
					if err != nil {
						t.Fatal(err)
					}
					got, text = append(got, string(ev.Data)), text+ev.Text
					if ev.FinishReason != "" {
						reason = ev.FinishReason
					}
				}
				if diff := cmp.Diff(tc.events, got); diff != "" {
					t.Errorf("events (-want +got):\n%s", diff)
				}
				if text != "Four" || reason != tc.reason {
					t.Errorf("got %q and %q, want Four and %q", text, reason, tc.reason)
				}
			})
		}
	}
}

func TestStreamTimes(t *testing.T) {
	const s = time.Second
	size := len(sse(begin, fo)) // the first content comes at once
	empty := `{"choices":[{"index":0,"delta":{"content":""},"finish_reason":null}]}`
	var growing string // in events as large as fo
	for n := range 4 {
		ev := fmt.Sprintf(`{"choices":[],"usage":{"completion_tokens":%d}}`, n+3)
		growing += sse(ev + strings.Repeat(" ", len(fo)-len(ev)))
	}
	pings := sse(fo) + strings.Repeat(": \n\n\n", len(sse(fo))) + four
	for _, tc := range []struct {
		name          string
		timeout, idle time.Duration
		step          flaky.Step
		work          time.Duration // by the caller, for each event
		fails         bool
		after         time.Duration
	}{
		{"Timeout ends with the first content", 5 * s, 20 * s, eventStream(four).Slow(size, 15*s), 0, false, 30 * s},
		{"Timeout ends with the first content, without a Content-Type", 5 * s, 20 * s, flaky.Status(200).WithBody(four).Slow(size, 15*s), 0, false, 30 * s},
		{"Timeout ends with the first content, as text", 5 * s, 20 * s, plainText(four).Slow(size, 15*s), 0, false, 30 * s},
		{"an event in time starts the wait anew", 20 * s, 6 * s, eventStream(sse(fo, fo, fo, fo, "[DONE]")).Slow(len(sse(fo)), 5*s), 0, false, 20 * s},
		{"too long a wait", 20 * s, 6 * s, eventStream(four).Slow(size, 7*s), 0, true, 6 * s},
		{"if zero, Timeout", 20 * s, 0, eventStream(four).Slow(size, 21*s), 0, true, 20 * s},
		{"if both are zero, 5 minutes", 0, 0, eventStream(four).Slow(size, time.Hour), 0, true, 300 * s},
		{"comments are no events", 20 * s, 6 * s, eventStream(pings).Slow(len(sse(fo)), s), 0, true, 6 * s},
		{"empty chunks are no content", 20 * s, 6 * s, eventStream(sse(fo)+strings.Repeat(sse(empty), 20)).Slow(len(sse(empty)), s), 0, true, 7 * s},
		{"roles are no content", 20 * s, 6 * s, eventStream(sse(fo)+strings.Repeat(sse(begin), 20)).Slow(len(sse(begin)), s), 0, true, 6 * s},
		{"the same usage again is no content", 20 * s, 6 * s, eventStream(sse(fo)+strings.Repeat(sse(usage), 20)).Slow(len(sse(usage)), s), 0, true, 8 * s},
		{"a usage that grows is content", 20 * s, 6 * s, eventStream(sse(fo)+growing+sse("[DONE]")).Slow(len(sse(fo)), 5*s), 0, false, 25 * s},
		{"content among empty chunks", 20 * s, 6 * s, eventStream(strings.Repeat(sse(empty, empty, empty, fo+"  "), 3)+sse("[DONE]")).Slow(len(sse(empty)), s), 0, false, 12 * s},
		{"the caller's time does not count", 5 * s, 5 * s, eventStream(four), 10 * s, false, 50 * s},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
					BaseURL: fakeURL, Timeout: tc.timeout, StreamIdleTimeout: tc.idle, MaxRetries: 1,
					Transport: repeat(tc.step).Transport(nil),
				})
				start := time.Now()
				var failure error
				for _, err := range client.Stream(t.Context(), question()) {
					failure = err
					time.Sleep(tc.work)
				}
				if elapsed := time.Since(start); elapsed != tc.after {
					t.Errorf("ended after %v, want %v", elapsed, tc.after)
				}
				var timeout net.Error
				if tc.fails != (errors.As(failure, &timeout) && timeout.Timeout()) {
					t.Errorf("got %v, want a timeout: %t", failure, tc.fails)
				}
			})
		})
	}
}

func TestStreamCancellation(t *testing.T) {
	own := errors.New("shutting down")
	for _, tc := range []struct {
		name  string
		step  flaky.Step
		after time.Duration
	}{
		{"before the first attempt", eventStream(four), 0},
		{"while waiting for a retry", flaky.Status(503), 1500 * time.Millisecond},
		{"while waiting for the response", flaky.Hang(), 1500 * time.Millisecond},
		{"while waiting for content", eventStream(four).Slow(len(sse(begin)), time.Hour), 1500 * time.Millisecond},
		{"while waiting for an event", eventStream(four).Slow(len(sse(begin, fo)), time.Hour), 1500 * time.Millisecond},
		{"while it is not known whether it is a stream", plainText(four).Slow(3, time.Hour), 1500 * time.Millisecond},
		{"while waiting for what is no stream", plainText(answer).Slow(3, time.Hour), 1500 * time.Millisecond},
		{"while waiting for JSON", ok().Slow(3, time.Hour), 1500 * time.Millisecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
					BaseURL: fakeURL, MaxRetries: 5, JitterFraction: noJitter, Transport: repeat(tc.step).Transport(nil),
				})
				ctx, cancel := context.WithCancelCause(t.Context())
				if tc.after == 0 {
					cancel(own)
				}
				timer := time.AfterFunc(tc.after, func() { cancel(own) })
				defer timer.Stop()
				start := time.Now()
				_, _, err := collect(t, client.Stream(ctx, question()))
				checkError(t, err, inference.ErrCategoryUnknown, "request cancelled")
				if !errors.Is(err, context.Canceled) || !errors.Is(err, own) {
					t.Errorf("got %#v, want an error that is context.Canceled, and the cause", err.RawError)
				}
				if elapsed := time.Since(start); elapsed != tc.after {
					t.Errorf("ended after %v, want %v: as soon as cancelled", elapsed, tc.after)
				}
			})
		})
	}
}

func TestStreamDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
			BaseURL: fakeURL, Transport: flaky.New(eventStream(four).Slow(len(sse(begin, fo)), time.Hour)).Transport(nil),
		})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, text, err := collect(t, client.Stream(ctx, question()))
		checkError(t, err, inference.ErrCategoryServer, "request timeout")
		if !errors.Is(err, context.DeadlineExceeded) || text != "Fo" {
			t.Errorf("got %#v after %q, want an error that is context.DeadlineExceeded after Fo", err.RawError, text)
		}
	})
}

// TestStreamCutAnywhere ends a stream after each of its bytes, with an error of the
// connection or without one.
func TestStreamCutAnywhere(t *testing.T) {
	first := len(sse(begin, fo))                                        // up to the first content
	last, end := len(sse(begin, fo, ur, finish)), len(four)-len("\n\n") // up to the finish reason, and to [DONE]
	for n := range len(four) + 1 {
		for name, step := range map[string]flaky.Step{"cut": eventStream(four).Truncate(int64(n)), "ended": eventStream(four[:n])} {
			synctest.Test(t, func(t *testing.T) {
				script := flaky.New(step, eventStream(four))
				client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
					BaseURL: fakeURL, MaxRetries: 1, Transport: script.Transport(nil),
				})
				_, text, err := collect(t, client.Stream(t.Context(), question()))
				attempts, whole := 1, n > end || name == "ended" && n >= last-len("\n\n")
				if n < first {
					attempts, whole = 2, true
				}
				if len(script.Requests()) != attempts || whole != (err == nil) {
					t.Errorf("%s after %d of %d bytes: got %d attempts and %v, want %d and an error: %t",
						name, n, len(four), len(script.Requests()), err, attempts, !whole)
				}
				var partial *inference.StreamError
				switch {
				case err == nil && text != "Four":
					t.Errorf("%s after %d of %d bytes: got %q, want Four", name, n, len(four), text)
				case err != nil && (!errors.As(err, &partial) || partial.Text != text || !errors.Is(err, io.ErrUnexpectedEOF)):
					t.Errorf("%s after %d of %d bytes: got %#v, want a *StreamError with %q", name, n, len(four), err, text)
				}
			})
		}
	}
}

// TestStreamCancelledAnywhere has a stream of which a byte arrives each
// millisecond.
func TestStreamCancelledAnywhere(t *testing.T) {
	for n := 0; n <= len(four)+10; n += 3 {
		synctest.Test(t, func(t *testing.T) {
			script := repeat(eventStream(four).Slow(1, time.Millisecond))
			client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
				BaseURL: fakeURL, MaxRetries: 5, Transport: script.Transport(nil),
			})
			after := time.Duration(n)*time.Millisecond + time.Microsecond
			ctx, cancel := context.WithTimeoutCause(t.Context(), after, errors.New("enough"))
			defer cancel()
			start := time.Now()
			data, _, err := collect(t, client.Stream(ctx, question()))
			if err == nil && len(data) == 5 {
				return // in time
			}
			checkError(t, err, inference.ErrCategoryServer, "request timeout")
			var partial *inference.StreamError
			if errors.As(err, &partial) != (len(data) > 0) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("cancelled after %v: got %#v after %d events, want the deadline, in a *StreamError if there were events", after, err, len(data))
			}
			if elapsed := time.Since(start); elapsed != after || len(script.Requests()) != 1 {
				t.Errorf("cancelled after %v: ended after %v and %d attempts, want at once and 1", after, elapsed, len(script.Requests()))
			}
		})
	}
}

// TestStream_SecondRangeIsAnError has one sequence for many goroutines.
func TestStream_SecondRangeIsAnError(t *testing.T) {
	var requests atomic.Int32
	server := newServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		write(w, four, 50)
	}))
	client := newClient(t, inference.HTTPInferenceClientConfig{BaseURL: server.URL})
	events := client.Stream(t.Context(), question())
	var answers atomic.Int32
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, text, err := collect(t, events); err == nil && text == "Four" {
				answers.Add(1)
			} else {
				checkError(t, err, inference.ErrCategoryInvalidReq, "stream was already used: call Stream again to repeat the request")
			}
		})
	}
	wg.Wait()
	if answers.Load() != 1 || requests.Load() != 1 {
		t.Errorf("got %d answers to %d requests, want 1 and 1", answers.Load(), requests.Load())
	}
}

// TestStream_ConcurrentUse has one client for many goroutines.
func TestStream_ConcurrentUse(t *testing.T) {
	var requests atomic.Int32
	server := newServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1)%2 == 1 {
			write(w, sse(begin)+noise[0].event+sse(failed), 50)
			return
		}
		write(w, four, 50)
	}))
	client := newClient(t, inference.HTTPInferenceClientConfig{BaseURL: server.URL, MaxRetries: 50, InitialBackoff: 1, MaxBackoff: 1})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, text, err := collect(t, client.Stream(t.Context(), question())); text != "Four" || err != nil {
				t.Errorf("got %q and %v, want Four", text, err)
			}
		})
	}
	wg.Wait()
}

// TestStreamClosesABodyOnce has timeouts at each stage.
func TestStreamClosesABodyOnce(t *testing.T) {
	for _, text := range []string{"", sse(begin), sse(fo)} {
		synctest.Test(t, func(t *testing.T) {
			b := &stuckBody{text: text, closed: make(chan struct{})}
			client := streamFrom(t, inference.HTTPInferenceClientConfig{Timeout: time.Second}, b)
			_, _, err := collect(t, client.Stream(t.Context(), question()))
			checkError(t, err, inference.ErrCategoryServer, "request timeout")
			if n := b.closes.Load(); n != 1 {
				t.Errorf("stuck after %q: the body was closed %d times, want once", text, n)
			}
		})
	}
}

// A stuckBody has some text, and then a Read that only Close ends.
type stuckBody struct {
	text   string
	closed chan struct{}
	closes atomic.Int32
}

func (b *stuckBody) Read(p []byte) (int, error) {
	if b.text == "" {
		<-b.closed
		return 0, errors.New("closed")
	}
	n := copy(p, b.text)
	b.text = b.text[n:]
	return n, nil
}

func (b *stuckBody) Close() error {
	if b.closes.Add(1) == 1 {
		close(b.closed)
	}
	return nil
}

// TestStreamStopsForACallerWhoHasGone has a stream whose events have all arrived.
func TestStreamStopsForACallerWhoHasGone(t *testing.T) {
	client := newClient(t, inference.HTTPInferenceClientConfig{
		BaseURL: fakeURL, Transport: flaky.New(eventStream(four)).Transport(nil),
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	var last error
	for _, err := range client.Stream(ctx, question()) {
		n, last = n+1, err
		cancel()
	}
	if n != 2 || !errors.Is(last, context.Canceled) {
		t.Errorf("cancelled after the first event: got %d results, the last %v; want context.Canceled at once", n, last)
	}
}

func TestStreamLeftBehindIsClosed(t *testing.T) {
	overEachProtocol(t, func(t *testing.T, start func(http.Handler) inference.HTTPInferenceClientConfig) {
		for _, tc := range []struct {
			name  string
			leave func(iter.Seq2[inference.StreamEvent, error])
		}{
			{"break", func(events iter.Seq2[inference.StreamEvent, error]) {
				for range events {
					break
				}
			}},
			{"panic", func(events iter.Seq2[inference.StreamEvent, error]) {
				defer func() { recover() }()
				for range events {
					panic("enough")
				}
			}},
			{"stopped iterator", func(events iter.Seq2[inference.StreamEvent, error]) {
				next, stop := iter.Pull2(events)
				next()
				stop()
			}},
		} {
			t.Run(tc.name, func(t *testing.T) {
				gone := make(chan struct{})
				client := newClient(t, start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					io.Copy(io.Discard, r.Body)
					write(w, sse(begin, fo), 1<<10)
					<-r.Context().Done()
					close(gone)
				})))
				tc.leave(client.Stream(t.Context(), question()))
				select {
				case <-gone:
				case <-time.After(10 * time.Second):
					t.Error("the server was still sending after 10s")
				}
			})
		}
	})
}

func TestStreamGivesItsConnectionBack(t *testing.T) {
	long := strings.Repeat(sse(fo), 100) // too long for a Content-Length
	for _, tc := range []struct{ name, body string }{
		{"[DONE]", long + four},
		{"[DONE] and more than is waited for", long + four + strings.Repeat(": bye\n\n", 100)},
		{"finish reason", long + sse(finish)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var opened atomic.Int32
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				io.WriteString(w, tc.body)
			}))
			server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					opened.Add(1)
				}
			}
			server.Start()
			t.Cleanup(server.Close)
			client := newClient(t, inference.HTTPInferenceClientConfig{BaseURL: server.URL})
			for range 10 {
				if _, _, err := collect(t, client.Stream(t.Context(), question())); err != nil {
					t.Fatal(err)
				}
			}
			if n := opened.Load(); n != 1 {
				t.Errorf("10 streams opened %d connections, want 1", n)
			}
		})
	}
}

// TestStreamWithoutAnEnd has a server that sends [DONE], with or without a blank line,
// and keeps the connection open.
func TestStreamWithoutAnEnd(t *testing.T) {
	for _, said := range []string{four, strings.TrimSuffix(four, "\n")} {
		synctest.Test(t, func(t *testing.T) {
			client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
				BaseURL: fakeURL, Transport: flaky.New(eventStream(said+": still here\n").Slow(len(said), time.Hour)).Transport(nil),
			})
			start := time.Now()
			if _, _, err := collect(t, client.Stream(t.Context(), question())); err != nil {
				t.Fatal(err)
			}
			if elapsed := time.Since(start); elapsed > 10*time.Millisecond {
				t.Errorf("ended %v after [DONE], want 10ms at most", elapsed)
			}
		})
	}
}

// A body has a list of results of Read: text, and errors, which are returned once,
// together with the text before them.
type body struct {
	results []any
	ended   bool // io.EOF has been read
	closed  atomic.Bool
}

func (b *body) Read(p []byte) (int, error) {
	if b.closed.Load() || len(b.results) == 0 {
		b.ended = !b.closed.Load()
		return 0, io.EOF
	}
	text := b.results[0].(string)
	n := copy(p, text)
	if n < len(text) {
		b.results[0] = text[n:]
		return n, nil
	}
	if b.results = b.results[1:]; len(b.results) > 0 {
		if err, ok := b.results[0].(error); ok {
			b.results = b.results[1:]
			return n, err
		}
	}
	return n, nil
}

func (b *body) Close() error {
	b.closed.Store(true)
	return nil
}

// streamFrom returns a client whose requests are answered with the bodies, one
// after the other.
func streamFrom(t testing.TB, config inference.HTTPInferenceClientConfig, bodies ...io.ReadCloser) *inference.HTTPInferenceClient {
	config.BaseURL = fakeURL
	config.Transport = roundTripFunc(func(req *http.Request) (*http.Response, error) {
		req.Body.Close()
		next := bodies[0]
		bodies = bodies[1:]
		return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: next}, nil
	})
	return newClient(t, config)
}

func TestStreamClosesEveryBody(t *testing.T) {
	bodies := []*body{
		{results: []any{sse(begin)}},
		{results: []any{sse(begin), io.ErrUnexpectedEOF}},
		{results: []any{sse(failed)}},
		{results: []any{four}},
	}
	var closers []io.ReadCloser
	for _, b := range bodies {
		closers = append(closers, b)
	}
	client := streamFrom(t, inference.HTTPInferenceClientConfig{MaxRetries: 3, InitialBackoff: time.Millisecond}, closers...)
	if _, _, err := collect(t, client.Stream(t.Context(), question())); err != nil {
		t.Fatal(err)
	}
	for i, b := range bodies {
		if !b.closed.Load() {
			t.Errorf("the body of attempt %d was left open", i+1)
		}
	}
}

// TestStreamErrorThatComesOnce has a body that returns its error together with
// the first content, and never again.
func TestStreamErrorThatComesOnce(t *testing.T) {
	client := streamFrom(t, inference.HTTPInferenceClientConfig{}, &body{results: []any{sse(fo), syscall.ECONNRESET, sse(ur, finish)}})
	_, text, err := collect(t, client.Stream(t.Context(), question()))
	if !errors.Is(err, syscall.ECONNRESET) || text != "Fo" {
		t.Errorf("got %q and %v, want Fo and the reset", text, err)
	}
}

// TestStreamIsReadToItsEnd fails if a connection cannot be reused because a part of
// the body was not read.
func TestStreamIsReadToItsEnd(t *testing.T) {
	b := &body{results: []any{four, ": bye\n\n"}}
	if _, _, err := collect(t, streamFrom(t, inference.HTTPInferenceClientConfig{}, b).Stream(t.Context(), question())); err != nil {
		t.Fatal(err)
	}
	if !b.ended || !b.closed.Load() {
		t.Errorf("after [DONE]: read to the end: %t, closed: %t; want both", b.ended, b.closed.Load())
	}
}

func TestStreamIsBounded(t *testing.T) {
	const mib = 1 << 20
	filled := func(n int) string {
		const before, after = `{"choices":[{"text":"`, `"}]}`
		return before + strings.Repeat("x", n-len(before)-len(after)) + after
	}
	const tooLarge = "failed to execute request: event is larger than 8 MiB"
	for _, tc := range []struct {
		name    string
		body    string
		events  int
		message string // of the error; "": none
	}{
		{"largest event", sse(filled(8*mib-8), "[DONE]"), 1, ""},
		{"event too large", sse(filled(8*mib), "[DONE]"), 0, tooLarge},
		{"event too large on many lines", "data: " + strings.Repeat(strings.Repeat("x", mib)+"\ndata: ", 9), 0, tooLarge},
		{"line too large after content", sse(fo) + ":" + strings.Repeat("x", 9*mib), 1, tooLarge},
		{"more comments than are kept", strings.Repeat(": still here\n\n", mib/10) + four, 5, ""},
		{"more openings than are kept", strings.Repeat(sse(begin), mib/90) + four, mib/90 + 5, ""},
		{"far more openings than are kept", strings.Repeat(sse(begin), 100_000) + four, 4*mib/(len(begin)+64) + 4, ""},
		{"large first event", sse(filled(2*mib), "[DONE]"), 1, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client := streamFrom(t, inference.HTTPInferenceClientConfig{}, &body{results: []any{tc.body}})
			events, _, err := collect(t, client.Stream(t.Context(), question()))
			if len(events) != tc.events {
				t.Errorf("got %d events, want %d", len(events), tc.events)
			}
			if tc.message != "" {
				checkError(t, err, inference.ErrCategoryServer, tc.message)
			} else if err != nil {
				t.Errorf("got %v, want no error within the bounds", err)
			}
		})
	}
}

// TestStreamIsBoundedInMemory has events that would take a hundred times their size
// if all elements were decoded.
func TestStreamIsBoundedInMemory(t *testing.T) {
	const size = 512 << 10
	// fill repeats middle.
	fill := func(before, middle, after string) string {
		return before + strings.Repeat(middle, (size-len(before)-len(after))/len(middle)) + after
	}
	for _, tc := range []struct{ name, data string }{
		{"text", fill(`{"choices":[{"text":"`, "x", `"}]}`)},
		{"choices", fill(`{"choices":[`, "{},", `{"text":"x"}]}`)},
		{"choices with text", fill(`{"choices":[`, `{"text":"x"},`, "{}]}")},
		{"choices of every number", fill(`{"choices":[{"text":"x"}`, `,{"index":12345}`, "]}")},
		{"lists of choices", fill(`{"choices":[{"text":"x"}]`, `,"choices":[{}]`, "}")},
		{"deltas", fill(`{"choices":[{"text":"x"`, `,"delta":{"a":[]}`, "}]}")},
		{"members of a delta", fill(`{"choices":[{"text":"x","delta":{"a":1`, `,"a":{}`, "}}]}")},
		{"members of another name", fill(`{"choices":[{"text":"x","delta":{"a":1`, `,"\u0061":"\u0062"`, "}}]}")},
		{"tool calls", fill(`{"choices":[{"delta":{"tool_calls":[`, `{"index":0},`, "{}]}}]}")},
		{"members of the chunk", fill(`{"choices":[{"text":"x"}]`, `,"a":{}`, "}")},
		{"members of its usage", fill(`{"choices":[{"text":"x"}],"usage":{"a":0`, `,"a":{}`, "}}")},
		{"details", fill(`{"choices":[{"text":"x"}],"details":[`, "{},", "{}]}")},
		{"lists of details", fill(`{"choices":[{"text":"x"}]`, `,"details":[{}]`, "}")},
		{"depth", `{"choices":[{"text":"x","delta":{"a":` + strings.Repeat(`[[[`, 3_000) + strings.Repeat(`]]]`, 3_000) + "}}]}"},
		{"depth that is too much", strings.Repeat("[", size)},
		{"errors", fill("[", `{"error":{}},`, "{}]")},
		{"error", fill(`{"error":{`, `"a":{},`, `"b":1}}`)},
		{"noise", fill(`{`, `"a":{},`, `"b":1}`)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client := streamFrom(t, inference.HTTPInferenceClientConfig{}, &body{results: []any{sse(tc.data, finish, "[DONE]")}})
			allocated := allocatedBy(func() {
				for range client.Stream(t.Context(), question()) {
				}
			})
			// Most of it is garbage: buffers that were replaced as they grew.
			if limit := 32*uint64(len(tc.data)) + 4<<20; allocated > limit {
				t.Errorf("an event of %d KiB took %d KiB, want at most %d", len(tc.data)>>10, allocated>>10, limit>>10)
			}
		})
	}
}

// TestStreamRemembersLittle has a gateway that sends ever more choices.
func TestStreamRemembersLittle(t *testing.T) {
	var body strings.Builder
	for i := range 50_000 {
		fmt.Fprintf(&body, "data: {\"choices\":[{\"index\":%d,\"text\":\"x\"}]}\n\n", i)
	}
	client := newClient(t, inference.HTTPInferenceClientConfig{
		BaseURL: fakeURL, Transport: flaky.New(eventStream(body.String())).Transport(nil),
	})
	var before, after runtime.MemStats
	for _, err := range client.Stream(t.Context(), question()) {
		if before.HeapAlloc == 0 {
			runtime.GC()
			runtime.ReadMemStats(&before)
		}
		if err != nil {
			runtime.GC()
			runtime.ReadMemStats(&after)
		}
	}
	if before.HeapAlloc == 0 || after.HeapAlloc == 0 {
		t.Fatal("the stream had no event, or no error at its end: no choice has a finish reason")
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
		t.Errorf("after events of 50000 choices %d KiB more are in use, want at most 1024", grown>>10)
	}
}

func TestStreamOfAnInvalidRequest(t *testing.T) {
	for _, tc := range []struct {
		name   string
		config inference.HTTPInferenceClientConfig
		req    *inference.InferenceRequest
		want   string
	}{
		{"nil", inference.HTTPInferenceClientConfig{BaseURL: fakeURL}, nil, "request cannot be nil"},
		{
			"config", inference.HTTPInferenceClientConfig{BaseURL: fakeURL, StreamIdleTimeout: -1}, question(),
			"invalid client configuration: inference: invalid StreamIdleTimeout -1ns: must not be negative",
		},
		{
			"params", inference.HTTPInferenceClientConfig{BaseURL: fakeURL}, &inference.InferenceRequest{Params: map[string]any{"tools": make(chan int)}},
			`invalid params: "tools": json: unsupported type: chan int`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, _, err := collect(t, newClient(t, tc.config).Stream(t.Context(), tc.req))
			checkError(t, err, inference.ErrCategoryInvalidReq, tc.want)
		})
	}
	t.Run("nil context", func(t *testing.T) {
		client := newClient(t, inference.HTTPInferenceClientConfig{BaseURL: fakeURL})
		//lint:ignore SA1012 a mistake that must not become a panic
		_, _, err := collect(t, client.Stream(nil, question()))
		checkError(t, err, inference.ErrCategoryInvalidReq, "invalid request: net/http: nil Context")
	})
}

func TestStreamBody(t *testing.T) {
	for _, tc := range []struct {
		name   string
		params map[string]any
		path   string
		want   string
	}{
		{"not told", map[string]any{"prompt": "2+2="}, "/v1/completions", `{"model":"small","prompt":"2+2=","stream":true}`},
		{"on", map[string]any{"messages": []any{}, "stream": true}, "/v1/chat/completions", `{"messages":[],"model":"small","stream":true}`},
		{"off", map[string]any{"stream": false}, "/v1/chat/completions", `{"model":"small","stream":true}`},
		{"nil", nil, "/v1/chat/completions", `{"model":"small","stream":true}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			script := repeat(eventStream(four))
			client := newClient(t, inference.HTTPInferenceClientConfig{BaseURL: fakeURL, Transport: script.Transport(nil)})
			before, _ := json.Marshal(tc.params)
			events := client.Stream(t.Context(), &inference.InferenceRequest{Model: "small", Params: tc.params})
			if n := len(script.Requests()); n != 0 {
				t.Errorf("got %d requests before the first range, want none", n)
			}
			if _, text, err := collect(t, events); text != "Four" || err != nil {
				t.Errorf("got %q and %v, want Four", text, err)
			}
			for _, sent := range script.Requests() {
				if string(sent.Body) != tc.want || sent.URL.Path != tc.path {
					t.Errorf("sent %s to %s, want %s to %s", sent.Body, sent.URL.Path, tc.want, tc.path)
				}
			}
			if after, _ := json.Marshal(tc.params); string(after) != string(before) {
				t.Errorf("Stream changed the caller's Params from %s to %s", before, after)
			}
		})
	}
}

func TestStreamErrorHoldsNoSecret(t *testing.T) {
	quoting := `{"error":{"message":"key sk-1234567890 may not ask: What is two plus two?","code":400}}`
	for _, tc := range []struct {
		name string
		body string
	}{
		{"before content", sse(quoting)},
		{"after content", sse(fo, quoting)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client := newClient(t, inference.HTTPInferenceClientConfig{
				BaseURL: fakeURL, APIKey: "sk-1234567890", Transport: flaky.New(eventStream(tc.body)).Transport(nil),
			})
			_, _, err := collect(t, client.Stream(t.Context(), question()))
			checkError(t, err, inference.ErrCategoryInvalidReq, "HTTP 400: key [redacted] may not ask: [redacted]")
			for _, secret := range []string{"sk-1234567890", "two plus two"} {
				if text := err.RawError.Error(); strings.Contains(text, secret) {
					t.Errorf("RawError %q holds %q, want no secret in it", text, secret)
				}
			}
		})
	}
}

func TestStreamIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		client := inference.NewHTTPInferenceClient(inference.HTTPInferenceClientConfig{
			BaseURL: fakeURL, MaxRetries: 3, JitterFraction: noJitter, Logger: newLogger(&log, slog.Level(-3)),
			Transport: flaky.New(eventStream(sse(begin, geminiRate)), eventStream(""), eventStream(four)).Transport(nil),
		})
		if _, _, err := collect(t, client.Stream(t.Context(), question())); err != nil {
			t.Fatal(err)
		}
		want := `level=DEBUG+1 msg="inference attempt failed, retrying" status=429 request_id=request-1 delay=34.07s attempt=1 max=3 category=RATE_LIMIT
level=DEBUG+1 msg="inference attempt failed, retrying" request_id=request-1 delay=2s attempt=2 max=3 category=SERVER_ERROR
level=DEBUG+1 msg="inference request succeeded after retries" request_id=request-1 attempt=2 max=3
`
		if diff := cmp.Diff(want, log.String()); diff != "" {
			t.Errorf("log lines (-want +got):\n%s", diff)
		}
	})
}

// A split is a reader whose Reads return as many bytes as sizes says, over and over.
type split struct {
	text  string
	sizes []byte
	reads int
}

func (s *split) Read(p []byte) (int, error) {
	if s.text == "" {
		return 0, io.EOF
	}
	n := 1
	if len(s.sizes) > 0 {
		n += int(s.sizes[s.reads%len(s.sizes)])
	}
	s.reads++
	n = copy(p, s.text[:min(n, len(s.text))])
	s.text = s.text[n:]
	return n, nil
}

// FuzzEventStream checks that the events of a stream depend neither on the way in
// which its bytes are split nor on noise before it.
func FuzzEventStream(f *testing.F) {
	for _, seed := range []string{
		four, sse(begin, failed), sse(fo, failed), sse(fo), sse(fo) + "data: [DONE]",
		"\uFEFF: hello\r\rdata: {\rdata: }\r\n\r\nevent: ping\ndata: 1\n\ndata:[DONE]\n\n",
		sse(`{"usage":{"a":1}}`, `[{"error":"no"}]`, `{"choices":[{"delta":{"role":"x","a":[ ]},"finish_reason":"error"}]}`), "error: {}\n\n",
		sse(fo) + noise[6].event + sse(`{"message":"no","code":-1,"details":[{"violations":[{}]}]}`, "{"),
		strings.ReplaceAll(four, "\n", "\r\n"), "event: error\ndata: x\n\n", "data\n\n\uFEFFdata: 1\n\r", "retry: 1\nid\n:\n\n",
	} {
		f.Add(seed, []byte{})
		f.Add(seed, []byte{3, 0, 11})
	}
	f.Fuzz(func(t *testing.T, text string, sizes []byte) {
		type result struct {
			Data        []string
			Text, Error string
		}
		read := func(body io.Reader) result {
			client := streamFrom(t, inference.HTTPInferenceClientConfig{}, io.NopCloser(body))
			data, text, err := collect(t, client.Stream(t.Context(), question()))
			if err == nil {
				return result{data, text, ""}
			}
			var partial *inference.StreamError
			if errors.As(err, &partial) != (len(data) > 0) || partial != nil && partial.Text != text {
				t.Errorf("got %#v after %d events with the text %q, want a *StreamError with that text if there were events", err, len(data), text)
			}
			return result{data, text, err.Error()}
		}
		all := read(strings.NewReader(text))
		for _, data := range all.Data {
			if !json.Valid([]byte(data)) {
				t.Errorf("got an event with %q, which is not JSON", data)
			}
		}
		if diff := cmp.Diff(all, read(&split{text: text, sizes: sizes})); diff != "" {
			t.Errorf("split by %v (-whole +split):\n%s", sizes, diff)
		}
		// A body that begins like JSON is a whole answer, but not after an event.
		start := strings.TrimLeft(strings.TrimPrefix(text, "\uFEFF"), " \t\r\n")
		whole := strings.HasPrefix(start, "{") || strings.HasPrefix(start, "[")
		if n := noise[len(text)%len(noise)]; !whole && !strings.HasPrefix(text, "\uFEFF") {
			if diff := cmp.Diff(all, read(strings.NewReader(n.event+text))); diff != "" {
				t.Errorf("after a %s (-without +with):\n%s", n.name, diff)
			}
		}
	})
}
