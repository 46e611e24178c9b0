//go:build nginx

package compat_test

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
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
		location /signed/ {
			alias %[1]s/html/;
			secure_link $arg_md5,$arg_expires;
			secure_link_md5 "$secure_link_expires$uri secret";
			if ($secure_link != "1") {
				return 410;
			}
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

// A signed URL of nginx expires while nginx is dead. The hub, which requires
// credentials that nginx must not get, is asked for another one.
func TestNginxSignedURL(t *testing.T) {
	const size = 4 << 20
	n, want := newNginx(t, size)
	var expires []time.Time // of all URLs
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			t.Errorf("the hub got Authorization %q, want the caller's", r.Header.Get("Authorization"))
		}
		end := time.Now().Truncate(time.Second).Add(2 * time.Second) // valid at the last second before it
		expires = append(expires, end)
		sum := md5.Sum(fmt.Appendf(nil, "%d/signed/large secret", end.Unix()-1))
		http.Redirect(w, r, fmt.Sprintf("http://%s/signed/large?md5=%s&expires=%d",
			n.addr, base64.RawURLEncoding.EncodeToString(sum[:]), end.Unix()-1), http.StatusFound)
	}))
	defer hub.Close()
	tr := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == "hub.example:80" {
			addr = hub.Listener.Addr().String()
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	defer tr.CloseIdleConnections()
	rejected := 0
	base := roundTripFunc(func(req *http.Request) (*http.Response, error) {
		if req.URL.Host == n.addr && req.Header.Get("Authorization") != "" {
			t.Error("nginx got the credentials of the hub")
		}
		resp, err := tr.RoundTrip(req)
		if err == nil && resp.StatusCode == http.StatusGone {
			rejected++
		}
		return resp, err
	})
	client := &http.Client{Transport: &httpretry.RetryTransport{Base: base, ResumeDownloads: true}}
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://hub.example/large", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer secret")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	hash := sha256.New()
	if _, err := io.CopyN(hash, resp.Body, size/2); err != nil {
		t.Fatal(err)
	}
	n.kill()
	time.Sleep(time.Until(expires[0])) // nginx measures in seconds
	n.start()
	_, err = io.Copy(hash, resp.Body)
	if err != nil || [sha256.Size]byte(hash.Sum(nil)) != want {
		t.Errorf("got error %v and SHA-256 %x, want the file's %x", err, hash.Sum(nil), want)
	}
	if rejected != 1 || len(expires) != 2 {
		t.Errorf("%d rejections and %d requests to the hub, want 1 and 2", rejected, len(expires))
	}
}
