package resolve

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Resolver is the part of *net.Resolver that is used.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// Config is what Names are made of.
type Config struct {
	Resolver Resolver
	Network  string        // "ip", "ip4" or "ip6"
	Interval time.Duration // between two look-ups of a name while all is well
	Logger   *slog.Logger
}

// Names are the configured names, and what is known of them.
type Names struct {
	Config
	changed chan struct{} // capacity 1: readable when Known has news

	mu      sync.Mutex // guards what follows
	names   map[string]*name
	places  map[netip.AddrPort]*place // that a name leads to, or that have a connection
	running context.Context           // of Run; nil: it was not called, or its context has ended
	tasks   sync.WaitGroup            // the names' goroutines
}

// place is one address.
type place struct {
	connections int                // two while a lookupd is being left that was configured anew
	names       map[*name]struct{} // that lead there
}

// Known is what is known of a name at one instant.
type Known struct {
	Addresses []netip.AddrPort // in ascending order
	Err       error            // of the last look-up
	LookedUp  time.Time        // when the last look-up ended; zero: none has
	Next      time.Time        // when the next one begins; zero: one is going on, or Run isn't
}

// New makes Names without any name.
func New(config Config) *Names {
	return &Names{
		Config:  config,
		changed: make(chan struct{}, 1),
		names:   make(map[string]*name),
		places:  make(map[netip.AddrPort]*place),
	}
}

// Changed is readable when there is news to be had from Known.
func (n *Names) Changed() <-chan struct{} { return n.changed }

// Set replaces the names by those among the addresses. It waits for nothing.
// What is known of a name that stays is kept.
func (n *Names) Set(addresses []Address) {
	n.mu.Lock()
	defer n.mu.Unlock()
	names := make(map[string]*name)
	for _, a := range addresses {
		if !a.IsName() {
			continue
		}
		x := n.names[a.Key]
		if x == nil {
			x = &name{names: n, address: a, wake: make(chan struct{}, 1)}
			n.start(x)
		}
		names[a.Key] = x
	}
	for key, x := range n.names {
		if names[key] == nil {
			x.remove()
		}
	}
	n.names = names
}

// Run looks the names up until ctx ends. It is called once.
func (n *Names) Run(ctx context.Context) {
	n.mu.Lock()
	n.running = ctx
	for _, x := range n.names {
		n.start(x)
	}
	n.mu.Unlock()

	<-ctx.Done()
	n.mu.Lock()
	n.running = nil
	n.mu.Unlock()
	n.tasks.Wait()
}

// start starts the goroutine of a name, if Run is there to wait for it. It is
// called with mu held.
func (n *Names) start(x *name) {
	if n.running == nil {
		return
	}
	ctx, stop := context.WithCancel(n.running)
	x.stop = stop
	n.tasks.Go(func() {
		defer stop()
		x.run(ctx)
	})
}

// Connected says that there is a connection to an address, given by its Key.
func (n *Names) Connected(key string) { n.count(key, 1) }

// Disconnected says that the connection is gone.
func (n *Names) Disconnected(key string) { n.count(key, -1) }

func (n *Names) count(key string, connections int) {
	address, err := netip.ParseAddrPort(key)
	if err != nil {
		return // no name leads there
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.place(address)
	p.connections += connections
	for x := range p.names {
		signal(x.wake)
	}
	n.tidy(address)
}

// Known returns what is known of a name.
func (n *Names) Known(a Address) Known {
	n.mu.Lock()
	defer n.mu.Unlock()
	x := n.names[a.Key]
	if x == nil {
		return Known{}
	}
	k := Known{Err: x.err, LookedUp: x.lookedUp, Next: x.next}
	for _, e := range x.entries {
		k.Addresses = append(k.Addresses, e.address)
	}
	return k
}

// place returns the place of an address. tidy takes it away once it says
// nothing. Both are called with mu held.
func (n *Names) place(address netip.AddrPort) *place {
	p := n.places[address]
	if p == nil {
		p = &place{names: make(map[*name]struct{})}
		n.places[address] = p
	}
	return p
}

func (n *Names) tidy(address netip.AddrPort) {
	if p := n.places[address]; p.connections == 0 && len(p.names) == 0 {
		delete(n.places, address)
	}
}

// signal makes a channel of capacity 1 readable.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
