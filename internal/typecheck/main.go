// Typecheck checks the types of packages for other platforms.
//
//	go run ./internal/typecheck -platforms windows/amd64,js/wasm . ./inference
//
// It reads the types of all dependencies from their source and generates no code.
// The go command would compile the standard library for each platform, which takes
// ten times as long. Test files are checked too, unless -test=false is given.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
)

func main() {
	platforms := flag.String("platforms", "", "operating systems and architectures, as GOOS/GOARCH, separated by commas")
	tests := flag.Bool("test", true, "check test files")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	failed := false
	for platform := range strings.SplitSeq(*platforms, ",") {
		if err := check(ctx, platform, *tests, flag.Args()); err != nil {
			fmt.Fprintf(os.Stderr, "typecheck: %s: %v\n", platform, err)
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
}

// check type-checks packages, given as arguments of the go command, for a platform.
func check(ctx context.Context, platform string, tests bool, packages []string) error {
	goos, goarch, ok := strings.Cut(platform, "/")
	sizes := types.SizesFor("gc", goarch)
	if !ok || sizes == nil {
		return errors.New("invalid platform: must be GOOS/GOARCH")
	}
	args := append([]string{"list", "-json", "-deps", fmt.Sprintf("-test=%t", tests), "--"}, packages...)
	list := exec.CommandContext(ctx, "go", args...)
	list.Env = append(os.Environ(), "GOOS="+goos, "GOARCH="+goarch, "CGO_ENABLED=0")
	list.Stderr = os.Stderr
	out, err := list.StdoutPipe()
	if err != nil {
		return err
	}
	if err := list.Start(); err != nil {
		return err
	}
	err = checkListed(out, sizes)
	if err != nil {
		list.Process.Kill() // it may be about to write the rest
	}
	return cmp.Or(err, list.Wait())
}

// A listedPackage is what go list says about a package.
type listedPackage struct {
	Dir        string
	ImportPath string
	GoFiles    []string
	ImportMap  map[string]string
	DepOnly    bool
	Module     struct{ GoVersion string } // zero for the standard library
}

// checkListed type-checks the packages that go list writes, dependencies first.
func checkListed(list io.Reader, sizes types.Sizes) error {
	fset := token.NewFileSet()
	checked := map[string]*types.Package{"unsafe": types.Unsafe}
	var errs []error
	for decoder := json.NewDecoder(list); ; {
		var p listedPackage
		switch err := decoder.Decode(&p); {
		case err == io.EOF:
			return errors.Join(errs...)
		case err != nil:
			return err
		case p.ImportPath == "unsafe", strings.HasSuffix(p.ImportPath, ".test"):
			continue // the go command generates the latter
		}
		var files []*ast.File
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			files = append(files, f)
		}
		config := types.Config{
			Importer: importer(func(path string) (*types.Package, error) {
				path = cmp.Or(p.ImportMap[path], path)
				if checked[path] == nil {
					return nil, fmt.Errorf("package %s is not listed before its importer", path)
				}
				return checked[path], nil
			}),
			// Bodies declare nothing that other packages see.
			IgnoreFuncBodies: p.DepOnly,
			GoVersion:        languageVersion(p.Module.GoVersion),
			Sizes:            sizes,
			Error:            func(err error) { errs = append(errs, err) },
		}
		path, _, _ := strings.Cut(p.ImportPath, " ") // "p [p.test]" is p with its test files
		checked[p.ImportPath], _ = config.Check(path, fset, files, nil)
	}
}

// languageVersion returns the version in a go.mod file as go/types expects it.
func languageVersion(version string) string {
	if version == "" {
		return ""
	}
	return "go" + version
}

// An importer is a [types.Importer].
type importer func(path string) (*types.Package, error)

func (i importer) Import(path string) (*types.Package, error) { return i(path) }
