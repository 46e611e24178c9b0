package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"
)

func okLine(id string) string {
	return fmt.Sprintf(`{"id":"batch_req_1","custom_id":%q,"response":{"status_code":200,"request_id":%q,"body":{"n":1.0}},"error":null}`, id, id) + "\n"
}

func failedLine(id string) string {
	return fmt.Sprintf(`{"id":"batch_req_2","custom_id":%q,"response":null,"error":{"code":"SERVER_ERROR","message":"x"}}`, id) + "\n"
}

// reopen opens an output with this text, for an input of r0 to r9.
func reopen(t *testing.T, text string) (*output, *input, string, error) {
	t.Helper()
	name := writeFile(t, text)
	in := checkedInput(t, inputOf(10))
	o, err := openOutput(t.Context(), name, in)
	if err == nil {
		t.Cleanup(func() { o.Close() })
	}
	return o, in, name, err
}

func unansweredIDs(t *testing.T, in *input) []string {
	t.Helper()
	var ids []string
	err := in.unanswered(t.Context(), func(req request) error {
		ids = append(ids, req.customID)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func TestOutputGoesOn(t *testing.T) {
	for _, tt := range []struct {
		name     string
		text     string
		want     string // the content of the file
		answered int
		dropped  int
	}{
		{"empty", "", "", 0, 0},
		{"answers", okLine("r3") + okLine("r1"), okLine("r3") + okLine("r1"), 2, 0},
		{"failure", okLine("r3") + failedLine("r1") + okLine("r2"), okLine("r3") + okLine("r2"), 2, 1},
		{"failure that was made good", failedLine("r1") + okLine("r1"), okLine("r1"), 1, 0},
		{"failure after the answer", okLine("r1") + failedLine("r1"), okLine("r1"), 1, 0},
		{"answered twice", okLine("r1") + okLine("r2") + okLine("r1"), okLine("r1") + okLine("r2"), 2, 0},
		{"HTTP failure without error", strings.Replace(okLine("r1"), "200", "429", 1), "", 0, 1},
		{"failures only", failedLine("r1") + failedLine("r2") + failedLine("r1"), "", 0, 2},
		{"blank line", okLine("r1") + "\n" + okLine("r2"), okLine("r1") + "\n" + okLine("r2"), 2, 0},
		{"CRLF", strings.ReplaceAll(okLine("r1"), "\n", "\r\n"), strings.ReplaceAll(okLine("r1"), "\n", "\r\n"), 1, 0},
		{"end lost", strings.TrimSuffix(okLine("r1"), "\n"), okLine("r1"), 1, 0},
		{"zeros", okLine("r1") + "\x00\x00\x00", okLine("r1"), 1, 0},
		{"zeros in the last line", okLine("r1") + `{"id":"batch_` + "\x00\x00", okLine("r1"), 1, 0},
		{"blanks at the end", okLine("r1") + "  ", okLine("r1") + "  \n", 1, 0},
		{"failure and torn line", failedLine("r1") + okLine("r2") + `{"i`, okLine("r2"), 1, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o, in, name, err := reopen(t, tt.text)
			if err != nil {
				t.Fatal(err)
			}
			if got := readFile(t, name); got != tt.want {
				t.Errorf("file:\ngot  %q\nwant %q", got, tt.want)
			}
			if in.index.answered() != tt.answered || o.dropped != tt.dropped {
				t.Errorf("got %d answered, %d dropped, want %d, %d", in.index.answered(), o.dropped, tt.answered, tt.dropped)
			}
			if got := len(unansweredIDs(t, in)); got != 10-tt.answered {
				t.Errorf("unanswered: got %d, want %d", got, 10-tt.answered)
			}
			if _, err := o.write(result{answer: answer{ID: "x", CustomID: "r9", Error: &failure{}}}); err != nil {
				t.Fatal(err)
			}
			added := `{"id":"x","custom_id":"r9","response":null,"error":{"code":"","message":""}}` + "\n"
			if got := readFile(t, name); got != tt.want+added {
				t.Errorf("after a write:\ngot  %q\nwant %q", got, tt.want+added)
			}
			if left, _ := filepath.Glob(filepath.Join(filepath.Dir(name), ".*")); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// Wherever the last line was torn, the lines before it are kept, and only its
// request is sent again.
func TestOutputTorn(t *testing.T) {
	whole, last := okLine("r0")+okLine("r1"), okLine("r2")
	in := checkedInput(t, inputOf(10))
	name := filepath.Join(t.TempDir(), "out")
	for n := range len(last) + 1 {
		if err := os.WriteFile(name, []byte(whole+last[:n]), 0o600); err != nil {
			t.Fatal(err)
		}
		for key, e := range in.index {
			e.answered = 0
			in.index[key] = e
		}
		o, err := openOutput(t.Context(), name, in)
		if err != nil {
			t.Fatalf("torn after %d bytes: %v", n, err)
		}
		want, left, repaired := whole, 8, n
		if n >= len(last)-1 { // at most the end of the line is missing
			want, left, repaired = whole+last, 7, 0
		}
		if got := readFile(t, name); got != want || int(o.repaired) != repaired {
			t.Errorf("torn after %d bytes: got %q, %d bytes removed, want %q, %d", n, got, o.repaired, want, repaired)
		}
		if got := unansweredIDs(t, in); len(got) != left {
			t.Errorf("torn after %d bytes: unanswered: got %q, want %d", n, got, left)
		}
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A file that is not the output of the input is not modified.
func TestOutputRefused(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string // after the name of the file
	}{
		{"malformed in the middle", okLine("r1") + `{"id":"batch` + "\n" + okLine("r2"), []string{":2: not a line of batch output"}},
		{"several", "x\n" + okLine("r1") + "y\n{}\n", []string{":1: not a", ":3: not a", ":4: not a"}},
		{"prose", "Dear diary", []string{":1: not a line of batch output"}},
		{"an input", chatLine("r1") + "\n", []string{":1: not a line of batch output"}},
		{"another batch", okLine("r1") + okLine("other"), []string{`:2: custom_id "other" is not in in.jsonl`}},
		{"another batch, failed", failedLine("other"), []string{`:1: custom_id "other" is not in in.jsonl`}},
		{"another batch, torn", okLine("r1") + okLine("other")[:60], []string{`:2: not a line of batch output`}},
		{"beginning with a line end", okLine("r1") + `{"id":"batch_req_` + "\n", []string{":2: not a"}},
		{"beginning, zeros and a line end", okLine("r1") + `{"id":"batch_` + "\x00\x00\n", []string{":2: not a"}},
		{"zeros", strings.Repeat("\x00", 5000), []string{":1: not a"}},
		{"zeros after a line of another batch", okLine("other") + "\x00\x00", []string{":1: custom_id", ":2: not a"}},
		{"beginning and zeros alone", `{"id":"batch_req_` + "\x00\x00", []string{":1: not a"}},
		{"a saved response", `{"id":"chatcmpl-1","object":"chat.completion","choices":[]}`, []string{":1: not a"}},
		{"a saved response with a line end", `{"id":"chatcmpl-1","object":"chat.completion","choices":[]}` + "\n", []string{":1: not a"}},
		{"a saved response, cut off", `{"id":"chatcmpl-1","obj`, []string{":1: not a"}},
		{"a batch object", `{"id":"batch_req_1","object":"batch","endpoint":"/v1/completions"}`, []string{":1: not a"}},
		{"a batch object, cut off", `{"id":"batch_req_1","object":"batch","endp`, []string{":1: not a"}},
		{"a member more, cut off", okLine("r1")[:len(okLine("r1"))-2] + `,"x":1`, []string{":1: not a"}},
		{"a member more in the response, cut off", `{"id":"batch_req_1","custom_id":"r1","response":{"status_code":200,"header":{`, []string{":1: not a"}},
		{"white space, cut off", `{"id": "batch_req_1", "cust`, []string{":1: not a"}},
		{"a line in it, cut off", `{"id":"batch_req_1` + "\x01", []string{":1: not a"}},
		{"failure with a member more", strings.Replace(failedLine("r1"), `"error"`, `"cost":7,"error"`, 1), []string{":1: not a line of batch output: batchinfer writes other members"}},
		{"failure whose error has a member more", strings.Replace(failedLine("r1"), `"message"`, `"param":null,"message"`, 1), []string{":1: not a"}},
		{"failure whose response has a member more", `{"id":"batch_req_1","custom_id":"r1","response":{"status_code":500,"request_id":"","body":1,"header":{}},"error":null}`, []string{":1: not a"}},
		{"failure with fewer members", `{"custom_id":"r1","error":{"code":"","message":""}}` + "\n", []string{":1: not a"}},
		{"failure whose error is a string", `{"id":"batch_req_1","custom_id":"r1","response":null,"error":"x"}` + "\n", []string{":1: not a"}},
		{"second answer with a member more", okLine("r1") + strings.Replace(okLine("r1"), `,"error"`, `,"cost":7,"error"`, 1), []string{":2: not a"}},
		{"failure with a repeated member", strings.Replace(failedLine("r1"), `"response"`, `"custom_id":"r1","response"`, 1), []string{":1: not a"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, name, err := reopen(t, tt.text)
			got := strings.Split(fmt.Sprint(err), "\n")
			if len(got) != len(tt.want) {
				t.Fatalf("got %q, want %q", got, tt.want)
			}
			for i := range got {
				if !strings.HasPrefix(got[i], name+tt.want[i]) {
					t.Errorf("got  %s\nwant %s", got[i], name+tt.want[i])
				}
			}
			if got := readFile(t, name); got != tt.text {
				t.Errorf("file: got %q, want it unchanged", got)
			}
		})
	}
}

// A line that no run can have written because of its length is not a torn line.
func TestOutput_RefusesHugeLine(t *testing.T) {
	const size = 11 << 27 // more than 1 GiB, none of which is allocated
	name := writeFile(t, okLine("r1")+`{"id":"batch_req_`)
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
	_, err := openOutput(t.Context(), name, checkedInput(t, inputOf(10)))
	if err == nil || !strings.Contains(err.Error(), ":2: not a line of batch output: longer than 64 MiB") {
		t.Errorf("got error %v, want one about the line", err)
	}
	if info, err := os.Stat(name); err != nil || info.Size() != size {
		t.Errorf("got %v, %v, want a file of the same size", info, err)
	}
}

// All bytes that are removed from an output are in a file beside it until a run
// has succeeded.
func TestOutput_KeepsRemoved(t *testing.T) {
	for _, tt := range []struct{ name, text, removed string }{
		{"nothing", okLine("r1"), ""},
		{"torn line", okLine("r1") + `{"id":"bat`, `{"id":"bat`},
		{"torn line and zeros", okLine("r1") + "{\x00", "{\x00"},
		{"failures", failedLine("r1") + okLine("r2") + failedLine("r3"), failedLine("r1") + failedLine("r3")},
		{"failure without a line end", okLine("r2") + strings.TrimSpace(failedLine("r3")), strings.TrimSpace(failedLine("r3"))},
		{"second answer", okLine("r1") + okLine("r2") + okLine("r1"), okLine("r1")},
		{"failure and torn line", failedLine("r1") + okLine("r2") + `{"i`, failedLine("r1") + `{"i`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o, _, name, err := reopen(t, tt.text)
			if err != nil {
				t.Fatal(err)
			}
			kept, err := os.ReadFile(name + ".batchinfer-removed")
			if string(kept) != tt.removed || (err == nil) != (tt.removed != "") {
				t.Errorf("kept: got %q, %v, want %q", kept, err, tt.removed)
			}
			if err := o.discardRemoved(); err != nil {
				t.Error(err)
			}
			if left, _ := filepath.Glob(name + "?*"); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// A run adds to the removed lines of an earlier one that did not succeed.
func TestOutput_KeepsRemovedOfEarlierRuns(t *testing.T) {
	o, _, name, err := reopen(t, okLine("r1")+`{"id":"bat`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.write(result{answer: answer{ID: "batch_req_1", CustomID: "r2", Error: &failure{}}}); err != nil {
		t.Fatal(err)
	}
	failed := strings.TrimPrefix(readFile(t, name), okLine("r1"))
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	o, err = openOutput(t.Context(), name, checkedInput(t, inputOf(10)))
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if got, want := readFile(t, name+".batchinfer-removed"), `{"id":"bat`+"\n"+failed; got != want {
		t.Errorf("kept: got %q, want %q", got, want)
	}
}

// A countdown is a context that is canceled when Err has been called n times.
type countdown struct {
	context.Context
	n int
}

func (c *countdown) Err() error {
	if c.n--; c.n < 0 {
		return context.Canceled
	}
	return nil
}

// A run that is interrupted while it compacts the output changes no file. If it
// kept the lines that it has not removed, each run would keep them again.
func TestOutput_InterruptedCompactionKeepsNothing(t *testing.T) {
	long := strings.Replace(failedLine("r2"), `"x"`, `"`+strings.Repeat("x", 300<<10)+`"`, 1)
	text := failedLine("r1") + long + okLine("r3") + long
	for _, earlier := range []string{"", `{"id":"bat`} {
		name := writeFile(t, text)
		removed, want := name+".batchinfer-removed", failedLine("r1")+long+long
		if earlier != "" {
			want = earlier + "\n" + want
			if err := os.WriteFile(removed, []byte(earlier), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var o *output
		err := context.Canceled
		runs := 0
		for ; errors.Is(err, context.Canceled); runs++ {
			if got, _ := os.ReadFile(removed); string(got) != earlier {
				t.Fatalf("after %d runs that were interrupted: %d bytes are kept, want %d", runs, len(got), len(earlier))
			}
			if got := readFile(t, name); got != text {
				t.Fatalf("after %d runs that were interrupted: the output has changed", runs)
			}
			if left, _ := filepath.Glob(filepath.Join(filepath.Dir(name), ".*")); len(left) > 0 {
				t.Fatalf("left behind: %q", left)
			}
			o, err = openOutput(&countdown{t.Context(), runs}, name, checkedInput(t, inputOf(10)))
		}
		if err != nil {
			t.Fatal(err)
		}
		o.Close()
		if runs < 10 {
			t.Errorf("only %d runs were interrupted", runs-1)
		}
		if got := readFile(t, removed); got != want {
			t.Errorf("kept: got %d bytes, want the %d that were removed", len(got), len(want))
		}
	}
}

// If the lines can't be removed, they are not kept.
func TestOutput_KeepsOnlyTheRemoved(t *testing.T) {
	for _, earlier := range []string{"", "earlier"} {
		name := writeFile(t, okLine("r1"))
		o, err := openOutput(t.Context(), name, checkedInput(t, inputOf(10)))
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		if earlier != "" {
			if err := os.WriteFile(o.removedName(), []byte(earlier), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		full := errors.New("no space left on device")
		collect := func(w io.Writer) error { _, err := io.WriteString(w, failedLine("r1")); return err }
		if err := o.keepAnd(collect, func() error { return full }); !errors.Is(err, full) {
			t.Errorf("got %v, want %v", err, full)
		}
		if got, _ := os.ReadFile(o.removedName()); string(got) != earlier {
			t.Errorf("kept: got %q, want %q", got, earlier)
		}
	}
}

// A run that was killed while it compacted the output leaves hidden files, which
// the next run discards.
func TestOutput_DiscardsTheFilesOfAKilledRun(t *testing.T) {
	name := writeFile(t, failedLine("r1")+okLine("r2"))
	dir, base := filepath.Split(name)
	for _, suffix := range []string{"new", "removing"} {
		if err := os.WriteFile(dir+"."+base+".batchinfer-"+suffix, []byte(failedLine("r1")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o, err := openOutput(t.Context(), name, checkedInput(t, inputOf(10)))
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if got := readFile(t, name+".batchinfer-removed"); got != failedLine("r1") {
		t.Errorf("kept: got %q, want the failure once", got)
	}
	if left, _ := filepath.Glob(dir + ".*"); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// If the removed lines can't be kept, the output is not modified.
func TestOutput_RemovesNothingItCannotKeep(t *testing.T) {
	for _, text := range []string{okLine("r1") + `{"id":"bat`, failedLine("r1")} {
		name := writeFile(t, text)
		if err := os.Mkdir(name+".batchinfer-removed", 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := openOutput(t.Context(), name, checkedInput(t, inputOf(10))); err == nil {
			t.Error("got no error, want one")
		}
		if got := readFile(t, name); got != text {
			t.Errorf("file: got %q, want %q", got, text)
		}
		if left, _ := filepath.Glob(filepath.Join(filepath.Dir(name), ".*")); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	}
}

// A run removes the copy that a run left behind when it was killed in compact.
func TestOutput_RemovesUnfinishedCopy(t *testing.T) {
	for _, text := range []string{okLine("r1"), failedLine("r1")} {
		name := writeFile(t, text)
		o, err := openOutput(t.Context(), name, checkedInput(t, inputOf(10)))
		if err != nil {
			t.Fatal(err)
		}
		copied := o.compactName()
		o.Close()
		if err := os.WriteFile(copied, []byte(`{"id":`), 0o600); err != nil {
			t.Fatal(err)
		}
		if o, err = openOutput(t.Context(), name, checkedInput(t, inputOf(10))); err != nil {
			t.Fatal(err)
		}
		o.Close()
		if left, _ := filepath.Glob(filepath.Join(filepath.Dir(name), ".*")); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	}
}

// A file that is only touched is still the output.
func TestOutput_ToleratesNewModTime(t *testing.T) {
	o, _, name, err := reopen(t, okLine("r1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(name, time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := o.write(result{answer: answer{ID: "batch_req_1", CustomID: "r2", Error: &failure{}}}); err != nil {
		t.Errorf("after a touch: %v", err)
	}
}

// A change of the file that leaves its size and its modification time as they
// were is found at the end.
func TestOutput_VerifyFindsHiddenChange(t *testing.T) {
	for _, text := range []string{okLine("r1"), failedLine("r2") + okLine("r1"), strings.TrimSpace(okLine("r1")), okLine("r1") + "{"} {
		o, _, name, err := reopen(t, text)
		if err != nil {
			t.Fatal(err)
		}
		if err := o.verify(t.Context()); err != nil {
			t.Errorf("unchanged: got %v", err)
		}
		if err := changeInPlace(name); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, time.Time{}, o.modTime); err != nil {
			t.Fatal(err)
		}
		if err := o.verify(t.Context()); !errors.Is(err, errOutputChanged) {
			t.Errorf("changed: got %v, want %v", err, errOutputChanged)
		}
	}
}

// A change that leaves the size of the file is found before the next write.
func TestOutput_WriteFindsChange(t *testing.T) {
	o, _, name, err := reopen(t, okLine("r1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := changeInPlace(name); err != nil {
		t.Fatal(err)
	}
	// Some file systems count time in steps of seconds.
	if err := os.Chtimes(name, time.Time{}, o.modTime.Add(2*time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := o.write(result{answer: answer{ID: "batch_req_1", CustomID: "r2", Error: &failure{}}}); !errors.Is(err, errOutputChanged) {
		t.Errorf("got %v, want %v", err, errOutputChanged)
	}
}

func TestOutputLocked(t *testing.T) {
	for _, text := range []string{okLine("r1"), failedLine("r1")} { // the second makes a new file
		_, _, name, err := reopen(t, text)
		if err != nil {
			t.Fatal(err)
		}
		_, err = openOutput(t.Context(), name, checkedInput(t, inputOf(10)))
		if err == nil || !strings.Contains(err.Error(), "in use by another run") {
			t.Errorf("opened a second time: got %v, want an error", err)
		}
	}
}

// Replacing the file keeps a link to it, and its permissions.
func TestOutputLink(t *testing.T) {
	name := writeFile(t, failedLine("r1"))
	if err := os.Chmod(name, 0o640); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(name, link); err != nil {
		t.Fatal(err)
	}
	o, err := openOutput(t.Context(), link, checkedInput(t, inputOf(2)))
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("link: got %v, %v, want a link", info.Mode(), err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode() != 0o640 || info.Size() != 0 {
		t.Errorf("file: got %v, %d bytes, %v, want mode 0640, empty", info.Mode(), info.Size(), err)
	}
}

// A line of output has the exact format of the OpenAI batch API.
func TestOutputLine(t *testing.T) {
	o, _, name, err := reopen(t, "")
	if err != nil {
		t.Fatal(err)
	}
	body := json.RawMessage("{\n  \"n\": 9007199254740993,\n\t\"s\" : \"<é \\\" \u2028\u2029\u0085 \\\\\",\r\n  \"â\": \"\u2027\u0084\u20AC\"\n}\n")
	if _, err := o.write(result{answer: answer{ID: "b", CustomID: "r\n1", Response: &response{200, "q", body}}}); err != nil {
		t.Fatal(err)
	}
	want := `{"id":"b","custom_id":"r\n1","response":{"status_code":200,"request_id":"q","body":{"n":9007199254740993,"s":"<é \" \u2028\u2029\u0085 \\","â":"` + "\u2027\u0084\u20AC" + `"}},"error":null}` + "\n"
	if got := readFile(t, name); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// The next run can read every response that this one has written.
func TestOutputIsReadable(t *testing.T) {
	nested := func(depth int) []byte { return []byte(strings.Repeat("[", depth) + strings.Repeat("]", depth)) }
	bodies := map[string][]byte{
		"not UTF-8":         []byte("{\"a\":\"\xff\"}"),
		"not JSON or UTF-8": []byte("\xff"),
	}
	for depth := 9990; depth <= 10001; depth++ {
		bodies[fmt.Sprint("nested ", depth)] = nested(depth)
	}
	for name, body := range bodies {
		t.Run(name, func(t *testing.T) {
			o, _, file, err := reopen(t, "")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := o.write(result{answer: answer{ID: "b", CustomID: "r1", Response: &response{200, "r1", asJSON(body)}}}); err != nil {
				t.Fatal(err)
			}
			if err := o.Close(); err != nil {
				t.Fatal(err)
			}
			text := readFile(t, file)
			if !utf8.ValidString(text) {
				t.Errorf("got %q, want UTF-8", text)
			}
			in := checkedInput(t, inputOf(10))
			again, err := openOutput(t.Context(), file, in)
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			if in.index.answered() != 1 || readFile(t, file) != text {
				t.Errorf("got %d answered, want 1, and the file as it was", in.index.answered())
			}
		})
	}
}

func TestAsJSON(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"JSON", `{"a": 1}`, `{"a": 1}`},
		{"text", `<a>`, `"<a>"`},
		{"JSON that is not UTF-8", "{\"a\":\"x\xffy\"}", "{\"a\":\"x\uFFFDy\"}"},
		{"text that is not UTF-8", "x\xff\xfey", "\"x\uFFFDy\""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(asJSON([]byte(tt.text))); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// Runs that replace the file in quick succession lose no answer.
func TestOutputReplacedBeforeLocked(t *testing.T) {
	const runs = 6
	name := writeFile(t, "")
	var wg sync.WaitGroup
	for i := range runs {
		wg.Go(func() {
			for range 10 {
				in := memoryInput(inputOf(runs))
				if err := in.check(t.Context()); err != nil {
					t.Error(err)
					return
				}
				o := openWhenFree(t, name, in)
				if o == nil {
					return
				}
				id := fmt.Sprintf("r%d", i)
				if in.index[digestOf(id)].answered == 0 {
					o.write(result{answer: answer{ID: "b", CustomID: id, Response: &response{200, id, []byte("{}")}}})
				}
				o.write(result{answer: answer{ID: "b", CustomID: id, Error: &failure{}}}) // makes the next run replace the file
				if err := o.Close(); err != nil {
					t.Errorf("run %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	in := checkedInput(t, inputOf(runs))
	if o := openWhenFree(t, name, in); o != nil {
		o.Close()
	}
	if got := in.index.answered(); got != runs {
		t.Errorf("got %d answers in the end, want %d: one of each run", got, runs)
	}
}

// openWhenFree opens the output when no other run uses it.
func openWhenFree(t *testing.T, name string, in *input) *output {
	for {
		o, err := openOutput(t.Context(), name, in)
		if err == nil {
			return o
		}
		if !strings.Contains(err.Error(), "in use by another run") {
			t.Error(err)
			return nil
		}
		runtime.Gosched()
	}
}

// The next run sends only the requests that failed, and a run after that sends
// none.
func TestRunAgain(t *testing.T) {
	var broken atomic.Bool
	g := newGateway(t, func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if id := r.Header.Get("X-Request-ID"); broken.Load() && (id == "r1" || id == "r3") {
			return fail(w, 400, "")
		}
		return false
	})
	out := filepath.Join(t.TempDir(), "out")
	args := []string{"-input", writeFile(t, inputOf(5)), "-output", out, "-url", g.URL}
	broken.Store(true)
	startPlain(t, args...).want(t, exitFailed, "to go on")
	g.forget()

	broken.Store(false)
	o := startPlain(t, args...)
	o.want(t, exitOK, out+": 3 of 5 requests are answered already\n", out+": 2 requests that failed are asked again\n")
	if got, want := g.forget(), map[string]int{"r1": 1, "r3": 1}; !maps.Equal(got, want) {
		t.Errorf("asked by the second run: got %v, want %v", got, want)
	}
	if want := "succeeded             5   3 of them in earlier runs"; !strings.Contains(o.stdout, want) {
		t.Errorf("the summary does not have %q:\n%s", want, o.stdout)
	}

	before := readFile(t, out)
	startPlain(t, args...).want(t, exitOK, "5 of 5 requests are answered already")
	if g.requests() > 0 || readFile(t, out) != before || len(answersIn(t, out)) != 5 {
		t.Errorf("a run with nothing to do: got %d requests, output\n%s", g.requests(), readFile(t, out))
	}
}
