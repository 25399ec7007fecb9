package lookuploop

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/internal/nsqdat/nsqdattest"
	"github.com/lookuploop/lookuploop/internal/registry"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

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
		s.notify(TopicCreated("orders"))
		s.run()
		s.registered()
		require.Len(t, results, 1)
		require.ErrorIs(t, results[0], context.DeadlineExceeded)
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

// panickingChild is the environment variable that makes the test binary be panicInCallback.
const panickingChild = "LOOKUPLOOP_PANIC_IN_CALLBACK"

func init() {
	if os.Getenv(panickingChild) != "" {
		panicInCallback()
		os.Exit(0)
	}
}

func panicInCallback() {
	lookupd := lookupdtest.NewServer()
	opts := validOptions()
	opts.LookupdTCPAddresses = []string{lookupd.TCPAddress}
	opts.OnStateChange = func(LookupdStatus) { panic("the embedder's own fault") }
	loop, err := New(opts)
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	loop.Run(ctx)
}

// TestOnStateChangeThatPanics is about a fault that isn't ours to hide: the
// process ends, as with a panic in any goroutine.
func TestOnStateChangeThatPanics(t *testing.T) {
	binary, err := os.Executable()
	require.NoError(t, err)
	child := exec.CommandContext(t.Context(), binary)
	child.Env = append(os.Environ(), panickingChild+"=1")
	output, err := child.CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 2, exit.ExitCode())
	require.Contains(t, string(output), "panic: the embedder's own fault")
	require.Contains(t, string(output), "panicInCallback", "the trace shows whose it is")
}

// TestNilContext gives nil to each method that takes a context. As in the
// standard library it is a programmer's fault, and a panic where there is no
// error that says it better. Nothing else is harmed.
func TestNilContext(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var none context.Context
		s := newScene(t, 1, func(o *Options) { o.DataPath = "data" })
		s.loop.disk = nsqdattest.NewDisk(nil)
		_, err := s.loop.LoadMetadata()
		require.NoError(t, err)
		require.ErrorContains(t, s.loop.Run(none), "Run needs a context")
		s.run()
		s.registered()

		for range 2 { // with nothing to wait for, and with something
			require.Panics(t, func() { s.loop.WaitRegistered(none, 0) })
			s.notify(TopicCreated("orders"))
		}
		s.loop.disk.(*nsqdattest.Disk).Order(func(string) nsqdattest.Fault { time.Sleep(time.Second); return nsqdattest.Fault{} })
		s.notify(TopicDeleted("orders"))
		require.Panics(t, func() { s.loop.PersistMetadata(none) })
		_, err = s.loop.TopicChannels(none, "orders")
		require.ErrorContains(t, err, "nil Context")

		s.registered()
		require.NoError(t, s.loop.PersistMetadata(t.Context()))
		require.NoError(t, s.end())
	})
}

// TestContextThatHasEnded gives one to each method that waits.
func TestContextThatHasEnded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1, func(o *Options) { o.DataPath = "data"; o.HTTPClient = nil })
		s.loop.opts.HTTPClient = s.network.Client()
		s.loop.disk = nsqdattest.NewDisk(nil)
		_, err := s.loop.LoadMetadata()
		require.NoError(t, err)
		s.notify(TopicCreated("orders"))
		ended, cancel := context.WithCancel(t.Context())
		cancel()

		require.ErrorIs(t, s.loop.WaitRegistered(ended, 0), context.Canceled)
		require.ErrorIs(t, s.loop.PersistMetadata(ended), context.Canceled)
		s.run()
		s.registered()
		require.NoError(t, s.loop.PersistMetadata(t.Context()))

		require.NoError(t, s.loop.WaitRegistered(ended, 0), "there is nothing to wait for")
		require.NoError(t, s.loop.PersistMetadata(ended))
		_, err = s.loop.TopicChannels(ended, "orders")
		require.ErrorIs(t, err, context.Canceled)
	})
}

// TestLongNames is about names as long as NSQ allows.
func TestLongNames(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.run()
		name := strings.Repeat("n", 64)
		ephemeral := strings.Repeat("e", 64-len(registry.EphemeralSuffix)) + registry.EphemeralSuffix
		s.notify(TopicCreated(name), ChannelCreated(name, name), ChannelCreated(name, ephemeral))
		s.notify(TopicCreated(ephemeral), ChannelCreated(ephemeral, name))
		s.registered()
		require.Equal(t, namesIn(s.loop.Metadata()), announced(s.lookupds[0]))
		for _, tooLong := range []string{"n" + name, "e" + ephemeral} {
			require.ErrorIs(t, s.loop.Notify(TopicCreated(tooLong)), ErrInvalidName)
			require.ErrorIs(t, s.loop.Notify(ChannelCreated(name, tooLong)), ErrInvalidName)
			require.ErrorIs(t, s.loop.SetMetadata(Metadata{Topics: []TopicMetadata{{Name: tooLong}}}), ErrInvalidName)
			_, err := s.loop.TopicChannels(t.Context(), tooLong)
			require.ErrorIs(t, err, ErrInvalidName)
		}
		require.Equal(t, namesIn(s.loop.Metadata()), announced(s.lookupds[0]))
	})
}

// TestMillionTopics declares a million topics (100,000 without -long), announces
// them to a lookupd that only counts, and takes them back.
func TestMillionTopics(t *testing.T) {
	million := inFull(1_000_000)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	counted := make(chan map[string]int, 1)
	go func() { counted <- countCommands(listener) }()

	loop := newLoop(t, addresses(listener.Addr().String()), func(o *Options) { o.ResponseTimeout = patience })
	before := memoryInUse()
	m := Metadata{Topics: make([]TopicMetadata, million)}
	for i := range m.Topics {
		m.Topics[i].Name = fmt.Sprint("topic", i)
	}
	require.NoError(t, loop.SetMetadata(m))
	require.Less(t, (memoryInUse()-before)/million, 300, "bytes a topic")

	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- loop.Run(ctx) }()
	require.NoError(t, loop.WaitRegistered(ctx, 1))
	require.Equal(t, million, loop.Status().Topics)
	require.NoError(t, loop.SetMetadata(Metadata{}))
	require.NoError(t, loop.WaitRegistered(ctx, 1))
	require.Zero(t, loop.Status().Topics)
	cancel()
	require.NoError(t, <-ended)
	require.NoError(t, listener.Close())
	commands := <-counted
	require.Equal(t, million, commands["REGISTER"])
	require.Equal(t, million, commands["UNREGISTER"])
	require.Equal(t, 1, commands["IDENTIFY"], "no number of deletions at once makes a lookupd start over")
}

// countCommands serves one connection after another until the listener is
// closed, and says OK to everything.
func countCommands(listener net.Listener) map[string]int {
	count := make(map[string]int)
	for {
		conn, err := listener.Accept()
		if err != nil {
			return count
		}
		sayOK(conn, func(verb string) { count[verb]++ })
		conn.Close()
	}
}

// sayOK answers each command until the connection ends.
func sayOK(conn net.Conn, heard func(verb string)) {
	r, w := bufio.NewReader(conn), bufio.NewWriter(conn)
	r.Discard(len("  V1"))
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		verb, _, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		heard(verb)
		if verb == "IDENTIFY" {
			var size [4]byte
			io.ReadFull(r, size[:])
			r.Discard(int(binary.BigEndian.Uint32(size[:])))
		}
		w.WriteString("\x00\x00\x00\x02OK")
		if r.Buffered() == 0 {
			w.Flush()
		}
	}
}

// TestEverythingAtOnce calls every method from many goroutines, while the Loop
// runs and after its end. The race detector and the methods' own errors judge.
func TestEverythingAtOnce(t *testing.T) {
	for range 20 {
		inBubble(t, func(t *testing.T) {
			var loop *Loop
			s := newScene(t, 2, func(o *Options) {
				o.DataPath = "data"
				o.OnStateChange = func(LookupdStatus) {
					loop.Notify(TopicCreated("noticed"))
					loop.SetLookupdTCPAddresses(o.LookupdTCPAddresses)
				}
			})
			loop = s.loop
			loop.opts.HTTPClient = s.network.Client()
			loop.disk = nsqdattest.NewDisk(nil)
			_, err := loop.LoadMetadata()
			require.NoError(t, err)
			addresses := loop.opts.LookupdTCPAddresses
			short := func() context.Context {
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				t.Cleanup(cancel)
				return ctx
			}
			allowed := func(err error, also ...error) {
				for _, target := range append(also, ErrClosed) {
					if err == nil || errors.Is(err, target) {
						return
					}
				}
				require.NoError(t, err)
			}
			s.run()
			synctest.Wait()
			var callers sync.WaitGroup
			for _, call := range []func(int){
				func(i int) {
					allowed(loop.Notify(TopicCreated("orders"), ChannelCreated("orders", fmt.Sprint("c", i%5))))
				},
				func(i int) { allowed(loop.Notify(TopicDeleted("orders"))) },
				func(i int) { allowed(loop.Notify(ChannelCreated("orders", "late")), ErrUnknown) },
				func(i int) { allowed(loop.SetMetadata(some())) },
				func(i int) { allowed(loop.SetLookupdTCPAddresses(addresses[i%2 : 1+i%2])) },
				func(i int) { allowed(loop.WaitRegistered(short(), i%3), context.DeadlineExceeded) },
				func(i int) { allowed(loop.PersistMetadata(short()), context.DeadlineExceeded) },
				func(i int) { loop.TopicChannels(short(), "orders") },
				func(i int) { loop.Status() },
				func(i int) { loop.Metadata() },
				func(i int) { require.Error(t, loop.Run(t.Context())) },
				func(i int) { _, err := loop.LoadMetadata(); require.Error(t, err) },
			} {
				callers.Go(func() {
					for i := range 20 {
						call(i)
						time.Sleep(time.Millisecond)
					}
				})
			}
			time.Sleep(15 * time.Millisecond)
			require.NoError(t, s.end())
			callers.Wait()
		})
	}
}

// noDeadlinesConn is as a channel of an SSH connection.
type noDeadlinesConn struct{ net.Conn }

func (noDeadlinesConn) SetReadDeadline(time.Time) error {
	return errors.New("ssh: tcpChan: deadline not supported")
}

func TestConnectionThatCannotDoDeadlinesIsGivenUpAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.loop.opts.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := s.network.Dial(ctx, network, address)
			return noDeadlinesConn{conn}, err
		}
		s.run()
		synctest.Wait()
		require.EqualError(t, s.loop.Status().Lookupds[0].LastError,
			"lookuploop: lookupd1.test:4160: IDENTIFY: Options.Dial returned a connection that can't do deadlines: ssh: tcpChan: deadline not supported")
		require.Zero(t, s.lookupds[0].Connections())
	})
}
