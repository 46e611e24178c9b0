package inference

import (
	"bytes"
	"encoding/json"
	"iter"
	"slices"
	"strconv"
	"strings"
)

// A meaning is what an event is to the answer.
type meaning int

const (
	isNoise     meaning = iota // a keep-alive, or whatever else belongs to no answer
	isAside                    // belongs to one, but is no piece of it: that it begins, what it costs
	isContent                  // is a piece of it, if only that it ends here
	isDone                     // nothing follows
	isFailure                  // the answer has failed
	isMalformed                // is not JSON
)

// interpret returns what the event means, and its chunk if that belongs to the
// answer. Only an event with choices, usage or the results of a filter does:
// no list could name all that gateways send to keep a connection alive, from {}
// to chunks without choices.
func (e rawEvent) interpret() (meaning, chunk) {
	switch {
	case e.saysDone():
		return isDone, chunk{}
	case e.name == "error":
		return isFailure, chunk{}
	case isKeepAlive(e.name), isKeepAlive(e.data):
		return isNoise, chunk{}
	case !json.Valid(e.data):
		return isMalformed, chunk{}
	}
	chunks := oneOrFew[chunk](e.data)
	switch {
	case slices.ContainsFunc(chunks, chunk.isError):
		return isFailure, chunk{}
	case len(chunks) != 1 || !chunks[0].belongs():
		return isNoise, chunk{}
	case slices.ContainsFunc(chunks[0].Choices, choice.hasContent):
		return isContent, chunks[0]
	}
	return isAside, chunks[0]
}

// saysDone reports whether the event is [DONE]. It is called after each line,
// so it must not trim megabytes each time.
func (e rawEvent) saysDone() bool {
	return len(e.data) < 64 && string(bytes.TrimSpace(e.data)) == "[DONE]"
}

// isKeepAlive reports whether an event with this name, type or data only shows
// that the server is still there.
func isKeepAlive[T ~string | []byte](name T) bool {
	if len(name) > len("\nkeep-alive\n") {
		return false // without a copy of an event that may be megabytes
	}
	switch letters(string(name)) {
	case "ping", "keepalive", "heartbeat":
		return true
	}
	return false
}

// A chunk is what Stream looks at in an event's data: a piece of the answer,
// and errors in the places where gateways put them. What has another type than
// expected is left out.
type chunk struct {
	apiError
	Error   json.RawMessage `json:"error"`
	Errors  json.RawMessage `json:"errors"`
	Detail  json.RawMessage `json:"detail"`
	Object  word            `json:"object"`
	Choices choices         `json:"choices"`
	Usage   json.RawMessage `json:"usage"`
	Filter  json.RawMessage `json:"prompt_filter_results"` // Azure's; an empty list counts
	Groq    struct {
		Error json.RawMessage `json:"error"`
	} `json:"x_groq"`
}

// belongs reports whether c is a part of an answer.
func (c chunk) belongs() bool {
	return len(c.Choices) > 0 || !isEmpty(c.Usage) || len(c.Filter) > 0 && string(c.Filter) != "null"
}

// isError reports whether c tells of a failure: by a member that is for nothing
// else, by a choice that ends so (OpenRouter), or because it is the body of an
// error as the API would send it, with or without the envelope.
func (c chunk) isError() bool {
	// Beside choices, some gateways send an error whose members are all empty.
	noError := isEmpty(c.Error) || len(c.Choices) > 0 && isBlank(c.Error)
	switch {
	case c.Object == "error", c.Type == "error", !noError, !isEmpty(c.Groq.Error):
		return true
	case slices.ContainsFunc(c.Choices, choice.isError):
		return true
	case c.belongs(), isKeepAlive(c.Type):
		return false
	}
	return !isEmpty(c.Errors) || !isEmpty(c.Detail) || c.Message != "" && c.isNamed()
}

// isNamed reports whether a code, a type or a status says that e is an error. A
// message alone does not: an event of another kind may have one too.
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

// choices are the first maxChoices of an event: a list of {} would take fifty
// times the memory of its text. If there are several lists, the first one counts.
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
	Message      delta           `json:"message"` // of gateways that send an answer as one event
	Error        json.RawMessage `json:"error"`
}

// hasContent reports whether the choice says more than that it begins.
func (c choice) hasContent() bool { return c.FinishReason != "" || c.says() }

// says reports whether the choice has a piece of the answer, apart from how it
// ends.
func (c choice) says() bool { return c.Text != "" || c.Delta.says || c.Message.says }

// isAnswer reports whether the choice, of an answer that came whole, is worth
// having: it has some text, or ended well without any.
func (c choice) isAnswer() bool { return c.says() || c.FinishReason != "" && !c.isError() }

// isError reports whether the choice ended because something failed: its finish
// reason is that of OpenRouter and Mistral, of DeepSeek or of Z.ai for this, or
// it has an error.
func (c choice) isError() bool {
	switch c.FinishReason {
	case "error", "insufficient_system_resource", "network_error":
		return true
	}
	return !isBlank(c.Error)
}

// A finishReason is why a choice ends, empty if it does not. KoboldCpp writes
// null in quotes.
type finishReason string

// UnmarshalJSON implements [json.Unmarshaler].
func (r *finishReason) UnmarshalJSON(value []byte) error {
	var text string
	_ = json.Unmarshal(value, &text) // what is not text is no reason
	if text == "null" {
		text = ""
	}
	*r = finishReason(text)
	return nil
}

// A delta is what a choice adds to its message.
type delta struct {
	read    bool
	content string
	says    bool // there is more than a role in it
}

// UnmarshalJSON implements [json.Unmarshaler]. Of two deltas, the first counts.
func (d *delta) UnmarshalJSON(value []byte) error {
	if d.read {
		return nil
	}
	d.read = true
	for name, member := range members(value) {
		if name == "content" {
			_ = json.Unmarshal(member, &d.content) // what is not text adds none
		}
		d.says = d.says || name != "role" && !isEmpty(member)
	}
	return nil
}

// members yields the first 64 members of an object, and none of any other value;
// a delta has a dozen. A value is valid only until the next one is yielded.
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

// isEmpty reports whether a JSON value is absent, null, false, zero, or without
// a member, an element or a character. It has no space around it.
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

// isBlank reports whether a value is empty, or an object whose members all are.
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

// event returns what the caller gets of an event whose chunk is c.
func (e rawEvent) event(c chunk) StreamEvent {
	ev := StreamEvent{Data: e.data}
	var text strings.Builder
	for _, choice := range c.Choices {
		if choice.Index == 0 {
			text.WriteString(choice.Text)
			text.WriteString(choice.Delta.content)
			if choice.FinishReason != "" {
				ev.FinishReason = string(choice.FinishReason)
			}
		}
	}
	ev.Text = text.String()
	return ev
}
