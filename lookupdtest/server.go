package lookupdtest

import (
	"context"
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"go.uber.org/atomic"
)

// A Server is an nsqlookupd in memory. Create it with [NewServer], [NewUnstartedServer],
// [Network.NewServer] or [Network.NewUnstartedServer]. Set its fields before the first
// Start and don't change them later. Methods may be called from any goroutine.
type Server struct {
	// TCPAddress and HTTPAddress are where Start listens, as host:port. If a port is
	// 0, Start chooses a free one and sets the field.
	TCPAddress, HTTPAddress string

	// BroadcastAddress, Hostname and Version are in the answer to IDENTIFY. Start sets
	// empty fields: BroadcastAddress to the host of TCPAddress, Hostname to the name
	// of the machine, or on a Network to the host of TCPAddress, and Version to
	// "1.3.0".
	BroadcastAddress, Hostname, Version string

	// InactiveProducerTimeout is how long /lookup and /nodes list a producer after its
	// last PING or IDENTIFY. 0 means the default of nsqlookupd, 300 s.
	InactiveProducerTimeout time.Duration

	// TombstoneLifetime is how long /lookup hides a tombstoned producer. 0 means the
	// default of nsqlookupd, 45 s.
	TombstoneLifetime time.Duration

	// KeepEphemeralTopics keeps the name of an ephemeral topic after its last producer
	// unregistered, as nsqlookupd before 1.2.0.
	KeepEphemeralTopics bool

	// TLS makes the TCP port use TLS, as for a lookupd behind a TLS proxy. It doesn't
	// affect HTTP.
	TLS *tls.Config

	// WrapHTTP wraps the handler of the HTTP API, for example to inject faults. It may
	// be nil.
	WrapHTTP func(http.Handler) http.Handler

	network *Network                    // nil: real TCP
	changed signal                      // after each change that Wait's condition may look at
	orders  atomic.Pointer[[]*standing] // a new slice for each change, made under mu

	lifecycle chan struct{} // capacity 1, full while Start, Stop or Close is at work
	running   *run          // nil when stopped; guarded by lifecycle
	closed    bool          // guarded by lifecycle

	mu    sync.Mutex // guards what follows and writing orders; held only for moments
	db    *database
	conns map[*conn]bool // nil when stopped
}

const (
	acceptPause   = time.Millisecond      // after a failed accept
	listenPause   = 10 * time.Millisecond // between attempts to listen
	listenTimeout = 10 * time.Second      // of all attempts
)

// run is what exists between Start and Stop.
type run struct {
	cancel     context.CancelFunc // ends the waits of those who dial
	tcp        net.Listener
	http       *http.Server
	goroutines sync.WaitGroup // everything that the run started; Stop waits for it
}

// NewServer returns a started server that listens on 127.0.0.1, at free ports. It panics
// if it can't listen, as net/http/httptest does.
func NewServer() *Server {
	s := NewUnstartedServer()
	s.Start()
	return s
}

// NewUnstartedServer is like [NewServer], but doesn't start the server, so that its
// fields can be set.
func NewUnstartedServer() *Server {
	return newServer(nil, "127.0.0.1:0", "127.0.0.1:0")
}

func newServer(n *Network, tcp, http string) *Server {
	return &Server{
		TCPAddress:  tcp,
		HTTPAddress: http,
		network:     n,
		lifecycle:   make(chan struct{}, 1),
		db:          newDatabase(),
	}
}

// made panics for a Server that no function of this package made.
func (s *Server) made() {
	if s.lifecycle == nil {
		panic("lookupdtest: a Server literal: make it with NewServer, NewUnstartedServer or those of a Network")
	}
}

// Start listens at the addresses of the server, with an empty database. It does nothing
// if the server is running. It panics if it can't listen, or after Close.
func (s *Server) Start() {
	s.made()
	s.lifecycle <- struct{}{}
	defer func() { <-s.lifecycle }()
	if s.closed {
		panic("lookupdtest: Start after Close")
	}
	if s.running != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	tcpListener, err := s.listen(&s.TCPAddress, func(dial context.Context) bool { return s.admit(dial, ctx) })
	if err != nil {
		cancel()
		panic("lookupdtest: can't listen, set TCPAddress to one that is free: " + err.Error())
	}
	httpListener, err := s.listen(&s.HTTPAddress, nil)
	if err != nil {
		cancel()
		tcpListener.Close()
		panic("lookupdtest: can't listen, set HTTPAddress to one that is free: " + err.Error())
	}
	r := &run{cancel: cancel, tcp: tcpListener}
	s.setDefaults()
	r.http = s.newHTTPServer(r)
	s.mu.Lock()
	s.db = newDatabase()
	s.conns = make(map[*conn]bool)
	s.mu.Unlock()
	r.goroutines.Go(func() { s.accept(r) })
	r.goroutines.Go(func() {
		r.http.Serve(httpListener)
		r.http.Close() // what was accepted while stop closed the others
	})
	s.running = r
	s.changed.fire()
}

// Stop closes the listeners and all connections and clears the database, like the end of
// an nsqlookupd process. When it returns, no goroutine of the server is left. Start
// starts the server again. Stop does nothing if the server is stopped.
func (s *Server) Stop() {
	s.made()
	s.lifecycle <- struct{}{}
	defer func() { <-s.lifecycle }()
	s.stop()
}

// Close stops the server for good. It may be called more than once.
func (s *Server) Close() {
	s.made()
	s.lifecycle <- struct{}{}
	defer func() { <-s.lifecycle }()
	s.closed = true
	s.stop()
}

// stop is called with lifecycle taken.
func (s *Server) stop() {
	r := s.running
	if r == nil {
		return
	}
	s.running = nil
	s.mu.Lock()
	conns := s.conns
	s.conns = nil // from here on accept takes no more
	s.db = newDatabase()
	s.mu.Unlock()
	r.cancel()
	r.tcp.Close()
	for c := range conns {
		c.abort()
	}
	r.http.Close()
	r.goroutines.Wait()
	s.changed.fire()
}

// CloseConnections resets all connections to the TCP port. New connections are accepted.
func (s *Server) CloseConnections() {
	s.made()
	s.mu.Lock()
	conns := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	for _, c := range conns {
		c.abort()
	}
}

// crash empties the database and resets the connections.
func (s *Server) crash() {
	s.mu.Lock()
	s.db = newDatabase()
	s.mu.Unlock()
	s.CloseConnections()
}

// accept is the goroutine that takes connections to the TCP port.
func (s *Server) accept(r *run) {
	for {
		raw, err := r.tcp.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(acceptPause) // the connection is gone already, or no descriptor is left for it
			continue
		}
		s.mu.Lock()
		if s.conns == nil {
			s.mu.Unlock()
			reset(raw)
			continue
		}
		c := newConn(s, s.db, raw)
		s.conns[c] = true
		s.mu.Unlock()
		s.changed.fire()
		r.goroutines.Go(func() {
			c.serve()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
			s.changed.fire()
		})
	}
}

// admit says whether a client on a Network may connect. It is called by the dialer's
// goroutine, and waits while an order holds it, but not after the server's run.
func (s *Server) admit(dial, run context.Context) bool {
	dial, cancel := context.WithCancel(dial)
	defer cancel()
	defer context.AfterFunc(run, cancel)()
	x := exchange{at: dialing, done: dial.Done()}
	s.pass(&x, goOn)
	return x.end == stays
}

// listen listens at *address and writes the address there that it got. A port that
// was chosen by the system for an earlier Start can be in use for a moment, as the
// near end of someone's connection: that is waited for.
func (s *Server) listen(address *string, admit func(context.Context) bool) (net.Listener, error) {
	if s.network != nil {
		return s.network.listen(*address, admit)
	}
	for started := time.Now(); ; time.Sleep(listenPause) {
		l, err := net.Listen("tcp", *address)
		if errors.Is(err, syscall.EADDRINUSE) && time.Since(started) < listenTimeout {
			continue
		}
		if err == nil && l.Addr().String() != *address { // a restart writes nothing that others may read
			*address = l.Addr().String()
		}
		return l, err
	}
}

// setDefaults fills in the fields that are empty.
func (s *Server) setDefaults() {
	host, _, _ := net.SplitHostPort(s.TCPAddress)
	if s.BroadcastAddress == "" {
		s.BroadcastAddress = host
	}
	if s.Hostname == "" {
		s.Hostname = host
		if name, err := os.Hostname(); err == nil && s.network == nil {
			s.Hostname = name
		}
	}
	if s.Version == "" {
		s.Version = "1.3.0"
	}
	if s.InactiveProducerTimeout == 0 {
		s.InactiveProducerTimeout = 300 * time.Second
	}
	if s.TombstoneLifetime == 0 {
		s.TombstoneLifetime = 45 * time.Second
	}
}

// portOf returns the port of an address that was listened at.
func portOf(address string) int {
	_, port, _ := net.SplitHostPort(address)
	n, _ := strconv.Atoi(port)
	return n
}
