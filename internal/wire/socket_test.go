package wire

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/atomic"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

// scriptedConn gives out what was prepared, one string for each Read, and after
// it, if it is empty or ends with an exclamation mark, that its time is over.
type scriptedConn struct {
	net.Conn // nil: nothing else is called
	script   []string
}

func (c *scriptedConn) SetReadDeadline(time.Time) error { return nil }

func (c *scriptedConn) Read(p []byte) (n int, err error) {
	said, isOver := strings.CutSuffix(c.script[0], "!")
	c.script = c.script[1:]
	if isOver || said == "" {
		err = os.ErrDeadlineExceeded
	}
	return copy(p, said), err
}

func TestSocketLooksOnceForEachDeadline(t *testing.T) {
	s := socket{Conn: &scriptedConn{script: []string{"", "a", "", "", "b", "", "", "c!", ""}}}
	p := make([]byte, 1)
	for _, want := range []string{"a", "b", "c"} {
		s.expect(time.Now())
		n, err := s.Read(p)
		require.NoError(t, err)
		require.Equal(t, want, string(p[:n]))
		_, err = s.Read(p)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	}
}

// TestDeadlineThatIsSetWhileTheSocketIsRead is for the race detector.
func TestDeadlineThatIsSetWhileTheSocketIsRead(t *testing.T) {
	s := socket{Conn: &scriptedConn{script: make([]string, 2000)}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 1000 { // each looks once more at most
			_, err := s.Read(nil)
			assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
		}
	}()
	for range 1000 {
		require.NoError(t, s.expect(time.Now()))
		runtime.Gosched()
	}
	<-done
}

// countedConn counts its ends, as one that Dial returned may.
type countedConn struct {
	net.Conn
	inner  func() net.Conn
	closed int
}

func (c *countedConn) NetConn() net.Conn { return c.inner() }

func (c *countedConn) Close() error {
	c.closed++
	return c.Conn.Close()
}

func TestCloseEndsWhatWasDialed(t *testing.T) {
	for name, inner := range map[string]func(*countedConn) net.Conn{
		"a wrapper":                   func(c *countedConn) net.Conn { return c.Conn },
		"one that wraps itself":       func(c *countedConn) net.Conn { return c },
		"one that has nothing inside": func(*countedConn) net.Conn { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				k := newTalk(t)
				dialed := &countedConn{Conn: k.socket.Conn}
				dialed.inner = func() net.Conn { return inner(dialed) }
				k.socket.Conn = dialed
				k.identified(t)
				k.Close()
				<-k.Done() // it closes the connection, too
				k.Close()
				require.Equal(t, 1, dialed.closed)
				synctest.Wait()
				require.Zero(t, k.lookupd.Connections())
			})
		})
	}
}

// tls.Conn.Close would say goodbye first, and wait for 5 s until that is taken.
func TestCloseEndsTLSWithoutAGoodbye(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	inside := &countedConn{Conn: ours}
	c := NewConn[int]("lookupd.test:4160", tls.Client(inside, &tls.Config{InsecureSkipVerify: true}), time.Second, 1024)
	c.Close()
	require.Equal(t, 1, inside.closed)
}

// noDeadlinesConn is as a channel of an SSH connection.
type noDeadlinesConn struct {
	net.Conn
	cantRead, cantWrite error
}

func (c noDeadlinesConn) SetReadDeadline(time.Time) error  { return c.cantRead }
func (c noDeadlinesConn) SetWriteDeadline(time.Time) error { return c.cantWrite }

func TestConnectionThatCannotDoDeadlinesIsAnError(t *testing.T) {
	unsupported := errors.New("deadline not supported")
	for name, conn := range map[string]noDeadlinesConn{
		"for reading": {cantRead: unsupported},
		"for writing": {cantWrite: unsupported},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewConn[int]("lookupd.test:4160", conn, time.Second, 1024).Identify(identity)
			require.EqualError(t, err, "lookuploop: lookupd.test:4160: IDENTIFY: Options.Dial returned a connection that can't do deadlines: deadline not supported")
			require.ErrorIs(t, err, unsupported)
		})
	}
}

// fickleConn does deadlines until it doesn't.
type fickleConn struct {
	net.Conn
	left atomic.Int64
}

func (c *fickleConn) SetReadDeadline(t time.Time) error {
	if c.left.Dec() < 0 {
		return errors.New("no more deadlines")
	}
	return c.Conn.SetReadDeadline(t)
}

func TestConnectionThatDoesNoMoreDeadlinesEnds(t *testing.T) {
	for left, name := range []string{"before a command", "after an answer"} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				k := newTalk(t)
				_, err := k.Identify(identity)
				require.NoError(t, err)
				conn := &fickleConn{Conn: k.socket.Conn}
				conn.left.Store(int64(left))
				k.socket.Conn = conn
				lift := k.lookupd.Do(lookupdtest.Delay(time.Millisecond))
				defer lift()
				k.read(t)
				err = k.Send(batchOf("REGISTER a", "REGISTER b"))
				if left > 0 {
					require.NoError(t, err)
					<-k.Done()
					err = k.Err()
				}
				require.ErrorContains(t, err, "lookuploop: lookupd.test:4160: ")
				require.ErrorContains(t, err, "Options.Dial returned a connection that can't do deadlines: no more deadlines")
			})
		})
	}
}

// What closed a connection says more than that nothing can be done with it.
func TestClosedConnectionIsNotTakenForOneWithoutDeadlines(t *testing.T) {
	pipe, theirs := net.Pipe()
	theirs.Close() // which ends the deadlines of a pipe, too
	closedPipe, _ := net.Pipe()
	closedPipe.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	closedSocket, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	closedSocket.Close()
	for conn, want := range map[net.Conn]error{pipe: io.EOF, closedPipe: io.ErrClosedPipe, closedSocket: net.ErrClosed} {
		_, err := NewConn[int]("lookupd.test:4160", conn, time.Second, 1024).Identify(identity)
		require.ErrorIs(t, err, want)
		require.NotContains(t, err.Error(), "deadline")
	}
}
