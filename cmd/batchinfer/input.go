package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/httpretry/httpretry/internal/rawjson"
	"github.com/httpretry/httpretry/internal/urlpath"
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
	src   source
	once  io.Reader // if not nil, check reads it in place of src and so fills src
	close func() error
	part  shard // whose requests the index has
	index index
	raw   bool // a request has the text of its line, in place of its body
}

// A source can be read again while it is read.
type source interface {
	io.ReadSeeker
	io.ReaderAt
}

// An index has an entry for each custom_id of an input. An entry takes about 60
// bytes, whatever the length of the custom_id.
type index map[digest]entry

type entry struct {
	line     int32    // of the input
	answered int32    // the line of the output that answers it; 0: none
	content  checksum // of the line
}

// A digest represents a custom_id. It has 96 bits of a SHA-256 sum, so that two
// custom_ids with the same digest are not to be expected among 10^9.
type digest [12]byte

func digestOf(customID string) digest {
	sum := sha256.Sum256([]byte(customID))
	return digest(sum[:12])
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
	requests := 0 // also of other shards
	wrong := problems{file: in.name}
	err := in.scan(ctx, func(l *lines) error {
		if l.tooLong && in.once != nil {
			// The rest of the line, which may have no end, would fill the disk.
			wrong.add(l.number, "%s", tooLong)
			return errTooManyProblems
		}
		if fault := otherFormat(l); fault != "" && requests == 0 && len(wrong.list) == 0 {
			wrong.add(l.number, "%s", fault)
			return errTooManyProblems // each line would be a mistake
		}
		req, faults := readRequest(ctx, l)
		for _, fault := range faults {
			wrong.add(l.number, "%s", fault)
		}
		if req.customID != "" {
			requests++
			in.enter(req, &wrong)
		}
		return wrong.overflow()
	})
	if len(wrong.list) > 0 && ctx.Err() == nil {
		return wrong.err()
	}
	if err == nil && requests == 0 {
		err = fmt.Errorf("%s: no request in it", in.name)
	}
	in.once = nil // src has it all now
	return err
}

// enter enters a request into the index, unless it belongs to another shard.
func (in *input) enter(req request, wrong *problems) {
	key := digestOf(req.customID)
	if !in.part.has(key) {
		return
	}
	if first, dup := in.index[key]; dup {
		wrong.add(req.line, "custom_id: %s is already that of line %d", quote(req.customID), first.line)
		return
	}
	in.index[key] = entry{line: int32(req.line), content: req.content}
}

// otherFormat returns the mistake of a file with that first line if the file has a format
// that is often taken for the right one.
func otherFormat(l *lines) string {
	first, _ := bytes.CutPrefix(bytes.TrimSpace(l.text), []byte("\uFEFF"))
	encoding := encodingOf(l.text, l.start)
	switch {
	case bytes.HasPrefix(l.text, []byte("\x1f\x8b")):
		return "is compressed with gzip: gunzip converts it"
	case encoding != "":
		// Without the byte order of UTF-16BE.
		return fmt.Sprintf("is %.6s, and must be UTF-8: iconv -f %s -t UTF-8 converts it", encoding, encoding)
	case bytes.HasPrefix(first, []byte("[")):
		return "is a JSON array, and must be a JSON object in each line: jq -c '.[]' converts it"
	}
	return ""
}

// encodingOf returns the name that iconv has for the encoding of a text that begins at an
// offset of its file, or "" if it is neither UTF-16 nor, with a byte order mark, UTF-32.
// Without a mark, iconv has to be told the order.
func encodingOf(text []byte, offset int64) string {
	const le, be, le32, be32, enough = "\xff\xfe", "\xfe\xff", "\xff\xfe\x00\x00", "\x00\x00\xfe\xff", 64
	if bytes.HasPrefix(text, []byte(le32)) || bytes.HasPrefix(text, []byte(be32)) {
		return "UTF-32"
	}
	if bytes.HasPrefix(text, []byte(le)) || bytes.HasPrefix(text, []byte(be)) {
		return "UTF-16"
	}
	// White space and the characters of JSON syntax have a byte of 0. UTF-8 has none in
	// JSON, and a file that is damaged has many in a row.
	text = text[:min(len(text), enough)]
	zero := bytes.IndexByte(text, 0)
	switch {
	case zero < 0 || bytes.Contains(text, []byte{0, 0, 0}):
		return ""
	case (offset+int64(zero))%2 == 0:
		return "UTF-16BE"
	}
	return "UTF-16LE"
}

// unanswered calls yield with each request that the index has no answer for. It
// stops when yield returns an error.
func (in *input) unanswered(ctx context.Context, yield func(request) error) error {
	seen := 0
	err := in.scan(ctx, func(l *lines) error {
		if in.part.count > 0 && !in.part.has(digestOf(customIDIn(l.text))) {
			return nil
		}
		req := in.checkedRequest(l)
		e, known := in.index[digestOf(req.customID)]
		if !known || int(e.line) != l.number || e.content != req.content {
			return in.changed(l.number)
		}
		seen++
		if e.answered > 0 {
			return nil
		}
		in.keep(&req, l)
		return yield(req)
	})
	if err == nil && seen < len(in.index) {
		return in.changed(seen)
	}
	return err
}

// keep makes a request independent of the line, which is overwritten by the next.
func (in *input) keep(req *request, l *lines) {
	if in.raw {
		req.text, req.body = bytes.Clone(l.text), nil
		return
	}
	req.body = bytes.Clone(req.body)
}

// at returns the request of a line that unanswered has yielded. It may be called
// concurrently with unanswered.
func (in *input) at(ctx context.Context, line int, offset int64) (request, error) {
	l := newLines(contextReader{ctx, io.NewSectionReader(in.src, offset, math.MaxInt64-offset)}, maxLineBytes)
	l.next()
	switch {
	case ctx.Err() != nil:
		return request{}, context.Cause(ctx)
	case l.err != nil:
		return request{}, fmt.Errorf("%s:%d: %w", in.name, line, l.err)
	}
	req, faults := readRequest(ctx, l)
	if e := in.index[digestOf(req.customID)]; len(faults) > 0 || int(e.line) != line || e.content != req.content {
		return request{}, in.changed(line)
	}
	req.line, req.offset = line, offset
	in.keep(&req, l)
	return req, nil
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
	method   string
	url      string          // below the gateway's base path
	body     json.RawMessage // as it stands in the line, of which it is a part; empty: none
	again    bool            // it failed before and was deferred
	attempts int             // made before that
	line     int             // its number
	offset   int64           // of the line
	content  checksum        // of the line
	text     []byte          // of the line, if the input is raw

	cancel context.CancelCauseFunc // ends it; nil: not possible
}

// methods are those that a request may have. Batch files have POST.
var methods = []string{http.MethodPost, http.MethodGet, http.MethodPut, http.MethodPatch, http.MethodDelete}

// checkedRequest returns the request of a line that was checked. If the input is raw, its
// method, URL and body are not read.
func (in *input) checkedRequest(l *lines) request {
	if in.raw {
		return request{customID: customIDIn(l.text), line: l.number, offset: l.start, content: checksumOf(l.text)}
	}
	return checkedRequest(l)
}

// checkedRequest returns the request of a line without a mistake, which is every line
// whose checksum is in the index.
func checkedRequest(l *lines) request {
	req := request{body: json.RawMessage{}, line: l.number, offset: l.start, content: checksumOf(l.text)}
	for name, value := range rawjson.Members(l.text) {
		switch string(name) {
		case "custom_id":
			req.customID, _ = rawjson.String(value)
		case "method":
			req.method, _ = rawjson.String(value)
		case "url":
			req.url, _ = rawjson.String(value)
		case "body":
			req.body = value
		}
	}
	return req
}

// customIDIn returns the custom_id of a line without a mistake. It reads no more of the
// line, because a shard skips most lines.
func customIDIn(text []byte) string {
	for name, value := range rawjson.Members(text) {
		if string(name) == "custom_id" {
			id, _ := rawjson.String(value)
			return id
		}
	}
	return ""
}

// readRequest returns the line's request and all mistakes in it.
func readRequest(ctx context.Context, l *lines) (req request, faults []string) {
	if l.tooLong {
		return req, []string{tooLong}
	}
	req, faults = parseRequest(ctx, l.text)
	req.line, req.offset, req.content = l.number, l.start, checksumOf(l.text)
	return req, faults
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
	req.method, fault = stringOf(line["method"])
	if fault == "" && !slices.Contains(methods, req.method) {
		fault = fmt.Sprintf("is %s: it must be one of %s", quote(req.method), strings.Join(methods, ", "))
	}
	note("method", fault)
	req.url, fault = stringOf(line["url"])
	if fault == "" {
		if _, err := urlpath.Parse(req.url); err != nil {
			fault = fmt.Sprintf("is %s: it %v, such as %s", quote(req.url), err, chatURL)
		}
	}
	note("url", fault)
	if line["body"] == nil {
		req.body = json.RawMessage{}
		if req.method != http.MethodGet && req.method != http.MethodDelete {
			note("body", "missing")
		}
		return req, faults
	}
	req.body = line["body"]
	body, fault := members(ctx, req.body)
	note("body", fault)
	if fault == "" {
		faults = append(faults, bodyFaults(req.url, body)...)
	}
	return req, faults
}

// bodyFaults returns the mistakes in the body of a request to url. The gateway
// knows more than is checked here.
func bodyFaults(url string, body map[string]json.RawMessage) (faults []string) {
	if _, ok := body["model"]; ok {
		if _, fault := stringOf(body["model"]); fault != "" {
			faults = append(faults, "body.model: "+fault)
		}
	}
	switch {
	case url == chatURL && absent(body["messages"]):
		faults = append(faults, "body.messages: missing, and "+chatURL+" needs it")
	case url == completionURL && absent(body["prompt"]):
		faults = append(faults, "body.prompt: missing, and "+completionURL+" needs it")
	}
	if string(body["stream"]) == "true" {
		faults = append(faults, "body.stream: must not be true: the answer must be a single JSON value")
	}
	return faults
}

// object reads the members of a JSON object.
func object(ctx context.Context, text []byte) (fields map[string]json.RawMessage, fault string) {
	if rawjson.Valid(text) {
		return members(ctx, text)
	}
	err := json.Unmarshal(text, new(json.RawMessage))
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return nil, fmt.Sprintf("not valid JSON at byte %d: %v", syntax.Offset, err)
	}
	return nil, fmt.Sprintf("not valid JSON: %v", err)
}

// members reads the members of an object in valid JSON. It rejects a repeated key,
// because parsers differ in which of the two values they take (RFC 8259, section 4).
// An object may have millions of keys, so members returns a fault once ctx is done.
func members(ctx context.Context, value []byte) (fields map[string]json.RawMessage, fault string) {
	if !bytes.HasPrefix(bytes.TrimLeft(value, " \t\r\n"), []byte("{")) {
		return nil, "not a JSON object"
	}
	fields = make(map[string]json.RawMessage, 8)
	for key, value := range rawjson.Members(value) {
		if _, dup := fields[string(key)]; dup {
			return nil, fmt.Sprintf("key %s is there more than once", quote(string(key)))
		}
		fields[string(key)] = value
		if ctx.Err() != nil {
			return nil, context.Cause(ctx).Error()
		}
	}
	return fields, ""
}

// stringOf reads a JSON string that must not be empty.
func stringOf(value json.RawMessage) (s, fault string) {
	s, ok := rawjson.String(value)
	switch {
	case value == nil:
		return "", "missing"
	case !ok:
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
