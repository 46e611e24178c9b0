package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// build makes the binary and returns its name.
func build(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "batchinfer")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-C", "../cmd/batchinfer", "-o", name, ".")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return name
}

// The lines of the Dockerfile agree with each other and with the module. The image has
// no libraries, so the binary must be static.
func TestDockerfile(t *testing.T) {
	text, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	module, err := os.ReadFile("../cmd/batchinfer/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^go (1\.\d+)`).FindSubmatch(module)
	if m == nil {
		t.Fatal("go.mod has no version of Go")
	}
	for _, line := range []string{
		"FROM golang:" + string(m[1]) + " AS build",
		"RUN CGO_ENABLED=0 go build -C cmd/batchinfer -ldflags=-s -o /batchinfer .",
		"COPY --from=build /batchinfer /usr/local/bin/batchinfer",
		`ENTRYPOINT ["/usr/local/bin/batchinfer"]`,
	} {
		if !strings.Contains(string(text), "\n"+line+"\n") {
			t.Errorf("the Dockerfile does not have the line\n%s", line)
		}
	}
}
