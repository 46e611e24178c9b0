//go:build nginx

package compat_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/httpretry/httpretry"
)

// nginxConfig is for one process that serves prefix/html at 8 MiB/s.
const nginxConfig = `
daemon off;
master_process off;
pid %[1]s/nginx.pid;
error_log stderr crit;
events {}
http {
	access_log off;
	types {}
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server {
		listen %[2]s;
		root %[1]s/html;
		limit_rate 8m;
		location /dated/ {
			alias %[1]s/html/;
			etag off;
		}
	}
}
`

// An nginx is a server on loopback with a directory of its own.
type nginx struct {
	t      *testing.T
	addr   string
	prefix string
	cmd    *exec.Cmd // nil while it is dead
}

// newNginx starts an nginx that serves the file "large", of size bytes, and
// returns its SHA-256.
func newNginx(t *testing.T, size int64) (*nginx, [sha256.Size]byte) {
	t.Helper()
	n := &nginx{t: t, prefix: t.TempDir(), addr: freeAddr(t)}
	if err := os.Mkdir(filepath.Join(n.prefix, "html"), 0o755); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(n.prefix, "html", "large")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(f, hash), rand.NewChaCha8([32]byte{1}), size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	// A file that was changed just now may change again within the second.
	hourAgo := time.Now().Add(-time.Hour)
	if err := os.Chtimes(name, hourAgo, hourAgo); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(nginxConfig, n.prefix, n.addr)
	if err := os.WriteFile(filepath.Join(n.prefix, "nginx.conf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	n.start()
	t.Cleanup(n.kill)
	return n, [sha256.Size]byte(hash.Sum(nil))
}

// freeAddr is an address that nobody listens to at the moment.
func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func (n *nginx) start() {
	n.t.Helper()
	path, err := exec.LookPath("nginx")
	if err != nil {
		path = "/usr/sbin/nginx" // Debian's, which is not on everybody's PATH
	}
	n.cmd = exec.Command(path, "-p", n.prefix, "-c", "nginx.conf", "-e", "stderr")
	n.cmd.Stderr = os.Stderr
	if err := n.cmd.Start(); err != nil {
		n.t.Fatalf("starting nginx (Debian: apt-get install nginx-light): %v", err)
	}
}

// kill ends nginx as a power failure would.
func (n *nginx) kill() {
	if n.cmd != nil {
		n.cmd.Process.Signal(syscall.SIGKILL)
		n.cmd.Wait()
		n.cmd = nil
	}
}

// nginx dies three times in the middle of a download, and comes back at the
// same address. The download survives that, by its ETag or its date.
func TestNginxKilled(t *testing.T) {
	const size, deaths = 12 << 20, 3
	n, want := newNginx(t, size)
	for _, path := range []string{"/large", "/dated/large"} {
		t.Run(path, func(t *testing.T) {
			tr := &http.Transport{}
			defer tr.CloseIdleConnections()
			var breaks, refused int
			client := &http.Client{Transport: &httpretry.RetryTransport{
				Base:            tr,
				ResumeDownloads: true,
				Policy:          httpretry.RetryConfig{MaxRetries: 200, InitialBackoff: 20 * time.Millisecond, BackoffFactor: 1},
				OnAttempt: func(a httpretry.Attempt, d httpretry.Decision) {
					switch {
					case errors.Is(a.Err, syscall.ECONNREFUSED):
						if refused++; n.cmd == nil {
							n.start()
						}
					case a.Err != nil:
						breaks++
					}
				},
			}}
			resp, err := client.Get("http://" + n.addr + path)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if dated := resp.Header.Get("ETag") == ""; dated != (path != "/large") {
				t.Fatalf("got ETag %q for %s", resp.Header.Get("ETag"), path)
			}
			hash := sha256.New()
			for range deaths {
				if _, err := io.CopyN(hash, resp.Body, size/(deaths+1)); err != nil {
					t.Fatal(err)
				}
				n.kill()
			}
			_, err = io.Copy(hash, resp.Body)
			if err != nil || [sha256.Size]byte(hash.Sum(nil)) != want {
				t.Errorf("got error %v and SHA-256 %x, want the file's %x", err, hash.Sum(nil), want)
			}
			if breaks < deaths || refused < deaths {
				t.Errorf("%d breaks and %d refused connections, want at least %d of each: else this tests nothing", breaks, refused, deaths)
			}
		})
	}
}

// The file is another one when nginx comes back: the download ends with the
// error that it broke off with, and has no byte of the other.
func TestNginxWithAnotherFile(t *testing.T) {
	const size = 4 << 20
	n, _ := newNginx(t, size)
	name := filepath.Join(n.prefix, "html", "large")
	before, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: &httpretry.RetryTransport{Base: tr, ResumeDownloads: true}}
	resp, err := client.Get("http://" + n.addr + "/large")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got := make([]byte, 1<<20)
	if _, err := io.ReadFull(resp.Body, got); err != nil {
		t.Fatal(err)
	}
	n.kill()
	if err := os.WriteFile(name, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	n.start()
	rest, err := io.ReadAll(resp.Body)
	got = append(got, rest...)
	if err == nil || len(got) == size || string(got) != string(before[:len(got)]) {
		t.Errorf("got %d bytes and error %v, want less than the %d of the first file and an error", len(got), err, size)
	}
}
