package main

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":           "module example.com/m\n\ngo 1.21\n",
		"m.go":             "package m\n\nimport \"errors\"\n\nvar _ = errors.New\n\nfunc F() int { return f() }\n",
		"f_linux.go":       "package m\n\nfunc f() int { return 1 }\n",
		"f_darwin.go":      "package m\n\nfunc f() int { return \"1\" }\n",
		"f_js.go":          "package m\n\nfunc f() int { return 1 << 31 }\n",
		"f_windows.go":     "package m\n\nimport \"example.com/m/sub\"\n\nfunc f() int { return sub.N }\n",
		"m_test.go":        "package m\n\nvar G = F\n",
		"x_test.go":        "package m_test\n\nimport \"example.com/m\"\n\nvar _ = m.G\n",
		"x_plan9_test.go":  "package m_test\n\nfunc _() { missing() }\n",
		"f_netbsd.go":      "package m\n\nfunc f() (n int) {\n\tfor range 3 {\n\t\tn++\n\t}\n\treturn n\n}\n",
		"big_linux_386.go": "package m\n\nconst big int = 1 << 31\n",
		"sub/n.go":         "package sub\n\nconst N = 1\n",
		"sub/n_386.go":     "package sub\n\nfunc _() { missing() }\n",
		"sub/n_openbsd.go": "package sub\n\nconst N = 2\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	t.Setenv("GOWORK", "off")
	t.Setenv("GOFLAGS", "")
	for _, test := range []struct {
		platform, reason string
		packages         string // "": all
		withoutTests     bool
		want             string // part of the error; "": none
	}{
		{platform: "linux/amd64", reason: "all is well"},
		{platform: "windows/amd64", reason: "it imports a package of the module"},
		{platform: "darwin/arm64", reason: "a file for the platform", want: "f_darwin.go:3:23: cannot use \"1\""},
		{platform: "js/wasm", reason: "int has 64 bits"},
		{platform: "linux/386", reason: "int has 32 bits", want: "(overflows)"},
		{platform: "windows/386", reason: "a function of a dependency is not checked", packages: "."},
		{platform: "netbsd/amd64", reason: "a range over an integer needs a later version than that of go.mod", want: "requires go1.22"},
		{platform: "freebsd/amd64", reason: "a file is missing", want: "m.go:7:23: undefined: f"},
		{platform: "plan9/amd64", reason: "a test file for the platform", want: "undefined: missing"},
		{platform: "plan9/amd64", reason: "a file is missing", withoutTests: true, want: "undefined: f"},
		{platform: "openbsd/amd64", reason: "a dependency", want: "N redeclared"},
		{platform: "linux", reason: "no architecture", want: "must be GOOS/GOARCH"},
		{platform: "linux/pdp11", reason: "no such architecture", want: "must be GOOS/GOARCH"},
	} {
		err := check(t.Context(), test.platform, !test.withoutTests, []string{cmp.Or(test.packages, "./...")})
		switch {
		case err == nil && test.want != "":
			t.Errorf("%s (%s): got no error, want one with %q", test.platform, test.reason, test.want)
		case err != nil && (test.want == "" || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s (%s): got error %q, want %q", test.platform, test.reason, err, test.want)
		}
		if test.withoutTests && err != nil && strings.Contains(err.Error(), "undefined: missing") {
			t.Errorf("%s: a test file is checked: %v", test.platform, err)
		}
	}
}
