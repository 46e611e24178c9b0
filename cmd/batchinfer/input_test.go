package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf16"
)

func memoryInput(text string) *input {
	return &input{name: "in.jsonl", src: strings.NewReader(text), close: func() error { return nil }}
}

// checkedInput returns an input that was checked.
func checkedInput(t *testing.T, text string) *input {
	t.Helper()
	in := memoryInput(text)
	if err := in.check(t.Context()); err != nil {
		t.Fatal(err)
	}
	return in
}

// lineWith returns a valid line with one field replaced, or removed if value is
// empty.
func lineWith(t *testing.T, field, value string) string {
	t.Helper()
	line := map[string]json.RawMessage{}
	if err := json.Unmarshal([]byte(chatLine("a")), &line); err != nil {
		t.Fatal(err)
	}
	line[field] = json.RawMessage(value)
	if value == "" {
		delete(line, field)
	}
	text, err := json.Marshal(line)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

type inputCase struct {
	name, text string
	want       []string // nil: the input is valid
}

// inputCases are inputs and the messages about them.
func inputCases(t *testing.T) []inputCase {
	with := func(field, value string) string { return lineWith(t, field, value) }
	completion := func(body string) string {
		return `{"custom_id":"a","method":"POST","url":"/v1/completions","body":` + body + `}`
	}
	return []inputCase{
		{"good", chatLine("a") + "\n" + chatLine("b"), nil},
		{"blank lines and CRLF", "\r\n\n" + chatLine("a") + "\r\n \t\n", nil},
		{"byte order mark", "\uFEFF" + chatLine("a"), nil},
		{"a field more", with("note", `1`), nil},
		{"no model", with("body", `{"messages":[]}`), nil},
		{"stream off", with("body", `{"messages":[],"stream":false}`), nil},
		{"completion", completion(`{"prompt":["a"]}`), nil},
		{"completion with messages", completion(`{"prompt":"","messages":[]}`), nil},
		{"embeddings", `{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{"input":"a"}}`, nil},
		{"query", `{"custom_id":"a","method":"POST","url":"/v1/score?user=1","body":{"text_1":"a","text_2":"b"}}`, nil},
		{"GET without a body", `{"custom_id":"a","method":"GET","url":"/v1/models/m"}`, nil},
		{"GET with a body", with("method", `"GET"`), nil},

		{"empty", "", []string{"in.jsonl: no request in it"}},
		{"not JSON", chatLine("a") + "\n{oops\n", []string{"in.jsonl:2: not valid JSON at byte 2: invalid character 'o'"}},
		{"cut off", chatLine("a") + "\n" + chatLine("b")[:50], []string{"in.jsonl:2: not valid JSON at byte 50: unexpected end"}},
		{"two objects", "{}{}", []string{"in.jsonl:1: not valid JSON at byte 3"}},
		{"a list", "[1]", []string{"in.jsonl:1: is a JSON array, and must be a JSON object in each line"}},
		{"a list in a later line", chatLine("a") + "\n[1]", []string{"in.jsonl:2: not a JSON object"}},
		{"null", "null", []string{"in.jsonl:1: not a JSON object"}},
		{"not UTF-8", "{\"custom_id\":\"\xff\"}", []string{"in.jsonl:1: not valid UTF-8"}},
		{"all missing", "\n{}", []string{
			"in.jsonl:2: custom_id: missing", "in.jsonl:2: method: missing", "in.jsonl:2: url: missing", "in.jsonl:2: body: missing"}},
		{"duplicate", chatLine("a") + "\n\n" + chatLine("b") + "\n" + chatLine("a"), []string{`in.jsonl:4: custom_id: "a" is already that of line 1`}},
		{"id a number", with("custom_id", "7"), []string{"in.jsonl:1: custom_id: not a string"}},
		{"id null", with("custom_id", "null"), []string{"in.jsonl:1: custom_id: not a string"}},
		{"id empty", with("custom_id", `""`), []string{"in.jsonl:1: custom_id: empty"}},
		{"id too long", with("custom_id", `"`+strings.Repeat("x", 513)+`"`), []string{"in.jsonl:1: custom_id: longer than 512 bytes"}},
		{"unknown method", with("method", `"post"`), []string{`in.jsonl:1: method: is "post": it must be one of POST, GET, PUT, PATCH, DELETE`}},
		{"long url", with("url", `"`+strings.Repeat("x", 500)+`"`), []string{`in.jsonl:1: url: is "` + strings.Repeat("x", 60) + `"…: it must be a path that begins with a slash, such as /v1/chat/completions`}},
		{"url of another host", with("url", `"https://other.test/v1/embeddings"`), []string{`in.jsonl:1: url: is "https://other.test/v1/embeddings": it must be a path`}},
		{"url above the base path", with("url", `"/v1/../../admin"`), []string{`in.jsonl:1: url: is "/v1/../../admin": it must not have the segments "." and ".."`}},
		{"url with a line break", with("url", `"/v1/\r\nA: b"`), []string{`in.jsonl:1: url: is "/v1/\r\nA: b": it must be a path`}},
		{"body missing", with("body", ""), []string{"in.jsonl:1: body: missing"}},
		{"body a string", with("body", `"{}"`), []string{"in.jsonl:1: body: not a JSON object"}},
		{"body null", with("body", `null`), []string{"in.jsonl:1: body: not a JSON object"}},
		{"model a number", with("body", `{"model":1,"messages":[]}`), []string{"in.jsonl:1: body.model: not a string"}},
		{"chat without messages", with("body", `{"prompt":""}`), []string{"in.jsonl:1: body.messages: missing, and /v1/chat/completions needs it"}},
		{"completion without prompt", completion(`{}`), []string{"in.jsonl:1: body.prompt: missing, and /v1/completions needs it"}},
		{"POST without a body", `{"custom_id":"a","method":"POST","url":"/v1/x"}`, []string{"in.jsonl:1: body: missing"}},
		{"repeated key in the line", `{"custom_id":"a",` + chatLine("b")[1:], []string{`in.jsonl:1: key "custom_id" is there more than once`}},
		{"repeated body", chatLine("a") + "\n" + strings.TrimSuffix(chatLine("b"), "}") + `,"body":{}}`, []string{`in.jsonl:2: key "body" is there more than once`}},
		{"repeated key, escaped", with("body", `{"messages":[],"n":{"n":1},"\u006e":2}`), []string{`in.jsonl:1: body: key "n" is there more than once`}},
		{"repeated key, deeper", with("body", `{"messages":[{"role":"user"},{"role":"user"}],"n":{"a":1,"a":2}}`), nil},
		{"stream", with("body", `{"messages":[],"stream": true}`), []string{"in.jsonl:1: body.stream: must not be true"}},
		{"too long", chatLine("a") + "\n" + strings.Repeat("x", maxLineBytes+1) + "\n{", []string{"in.jsonl:2: longer than 16 MiB", "in.jsonl:3: not valid JSON"}},
	}
}

// A file in UTF-16 is recognized by its first line, in either order, with a byte order
// mark or without one, and after blank lines. It has one mistake.
func TestInputCheck_UTF16(t *testing.T) {
	for name, text := range map[string]string{
		"object":              chatLine("a") + "\n" + chatLine("b") + "\n",
		"array":               "[" + chatLine("a") + "]",
		"pretty array":        "[\r\n  " + chatLine("a") + "\r\n]",
		"after a blank line":  "\n" + chatLine("a") + "\n",
		"after CRLF":          "\r\n\r\n" + chatLine("a") + "\r\n",
		"after spaces":        "  \n \t" + chatLine("a") + "\n",
		"bytes of 0 in a row": chatLine("一"),
		"with a space before": " " + chatLine("a"),
	} {
		for encoding, order := range map[string]binary.AppendByteOrder{"UTF-16LE": binary.LittleEndian, "UTF-16BE": binary.BigEndian} {
			for _, mark := range []bool{false, true} {
				t.Run(fmt.Sprint(name, encoding, mark), func(t *testing.T) {
					var file []byte
					want := encoding
					if mark {
						file, want = order.AppendUint16(file, 0xfeff), "UTF-16"
					}
					for _, unit := range utf16.Encode([]rune(text)) {
						file = order.AppendUint16(file, unit)
					}
					got := fmt.Sprint(memoryInput(string(file)).check(t.Context()))
					want = ": is UTF-16, and must be UTF-8: iconv -f " + want + " -t UTF-8 converts it"
					if !strings.HasSuffix(got, want) || strings.Contains(got, "\n") {
						t.Errorf("got %s, want one line with %s", got, want)
					}
				})
			}
		}
	}
	zeros := fmt.Sprint(memoryInput("\x00\x00\x00\x00\n").check(t.Context()))
	if strings.Contains(zeros, "UTF-16") {
		t.Errorf("zeros: got %s, want another mistake", zeros)
	}
}

func TestInputCheck(t *testing.T) {
	for _, tt := range inputCases(t) {
		t.Run(tt.name, func(t *testing.T) {
			err := memoryInput(tt.text).check(t.Context())
			if tt.want == nil {
				if err != nil {
					t.Errorf("got %v, want no error", err)
				}
				return
			}
			got := strings.Split(fmt.Sprint(err), "\n")
			if len(got) != len(tt.want) {
				t.Fatalf("got %q, want %q", got, tt.want)
			}
			for i := range got {
				if !strings.HasPrefix(got[i], tt.want[i]) {
					t.Errorf("got  %s\nwant %s", got[i], tt.want[i])
				}
			}
		})
	}
}

func TestInputTooManyProblems(t *testing.T) {
	err := memoryInput(strings.Repeat("{\n", 1000)).check(t.Context())
	lines := strings.Split(fmt.Sprint(err), "\n")
	if len(lines) != maxProblems+1 || lines[maxProblems] != "in.jsonl: and more; these are the first 20" {
		t.Errorf("got %d lines, want %d:\n%v", len(lines), maxProblems+1, err)
	}
}

// A line of exactly the allowed length is read.
func TestInputLongestLine(t *testing.T) {
	line := chatLine("a")
	line += strings.Repeat(" ", maxLineBytes-len(line))
	if err := memoryInput(line + "\r\n" + chatLine("b")).check(t.Context()); err != nil {
		t.Errorf("got %v, want no error for a line of exactly %d bytes", err, len(line))
	}
}

func TestInputReadError(t *testing.T) {
	broken := errors.New("disk on fire")
	in := memoryInput("")
	in.src = struct {
		io.Reader
		io.Seeker
		io.ReaderAt
	}{io.MultiReader(strings.NewReader(inputOf(2)), iotest.ErrReader(broken)), strings.NewReader(""), strings.NewReader("")}
	if err := in.check(t.Context()); !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "in.jsonl:3: ") {
		t.Errorf("got %v, want %v with the line", err, broken)
	}
}

// A check ends with its context within one line that takes long to read.
func TestInputCheck_InterruptedInLine(t *testing.T) {
	var body strings.Builder
	for i := range 1 << 16 {
		fmt.Fprintf(&body, `"%x":0,`, i)
	}
	ctx, cancel := context.WithCancel(t.Context())
	in := memoryInput(strings.Replace(chatLine("a"), `"model"`, body.String()+`"model"`, 1))
	// The reader ends after the whole line was read.
	in.src = struct {
		io.Reader
		io.Seeker
		io.ReaderAt
	}{io.MultiReader(in.src, endFunc(cancel)), in.src, in.src}
	if err := in.check(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// An endFunc is an empty reader that calls a function.
type endFunc func()

func (f endFunc) Read([]byte) (int, error) {
	f()
	return 0, io.EOF
}

// A request that was not checked must not be sent.
func TestInputChanged(t *testing.T) {
	for _, tt := range []struct {
		name, text, want string
	}{
		{"another id", chatLine("r0") + "\n" + chatLine("x"), "in.jsonl:2: the file was changed"},
		{"another order", chatLine("r1") + "\n" + chatLine("r0"), "in.jsonl:1: the file was changed"},
		{"shorter", chatLine("r0"), "in.jsonl:1: the file was changed"},
		{"longer", inputOf(3), "in.jsonl:3: the file was changed"},
		{"malformed", "{", "in.jsonl:1: the file was changed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := checkedInput(t, inputOf(2))
			in.src = strings.NewReader(tt.text)
			err := in.unanswered(t.Context(), func(request) error { return nil })
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func TestHeaderSafe(t *testing.T) {
	for _, tt := range []struct{ id, want string }{
		{"request-1", "request-1"},
		{"a/b?c=d", "a/b?c=d"},
		{"100%", "100%25"},
		{"a b", "a%20b"},
		{"a%20b", "a%2520b"},
		{"a+b", "a+b"},
		{"a\nb", "a%0Ab"},
		{"é", "%C3%A9"},
	} {
		if got := headerSafe(tt.id); got != tt.want {
			t.Errorf("headerSafe(%q): got %q, want %q", tt.id, got, tt.want)
		}
		if got, err := url.PathUnescape(tt.want); got != tt.id {
			t.Errorf("%q stands for %q, %v, want only %q", tt.want, got, err, tt.id)
		}
	}
}

// FuzzReadInput checks that any input is read without a panic, that each line is
// read exactly once, and that the requests are those of a plain reading of the
// text, in the same order.
func FuzzReadInput(f *testing.F) {
	f.Add([]byte(inputOf(3)))
	f.Add([]byte("\uFEFF\r\n" + chatLine("a") + "\r\n\n" + chatLine("b")))
	f.Add([]byte(chatLine("a") + "\n" + chatLine("a") + "\n{"))
	f.Add([]byte("\x00\n\xff\n{}\r\n[]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		want := plainLines(text)
		var got [][]byte
		var end int64
		l := newLines(iotest.HalfReader(bytes.NewReader(text)), maxLineBytes)
		for l.next() {
			if l.start != end || l.end <= l.start || l.number != len(got)+1 {
				t.Fatalf("line %d spans %d to %d, want it to begin at %d", l.number, l.start, l.end, end)
			}
			end = l.end
			got = append(got, bytes.Clone(l.text))
		}
		if l.err != nil || end != int64(len(text)) || len(got) != len(want) {
			t.Fatalf("got %d lines, %d bytes, error %v, want %d and %d", len(got), end, l.err, len(want), len(text))
		}
		for i := range got {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("line %d: got %q, want %q", i+1, got[i], want[i])
			}
		}
		fuzzRequests(t, text, want)
	})
}

// plainLines returns the lines of a text, read in the simplest way.
func plainLines(text []byte) [][]byte {
	parts := bytes.Split(text, []byte("\n"))
	if len(parts[len(parts)-1]) == 0 {
		parts = parts[:len(parts)-1]
	}
	for i, part := range parts {
		parts[i] = bytes.TrimSuffix(part, []byte("\r"))
	}
	// The last line may have a "\r" without a "\n".
	if len(parts) > 0 {
		parts[0] = bytes.TrimPrefix(parts[0], []byte("\uFEFF"))
	}
	return parts
}

func fuzzRequests(t *testing.T, text []byte, lines [][]byte) {
	in := &input{name: "fuzz", src: bytes.NewReader(text)}
	if in.check(context.Background()) != nil {
		return
	}
	var ids []string
	for _, line := range lines {
		var req map[string]any
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		if err := json.Unmarshal(line, &req); err != nil {
			t.Fatalf("%q has passed the check: %v", line, err)
		}
		ids = append(ids, req["custom_id"].(string))
	}
	err := in.unanswered(context.Background(), func(req request) error {
		if len(ids) == 0 || ids[0] != req.customID {
			t.Fatalf("got request %q, want the next of %q", req.customID, ids)
		}
		ids = ids[1:]
		return nil
	})
	if err != nil || len(ids) > 0 {
		t.Fatalf("requests %q are lost, error %v", ids, err)
	}
}
