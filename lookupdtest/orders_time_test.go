package lookupdtest

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// All connections together get what a Rate gives, each its share.
func TestRate(t *testing.T) {
	for _, tt := range []struct{ rate, connections, each int }{
		{1, 1, 3}, {100, 1, 200}, {100, 10, 20}, {1000, 50, 100}, {40_000, 4, 10_000},
	} {
		bubble(t, func(t *testing.T, n *Network) {
			s := n.NewServer("lookupd.test:4160")
			defer s.Close()
			clients := make([]*client, tt.connections)
			for i := range clients {
				clients[i] = longDial(t, s)
				clients[i].identify()
			}
			s.Do(Rate(tt.rate))
			clients[0].do("PING", "OK")
			time.Sleep(time.Hour) // which earns nothing
			start := time.Now()
			for _, c := range clients {
				c.send(strings.Repeat("PING\n", tt.each))
			}
			for round := 1; round <= tt.each; round++ { // one for each, before the next for any
				for _, c := range clients {
					c.expect("OK")
				}
				due := time.Duration(round*tt.connections) * time.Second / time.Duration(tt.rate)
				require.Equal(t, due, time.Since(start))
			}
		})
	}
}

func TestRateOfSomeCommandsUntilLifted(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		order := On("REGISTER", Rate(1))
		s, other := n.NewServer("lookupd.test:4160"), n.NewServer("other.test:4160")
		defer s.Close()
		defer other.Close()
		c, b := longDial(t, s), longDial(t, other)
		c.identify()
		b.identify()
		lift := s.Do(order)
		other.Do(order)
		start := time.Now()
		c.send(strings.Repeat("PING\n", 10) + strings.Repeat("REGISTER orders\n", 100))
		b.send("REGISTER orders\n")
		for range 10 {
			c.expect("OK")
		}
		require.Zero(t, time.Since(start), "a PING takes no turn")
		c.expect("OK")
		b.expect("OK")
		require.Equal(t, time.Second, time.Since(start), "each server has a rate of its own")
		lift()
		for range 99 {
			c.expect("OK")
		}
		require.Equal(t, time.Second, time.Since(start))
	})
}

// What an order holds when the connection ends is not carried out.
func TestHeldUntilTheEnd(t *testing.T) {
	for name, order := range map[string]Order{"delay": Delay(time.Hour), "half-open": HalfOpen(), "hang": Hang(), "rate": Rate(1)} {
		t.Run(name, func(t *testing.T) {
			withClient(t, func(t *testing.T, s *Server, c *client) {
				s.Do(order)
				c.send("REGISTER orders\n")
				synctest.Wait()
				s.CloseConnections()
				synctest.Wait()
				require.Zero(t, s.Connections())
				require.Empty(t, s.Topics())
			})
		})
	}
}

func TestDelay(t *testing.T) {
	withClient(t, func(t *testing.T, s *Server, c *client) {
		lift := s.Do(On("REGISTER", Delay(time.Second)))
		start := time.Now()
		c.send("PING\nREGISTER a\nREGISTER b\nREGISTER c\n")
		c.expect("OK")
		require.Zero(t, time.Since(start), "the answer before isn't kept back")
		c.expect("OK", "OK")
		require.Equal(t, 2*time.Second, time.Since(start))
		lift()
		c.expect("OK")
		require.Equal(t, 2*time.Second, time.Since(start))
	})
}

func TestDrip(t *testing.T) {
	withClient(t, func(t *testing.T, s *Server, c *client) {
		lift := s.Do(Drip(time.Second))
		start := time.Now()
		c.send("PING\n")
		for i := range 6 {
			readAll(t, c.r, 1)
			require.Equal(t, time.Duration(i+1)*time.Second, time.Since(start))
		}
		c.send("PING\n")
		readAll(t, c.r, 1)
		lift()
		require.Equal(t, "\x00\x00\x02OK", readAll(t, c.r, 5))
		require.Equal(t, 7*time.Second, time.Since(start))
	})
}

func TestHang(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		n.SetBuffer(100)
		s := n.NewServer("lookupd.test:4160")
		defer s.Close()
		c := longDial(t, s)
		c.identify()
		c.do("REGISTER before", "OK")
		lift := s.Do(Hang())
		c.send(strings.Repeat("REGISTER orders\n", 1000)) // is read, or it would wait
		c.mute(time.Hour)
		fresh := longDial(t, s)
		fresh.send(magicIdentify("broker.test", 4150))
		fresh.mute(time.Hour)
		require.Equal(t, []string{"before"}, s.Topics())
		lift()
		for range 1000 {
			c.expect("OK")
		}
		require.Equal(t, []string{"before", "orders"}, s.Topics())
		_, err := fresh.response()
		require.NoError(t, err)

		s.Do(Hang())
		c.send("REGISTER late\n")
		synctest.Wait()
		c.Close()
		synctest.Wait()
		require.Equal(t, 1, s.Connections(), "a hung connection that the client closes is forgotten")
		require.Empty(t, s.Producers("orders", ""))
		require.Equal(t, []string{"before", "orders"}, s.Topics())
	})
}

// A connection that hangs takes no more memory than hangLimit.
func TestHangIsBounded(t *testing.T) {
	withClient(t, func(t *testing.T, s *Server, c *client) {
		lift := s.Do(Hang())
		go func() {
			for {
				if _, err := c.Write([]byte(strings.Repeat("PING\n", 10_000))); err != nil {
					return
				}
			}
		}()
		synctest.Wait()
		for c := range s.conns {
			require.Less(t, len(c.held), hangLimit+2*maxLine)
			require.GreaterOrEqual(t, len(c.held), hangLimit)
		}
		lift()
		for range 1000 {
			c.expect("OK")
		}
	})
}

func TestHalfOpen(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		n.SetBuffer(100)
		s := n.NewServer("lookupd.test:4160")
		defer s.Close()
		c := longDial(t, s)
		c.identify()
		c.do("REGISTER orders", "OK")
		s.Do(HalfOpen())
		require.NoError(t, c.SetWriteDeadline(time.Now().Add(time.Hour)))
		written, err := io.WriteString(c, strings.Repeat("PING\n", 10_000))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Less(t, written, maxLine+200)
		c.mute(time.Hour)
		c.Close()
		synctest.Wait()
		require.Equal(t, []string{"broker.test:4150"}, s.Producers("orders", ""), "nobody noticed")
	})
}

func TestBlackhole(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		s := n.NewServer("lookupd.test:4160")
		defer s.Close()
		present := longDial(t, s)
		present.identify()
		lift := s.Do(Blackhole())
		present.send("PING\n")
		present.mute(time.Hour)
		dialing := func(timeout time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			conn, err := n.Dial(ctx, "tcp", s.TCPAddress)
			if err == nil {
				conn.Close()
			}
			return err
		}
		start := time.Now()
		require.ErrorIs(t, dialing(time.Minute), context.DeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(start))

		time.AfterFunc(time.Minute, lift)
		start = time.Now()
		require.NoError(t, dialing(time.Hour))
		require.Equal(t, time.Minute, time.Since(start))
		present.expect("OK")

		s.Do(Blackhole())
		time.AfterFunc(time.Minute, s.Stop)
		require.ErrorIs(t, dialing(time.Hour), syscall.ECONNREFUSED)
	})
}

func TestBlackholeOnRealTCP(t *testing.T) {
	s := NewServer()
	defer s.Close()
	lift := s.Do(Blackhole())
	c := dial(t, s)
	eventually(t, s, func() bool { return s.Connections() == 1 })
	c.send(magicIdentify("broker.test", 4150))
	require.NoError(t, c.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	_, err := c.response()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
	lift()
	_, err = c.response()
	require.NoError(t, err)
}

func TestCloseIdle(t *testing.T) {
	for name, configure := range map[string]func(*Server) func(net.Conn) net.Conn{
		"plain": func(*Server) func(net.Conn) net.Conn { return func(c net.Conn) net.Conn { return c } },
		"TLS": func(s *Server) func(net.Conn) net.Conn {
			s.TLS = &tls.Config{Certificates: []tls.Certificate{certificate(t)}}
			return func(c net.Conn) net.Conn { return tls.Client(c, &tls.Config{InsecureSkipVerify: true}) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *Network) {
				s := n.NewUnstartedServer("lookupd.test:4160")
				wrap := configure(s)
				s.Start()
				defer s.Close()
				open := func() *client { return newClient(t, wrap(longDial(t, s).Conn)) }
				before := open()
				before.identify()
				lift := s.Do(CloseIdle(15 * time.Second))
				before.mute(time.Hour) // the server waited for it already
				c := open()
				c.identify()
				c.do("REGISTER orders", "OK")
				for range 100 {
					c.mute(15*time.Second - 1)
					c.do("PING", "OK")
				}
				start := time.Now()
				c.expectEnd()
				require.Equal(t, 15*time.Second, time.Since(start))
				eventually(t, s, func() bool { return len(s.Producers("orders", "")) == 0 })

				before.do("PING", "OK")
				lift()
				before.mute(time.Hour)
				before.do("PING", "OK")
				before.mute(time.Hour)
			})
		})
	}
}

// A connection that hangs is not idle, and is still closed for being so after it.
func TestCloseIdleAndHang(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		s := n.NewServer("lookupd.test:4160")
		defer s.Close()
		s.Do(CloseIdle(time.Minute))
		c := longDial(t, s)
		c.identify()
		lift := s.Do(Hang())
		c.send("PING\n")
		c.mute(time.Hour)
		lift()
		c.expect("OK")
		start := time.Now()
		c.expectEnd()
		require.Equal(t, time.Minute, time.Since(start))
	})
}
