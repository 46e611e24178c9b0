package inference

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/httpretry/httpretry/internal/rawjson"
)

// An eventKind classifies an event.
type eventKind int

const (
	eventNoise     eventKind = iota // a keep-alive, or anything else not part of an answer
	eventAside                      // part of an answer, but without content, such as its start or usage
	eventContent                    // has content or a finish reason
	eventDone                       // the end of the stream
	eventError                      // an error
	eventMalformed                  // not JSON
)

// interpret classifies the event, and returns its chunk if that is part of the
// answer: it has choices, usage or filter results. Anything else is noise, since
// the keep-alives of gateways are too diverse to enumerate.
func (e rawEvent) interpret() (eventKind, chunk) {
	switch {
	case e.saysDone():
		return eventDone, chunk{}
	case e.name == "error":
		return eventError, chunk{}
	case !isAPIName(e.name), isKeepAlive(e.data):
		return eventNoise, chunk{}
	}
	chunks, valid := parse(e.data)
	switch {
	case !valid:
		return eventMalformed, chunk{}
	case chunks.isError():
		return eventError, chunk{}
	case len(chunks) != 1 || !chunks[0].belongs():
		return eventNoise, chunk{}
	case slices.ContainsFunc(chunks[0].choices, choice.hasContent):
		return eventContent, chunks[0]
	}
	return eventAside, chunks[0]
}

// isWhole reports whether the event, at the end of a stream that omits the blank
// line, is an error or ends a choice.
func (e rawEvent) isWhole() bool {
	switch kind, c := e.interpret(); kind {
	case eventError:
		return len(e.data) > 0
	case eventAside:
		return true
	case eventContent:
		return slices.ContainsFunc(c.choices, choice.isFinished)
	}
	return false
}

// saysDone reports whether the event is [DONE], and not one of the gateway's own
// that happens to end. It is called for each line, so it checks the lengths first.
func (e rawEvent) saysDone() bool {
	if len(e.data) >= 64 || string(bytes.TrimSpace(e.data)) != "[DONE]" {
		return false
	}
	if len(e.name) >= 64 || isAPIName(e.name) {
		return len(e.name) < 64
	}
	switch letters(e.name) {
	case "done", "end", "stop", "finish", "complete", "close", "messagestop":
		return true
	}
	return false
}

// isAPIName reports whether an event with this name may be part of an answer. The
// API itself does not name its events. Other names are those of a gateway's own
// events, whatever their data.
func isAPIName(name string) bool {
	switch name {
	case "", "message", "data", "chunk", "delta", "completion", "text_completion",
		"chat.completion", "chat.completion.chunk":
		return true
	}
	return false
}

// isKeepAlive reports whether the event, of a refusal, only shows that the server is
// alive.
func (e rawEvent) isKeepAlive() bool {
	if isKeepAlive(e.name) || isKeepAlive(e.data) {
		return true
	}
	cs, _ := parse(e.data)
	return len(cs) == 1 && isKeepAlive(cs[0].Type)
}

// isKeepAlive reports whether an event with this data or type only shows that the
// server is alive.
func isKeepAlive[T ~string | []byte](name T) bool {
	if len(name) > len("\nkeep-alive\n") {
		return false // don't copy an event that may be megabytes
	}
	switch letters(string(name)) {
	case "ping", "keepalive", "heartbeat":
		return true
	}
	return false
}

// A chunk holds the members of an event's data, or of a body, that this package
// examines: a piece of the answer, and errors in the various places where gateways
// put them. Members of unexpected types are ignored.
type chunk struct {
	apiError // only the members that identify it, and its message
	object   word
	choices  []choice // the first maxChoices
	usage    json.RawMessage
	filter   json.RawMessage // prompt_filter_results, Azure's; an empty list counts

	failure json.RawMessage // the member error
	errors  json.RawMessage
	detail  json.RawMessage
	success json.RawMessage // Cloudflare's
	groq    json.RawMessage // the error in x_groq
	miniMax word            // the status_code in base_resp
}

// chunks are the chunk that a JSON object is, or the first of those in an array.
type chunks []chunk

// parse parses the data of an event, or a body, and reports whether it is valid
// JSON. If not, it returns none. It decodes no text, because it is called for each
// answer, which may be long.
func parse(data []byte) (cs chunks, valid bool) {
	if !rawjson.Valid(data) {
		return nil, false
	}
	if !isList(data) {
		return chunks{parseChunk(data)}, true
	}
	for element := range rawjson.Elements(data) {
		if len(cs) == maxErrors {
			break
		}
		cs = append(cs, parseChunk(element))
	}
	return cs, true
}

func parseChunk(object json.RawMessage) (c chunk) {
	for name, value := range rawjson.Members(object) {
		switch string(folded(name)) {
		case "choices":
			if c.choices == nil { // if the member is repeated, only the first is used
				c.choices = parseChoices(value)
			}
		case "usage":
			c.usage = value
		case "prompt_filter_results":
			c.filter = value
		case "error":
			c.failure = value
		case "errors":
			c.errors = value
		case "detail":
			c.detail = value
		case "success":
			c.success = value
		case "object":
			c.object = wordOf(value)
		case "x_groq":
			c.groq = member(value, "error")
		case "base_resp":
			c.miniMax = wordOf(member(value, "status_code"))
		case "code":
			c.Code = wordOf(value)
		case "status_code":
			c.StatusCode = wordOf(value)
		case "type":
			c.Type = wordOf(value)
		case "error_type":
			c.ErrorType = wordOf(value)
		case "status":
			c.Status = wordOf(value)
		case "message":
			c.Message, _ = rawjson.String(value)
		}
	}
	return c
}

// folded returns name in lower case: servers written in Go or .NET ignore the case
// of names.
func folded(name []byte) []byte {
	for _, c := range name {
		if 'A' <= c && c <= 'Z' {
			return bytes.ToLower(name)
		}
	}
	return name
}

// member returns the last member of an object that has this name, or nil.
func member(object json.RawMessage, name string) (value json.RawMessage) {
	for n, v := range rawjson.Members(object) {
		if string(folded(n)) == name {
			value = v
		}
	}
	return value
}

func wordOf(value json.RawMessage) (w word) {
	if len(value) > 0 {
		_ = w.UnmarshalJSON(value) // ignore values of other types
	}
	return w
}

// errors returns the errors that body, of a 2xx response whose chunks are cs,
// describes, or nil. Beside an answer, an error is only a warning, unless it is that
// of a choice. Classifier, Generate and Stream find errors in this way.
func (cs chunks) errors(body []byte) []apiError {
	if !cs.isFailure() {
		return nil
	}
	return parseAPIErrors(body)
}

// isVoid reports whether body, which is valid JSON and not an answer, is empty, has
// only empty members, has a list of choices, or is neither an object nor an array.
func isVoid(body []byte) bool {
	body = bytes.TrimSpace(body)
	if isBlank(body) || body[0] != '{' && body[0] != '[' {
		return true
	}
	return member(body, "choices") != nil
}

// isError reports whether one of cs describes an error.
func (cs chunks) isError() bool { return slices.ContainsFunc(cs, chunk.isError) }

// isFailure reports whether cs, the whole body of a response, describe an error.
func (cs chunks) isFailure() bool { return cs.isError() && (!cs.isAnswer() || cs.hasFailed()) }

// isAnswer reports whether one of cs has a choice that is an answer.
func (cs chunks) isAnswer() bool {
	return slices.ContainsFunc(cs, func(c chunk) bool { return slices.ContainsFunc(c.choices, choice.isAnswer) })
}

// hasFailed reports whether one of cs has a choice that failed.
func (cs chunks) hasFailed() bool {
	return slices.ContainsFunc(cs, func(c chunk) bool { return slices.ContainsFunc(c.choices, choice.hasFailed) })
}

// belongs reports whether c is part of an answer.
func (c chunk) belongs() bool {
	return len(c.choices) > 0 || !isEmpty(c.usage) || len(c.filter) > 0 && string(c.filter) != "null"
}

// isError reports whether c describes an error: it has an error member, a choice
// that ended in an error (OpenRouter), or the form of an API's error body, with or
// without the envelope.
func (c chunk) isError() bool {
	// Some gateways send choices along with an error whose members are all empty.
	noError := isEmpty(c.failure) || len(c.choices) > 0 && isBlank(c.failure)
	switch {
	case c.object == "error", c.Type == "error", !noError, !isEmpty(c.groq):
		return true
	case slices.ContainsFunc(c.choices, choice.isError):
		return true
	case c.miniMax != "" && c.miniMax != "0":
		return true
	case c.belongs(), isKeepAlive(c.Type):
		return false
	}
	return !isEmpty(c.errors) || !isEmpty(c.detail) || string(c.success) == "false" || c.Message != "" && c.isNamed()
}

// isNamed reports whether e's code, type or status identifies it as an error. A
// message alone is not enough, since other events may have one.
func (e apiError) isNamed() bool {
	if n, err := strconv.Atoi(string(e.Code)); e.Code != "" && (err != nil || n < 0 || n >= 300) {
		return true
	}
	return slices.ContainsFunc(e.words(), func(word string) bool {
		_, known := wordStatus(word)
		word = strings.ToLower(word)
		return known || strings.HasSuffix(word, "error") || strings.HasSuffix(word, "exception")
	})
}

// maxChoices is more than a request may ask for: OpenAI allows 128. A list of empty
// objects would take fifty times the memory of its text.
const maxChoices = 1024

func parseChoices(list json.RawMessage) (cs []choice) {
	for element := range rawjson.Elements(list) {
		if len(cs) == maxChoices {
			break
		}
		cs = append(cs, parseChoice(element))
	}
	return cs
}

type choice struct {
	index        int
	finishReason finishReason
	text         json.RawMessage
	delta        delta
	message      delta // of a whole answer
	failure      json.RawMessage
}

func parseChoice(object json.RawMessage) (c choice) {
	for name, value := range rawjson.Members(object) {
		switch string(folded(name)) {
		case "index":
			if n, err := strconv.Atoi(string(value)); err == nil {
				c.index = n
			}
		case "finish_reason":
			c.finishReason = parseFinishReason(value)
		case "text":
			c.text = value
		case "delta":
			c.delta.read(value)
		case "message":
			c.message.read(value)
		case "error":
			c.failure = value
		}
	}
	return c
}

// hasContent reports whether the choice has content or a finish reason.
func (c choice) hasContent() bool { return c.isFinished() || c.says() }

func (c choice) isFinished() bool { return c.finishReason != "" }

// says reports whether the choice has content.
func (c choice) says() bool {
	return isText(c.text) && !isEmpty(c.text) || c.delta.says || c.message.says
}

// isAnswer reports whether the choice of a whole answer is usable: it has content,
// or finished without an error.
func (c choice) isAnswer() bool { return c.says() || c.finishReason != "" && !c.isError() }

// isError reports whether the choice ended in an error: it has an error, or the
// finish reason of one.
func (c choice) isError() bool { return c.finishReason.isError() || !isBlank(c.failure) }

// hasFailed reports whether the choice ended in an error that it describes. Its
// content is then incomplete.
func (c choice) hasFailed() bool { return c.finishReason.isError() && !isBlank(c.failure) }

// A finishReason is the finish reason of a choice, empty if the choice has not
// finished.
type finishReason string

func parseFinishReason(value json.RawMessage) finishReason {
	text, _ := rawjson.String(value)
	if text == "null" {
		return "" // KoboldCpp writes it in quotes
	}
	return finishReason(text)
}

// isError reports whether OpenRouter, Mistral, DeepSeek or Z.ai use r for errors.
func (r finishReason) isError() bool {
	return r == "error" || r == "insufficient_system_resource" || r == "network_error"
}

// A delta is a choice's addition to its message.
type delta struct {
	members bool // it has been read
	content json.RawMessage
	says    bool // it has members other than role
}

// read reads the delta. If the member is repeated, the first is used.
func (d *delta) read(object json.RawMessage) {
	if d.members {
		return
	}
	d.members = true
	for name, value := range rawjson.Members(object) {
		if string(name) == "content" {
			d.content = value
		}
		d.says = d.says || string(name) != "role" && !isEmpty(value)
	}
}

// contentText returns the text of content: a string, or a list of parts, with
// which Mistral separates reasoning from text.
func contentText(content json.RawMessage) string {
	if text, ok := rawjson.String(content); ok {
		return text
	}
	type part struct {
		Type word   `json:"type"`
		Text string `json:"text"`
	}
	var b strings.Builder
	for _, p := range firstOf[part](content, maxChoices) {
		if p.Type == "" || p.Type == "text" {
			b.WriteString(p.Text)
		}
	}
	return b.String()
}

// isText reports whether value is a string.
func isText(value json.RawMessage) bool { return len(value) > 0 && value[0] == '"' }

// isEmpty reports whether value, which must have no surrounding space, is absent,
// null, false, 0 or empty.
func isEmpty(value json.RawMessage) bool {
	switch string(value) {
	case "", "null", "false", "0", `""`:
		return true
	}
	if value[0] != '{' && value[0] != '[' {
		return false
	}
	return len(bytes.TrimSpace(value[1:len(value)-1])) == 0
}

// isBlank reports whether a value is empty, or an object with empty members only.
func isBlank(value json.RawMessage) bool {
	if isEmpty(value) {
		return true
	}
	for _, member := range rawjson.Members(value) {
		if !isEmpty(member) {
			return false
		}
	}
	return value[0] == '{'
}

// event returns the StreamEvent for e, whose chunk is c.
func (e rawEvent) event(c chunk) StreamEvent {
	ev := StreamEvent{Data: e.data}
	var text strings.Builder
	for _, choice := range c.choices {
		if choice.index != 0 {
			continue
		}
		if isText(choice.text) {
			text.WriteString(contentText(choice.text))
		}
		text.WriteString(contentText(choice.delta.content))
		text.WriteString(contentText(choice.message.content))
		if choice.finishReason != "" {
			ev.FinishReason = string(choice.finishReason)
		}
	}
	ev.Text = text.String()
	return ev
}
