package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

// sampleResult is the result of a request that was retried.
func sampleResult(a answer) result {
	r := result{answer: a, tokens: 7, passing: a.Error != nil}
	r.tally.live = new(live)
	r.tally.live.note("HTTP 503", true)
	r.tally.live.wait(3 * time.Second)
	r.tally.attempts, r.tally.tooLong = 2, time.Hour
	return r
}

func TestWire_ResultArrivesAsItWasSent(t *testing.T) {
	key, content := digestOf("r1"), checksum(0xabc)
	id := queueID(key, content)
	for _, a := range []answer{
		{ID: newID(content), CustomID: "r1", Response: &response{200, "r1", []byte(`{"a": 1}`)}},
		{ID: newID(content), CustomID: "r1", Error: &failure{"TIMEOUT", "no answer\nat all"}},
		{ID: newID(content), CustomID: "r1", Response: &response{200, "r1", []byte(strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000))}},
	} {
		sent := sampleResult(a)
		got, w, err := decodeResult(id, encodeResult(sent))
		if err != nil {
			t.Fatal(err)
		}
		if want := a.appendLine(nil); !bytes.Equal(got.line, want) {
			t.Errorf("got the line %.100s, want %.100s", got.line, want)
		}
		if got.tokens != 7 || got.passing != sent.passing || got.tally.attempts != 2 || got.tally.tooLong != time.Hour {
			t.Errorf("got %+v, want %+v", got, sent)
		}
		if want := map[string]int{"HTTP 503": 1}; !cmp.Equal(w.Retries, want) || w.Waited != 3*time.Second {
			t.Errorf("got retries %v and %v waited, want %v and 3s", w.Retries, w.Waited, want)
		}
		if diff := cmp.Diff(a.Error, got.answer.Error); diff != "" {
			t.Errorf("failure (-want +got):\n%s", diff)
		}
	}
}

// A queue may hold anything. Only the answer to a request becomes its line.
func TestWire_RejectsForeignResults(t *testing.T) {
	content := checksum(0xabc)
	id := queueID(digestOf("r1"), content)
	payload := func(a answer) string { return string(encodeResult(sampleResult(a))) }
	answerOf := func(customID string, content checksum) answer {
		return answer{ID: newID(content), CustomID: customID, Response: &response{200, "r", []byte("{}")}}
	}
	good := payload(answerOf("r1", content))
	for name, text := range map[string]string{
		"empty":                    "",
		"no line":                  good[:strings.IndexByte(good, '\n')+1],
		"unterminated":             strings.TrimSuffix(good, "\n"),
		"cut off":                  good[:len(good)-10] + "\n",
		"two lines":                good + good[strings.IndexByte(good, '\n')+1:],
		"another version":          strings.Replace(good, `"v":1`, `"v":2`, 1),
		"another request":          payload(answerOf("r2", content)),
		"another prompt":           payload(answerOf("r1", content+1)),
		"an id of another program": strings.Replace(good, idPrefix, "xyz_", 1),
		"not JSON":                 "hello\nworld\n",
	} {
		if _, _, err := decodeResult(id, []byte(text)); err != errForeign {
			t.Errorf("%s: got %v, want %v", name, err, errForeign)
		}
	}
}

func TestQueueID(t *testing.T) {
	key, content := digestOf("r1"), checksum(7)
	id := queueID(key, content)
	if k, c, ok := parseQueueID(id); k != key || c != content || !ok {
		t.Errorf("%s: got %x, %x, %v, want %x, %x", id, k, c, ok, key, content)
	}
	for _, bad := range []queue.ID{"", "-", id[1:], id + "0", "x" + id[1:], id[:24] + "_" + id[25:], id[:25] + "0000000g"} {
		if _, _, ok := parseQueueID(bad); ok {
			t.Errorf("%q is taken for an ID", bad)
		}
	}
}
