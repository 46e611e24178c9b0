package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A test is a binary that runs the tests of a mutation.
type test struct {
	mutation
	dir    string // of the package, absolute
	binary string
	number int // selects the mutation in the binary; 0: it has no other
}

// All mutations of a package's functions are compiled into one binary, because
// building takes longer than most tests. Each mutated function becomes several:
// f_0 is the original, f_7 that of mutation 7, and f calls the one that an
// environment variable selects.
const mutantEnv = "HTTPRETRY_MUTANT"

const selector = `package %s

import (
	"os"
	"strconv"
)

var mutant_, _ = strconv.Atoi(os.Getenv("` + mutantEnv + `"))
`

// buildTests builds the tests of the mutations, with their files below temp.
func buildTests(ctx context.Context, root, temp string, ms []mutation) ([]test, error) {
	tests := make([]test, len(ms))
	functions := map[string]map[int]mutation{} // by package and number
	for i, m := range ms {
		tests[i] = test{mutation: m, dir: filepath.Join(root, m.dir)}
		path, mutated, function, err := m.mutate(root)
		if err == nil && !function {
			tests[i].binary, err = compile(ctx, tests[i].dir, filepath.Join(temp, fmt.Sprint(i)), map[string][]byte{path: mutated})
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.promise, err)
		}
		if function {
			if functions[m.dir] == nil {
				functions[m.dir] = map[int]mutation{}
			}
			tests[i].number = i + 1
			functions[m.dir][i+1] = m
		}
	}
	for dir, ms := range functions {
		files, err := instrumentAll(filepath.Join(root, dir), ms)
		if err != nil {
			return nil, err
		}
		binary, err := compile(ctx, filepath.Join(root, dir), filepath.Join(temp, "all", dir), files)
		if err != nil {
			return nil, err
		}
		for n := range ms {
			tests[n-1].binary = binary
		}
	}
	return tests, nil
}

// compile compiles the tests of the package at dir with other contents of files.
// It writes to the new directory temp.
func compile(ctx context.Context, dir, temp string, files map[string][]byte) (binary string, err error) {
	if err := os.MkdirAll(temp, 0o755); err != nil {
		return "", err
	}
	replace := map[string]string{}
	for path, content := range files {
		replace[path] = filepath.Join(temp, filepath.Base(path))
		if err := os.WriteFile(replace[path], content, 0o644); err != nil {
			return "", err
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	name := filepath.Join(temp, "overlay.json")
	if err := os.WriteFile(name, overlay, 0o644); err != nil {
		return "", err
	}
	binary = filepath.Join(temp, "test.exe")
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-overlay", name, "-o", binary, ".")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("a mutation does not compile: %w\n%s", err, out)
	}
	return binary, nil
}

// instrumentAll returns the files of the package at dir with all of its mutations.
func instrumentAll(dir string, ms map[int]mutation) (map[string][]byte, error) {
	pkg, err := build.ImportDir(dir, 0)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{filepath.Join(dir, "mutant_.go"): fmt.Appendf(nil, selector, pkg.Name)}
	for _, name := range pkg.GoFiles {
		path := filepath.Join(dir, name)
		source, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if files[path], err = instrument(source, ms); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return files, nil
}

// instrument returns source with the functions for the mutations of ms.
func instrument(source []byte, ms map[int]mutation) ([]byte, error) {
	files := token.NewFileSet()
	f, err := parser.ParseFile(files, "", source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	offset := func(p token.Pos) int { return files.Position(p).Offset }
	var out bytes.Buffer
	done := 0
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		start, end := offset(fn.Pos()), offset(fn.End())
		name := [2]int{offset(fn.Name.Pos()) - start, offset(fn.Name.End()) - start}
		var numbers []int
		for n, m := range ms {
			if m.decl != funcName(fn) {
				continue
			}
			mutated, err := m.apply(source[start:end])
			if err != nil {
				return nil, err
			}
			if len(numbers) == 0 {
				out.Write(source[done:start])
				fmt.Fprintf(&out, "%s_0%s", source[start:start+name[1]], source[start+name[1]:end])
				done = end
			}
			numbers = append(numbers, n)
			// The compiler then names the mutation in its errors.
			fmt.Fprintf(&out, "\n\n//line %s:1\n%s_%d%s\n", m.promise, mutated[:name[1]], n, mutated[name[1]:])
		}
		if len(numbers) > 0 {
			text := func(n ast.Node) string { return string(source[offset(n.Pos()):offset(n.End())]) }
			out.WriteString(dispatcher(fn, numbers, text))
		}
	}
	out.Write(source[done:])
	return out.Bytes(), nil
}

// dispatcher returns a function in place of fn that calls one of its mutations.
func dispatcher(fn *ast.FuncDecl, numbers []int, text func(ast.Node) string) string {
	receiver, callee := "", fn.Name.Name
	if fn.Recv != nil {
		receiver, callee = "(r_ "+text(fn.Recv.List[0].Type)+") ", "r_."+callee
	}
	var params, args []string
	for _, field := range fn.Type.Params.List {
		for range max(len(field.Names), 1) {
			arg := fmt.Sprintf("p%d_", len(args))
			params = append(params, arg+" "+text(field.Type))
			if _, ok := field.Type.(*ast.Ellipsis); ok {
				arg += "..."
			}
			args = append(args, arg)
		}
	}
	results, call := "", "%s_%d(%s); return"
	if fn.Type.Results != nil {
		results, call = text(fn.Type.Results), "return %s_%d(%s)"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\nfunc %s%s(%s) %s {\n\tswitch mutant_ {\n", receiver, fn.Name.Name, strings.Join(params, ", "), results)
	for _, n := range numbers {
		fmt.Fprintf(&b, "\tcase %d:\n\t\t"+call+"\n", n, callee, n, strings.Join(args, ", "))
	}
	fmt.Fprintf(&b, "\tdefault:\n\t\t"+call+"\n\t}\n}\n", callee, 0, strings.Join(args, ", "))
	return b.String()
}
