package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func environment(pairs ...string) func(string) string {
	return func(name string) string {
		for _, pair := range pairs {
			if value, ok := strings.CutPrefix(pair, name+"="); ok {
				return value
			}
		}
		return ""
	}
}

// array is the environment of a task of a Slurm array.
func array(id, count, first, last string) func(string) string {
	return environment(taskID+"="+id, taskCount+"="+count, taskMin+"="+first, taskMax+"="+last)
}

func TestParseShard(t *testing.T) {
	none := environment()
	for _, test := range []struct {
		text string
		env  func(string) string
		want shard
		err  string
	}{
		{"0/1", none, shard{0, 1}, ""},
		{"63/64", none, shard{63, 64}, ""},
		{"003/064", none, shard{3, 64}, ""},
		{"64/64", none, shard{}, "from 0 to 63"},
		{"-1/64", none, shard{}, "from 0 to 63"},
		{"0/0", none, shard{}, "number of shards must be from 1"},
		{"0/1000001", none, shard{}, "number of shards must be from 1"},
		{"3", none, shard{}, "must be I/N"},
		{"3/", none, shard{}, "must be I/N"},
		{"/3", none, shard{}, "must be I/N"},
		{"1/2/3", none, shard{}, "must be I/N"},
		{"x/3", none, shard{}, "must be I/N"},
		{"automatic", none, shard{}, "must be I/N"},
		{"auto/x", none, shard{}, "must be I/N"},
		{"auto", none, shard{}, "neither JOB_COMPLETION_INDEX nor SLURM_ARRAY_TASK_ID is set"},
		{"auto/4", none, shard{}, "neither JOB_COMPLETION_INDEX nor SLURM_ARRAY_TASK_ID is set"},
		{"auto/4", environment(podIndex+"=1", taskID+"=2"), shard{}, "both"},
		{"auto", environment(podIndex + "=3"), shard{}, "auto/N"},
		{"auto/4", environment(podIndex + "=3"), shard{3, 4}, ""},
		{"auto/4", environment(podIndex + "=4"), shard{}, "JOB_COMPLETION_INDEX is 4: must be from 0 to 3"},
		{"auto/4", environment(podIndex + "=x"), shard{}, `JOB_COMPLETION_INDEX is "x"`},
		{"auto", array("2", "4", "0", "3"), shard{2, 4}, ""},
		{"auto", array("3", "4", "1", "4"), shard{}, "from 0 without gaps"}, // --array=1-4
		{"auto", array("4", "3", "0", "4"), shard{}, "from 0 without gaps"}, // --array=0-4:2
		{"auto", array("0", "1", "0", "0"), shard{}, "one task"},            // perhaps to repeat task 0
		{"auto", array("4", "4", "0", "3"), shard{}, "SLURM_ARRAY_TASK_ID is 4 of 4"},
		{"auto", environment(taskID + "=3"), shard{}, "SLURM_ARRAY_TASK_COUNT is not set"},
		{"auto/64", array("3", "1", "3", "3"), shard{3, 64}, ""}, // --array=3, to repeat it
		{"auto/64", array("64", "64", "1", "64"), shard{}, "from 0 to 63"},
	} {
		got, err := parseShard(test.text, test.env)
		switch {
		case test.err == "" && (err != nil || got != test.want):
			t.Errorf("%s: got %v, %v, want %v", test.text, got, err, test.want)
		case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
			t.Errorf("%s: got %v, %v, want an error with %q", test.text, got, err, test.err)
		}
	}
}

// Each request belongs to one shard, and shards are about equally long.
func TestShard_Divides(t *testing.T) {
	for _, count := range []int{1, 2, 7, 64} {
		const requests = 20_000
		each := make([]int, count)
		for i := range requests {
			key := digestOf(fmt.Sprint("request-", i))
			owners := 0
			for number := range count {
				if (shard{number, count}).has(key) {
					owners++
					each[number]++
				}
			}
			if owners != 1 || !(shard{}).has(key) {
				t.Fatalf("request-%d belongs to %d of %d shards, want 1", i, owners, count)
			}
		}
		for number, n := range each {
			if mean := requests / count; n < mean*3/4 || n > mean*5/4 {
				t.Errorf("shard %d/%d: got %d requests, want about %d", number, count, n, mean)
			}
		}
	}
}

// A run with another number of shards must notice the output of an earlier one, so a
// shard must not be a part of one of another division.
func TestShard_DependsOnCount(t *testing.T) {
	both := 0
	for i := range 6400 {
		if key := digestOf(fmt.Sprint("request-", i)); (shard{3, 64}).has(key) && (shard{3, 32}).has(key) {
			both++
		}
	}
	if both > 20 { // 100 belong to 3/64
		t.Errorf("%d requests belong to both 3/64 and 3/32, want about 3", both)
	}
}

func TestShard_NamesSort(t *testing.T) {
	for want, s := range map[string]shard{"a-0": {0, 1}, "a-9": {9, 10}, "a-09": {9, 11}, "a-007": {7, 101}} {
		if got := s.nameOf("a-{shard}"); got != want {
			t.Errorf("shard %v: got the name %s, want %s", s, got, want)
		}
	}
}

func TestRun_Shards(t *testing.T) {
	g := newGateway(t, nil)
	in, dir := writeFile(t, inputOf(40)), t.TempDir()
	total := 0
	for i := range 3 {
		env := map[string]string{podIndex: fmt.Sprint(i)}
		o := start(t.Context(), env, strings.NewReader(""), "-input", in, "-output", filepath.Join(dir, "o-{shard}"),
			"-summary", filepath.Join(dir, "{shard}.json"), "-url", g.URL, "-shard", "auto/3")
		o.want(t, exitOK, fmt.Sprintf("belong to shard %d/3", i))
		total += len(answersIn(t, filepath.Join(dir, fmt.Sprintf("o-%d", i))))
		if _, err := os.Stat(filepath.Join(dir, fmt.Sprintf("%d.json", i))); err != nil {
			t.Error(err)
		}
	}
	if total != 40 || g.requests() != 40 {
		t.Errorf("got %d answers of %d requests, want each of 40 once", total, g.requests())
	}
	part := filepath.Join(dir, "o-1")
	text := readFile(t, part)
	for _, other := range []string{"0/3", "2/3", "1/2", "1/6"} {
		startPlain(t, "-input", in, "-output", part, "-url", g.URL, "-shard", other).
			want(t, exitUsage, part+":", "belongs to shard", "is the output of shard "+other)
	}
	if got := readFile(t, part); got != text {
		t.Errorf("the output of another shard was changed to:\n%s", got)
	}
}

// A shard to which no request belongs is complete.
func TestRun_EmptyShard(t *testing.T) {
	in, out := writeFile(t, inputOf(1)), filepath.Join(t.TempDir(), "{shard}")
	empty := shard{0, 2}
	if empty.has(digestOf("r0")) {
		empty.number = 1
	}
	startPlain(t, "-input", in, "-output", out, "-url", "http://127.0.0.1:1", "-shard", empty.String()).want(t, exitOK, ": 0 requests belong")
	startPlain(t, "-input", writeFile(t, "\n"), "-output", out, "-url", "http://127.0.0.1:1", "-shard", "0/2").want(t, exitUsage, "no request in it")
}

// Every shard reports mistakes in the lines of others. A custom_id that occurs twice
// is reported by the shard that would send both.
func TestRun_ShardChecksWholeInput(t *testing.T) {
	in := writeFile(t, inputOf(20)+`{"custom_id":"bad"}`+"\n")
	twice := writeFile(t, inputOf(20)+chatLine("r7")+"\n")
	reported := 0
	for i := range 4 {
		args := []string{"-output", filepath.Join(t.TempDir(), "out"), "-url", "http://127.0.0.1:1", "-shard", fmt.Sprintf("%d/4", i), "-input"}
		startPlain(t, append(args, in)...).want(t, exitUsage, in+":21: method: missing")
		if (shard{i, 4}).has(digestOf("r7")) {
			startPlain(t, append(args, twice)...).want(t, exitUsage, twice+`:21: custom_id: "r7" is already that of line 8`)
			reported++
		}
	}
	if reported != 1 {
		t.Errorf("r7 belongs to %d shards, want 1", reported)
	}
}

func TestRun_ShardUsage(t *testing.T) {
	in, dir := writeFile(t, inputOf(1)), t.TempDir()
	for _, test := range []struct {
		want string
		args []string
	}{
		{"-shard is missing", []string{"-output", "o-{shard}"}},
		{"-summary: {shard}", []string{"-output", "o", "-summary", "{shard}"}},
		{"-output: must have {shard}", []string{"-output", "o", "-shard", "auto/3"}},
		{"-summary: must have {shard}", []string{"-output", "o-{shard}", "-summary", "s", "-shard", "auto"}},
		{`-shard: is "3": must be I/N`, []string{"-output", "o", "-shard", "3"}},
		{"-shard: empty", []string{"-output", "o", "-shard", ""}},
		{"-shard: neither", []string{"-output", "o-{shard}", "-shard", "auto"}},
	} {
		t.Chdir(dir)
		startPlain(t, append([]string{"-input", in, "-url", "http://127.0.0.1:1"}, test.args...)...).want(t, exitUsage, test.want)
	}
	startPlain(t, "-shard", "0/2").want(t, exitUsage, "-input is missing")
	if files, _ := os.ReadDir(dir); len(files) > 0 {
		t.Errorf("%s was created", files[0].Name())
	}
}

// The command that resumes a run does not depend on the environment.
func TestRun_ShardResumes(t *testing.T) {
	g := newGateway(t, nil)
	g.Close()
	in, out := writeFile(t, inputOf(9)), filepath.Join(t.TempDir(), "{shard}")
	o := start(t.Context(), map[string]string{podIndex: "1"}, strings.NewReader(""), "-input", in, "-output", out, "-url", g.URL, "-shard=auto/2",
		"-config", writeFile(t, fastRetries+"inference_max_outage: 1ms\n"))
	o.want(t, exitFailed, "-shard=1/2")
}
