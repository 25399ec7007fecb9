package lookuploop

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/internal/registry"
	"github.com/lookuploop/lookuploop/internal/wire"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

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
	m := manyTopics(3000)
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
	require.Equal(t, 1+3000, <-served)
	require.NoError(t, listener.Close())
}

const smallBuffer = 6000

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
