package lookuploop

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"github.com/lookuploop/lookuploop/internal/resolve"
)

// Resolver looks up names. *[net.Resolver] implements it. See ResolveInterval in
// [Options]. Addresses that are returned together with an error are used.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// origin says which configured addresses led to a peer.
type origin struct {
	names        []string
	resolveError error // why the last look-up of one of them failed
	isUnresolved bool  // no look-up succeeded yet: the peer stands for the name and has nobody to talk to
}

// target is one lookupd to talk to, or a name that can't be resolved yet.
type target struct {
	key     string // the same for all spellings of the address
	address string
	origin
}

// targets are the lookupds that the configured addresses lead to, each once,
// in their order. isFinal is false while a name has never been looked up to the
// end. It is called with l.mu held.
func (l *Loop) targets() (all []target, isFinal bool) {
	all = make([]target, 0, len(l.configured))
	places := make(map[string]int, len(l.configured)) // in all, by key
	add := func(key, address, name string, known resolve.Known, isUnresolved bool) {
		i, isThere := places[key]
		if !isThere {
			i = len(all)
			places[key] = i
			all = append(all, target{key: key, address: address, origin: origin{isUnresolved: isUnresolved}})
		}
		t := &all[i]
		t.names = append(t.names, name)
		if t.resolveError == nil {
			t.resolveError = known.Err
		}
	}
	isFinal = true
	for _, a := range l.configured {
		if l.opts.ResolveInterval == 0 || !a.IsName() {
			add(a.Key, a.Text, a.Text, resolve.Known{}, false)
			continue
		}
		known := l.names.Known(a)
		if len(known.Addresses) == 0 {
			add(a.Key, a.Text, a.Text, known, true)
		}
		for _, address := range known.Addresses {
			add(address.String(), address.String(), a.Text, known, false)
		}
		isFinal = isFinal && !known.LookedUp.IsZero()
	}
	return all, isFinal
}

// namesStatus says of each configured name what is known of it.
func (l *Loop) namesStatus() (all []NameStatus) {
	if l.opts.ResolveInterval == 0 {
		return nil
	}
	l.mu.Lock()
	configured := l.configured
	l.mu.Unlock()
	for _, a := range configured {
		if !a.IsName() {
			continue
		}
		known := l.names.Known(a)
		s := NameStatus{Name: a.Text, Error: known.Err, LookedUp: known.LookedUp, NextLookup: known.Next}
		for _, address := range known.Addresses {
			s.Addresses = append(s.Addresses, address.String())
		}
		all = append(all, s)
	}
	return all
}

type configuredAddressKey struct{}

// ConfiguredAddress is for use in Dial of [Options], for example to verify a TLS
// certificate. It returns the address in LookupdTCPAddresses that led to the one
// being dialed, or the first one if there are several. With a ResolveInterval that
// is a host name with a port, or a SRV name, which has none, while Dial gets an IP
// address. With any other context it returns the empty string.
func ConfiguredAddress(ctx context.Context) string {
	address, _ := ctx.Value(configuredAddressKey{}).(string)
	return address
}

// aboutName says how to verify the certificate of a lookupd if Dial did that with the
// IP address in place of the name.
func (p *lookupPeer) aboutName(err error) error {
	host, _, _ := net.SplitHostPort(p.address)
	invalid, ok := errors.AsType[x509.HostnameError](err)
	if ok && invalid.Host == host && p.origin.Load().names[0] != p.address {
		return fmt.Errorf("%w (set ServerName of the tls.Config to the host of ConfiguredAddress)", err)
	}
	return err
}

// SetLookupdTCPAddresses replaces the addresses of the nsqlookupds. Without any
// address, the broker leaves discovery; see [Loop.Drain]. It takes effect at once:
// Status and WaitRegistered use the new addresses, in this order, without
// duplicates. An address that stays keeps its connection. At an address that was
// removed, ephemeral topics and channels are unregistered and the connection is
// closed, upon which nsqlookupd drops the other registrations.
//
// With a ResolveInterval, a new name may lead to an nsqlookupd whose address was
// removed. So connected nsqlookupds stay, after the new ones, until each new name
// has been looked up once, which takes at most 5 s.
//
// If an address is invalid or a port of the broker is missing, it returns an error
// and changes nothing. It may be called before and during Run. Once Run's context
// has ended it returns [ErrClosed].
func (l *Loop) SetLookupdTCPAddresses(addrs []string) error {
	configured, err := l.opts.parseAddresses(addrs)
	if err != nil {
		return err
	}
	if l.hasEnded() {
		return ErrClosed
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.configured = configured
	if l.opts.ResolveInterval > 0 {
		l.names.Set(configured)
	}
	l.setPeers()
	return nil
}

// parseAddresses checks all addresses and returns them without repetitions. Where
// there are addresses the broker's ports are needed.
func (o *Options) parseAddresses(addrs []string) ([]resolve.Address, error) {
	var errs []error
	unique := make([]resolve.Address, 0, len(addrs))
	isThere := make(map[string]bool, len(addrs)) // by key
	for _, addr := range addrs {
		a, err := resolve.Parse(addr)
		if err == nil && a.IsSRV() && o.ResolveInterval <= 0 {
			err = errors.New("write host:port, or set ResolveInterval for a SRV name")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("lookuploop: lookupd address %q: %w", addr, err))
		} else if !isThere[a.Key] {
			isThere[a.Key] = true
			unique = append(unique, a)
		}
	}
	if len(addrs) > 0 {
		errs = append(errs, o.portFaults(1)...)
	}
	return unique, errors.Join(errs...)
}

// broadcastMistake says why nobody can reach the broker at host.
func broadcastMistake(host string) string {
	ip, err := netip.ParseAddr(host)
	switch {
	case strings.ContainsFunc(host, isSpaceOrControl): // which is said already
		return ""
	case err == nil && ip.Unmap().IsUnspecified():
		return "it stands for all addresses of a machine, name one where consumers reach the broker"
	case err == nil:
		return ""
	case strings.ContainsAny(host, "[]"):
		return "write an IPv6 address without brackets"
	case strings.Contains(host, ":"):
		return "name the host alone, the port goes into BroadcastTCPPort"
	case !resolve.IsHostName(host):
		return "write an IP address, or a host name of letters, digits, hyphens and dots"
	}
	return ""
}

func isSpaceOrControl(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }

// Drain leaves discovery: it removes the broker from every nsqlookupd, so that no new
// consumers find it. Connected consumers stay. It unregisters ephemeral topics and
// channels, closes the connections to all nsqlookupds, and returns when that is done.
// It takes at most 1 s unless Dial, Logger or OnStateChange blocks. Notify and
// nsqd.dat work as before. SetLookupdTCPAddresses registers the broker again.
//
// If ctx ends first, the error wraps ctx.Err() and names the remaining nsqlookupds.
// The Loop still leaves them. Drain may be called from any goroutine except in
// OnStateChange, more than once, and before Run. Once Run's context has ended it
// returns [ErrClosed].
func (l *Loop) Drain(ctx context.Context) error {
	ended := ctx.Done() // a nil context panics here
	if err := l.SetLookupdTCPAddresses(nil); err != nil {
		return fmt.Errorf("%w: Drain must come before Close, and before the end of Run's context: give Run one of its own", err)
	}
	l.mu.Lock()
	leaving := slices.Clone(l.leaving)
	l.mu.Unlock()
	for _, p := range leaving {
		select {
		case <-p.left:
		case <-ended:
			if still := stillLeaving(leaving); len(still) > 0 {
				return fmt.Errorf("lookuploop: not left yet: %s: %w", strings.Join(still, ", "), ctx.Err())
			}
			return nil
		}
	}
	return nil
}

// stillLeaving returns the addresses of those that have not left their lookupd yet.
func stillLeaving(peers []*lookupPeer) (addresses []string) {
	for _, p := range peers {
		if !p.hasLeft() {
			addresses = append(addresses, p.address)
		}
	}
	return addresses
}

// release stops a peer whose address went. It is called with mu held.
func (l *Loop) release(p *lookupPeer) {
	p.stop()
	if p.started.Load() { // if run is only about to begin, it sees that it was stopped
		l.leaving = append(l.leaving, p)
	} else {
		l.reg.Remove(p.cursor)
	}
}

// logAddresses says what about the addresses keeps consumers from the broker.
func (l *Loop) logAddresses() {
	l.mu.Lock()
	configured := l.configured
	l.mu.Unlock()
	if len(configured) == 0 {
		l.opts.Logger.Info("no lookupd addresses: consumers can't find the broker until SetLookupdTCPAddresses names one")
	}
	isRemote := func(a resolve.Address) bool { return !a.IsLoopback() }
	if i := slices.IndexFunc(configured, isRemote); i >= 0 && resolve.IsLoopback(l.opts.BroadcastAddress) {
		l.opts.Logger.Warn("consumers on other machines can't reach the broker at a loopback address, set BroadcastAddress",
			"broadcast_address", l.opts.BroadcastAddress, "lookupd", configured[i].Text)
	}
}

// setPeers makes peers for new targets, which Run starts, and stops those that
// are none any more. It is called with mu held, or by New.
func (l *Loop) setPeers() {
	before := l.lookupPeers()
	byKey := make(map[string]*lookupPeer, len(before))
	for _, p := range before {
		byKey[p.key] = p
	}
	targets, isFinal := l.targets()
	peers := make([]*lookupPeer, 0, len(targets))
	for _, t := range targets {
		p := byKey[t.key]
		if p == nil {
			p = newLookupPeer(t, &l.opts, l.reg, l.names)
		} else {
			p.origin.Store(&t.origin)
			delete(byKey, t.key)
		}
		peers = append(peers, p)
	}
	l.leaving = slices.DeleteFunc(l.leaving, (*lookupPeer).hasLeft)
	for _, p := range before {
		switch {
		case byKey[p.key] != p: // it has a place
		case !isFinal && p.state.Load().state == Connected:
			peers = append(peers, p)
		default:
			l.release(p)
		}
	}
	l.peers.Store(&peers)
	signal(l.optionsChanged)
	l.reg.Wake()
}

func (l *Loop) lookupPeers() []*lookupPeer {
	peers := l.peers.Load()
	if peers == nil {
		return nil
	}
	return *peers
}
