package lookuploop

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/atomic"
	"go.uber.org/goleak"

	"github.com/lookuploop/lookuploop/internal/registry"
	"github.com/lookuploop/lookuploop/internal/wire"
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
	for life := range 10 + inFull(1000) {
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
	for i := range 10 + inFull(20_000) {
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

// quiet leaves all lookupds, waits for the attempts to connect that are under way,
// and counts descriptors.
func quiet(t *testing.T, loop *Loop, lookupds []*lookupdtest.Server) int {
	require.NoError(t, loop.Drain(t.Context()))
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

// What lookupd does not read stays with us: only so many commands are sent
// before their answers.
func TestCommandsInFlightAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		require.NoError(t, s.loop.SetMetadata(manyTopics(5000)))
		lift := s.lookupds[0].Do(lookupdtest.On("REGISTER", lookupdtest.Hang()))
		s.run()
		time.Sleep(900 * time.Millisecond)
		sent := s.loop.Status().Lookupds[0].Commands
		require.LessOrEqual(t, sent, uint64(1+wire.FirstWindow+1), "IDENTIFY, the window, and a chunk may run one over")
		require.Greater(t, sent, uint64(wire.FirstWindow-registry.ChunkSize))
		require.Equal(t, 10_000, s.loop.Status().Lookupds[0].Pending, "topics and channels")
		lift()
		s.registered()
		require.Len(t, s.lookupds[0].Topics(), 5000)
		require.EqualValues(t, 1, s.loop.Status().Lookupds[0].Connects)
	})
}

// With 50 ms for a round trip, one command at a time would take 500 s.
func TestSyncOverALongLineIsPipelined(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.network.SetLatency(25 * time.Millisecond)
		s.network.SetBuffer(1 << 20)
		require.NoError(t, s.loop.SetMetadata(manyTopics(10_000)))
		s.run()
		started := time.Now()
		s.registered()
		require.Less(t, time.Since(started), 500*time.Millisecond)
	})
}

// A lookupd that must get rid of an answer before it reads on, with buffers
// that hold one answer, gets everything all the same.
func TestTinyBuffersDoNotDeadlock(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.network.SetBuffer(8)
		require.NoError(t, s.loop.SetMetadata(manyTopics(1000)))
		s.run()
		s.registered()
		require.Len(t, s.lookupds[0].Topics(), 1000)
		require.Zero(t, s.loop.Status().Lookupds[0].Failures)
	})
}

// The same over real TCP, with a lookupd that reads nothing ahead, and three
// times as many answers as find room in the buffers.
func TestTinySocketBuffersDoNotDeadlock(t *testing.T) {
	t.Parallel() // it waits for TCP's timers
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan int, 1)
	go func() { served <- serveWordForWord(listener) }()

	loop := newLoop(t, addresses(listener.Addr().String()), func(o *Options) {
		o.ResponseTimeout = patience // TCP may take its time to find out that there is room again
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err == nil {
				err = errors.Join(conn.(*net.TCPConn).SetReadBuffer(smallBuffer), conn.(*net.TCPConn).SetWriteBuffer(smallBuffer))
			}
			return conn, err
		}
	})
	m := manyTopics(names)
	for i := range m.Topics {
		m.Topics[i].Name = strings.Repeat("x", 64-len(m.Topics[i].Name)) + m.Topics[i].Name
	}
	require.NoError(t, loop.SetMetadata(m))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ran := make(chan error, 1)
	go func() { ran <- loop.Run(ctx) }()
	require.NoError(t, loop.WaitRegistered(ctx, 1))
	require.Zero(t, loop.Status().Lookupds[0].Failures)
	cancel()
	require.NoError(t, <-ran)
	require.Equal(t, 1+names, <-served)
	require.NoError(t, listener.Close())
}

const (
	names       = 1000
	smallBuffer = 6000
)

// serveWordForWord accepts one connection, reads a command, writes its answer,
// and so on to the end. It returns how many commands that were.
func serveWordForWord(listener net.Listener) (commands int) {
	conn, err := listener.Accept()
	if err != nil {
		return 0
	}
	defer conn.Close()
	conn.(*net.TCPConn).SetReadBuffer(smallBuffer)
	conn.(*net.TCPConn).SetWriteBuffer(smallBuffer)
	r := bufio.NewReaderSize(conn, 16)
	r.Discard(len("  V1"))
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return commands
		}
		if line == "IDENTIFY\n" {
			var size [4]byte
			io.ReadFull(r, size[:])
			io.CopyN(io.Discard, r, int64(binary.BigEndian.Uint32(size[:])))
		}
		io.WriteString(conn, answerOK)
		if line != "PING\n" {
			commands++
		}
	}
}

// memoryInUse is what the heap holds after a collection.
func memoryInUse() int {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int(stats.HeapAlloc)
}

func TestADayOfTroubleIsAFewHundredLines(t *testing.T) {
	for name, tt := range map[string]struct {
		order lookupdtest.Order
		most  int // a day, of three lookupds
	}{
		"dead":            {lookupdtest.Refuse(), 500},
		"hung":            {lookupdtest.Hang(), 500},
		"another reasons": {lookupdtest.Observe(func(lookupdtest.Command) {}), 500},
		"crashing":        {lookupdtest.On("PING", lookupdtest.Drop()), 1000},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				var log logBuffer
				var dials atomic.Uint64
				s := newScene(t, 3, log.infoOf, func(o *Options) {
					dial := o.Dial
					o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
						if name == "another reasons" {
							return nil, []error{io.EOF, net.ErrClosed, os.ErrPermission}[dials.Inc()%3]
						}
						return dial(ctx, network, address)
					}
				})
				for _, lookupd := range s.lookupds {
					lookupd.Do(tt.order)
				}
				s.run()
				time.Sleep(time.Hour)
				first := len(log.lines("msg="))
				time.Sleep(2 * time.Hour)
				require.Less(t, first+(len(log.lines("msg="))-first)*23/2, tt.most)
				require.Greater(t, len(log.lines("not connected")), 3*6*2, "it is not forgotten")
			})
		})
	}
}

// The last line about a lookupd is not that it is back while it is down.
func TestTheLogSaysThatALookupdFailsAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var log logBuffer
		s := newScene(t, 1, log.infoOf)
		s.run()
		s.registered()
		s.lookupds[0].Do(lookupdtest.On("REGISTER bad", lookupdtest.BadTopic()))
		s.notify(TopicCreated("bad"))
		time.Sleep(10 * time.Second)
		require.Regexp(t, `msg="lookupd is back" address=lookupd1.test:4160 after=\S+ failures=1 refused=1\n$`, log.last())
		fail := func(d time.Duration) (lift func()) {
			defer time.Sleep(d)
			defer s.lookupds[0].CloseConnections()
			return s.lookupds[0].Do(lookupdtest.Refuse())
		}
		for i := range 20 {
			lift := fail(20 * time.Second)
			require.True(t, i >= 2 || strings.Contains(log.last(), "connection refused"), log.last())
			lift()
			time.Sleep(10 * time.Second)
			require.Contains(t, log.last(), "lookupd is back")
		}
		require.Less(t, len(log.lines("is back")), 8)
		fail(remindPause + 10*time.Second)
		require.Contains(t, log.last(), "connection refused", "the pause is over")
	})
}

func TestCommandsAreLoggedForThoseWhoDebug(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var log logBuffer
		s := newScene(t, 1, log.watch)
		s.notify(TopicCreated("orders"), ChannelCreated("orders", "mail"))
		s.run()
		s.registered()
		s.notify(ChannelDeleted("orders", "mail"))
		time.Sleep(15 * time.Second)
		synctest.Wait()
		var commands []string
		for _, line := range log.lines(`level=DEBUG msg=command address=lookupd1.test:4160 command=`) {
			_, command, _ := strings.Cut(strings.TrimSpace(line), "command=")
			commands = append(commands, command)
		}
		require.Equal(t, []string{`IDENTIFY topic="" channel=""`, `REGISTER topic=orders channel=mail`, `UNREGISTER topic=orders channel=mail`, `PING topic="" channel=""`}, commands)
	})
}
