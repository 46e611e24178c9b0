package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// A joiner makes one output of several. It holds no lines in memory, only their
// places.
type joiner struct {
	input  *input
	parts  []part
	places []place // of the answers, by the line of the request in the input
	failed int     // requests whose answer is a failure
	wrong  faults

	name, path string   // of the output; path is without symbolic links
	old        *os.File // the output that is replaced; nil: none
}

// A part is an output that is joined. It is not modified.
type part struct {
	name string
	file *os.File
	info os.FileInfo // before it was read
}

// A place is where a line is.
type place struct {
	offset int64
	length int32 // with the line's end; 0: there is no line
	part   int32 // its index
}

// prepare opens the files, and checks the input.
func (j *joiner) prepare(ctx context.Context, p process, opts joinOptions) (err error) {
	names, err := opts.partNames()
	if err != nil {
		return err
	}
	if j.input, err = openInput(ctx, opts.input, p.stdin); err != nil {
		return err
	}
	if err := p.notPrintedTo(opts.output); err != nil {
		return err
	}
	if err := j.openOld(opts.output); err != nil {
		return err
	}
	for _, name := range names {
		if err := j.openPart(name); err != nil {
			return err
		}
	}
	if err := j.input.check(ctx); err != nil {
		return err
	}
	last := int32(0)
	for _, e := range j.input.index {
		last = max(last, e.line)
	}
	j.places = make([]place, last+1)
	return nil
}

// openOld opens the output if it exists.
func (j *joiner) openOld(name string) (err error) {
	j.name = name
	if j.path, err = filepath.EvalSymlinks(name); err != nil {
		j.path = name
	}
	if err := suitable(j.path, name, j.input); err != nil {
		return err
	}
	if _, err := os.Stat(j.path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	j.old, err = openLocked(j.path, name)
	return err
}

// openPart opens a part and locks it, so that no run changes it.
func (j *joiner) openPart(name string) error {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular(): // opening a pipe blocks until it has a writer
		return fmt.Errorf("%s: not a regular file", name)
	case j.old != nil && isAt(j.old, name):
		return fmt.Errorf("%s: is the output", name)
	}
	if src, ok := j.input.src.(*os.File); ok && isAt(src, name) {
		return fmt.Errorf("%s: is the input", name)
	}
	for _, other := range j.parts {
		if os.SameFile(info, other.info) {
			return fmt.Errorf("%s: is the same file as %s", name, other.name)
		}
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	j.parts = append(j.parts, part{name, f, info})
	if err := lockShared(f); err != nil {
		return fmt.Errorf("%s: in use by a run: %w", name, err)
	}
	// A run may have changed or replaced it before it was locked.
	if info, err = f.Stat(); err == nil && !isAt(f, name) {
		err = fmt.Errorf("%s: %w", name, errOutputChanged)
	}
	j.parts[len(j.parts)-1].info = info
	return err
}

// run reads the parts and writes the output.
func (j *joiner) run(ctx context.Context) error {
	for i := range j.parts {
		if err := j.readPart(ctx, i); err != nil {
			return err
		}
	}
	if err := j.findMissing(ctx); err != nil {
		return err
	}
	if err := j.wrong.err(); err != nil {
		return err
	}
	if err := j.checkOld(ctx); err != nil {
		return err
	}
	return j.write(ctx)
}

func (j *joiner) readPart(ctx context.Context, i int) error {
	p := j.parts[i]
	l := newLines(contextReader{ctx, io.NewSectionReader(p.file, 0, p.info.Size())}, maxAnswerBytes)
	for l.next() {
		a, ok := parseAnswer(l.text)
		switch {
		case l.tooLong:
			j.wrong.add(notAnAnswer, p.name, l.number, "not a line of batch output: longer than %d MiB", maxAnswerBytes>>20)
		case l.blank():
		case !ok && !l.terminated:
			j.wrong.add(notAnAnswer, p.name, l.number, "cut off after %d bytes: the run of this part has not ended; start it again", len(l.text))
		case !ok:
			j.wrong.add(notAnAnswer, p.name, l.number, "not a line of batch output")
		default:
			j.note(a, l, i)
		}
	}
	if l.err != nil {
		return fmt.Errorf("%s:%d: %w", p.name, l.number+1, l.err)
	}
	return nil
}

// note enters the place of an answer.
func (j *joiner) note(a answer, l *lines, i int) {
	key, name := digestOf(a.CustomID), j.parts[i].name
	e, known := j.input.index[key]
	// Every run that has a shard writes checksums.
	content, dated := checksumIn(a.ID)
	switch {
	case !known:
		j.wrong.add(foreign, name, l.number, "custom_id %s is not in %s", quote(a.CustomID), j.input.name)
	case !dated:
		j.wrong.add(foreign, name, l.number, "id %s has no checksum of the request: remove this line, and run its part again", quote(a.ID))
	case content != e.content:
		j.wrong.add(foreign, name, l.number, "custom_id %s answers another request than line %d of %s", quote(a.CustomID), e.line, j.input.name)
	case e.answered > 0:
		first := j.parts[j.places[e.line].part]
		j.wrong.add(answeredTwice, name, l.number, "custom_id %s has an answer in %s:%d, too", quote(a.CustomID), first.name, e.answered)
	default:
		e.answered = int32(l.number)
		j.input.index[key] = e
		j.places[e.line] = place{l.start, int32(len(l.buf)), int32(i)}
		if !a.succeeded() {
			j.failed++
		}
	}
}

// findMissing notes the requests without an answer.
func (j *joiner) findMissing(ctx context.Context) error {
	if j.input.index.answered() == len(j.input.index) {
		return nil
	}
	return j.input.unanswered(ctx, func(req request) error {
		j.wrong.add(missing, j.input.name, req.line, "custom_id %s has no answer", quote(req.customID))
		return nil
	})
}

func (j *joiner) close() {
	if j.input != nil {
		j.input.close()
	}
	if j.old != nil {
		j.old.Close()
	}
	for _, p := range j.parts {
		p.file.Close()
	}
}

// unchanged returns an error if a file has changed since it was opened. Locks do not
// keep other programs from that.
func (j *joiner) unchanged() error {
	for _, p := range j.parts {
		info, err := p.file.Stat()
		if err != nil {
			return err
		}
		if info.Size() != p.info.Size() || !info.ModTime().Equal(p.info.ModTime()) {
			return fmt.Errorf("%s: changed by something else after it was opened", p.name)
		}
	}
	_, err := os.Lstat(j.path)
	if replaced := j.old != nil && !isAt(j.old, j.path); replaced || j.old == nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: created, replaced or removed by something else since the beginning", j.name)
	}
	return nil
}
