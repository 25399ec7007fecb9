package lookuploop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/internal/nsqdat/nsqdattest"
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
