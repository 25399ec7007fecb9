package lookuploop

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestNotifyOfAKnownNameAllocatesNothing(t *testing.T) {
	loop := newLoop(t)
	require.NoError(t, loop.SetMetadata(someMetadata(1000)))
	var err error
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		err = loop.Notify(ChannelCreated("orders-000001", "archive"))
	}))
	require.NoError(t, err)
}

func TestAHeartbeatAllocatesNothing(t *testing.T) {
	conn := newAgreeableConn()
	loop := newLoop(t, func(o *Options) {
		o.LookupdTCPAddresses = []string{"lookupd.test:4160"}
		o.Dial = func(context.Context, string, string) (net.Conn, error) { return conn, nil }
	})
	defer run(t, loop)()
	<-conn.reading // the answer to IDENTIFY
	<-conn.reading // what comes next
	peer := loop.lookupPeers()[0]
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		peer.heartbeat()
		<-conn.reading // the answer has been handled
	}))
	require.EqualValues(t, 1002, peer.commands.Load(), "IDENTIFY and a PING for each run, of which AllocsPerRun makes one more")
}

// agreeableConn answers OK to whatever is written at once, and allocates nothing.
type agreeableConn struct {
	net.Conn // nil: there is none
	written  chan struct{}
	reading  chan struct{} // gets a value each time that Read is called
	closed   chan struct{}
	close    func()
}

func newAgreeableConn() *agreeableConn {
	c := &agreeableConn{
		written: make(chan struct{}, 1),
		reading: make(chan struct{}, 1),
		closed:  make(chan struct{}),
	}
	c.close = sync.OnceFunc(func() { close(c.closed) })
	return c
}

func (c *agreeableConn) Write(p []byte) (int, error) {
	c.written <- struct{}{}
	return len(p), nil
}

func (c *agreeableConn) Read(p []byte) (int, error) {
	select {
	case c.reading <- struct{}{}:
	case <-c.closed:
	}
	select {
	case <-c.written:
		return copy(p, answerOK), nil
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

func (c *agreeableConn) Close() error {
	c.close()
	return nil
}

func (c *agreeableConn) SetDeadline(time.Time) error      { return nil }
func (c *agreeableConn) SetReadDeadline(time.Time) error  { return nil }
func (c *agreeableConn) SetWriteDeadline(time.Time) error { return nil }
