package natsqueue

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The process dials the address that its server listens on.
func TestServe_DialsItsAddress(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"", "127.0.0.1", "127.0.0.2", "0.0.0.0", "localhost", "[::1]", "[::]"} {
		t.Run(host, func(t *testing.T) {
			l, err := net.Listen("tcp", host+":0")
			if err != nil { // the machine has no such address
				t.Logf("not tested: %v", err)
				return
			}
			l.Close()
			s, err := Serve(host+":0", t.TempDir(), "")
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			b, err := dial(t.Context(), Options{URL: s.URL()})
			if err != nil {
				t.Fatalf("%s: %v", s.URL(), err)
			}
			b.Close()
		})
	}
}

func TestOwnURL(t *testing.T) {
	for address, want := range map[string]string{
		"0.0.0.0:4222":        "nats://127.0.0.1:4222",
		"[::]:4222":           "nats://[::1]:4222",
		"192.0.2.2:4222":      "nats://192.0.2.2:4222",
		"[2001:db8::1]:4222":  "nats://[2001:db8::1]:4222",
		"[fe80::1%eth0]:4222": "nats://[fe80::1%25eth0]:4222",
	} {
		a, err := net.ResolveTCPAddr("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if got := ownURL(a); got != want {
			t.Errorf("%s: got %s, want %s", address, got, want)
		}
	}
}

// A server that does not start leaves no directory.
func TestServe_FailureLeavesNothing(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, args := range map[string][2]string{
		"a port in use":         {l.Addr().String(), ""},
		"a file of credentials": {"127.0.0.1:0", "a.creds"},
		"another machine":       {"192.0.2.1:0", ""},
	} {
		dir := filepath.Join(t.TempDir(), "out.queue")
		if s, err := Serve(args[0], dir, args[1]); err == nil {
			s.Close()
			t.Errorf("%s: Serve succeeded", name)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: the directory is still there", name)
		}
	}
}

// A server uses no directory of others, and removes no file that is not its own.
func TestServer_KeepsFilesOfOthers(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "out.queue")
	other := filepath.Join(dir, "a.txt")
	write := func() {
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(other, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write()
	if s, err := Serve("127.0.0.1:0", dir, ""); err == nil || !strings.Contains(err.Error(), "has files that are not those of a queue") {
		t.Errorf("a directory of others: got %v, %v, want an error", s, err)
	}
	if entries, err := os.ReadDir(dir); len(entries) != 1 || err != nil {
		t.Errorf("got the files %v, %v, want a.txt alone", entries, err)
	}
	os.Remove(other)
	for _, others := range []bool{true, false} {
		for range 2 { // the second one continues the first
			s, err := Serve("127.0.0.1:0", dir, "")
			if err != nil {
				t.Fatal(err)
			}
			s.Close()
		}
		if others {
			write()
		}
		s, err := Serve("127.0.0.1:0", dir, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
		entries, err := os.ReadDir(dir)
		if others && (len(entries) != 1 || err != nil) || !others && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("files of others: %v: got %v, %v", others, entries, err)
		}
		os.Remove(other)
	}
}
