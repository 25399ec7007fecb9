package lookupdtest

import (
	"context"
	"net"
	"sync"
	"syscall"
)

// listener is where a server gets its connections from.
type listener struct {
	network *Network
	address string
	admit   func(context.Context) bool // whether a client may connect; nil: any

	mu      sync.Mutex // guards what follows
	pending []*endpointConn
	closed  bool
	changed signal
}

func (n *Network) listen(address string, admit func(context.Context) bool) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[address] != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: name(address), Err: syscall.EADDRINUSE}
	}
	n.know(address)
	l := &listener{network: n, address: address, admit: admit}
	n.listeners[address] = l
	return l, nil
}

// deliver hands a connection to the server; false when it doesn't listen any more.
func (l *listener) deliver(conn *endpointConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.pending = append(l.pending, conn)
	l.changed.fire()
	return true
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		l.mu.Lock()
		if l.closed {
			l.mu.Unlock()
			return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
		}
		if len(l.pending) > 0 {
			conn := l.pending[0]
			l.pending = l.pending[1:]
			l.mu.Unlock()
			return conn, nil
		}
		changed := l.changed.next()
		l.mu.Unlock()
		<-changed
	}
}

// Close resets the connections that nobody accepted.
func (l *listener) Close() error {
	l.network.mu.Lock()
	if l.network.listeners[l.address] == l {
		delete(l.network.listeners, l.address)
	}
	l.network.mu.Unlock()
	l.mu.Lock()
	pending := l.pending
	l.pending, l.closed = nil, true
	l.changed.fire()
	l.mu.Unlock()
	for _, conn := range pending {
		reset(conn)
	}
	return nil
}

func (l *listener) Addr() net.Addr { return name(l.address) }
