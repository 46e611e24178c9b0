package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"
)

// A server is an HTTP server on loopback that counts its connections.
type server struct {
	*httptest.Server

	mu     sync.Mutex
	opened int
	open   map[net.Conn]bool
	gone   chan struct{} // closed while no connection is open
}

func newServer(h http.Handler) *server {
	s := &server{Server: httptest.NewUnstartedServer(h), open: map[net.Conn]bool{}, gone: make(chan struct{})}
	close(s.gone)
	s.Config.ConnState = s.note
	s.Start()
	return s
}

func (s *server) note(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case http.StateNew:
		s.opened++
		if len(s.open) == 0 {
			s.gone = make(chan struct{})
		}
		s.open[c] = true
	case http.StateClosed, http.StateHijacked:
		delete(s.open, c)
		if len(s.open) == 0 {
			close(s.gone)
		}
	}
}

// opens returns the number of connections that have been opened.
func (s *server) opens() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened
}

// leaked returns the number of connections that are still open after patience.
func (s *server) leaked(patience time.Duration) int {
	s.mu.Lock()
	gone := s.gone
	s.mu.Unlock()
	select {
	case <-gone:
	case <-time.After(patience):
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// stop closes the server and all connections, including active ones.
func (s *server) stop() {
	s.CloseClientConnections()
	s.Close()
}

// network returns a transport like [http.DefaultTransport], with a connection
// pool of its own and without a proxy.
func network() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil
	return t
}
