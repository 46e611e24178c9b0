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

// mutate returns the path of the file below root that the mutation changes, its
// content with the mutation, and whether the declaration is that of a function.
func (m mutation) mutate(root string) (path string, mutated []byte, function bool, err error) {
	dir := filepath.Join(root, m.dir)
	pkg, err := build.ImportDir(dir, 0)
	if err != nil {
		return "", nil, false, err
	}
	var source []byte
	var spans []span
	for _, name := range pkg.GoFiles {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return "", nil, false, err
		}
		found, err := find(content, m.decl)
		if err != nil {
			return "", nil, false, fmt.Errorf("%s: %w", name, err)
		}
		if len(found) > 0 {
			path, source = filepath.Join(dir, name), content
			spans = append(spans, found...)
		}
	}
	if len(spans) != 1 {
		return "", nil, false, fmt.Errorf("%s is declared %d times in %s, want once", m.decl, len(spans), dir)
	}
	start, end := spans[0].start, spans[0].end
	mutated, err = m.apply(source[start:end])
	return path, slices.Concat(source[:start], mutated, source[end:]), spans[0].function, err
}

// A span is the place of a declaration in a file.
type span struct {
	start, end int // offsets
	function   bool
}

// apply returns the text of the declaration with the mutation.
func (m mutation) apply(decl []byte) ([]byte, error) {
	before, after, found := bytes.Cut(decl, []byte(m.old))
	if !found || m.old == "" {
		return nil, fmt.Errorf("%s does not contain %q", m.decl, m.old)
	}
	if bytes.Contains(after, []byte(m.old)) {
		return nil, fmt.Errorf("%s contains %q more than once", m.decl, m.old)
	}
	return slices.Concat(before, []byte(m.new), after), nil
}

// find returns the declarations of name in source, without their doc comments.
func find(source []byte, name string) ([]span, error) {
	files := token.NewFileSet()
	f, err := parser.ParseFile(files, "", source, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var found []span
	add := func(n ast.Node, function bool) {
		found = append(found, span{files.Position(n.Pos()).Offset, files.Position(n.End()).Offset, function})
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if funcName(d) == name {
				add(d, true)
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				if declares(s, name) {
					add(s, false)
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
