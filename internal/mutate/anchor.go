package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
)

// apply returns source with the mutation.
func (m mutation) apply(source []byte) ([]byte, error) {
	start, end, err := find(source, m.decl)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.file, err)
	}
	before, after, found := bytes.Cut(source[start:end], []byte(m.old))
	if !found || m.old == "" {
		return nil, fmt.Errorf("%s: %s does not contain %q", m.file, m.decl, m.old)
	}
	if bytes.Contains(after, []byte(m.old)) {
		return nil, fmt.Errorf("%s: %s contains %q more than once", m.file, m.decl, m.old)
	}
	return slices.Concat(source[:start], before, []byte(m.new), after, source[end:]), nil
}

// find returns the offsets in source of the only declaration of name, without
// its doc comment.
func find(source []byte, name string) (start, end int, err error) {
	files := token.NewFileSet()
	f, err := parser.ParseFile(files, "", source, parser.SkipObjectResolution)
	if err != nil {
		return 0, 0, err
	}
	var found []ast.Node
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if funcName(d) == name {
				found = append(found, d)
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				if declares(s, name) {
					found = append(found, s)
				}
			}
		}
	}
	if len(found) != 1 {
		return 0, 0, fmt.Errorf("%s is declared %d times, want once", name, len(found))
	}
	return files.Position(found[0].Pos()).Offset, files.Position(found[0].End()).Offset, nil
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
