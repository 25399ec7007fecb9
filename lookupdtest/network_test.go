package lookupdtest

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// pair returns the two ends of a connection to peer.test:1.
func pair(t *testing.T, n *Network) (client, server net.Conn) {
	t.Helper()
	l, err := n.listen("peer.test:1", nil)
	require.NoError(t, err)
	defer l.Close()
	client, err = n.Dial(t.Context(), "tcp", "peer.test:1")
	require.NoError(t, err)
	server, err = l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

func readAll(t *testing.T, r io.Reader, n int) string {
	t.Helper()
	data := make([]byte, n)
	_, err := io.ReadFull(r, data)
	require.NoError(t, err)
	return string(data)
}

func write(t *testing.T, w io.Writer, s string) {
	t.Helper()
	n, err := io.WriteString(w, s)
	require.NoError(t, err)
	require.Equal(t, len(s), n)
}

func TestNetworkCarriesBothWaysAtOnce(t *testing.T) {
	for name, set := range map[string]func(*Network){
		"as it is":     func(*Network) {},
		"latency":      func(n *Network) { n.SetLatency(time.Second) },
		"one byte":     func(n *Network) { n.SetBuffer(1) },
		"tiny buffer":  func(n *Network) { n.SetBuffer(7); n.SetLatency(time.Millisecond) },
		"slow":         func(n *Network) { n.SetBandwidth(1000) },
		"slow and far": func(n *Network) { n.SetBandwidth(1 << 20); n.SetLatency(time.Second); n.SetBuffer(300) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *Network) {
				set(n)
				a, b := pair(t, n)
				random := rand.New(rand.NewPCG(1, 2))
				sent := make([]byte, 5000)
				for i := range sent {
					sent[i] = byte(random.Uint32())
				}
				var wg sync.WaitGroup
				for _, conn := range []net.Conn{a, b} {
					wg.Go(func() {
						_, err := conn.Write(sent)
						if err != nil {
							t.Error(err)
						}
					})
					wg.Go(func() {
						got := make([]byte, len(sent))
						_, err := io.ReadFull(conn, got)
						if err != nil || !bytes.Equal(sent, got) {
							t.Errorf("what was read isn't what was written: %v", err)
						}
					})
				}
				wg.Wait()
			})
		})
	}
}

func TestNetworkReadsAndWritesOfManyGoroutines(t *testing.T) {
	n := NewNetwork() // in real time, for the race detector
	n.SetBuffer(100)
	a, b := pair(t, n)
	var wg sync.WaitGroup
	const writers, each = 8, 1000
	var mu sync.Mutex
	var got int
	for range writers {
		wg.Go(func() {
			for range each {
				if _, err := a.Write([]byte("0123456789")); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			data := make([]byte, 33)
			for {
				k, err := b.Read(data)
				mu.Lock()
				got += k
				done := got == writers*each*10
				mu.Unlock()
				if done {
					b.SetReadDeadline(time.Unix(1, 0)) // wakes the others
				}
				if err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, writers*each*10, got)
}

func TestNetworkAddresses(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		a, b := pair(t, n)
		c, _ := pair(t, n)
		require.Equal(t, "peer.test:1", a.RemoteAddr().String())
		require.Equal(t, "peer.test:1", b.LocalAddr().String())
		require.Equal(t, a.LocalAddr(), b.RemoteAddr())
		require.Equal(t, "tcp", a.RemoteAddr().Network())
		require.NotEqual(t, a.LocalAddr(), c.LocalAddr())
	})
	seen := make(map[string]bool)
	for i := range 40_000 {
		seen[clientAddr(i).String()] = true
	}
	require.Len(t, seen, 40_000)
}

func TestNetworkDeadlines(t *testing.T) {
	for name, do := range map[string]func(net.Conn) error{
		"read":  func(conn net.Conn) error { _, err := conn.Read(make([]byte, 2)); return err },
		"write": func(conn net.Conn) error { _, err := conn.Write([]byte("12")); return err },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *Network) {
				n.SetBuffer(1)
				a, b := pair(t, n)
				write(t, b, "x")
				timesOut := func(after time.Duration) {
					t.Helper()
					began := time.Now()
					err := do(a)
					require.ErrorIs(t, err, os.ErrDeadlineExceeded)
					require.True(t, err.(net.Error).Timeout())
					require.Equal(t, after, time.Since(began))
				}
				require.NoError(t, a.SetDeadline(time.Now().Add(-time.Hour))) // past, though something could be done
				timesOut(0)
				require.NoError(t, a.SetDeadline(time.Now()))
				timesOut(0)
				require.NoError(t, a.SetDeadline(time.Time{}))
				require.Equal(t, "x", readAll(t, a, 1))
				require.NoError(t, a.SetDeadline(time.Now().Add(time.Minute)))
				timesOut(time.Minute)
				require.NoError(t, a.SetDeadline(time.Time{}))
				time.AfterFunc(time.Second, func() { a.SetDeadline(time.Now().Add(2 * time.Second)) }) // for what waits already
				timesOut(3 * time.Second)
			})
		})
	}
	t.Run("of the other direction", func(t *testing.T) {
		bubble(t, func(t *testing.T, n *Network) {
			a, b := pair(t, n)
			require.NoError(t, a.SetReadDeadline(time.Now()))
			write(t, a, "x")
			require.NoError(t, b.SetWriteDeadline(time.Now()))
			require.Equal(t, "x", readAll(t, b, 1))
		})
	})
}

func TestNetworkCloseWakesBothEnds(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		n.SetBuffer(1)
		a, b := pair(t, n)
		write(t, b, "x") // the buffer is full
		var reads, writes [2]error
		var wg sync.WaitGroup
		wg.Go(func() { io.ReadAll(a); _, reads[0] = a.Read(make([]byte, 1)) })
		wg.Go(func() { _, writes[0] = a.Write([]byte("12")) })
		wg.Go(func() { _, writes[1] = b.Write([]byte("12")) })
		synctest.Wait()
		require.NoError(t, a.Close())
		require.ErrorIs(t, a.Close(), net.ErrClosed)
		wg.Wait()
		require.ErrorIs(t, reads[0], net.ErrClosed)
		require.ErrorIs(t, writes[0], net.ErrClosed)
		_, reads[1] = b.Read(make([]byte, 1))
		for _, err := range []error{reads[1], writes[1]} {
			if err != nil && err != io.EOF {
				require.ErrorIs(t, err, syscall.ECONNRESET)
			}
		}
		_, err := a.Write([]byte("1"))
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

func TestNetworkDataBeforeTheEnd(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		n.SetLatency(time.Second)
		a, b := pair(t, n)
		write(t, a, "half of what was meant")
		start := time.Now()
		require.NoError(t, a.Close())
		data, err := io.ReadAll(b)
		require.NoError(t, err)
		require.Equal(t, "half of what was meant", string(data))
		require.Equal(t, time.Second, time.Since(start))
	})
}

func TestNetworkResets(t *testing.T) {
	for name, end := range map[string]func(n *Network, a net.Conn){
		"with input unread": func(_ *Network, a net.Conn) { a.Close() },
		"linger 0":          func(_ *Network, a net.Conn) { io.ReadFull(a, make([]byte, 6)); reset(a) },
		"Network.Reset":     func(n *Network, a net.Conn) { n.Reset("peer.test") },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *Network) {
				a, b := pair(t, n)
				write(t, a, "never read")
				write(t, b, "unread")
				end(n, a)
				_, err := b.Read(make([]byte, 1))
				require.ErrorIs(t, err, syscall.ECONNRESET)
				_, err = b.Write([]byte("1"))
				require.ErrorIs(t, err, syscall.ECONNRESET)
			})
		})
	}
	t.Run("late input", func(t *testing.T) {
		bubble(t, func(t *testing.T, n *Network) {
			n.SetLatency(time.Second)
			a, b := pair(t, n)
			write(t, a, "read too late")
			require.NoError(t, a.Close())
			write(t, b, "nobody reads it")
			time.Sleep(2 * time.Second) // there and back
			_, err := b.Read(make([]byte, 1))
			require.ErrorIs(t, err, syscall.ECONNRESET)
		})
	})
	t.Run("only those named", func(t *testing.T) {
		bubble(t, func(t *testing.T, n *Network) {
			a, b := pair(t, n)
			n.NewUnstartedServer("other.test:1")
			n.NewUnstartedServer("peer.test:1") // and its HTTP, at 2
			n.Reset("other.test", "peer.test:2")
			write(t, a, "x")
			require.Equal(t, "x", readAll(t, b, 1))
			n.Reset()
			_, err := a.Read(make([]byte, 1))
			require.ErrorIs(t, err, syscall.ECONNRESET)
		})
	})
}

func TestNetworkLatencyAndBandwidth(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		n.SetLatency(3 * time.Second)
		start := time.Now()
		a, b := pair(t, n)
		require.Equal(t, 6*time.Second, time.Since(start), "there and back")

		start = time.Now()
		write(t, a, "hello")
		require.Zero(t, time.Since(start), "a write doesn't wait for its arrival")
		require.Equal(t, "hello", readAll(t, b, 5))
		require.Equal(t, 3*time.Second, time.Since(start))

		n.SetBandwidth(1000)
		start = time.Now()
		write(t, b, strings.Repeat("x", 10_000))
		readAll(t, a, 1)
		require.Equal(t, 3*time.Second+segmentSize*time.Millisecond, time.Since(start), "the first comes before the last")
		readAll(t, a, 9999)
		require.Equal(t, 13*time.Second, time.Since(start))

		n.SetBandwidth(0)
		write(t, a, "first")
		n.SetLatency(0)
		write(t, a, "second")
		require.Equal(t, "firstsecond", readAll(t, b, 11))
	})
}

func TestNetworkDial(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		dial := func(timeout time.Duration, network, address string) (time.Duration, error) {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			start := time.Now()
			conn, err := n.Dial(ctx, network, address)
			if err == nil {
				conn.Close()
			}
			return time.Since(start), err
		}
		s := n.NewServer("lookupd.test:4160")
		defer s.Close()
		n.SetLatency(time.Second)

		took, err := dial(time.Minute, "tcp", "nobody.test:1")
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		require.EqualError(t, err, "dial tcp nobody.test:1: connect: connection refused")
		require.Equal(t, 2*time.Second, took)

		_, err = dial(time.Minute, "udp", "lookupd.test:4160")
		require.ErrorContains(t, err, "unknown network udp")

		took, err = dial(1500*time.Millisecond, "tcp", "lookupd.test:4160")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 1500*time.Millisecond, took)

		heal := n.Partition("lookupd.test:4160")
		took, err = dial(time.Hour, "tcp", "lookupd.test:4160")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Hour, took)
		time.AfterFunc(time.Minute, heal)
		_, err = dial(time.Hour, "tcp", "lookupd.test:4160")
		require.NoError(t, err)

		s.Stop()
		_, err = dial(time.Minute, "tcp", "lookupd.test:4160")
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		s.Start()
		_, err = dial(time.Minute, "tcp", "lookupd.test:4160")
		require.NoError(t, err)
	})
}

// A connection that nobody accepted is reset when its listener closes.
func TestNetworkListenerClose(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		l, err := n.listen("peer.test:1", nil)
		require.NoError(t, err)
		_, err = n.listen("peer.test:1", nil)
		require.ErrorIs(t, err, syscall.EADDRINUSE)
		conn, err := n.Dial(t.Context(), "tcp", "peer.test:1")
		require.NoError(t, err)
		defer conn.Close()
		l.Close()
		_, err = conn.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		_, err = l.Accept()
		require.ErrorIs(t, err, net.ErrClosed)
		require.Panics(t, func() { n.NewServer("no port") })
		require.Panics(t, func() { n.NewServer("lookupd.test:65535") })
	})
}

func TestNetworkForgetsClosedConnections(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		s := n.NewServer("lookupd.test:4160")
		for range 10 {
			c := dial(t, s)
			c.identify()
			c.Close()
		}
		resp, err := n.Client().Get("http://lookupd.test:4161/topics")
		require.NoError(t, err)
		resp.Body.Close()
		s.Close()
		synctest.Wait() // for the client's goroutines
		require.Empty(t, n.links)
		require.Empty(t, n.listeners)
	})
}

// A whole conversation in virtual time: what each step takes is known to the nanosecond.
func TestNetworkConversationWithLatency(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		n.SetLatency(50 * time.Millisecond)
		const roundTrip = 100 * time.Millisecond
		s := n.NewServer("lookupd.test:4160")
		defer s.Close()
		start := time.Now()
		took := func(want time.Duration) {
			t.Helper()
			require.Equal(t, want, time.Since(start))
			start = time.Now()
		}
		conn, err := n.Dial(t.Context(), "tcp", "lookupd.test:4160")
		require.NoError(t, err)
		defer conn.Close()
		c := newClient(t, conn)
		took(roundTrip)
		c.identify()
		took(roundTrip)
		c.send(strings.Repeat("REGISTER orders mail\n", 1000))
		for range 1000 {
			c.expect("OK")
		}
		took(roundTrip) // pipelined
		require.Equal(t, []string{"10.0.0.1:32768"}, remotes(t, n))
		took(2 * roundTrip) // HTTP: connect, ask

		s.Do(Delay(time.Second))
		c.do("PING", "OK")
		took(roundTrip + time.Second)
		s.Stop()
		_, err = c.response()
		require.ErrorIs(t, err, syscall.ECONNRESET)
		took(roundTrip / 2)
	})
}

// remotes returns the remote addresses that /lookup shows for the topic orders.
func remotes(t *testing.T, n *Network) []string {
	resp, err := n.Client().Get("http://lookupd.test:4161/lookup?topic=orders")
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	var found []string
	for _, producer := range decodeJSON[struct{ Producers []peerInfo }](t, resp.Body).Producers {
		found = append(found, producer.RemoteAddress)
	}
	return found
}
