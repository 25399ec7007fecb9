package lookuploop

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/lookuploop/lookuploop/internal/resolve"
)

// Resolver looks host names up; *net.Resolver is one. See Options.ResolveInterval.
type Resolver interface {
	LookupHost(ctx context.Context, host string) ([]string, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// resolution is what is known of one configured address. It is replaced, never changed.
type resolution struct {
	addresses []string // IP and port each; those of the last look-up that succeeded
	err       error    // of the last look-up
}

// origin says which configured addresses led to a peer.
type origin struct {
	names        []string
	resolveError error // why the last look-up of one of them failed
	isUnresolved bool  // no look-up succeeded yet: the peer stands for the name and has nobody to talk to
}

// target is one lookupd to talk to, or a name that can't be resolved yet.
type target struct {
	address string
	origin
}

// targets are the lookupds that the configured addresses lead to, each once,
// in their order. It is called with l.mu held.
func (l *Loop) targets() []target {
	var all []target
	add := func(address, name string, from resolution) {
		i := slices.IndexFunc(all, func(t target) bool { return t.address == address })
		if i < 0 {
			i = len(all)
			all = append(all, target{address: address})
		}
		t := &all[i]
		t.names = append(t.names, name)
		t.isUnresolved = len(from.addresses) == 0
		if t.resolveError == nil {
			t.resolveError = from.err
		}
	}
	for _, name := range l.configured {
		switch known := l.resolved[name]; {
		case l.opts.ResolveInterval == 0 || resolve.IsLiteral(name):
			add(name, name, resolution{addresses: []string{name}})
		case len(known.addresses) == 0:
			add(name, name, known)
		default:
			for _, address := range known.addresses {
				add(address, name, known)
			}
		}
	}
	return all
}

// resolveNames looks the configured names up, now, on each change of them and
// on the interval, until ctx ends. Run starts it and waits for it.
func (l *Loop) resolveNames(ctx context.Context) {
	ticker := time.NewTicker(l.opts.ResolveInterval)
	defer ticker.Stop()
	for {
		l.resolveOnce(ctx)
		select {
		case <-ticker.C:
		case <-l.namesChanged:
		case <-ctx.Done():
			return
		}
	}
}

func (l *Loop) resolveOnce(ctx context.Context) {
	l.mu.Lock()
	names := slices.DeleteFunc(slices.Clone(l.configured), resolve.IsLiteral)
	l.mu.Unlock()

	results := make([]resolution, len(names))
	var lookups sync.WaitGroup
	for i, name := range names {
		lookups.Go(func() { results[i].addresses, results[i].err = resolve.Lookup(ctx, l.opts.Resolver, name) })
	}
	lookups.Wait()
	if ctx.Err() != nil {
		return
	}

	l.mu.Lock()
	resolved := make(map[string]resolution, len(names))
	var news []error
	for i, name := range names {
		before, now := l.resolved[name], results[i]
		if now.err != nil {
			now.addresses = before.addresses
			if before.err == nil {
				news = append(news, now.err)
			}
		}
		resolved[name] = now
	}
	l.resolved = resolved
	l.setPeers()
	l.mu.Unlock()

	for _, err := range news {
		l.opts.Logger.Warn("lookupd address can't be resolved, what was known stays", "error", err)
	}
}
