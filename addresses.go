package lookuploop

import "slices"

// SetLookupdTCPAddresses replaces the addresses of the nsqlookupds; none
// means to leave discovery. It takes effect at once: Status and WaitRegistered
// see the new ones, in this order, repetitions left out. An address that stays
// keeps its connection. From one that goes, what is ephemeral is unregistered
// and the connection closed, upon which it forgets the rest.
//
// A fault in any address (see Options.LookupdTCPAddresses) is an error, and
// nothing changes. It may be called before and during Run; once Run's context has
// ended it returns ErrClosed.
func (l *Loop) SetLookupdTCPAddresses(addrs []string) error {
	unique, err := l.opts.parseAddresses(addrs)
	if err != nil {
		return err
	}
	if l.hasEnded() {
		return ErrClosed
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.configured = unique
	l.setPeers()
	signal(l.namesChanged)
	return nil
}

// setPeers makes peers for new targets, which Run starts, and stops those that
// are none any more. It is called with mu held, or by New.
func (l *Loop) setPeers() {
	before := l.lookupPeers()
	peers := []*lookupPeer{}
	for _, t := range l.targets() {
		i := slices.IndexFunc(before, func(p *lookupPeer) bool { return p.address == t.address })
		if i >= 0 {
			before[i].origin.Store(&t.origin)
			peers = append(peers, before[i])
		} else {
			peers = append(peers, newLookupPeer(t, &l.opts, l.reg))
		}
	}
	for _, p := range before {
		if !slices.Contains(peers, p) {
			p.stop()
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
