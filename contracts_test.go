package lookuploop

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/internal/nsqdat/nsqdattest"
)

// oddAddress is that of the lookupd that suffers from the contracts.
const oddAddress = "10.0.0.2:4160"

// contracts are ways in which what an embedder hands in can be odd. Others have a
// test of their own below. hold returns when the test lets it, whatever the
// context says.
var contracts = map[string]struct {
	edit  func(o *Options, hold func())
	waits bool   // the end waits for it, as the comment of Run says
	says  string // in Status
}{
	"Dial returns a nil connection with a type": {
		edit: dials(func(conn net.Conn, _ func()) (net.Conn, error) { conn.Close(); return (*net.TCPConn)(nil), nil }),
		says: "10.0.0.2:4160: dial: Options.Dial returned a nil *net.TCPConn and no error",
	},
	"Dial returns a nil connection of TLS": {
		edit: dials(func(conn net.Conn, _ func()) (net.Conn, error) { conn.Close(); return (*tls.Conn)(nil), nil }),
		says: "10.0.0.2:4160: dial: Options.Dial returned a nil *tls.Conn and no error",
	},
	"Dial returns a nil error with a type": {
		edit: dials(func(conn net.Conn, _ func()) (net.Conn, error) { conn.Close(); return conn, (*net.OpError)(nil) }),
		says: "10.0.0.2:4160: dial: Options.Dial returned a nil *net.OpError as its error",
	},
	"Dial returns an error that would panic": {
		edit: dials(func(conn net.Conn, _ func()) (net.Conn, error) { conn.Close(); return nil, (*statusFault)(nil) }),
		says: "10.0.0.2:4160: dial: Options.Dial returned a nil *lookuploop.statusFault as its error",
	},
	"Dial returns a connection and an error": {
		edit: dials(func(conn net.Conn, _ func()) (net.Conn, error) {
			return conn, errors.Join(conn.Close(), os.ErrPermission)
		}),
		says: "10.0.0.2:4160: dial: permission denied",
	},
	"Dial returns a closed connection": {
		edit: dials(func(conn net.Conn, _ func()) (net.Conn, error) { return conn, conn.Close() }),
		says: "10.0.0.2:4160: IDENTIFY: ",
	},
	"Dial returns a connection without deadlines": {
		edit: dials(func(conn net.Conn, _ func()) (net.Conn, error) { return noDeadlinesConn{conn}, nil }),
		says: "10.0.0.2:4160: IDENTIFY: Options.Dial returned a connection that can't do deadlines: ssh: tcpChan: deadline not supported",
	},
	"Dial returns a connection that writes a part": {
		edit: dials(func(conn net.Conn, _ func()) (net.Conn, error) { return partConn{conn, "IDENTIFY"}, nil }),
		says: "10.0.0.2:4160: IDENTIFY: Options.Dial returned a connection that wrote ",
	},
	"Dial returns a connection that writes a part later": {
		edit: dials(func(conn net.Conn, _ func()) (net.Conn, error) { return partConn{conn, "REGISTER topic0"}, nil }),
		says: "10.0.0.2:4160: REGISTER: Options.Dial returned a connection that wrote 8 of 16 bytes: short write",
	},
	"Dial returns a connection whose Close blocks": {
		edit:  dials(func(conn net.Conn, hold func()) (net.Conn, error) { return heldConn{conn, hold}, nil }),
		waits: true,
	},
	"Resolver ignores its context": {
		edit:  resolves(func(hold func()) ([]netip.Addr, error) { hold(); return nil, nil }),
		waits: true,
	},
	"Resolver returns a nil error with a type": {
		edit: resolves(func(func()) ([]netip.Addr, error) { return nil, (*statusFault)(nil) }),
		says: "odd.test:4160: resolve: Options.Resolver returned a nil *lookuploop.statusFault as its error",
	},
	"Resolver returns an error that moves the cursor": {
		edit: resolves(func(func()) ([]netip.Addr, error) { return nil, errors.New("\x1b[31m\nred") }),
		says: `odd.test:4160: resolve: \x1b[31m\nred`,
	},
	"Resolver returns thousands of addresses": {
		edit: resolves(func(func()) ([]netip.Addr, error) { return manyIPs(500), nil }),
		says: "odd.test:4160: resolve: the name leads to 500 addresses, of which 64 are used",
	},
	"HTTPClient ignores the context": {
		edit:  asks(func(hold func()) (*http.Response, error) { hold(); return nil, net.ErrClosed }),
		waits: true,
	},
	"HTTPClient returns nothing": {
		edit: asks(func(func()) (*http.Response, error) { return nil, nil }),
		says: "10.0.0.2:4160: verification: ",
	},
	"Logger blocks at a lookupd":           {edit: logs("address=" + oddAddress), waits: true},
	"Logger blocks at a name":              {edit: logs("can't be resolved", failsToResolve), waits: true},
	"Logger blocks at a verification":      {edit: logs("verification found a problem"), waits: true},
	"Logger blocks at what Run says first": {edit: logs("a loopback address", announcesLoopback), waits: true},
}

// TestContracts holds what the comments say of what embedders hand in: nothing
// waits for it but one lookupd of two, and the end.
func TestContracts(t *testing.T) {
	for name, tt := range contracts {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				const bound = 2 * time.Second
				release := make(chan struct{})
				hasClient := false
				s := newScene(t, 0, func(o *Options) {
					dns := new(fakeResolver)
					dns.knows("odd.test", "10.0.0.2")
					o.LookupdTCPAddresses = []string{"10.0.0.1:4160", "odd.test:4160"}
					o.ResolveInterval, o.Resolver = time.Minute, dns
					o.VerifyInterval, o.DataPath = time.Minute, "data"
					tt.edit(o, func() { <-release })
					hasClient = o.HTTPClient != nil
				})
				healthy, odd := s.network.NewServer("10.0.0.1:4160"), s.network.NewServer(oddAddress)
				t.Cleanup(healthy.Close)
				t.Cleanup(odd.Close)
				if !hasClient {
					s.loop.opts.HTTPClient = s.network.Client()
				}
				s.loop.dialBroker = func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed } // a finding
				s.loop.disk = nsqdattest.NewDisk(nil)
				_, err := s.loop.LoadMetadata()
				require.NoError(t, err)

				s.run()
				for i, pause := range []time.Duration{0, 10 * time.Minute} {
					time.Sleep(pause)
					began, topic := time.Now(), fmt.Sprint("topic", i)
					s.notify(TopicCreated(topic))
					require.Zero(t, time.Since(began), "Notify waits for nobody")
					ctx, cancel := context.WithTimeout(t.Context(), bound)
					require.NoError(t, healthy.Wait(ctx, func() bool { return len(healthy.Producers(topic, "")) == 1 }))
					require.NoError(t, s.loop.PersistMetadata(ctx))
					cancel()
				}
				status := s.loop.Status()
				require.EqualValues(t, 1, status.Lookupds[0].Connects)
				require.Zero(t, status.Lookupds[0].Failures)
				require.Contains(t, troubles(status), tt.says)
				require.LessOrEqual(t, librarysGoroutines(), 100, "one for each of 64 addresses, and some")

				ctx, cancel := context.WithTimeout(t.Context(), bound)
				defer cancel()
				if err := s.loop.Drain(ctx); err != nil {
					require.True(t, tt.waits)
					require.ErrorContains(t, err, "not left yet: "+oddAddress)
				}
				closed := make(chan error, 1)
				go func() { closed <- s.loop.Close() }()
				if tt.waits {
					time.Sleep(time.Hour)
					require.Empty(t, closed)
					require.ErrorIs(t, s.loop.Notify(TopicCreated("late")), ErrClosed)
				}
				began := time.Now()
				close(release)
				require.NoError(t, <-closed)
				require.LessOrEqual(t, time.Since(began), bound)
				synctest.Wait()
				require.Zero(t, librarysGoroutines())
				require.Zero(t, healthy.Connections()+odd.Connections())
			})
		})
	}
}

// dials makes Dial return what odd makes of a connection to the odd lookupd.
func dials(odd func(conn net.Conn, hold func()) (net.Conn, error)) func(*Options, func()) {
	return func(o *Options, hold func()) {
		dial := o.Dial
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			if err != nil || address != oddAddress {
				return conn, err
			}
			return odd(conn, hold)
		}
	}
}

func resolves(odd func(hold func()) ([]netip.Addr, error)) func(*Options, func()) {
	return func(o *Options, hold func()) {
		o.Resolver = resolverFunc(func() ([]netip.Addr, error) { return odd(hold) })
	}
}

type resolverFunc func() ([]netip.Addr, error)

func (f resolverFunc) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) { return f() }

func (f resolverFunc) LookupSRV(context.Context, string, string, string) (string, []*net.SRV, error) {
	return "", nil, nil
}

func manyIPs(n int) (ips []netip.Addr) {
	for i := range n {
		ips = append(ips, netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	return ips
}

// asks makes HTTPClient return what odd does for a request to the odd lookupd.
func asks(odd func(hold func()) (*http.Response, error)) func(*Options, func()) {
	return func(o *Options, hold func()) {
		o.HTTPClient = &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) { return odd(hold) })}
	}
}

// logs makes the Logger block at lines that have the text.
func logs(text string, more ...func(*Options)) func(*Options, func()) {
	return func(o *Options, hold func()) {
		for _, edit := range more {
			edit(o)
		}
		o.Logger = slog.New(handlerFunc(func(r slog.Record) {
			line := r.Message
			r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
			if strings.Contains(line, text) {
				hold()
			}
		}))
	}
}

func failsToResolve(o *Options) { o.Resolver = new(fakeResolver) }

func announcesLoopback(o *Options) { o.BroadcastAddress = "127.0.0.1" }

// TestLoggerMayCallTheLoop: no lock is held when something is logged.
func TestLoggerMayCallTheLoop(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var loop *Loop
		var lines atomic.Int64
		lookupds := []string{"10.0.0.1:4160", "unknown.test:1"}
		s := newScene(t, 0, addresses(lookupds...), func(o *Options) {
			o.ResolveInterval, o.Resolver, o.DataPath = time.Minute, new(fakeResolver), "data"
			o.BroadcastAddress = "127.0.0.1"
			o.Logger = slog.New(handlerFunc(func(slog.Record) {
				lines.Add(1)
				loop.Notify(TopicCreated("logged"), TopicDeleted("logged"))
				loop.Status()
				loop.Metadata()
				loop.Registered(0)
				loop.SetLookupdTCPAddresses(lookupds)
			}))
		})
		loop = s.loop
		lookupd := s.network.NewServer(lookupds[0])
		t.Cleanup(lookupd.Close)
		disk := nsqdattest.NewDisk(map[string]string{"nsqd.dat": `{"topics":[{"name":"no name"}]}`})
		loop.disk = disk
		_, err := loop.LoadMetadata() // which warns
		require.NoError(t, err)
		disk.Order(func(step string) nsqdattest.Fault { return nsqdattest.Fault{Err: os.ErrPermission} })
		s.run()
		require.Error(t, loop.PersistMetadata(t.Context()))
		disk.Order(nil)
		require.NoError(t, loop.WaitRegistered(t.Context(), 1))
		lookupd.CloseConnections()
		time.Sleep(time.Minute)
		require.NoError(t, s.end())
		require.Greater(t, lines.Load(), int64(7))
	})
}

// TestLoggerThatBlocksAtNsqdDat: nsqd.dat waits for it, and with it the end.
func TestLoggerThatBlocksAtNsqdDat(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		release := make(chan struct{})
		s := newScene(t, 1, func(o *Options) {
			o.DataPath = "data"
			logs("metadata can't be written")(o, func() { <-release })
		})
		disk := nsqdattest.NewDisk(nil)
		s.loop.disk = disk
		_, err := s.loop.LoadMetadata()
		require.NoError(t, err)
		disk.Order(func(string) nsqdattest.Fault { return nsqdattest.Fault{Err: os.ErrPermission} })
		s.run()
		synctest.Wait()
		disk.Order(nil)
		s.notify(TopicCreated("orders"))
		s.registered()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		require.ErrorIs(t, s.loop.PersistMetadata(ctx), context.DeadlineExceeded)
		closed := make(chan error, 1)
		go func() { closed <- s.loop.Close() }()
		time.Sleep(time.Hour)
		require.Empty(t, closed)
		close(release)
		require.NoError(t, <-closed)
		require.False(t, s.loop.Status().Metadata.Dirty)
	})
}

// TestOnStateChangeThatBlocks is about a callback that doesn't return: it
// keeps its own lookupd from hearing anything, and Run from returning.
func TestOnStateChangeThatBlocks(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		release := make(chan struct{})
		s := newScene(t, 2, func(o *Options) {
			o.OnStateChange = func(status LookupdStatus) {
				if status.Address == "lookupd2.test:4160" && status.State == Connected {
					<-release
				}
			}
		})
		heard := listen(s.lookupds[1])
		s.run()
		synctest.Wait()
		for i := range 1000 {
			s.notify(TopicCreated(fmt.Sprint("topic", i)))
		}
		require.NoError(t, s.loop.WaitRegistered(t.Context(), 1))
		require.Len(t, s.lookupds[0].Topics(), 1000)
		require.Equal(t, []string{"IDENTIFY"}, heard())
		require.NoError(t, s.loop.SetLookupdTCPAddresses(nil), "nothing waits for the callback")

		ended := make(chan error, 1)
		go func() { ended <- s.end() }()
		time.Sleep(time.Hour)
		require.Empty(t, ended, "Run waits for the callback")
		require.ErrorIs(t, s.loop.Notify(TopicCreated("late")), ErrClosed)
		close(release)
		require.NoError(t, <-ended)
	})
}

// TestWaitRegisteredInOnStateChange is about the one call that waits for the
// goroutine that makes it: it ends with its context, and nothing is broken.
func TestWaitRegisteredInOnStateChange(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var loop *Loop
		var results []error
		s := newScene(t, 1, func(o *Options) {
			o.OnStateChange = func(status LookupdStatus) {
				if status.State == Connected {
					ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
					defer cancel()
					results = append(results, loop.WaitRegistered(ctx, 0))
				}
			}
		})
		loop = s.loop
		s.run()
		s.registered()
		require.Len(t, results, 1)
		require.ErrorIs(t, results[0], context.DeadlineExceeded)
		require.ErrorContains(t, results[0], "lookupd1.test:4160 has just connected, or OnStateChange has not returned")
	})
}

// TestDialThatReturnsNothing is about a Dial that forgets its error.
func TestDialThatReturnsNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var healthy atomic.Bool
		s := newScene(t, 1, func(o *Options) {
			dial := o.Dial
			o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				if !healthy.Load() {
					return nil, nil
				}
				return dial(ctx, network, address)
			}
		})
		s.run()
		time.Sleep(time.Minute)
		status := s.status(1)
		require.Equal(t, Disconnected, status.State)
		require.ErrorContains(t, status.LastError, "lookupd1.test:4160: dial: Options.Dial returned neither connection nor error")
		require.NotZero(t, status.Failures)
		require.Zero(t, status.Connects)

		healthy.Store(true)
		s.notify(TopicCreated("orders"))
		s.registered()
		require.Equal(t, []string{"orders"}, announced(s.lookupds[0]))
		require.NoError(t, s.status(1).LastError)
	})
}

// TestDialThatIgnoresItsContext is about a Dial that returns when it likes: it
// keeps its own lookupd from hearing anything, and Run from returning.
func TestDialThatIgnoresItsContext(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		release := make(chan struct{})
		s := newScene(t, 2, func(o *Options) {
			dial := o.Dial
			o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				if address == "lookupd2.test:4160" {
					<-release
					ctx = context.Background()
				}
				return dial(ctx, network, address)
			}
		})
		heard := listen(s.lookupds[1])
		s.run()
		for i := range 1000 {
			s.notify(TopicCreated(fmt.Sprint("topic", i)))
		}
		require.NoError(t, s.loop.WaitRegistered(t.Context(), 1))
		require.Len(t, s.lookupds[0].Topics(), 1000)
		time.Sleep(time.Hour)
		require.Equal(t, Connected, s.status(1).State)
		require.Equal(t, Connecting, s.status(2).State)
		require.EqualError(t, s.loop.Registered(2), "lookuploop: not registered: lookupd2.test:4160 is connecting (dial: Options.Dial has not returned for 1h0m0s, although its context ended after 1s)")
		require.Equal(t, 1000, s.status(2).Pending)

		require.NoError(t, s.loop.SetLookupdTCPAddresses(nil), "nothing waits for Dial")
		synctest.Wait()
		require.Empty(t, announced(s.lookupds[0]))

		ended := make(chan error, 1)
		go func() { ended <- s.end() }()
		time.Sleep(time.Hour)
		require.Empty(t, ended, "Run waits for Dial")
		require.ErrorIs(t, s.loop.Notify(TopicCreated("late")), ErrClosed)
		close(release)
		require.NoError(t, <-ended)
		synctest.Wait()
		require.Zero(t, s.lookupds[1].Connections(), "what Dial made is closed")
		require.NotContains(t, strings.Join(heard(), ","), "REGISTER")
	})
}
