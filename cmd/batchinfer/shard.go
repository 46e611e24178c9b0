package main

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	maxShards   = 1_000_000
	shardInName = "{shard}" // in the name of a file, stands for the number of the shard
)

// The variables of a shard's number: of a pod of an Indexed Job, and of a task of a
// Slurm array.
const (
	podIndex  = "JOB_COMPLETION_INDEX"
	taskID    = "SLURM_ARRAY_TASK_ID"
	taskCount = "SLURM_ARRAY_TASK_COUNT"
	taskMin   = "SLURM_ARRAY_TASK_MIN"
	taskMax   = "SLURM_ARRAY_TASK_MAX"
)

// A shard is one of several sets of requests of an input, each of which is sent by a run
// of its own. The zero value is the whole input.
type shard struct {
	number int // from 0
	count  int // 0: the whole input
}

func (s shard) String() string { return fmt.Sprintf("%d/%d", s.number, s.count) }

// has reports whether a request belongs to the shard.
func (s shard) has(key digest) bool { return s.count == 0 || s.of(key) == s }

// of returns the shard, of as many, that a request belongs to. It depends only on the
// custom_id, so that equal ones meet in a shard, which reports them, and lines can be
// added to an input anywhere.
func (s shard) of(key digest) shard {
	// Without the count, 3/64 would be a part of 3/32, and a run with the wrong count
	// would take the other's output for its own.
	sum := sha256.Sum256(binary.BigEndian.AppendUint32(key[:], uint32(s.count)))
	return shard{int(binary.BigEndian.Uint64(sum[:]) % uint64(s.count)), s.count}
}

// nameOf returns the name of the shard's file. Names sort in the order of the shards.
func (s shard) nameOf(name string) string {
	width := len(strconv.Itoa(s.count - 1))
	return strings.ReplaceAll(name, shardInName, fmt.Sprintf("%0*d", width, s.number))
}

// divide sets the shard of a run, and the names of its files.
func (o *options) divide(getenv func(string) string) (err error) {
	files := []struct {
		flag string
		name *string
	}{{"-output", &o.output}, {"-summary", &o.summaryFile}}
	auto := strings.HasPrefix(o.shard, "auto")
	for _, f := range files {
		switch has := strings.Contains(*f.name, shardInName); {
		case has && o.shard == "":
			return fmt.Errorf("%s: %s stands for the number of the shard, and -shard is missing", f.flag, shardInName)
		case !has && auto && *f.name != "":
			return fmt.Errorf("%s: must have %s in its name with -shard %s, or all shards would write to one file", f.flag, shardInName, o.shard)
		}
	}
	if o.shard == "" {
		return nil
	}
	if o.part, err = parseShard(o.shard, getenv); err != nil {
		return fmt.Errorf("-shard: %w", err)
	}
	for _, f := range files {
		*f.name = o.part.nameOf(*f.name)
	}
	if auto {
		o.args = withShard(o.args, o.part)
	}
	return nil
}

// withShard returns the command line with the number of the shard in place of "auto",
// for the command that resumes the run: its reader has another environment.
func withShard(args []string, part shard) []string {
	args = slices.Clone(args)
	for i, arg := range args {
		switch name, _, hasValue := strings.Cut(arg, "="); {
		case name != "-shard" && name != "--shard":
		case hasValue:
			args[i] = name + "=" + part.String()
		case i+1 < len(args):
			args[i+1] = part.String()
		}
	}
	return args
}

// parseShard reads the value of -shard.
func parseShard(text string, getenv func(string) string) (shard, error) {
	number, count, divided := strings.Cut(text, "/")
	if text == "auto" {
		return autoShard(0, getenv)
	}
	n, err := strconv.Atoi(count)
	if !divided || err != nil {
		return shard{}, fmt.Errorf("is %q: must be I/N, auto or auto/N, such as 3/64", text)
	}
	if n < 1 || n > maxShards {
		return shard{}, fmt.Errorf("is %q: the number of shards must be from 1 to %d", text, maxShards)
	}
	if number == "auto" {
		return autoShard(n, getenv)
	}
	i, err := strconv.Atoi(number)
	switch {
	case err != nil:
		return shard{}, fmt.Errorf("is %q: must be I/N, auto or auto/N, such as 3/64", text)
	case i < 0 || i >= n:
		return shard{}, fmt.Errorf("is %q: shards are counted from 0, so the first number must be from 0 to %d", text, n-1)
	}
	return shard{i, n}, nil
}

// autoShard returns the shard that the environment names. If count is 0, the
// environment has the number of shards, too.
func autoShard(count int, getenv func(string) string) (shard, error) {
	name := podIndex
	switch pod, task := getenv(podIndex) != "", getenv(taskID) != ""; {
	case pod && task:
		return shard{}, fmt.Errorf("both %s and %s are set: give I/N in place of auto", podIndex, taskID)
	case !pod && !task:
		return shard{}, fmt.Errorf("neither %s nor %s is set: give I/N in place of auto", podIndex, taskID)
	case pod && count == 0:
		return shard{}, fmt.Errorf("%s comes without the number of shards: give auto/N, where N is the completions of the Job", podIndex)
	case task && count == 0:
		return wholeArray(getenv)
	case task:
		name = taskID
	}
	i, err := variable(getenv, name)
	if err == nil && (i < 0 || i >= count) {
		err = fmt.Errorf("%s is %d: must be from 0 to %d for %d shards", name, i, count-1, count)
	}
	return shard{i, count}, err
}

// wholeArray returns the shard of a task of a Slurm array. An array that was submitted
// to repeat some tasks of another would divide the input in another way, so wholeArray
// accepts only one that looks complete.
func wholeArray(getenv func(string) string) (shard, error) {
	var values [4]int
	for i, name := range []string{taskID, taskCount, taskMin, taskMax} {
		var err error
		if values[i], err = variable(getenv, name); err != nil {
			return shard{}, fmt.Errorf("%w: give auto/N", err)
		}
	}
	id, count, first, last := values[0], values[1], values[2], values[3]
	switch {
	case first != 0 || last != count-1:
		return shard{}, fmt.Errorf("the array has %d tasks from %d to %d: auto takes an array from 0 without gaps, such as --array=0-63; auto/N takes some tasks of N",
			count, first, last)
	case count == 1:
		return shard{}, errors.New("the array has one task: give auto/1, or auto/N to repeat a task of N")
	case count > maxShards || id < 0 || id >= count:
		return shard{}, fmt.Errorf("%s is %d of %d: not a shard", taskID, id, count)
	}
	return shard{id, count}, nil
}

// variable returns the number that a variable of the environment holds.
func variable(getenv func(string) string, name string) (int, error) {
	text := getenv(name)
	n, err := strconv.Atoi(text)
	switch {
	case text == "":
		return 0, fmt.Errorf("%s is not set", name)
	case err != nil:
		return 0, fmt.Errorf("%s is %q: not a whole number", name, text)
	}
	return n, nil
}
