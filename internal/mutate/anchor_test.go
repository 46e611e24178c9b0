package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const anchored = `package p

import "io"

// limit is 3.
const limit = 3 // not 4

const (
	a, b = 1, 2
	c    = 1
)

var table = []int{1, 2}

type body struct{ max int }

type list[T any] struct{ next *list[T] }

// Read reads at most limit bytes.
func (b *body) Read(p []byte) (int, error) {
	if len(p) > limit {
		return limit, nil
	}
	return 0, io.EOF
}

func (b body) Close() error { return nil }

func (l *list[T]) Close() error { return nil }

func Read() int { return limit }

func twice() {}
func init() { twice() }
func init() { twice(); twice() }
`

// packageOf returns the directory of a package with source in one file and a
// declaration in another.
func packageOf(t *testing.T, source string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"a.go": source, "b.go": "package p\n\nfunc moved() {}\n", "b_test.go": "package p\n\nfunc moved() {}\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestMutation_ChangesTheNamedDeclaration(t *testing.T) {
	root := packageOf(t, anchored)
	tests := []struct {
		decl, old, new string
		want           string // what anchored then contains
	}{
		{"body.Read", "> limit", ">= limit", "if len(p) >= limit {"},
		{"body.Read", "func (b *body)", "func (b body)", "func (b body) Read(p"},
		{"Read", "limit", "0", "func Read() int { return 0 }"},
		{"body.Close", "nil", "io.EOF", "func (b body) Close() error { return io.EOF }"},
		{"list.Close", "nil", "io.EOF", "func (l *list[T]) Close() error { return io.EOF }"},
		{"limit", "3", "5", "const limit = 5 // not 4"},
		{"b", "1, 2", "1, 3", "a, b = 1, 3"},
		{"table", "1", "0", "[]int{0, 2}"},
		{"body", "max int", "max int64", "struct{ max int64 }"},
		{"list", "next", "prev", "struct{ prev *list[T] }"},
	}
	if path, got, _, err := (mutation{dir: ".", decl: "moved", old: "{}", new: "{ _ = 1 }"}).mutate(root); err != nil || filepath.Base(path) != "b.go" || !strings.Contains(string(got), "moved() { _ = 1 }") {
		t.Errorf("moved: got %s with %q and error %v, want it in b.go", path, got, err)
	}
	for _, tt := range tests {
		_, got, _, err := mutation{dir: ".", decl: tt.decl, old: tt.old, new: tt.new}.mutate(root)
		if err != nil || !strings.Contains(string(got), tt.want) {
			t.Errorf("%s: got error %v and\n%s\nwant it to contain %s", tt.decl, err, got, tt.want)
		}
		if want := len(anchored) + len(tt.new) - len(tt.old); len(got) != want {
			t.Errorf("%s: got %d bytes, want %d: nothing else may change", tt.decl, len(got), want)
		}
	}
}

func TestMutation_FailsIfItDoesNotFit(t *testing.T) {
	tests := []struct{ name, source, decl, old, want string }{
		{"no such function", anchored, "body.Write", "nil", "body.Write is declared 0 times in"},
		{"a method is not a function", anchored, "Close", "nil", "Close is declared 0 times in"},
		{"two declarations", anchored, "init", "twice", "init is declared 2 times in"},
		{"fragment missing", anchored, "body.Read", "< limit", `body.Read does not contain "< limit"`},
		{"fragment in the doc comment only", anchored, "body.Read", "at most", `body.Read does not contain "at most"`},
		{"fragment twice", anchored, "body.Read", "limit", `body.Read contains "limit" more than once`},
		{"no fragment", anchored, "body.Read", "", `body.Read does not contain ""`},
		{"not Go", "package p\n\nfunc f( {", "f", "x", "a.go: 3:9: expected"},
	}
	for _, tt := range tests {
		root := packageOf(t, tt.source)
		_, _, _, err := mutation{dir: ".", decl: tt.decl, old: tt.old, new: "x"}.mutate(root)
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: got error %v, want %s", tt.name, err, tt.want)
		}
	}
}
