package lookupdtest

import (
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestNetworkPartition(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		n.SetLatency(time.Second)
		a, b := pair(t, n)
		write(t, a, "arrived")
		time.Sleep(time.Second)
		write(t, a, " kept")
		one, other := n.Partition("peer.test:1"), n.Partition("peer.test")
		write(t, a, " sent")
		require.NoError(t, a.Close())
		require.Equal(t, "arrived", readAll(t, b, 7))
		require.NoError(t, b.SetReadDeadline(time.Now().Add(time.Hour)))
		_, err := b.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)

		one()
		one()
		require.NoError(t, b.SetReadDeadline(time.Now().Add(time.Hour)))
		_, err = b.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, "the other partition stands")
		time.AfterFunc(time.Minute, other)
		start := time.Now()
		require.NoError(t, b.SetReadDeadline(time.Time{}))
		rest, err := io.ReadAll(b)
		require.NoError(t, err)
		require.Equal(t, " kept sent", string(rest))
		require.Equal(t, time.Minute+time.Second, time.Since(start))
	})
}

// A reset sent amid a partition arrives after it, too.
// What is sent at the instant at which a partition began comes behind it.
func TestNetworkPartitionBeginsAtOnce(t *testing.T) {
	for name, send := range map[string]func(net.Conn) error{
		"data":  func(c net.Conn) error { _, err := c.Write([]byte("late")); return err },
		"end":   net.Conn.Close,
		"reset": func(c net.Conn) error { c.(*endpointConn).SetLinger(0); return c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *Network) {
				a, b := pair(t, n)
				write(t, a, "in time")
				heal := n.Partition()
				require.NoError(t, send(a))
				require.Equal(t, "in time", readAll(t, b, len("in time")))
				require.NoError(t, b.SetReadDeadline(time.Now().Add(time.Hour)))
				_, err := b.Read(make([]byte, 1))
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				require.NoError(t, b.SetReadDeadline(time.Time{}))
				heal()
				_, err = b.Read(make([]byte, 1))
				require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
			})
		})
	}
}

func TestNetworkPartitionKeepsResets(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		n.SetLatency(time.Second)
		a, b := pair(t, n)
		time.AfterFunc(time.Minute, n.Partition())
		start := time.Now()
		reset(a)
		_, err := b.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.Equal(t, time.Minute+time.Second, time.Since(start))
		_, err = b.Write([]byte("1"))
		require.ErrorIs(t, err, syscall.ECONNRESET)
	})
}

func TestServersAreNamedByHostOrAddress(t *testing.T) {
	n := NewNetwork()
	s := n.NewUnstartedServer("lookupd.test:4160")
	for _, name := range []string{"lookupd.test", s.TCPAddress, s.HTTPAddress} {
		n.Partition(name)()
		n.Reset(name)
	}
	require.Panics(t, func() { n.Reset("lookupd.test:4162") })
}
