package inference

import (
	"bytes"
	"encoding/json"
	"hash/maphash"
	"slices"

	"github.com/httpretry/httpretry/internal/rawjson"
)

// A progress distinguishes the events that add to an answer from those that only
// show that the gateway is alive. There is no list of the latter: gateways send
// empty pieces of any kind, and repeat earlier events. The zero value is ready to
// use.
//
// An event is progress if it has an addition or a new state.
//
//   - An addition is a string in a delta, message or text, or an element of a list
//     there. It counts even if it is the same as before: "ha" may follow "ha".
//   - All other values are the state of the answer: usage, finish reasons, log
//     probabilities, and in a delta numbers and the strings that isLabel lists.
//     They count only if no recent event had the same ones.
//
// Neither are empty values, the members that isMark lists, and times.
type progress struct {
	recent [64]uint64 // digests of states; a ring, since gateways may alternate events
	next   int        // the index in recent of the oldest
}

// maxProgressDepth bounds the time for an event. No API nests as deep.
const maxProgressDepth = 16

// made reports whether an event is progress. data is its data, a chunk or a list of
// one.
func (p *progress) made(data json.RawMessage) bool {
	var v values
	if isList(data) {
		for element := range rawjson.Elements(data) {
			v.readChunk(element)
		}
	} else {
		v.readChunk(data)
	}
	return v.added || p.isNew(v)
}

// isNew reports whether none of the recent events had the state of v, which it
// remembers.
func (p *progress) isNew(v values) bool {
	digest := v.state + v.indexes
	if v.state == 0 || slices.Contains(p.recent[:], digest) {
		return false
	}
	p.recent[p.next] = digest
	p.next = (p.next + 1) % len(p.recent)
	return true
}

// values summarizes the values of an event, up to its first addition: with log
// probabilities, most of an event follows its content.
type values struct {
	added   bool   // it has an addition
	state   uint64 // the sum of the digests of its states, in any order; 0: it has none
	indexes uint64 // that of indexes, which are no state by themselves
}

// readChunk reads a chunk. Its own strings and numbers describe the event, and may
// be random.
func (v *values) readChunk(chunk json.RawMessage) {
	for name, value := range rawjson.Members(chunk) {
		name = folded(name)
		switch {
		case string(name) == "choices":
			at := digest(0, name)
			for choice := range rawjson.Elements(value) {
				at++
				if v.readChoice(choice, at); v.added {
					return
				}
			}
		case isContainer(value):
			v.readMember(name, value, 0, false, 0)
		}
	}
}

func (v *values) readChoice(choice json.RawMessage, at uint64) {
	for name, value := range rawjson.Members(choice) {
		name = folded(name)
		switch string(name) {
		case "delta", "message", "text":
			v.read(nil, value, digest(at, name), true, 0)
		default:
			v.readMember(name, value, at, false, 0)
		}
		if v.added {
			return
		}
	}
}

func (v *values) readMember(name []byte, value json.RawMessage, at uint64, adds bool, depth int) {
	if string(name) == "index" {
		v.indexes += digest(digest(at, name), value)
	} else if !isEmpty(value) && !isMark(name) {
		v.read(name, value, digest(at, name), adds, depth)
	}
}

// read reads a value. name is empty for an element of a list. at is a digest of its
// place in the event. adds reports whether strings and elements are additions.
func (v *values) read(name []byte, value json.RawMessage, at uint64, adds bool, depth int) {
	switch {
	case isEmpty(value):
	case isContainer(value) && depth == maxProgressDepth:
		v.added = true // in doubt
	case value[0] == '{':
		for name, member := range rawjson.Members(value) {
			if v.readMember(folded(name), member, at, adds, depth+1); v.added {
				return
			}
		}
	case value[0] == '[':
		for element := range rawjson.Elements(value) {
			at++
			if v.read(nil, element, at, adds, depth+1); v.added {
				return
			}
		}
	case adds && (len(name) == 0 || isText(value) && !isLabel(name)):
		v.added = true
	case !isEpoch(value):
		v.state += digest(at, value)
	}
}

func isContainer(value json.RawMessage) bool {
	return len(value) > 0 && (value[0] == '{' || value[0] == '[')
}

var seed = maphash.MakeSeed()

// digest extends the digest h by text.
func digest(h uint64, text []byte) uint64 {
	return (h ^ maphash.Bytes(seed, text)) * 1099511628211 // in the order of the calls
}

// isLabel reports whether a string with this name says what the strings beside it
// are, or what the model is doing. Gateways repeat it in each event.
func isLabel(name []byte) bool {
	switch string(name) {
	case "type", "name", "object", "model", "provider", "format", "mime_type", "status", "state", "phase", "stage":
		return true
	}
	return false
}

// isMark reports whether a member with this name, in lower case, marks the event,
// and so may be another one in each keep-alive: an identifier, a number, a time or
// padding.
func isMark(name []byte) bool {
	switch string(name) {
	case "id", "role", "seq", "sequence", "created", "obfuscation", "padding":
		return true
	}
	for _, suffix := range marks {
		if bytes.HasSuffix(name, suffix) {
			return true
		}
	}
	return isKeepAlive(name)
}

// marks are the ends of names that isMark reports.
var marks = [][]byte{
	[]byte("_id"), []byte("requestid"), []byte("messageid"), []byte("eventid"), []byte("sequence_number"), []byte("sequencenumber"),
	[]byte("_at"), []byte("createdat"), []byte("time"), []byte("timestamp"), []byte("elapsed"), []byte("duration"), []byte("latency"),
	[]byte("_ms"), []byte("latencyms"), []byte("elapsedms"), []byte("durationms"), []byte("_seconds"),
}

// isEpoch reports whether a number has the size of a current Unix time in seconds,
// milliseconds, microseconds or nanoseconds.
func isEpoch(number json.RawMessage) bool {
	digits := 0
	for digits < len(number) && '0' <= number[digits] && number[digits] <= '9' {
		digits++
	}
	return (digits == 10 || digits == 13 || digits == 16 || digits == 19) && (number[0] == '1' || number[0] == '2')
}
