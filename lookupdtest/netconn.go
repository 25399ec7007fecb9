package lookupdtest

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"go.uber.org/atomic"
)

// endpointConn is one end of a connection on a Network.
type endpointConn struct {
	link          *link
	in, out       *stream
	local, remote net.Addr
	abrupt        atomic.Bool // Close resets
	once          sync.Once
}

func (c *endpointConn) Read(p []byte) (int, error) {
	n, err := c.in.read(p)
	return n, c.wrap("read", err)
}

func (c *endpointConn) Write(p []byte) (int, error) {
	n, err := c.out.write(p)
	return n, c.wrap("write", err)
}

func (c *endpointConn) wrap(op string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// Close closes both directions. With input unread, or after SetLinger(0), it resets
// the connection.
func (c *endpointConn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = nil
		unread := c.in.closeReader()
		orderly := !unread && !c.abrupt.Load()
		c.out.closeWriter(orderly)
		if !orderly {
			at := time.Now().Add(c.out.network.latency.Load())
			c.out.resetEnds(at, &c.out.reader)
			c.in.resetEnds(at, &c.in.writer)
		}
		c.in.network.release(c.link)
	})
	return c.wrap("close", err)
}

// SetLinger is that of a net.TCPConn as far as 0 goes: Close then resets.
func (c *endpointConn) SetLinger(sec int) error {
	c.abrupt.Store(sec == 0)
	return nil
}

// breakOff makes this end see a reset at once, partition or not. It is still to be closed.
func (c *endpointConn) breakOff() {
	longAgo := time.Unix(1, 0)
	c.in.resetEnds(longAgo, &c.in.reader)
	c.out.resetEnds(longAgo, &c.out.writer)
}

func (c *endpointConn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	c.SetWriteDeadline(t)
	return nil
}

func (c *endpointConn) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.reader, t)
	return nil
}

func (c *endpointConn) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(&c.out.writer, t)
	return nil
}

func (c *endpointConn) LocalAddr() net.Addr  { return c.local }
func (c *endpointConn) RemoteAddr() net.Addr { return c.remote }
