package lookuploop

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

// TestThousandLivesLeakNothing starts and stops Loops, with real sockets and
// files, and counts file descriptors and goroutines. (Goroutines that any
// other test leaves behind are found by TestMain.)
func TestThousandLivesLeakNothing(t *testing.T) {
	if _, err := os.ReadDir(descriptors); err != nil {
		t.Skip("this system doesn't list descriptors: ", err)
	}
	lookupds := []*lookupdtest.Server{lookupdtest.NewServer(), lookupdtest.NewServer()}
	for _, lookupd := range lookupds {
		defer lookupd.Close()
	}
	dir := t.TempDir()
	var before int
	var others goleak.Option
	for life := range 1010 {
		if life == 10 { // by now the runtime has what it wants
			before, others = countDescriptors(t, lookupds), goleak.IgnoreCurrent()
		}
		liveAndDie(t, dir, lookupds, life)
	}
	require.LessOrEqual(t, countDescriptors(t, lookupds), before)
	require.NoError(t, goleak.Find(others)) // which gives goroutines that are at their end the time for it
}

// TestSwapsLeakNothing swaps addresses amid look-ups, attempts and conversations.
func TestSwapsLeakNothing(t *testing.T) {
	if _, err := os.ReadDir(descriptors); err != nil {
		t.Skip("this system doesn't list descriptors: ", err)
	}
	lookupds := []*lookupdtest.Server{lookupdtest.NewServer(), lookupdtest.NewServer()}
	var ports []string
	for _, lookupd := range lookupds {
		defer lookupd.Close()
		_, port, err := net.SplitHostPort(lookupd.TCPAddress)
		require.NoError(t, err)
		ports = append(ports, port)
	}
	dns := new(fakeResolver)
	dns.knows("a.test", "127.0.0.1")
	dns.knows("b.test", "127.0.0.1", "127.0.0.2")
	dns.does("late.test", after(time.Millisecond, "127.0.0.1"))
	dns.does("slow.test", hangs)
	loop := newLoop(t, func(o *Options) { o.ResolveInterval, o.Resolver = time.Millisecond, dns })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- loop.Run(ctx) }()
	require.NoError(t, loop.Notify(TopicCreated("orders"), TopicCreated("live#ephemeral")))

	choices := [][]string{
		{"a.test:" + ports[0], "a.test:" + ports[1]},
		{"b.test:" + ports[0], "slow.test:1"},
		{"late.test:" + ports[1], lookupds[0].TCPAddress},
		{"unknown.test:1", "127.0.0.1:1"},
		{},
	}
	var before int
	var others goleak.Option
	for i := range 20_010 {
		if i == 10 {
			before, others = quiet(t, loop, lookupds), goleak.IgnoreCurrent()
		}
		require.NoError(t, loop.SetLookupdTCPAddresses(choices[i%len(choices)]))
		if i%100 == 0 {
			require.NoError(t, loop.WaitRegistered(ctx, 2))
		}
	}
	require.LessOrEqual(t, quiet(t, loop, lookupds), before)
	require.NoError(t, goleak.Find(others))
	cancel()
	require.NoError(t, <-ended)
}

// quiet leaves all lookupds, and counts descriptors.
func quiet(t *testing.T, loop *Loop, lookupds []*lookupdtest.Server) int {
	require.NoError(t, loop.SetLookupdTCPAddresses(nil))
	return countDescriptors(t, lookupds)
}

const descriptors = "/proc/self/fd"

// countDescriptors counts when the lookupds have noticed that their clients are gone.
func countDescriptors(t *testing.T, lookupds []*lookupdtest.Server) int {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, lookupd := range lookupds {
		answered(t, lookupd) // so it has accepted all that came before
		require.NoError(t, lookupd.Wait(ctx, func() bool { return lookupd.Connections() == 0 }))
	}
	names, err := os.ReadDir(descriptors)
	require.NoError(t, err)
	return len(names)
}

// answered returns when the lookupd has answered a new connection.
func answered(t *testing.T, lookupd *lookupdtest.Server) {
	conn, err := net.Dial("tcp", lookupd.TCPAddress)
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("  V1PING\n"))
	require.NoError(t, err)
	_, err = io.ReadFull(conn, make([]byte, len("\x00\x00\x00\x02OK")))
	require.NoError(t, err)
}

// liveAndDie is the life of one Loop. Some end amid something.
func liveAndDie(t *testing.T, dir string, lookupds []*lookupdtest.Server, life int) {
	loop := newLoop(t, func(o *Options) {
		o.DataPath = dir
		o.LookupdTCPAddresses = []string{lookupds[0].TCPAddress, lookupds[1].TCPAddress, "127.0.0.1:1"}
	})
	_, err := loop.LoadMetadata()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- loop.Run(ctx) }()
	event := TopicCreated("orders")
	if life%2 == 1 {
		event = TopicDeleted("orders")
	}
	require.NoError(t, loop.Notify(event))
	switch life % 4 {
	case 0:
		require.NoError(t, loop.WaitRegistered(ctx, 2))
	case 1:
		require.NoError(t, loop.SetLookupdTCPAddresses(nil))
	case 2:
		lookupds[0].CloseConnections()
	}
	cancel()
	require.NoError(t, <-ended)
}

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
