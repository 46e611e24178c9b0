package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// A joinCase has an input and its parts.
type joinCase struct {
	dir, in, out string
	parts        [][]string // lines
}

// answerLine returns the line that answers a line of input.
func answerLine(request string, failed bool) string {
	l := newLines(strings.NewReader(request), maxLineBytes)
	l.next()
	req := checkedRequest(l)
	a := answer{ID: newID(req.content), CustomID: req.customID, Response: &response{200, req.customID, []byte(`{"n":1}`)}}
	if failed {
		a.Response, a.Error = nil, &failure{"SERVER_ERROR", "down"}
	}
	return string(a.append(nil))
}

// newJoinCase returns an input of n requests, with answers in k parts.
func newJoinCase(t *testing.T, n, k int) *joinCase {
	t.Helper()
	c := &joinCase{dir: t.TempDir(), parts: make([][]string, k)}
	c.in, c.out = filepath.Join(c.dir, "in"), filepath.Join(c.dir, "out")
	text := inputOf(n)
	c.write(t, c.in, text)
	i := 0
	for line := range strings.Lines(text) {
		c.parts[i%k] = append(c.parts[i%k], answerLine(line, false))
		i++
	}
	return c
}

func (c *joinCase) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// join writes the parts and joins them.
func (c *joinCase) join(t *testing.T) outcome {
	t.Helper()
	args := []string{"join", "-input", c.in, "-output", c.out}
	for i, lines := range c.parts {
		name := filepath.Join(c.dir, fmt.Sprintf("part-%d", i))
		c.write(t, name, strings.Join(lines, ""))
		args = append(args, name)
	}
	return startPlain(t, args...)
}

// wantNothing fails the test if join has left a file.
func (c *joinCase) wantNothing(t *testing.T) {
	t.Helper()
	files, err := os.ReadDir(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.Name() != "in" && !strings.HasPrefix(f.Name(), "part-") {
			t.Errorf("join has left %s", f.Name())
		}
	}
}

func TestJoin(t *testing.T) {
	c := newJoinCase(t, 10, 3)
	slices.Reverse(c.parts[1])
	c.parts[2] = append(c.parts[2], "\r\n")
	c.parts[0][0] = "\uFEFF" + strings.TrimSuffix(c.parts[0][0], "\n") + "\r\n"
	last := len(c.parts[1]) - 1
	c.parts[1][last] = strings.TrimSuffix(c.parts[1][last], "\n")
	c.join(t).want(t, exitOK, "joined 10 answers of 3 files")
	answersIn(t, c.out)
	i := 0
	for line := range strings.Lines(readFile(t, c.out)) {
		if a, ok := parseAnswer([]byte(line)); !ok || a.CustomID != fmt.Sprintf("r%d", i) || strings.ContainsAny(line, "\r\uFEFF") {
			t.Errorf("line %d: got %q, want the answer to r%d, as in the input", i+1, line, i)
		}
		i++
	}
}

func TestJoin_Faults(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(c *joinCase)
		want  []string
	}{
		{"missing", func(c *joinCase) { c.parts[0] = c.parts[0][1:] },
			[]string{`in:1: custom_id "r0" has no answer`, "nothing was written: 1 missing"}},
		{"twice in a part", func(c *joinCase) { c.parts[1] = append(c.parts[1], c.parts[1][0]) },
			[]string{`part-1:4: custom_id "r1" has an answer in`, "part-1:1, too", "1 answered twice"}},
		{"twice in two parts", func(c *joinCase) { c.parts[1][0] += c.parts[0][0] },
			[]string{`part-1:2: custom_id "r0" has an answer in`, "part-0:1, too"}},
		{"failed and answered", func(c *joinCase) { c.parts[1] = append(c.parts[1], answerLine(chatLine("r0"), true)) },
			[]string{`part-1:4: custom_id "r0" has an answer in`}},
		{"not in the input", func(c *joinCase) { c.parts[0][0] = answerLine(chatLine("x"), false) },
			[]string{`part-0:1: custom_id "x" is not in`, `in:1: custom_id "r0"`, "1 missing, 1 foreign"}},
		{"another prompt", func(c *joinCase) {
			c.parts[0][0] = answerLine(strings.Replace(chatLine("r0"), "hi", "ho", 1), false)
		}, []string{`part-0:1: custom_id "r0" answers another request than line 1 of`}},
		{"a failure of another prompt", func(c *joinCase) {
			c.parts[0][0] = answerLine(strings.Replace(chatLine("r0"), "hi", "ho", 1), true)
		}, []string{`part-0:1: custom_id "r0" answers another request than line 1 of`}},
		{"without checksum", func(c *joinCase) { c.parts[0][0] = strings.Replace(c.parts[0][0], idPrefix, "other_", 1) },
			[]string{`part-0:1: id "other_`, "has no checksum"}},
		{"torn", func(c *joinCase) { c.parts[1][2] = c.parts[1][2][:30] },
			[]string{"part-1:3: cut off after 30 bytes"}},
		{"input", func(c *joinCase) { c.parts[1] = append(c.parts[1], chatLine("r0")+"\n") },
			[]string{"part-1:4: not a line of batch output"}},
		{"text", func(c *joinCase) { c.parts[1] = append(c.parts[1], "{}\n") },
			[]string{"part-1:4: not a line of batch output"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newJoinCase(t, 6, 2)
			test.spoil(c)
			c.join(t).want(t, exitFailed, test.want...)
			c.wantNothing(t)
		})
	}
}

// The first faults are listed, and all are counted.
func TestJoin_CountsFaults(t *testing.T) {
	c := newJoinCase(t, 100, 2)
	c.parts[1] = nil
	o := c.join(t)
	o.want(t, exitFailed, "nothing was written: 50 missing")
	if n := strings.Count(o.stderr, "has no answer"); n != maxProblems {
		t.Errorf("got %d listed, want %d", n, maxProblems)
	}
}

// A request that failed has its line in the output, as after a run, which can be
// resumed.
func TestJoin_KeepsFailures(t *testing.T) {
	c := newJoinCase(t, 6, 2)
	c.parts[0][1] = answerLine(chatLine("r2"), true)
	c.join(t).want(t, exitFailed, "joined 6 answers of 2 files", "1 failed for good; "+c.out+" has the reasons")
	if a := answersIn(t, c.out); len(a) != 6 || a["r2"].Error == nil {
		t.Errorf("got %v, want 6 lines, and the failure of r2", a)
	}
	// After the shard has run again, join replaces its own output.
	c.parts[0][1] = answerLine(chatLine("r2"), false)
	c.join(t).want(t, exitOK)
	if a := answersIn(t, c.out); len(a) != 6 || a["r2"].Error != nil {
		t.Errorf("got %v, want 6 answers", a)
	}
	// A run has answered it since then: the answer is nowhere else.
	c.parts[0][1] = answerLine(chatLine("r2"), true)
	text := readFile(t, c.out)
	c.join(t).want(t, exitFailed, "out:3: the file exists and this line is not in the parts")
	c.write(t, c.out, "notes\n")
	c.join(t).want(t, exitFailed, "out:1: the file exists and this line is not in the parts")
	if got := readFile(t, c.out); got != "notes\n" || text == "" {
		t.Errorf("the output was changed to %q", got)
	}
}

func TestJoin_RefusesFiles(t *testing.T) {
	c := newJoinCase(t, 6, 2)
	c.join(t).want(t, exitOK)
	part, link := filepath.Join(c.dir, "part-1"), filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(part, link); err != nil {
		t.Fatal(err)
	}
	removed := filepath.Join(c.dir, "part-1"+removedSuffix)
	c.write(t, removed, "lines that a run removed\n")
	missing := filepath.Join(c.dir, "none")
	for _, test := range []struct {
		want string
		args []string
	}{
		{"-input is missing", []string{"-output", c.out, part}},
		{"-output is missing", []string{"-input", c.in, part}},
		{"-output: must be a file", []string{"-input", c.in, "-output", "-", part}},
		{"the parts are missing", []string{"-input", c.in, "-output", c.out}},
		{"flags must come before the parts", []string{part, "-input", c.in, "-output", c.out}},
		{"-url", []string{"-url", "x"}},
		{"is the input", []string{"-input", c.in, "-output", c.in, part}},
		{"is the input", []string{"-input", c.in, "-output", c.out, part, c.in}},
		{"is the output", []string{"-input", c.in, "-output", c.out, part, c.out}},
		{"is the output", []string{"-input", c.in, "-output", link, part}},
		{"is the same file as " + part, []string{"-input", c.in, "-output", c.out, part, link}},
		{"not a regular file", []string{"-input", c.in, "-output", c.out, c.dir}},
		{"not a regular file", []string{"-input", c.in, "-output", c.dir, part}},
		{missing + ": no such file", []string{"-input", c.in, "-output", c.out, missing}},
		{missing + ": no such file", []string{"-input", missing, "-output", c.out, part}},
		{"matches no file", []string{"-input", c.in, "-output", c.out, missing + "*"}},
		{"syntax error in pattern", []string{"-input", c.in, "-output", c.out, "[*"}},
		{"all parts end in .batchinfer-removed", []string{"-input", c.in, "-output", c.out, removed}},
		{":1: not valid JSON", []string{"-input", writeFile(t, "x\n"), "-output", c.out, part}},
	} {
		startPlain(t, append([]string{"join"}, test.args...)...).want(t, exitUsage, test.want)
	}
	startPlain(t, "join", "-h").want(t, exitOK, "usage: batchinfer join -input FILE", "-output FILE")
}

// A command line that no shell has read may have patterns, which also match files that
// keep removed lines.
func TestJoin_ExpandsPatterns(t *testing.T) {
	c := newJoinCase(t, 6, 2)
	c.join(t).want(t, exitOK)
	c.write(t, filepath.Join(c.dir, "part-1"+removedSuffix), "lines that a run removed\n")
	startPlain(t, "join", "-input", c.in, "-output", c.out, filepath.Join(c.dir, "part-*")).want(t, exitOK, "joined 6 answers of 2 files")
}

func TestJoin_InUse(t *testing.T) {
	c := newJoinCase(t, 6, 2)
	c.join(t).want(t, exitOK)
	for _, name := range []string{"part-1", "out", ".out.batchinfer-join"} {
		f, err := openLocked(filepath.Join(c.dir, name), name)
		if err != nil {
			t.Fatal(err)
		}
		if o := c.join(t); o.status == exitOK || !strings.Contains(o.stderr, "in use by") {
			t.Errorf("%s is locked: got status %d and %s", name, o.status, o.stderr)
		}
		f.Close()
	}
	c.join(t).want(t, exitOK) // also when a command that was killed has left text
}

// A fuse is a context that is done after some calls of Err.
type fuse struct {
	context.Context
	left *int
}

func (f fuse) Err() error {
	if *f.left--; *f.left < 0 {
		return context.Canceled
	}
	return nil
}

// Wherever a signal stops join, nothing is left.
func TestJoin_Interrupted(t *testing.T) {
	c := newJoinCase(t, 6, 2)
	c.join(t).want(t, exitOK)
	os.Remove(c.out)
	parts := filepath.Join(c.dir, "part-*")
	for n := range 1000 {
		left := n
		o := start(fuse{t.Context(), &left}, nil, strings.NewReader(""), "join", "-input", c.in, "-output", c.out, parts)
		if o.status == exitOK {
			if n < 10 {
				t.Errorf("joined after %d calls of Err, want more", n)
			}
			return
		}
		o.want(t, exitInterrupted, "interrupted: nothing was written")
		c.wantNothing(t)
	}
	t.Fatal("not joined after 1000 calls of Err")
}

// However the runs of shards are interrupted, join gives each request one answer, and
// fails if a line is removed, doubled, cut off or given to another request.
func TestJoin_AfterInterruptedShards(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 6 {
		c := &joinCase{dir: t.TempDir()}
		c.in, c.out = filepath.Join(c.dir, "in"), filepath.Join(c.dir, "out")
		requests := 1 + r.IntN(40)
		c.write(t, c.in, strings.Repeat("\n", r.IntN(3))+inputOf(requests))
		c.parts = make([][]string, 1+r.IntN(5))
		c.runShards(t, r)
		c.join(t).want(t, exitOK)
		if a := answersIn(t, c.out); len(a) != requests {
			t.Errorf("got %d answers, want %d", len(a), requests)
		}
		os.Remove(c.out)
		c.spoilLines(t, r)
	}
}

// runShards runs each shard until it ends, and reads the parts. Runs are stopped, and
// the last line is cut off, as if the machine had lost its power.
func (c *joinCase) runShards(t *testing.T, r *rand.Rand) {
	t.Helper()
	var stop atomic.Pointer[context.CancelFunc] // of the run
	stops := make(map[string]bool)
	for i := range 40 {
		stops[fmt.Sprintf("r%d", i)] = r.IntN(8) == 0
	}
	g := newGateway(t, func(w http.ResponseWriter, req *http.Request, asked int) bool {
		if asked == 1 && stops[req.Header.Get("X-Request-ID")] {
			(*stop.Load())()
			<-req.Context().Done()
		}
		return asked == 1 && number(req.Header.Get("X-Request-ID"))%3 == 0 && fail(w, 503, "")
	})
	config := writeFile(t, fastRetries)
	for i := range c.parts {
		name := filepath.Join(c.dir, fmt.Sprintf("part-%d", i))
		for {
			ctx, cancel := context.WithCancel(t.Context())
			stop.Store(&cancel)
			o := start(ctx, nil, strings.NewReader(""), "-input", c.in, "-output", name, "-url", g.URL,
				"-shard", fmt.Sprintf("%d/%d", i, len(c.parts)), "-config", config)
			cancel()
			if o.status == exitOK {
				break
			}
			o.want(t, exitInterrupted)
			if text := readFile(t, name); len(text) > 0 && r.IntN(2) == 0 {
				c.write(t, name, text[:len(text)-1-r.IntN(20)])
			}
		}
		c.parts[i] = slices.Collect(strings.Lines(readFile(t, name)))
	}
}

// spoilLines fails the test if join accepts parts with a wrong line.
func (c *joinCase) spoilLines(t *testing.T, r *rand.Rand) {
	t.Helper()
	sound := c.parts
	other := func(line string) string { // the same answer for another request
		a, _ := parseAnswer([]byte(line))
		return strings.ReplaceAll(line, fmt.Sprintf("%q", a.CustomID), fmt.Sprintf("%q", fmt.Sprint("r", number(a.CustomID)+1)))
	}
	for i, lines := range sound {
		for n, line := range lines {
			for name, spoiled := range map[string]string{
				"removed":            "",
				"doubled":            line + line,
				"cut off":            line[:1+r.IntN(len(line)-2)],
				"of another request": other(line),
				"of another prompt":  strings.Replace(line, line[len(`{"id":"`+idPrefix)+27:][:8], "01234567", 1),
			} {
				c.parts = slices.Clone(sound)
				c.parts[i] = slices.Clone(lines)
				c.parts[i][n] = spoiled
				if o := c.join(t); o.status != exitFailed {
					t.Errorf("line %d of part %d was %s: got status %d, want %d: %s", n+1, i, name, o.status, exitFailed, o.stderr)
				}
			}
		}
	}
	c.parts = sound
	c.wantNothing(t)
}
