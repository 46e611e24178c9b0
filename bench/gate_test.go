package main

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A faulty is a transport that retries a 503 once and has one fault.
type faulty struct {
	http.RoundTripper
	body   func(first io.ReadCloser) func() io.ReadCloser // returns the body of an attempt; nil: the first one's body, always
	retire func(*http.Response)                           // discards a response
}

func (f faulty) RoundTrip(req *http.Request) (*http.Response, error) {
	next := func() io.ReadCloser { return req.Body }
	if f.body != nil && req.Body != nil {
		next = f.body(req.Body)
	}
	for attempt := 1; ; attempt++ {
		sent := req.WithContext(req.Context())
		sent.Body = next()
		resp, err := f.RoundTripper.RoundTrip(sent)
		if err != nil || resp.StatusCode != http.StatusServiceUnavailable || attempt > 1 {
			return resp, err
		}
		f.retire(resp)
	}
}

// whole reads all of a body and closes it.
func whole(body io.ReadCloser) []byte {
	defer body.Close()
	data, _ := io.ReadAll(body)
	return data
}

// copies gives each attempt a copy of its own, which is correct.
func copies(body io.ReadCloser) func() io.ReadCloser {
	data := whole(body)
	return func() io.ReadCloser { return io.NopCloser(bytes.NewReader(data)) }
}

// shared gives each attempt the same reader, rewound.
func shared(body io.ReadCloser) func() io.ReadCloser {
	r := bytes.NewReader(whole(body))
	return func() io.ReadCloser {
		r.Seek(0, io.SeekStart)
		return io.NopCloser(r)
	}
}

// truncated loses a byte.
func truncated(body io.ReadCloser) func() io.ReadCloser {
	data := whole(body)
	return func() io.ReadCloser { return io.NopCloser(bytes.NewReader(data[1:])) }
}

// unclosed leaves the caller's body open.
func unclosed(body io.ReadCloser) func() io.ReadCloser {
	return copies(io.NopCloser(body))
}

func discard(resp *http.Response) {
	io.CopyN(io.Discard, resp.Body, 1<<20)
	resp.Body.Close()
}

func readAll(resp *http.Response) {
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
}

func TestGate_FindsFaults(t *testing.T) {
	tests := []struct {
		name      string
		reason    string
		contender faulty
		kind      bodyKind
		want      finding // with prefixes of the texts
	}{
		{"right", "nothing to find", faulty{body: copies, retire: discard}, streamed, finding{}},
		{"right-GetBody", "nothing to find", faulty{body: copies, retire: discard}, getBody, finding{}},
		{"spent", "the second attempt sends the first one's body, which has been read", faulty{retire: discard}, streamed,
			finding{wrong: "replays a wrong body: 0 of"}},
		{"shared", "correct unless attempts overlap: the replay lacks the bytes that the first attempt still reads", faulty{body: shared, retire: discard}, streamed,
			finding{wrong: "replays a wrong body after an early response"}},
		{"truncated", "even the first attempt is wrong", faulty{body: truncated, retire: discard}, getBody,
			finding{wrong: "sends a wrong body"}},
		{"unclosed", "a file would stay open", faulty{body: unclosed, retire: discard}, streamed,
			finding{note: "never closes the request body"}},
		{"leaking", "a 503 that is not closed keeps its connection", faulty{body: copies, retire: func(*http.Response) {}}, noBody,
			finding{wrong: "never closes the discarded response"}},
		{"unread", "it saves work and costs a connection", faulty{body: copies, retire: func(r *http.Response) { r.Body.Close() }}, noBody,
			finding{note: "does not read", lazy: true}},
		{"unbounded", "an endless error body would block the call forever", faulty{body: copies, retire: readAll}, noBody,
			finding{note: "discards without a bound", lazy: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := contender{name: tt.name, open: roundTripper(func(base http.RoundTripper, _ time.Duration) http.RoundTripper {
				tt.contender.RoundTripper = base
				return tt.contender
			})}
			got := gate(c, tt.kind, true)
			if !begins(got.wrong, tt.want.wrong) || !begins(got.note, tt.want.note) || got.lazy != tt.want.lazy {
				t.Errorf("gate: got %+v, want %+v: %s", got, tt.want, tt.reason)
			}
		})
	}
}

// begins is strings.HasPrefix, except that only "" begins with "".
func begins(s, prefix string) bool {
	return strings.HasPrefix(s, prefix) && (s == "") == (prefix == "")
}

func TestGate_FindsNoRetry(t *testing.T) {
	c := contender{name: "plain", open: roundTripper(bare)}
	if got := gate(c, noBody, true); !strings.HasPrefix(got.wrong, "does not retry") {
		t.Errorf("a transport that makes one attempt: got %+v, want a finding", got)
	}
}

func TestGate_FindsNothingInHttpretry(t *testing.T) {
	for _, w := range workloads {
		for _, c := range contenders {
			if c.name != ownName {
				continue
			}
			if got := w.gate(c); got != (finding{}) {
				t.Errorf("%s: got %+v, want no finding", w.name, got)
			}
		}
	}
}

// Each contender is configured well enough to make a GET, to send a body and to
// retry a 503.
func TestContenders_SendAndRetry(t *testing.T) {
	for _, c := range contenders {
		for _, kind := range []bodyKind{noBody, getBody, streamed} {
			if got := examineSuccess(c, kind); got.wrong != "" {
				t.Errorf("%s, body kind %d: got %q, want a success", c.name, kind, got.wrong)
			}
		}
		if c.once {
			continue
		}
		if got := examineReplay(c, noBody, &recorder{failures: 1}); got != "" {
			t.Errorf("%s: got %q, want a GET to be retried", c.name, got)
		}
	}
}
