package main

import (
	"errors"
	"fmt"
	"strings"
)

// A faultKind is a reason why outputs can't be joined.
type faultKind int

const (
	missing faultKind = iota
	answeredTwice
	foreign
	notAnAnswer
	faultKinds // their number
)

// faults counts the faults of several files, and lists the first.
type faults struct {
	list []string
	n    [faultKinds]int
}

func (f *faults) add(kind faultKind, file string, line int, format string, args ...any) {
	if f.n[kind]++; len(f.list) < maxProblems {
		f.list = append(f.list, fmt.Sprintf("%s:%d: %s", file, line, fmt.Sprintf(format, args...)))
	}
}

// err returns the listed faults as one error with a line for each, or nil if there
// are none.
func (f *faults) err() error {
	if len(f.list) == 0 {
		return nil
	}
	return errors.New(strings.Join(f.list, "\n"))
}

// counts returns the number of faults of each kind, as the rest of a message.
func (f *faults) counts() string {
	text, separator := "", ": "
	for kind, name := range [faultKinds]string{"missing", "answered twice", "foreign", "not an answer"} {
		if n := f.n[kind]; n > 0 {
			text += fmt.Sprintf("%s%d %s", separator, n, name)
			separator = ", "
		}
	}
	return text
}
