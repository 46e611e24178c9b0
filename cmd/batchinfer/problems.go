package main

import (
	"errors"
	"fmt"
	"strings"
)

// problems collects the mistakes in a file, each with its line.
type problems struct {
	file string
	list []string
}

var errTooManyProblems = errors.New("too many problems")

func (p *problems) add(line int, format string, args ...any) {
	p.list = append(p.list, fmt.Sprintf("%s:%d: %s", p.file, line, fmt.Sprintf(format, args...)))
}

// overflow returns an error if there are more problems than err shows.
func (p *problems) overflow() error {
	if len(p.list) > maxProblems {
		return errTooManyProblems
	}
	return nil
}

// err returns the problems as one error with a line for each, or nil if there
// are none.
func (p *problems) err() error {
	switch {
	case len(p.list) == 0:
		return nil
	case len(p.list) > maxProblems:
		return fmt.Errorf("%s\n%s: and more; these are the first %d", strings.Join(p.list[:maxProblems], "\n"), p.file, maxProblems)
	}
	return errors.New(strings.Join(p.list, "\n"))
}
