package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

const (
	maxLineBytes     = 16 << 20 // of a line of input
	maxCustomIDBytes = 512      // it is sent in a header
	maxProblems      = 20       // shown at most for one file
)

// tooLong is the mistake of a line of more than maxLineBytes.
var tooLong = fmt.Sprintf("longer than %d MiB", maxLineBytes>>20)

const (
	chatURL       = "/v1/chat/completions"
	completionURL = "/v1/completions"
)

// An input is a file of batch requests in the format of the OpenAI batch API: a
// JSON object in each line. It is read twice, because it may be larger than
// memory: check reads all of it before the first request is sent, and unanswered
// reads it again while requests are sent. Only its index stays in memory.
type input struct {
	name  string
	src   io.ReadSeeker
	once  io.Reader // if not nil, check reads it in place of src and so fills src
	close func() error
	index index
}

// An index has an entry for each custom_id of an input. An entry takes about 60
// bytes, whatever the length of the custom_id.
type index map[digest]entry

type entry struct {
	line     int32 // of the input
	answered int32 // the line of the output that answers it; 0: none
}

// A digest represents a custom_id. It has 128 bits of a SHA-256 sum, so that two
// custom_ids with the same digest are not to be expected.
type digest [16]byte

func digestOf(customID string) digest {
	sum := sha256.Sum256([]byte(customID))
	return digest(sum[:16])
}

func (x index) answered() int {
	n := 0
	for _, e := range x {
		if e.answered > 0 {
			n++
		}
	}
	return n
}

// check reads the whole input and builds its index. The error has a line
// FILE:LINE: for each of the first mistakes.
func (in *input) check(ctx context.Context) error {
	in.index = make(index)
	wrong := problems{file: in.name}
	err := in.scan(ctx, func(l *lines) error {
		if l.tooLong && in.once != nil {
			// The rest of the line, which may have no end, would fill the disk.
			wrong.add(l.number, "%s", tooLong)
			return errTooManyProblems
		}
		req, faults := readRequest(ctx, l)
		for _, fault := range faults {
			wrong.add(l.number, "%s", fault)
		}
		if req.customID != "" {
			key := digestOf(req.customID)
			if first, dup := in.index[key]; dup {
				wrong.add(l.number, "custom_id: %s is already that of line %d", quote(req.customID), first.line)
			} else {
				in.index[key] = entry{line: int32(l.number)}
			}
		}
		return wrong.overflow()
	})
	if len(wrong.list) > 0 && ctx.Err() == nil {
		return wrong.err()
	}
	if err == nil && len(in.index) == 0 {
		err = fmt.Errorf("%s: no request in it", in.name)
	}
	in.once = nil // src has it all now
	return err
}

// unanswered calls yield with each request that the index has no answer for. It
// stops when yield returns an error.
func (in *input) unanswered(ctx context.Context, yield func(request) error) error {
	seen := 0
	err := in.scan(ctx, func(l *lines) error {
		req, faults := readRequest(ctx, l)
		e, known := in.index[digestOf(req.customID)]
		if len(faults) > 0 || !known || int(e.line) != l.number {
			return in.changed(l.number)
		}
		seen++
		if e.answered > 0 {
			return nil
		}
		return yield(req)
	})
	if err == nil && seen < len(in.index) {
		return in.changed(seen)
	}
	return err
}

func (in *input) changed(line int) error {
	return fmt.Errorf("%s:%d: the file was changed after it was checked", in.name, line)
}

// scan calls visit with each line of the input that is not blank.
func (in *input) scan(ctx context.Context, visit func(*lines) error) error {
	src := in.once
	if src == nil {
		src = in.src
		if _, err := in.src.Seek(0, io.SeekStart); err != nil {
			return fmt.Errorf("%s: %w", in.name, err)
		}
	}
	l := newLines(contextReader{ctx, src}, maxLineBytes)
	for l.next() {
		if l.blank() {
			continue
		}
		err := visit(l)
		if ctx.Err() != nil {
			return context.Cause(ctx) // the error may be a consequence
		}
		if err != nil {
			return err
		}
	}
	if l.err != nil {
		return fmt.Errorf("%s:%d: %w", in.name, l.number+1, l.err)
	}
	return nil
}

// A request is one line of an input.
type request struct {
	customID string
	model    string
	body     map[string]any // its values are the JSON text of the line
}

// readRequest returns the line's request and all mistakes in it.
func readRequest(ctx context.Context, l *lines) (req request, faults []string) {
	if l.tooLong {
		return req, []string{tooLong}
	}
	return parseRequest(ctx, l.text)
}

func parseRequest(ctx context.Context, text []byte) (req request, faults []string) {
	if !utf8.Valid(text) {
		return req, []string{"not valid UTF-8"}
	}
	line, fault := object(ctx, text)
	if fault != "" {
		return req, []string{fault}
	}
	note := func(field, fault string) {
		if fault != "" {
			faults = append(faults, field+": "+fault)
		}
	}
	req.customID, fault = stringOf(line["custom_id"])
	if len(req.customID) > maxCustomIDBytes {
		req.customID, fault = "", fmt.Sprintf("longer than %d bytes", maxCustomIDBytes)
	}
	note("custom_id", fault)
	method, fault := stringOf(line["method"])
	if fault == "" && method != "POST" {
		fault = fmt.Sprintf("is %s: it must be POST", quote(method))
	}
	note("method", fault)
	url, fault := stringOf(line["url"])
	if fault == "" && url != chatURL && url != completionURL {
		fault = fmt.Sprintf("is %s: it must be %s or %s", quote(url), chatURL, completionURL)
	}
	note("url", fault)
	if line["body"] == nil {
		note("body", "missing")
		return req, faults
	}
	body, fault := object(ctx, line["body"])
	note("body", fault)
	if fault == "" {
		faults = append(faults, req.setBody(url, body)...)
	}
	return req, faults
}

// setBody checks and sets the body. The client chooses the URL by the members of
// the body, so they must agree with the url of the line.
func (r *request) setBody(url string, body map[string]json.RawMessage) (faults []string) {
	if _, ok := body["model"]; ok {
		model, fault := stringOf(body["model"])
		if fault != "" {
			faults = append(faults, "body.model: "+fault)
		}
		r.model = model
	}
	switch _, messages := body["messages"]; {
	case url == chatURL && absent(body["messages"]):
		faults = append(faults, "body.messages: missing, and "+chatURL+" needs it")
	case url == completionURL && absent(body["prompt"]):
		faults = append(faults, "body.prompt: missing, and "+completionURL+" needs it")
	case url == completionURL && messages:
		faults = append(faults, "body.messages: "+completionURL+" does not take it")
	}
	if string(body["stream"]) == "true" {
		faults = append(faults, "body.stream: must not be true: the answer must be a single JSON value")
	}
	r.body = make(map[string]any, len(body))
	for name, value := range body {
		// As text, so that no number is rounded.
		r.body[name] = value
	}
	return faults
}

// object reads the fields of a JSON object. It rejects a repeated key, because
// parsers differ in which of the two values they take (RFC 8259, section 4). An
// object may have millions of keys, so object returns a fault once ctx is done.
func object(ctx context.Context, text []byte) (fields map[string]json.RawMessage, fault string) {
	if !json.Valid(text) {
		err := json.Unmarshal(text, new(json.RawMessage))
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			return nil, fmt.Sprintf("not valid JSON at byte %d: %v", syntax.Offset, err)
		}
		return nil, fmt.Sprintf("not valid JSON: %v", err)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if token, _ := dec.Token(); token != json.Delim('{') {
		return nil, "not a JSON object"
	}
	fields = make(map[string]json.RawMessage)
	for dec.More() {
		token, _ := dec.Token() // neither fails, since text is valid
		key, _ := token.(string)
		if _, dup := fields[key]; dup {
			return nil, fmt.Sprintf("key %s is there more than once", quote(key))
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, err.Error()
		}
		fields[key] = value
		if ctx.Err() != nil {
			return nil, context.Cause(ctx).Error()
		}
	}
	return fields, ""
}

// stringOf reads a JSON string that must not be empty.
func stringOf(value json.RawMessage) (s, fault string) {
	switch {
	case value == nil:
		return "", "missing"
	case json.Unmarshal(value, &s) != nil || absent(value):
		return "", "not a string"
	case s == "":
		return "", "empty"
	}
	return s, ""
}

// absent reports whether a value is missing or null.
func absent(value json.RawMessage) bool {
	return value == nil || bytes.Equal(value, []byte("null"))
}

// quote quotes text from a file, shortened to fit in a message.
func quote(s string) string {
	const most = 60
	if len(s) > most {
		return fmt.Sprintf("%.*q…", most, s)
	}
	return fmt.Sprintf("%q", s)
}
