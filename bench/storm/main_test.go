package main

import (
	"os"
	"runtime/debug"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(gcPercent)
	goleak.VerifyTestMain(m)
}

// The figures of some scenarios are those of the page. All would take minutes.
func TestStorms_FiguresOfThePage(t *testing.T) {
	page := string(read(t, "../../docs/retry-storms.md"))
	for _, s := range []scenario{storms(1)[0], shedding(1)[2]} {
		t.Run(s.name, func(t *testing.T) {
			r := &report{1, map[string]result{s.name: s.run(t)}}
			rows := strings.Split(r.stormTable([]scenario{s}), "\n")
			if row := rows[len(rows)-1]; !strings.Contains(page, row) {
				t.Errorf("the page does not have the row %s: run go -C bench run ./storm", row)
			}
		})
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
