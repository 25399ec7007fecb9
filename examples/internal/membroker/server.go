package membroker

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// listen opens a listener whose connections each take one of slots until they
// are closed. Without a free slot a connection is closed at once.
func listen(address string, slots chan struct{}) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("membroker: %w", err)
	}
	return &limitListener{l, slots}, nil
}

type limitListener struct {
	net.Listener
	slots chan struct{} // a token for each open connection
}

func (l *limitListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.slots <- struct{}{}:
			return &limitedConn{Conn: conn, free: sync.OnceFunc(func() { <-l.slots })}, nil
		default:
			conn.Close()
		}
	}
}

type limitedConn struct {
	net.Conn
	free func()
}

func (c *limitedConn) Close() error {
	defer c.free()
	return c.Conn.Close()
}

// CloseWrite tells the client that nothing follows, while it can still be read from.
func (c *limitedConn) CloseWrite() error {
	return c.Conn.(interface{ CloseWrite() error }).CloseWrite()
}

// serveTCP accepts clients until the listener is closed, and returns when all
// of them have left.
func (b *Broker) serveTCP() error {
	var clients sync.WaitGroup
	defer clients.Wait()
	for {
		conn, err := b.tcp.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil: // out of file descriptors, most likely: wait for some to be freed
			b.opts.Logger.Warn("can't accept clients", "error", err)
			select {
			case <-time.After(scanInterval):
			case <-b.draining:
			}
			continue
		}
		clients.Go(func() { b.serveClient(conn) })
	}
}
