package lookupdtest

import (
	"context"
	"fmt"
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

// A Network is a TCP network in memory. Servers listen on it at any name. Clients connect
// with [Network.Dial] and [Network.Client], and look up names with LookupNetIP and
// LookupSRV. All methods may be called from any goroutine.
//
// A Network works in the virtual time of testing/synctest, including latency and
// deadlines. Create it inside the bubble.
//
// Connections behave like TCP connections where a test could see a difference. They have
// a buffer in each direction. Data that was written before an orderly close can still be
// read. A close with unread input, or input that arrives after the close, resets the
// connection, so the other side loses what it has not read yet. Each connection has its
// own RemoteAddr.
type Network struct {
	latency   atomic.Duration // one way
	bandwidth atomic.Int64    // bytes per second and direction; 0: no limit
	buffer    atomic.Int64    // bytes per direction
	healed    signal          // when a partition ends

	mu         sync.Mutex // guards what follows; taken before a stream's mutex
	listeners  map[string]*listener
	links      map[*link]bool // open connections
	partitions []*partition
	clients    int                  // how many there have been
	hosts      []string             // those of all servers that were made; the place gives the IP address
	addresses  map[string]bool      // of all servers that were made
	names      map[string][]string  // by SetHosts
	services   map[string][]net.SRV // by SetSRV
}

// link is a connection with its two ends.
type link struct {
	server string // the address that was dialled
	a, b   *endpointConn
	closed int // ends that are; guarded by Network.mu
}

type partition struct{ hosts []string }

const defaultBuffer = 64 << 10

// NewNetwork returns a network without latency, with a buffer of 64 KiB in each direction
// of a connection.
func NewNetwork() *Network {
	n := &Network{
		listeners: make(map[string]*listener),
		links:     make(map[*link]bool),
		addresses: make(map[string]bool),
		names:     make(map[string][]string),
		services:  make(map[string][]net.SRV),
	}
	n.buffer.Store(defaultBuffer)
	return n
}

// made panics for a Network that NewNetwork didn't make.
func (n *Network) made() {
	if n.listeners == nil {
		panic("lookupdtest: a Network literal: make it with NewNetwork")
	}
}

// NewServer returns a started server. Its TCP port is at addr, such as
// "lookupd.test:4160", and its HTTP port is the next one. It panics if addr is not an
// address or is in use.
func (n *Network) NewServer(addr string) *Server {
	s := n.NewUnstartedServer(addr)
	s.Start()
	return s
}

// NewUnstartedServer is like NewServer, but doesn't start the server, so that its fields
// can be set.
func (n *Network) NewUnstartedServer(addr string) *Server {
	n.made()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		panic("lookupdtest: " + err.Error())
	}
	number, err := strconv.Atoi(port)
	if err != nil || number < 1 || number > 65534 {
		panic(fmt.Sprintf("lookupdtest: address %s: the port must be from 1 to 65534, and HTTP gets the next one", addr))
	}
	http := net.JoinHostPort(host, strconv.Itoa(number+1))
	n.mu.Lock()
	defer n.mu.Unlock()
	n.know(addr)
	n.know(http)
	return newServer(n, addr, http)
}

// Client returns an HTTP client whose requests use the network. It doesn't keep
// connections open.
func (n *Network) Client() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: n.Dial, DisableKeepAlives: true}}
}

// SetLatency sets how long data takes from one side to the other, from now on.
func (n *Network) SetLatency(d time.Duration) { n.latency.Store(d) }

// SetBandwidth sets how many bytes per second pass in each direction of a connection; 0
// means no limit.
func (n *Network) SetBandwidth(bytesPerSecond int) { n.bandwidth.Store(int64(bytesPerSecond)) }

// SetBuffer sets how many bytes can be sent but unread in each direction of a connection
// before a write blocks, at least 1. Bytes that are already there stay.
func (n *Network) SetBuffer(bytes int) { n.buffer.Store(int64(max(1, bytes))) }

// Partition blocks all traffic to and from the given servers, until heal is called. Name
// a server by its address ("lookupd.test:4160") or its host ("lookupd.test"). Without any
// name, all servers are cut off. What is sent meanwhile, including the end of a
// connection, arrives after heal was called for all partitions that apply. Dial waits.
// heal may be called more than once. Partition panics if there is no such server.
func (n *Network) Partition(addr ...string) (heal func()) {
	p := &partition{hosts: slices.Clone(addr)}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mustKnow("Partition", addr...)
	n.partitions = append(n.partitions, p)
	n.stallLinks()
	return sync.OnceFunc(func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.partitions = slices.DeleteFunc(n.partitions, func(other *partition) bool { return other == p })
		n.stallLinks()
		n.healed.fire()
	})
}

// Reset resets the connections to the given servers, or all connections if none is given.
// Servers are named as for Partition. Both sides lose what they have not read. Reset
// panics if there is no such server.
func (n *Network) Reset(addr ...string) {
	for _, l := range n.linksTo(addr) {
		l.a.breakOff()
		l.b.breakOff()
	}
}

func (n *Network) linksTo(addr []string) []*link {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mustKnow("Reset", addr...)
	var found []*link
	for l := range n.links {
		if concerns(addr, l.server) {
			found = append(found, l)
		}
	}
	return found
}

// Dial connects to a server. The host of the address is the host of a server, or an IP
// address or name that leads to one. If a name leads to several servers, Dial uses the
// first that it can connect to. Dial can be used as DialContext of an http.Transport and
// as Dial of a broker's options. It fails with "connection refused" if nobody listens. It
// waits until ctx ends during a partition, or if the server has the order [Blackhole].
func (n *Network) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := n.dialAny(ctx, network, address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: name(address), Err: err}
	}
	return conn, nil
}

func (n *Network) dialAny(ctx context.Context, network, address string) (net.Conn, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return nil, net.UnknownNetworkError(network)
	}
	n.mu.Lock()
	targets, err := n.targets(address)
	n.mu.Unlock()
	for _, target := range targets {
		var conn net.Conn
		if conn, err = n.dial(ctx, target); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// dial connects to a server at its own address.
func (n *Network) dial(ctx context.Context, address string) (net.Conn, error) {
	if err := n.travel(ctx, address); err != nil {
		return nil, err
	}
	l := n.listener(address)
	if l == nil {
		return nil, n.refuse(ctx, address)
	}
	if l.admit != nil && !l.admit(ctx) {
		return nil, n.refuse(ctx, address)
	}
	a, b := n.connect(address)
	if !l.deliver(b) {
		a.Close()
		b.Close()
		return nil, n.refuse(ctx, address)
	}
	if err := n.travel(ctx, address); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// refuse returns the error of a refused connection when it has come back, or that of
// the context if this ended before.
func (n *Network) refuse(ctx context.Context, address string) error {
	if err := n.travel(ctx, address); err != nil {
		return err
	}
	return os.NewSyscallError("connect", syscall.ECONNREFUSED)
}

// travel waits as long as something takes to or from a server.
func (n *Network) travel(ctx context.Context, address string) error {
	timer := time.NewTimer(n.latency.Load())
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		healed := n.healed.next()
		if !n.partitioned(address) {
			return ctx.Err()
		}
		select {
		case <-healed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (n *Network) listener(address string) *listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.listeners[address]
}

func (n *Network) partitioned(address string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stalls(address)
}

// stalls is called with mu held.
func (n *Network) stalls(address string) bool {
	return slices.ContainsFunc(n.partitions, func(p *partition) bool { return concerns(p.hosts, address) })
}

// stallLinks is called with mu held, after a change of the partitions.
func (n *Network) stallLinks() {
	for l := range n.links {
		stalled := n.stalls(l.server)
		l.a.in.setStalled(stalled)
		l.b.in.setStalled(stalled)
	}
}

// concerns says whether an address is among those named by address or host.
func concerns(names []string, address string) bool {
	host, _, _ := net.SplitHostPort(address)
	return len(names) == 0 || slices.Contains(names, address) || slices.Contains(names, host)
}

// connect makes a connection to a server: its client's end and its server's.
func (n *Network) connect(address string) (client, server *endpointConn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	there := &stream{network: n}
	back := &stream{network: n, back: there}
	there.back = back
	l := &link{server: address}
	local := clientAddr(n.clients)
	n.clients++
	l.a = &endpointConn{link: l, in: back, out: there, local: local, remote: name(address)}
	l.b = &endpointConn{link: l, in: there, out: back, local: name(address), remote: local}
	n.links[l] = true
	return l.a, l.b
}

// release is called once for each end of a link that is closed.
func (n *Network) release(l *link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l.closed++; l.closed == 2 {
		delete(n.links, l)
	}
}

// name is the address of a server.
type name string

func (a name) Network() string { return "tcp" }
func (a name) String() string  { return string(a) }

// clientAddr returns the address of the i-th client.
func clientAddr(i int) net.Addr {
	const ports = 32768
	host := i/ports + 1
	return &net.TCPAddr{
		IP:   net.IPv4(10, byte(host>>16), byte(host>>8), byte(host)),
		Port: ports + i%ports,
	}
}
