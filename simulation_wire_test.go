package lookuploop

import (
	"bytes"
	"context"
	"net"
	"strings"
	"sync"
	"time"
)

// simWire watches what a Loop writes to its lookupds, and that it closes what it opens.
type simWire struct {
	mu     sync.Mutex
	open   map[*simConn]bool
	conns  []*simConn // all there ever were
	writes []simWrite
}

// simWrite is what was written at once.
type simWrite struct {
	conn  *simConn
	at    time.Time
	lines []string
}

// simConn is a connection of the Loop.
type simConn struct {
	net.Conn
	wire    *simWire
	address string
	dialed  time.Time
	closed  time.Time   // guarded by the wire's mu, as said is
	said    []time.Time // when IDENTIFY and PING were written
}

func newSimWire() *simWire { return &simWire{open: make(map[*simConn]bool)} }

type simDial func(ctx context.Context, network, address string) (net.Conn, error)

func (w *simWire) watch(dial simDial) simDial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		dialed := time.Now()
		raw, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		c := &simConn{Conn: raw, wire: w, address: address, dialed: dialed}
		w.mu.Lock()
		w.open[c] = true
		w.conns = append(w.conns, c)
		w.mu.Unlock()
		return c, nil
	}
}

func (c *simConn) Write(p []byte) (int, error) {
	w := simWrite{conn: c, at: time.Now()}
	c.wire.mu.Lock()
	if bytes.HasPrefix(p, []byte("  V1IDENTIFY\n")) {
		c.said = append(c.said, w.at)
	} else {
		w.lines = strings.Split(strings.TrimSuffix(string(p), "\n"), "\n")
		if w.lines[0] == "PING" {
			c.said = append(c.said, w.at)
		}
		c.wire.writes = append(c.wire.writes, w)
	}
	c.wire.mu.Unlock()
	return c.Conn.Write(p)
}

func (c *simConn) Close() error {
	c.wire.mu.Lock()
	if c.wire.open[c] {
		delete(c.wire.open, c)
		c.closed = time.Now()
	}
	c.wire.mu.Unlock()
	return c.Conn.Close()
}

func (w *simWire) numOpen() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.open)
}

// longestSilence is the longest time between two heartbeats on a connection,
// until it ended or, as there is none in a farewell, until the Loop was told to
// leave.
func (c *simConn) longestSilence(left []time.Time) (silence time.Duration) {
	for i := 1; i < len(c.said); i++ {
		silence = max(silence, c.said[i].Sub(c.said[i-1]))
	}
	if len(c.said) == 0 {
		return silence
	}
	last, end := c.said[len(c.said)-1], c.closed
	for _, at := range left {
		if at.After(last) && at.Before(end) {
			end = at
		}
	}
	return max(silence, end.Sub(last))
}
