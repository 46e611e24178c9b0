package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// asMain is the environment variable that makes the test binary run the program,
// for tests that need a process of its own.
const asMain = "BATCHINFER_TEST_MAIN"

// asGateway is the environment variable that makes the test binary a gateway that
// returns the same answer to each request, until its standard input ends.
const asGateway = "BATCHINFER_TEST_GATEWAY"

// ofServer are goroutines of nats-server that may stay when two clients make the same
// stream at the same time, and the server then shuts down.
var ofServer = []goleak.Option{
	goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
	goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"),
}

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(asMain) != "":
		main()
	case os.Getenv(asGateway) != "":
		serveGateway()
	case os.Getenv(asServer) != "":
		serveNATS()
	case os.Getenv(asNoop) != "":
		workForNothing()
	}
	// Tests that wait for servers and processes run at the same time, more of them than
	// there are processors: that saves a minute.
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, ofServer...)
}

// An outcome is the result of a run of the program.
type outcome struct {
	status         int
	stdout, stderr string
}

func start(ctx context.Context, env map[string]string, stdin io.Reader, args ...string) outcome {
	var stdout, stderr bytes.Buffer
	status := run(ctx, process{args, func(name string) string { return env[name] }, stdin, &stdout, &stderr})
	return outcome{status, stdout.String(), stderr.String()}
}

func startPlain(t *testing.T, args ...string) outcome {
	t.Helper()
	return start(t.Context(), nil, strings.NewReader(""), args...)
}

// command returns the program as a process of its own. Parallel tests run processes,
// because the state of klog is global.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asMain+"=1")
	return cmd
}

// outcomeOf runs a process. Its status is -1 if it does not start.
func outcomeOf(cmd *exec.Cmd) outcome {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(&stderr, err)
	}
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// want fails the test unless the run had this status and printed these texts.
func (o outcome) want(t *testing.T, status int, stderr ...string) {
	t.Helper()
	if o.status != status {
		t.Fatalf("exit status: got %d, want %d; stderr:\n%s", o.status, status, o.stderr)
	}
	for _, text := range stderr {
		if !strings.Contains(o.stderr, text) {
			t.Errorf("stderr does not have %q; it is:\n%s", text, o.stderr)
		}
	}
}

// A gateway is a server that records its requests.
type gateway struct {
	*httptest.Server
	mu    sync.Mutex
	asked map[string]int    // by request id
	body  map[string]string // of the last request with that id
}

// newGateway starts a gateway. If handle returns true, it has responded itself.
func newGateway(t *testing.T, handle func(w http.ResponseWriter, r *http.Request, asked int) bool) *gateway {
	g := &gateway{asked: make(map[string]int), body: make(map[string]string)}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		id := r.Header.Get("X-Request-ID")
		g.mu.Lock()
		g.asked[id]++
		asked := g.asked[id]
		g.body[id] = r.URL.RequestURI() + " " + string(body)
		g.mu.Unlock()
		if handle == nil || !handle(w, r, asked) {
			fmt.Fprintf(w, "{\"echo\": %q}\n", id)
		}
	}))
	t.Cleanup(g.Close)
	return g
}

// serveGateway is the main function of the gateway's process.
func serveGateway() {
	answer := `{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"small","choices":[{"index":0,"message":` +
		`{"role":"assistant","content":"` + strings.Repeat(`Two plus two is \"four\", as every honest calculator in the world will tell you.\n`, 15) + `","refusal":null},"logprobs":null,"finish_reason":"stop"}],` +
		`"usage":{"prompt_tokens":500,"completion_tokens":300,"total_tokens":800}}`
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, answer)
	}))
	fmt.Printf("http://%s\n", l.Addr())
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

func (g *gateway) requests() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for _, asked := range g.asked {
		n += asked
	}
	return n
}

// again returns the number of requests beyond the first of each id.
func (g *gateway) again() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for _, asked := range g.asked {
		n += asked - 1
	}
	return n
}

// forget returns the number of requests by id, and resets it.
func (g *gateway) forget() map[string]int {
	g.mu.Lock()
	defer g.mu.Unlock()
	asked := g.asked
	g.asked = make(map[string]int)
	return asked
}

func chatLine(id string) string {
	return fmt.Sprintf(`{"custom_id":%q,"method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[{"role":"user","content":"hi"}]}}`, id)
}

// inputOf returns an input of n requests, r0 and so on.
func inputOf(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(chatLine(fmt.Sprintf("r%d", i)) + "\n")
	}
	return b.String()
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// answersIn reads an output, in which every line must be whole and belong to
// another request.
func answersIn(t *testing.T, name string) map[string]answer {
	t.Helper()
	answers := make(map[string]answer)
	for line := range strings.Lines(readFile(t, name)) {
		var a answer
		if err := json.Unmarshal([]byte(line), &a); err != nil || !strings.HasSuffix(line, "\n") {
			t.Fatalf("%s: not a whole line: %q: %v", name, line, err)
		}
		if _, dup := answers[a.CustomID]; dup {
			t.Errorf("%s: more than one line for %q", name, a.CustomID)
		}
		answers[a.CustomID] = a
	}
	return answers
}

// fastRetries is a config with short backoffs.
const fastRetries = "inference_max_retries: 3\ninference_initial_backoff: 1ms\ninference_max_backoff: 10ms\n"

func fail(w http.ResponseWriter, status int, body string) bool {
	w.WriteHeader(status)
	io.WriteString(w, body)
	return true
}

func TestRun(t *testing.T) {
	g := newGateway(t, func(w http.ResponseWriter, r *http.Request, asked int) bool {
		switch id := r.Header.Get("X-Request-ID"); {
		case id == "bad":
			return fail(w, 400, `{"error":{"message":"no such model","code":17}}`)
		case id == "down":
			return fail(w, 503, "<html>down</html>")
		case id == "later" && asked == 1:
			return fail(w, 503, "")
		case id == "gone":
			panic(http.ErrAbortHandler)
		}
		return false
	})
	in := writeFile(t, "\uFEFF"+strings.Join([]string{
		chatLine("plain"),
		"",
		chatLine("later") + "\r",
		`{"custom_id":"numbers","method":"POST","url":"/v1/completions","body":{ "prompt":"<&\u003e", "seed":9007199254740993,"x":1e400,"y":0.10}}`,
		chatLine("bad"),
		chatLine("down"),
		chatLine("gone"),
		chatLine("größe 2"),
	}, "\n"))
	out := filepath.Join(t.TempDir(), "out.jsonl")
	o := startPlain(t, "-input", in, "-output", out, "-url", g.URL, "-config", writeFile(t, fastRetries))
	o.want(t, exitFailed, "some requests failed for good", "-input "+in)
	answers := answersIn(t, out)

	for _, id := range []string{"plain", "later", "numbers", "größe 2"} {
		a := answers[id]
		if !a.succeeded() || a.Response.RequestID != headerSafe(id) || string(a.Response.Body) != fmt.Sprintf(`{"echo":%q}`, headerSafe(id)) {
			t.Errorf("answer to %q: got %+v, want a success with the gateway's body", id, a)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if got, want := g.body["numbers"], `/v1/completions { "prompt":"<&\u003e", "seed":9007199254740993,"x":1e400,"y":0.10}`; got != want {
		t.Errorf("body as it was sent:\ngot  %s\nwant %s, as in the input", got, want)
	}
	wantFailures(t, answers)
	for _, line := range []string{
		"requests              7\n", "succeeded             4\n", "failed                3   SERVER_ERROR: 2, INVALID_REQ: 1\n",
		"a request; 4 took 1, 1 took 2, 2 took 8\n", "HTTP 503: 7, connection closed: 6\n",
		"saved                 1   requests", "output                    " + out,
	} {
		if !strings.Contains(o.stdout, line) {
			t.Errorf("the summary does not have %q:\n%s", line, o.stdout)
		}
	}
}

// Requests of a batch file go to their own url, with the headers of the config and
// the command line.
func TestRun_AnyURL(t *testing.T) {
	answers := map[string]string{
		"/gw/v1/embeddings":     `{"object":"list","data":[{"embedding":[0.25]}]}`,
		"/gw/v1/responses":      `{"object":"response","output":[],"error":null}`,
		"/gw/v1/moderations":    `{"results":[]}`,
		"/gw/v1/rerank?top_n=1": `{"results":[{"index":0}]}`,
		"/gw/v1/score":          `{"data":[]}`,
		"/gw/v1/models/a%2Fb":   `{"id":"a/b"}`,
	}
	g := newGateway(t, func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if got := r.Header; got.Get("X-Tenant") != "a" || got.Get("X-Tier") != "gold" {
			t.Errorf("got the header %v, want that of the config and of the command line", got)
		}
		return fail(w, 200, answers[r.URL.RequestURI()])
	})
	var lines strings.Builder
	for url := range answers {
		method, body := "POST", `,"body":{"model":"m", "input":"a"}`
		if strings.Contains(url, "models") {
			method, body = "GET", ""
		}
		fmt.Fprintf(&lines, `{"custom_id":%q,"method":%q,"url":%q%s}`+"\n", url, method, strings.TrimPrefix(url, "/gw"), body)
	}
	out := filepath.Join(t.TempDir(), "out")
	startPlain(t, "-input", writeFile(t, lines.String()), "-output", out, "-url", g.URL+"/gw", "-header", "x-tier: gold",
		"-config", writeFile(t, "inference_headers:\n  X-Tenant: a\n  X-Tier: silver\n")).want(t, exitOK)
	for id, a := range answersIn(t, out) {
		if string(a.Response.Body) != answers[id] {
			t.Errorf("%s: got %s, want %s", id, a.Response.Body, answers[id])
		}
		want := id + ` {"model":"m", "input":"a"}`
		if strings.Contains(id, "models") {
			want = id + " "
		}
		if got := g.body[headerSafe(id)]; got != want {
			t.Errorf("got the request %s, want %s", got, want)
		}
	}
}

// wantFailures checks the answers to the requests of TestRun that fail.
func wantFailures(t *testing.T, answers map[string]answer) {
	t.Helper()
	for _, tt := range []struct {
		id     string
		status int // 0: no response
		body   string
		want   failure
	}{
		{"bad", 400, `{"error":{"message":"no such model","code":17}}`, failure{"INVALID_REQ", "HTTP 400: no such model"}},
		{"down", 503, `"<html>down</html>"`, failure{"SERVER_ERROR", "HTTP 503: <html>down</html>"}},
		{"gone", 0, "", failure{"SERVER_ERROR", "failed to execute request"}},
	} {
		a := answers[tt.id]
		if a.Error == nil || a.Error.Code != tt.want.Code || !strings.HasPrefix(a.Error.Message, tt.want.Message) {
			t.Errorf("error of %q: got %+v, want %+v", tt.id, a.Error, tt.want)
		}
		switch {
		case tt.status == 0 && a.Response != nil:
			t.Errorf("response of %q: got %+v, want null: the gateway said nothing", tt.id, a.Response)
		case tt.status != 0 && (a.Response == nil || a.Response.StatusCode != tt.status || string(a.Response.Body) != tt.body):
			t.Errorf("response of %q: got %+v, want %d %s", tt.id, a.Response, tt.status, tt.body)
		}
	}
}

// Mistakes are found before the first request is sent, and no file is modified.
func TestRunRefuses(t *testing.T) {
	g := newGateway(t, nil)
	in := writeFile(t, inputOf(1))
	dir := t.TempDir()
	out := filepath.Join(dir, "out.jsonl")
	link := filepath.Join(dir, "link")
	if err := os.Symlink(in, link); err != nil {
		t.Fatal(err)
	}
	prose := writeFile(t, "not an output")
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"unknown flag", []string{"-frob"}, "-frob"},
		{"unknown command", []string{"in.jsonl"}, `unknown command "in.jsonl": must be one of cancel, join, status, work`},
		{"empty command", []string{"", "-input", in}, `unknown command ""`},
		{"secret as a command", []string{"http://me:secret@localhost"}, `unknown command "URL"`},
		{"argument", []string{"-input", in, "-output", out, "in.jsonl"}, `unexpected argument "in.jsonl"`},
		{"no input", []string{"-url", g.URL}, "-input is missing"},
		{"empty input name", []string{"-input", "", "-output", out}, "-input: empty"},
		{"empty names", []string{"-concurrency", "3", "-input", "", "-output", ""}, "-input: empty"},
		{"empty url", []string{"-input", in, "-output", out, "-url", ""}, "-url: empty"},
		{"url and no input", []string{"-url", g.URL, "-output", out}, "-input is missing (there is -output,"},
		{"no output", []string{"-input", in, "-url", g.URL}, "-output is missing"},
		{"no gateway", []string{"-input", in, "-output", out}, "no gateway"},
		{"bad url", []string{"-input", in, "-output", out, "-url", "localhost:80"}, "-url: must begin with http"},
		{"url with v1", []string{"-input", in, "-output", out, "-url", g.URL + "/v1/"}, "-url: must not end in /v1"},
		{"no rate", []string{"-rps", "0"}, "not a number above 0"},
		{"rate not a number", []string{"-rps=NaN"}, "not a number above 0"},
		{"no tokens", []string{"-tpm", "0"}, "-tpm is 0"},
		{"empty summary", []string{"-input", in, "-output", out, "-url", g.URL, "-summary", ""}, "-summary: empty"},
		{"JSON array", []string{"-input", writeFile(t, " [\n{}]"), "-output", out, "-url", g.URL}, ":1: is a JSON array, and must be a JSON object in each line: jq -c '.[]' converts it\n"},
		{"UTF-16", []string{"-input", writeFile(t, "\xff\xfe{\x00}\x00\n\x00"), "-output", out, "-url", g.URL}, ":1: is UTF-16, and must be UTF-8: iconv -f UTF-16 -t UTF-8 converts it\n"},
		{"UTF-32", []string{"-input", writeFile(t, "\xff\xfe\x00\x00{\x00\x00\x00}\x00\x00\x00\n\x00\x00\x00"), "-output", out, "-url", g.URL}, ":1: is UTF-32, and must be UTF-8: iconv -f UTF-32 -t UTF-8 converts it\n"},
		{"gzip", []string{"-input", writeFile(t, "\x1f\x8b\b\x00\x00\n\x00"), "-output", out, "-url", g.URL}, ":1: is compressed with gzip: gunzip converts it\n"},
		{"UTF-16 without mark", []string{"-input", writeFile(t, "\x00{\x00}\x00\n"), "-output", out, "-url", g.URL}, ":1: is UTF-16, and must be UTF-8: iconv -f UTF-16BE -t"},
		{"no concurrency", []string{"-concurrency", "0"}, "-concurrency is 0"},
		{"huge concurrency", []string{"-concurrency", "10001"}, "from 1 to 10000"},
		{"negative verbosity", []string{"-v", "-1"}, "-v is -1"},
		{"huge verbosity", []string{"-v=99999999999"}, "-v is 99999999999: it must be a whole number from 0 to 1000"},
		{"verbosity a word", []string{"-v=high"}, "not a whole number"},
		{"impossible port", []string{"-input", in, "-output", out, "-url", "http://localhost:99999"}, "-url: must have a port from 1 to 65535"},
		{"output to stdout", []string{"-input", in, "-output", "-", "-url", g.URL}, "-output: must be a file"},
		{"verbosity without number", []string{"-v"}, "needs an argument"},
		{"input not there", []string{"-input", dir + "/no", "-output", out, "-url", g.URL}, dir + "/no: no such file"},
		{"input a directory", []string{"-input", dir, "-output", out, "-url", g.URL}, "is a directory"},
		{"input without requests", []string{"-input", writeFile(t, "\n\n"), "-output", out, "-url", g.URL}, "no request in it"},
		{"config not there", []string{"-input", in, "-output", out, "-config", dir + "/no"}, dir + "/no: no such file"},
		{"output in no directory", []string{"-input", in, "-output", dir + "/no/out", "-url", g.URL}, dir + "/no/out: no such file"},
		{"output a directory", []string{"-input", in, "-output", dir, "-url", g.URL}, "not a regular file"},
		{"output a device", []string{"-input", in, "-output", os.DevNull, "-url", g.URL}, "not a regular file"},
		{"output is the input", []string{"-input", in, "-output", in, "-url", g.URL}, "is the input"},
		{"output links to the input", []string{"-input", in, "-output", link, "-url", g.URL}, "is the input"},
		{"output is something else", []string{"-input", in, "-output", prose, "-url", g.URL}, prose + ":1: not a line of batch output"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := startPlain(t, tt.args...)
			o.want(t, exitUsage, tt.want)
			if g.requests() > 0 {
				t.Errorf("a request was sent")
			}
			if _, err := os.Stat(out); err == nil {
				t.Errorf("an output was made")
			}
		})
	}
	if got := readFile(t, in) + readFile(t, prose); got != inputOf(1)+"not an output" {
		t.Errorf("a file was changed: got %q", got)
	}
}

// The summary must not be written between the answers.
func TestRunOutputIsPrintedTo(t *testing.T) {
	g := newGateway(t, nil)
	in, out := writeFile(t, inputOf(1)), writeFile(t, okLine("r0"))
	f, err := os.OpenFile(out, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	args := []string{"-input", in, "-output", out, "-url", g.URL}
	for _, tt := range []struct {
		name           string
		stdout, stderr io.Writer
	}{{"output", f, io.Discard}, {"error", io.Discard, f}} {
		p := process{args, func(string) string { return "" }, nil, tt.stdout, tt.stderr}
		if got := run(t.Context(), p); got != exitUsage {
			t.Errorf("the standard %s is the output: got status %d, want %d", tt.name, got, exitUsage)
		}
	}
	if got := readFile(t, out); !strings.Contains(got, ": is where the standard error goes: they must be two files") {
		t.Errorf("got %q, want a message on the standard error", got)
	}
	if g.requests() > 0 {
		t.Error("a request was sent")
	}
}

// losses are ways to lose an output during a run.
var losses = []struct {
	name  string
	lose  func(name string) error
	early bool // it is found before the end of the run, on any file system
}{
	{"removed", os.Remove, true},
	{"truncated", func(name string) error { return os.Truncate(name, 0) }, true},
	{"replaced", func(name string) error {
		return errors.Join(os.WriteFile(name+".new", nil, 0o600), os.Rename(name+".new", name))
	}, true},
	{"replaced with a copy", func(name string) error {
		text, err := os.ReadFile(name)
		return errors.Join(err, os.WriteFile(name+".new", text, 0o600), os.Rename(name+".new", name))
	}, true},
	{"added to", func(name string) error {
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString("x\n")
		return errors.Join(err, f.Close())
	}, true},
	{"changed in place", changeInPlace, false},
	{"changed in place, and touched", func(name string) error {
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		return errors.Join(changeInPlace(name), os.Chtimes(name, time.Time{}, info.ModTime()))
	}, false},
}

// changeInPlace changes a byte of a file.
func changeInPlace(name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte("#"), 3)
	return errors.Join(err, f.Close())
}

// A run fails if the answers that it has written are no longer there, and stops
// soon after they were lost.
func TestRunOutputLost(t *testing.T) {
	for _, tt := range losses {
		for _, requests := range []int{3, 200} {
			t.Run(fmt.Sprintf("%s, %d requests", tt.name, requests), func(t *testing.T) {
				out := filepath.Join(t.TempDir(), "out")
				g := newGateway(t, func(_ http.ResponseWriter, r *http.Request, _ int) bool {
					if r.Header.Get("X-Request-ID") == "r2" { // r0 has been written
						if err := tt.lose(out); err != nil {
							t.Error(err)
						}
					}
					return false
				})
				args := []string{"-input", writeFile(t, inputOf(requests)), "-output", out, "-url", g.URL, "-concurrency", "1"}
				startPlain(t, args...).want(t, exitFailed, out+": removed, replaced or changed by something else during the run\n", "to go on:")
				if got := g.requests(); tt.early && got > 20 {
					t.Errorf("requests sent: got %d, want none soon after the change", got)
				}
			})
		}
	}
}

// A lost output ends a run although no answer arrives.
func TestRun_StopsWithoutAnswersIfOutputIsLost(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	g := newGateway(t, func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		if err := os.Remove(out); err != nil {
			t.Error(err)
		}
		<-r.Context().Done()
		return true
	})
	args := []string{"-input", writeFile(t, inputOf(1)), "-output", out, "-url", g.URL}
	startPlain(t, args...).want(t, exitFailed, out+": removed, replaced or changed by something else during the run\n")
}

// A run that succeeds discards the lines that it has removed from the output. One
// that fails or is interrupted does not.
func TestRun_DiscardsRemovedWhenItSucceeds(t *testing.T) {
	for _, tt := range []struct {
		name, url string // "": a gateway that works
		status    int
	}{{"succeeds", "", exitOK}, {"fails", "http://127.0.0.1:1", exitFailed}, {"interrupted", "", exitInterrupted}} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			g := newGateway(t, func(_ http.ResponseWriter, r *http.Request, _ int) bool {
				if tt.status == exitInterrupted {
					cancel()
					<-r.Context().Done()
				}
				return false
			})
			url := cmp.Or(tt.url, g.URL)
			out := writeFile(t, okLine("r0")+failedLine("r1")+`{"id":"batch_r`)
			o := start(ctx, nil, nil, "-input", writeFile(t, inputOf(2)), "-output", out, "-url", url,
				"-config", writeFile(t, fastRetries+"inference_max_outage: 1s\n"))
			o.want(t, tt.status, "removed the last line, which was cut off after 14 bytes; "+out+".batchinfer-removed has them until")
			kept, _ := os.ReadFile(out + ".batchinfer-removed")
			if want := failedLine("r1") + `{"id":"batch_r`; tt.status != exitOK && string(kept) != want {
				t.Errorf("kept: got %q, want %q", kept, want)
			}
			if left, _ := filepath.Glob(out + "?*"); tt.status == exitOK && len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// The number 010 is ten in a flag and in a config file.
func TestLeadingZeros(t *testing.T) {
	o, err := parseOptions(process{args: []string{"-input", "in", "-output", "out", "-concurrency", "010"}, stderr: t.Output()})
	if err != nil || o.concurrency != 10 {
		t.Errorf("-concurrency 010: got %d, %v, want 10", o.concurrency, err)
	}
	var c config
	if err := c.parse("c.yaml", []byte("num_workers: 010")); err != nil || c.numWorkers != 10 {
		t.Errorf("num_workers: 010: got %d, %v, want 10", c.numWorkers, err)
	}
}

// A redirect does not count as a retry, nor as a saved request.
func TestRunRedirected(t *testing.T) {
	g := newGateway(t, func(w http.ResponseWriter, r *http.Request, asked int) bool {
		switch {
		case r.URL.Path == "/v1/chat/completions":
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
			return true
		case r.Header.Get("X-Request-ID") == "r1" && asked == 2:
			return fail(w, 503, "")
		}
		return false
	})
	o := startPlain(t, "-input", writeFile(t, inputOf(3)), "-output", filepath.Join(t.TempDir(), "out"),
		"-url", g.URL, "-config", writeFile(t, fastRetries))
	o.want(t, exitOK)
	for _, line := range []string{"a request; 2 took 1, 1 took 2\n", "retries               1   HTTP 503: 1\n", "saved                 1   requests"} {
		if !strings.Contains(o.stdout, line) {
			t.Errorf("the summary does not have %q:\n%s", line, o.stdout)
		}
	}
}

// The help has all flags, keys and exit statuses, with defaults.
func TestRunHelp(t *testing.T) {
	o := startPlain(t, "-h")
	o.want(t, exitOK, "usage: batchinfer", "-concurrency N", "-rps N", "-tpm N", "-summary FILE", "-version", "(default 256)",
		"\n  130  a signal stopped the run\n", "docs/batch.md")
	var defaults strings.Builder
	for key := range keys {
		i := strings.Index(o.stderr, "\n  "+key+" ")
		if i < 0 {
			t.Errorf("the help does not have the key %s", key)
			continue
		}
		text, _, _ := strings.Cut(o.stderr[i:], ")")
		if _, value, _ := strings.Cut(text, "("); value != "no default" && value != "none" {
			defaults.WriteString(key + ": " + value + "\n")
		}
	}
	c := defaultConfig()
	if err := c.parse("help", []byte(defaults.String())); err != nil || !reflect.DeepEqual(c, defaultConfig()) {
		t.Errorf("the defaults in the help: got %+v, %v, want %+v", c, err, defaultConfig())
	}
}

func TestRunVersion(t *testing.T) {
	o := startPlain(t, "-version")
	if o.want(t, exitOK); !strings.HasPrefix(o.stdout, "batchinfer ") || !strings.Contains(o.stdout, " go1.") || strings.Count(o.stdout, "\n") != 1 {
		t.Errorf("got %q, want a line with both versions", o.stdout)
	}
}

// The summary is also written as JSON, whether or not the run succeeds.
func TestRun_WritesSummary(t *testing.T) {
	g := newGateway(t, func(w http.ResponseWriter, r *http.Request, asked int) bool {
		switch {
		case r.Header.Get("X-Request-ID") == "r1":
			return fail(w, 400, "no")
		case asked == 1:
			return fail(w, 500, "")
		}
		return fail(w, 200, `{"choices":[{"text":"x"}],"usage":{"prompt_tokens":1,"total_tokens":7}}`)
	})
	name := filepath.Join(t.TempDir(), "summary.json")
	args := []string{"-input", writeFile(t, inputOf(4)), "-output", filepath.Join(t.TempDir(), "out"), "-url", g.URL,
		"-config", writeFile(t, fastRetries), "-summary", name}
	startPlain(t, args...).want(t, exitFailed)
	var got struct {
		ExitStatus                                int `json:"exit_status"`
		Requests, Answered, Failed, Saved, Tokens int
		Failures, Retries                         map[string]int
		Seconds                                   float64
	}
	if err := json.Unmarshal([]byte(readFile(t, name)), &got); err != nil {
		t.Fatal(err)
	}
	if got.ExitStatus != exitFailed || got.Requests != 4 || got.Answered != 3 || got.Failed != 1 || got.Saved != 3 || got.Tokens != 21 ||
		got.Failures["INVALID_REQ"] != 1 || got.Retries["HTTP 500"] != 3 || got.Seconds <= 0 {
		t.Errorf("got %+v, want the figures of the run: %s", got, readFile(t, name))
	}
}

// A file for the summary that can't be written, or is needed for something else, is
// found before the first request is sent.
func TestRun_ChecksSummaryFile(t *testing.T) {
	g := newGateway(t, nil)
	dir := t.TempDir()
	in, out, cfg := writeFile(t, inputOf(2)), writeFile(t, okLine("r0")), writeFile(t, fastRetries)
	link := filepath.Join(dir, "link")
	if err := os.Symlink(in, link); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, file, want string }{
		{"the input", in, "is another file of the run"},
		{"links to the input", link, "is another file of the run"},
		{"the output", out, "is another file of the run"},
		{"the config", cfg, "is another file of the run"},
		{"in no directory", filepath.Join(dir, "no", "summary.json"), "no such file"},
		{"a directory", dir, "not a regular file"},
		{"a device", os.DevNull, "not a regular file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := startPlain(t, "-input", in, "-output", out, "-url", g.URL, "-config", cfg, "-summary", tt.file)
			o.want(t, exitUsage, "-summary: ", tt.want)
		})
	}
	if got := readFile(t, in) + readFile(t, out) + readFile(t, cfg); got != inputOf(2)+okLine("r0")+fastRetries {
		t.Errorf("a file was changed: got %q", got)
	}
	if g.requests() > 0 {
		t.Error("a request was sent")
	}
}

func TestRunStdin(t *testing.T) {
	g := newGateway(t, nil)
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	out := filepath.Join(t.TempDir(), "out")
	args := []string{"-input", "-", "-output", out, "-url", g.URL}
	start(t.Context(), nil, strings.NewReader(inputOf(3)), args...).want(t, exitOK)
	if got := len(answersIn(t, out)); got != 3 {
		t.Errorf("answers: got %d, want 3", got)
	}
	start(t.Context(), nil, strings.NewReader(inputOf(3)+"{}\n"), args...).want(t, exitUsage, "<stdin>:4: custom_id: missing")
	if left, _ := os.ReadDir(temp); len(left) > 0 {
		t.Errorf("left behind in the temporary directory: %v", left)
	}
}

// An interrupted run ends although it waits for its standard input.
func TestRunStdinInterrupted(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	o := start(ctx, nil, r, "-input", "-", "-output", filepath.Join(t.TempDir(), "out"), "-url", "http://localhost")
	o.want(t, exitInterrupted, "interrupted before anything was sent")
}

// The requests in flight end with the context, and the run prints the command that
// resumes it.
func TestRunInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var g *gateway
	g = newGateway(t, func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if r.Header.Get("X-Request-ID") == "r0" {
			return false
		}
		if g.requests() == 5 { // r0 and those in flight
			cancel()
		}
		<-r.Context().Done()
		return true
	})
	in, out := writeFile(t, inputOf(20)), filepath.Join(t.TempDir(), "it's out")
	began := time.Now()
	o := start(ctx, nil, nil, "-input", in, "-output", out, "-url", g.URL, "-concurrency", "4")
	o.want(t, exitInterrupted, "interrupted: 1 of 20 requests are answered", "-input "+in+` -output '`+strings.ReplaceAll(out, "'", `'\''`)+`' -url`)
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("took %v to stop, want less", took)
	}
	if answers := answersIn(t, out); len(answers) != 1 {
		t.Errorf("answers: got %v, want that of r0 alone: requests that were cut off have not failed", answers)
	}
	if !strings.Contains(o.stdout, "not done              19") && !strings.Contains(o.stdout, "not done             19") {
		t.Errorf("the summary does not say that 19 are not done:\n%s", o.stdout)
	}
}

// A command line may hold a password, which must not be printed.
func TestHowToGoOn(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"plain", []string{"-input", "a b", "-output=c"}, "to go on:\n  batchinfer -input 'a b' -output=c"},
		{"stdin", []string{"-input", "-", "-output", "c"}, "to go on, give the same input to:\n  batchinfer -input - -output c"},
		{"password", []string{"-input", "a", "-output", "c", "-url", "http://me:pw@h"}, "to go on:\n  batchinfer -input a -output c -url URL"},
		{"query", []string{"-input", "a", "-output", "c", "-url=http://h?key=pw"}, "to go on:\n  batchinfer -input a -output c -url=URL"},
		{"earlier fragment", []string{"--url=http://h/#pw", "-input", "a", "-output", "c", "-url", "http://h"}, "to go on:\n  batchinfer --url=URL -input a -output c -url http://h"},
		{"earlier password", []string{"-url", "http://me:pw@h", "-input", "a", "-output", "c", "-url", "http://h"}, "to go on:\n  batchinfer -url URL -input a -output c -url http://h"},
		{"earlier query", []string{"-url=http://h?key=pw", "-input", "a", "-output", "c", "-url", "http://h"}, "to go on:\n  batchinfer -url=URL -input a -output c -url http://h"},
		{"several passwords", []string{"-url", "http://me:pw@h", "-url=http://me:pw2@h", "--url", "http://me:p w@h", "-input", "a", "-output", "c", "-url=http://me:pw@h"}, "to go on:\n  batchinfer -url URL -url=URL --url URL -input a -output c -url=URL"},
		{"earlier without scheme", []string{"-url", "me:pw@h", "-input", "a", "-output", "c", "-url", "http://h"}, "to go on:\n  batchinfer -url URL -input a -output c -url http://h"},
		{"earlier that is a key", []string{"-url", "sk-pw", "-input", "a", "-output", "c", "-url", "http://h"}, "to go on:\n  batchinfer -url URL -input a -output c -url http://h"},
		{"impossible URL", []string{"-url", "http://me:pw@h:x%", "-input", "a", "-output", "c", "-url", "http://h"}, "to go on:\n  batchinfer -url URL -input a -output c -url http://h"},
		{"header", []string{"-header", "X-Key: pw", "-header=X-Key: a=pw", "-input", "a", "-output", "c"}, "to go on:\n  batchinfer -header FIELD -header=FIELD -input a -output c"},
		{"header with a hyphen", []string{"-header", "-X-Key: a=pw", "-input", "a", "-output", "c"}, "to go on:\n  batchinfer -header FIELD -input a -output c"},
		{"sample", nil, "the sample run starts over each time; to go on needs -input and -output"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o, err := parseOptions(process{args: tt.args, stderr: t.Output()})
			if err != nil {
				t.Fatal(err)
			}
			if got := o.howToGoOn(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// A message about the command line does not hold its passwords.
func TestParseOptions_HidesPasswords(t *testing.T) {
	for _, args := range [][]string{
		{"-input", "a", "-output", "b", "http://me:p4ss@h"},
		{"-input", "a", "-output", "b", "-url", "http://me:p4ss@h", "http://me:p4ss@h/\""},
		{"-concurrency", "http://me:p4ss@h"},
		{"-v=http://me:p4ss@h\n"},
		{"-u", "http://me:p4ss@h"},
		{"-url", "http://me:p4ss@h", "-url"},
		{"--=http://me:p4ss@h"},
		{"-http://me:p4ss@h"},
		{"-input", "a", "-output", "b", "-header", "X-Key p4ss"},
		{"-input", "a", "-output", "b", "-header", "X-Key:", "p4ss"},
		{"-input", "a", "-output", "b", "-header", "X Key p4ss: a"},
		{"-input", "a", "-output", "b", "-header=Content-Type: p4ss"},
		{"-input", "a", "-output", "b", "-header", "X-Key: \"p4ss\r\nA: b"},
		{"-header", "X-Key: p4ss"},
	} {
		var stderr bytes.Buffer
		if _, err := parseOptions(process{args: args, stderr: &stderr}); err == nil {
			t.Errorf("%q: got no error", args)
		}
		if strings.Contains(stderr.String(), "p4ss") {
			t.Errorf("%q: the message holds the password:\n%s", args, stderr.String())
		}
	}
}
