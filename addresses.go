package lookuploop

// SetLookupdTCPAddresses replaces the addresses of the nsqlookupds; none
// means to leave discovery. It takes effect at once: Status and WaitRegistered
// see the new ones, in this order, repetitions left out. An address that stays
// keeps its connection. From one that goes, what is ephemeral is unregistered
// and the connection closed, upon which it forgets the rest.
//
// With a ResolveInterval, a new name may turn out to lead to an nsqlookupd whose
// address goes. So those that are connected stay, behind the new ones, until each
// new name has been looked up once, which takes 5 s at most.
//
// A fault in any address (see Options.LookupdTCPAddresses) is an error, and
// nothing changes. It may be called before and during Run; once Run's context has
// ended it returns ErrClosed.
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
	for _, p := range before {
		switch {
		case byKey[p.key] != p: // it has a place
		case !isFinal && p.state.Load().state == Connected:
			peers = append(peers, p)
		default:
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
