package httpretry

import (
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// goLiterals returns the string literals of the packages of the Go release in
// use whose errors the classifier knows by their text.
func goLiterals(t *testing.T) []string {
	t.Helper()
	root := build.Default.GOROOT
	if out, err := exec.Command("go", "env", "GOROOT").Output(); err == nil {
		root = strings.TrimSpace(string(out))
	}
	src := filepath.Join(root, "src")
	var literals []string
	for _, dir := range []string{"net/http", "net/textproto", "crypto/tls", "vendor/golang.org/x/net"} {
		err := filepath.WalkDir(filepath.Join(src, filepath.FromSlash(dir)), func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && d.Name() == "testdata":
				return fs.SkipDir
			case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
				return nil
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					if s, err := strconv.Unquote(lit.Value); err == nil {
						literals = append(literals, s)
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return literals
}

// occurs reports whether text is the beginning of a string that literals can
// form: of one of them, or of a format whose first verb stands for another.
func occurs(text string, literals []string) bool {
	begins := func(prefix string) bool {
		return slices.ContainsFunc(literals, func(l string) bool { return strings.HasPrefix(l, prefix) })
	}
	if begins(text) {
		return true
	}
	return slices.ContainsFunc(literals, func(l string) bool {
		before, _, isFormat := strings.Cut(l, "%")
		rest, ok := strings.CutPrefix(text, before)
		return isFormat && ok && len(before) >= len("http2: ") && begins(rest)
	})
}

// A Go release that rewords an error would change its verdict without notice.
func TestErrorText_OccursInGo(t *testing.T) {
	literals := goLiterals(t)
	if len(literals) < 1000 {
		t.Fatalf("got %d string literals, want those of net/http", len(literals))
	}
	texts := slices.Concat(malformed, unprocessed, canceled, socksRefusals, []string{
		socksReply, noPhrase, resetByPeer, cannotRetry, anyStreamError, refusedStreamName,
		malformedResponse, malformedStatus, malformedField, missingColon,
		"tls: ", "http: ", "net/http: ", "http2: ", "Bad Gateway",
	})
	for _, text := range texts {
		if !occurs(text, literals) {
			t.Errorf("no error of the Go release in use begins with %q", text)
		}
	}
}

// The test above notices a text that is gone.
func TestErrorText_NoticesWhatIsGone(t *testing.T) {
	literals := goLiterals(t)
	for _, text := range []string{
		"http2: Transport received GOAWAY from server ErrCode:NO_SUCH_CODE",
		"http2: client conn is not usable",
		"malformed HTTPS ",
		"connection not allowed by policy",
		"unknown error.",
	} {
		if occurs(text, literals) {
			t.Errorf("%q is said to occur", text)
		}
	}
}
