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

// A Network is a TCP network in memory: servers listen on it under any name, clients
// reach them with [Network.Dial] and [Network.Client], and look their names up with
// LookupNetIP and LookupSRV. It works in the bubbles of testing/synctest, where latency
// and deadlines pass in virtual time; make the Network inside the bubble then. All
// methods may be called by any goroutine.
//
// Connections behave as TCP's do where a test could notice: they have a buffer in each
// direction, data written before an orderly close can still be read, and a close with
// unread input, or input that arrives after it, resets the connection, by which the
// other side loses what it has not read yet. Each connection has a RemoteAddr of its own.
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

// NewNetwork returns a network without latency, with 64 KiB of buffer for each
// direction of a connection.
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

// NewServer returns a started server, with its TCP port at addr ("lookupd.test:4160")
// and HTTP at the next port. It panics when addr is no address or in use.
func (n *Network) NewServer(addr string) *Server {
	s := n.NewUnstartedServer(addr)
	s.Start()
	return s
}

// NewUnstartedServer returns a server as NewServer does, whose fields can be set
// before its Start.
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

// Client returns a client whose requests go over the network. It keeps no connection
// for later.
func (n *Network) Client() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: n.Dial, DisableKeepAlives: true}}
}

// SetLatency sets how long anything takes from one side to the other, from now on.
func (n *Network) SetLatency(d time.Duration) { n.latency.Store(d) }

// SetBandwidth sets how many bytes per second each direction of a connection takes;
// 0 is no limit.
func (n *Network) SetBandwidth(bytesPerSecond int) { n.bandwidth.Store(int64(bytesPerSecond)) }

// SetBuffer sets how many bytes can be under way and unread in each direction of a
// connection before a write waits, at least 1. What is there already stays.
func (n *Network) SetBuffer(bytes int) { n.buffer.Store(int64(max(1, bytes))) }

// Partition lets nothing through to and from the given servers, named by address
// ("lookupd.test:4160") or by host ("lookupd.test"); without any, to and from all.
// What is sent meanwhile, the end of a connection too, arrives after heal was called
// for all partitions that concern it; Dial waits. heal may be called more than once.
// Partition panics where no server was made.
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

// Reset resets the connections to the given servers, named as for Partition; without
// any, all. Both sides lose what they have not read. Reset panics where no server was made.
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

// Dial connects to a server, by its host or an IP address or name that leads there; of
// several it takes the first that it can. It fits the DialContext of an [http.Transport]
// and the Dial of a broker's options. It fails with "connection refused" where nobody
// listens, and waits, until ctx ends, while there is a partition or the server is told to
// be a [Blackhole].
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
