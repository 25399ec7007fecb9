package lookuploop

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"
)

// dialWatch sees what Options.Dial is asked and what becomes of the connections.
type dialWatch struct {
	mu     sync.Mutex
	dials  map[string][]time.Time // by address
	open   int                    // connections that were not closed
	writes int                    // on all connections
}

// watch is an edit for newScene and newLoop: it puts the watch around Dial.
func (w *dialWatch) watch(o *Options) {
	w.dials = make(map[string][]time.Time)
	dial := o.Dial
	o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		w.mu.Lock()
		w.dials[address] = append(w.dials[address], time.Now())
		w.mu.Unlock()
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		w.mu.Lock()
		w.open++
		w.mu.Unlock()
		return &watchedConn{Conn: conn, watch: w}, nil
	}
}

// times returns when the address was dialled.
func (w *dialWatch) times(address string) []time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.dials[address])
}

// gaps returns the times between the dials of an address.
func (w *dialWatch) gaps(address string) (gaps []time.Duration) {
	times := w.times(address)
	for i := 1; i < len(times); i++ {
		gaps = append(gaps, times[i].Sub(times[i-1]))
	}
	return gaps
}

// opened returns how many connections are open.
func (w *dialWatch) opened() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open
}

// written returns how often something was written since it was asked last.
func (w *dialWatch) written() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer func() { w.writes = 0 }()
	return w.writes
}

type watchedConn struct {
	net.Conn
	watch *dialWatch
	once  sync.Once
}

func (c *watchedConn) Write(p []byte) (int, error) {
	c.watch.mu.Lock()
	c.watch.writes++
	c.watch.mu.Unlock()
	return c.Conn.Write(p)
}

func (c *watchedConn) Close() error {
	c.once.Do(func() {
		c.watch.mu.Lock()
		defer c.watch.mu.Unlock()
		c.watch.open--
	})
	return c.Conn.Close()
}
