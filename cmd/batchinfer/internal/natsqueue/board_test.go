package natsqueue

import (
	"fmt"
	"testing"
	"time"

	"github.com/httpretry/httpretry/cmd/batchinfer/internal/queue"
)

// next returns the next entry of a board.
func next(t *testing.T, entries <-chan queue.Entry) queue.Entry {
	t.Helper()
	select {
	case e := <-entries:
		return e
	case <-time.After(time.Minute):
		t.Fatal("no entry within a minute")
		return queue.Entry{}
	}
}

func put(t *testing.T, b queue.Board, key, value string) uint64 {
	t.Helper()
	revision, err := b.Put(within(t, time.Minute), key, []byte(value))
	if err != nil {
		t.Fatalf("Put(%s): %v", key, err)
	}
	return revision
}

func TestBoard_WatchSendsValuesAndChanges(t *testing.T) {
	t.Parallel()
	_, b := start(t)
	board := b.Board()
	if err := board.Delete(t.Context(), "group.none"); err != nil {
		t.Errorf("Delete without a board: %v", err)
	}
	first := put(t, board, "group.a", "1")
	put(t, board, "group2.a", "other")
	if second := put(t, board, "group.b", "2"); second <= first {
		t.Errorf("revisions %d, %d: want them to grow", first, second)
	}
	entries, err := board.Watch(t.Context(), "group.")
	if err != nil {
		t.Fatal(err)
	}
	if e := next(t, entries); e.Key != "group.a" || string(e.Value) != "1" || e.Revision != first {
		t.Errorf("entry = %+v", e)
	}
	if e := next(t, entries); e.Key != "group.b" {
		t.Errorf("entry = %+v", e)
	}
	last := put(t, board, "group.a", "")
	if e := next(t, entries); e.Key != "group.a" || e.Value == nil || len(e.Value) > 0 || e.Revision != last {
		t.Errorf("entry = %+v: want an empty value", e)
	}
	if err := board.Delete(t.Context(), "group.a"); err != nil {
		t.Fatal(err)
	}
	if e := next(t, entries); e.Key != "group.a" || e.Value != nil || e.Revision <= last {
		t.Errorf("entry = %+v: want a removal", e)
	}
}

func TestBoard_WatchSurvivesLossOfDisk(t *testing.T) {
	t.Parallel()
	s, b := start(t)
	board := b.Board()
	entries, err := board.Watch(t.Context(), "group.")
	if err != nil {
		t.Fatal(err)
	}
	revision := put(t, board, "group.a", "1")
	put(t, board, "group.b", "1")
	next(t, entries)
	next(t, entries)
	s.loseDisk(t)
	for i := range 3 {
		r := put(t, board, "group.b", fmt.Sprint(i))
		if r <= revision {
			t.Errorf("revision %d after the loss of the disk: want more than %d", r, revision)
		}
		revision = r
	}
	removed, changed := false, false
	for !removed || !changed {
		e := next(t, entries)
		removed = removed || e.Key == "group.a" && e.Value == nil
		changed = changed || e.Key == "group.b" && e.Revision == revision
	}
}
