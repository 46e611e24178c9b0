package natsqueue

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// embeddedMaxPayload is the size of the largest message that a server within the process
// accepts. Larger payloads become objects, which cost more.
const embeddedMaxPayload = 8 << 20

// A Server is a server within the process. It is alone: its jobs have one replica.
type Server struct {
	server  *server.Server
	address *net.TCPAddr
	dir     string
	made    bool // no earlier server has used the directory
}

// Serve starts a server that listens on an address such as ":4222", and keeps its
// streams in a directory, which must be empty, missing or that of an earlier server.
// Credentials, those of [Options], must not be a file. If they are empty, everyone who
// reaches the address can use the queue. If Serve fails, it leaves no files.
func Serve(address, dir, credentials string) (*Server, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("address of the queue: %w", err)
	}
	if strings.HasSuffix(credentials, ".creds") {
		return nil, errors.New("a queue within the process can't use a file of credentials: set queue_credentials to a user and a password, user:password")
	}
	if host == "" {
		address = server.DEFAULT_HOST + address
	}
	// A server that can't listen only logs it, and continues.
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	s := &Server{address: l.Addr().(*net.TCPAddr), dir: dir}
	l.Close()
	if err := s.makeDir(); err != nil {
		s.Discard()
		return nil, fmt.Errorf("directory of the queue: %w", err)
	}
	if err := s.start(credentials); err != nil {
		s.Discard()
		return nil, fmt.Errorf("the queue at %s with its files in %s does not start: %w", address, dir, err)
	}
	return s, nil
}

// start starts the server and waits until it is ready.
func (s *Server) start(credentials string) error {
	o := &server.Options{
		ServerName: "batchinfer",
		Host:       s.host(),
		Port:       s.address.Port,
		JetStream:  true,
		StoreDir:   s.dir,
		MaxPayload: embeddedMaxPayload,
		NoSigs:     true,
		NoLog:      true,
	}
	if user, password, ok := strings.Cut(credentials, ":"); ok {
		o.Username, o.Password = user, password
	} else {
		o.Authorization = credentials
	}
	var err error
	if s.server, err = server.NewServer(o); err != nil {
		return err
	}
	s.server.Start()
	switch {
	case !s.server.ReadyForConnections(10 * time.Second):
		return errors.New("it is not ready after 10 seconds")
	case !s.server.JetStreamEnabled():
		return errors.New("it can't use the directory")
	}
	return nil
}

// host returns the address that the server listens on, without the port.
func (s *Server) host() string {
	host, _, _ := net.SplitHostPort(s.address.String())
	return host
}

// markName is the name of the file that marks the directory of a server.
const markName = ".batchinfer-queue"

// makeDir makes and marks the directory of the server. It fails if the directory has
// files, and is not that of an earlier server.
func (s *Server) makeDir() error {
	mark := filepath.Join(s.dir, markName)
	if _, err := os.Stat(mark); err == nil {
		return nil
	}
	entries, err := os.ReadDir(s.dir)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case len(entries) > 0:
		return fmt.Errorf("%s has files that are not those of a queue: remove it, or rename it", s.dir)
	}
	s.made = true
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(mark, nil, 0o600)
}

// Remove ends the server and removes its files, and the directory if it has no others.
func (s *Server) Remove() error {
	s.Close()
	// The mark is the last, so that a later server can use the directory if this fails.
	for _, name := range []string{server.JetStreamStoreDir, markName} {
		if err := os.RemoveAll(filepath.Join(s.dir, name)); err != nil {
			return err
		}
	}
	os.Remove(s.dir) // fails if the directory has files of others
	return nil
}

// URL returns the URL of the server for its own process.
func (s *Server) URL() string { return ownURL(s.address) }

// ownURL returns the URL at which a process reaches its server that listens on an
// address.
func ownURL(a *net.TCPAddr) string {
	own := *a
	switch {
	case !a.IP.IsUnspecified():
	case a.IP.To4() != nil:
		own.IP = net.IPv4(127, 0, 0, 1)
	default:
		own.IP = net.IPv6loopback
	}
	u := url.URL{Scheme: "nats", Host: own.String()}
	return u.String()
}

// Close ends the server. Its files stay.
func (s *Server) Close() {
	if s.server != nil {
		s.server.Shutdown()
		s.server.WaitForShutdown()
	}
}

// Discard ends the server and removes its files, unless an earlier server left some.
func (s *Server) Discard() {
	s.Close()
	if s.made {
		s.Remove()
	}
}
