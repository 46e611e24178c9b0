package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
)

// mutate returns the path of the file below root that the mutation changes, and
// its content with the mutation.
func (m mutation) mutate(root string) (path string, mutated []byte, err error) {
	dir := filepath.Join(root, m.dir)
	pkg, err := build.ImportDir(dir, 0)
	if err != nil {
		return "", nil, err
	}
	var source []byte
	var spans []span
	for _, name := range pkg.GoFiles {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return "", nil, err
		}
		found, err := find(content, m.decl)
		if err != nil {
			return "", nil, fmt.Errorf("%s: %w", name, err)
		}
		if len(found) > 0 {
			path, source = filepath.Join(dir, name), content
			spans = append(spans, found...)
		}
	}
	if len(spans) != 1 {
		return "", nil, fmt.Errorf("%s is declared %d times in %s, want once", m.decl, len(spans), dir)
	}
	mutated, err = m.apply(source, spans[0])
	return path, mutated, err
}

// A span is a pair of offsets in a file.
type span struct{ start, end int }

// apply returns source with the mutation of the declaration at s.
func (m mutation) apply(source []byte, s span) ([]byte, error) {
	before, after, found := bytes.Cut(source[s.start:s.end], []byte(m.old))
	if !found || m.old == "" {
		return nil, fmt.Errorf("%s does not contain %q", m.decl, m.old)
	}
	if bytes.Contains(after, []byte(m.old)) {
		return nil, fmt.Errorf("%s contains %q more than once", m.decl, m.old)
	}
	return slices.Concat(source[:s.start], before, []byte(m.new), after, source[s.end:]), nil
}

// find returns the declarations of name in source, without their doc comments.
func find(source []byte, name string) ([]span, error) {
	files := token.NewFileSet()
	f, err := parser.ParseFile(files, "", source, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var found []span
	add := func(n ast.Node) {
		found = append(found, span{files.Position(n.Pos()).Offset, files.Position(n.End()).Offset})
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if funcName(d) == name {
				add(d)
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				if declares(s, name) {
					add(s)
				}
			}
		}
	}
	return found, nil
}

// funcName returns f for a function and T.m for a method of T or *T.
func funcName(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return f.Name.Name
	}
	t := ast.Unparen(f.Recv.List[0].Type)
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	if generic, ok := t.(*ast.IndexExpr); ok {
		t = generic.X
	}
	if id, ok := t.(*ast.Ident); ok {
		return id.Name + "." + f.Name.Name
	}
	return f.Name.Name
}

func declares(s ast.Spec, name string) bool {
	switch s := s.(type) {
	case *ast.ValueSpec:
		return slices.ContainsFunc(s.Names, func(id *ast.Ident) bool { return id.Name == name })
	case *ast.TypeSpec:
		return s.Name.Name == name
	}
	return false
}
