package inference

import (
	"bytes"
	"encoding/json"
	"iter"
	"slices"
	"strconv"
	"strings"
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
	case slices.ContainsFunc(chunks[0].Choices, choice.hasContent):
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
		return slices.ContainsFunc(c.Choices, choice.isFinished)
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
	apiError
	Error   json.RawMessage `json:"error"`
	Errors  json.RawMessage `json:"errors"`
	Detail  json.RawMessage `json:"detail"`
	Object  word            `json:"object"`
	Choices choices         `json:"choices"`
	Usage   json.RawMessage `json:"usage"`
	Filter  json.RawMessage `json:"prompt_filter_results"` // Azure's; an empty list counts
	Success json.RawMessage `json:"success"`               // Cloudflare's
	MiniMax apiError        `json:"base_resp"`
	Groq    struct {
		Error json.RawMessage `json:"error"`
	} `json:"x_groq"`
}

// chunks are the chunk that a JSON object is, or the first of those in an array.
type chunks []chunk

// parse parses the data of an event, or a body, and reports whether it is valid
// JSON. If not, it returns none.
func parse(data []byte) (cs chunks, valid bool) {
	list, valid := oneOrFew[chunk](data)
	if !valid {
		return nil, false
	}
	return chunks(list), true
}

// bodyErrors returns the errors that the body of a 2xx response describes, nil if
// it describes none or is larger than maxErrorBytes. Beside an answer, an error is
// only a warning, unless it is that of a choice.
func bodyErrors(body []byte) []apiError {
	if len(body) > maxErrorBytes {
		return nil
	}
	body = trimMark(body)
	if cs, _ := parse(body); !cs.isFailure() {
		return nil
	}
	return parseAPIErrors(body)
}

// isVoid reports whether body, which is valid JSON and not an answer, is empty, has
// only empty members, or has a list of choices.
func isVoid(body []byte) bool {
	body = bytes.TrimSpace(body)
	if isBlank(body) {
		return true
	}
	for name := range members(body) {
		if name == "choices" {
			return true
		}
	}
	return false
}

// isError reports whether one of cs describes an error.
func (cs chunks) isError() bool { return slices.ContainsFunc(cs, chunk.isError) }

// isFailure reports whether cs, the whole body of a response, describe an error.
func (cs chunks) isFailure() bool { return cs.isError() && (!cs.isAnswer() || cs.hasFailed()) }

// isAnswer reports whether one of cs has a choice that is an answer.
func (cs chunks) isAnswer() bool {
	return slices.ContainsFunc(cs, func(c chunk) bool { return slices.ContainsFunc(c.Choices, choice.isAnswer) })
}

// hasFailed reports whether one of cs has a choice that failed.
func (cs chunks) hasFailed() bool {
	return slices.ContainsFunc(cs, func(c chunk) bool { return slices.ContainsFunc(c.Choices, choice.hasFailed) })
}

// belongs reports whether c is part of an answer.
func (c chunk) belongs() bool {
	return len(c.Choices) > 0 || !isEmpty(c.Usage) || len(c.Filter) > 0 && string(c.Filter) != "null"
}

// isError reports whether c describes an error: it has an error member, a choice
// that ended in an error (OpenRouter), or the form of an API's error body, with or
// without the envelope.
func (c chunk) isError() bool {
	// Some gateways send choices along with an error whose members are all empty.
	noError := isEmpty(c.Error) || len(c.Choices) > 0 && isBlank(c.Error)
	switch {
	case c.Object == "error", c.Type == "error", !noError, !isEmpty(c.Groq.Error):
		return true
	case slices.ContainsFunc(c.Choices, choice.isError):
		return true
	case c.MiniMax.StatusCode != "" && c.MiniMax.StatusCode != "0":
		return true
	case c.belongs(), isKeepAlive(c.Type):
		return false
	}
	return !isEmpty(c.Errors) || !isEmpty(c.Detail) || string(c.Success) == "false" || c.Message != "" && c.isNamed()
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

// choices holds the first maxChoices choices of an event: a list of empty objects
// would take fifty times the memory of its text. If the member is repeated, only
// the first is used.
type choices []choice

// maxChoices is more than a request may ask for: OpenAI allows 128.
const maxChoices = 1024

// UnmarshalJSON implements [json.Unmarshaler].
func (cs *choices) UnmarshalJSON(value []byte) error {
	if *cs == nil {
		*cs = firstOf[choice](value, maxChoices)
	}
	return nil
}

type choice struct {
	Index        int             `json:"index"`
	FinishReason finishReason    `json:"finish_reason"`
	Text         string          `json:"text"`
	Delta        delta           `json:"delta"`
	Message      delta           `json:"message"` // of a whole answer
	Error        json.RawMessage `json:"error"`
}

// hasContent reports whether the choice has content or a finish reason.
func (c choice) hasContent() bool { return c.isFinished() || c.says() }

func (c choice) isFinished() bool { return c.FinishReason != "" }

// says reports whether the choice has content.
func (c choice) says() bool { return c.Text != "" || c.Delta.says || c.Message.says }

// isAnswer reports whether the choice of a whole answer is usable: it has content,
// or finished without an error.
func (c choice) isAnswer() bool { return c.says() || c.FinishReason != "" && !c.isError() }

// isError reports whether the choice ended in an error: it has an error, or the
// finish reason of one.
func (c choice) isError() bool { return c.FinishReason.isError() || !isBlank(c.Error) }

// hasFailed reports whether the choice ended in an error that it describes. Its
// content is then incomplete.
func (c choice) hasFailed() bool { return c.FinishReason.isError() && !isBlank(c.Error) }

// A finishReason is the finish reason of a choice, empty if the choice has not
// finished. KoboldCpp writes null in quotes.
type finishReason string

// isError reports whether OpenRouter, Mistral, DeepSeek or Z.ai use r for errors.
func (r finishReason) isError() bool {
	return r == "error" || r == "insufficient_system_resource" || r == "network_error"
}

// UnmarshalJSON implements [json.Unmarshaler].
func (r *finishReason) UnmarshalJSON(value []byte) error {
	var text string
	_ = json.Unmarshal(value, &text) // ignore values that are not strings
	if text == "null" {
		text = ""
	}
	*r = finishReason(text)
	return nil
}

// A delta is a choice's addition to its message.
type delta struct {
	read    bool
	content string
	says    bool // it has members other than role
}

// UnmarshalJSON implements [json.Unmarshaler]. If the member is repeated, the first
// is used.
func (d *delta) UnmarshalJSON(value []byte) error {
	if d.read {
		return nil
	}
	d.read = true
	for name, member := range members(value) {
		if name == "content" {
			d.content = contentText(member)
		}
		d.says = d.says || name != "role" && !isEmpty(member)
	}
	return nil
}

// contentText returns the text of content: a string, or a list of parts, with
// which Mistral separates reasoning from text.
func contentText(content json.RawMessage) (text string) {
	if content[0] == '"' {
		_ = json.Unmarshal(content, &text)
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

// members yields up to 64 members of a JSON object; a delta has a dozen. For other
// values it yields nothing. Each value is valid only until the next is yielded.
func members(object json.RawMessage) iter.Seq2[string, json.RawMessage] {
	const maxMembers = 64
	return func(yield func(string, json.RawMessage) bool) {
		d := json.NewDecoder(bytes.NewReader(object))
		if start, _ := d.Token(); start != json.Delim('{') {
			return
		}
		var value json.RawMessage
		for range maxMembers {
			token, _ := d.Token()
			name, ok := token.(string)
			if !ok || d.Decode(&value) != nil || !yield(name, value) {
				return
			}
		}
	}
}

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
	for _, member := range members(value) {
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
	for _, choice := range c.Choices {
		if choice.Index == 0 {
			text.WriteString(choice.Text)
			text.WriteString(choice.Delta.content)
			text.WriteString(choice.Message.content)
			if choice.FinishReason != "" {
				ev.FinishReason = string(choice.FinishReason)
			}
		}
	}
	ev.Text = text.String()
	return ev
}
